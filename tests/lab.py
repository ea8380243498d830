"""JupyterLab in a headless browser, driven as a learner would drive it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from shared import course

TIMEOUT = 180  # seconds for anything that is waited for: the first kernel starts slowly on a busy machine
TOKEN = "learner"
SHOWN = ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook"
ACTIVE = "jupyterapp.shell.currentWidget.content.activeCell.model.sharedModel"
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
QUIET += ["--disable-sync", "--no-first-run"]


def installed_browser() -> str | None:
    """The first Chromium or Chrome on the path."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None)


def copy_course(folder: Path) -> None:
    """What a learner clones, without anybody's answers."""
    unwanted = shutil.ignore_patterns(".*", "__pycache__", "work", "build", "dist", "venv", "*.egg-info")
    shutil.copytree(course.ROOT, folder, ignore=unwanted, dirs_exist_ok=True)


@contextlib.contextmanager
def serve(root: Path, settings: Path) -> Iterator[str]:
    """`sixweeks lab` on the copy of the course in `root`; gives the address. Nothing of the user's Jupyter is used."""
    environment = dict(os.environ, PYTHONPATH=str(root))
    for name in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR"):
        environment[f"JUPYTER_{name}"] = str(settings / name.lower())
    environment["IPYTHONDIR"] = str(settings / "ipython")
    environment["JUPYTERLAB_WORKSPACES_DIR"] = str(settings / "workspaces")
    environment["JUPYTERLAB_SETTINGS_DIR"] = str(settings / "lab")
    news = settings / "lab" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "shared.cli", "lab", "--no-browser", "--allow-root", "--ip=127.0.0.1"]
    command += [f"--port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}"]
    command += ["--LabApp.expose_app_in_browser=True"]
    log = settings / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for_server(address, process, log)
        yield address
        _request(f"{address}/api/shutdown", "POST")
        assert process.wait(TIMEOUT) == 0, log.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_for_server(address: str, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        if process.poll() is not None:
            raise AssertionError(f"`sixweeks lab` ended with {process.returncode}:\n{log.read_text()}")
        with contextlib.suppress(urllib.error.URLError):
            return _request(f"{address}/api/status")
        time.sleep(0.1)
    raise AssertionError(f"`sixweeks lab` did not answer within {TIMEOUT} s:\n{log.read_text()}")


def _request(url: str, method: str = "GET") -> None:
    request = urllib.request.Request(url, method=method, headers={"Authorization": f"token {TOKEN}"})
    directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    directly.open(request, timeout=TIMEOUT).close()


@contextlib.contextmanager
def browser_page(address: str) -> Iterator:
    """A page of a headless Chromium; `page.complaints` collects its errors, `page.outside` requests to elsewhere."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=installed_browser(), args=QUIET)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(1000 * TIMEOUT)
        page.complaints, page.outside = [], []
        page.on("console", lambda message: message.type == "error" and page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))

        def answer_instead(route):
            page.outside.append(route.request.url)
            route.fulfill(content_type="image/svg+xml", body='<svg xmlns="http://www.w3.org/2000/svg"/>')

        page.route(lambda url: not url.startswith((address, "data:", "blob:")), answer_instead)
        try:
            yield page
        finally:
            browser.close()


class Notebook:
    """The open notebook. Cells are found by how their text begins; the cell last used is the active one."""

    def __init__(self, page, address: str, path: str):
        self.page = page
        page.goto(f"{address}/lab/tree/{path}?token={TOKEN}&reset")
        self._wait_until_open(path)

    @classmethod
    def behind(cls, link, path: str) -> Notebook:
        """The notebook that opens in a tab of its own when this link is followed."""
        notebook = cls.__new__(cls)
        notebook.page = link.page
        link.focus()
        link.page.keyboard.press("Enter")
        notebook._wait_until_open(path)
        return notebook

    def show(self, path: str) -> None:
        """Come back to the tab of this notebook."""
        self.command("docmanager:open", {"path": path})
        self._wait_until_open(path)

    def _wait_until_open(self, path: str) -> None:
        self.page.wait_for_function(
            """(path) => {
                const context = window.jupyterapp?.shell.currentWidget?.context;
                return context?.isReady && context.path === path;
            }""",
            arg=path,
        )
        self._wait_for_kernel()

    def _wait_for_kernel(self) -> None:
        self.page.wait_for_function("jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status === 'idle'")

    def command(self, name: str, arguments: dict | None = None) -> None:
        """Run a command of JupyterLab to its end."""
        self._start(name, arguments)
        self._finish(name)

    def _start(self, name: str, arguments: dict | None = None) -> None:
        self.page.evaluate(
            """([name, options]) => {
                window.ended = undefined;
                jupyterapp.commands.execute(name, options).then(
                    () => { window.ended = "well"; }, (error) => { window.ended = `${error}`; });
            }""",
            [name, arguments or {}],
        )

    def _finish(self, name: str) -> None:
        ended = self.page.wait_for_function("window.ended").json_value()
        assert ended == "well", f"{name}: {ended}"

    def select(self, start: str):
        """Make the one code cell that begins so the active one; gives its output area, which is scrolled to."""
        found = self.page.evaluate(
            """(start) => {
                const content = jupyterapp.shell.currentWidget.content;
                const found = content.widgets.filter(
                    (cell) => cell.model.type === "code" && cell.model.sharedModel.getSource().startsWith(start));
                if (found.length === 1) content.activeCellIndex = content.widgets.indexOf(found[0]);
                return found.length;
            }""",
            start,
        )
        assert found == 1, f"{found} code cells begin with {start!r}"
        return self.page.locator(f"{SHOWN} .jp-Cell.jp-mod-active .jp-Cell-outputArea")

    def run(self, start: str):
        """Run this cell to its end; gives its output area."""
        output = self.select(start)
        self.command("notebook:run-cell")
        return output

    def run_all_above(self, start: str) -> None:
        self.select(start)
        self.command("notebook:run-all-above")

    def fill(self, start: str, answer: str) -> None:
        """Put an answer under the docstring of an exercise, in place of what stands there, and run the cell."""
        self.select(start)
        text = self.page.evaluate(f"{ACTIVE}.getSource()")
        self.replace(start, text[: text.rindex('"""') + 3] + "\n" + textwrap.indent(answer, "    "))

    def replace(self, start: str, text: str):
        """Put this text in the place of a cell's own and run it; gives its output area."""
        output = self.select(start)
        self._write(text)
        self.command("notebook:run-cell")
        return output

    def new_cell(self, below: str, text: str):
        """Run `text` in a new cell; gives its output area."""
        self.select(below)
        self.command("notebook:insert-cell-below")
        self._write(text)
        return self.run(text)

    def _write(self, text: str) -> None:
        self.page.evaluate(f"(text) => {ACTIVE}.setSource(text)", text)

    def restart_kernel(self) -> None:
        self._start("notebook:restart-kernel")
        self.page.locator(".jp-Dialog button", has_text="Restart").click()
        self._finish("notebook:restart-kernel")
        self._wait_for_kernel()

    def theme(self, name: str) -> None:
        if self.page.locator("body").get_attribute("data-jp-theme-name") == name:
            return
        self.command("apputils:change-theme", {"theme": name})
        self.page.wait_for_selector(f'body[data-jp-theme-name="{name}"]', state="attached")

    def failed_cells(self) -> list[str]:
        """First lines of the cells that show an error."""
        return self.page.evaluate(
            """() => jupyterapp.shell.currentWidget.content.widgets
                .filter((cell) => cell.model.type === "code" &&
                    cell.model.sharedModel.getOutputs().some((output) => output.output_type === "error"))
                .map((cell) => cell.model.sharedModel.getSource().split("\\n")[0])"""
        )


def faint_text(card) -> list[str]:
    """Pieces of text in a card whose contrast with what lies behind them is below 4.5 (WCAG 2, level AA)."""
    return card.evaluate(
        """(card) => {
            const numbers = (colour) => { const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number);
                                          return [[r, g, b], a]; };
            const mix = (top, alpha, below) => top.map((value, i) => alpha * value + (1 - alpha) * below[i]);
            const behind = (node) => {
                if (!node) return [255, 255, 255];
                const [colour, alpha] = numbers(getComputedStyle(node).backgroundColor);
                return alpha === 1 ? colour : mix(colour, alpha, behind(node.parentElement));
            };
            const opacity = (node) => node ? getComputedStyle(node).opacity * opacity(node.parentElement) : 1;
            const luminance = (colour) => {
                const [r, g, b] = colour.map((v) => v / 255).map(
                    (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const faint = [];
            const texts = document.createTreeWalker(card, NodeFilter.SHOW_TEXT);
            while (texts.nextNode()) {
                const node = texts.currentNode.parentElement, text = texts.currentNode.data.trim();
                if (!text) continue;
                const below = behind(node), [ink, alpha] = numbers(getComputedStyle(node).color);
                const [low, high] = [luminance(below), luminance(mix(ink, alpha * opacity(node), below))]
                    .sort((a, b) => a - b);
                const contrast = (high + 0.05) / (low + 0.05);
                if (contrast < 4.5) faint.push(`${text} (${contrast.toFixed(1)})`);
            }
            return faint;
        }"""
    )


def barriers(page, selector: str = f"{SHOWN} .jp-OutputArea-output") -> list[str]:
    """What axe-core finds in the parts of the page that match: rule, element, and why (WCAG 2.2, A and AA).

    Left out is what ipywidgets draws without a name, the handle of a slider: a field of that name stands beside it.
    """
    from axe_playwright_python.sync_playwright import Axe

    where = {"include": [[selector]], "exclude": [[".noUi-handle"]]}
    rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    found = Axe().run(page, context=where, options={"runOnly": rules, "resultTypes": ["violations"]})
    return [
        f"{violation['id']}: {node['html'][:200]} ({node['failureSummary']})"
        for violation in found.response["violations"]
        for node in violation["nodes"]
    ]
