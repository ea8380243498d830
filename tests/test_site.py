"""The website: built from the real course, its links followed, its pages opened in a browser without a network."""

import functools
import http.server
import re
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest
from nbformat.v4 import new_code_cell, new_output

from shared import build, course
from shared.cli import main
from shared.questions import questions_of
from shared.site import build_site, executing, pages
from shared.site.links import repaired
from tests import lab, mistakes_report

pytest.importorskip("sphinx", reason="the site needs pip install -e '.[site]'")
WEEK, *OTHER_WEEKS = course.weeks()
LESSON = next(path for path in course.lessons(WEEK) if path.stem == "02_attention")
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Outputs of the beginning of one lesson; all others are not executed."""
    folder = tmp_path_factory.mktemp("executed")
    notebook = build.build_notebook(LESSON, solved=True)
    end = next(i for i, cell in enumerate(notebook.cells) if cell.source == "check(softmax)") + 1
    notebook.cells = notebook.cells[:end]
    build.execute(notebook, LESSON.parent.parent)
    executing.keep(notebook, LESSON, folder)
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory, kept):
    return build_site(tmp_path_factory.mktemp("site") / "html", quick=True, kept=kept)


class Page(HTMLParser):
    """The anchors of a page, what it links to, and what it loads."""

    def __init__(self, file: Path):
        super().__init__()
        self.anchors, self.links, self.loaded, self.pictures = set(), [], [], []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors.update(filter(None, (found.get("id"), found.get("name") if tag == "a" else None)))
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        elif tag == "img":
            self.loaded.append(found["src"])
            self.pictures.append(found.get("alt"))
        elif tag in ("script", "iframe", "source") or found.get("rel") in ("stylesheet", "preload", "icon"):
            self.loaded += [found[key] for key in ("src", "href") if found.get(key)]


@pytest.fixture(scope="module")
def read(site):
    files = {file.relative_to(site.folder).as_posix(): file for file in site.folder.rglob("*.html")}
    return {name: Page(file) for name, file in files.items() if not name.startswith("_static")}  # a theme's template


def test_every_lesson_week_and_module_has_its_page_and_says_what_it_lacks(site, read):
    lessons = [path for week in course.weeks() for path in course.lessons(week)]
    for path in lessons:
        assert build.notebook_of(path).relative_to(course.ROOT).with_suffix(".html").as_posix() in read
    for week in course.weeks():
        assert {f"{week}/index.html", f"{week}/SUMMARY.html", f"reference/{week}.html"} <= read.keys()
    assert {"index.html", "grading.html", "search.html", "reference/learner.html"} <= read.keys()
    assert site.notes == {p: pages.NO_OUTPUTS for p in lessons if p.stem != build.GRADED and p != LESSON}
    told = [name for name in read if pages.NO_OUTPUTS in (site.folder / name).read_text(encoding="utf-8")]
    assert len(told) == len(site.notes)


def test_no_link_is_broken_and_nothing_is_loaded_from_elsewhere(read):
    broken = []
    for name, page in read.items():
        for link in (*page.links, *page.loaded):
            parts = urlsplit(link)
            if parts.scheme == "data":  # a figure, in the page itself
                continue
            if parts.scheme:
                well_formed = parts.scheme in ("https", "http") and "." in (parts.hostname or "")
                if not well_formed or link in page.loaded:
                    broken.append((name, link))
                continue
            target = unquote(urlsplit(urljoin(f"/{name}", link)).path).lstrip("/") or name
            lost = parts.fragment and target in read and unquote(parts.fragment) not in read[target].anchors
            if lost or (target.endswith(".html") and target not in read):
                broken.append((name, link))
    assert not broken, broken[:20]


def test_what_a_page_loads_is_there(site, read):
    wanted = {(n, link) for n, page in read.items() for link in page.loaded if not link.startswith("data:")}
    files = {(site.folder / name).parent / unquote(urlsplit(link).path) for name, link in wanted}
    assert not [file for file in files if not file.resolve().exists()]


def test_every_picture_has_a_description(read):
    assert not [(name, alt) for name, page in read.items() for alt in page.pictures if not (alt or "").strip()]


def test_no_page_holds_what_is_another_in_each_run(site):
    """A page changes when the course does: it names no temporary folder, and no widget by a random id."""
    for file in site.folder.rglob("*.html"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"/tmp\w{8}/|widget-view|model_id", text), file


@pytest.fixture(scope="module")
def address(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site.folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


@pytest.fixture
def page(pages, address):
    """A page of the browser that notes what fails; none of it is allowed at the end."""
    with pages(address) as page:
        page.failed = []
        # The search looks into the pages that it found; following a link ends that, which is no failure.
        page.on("requestfailed", lambda r: "ABORTED" in (r.failure or "") or page.failed.append(r.url))
        page.on("response", lambda response: response.status >= 400 and page.failed.append(response.url))
        yield page
        assert (page.failed, page.outside, page.complaints) == ([], [], [])


def test_a_formula_is_typeset_and_a_solution_opens_by_keyboard(page, address):
    page.goto(f"{address}/{WEEK}/{LESSON.stem}.html")
    page.wait_for_selector("mjx-container mjx-math")
    solution = page.locator("details.solution").first
    code, summary = solution.locator("pre"), solution.locator("summary")
    assert "Show the solution of softmax" in summary.inner_text()
    assert not code.is_visible()
    assert "raise NotImplementedError" in page.locator("div.cell.tag_exercise").first.inner_text()
    summary.focus()
    page.keyboard.press("Enter")
    assert code.is_visible() and "amax" in code.inner_text()
    card = page.locator(".cell_output").filter(has_text="softmax: passed").first
    assert card.is_visible() and f"Saved in work/{WEEK}/softmax.py" in card.inner_text()


def test_the_quiz_shows_its_questions_and_folds_its_answers(page, address):
    page.goto(f"{address}/{WEEK}/{LESSON.stem}.html")
    answers = page.locator("details").filter(has_text="Answer to question")
    assert answers.count() == len(questions_of("attention"))
    inside = answers.first.locator("li, p").first
    assert not inside.is_visible()
    answers.first.locator("summary").click()
    assert inside.is_visible()
    assert page.get_by_text('quiz("attention")').count() == 0


def test_search_finds_the_lesson(page, address):
    page.goto(f"{address}/index.html")
    page.keyboard.press("Control+k")
    page.keyboard.type("attention")
    page.keyboard.press("Enter")
    link = page.locator(f"#search-results a[href*='{LESSON.stem}.html']").first
    link.wait_for()
    link.click()
    page.wait_for_url(re.compile(rf"{WEEK}/{LESSON.stem}\.html"))
    assert page.locator("article h1").inner_text().startswith("Attention")


@pytest.mark.parametrize("name", ["index", f"{WEEK}/{LESSON.stem}", f"{WEEK}/SUMMARY", "grading", "reference/learner"])
def test_a_phone_shows_the_page_without_moving_it_sideways(page, address, name):
    page.set_viewport_size(PHONE)
    page.goto(f"{address}/{name}.html")
    page.wait_for_load_state("networkidle")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.mouse.wheel(400, 0)
    assert page.evaluate("window.scrollX") == 0


def test_no_page_is_wider_than_a_phone(page, address, site):
    page.set_viewport_size(PHONE)
    wide = {}
    for path in sorted(site.folder.rglob("*.html")):
        if "_static" not in path.parts:
            page.goto(f"{address}/{path.relative_to(site.folder).as_posix()}")
            width = page.evaluate("document.documentElement.scrollWidth")
            wide |= {path.name: width} if width > PHONE["width"] else {}
    assert not wide


def test_the_menu_opens_on_a_phone_and_leads_to_the_next_week(page, address):
    page.set_viewport_size(PHONE)
    page.goto(f"{address}/{WEEK}/index.html")
    entry = page.locator(f".bd-sidebar-primary a[href$='{OTHER_WEEKS[0]}/index.html']").first
    assert not entry.is_visible()
    page.locator("button.primary-toggle:visible").first.click()
    entry.wait_for()
    entry.click()
    page.wait_for_url(re.compile(OTHER_WEEKS[0]))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", ["index", f"{WEEK}/{LESSON.stem}"])
def test_text_is_readable_in_both_themes(page, address, name, theme):
    page.emulate_media(color_scheme=theme)
    page.goto(f"{address}/{name}.html")
    assert page.locator("html").get_attribute("data-theme") == theme
    page.wait_for_load_state("networkidle")
    page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
    assert lab.faint_text(page.locator("article.bd-article")) == []


def test_outputs_are_current_until_the_code_changes_and_gone_when_the_lesson_does(kept, monkeypatch, tmp_path):
    assert executing.find(LESSON, kept).current
    assert executing.find(LESSON, tmp_path) is None
    with monkeypatch.context() as changed:
        changed.setattr(executing, "_code", lambda week: "other code")
        assert not executing.find(LESSON, kept).current
    file = kept / WEEK / f"{LESSON.stem}.ipynb"
    (tmp_path / WEEK).mkdir()
    copy = tmp_path / WEEK / file.name
    for spoilt in (file.read_text().replace('"text": "', '"text": "0', 1), file.read_text()[:5000], "{}"):
        copy.write_text(spoilt)
        assert executing.find(LESSON, tmp_path) is None


def test_a_lesson_that_fails_is_told_and_not_kept(tmp_path, monkeypatch):
    notebook = build.build_notebook(LESSON)
    notebook.cells = [new_code_cell("print('so far')"), new_code_cell("1 / 0")]
    monkeypatch.setattr(build, "build_notebook", lambda *args, **kwargs: notebook)
    assert "ZeroDivisionError" in executing._execute(LESSON, tmp_path)
    assert not list(tmp_path.rglob("*.ipynb"))


def test_bars_and_remarks_are_left_out_and_pictures_keep_what_they_say():
    bar = new_output("display_data", {"text/plain": "measuring:  40%|####      | 4/10 [00:00<?, ?it/s]"})
    remark = new_output("stream", name="stderr", text="a library's remark")
    figure = new_output("display_data", {"image/png": "", "text/html": '<img alt="It falls.">'})
    printed = new_output("stream", name="stdout", text="100 %")
    assert pages.kept([bar, remark, figure, printed]) == [figure, printed]


def test_links_lead_to_pages_where_there_is_one_and_to_the_repository_elsewhere():
    week, address = course.ROOT / WEEK, build.repository()
    for before, after in {
        "[a](02_attention.ipynb)": "[a](02_attention.ipynb)",
        "[`a`](../README.md)": "[`a`](../index.md)",
        f"[a](../{OTHER_WEEKS[0]}/README.md#x)": f"[a](../{OTHER_WEEKS[0]}/index.md#x)",
        "[a](solutions/attention.py)": f"[a]({address}/blob/main/{WEEK}/solutions/attention.py)",
        "[a](../shared)": f"[a]({address}/tree/main/shared)",
        "[a](https://arxiv.org)": "[a](https://arxiv.org)",
        "[a](#here) x[0](y)": "[a](#here) x[0](y)",
        "[![a](https://b.org/c.svg)](https://d.org)": "[a](https://d.org)",
    }.items():
        assert repaired(before, week) == after


def test_bad_wishes_are_refused_with_what_to_do(tmp_path, capsys):
    assert main(["site", "--quick", "--weeks", "week9"]) == 2
    assert "no week week9" in capsys.readouterr().err
    (tmp_path / "mine.txt").write_text("not a site")
    assert main(["site", "--quick", "--out", str(tmp_path)]) == 2
    assert "something else than a built site" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").exists()


def test_the_report_on_checks_is_of_these_exercises_and_their_mistakes():
    text = mistakes_report.REPORT.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", text, flags=re.MULTILINE))
    assert list(rows) == list(course.exercises())
    for name in ("softmax", "causal_mask"):
        assert rows[name] == " | ".join(map(str, mistakes_report.measure(name).cells))
    for name, row in rows.items():
        assert int(row.split(" | ")[0]) == len(mistakes_report.find_check(name).mistakes)
