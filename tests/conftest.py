"""Every test works in a work folder of its own, without a GPU's or many threads' influence on the numbers."""

import os

# Set before torch is imported, and inherited by the kernels and processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

from shared.sandbox import isolation


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    """The learner's work folder, empty."""
    folder = tmp_path / "work"
    monkeypatch.setenv("SIXWEEKS_WORK", str(folder))
    return folder


def needs(limit: str) -> None:
    """Skip the test where the sandbox cannot enforce this limit."""
    if not getattr(isolation(), limit):
        pytest.skip(f"this machine cannot limit {limit}: {isolation()}")
