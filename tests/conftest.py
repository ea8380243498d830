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


@pytest.fixture
def course_in_browser(pages, tmp_path, tmp_path_factory, work):
    """JupyterLab on a fresh copy of the course: its address, a page of a browser, the copy's folder.

    At the end nothing may have gone wrong in the browser, and everything but the badge on top of a notebook has come
    from this machine.
    """
    from playwright.sync_api import expect

    expect.set_options(timeout=1000 * lab.TIMEOUT)
    lab.copy_course(tmp_path)
    with lab.serve(tmp_path, tmp_path_factory.mktemp("jupyter")) as address, pages(address) as page:
        yield address, page, tmp_path
        assert [url for url in page.outside if not url.endswith("/colab-badge.svg")] == []
        assert page.complaints == []


def needs(limit: str) -> None:
    """Skip the test where the sandbox cannot enforce this limit."""
    if not getattr(isolation(), limit):
        pytest.skip(f"this machine cannot limit {limit}: {isolation()}")
