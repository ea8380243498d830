"""Every test works in a work folder of its own, without a GPU's or many threads' influence on the numbers."""

import os

# Set before torch is imported, and inherited by the kernels and processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

from shared.sandbox import isolation
from tests import lab


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    """The learner's work folder, empty."""
    folder = tmp_path / "work"
    monkeypatch.setenv("SIXWEEKS_WORK", str(folder))
    return folder


@pytest.fixture
def pages():
    """`browser_page` where there is a browser to open one in; a skip that says what is missing elsewhere."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[test]'")
    if lab.installed_browser() is None:
        pytest.skip("no browser on the path: install chromium or google-chrome")
    return lab.browser_page


def needs(limit: str) -> None:
    """Skip the test where the sandbox cannot enforce this limit."""
    if not getattr(isolation(), limit):
        pytest.skip(f"this machine cannot limit {limit}: {isolation()}")
