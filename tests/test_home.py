"""The start page: where the learner is and what comes next, the same in a notebook and in a terminal."""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest

import shared
from shared import answers, build, cli, course, doctor, homepage
from shared import leaderboard as boards
from shared.homecard import HomeCard

EXERCISES = course.exercises(course.ROOT)
LESSONS = {(e.week, e.lesson): course.lesson_notebook(e) for e in EXERCISES.values()}
START = course.ROOT / "shared" / "start.py"


class Page(HTMLParser):
    """The words, links and bars of a card; `unclosed` is empty where every element is closed in order."""

    def __init__(self, html: str):
        super().__init__()
        self.words, self.links, self.bars, self.images, self.unclosed = "", [], [], [], []
        self.feed(html)
        self.words = " ".join(self.words.split())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.unclosed.append(tag)
        self.links += [unquote(attrs["href"])] if tag == "a" else []
        self.bars += [attrs] if attrs.get("role") == "progressbar" else []
        self.images += [attrs] if attrs.get("role") == "img" else []

    def handle_endtag(self, tag):
        assert self.unclosed.pop() == tag

    def handle_data(self, data):
        self.words += data if data.strip() else " "


def passed(work, *names):
    for name in names:
        path = work / EXERCISES[name].week / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name} = ...\n")


def tried(work, name, time):
    work.mkdir(parents=True, exist_ok=True)
    with (work / "attempts.jsonl").open("a") as file:
        file.write(json.dumps({"exercise": name, "status": "failed", "mistake": None, "time": time}) + "\n")


def names_of(lesson):
    return [e.name for e in EXERCISES.values() if e.lesson == lesson]


@pytest.fixture
def well(monkeypatch):
    """A machine on which all is well."""
    monkeypatch.setattr(doctor, "quick_look", lambda: iter([("Python", True, "3.11"), ("disk", True, "9 GB free")]))


# What comes next


def test_a_newcomer_gets_a_first_step(work):
    card = homepage.current()
    first = next(iter(EXERCISES.values()))
    count = len(names_of(first.lesson))
    place = (
        f"First step: open {LESSONS[first.week, first.lesson].stem} and run it cell by cell, as far as exercise 1 of "
    )
    assert f"{place}{count}: {first.name}." in str(card)
    assert f"0 passed, 0 tried, {len(EXERCISES)} open of {len(EXERCISES)} exercises." in str(card)
    assert [bar["aria-valuenow"] for bar in Page(card.html()).bars] == ["0"] * len(course.weeks())


def test_someone_in_the_middle_continues_at_the_first_exercise_not_yet_passed(work):
    lesson = names_of("attention")
    passed(work, *names_of("tokenization"), *lesson[:2])
    text = str(homepage.current())
    assert f"Continue: 02_attention, exercise 3 of {len(lesson)}: {lesson[2]}\n" in text
    assert f"✓ {lesson[1]}: passed" in text and f"○ {lesson[2]}: open" in text
    assert f"in work, 2 of {len(lesson)}" in text and "01_tokenization.ipynb: passed" in text


def test_one_who_skipped_a_lesson_continues_where_they_worked_last(work):
    tried(work, "attention", 10)
    assert homepage.current().next() == (homepage.current().weeks[0].lessons[1], names_of("attention")[0])
    passed(work, *names_of("sampling"))
    tried(work, names_of("sampling")[0], 30)
    tried(work, "attention", 20)  # earlier, though it stands later in the diary
    lesson, name = homepage.current().next()
    assert name == names_of("speedrun")[0] and lesson.notebook.stem == "06_speedrun"


def test_after_the_last_lesson_what_was_left_out_comes_next(work):
    passed(work, *(name for name in EXERCISES if name != "attention"))
    tried(work, list(EXERCISES)[-1], 10)
    assert homepage.current().next()[1] == "attention"


def test_one_who_has_passed_all_is_told_so(work):
    passed(work, *EXERCISES)
    card = homepage.current()
    assert "You have passed every exercise." in str(card) and "Continue" not in str(card)
    assert all(bar["aria-valuenow"] == bar["aria-valuemax"] for bar in Page(card.html()).bars)
    assert str(card).count("✓ Week") == len(course.weeks())


# What the card shows


def test_the_root_readmes_calendar_says_what_the_weeks_say():
    readme = (course.ROOT / "README.md").read_text(encoding="utf-8")
    for week in homepage.current().weeks:
        _, _, goal, hours = re.search(
            rf"^\| (\d) \| (.*{week.folder.name}.*) \| (.+) \| (\d+) \|$", readme, re.M
        ).groups()
        assert week.goal.rstrip(".").lower() == goal.lower() and week.hours == int(hours), week.folder.name


def test_text_and_html_say_the_same(work, well):
    passed(work, *names_of("tokenization"), "softmax")
    tried(work, "attention", 1)
    card = homepage.current()
    text, page = str(card), Page(card.html())
    assert not page.unclosed
    for line in text.splitlines()[:2] + text.splitlines()[-2:]:
        assert " ".join(line.split()) in page.words
    for week in card.weeks:
        for part in (week.title, week.goal, week.progress, week.time):
            assert part and part in text and part in page.words
        for lesson in week.lessons:
            assert f"{lesson.notebook.stem} {lesson.amount}".strip() in page.words
            assert f"{lesson.notebook.name}: " in text and lesson.amount in text
    for name in names_of("attention"):
        (line,) = [
            line
            for line in text.splitlines()
            if line.strip().endswith(tuple(f" {name}: {s}" for s in ("passed", "tried", "open")))
        ]
        assert line.strip() in page.words
    assert card._repr_mimebundle_() == {"text/plain": text, "text/html": card.html()}


def test_bars_and_signs_can_be_heard(work):
    passed(work, *names_of("attention")[:3])
    card = homepage.current()
    page = Page(card.html())
    for bar, week in zip(page.bars, card.weeks, strict=True):
        assert (bar["aria-valuemin"], bar["aria-valuemax"]) == ("0", str(len(week.states)))
        assert bar["aria-valuetext"] == f"{bar['aria-valuenow']} of {bar['aria-valuemax']} passed" == week.progress
        assert bar["aria-label"] == week.title
    assert page.bars[0]["aria-valuenow"] == "3"
    assert {image["aria-label"] for image in page.images} == {"in work", "open"}
    assert len(page.images) == len(LESSONS) + len(card.weeks)


@pytest.mark.parametrize("folder", ["", "week1_decoder"])
def test_links_lead_from_the_current_folder_to_every_notebook_that_is_there(folder, monkeypatch):
    monkeypatch.chdir(course.ROOT / folder)
    card = homepage.current()
    links = Page(card.html()).links
    assert all(Path(link).is_file() and not Path(link).is_absolute() for link in links)
    there = {path.resolve() for path in LESSONS.values() if path.exists()}
    there |= {path for week in course.weeks() for path in (course.ROOT / week).glob("graded_solution.ipynb")}
    assert there <= {Path(link).resolve() for link in links}
    for link in links:
        assert link in str(card)


def test_the_graded_notebook_and_the_summary_are_linked_where_they_are(small):
    assert not {"SUMMARY.md", "graded_solution.ipynb"} & {
        Path(link).name for link in Page(homepage.current(small).html()).links
    }
    for name in ("SUMMARY.md", "graded_solution.ipynb"):
        (small / "week1_decoder" / name).write_text("")
    assert {"SUMMARY.md", "graded_solution.ipynb"} <= {
        Path(link).name for link in Page(homepage.current(small).html()).links
    }


def test_the_environment_is_one_line_and_says_what_to_do(work, monkeypatch, well):
    assert "Environment: Python, disk: ok." in str(homepage.current())
    monkeypatch.setattr(
        doctor, "quick_look", lambda: iter([("Python", True, "3.11"), ("disk", False, "0.1 GB free; free 3 GB")])
    )
    assert "Environment: look at disk: 0.1 GB free; free 3 GB. sixweeks doctor says more." in str(homepage.current())


def test_doctor_begins_with_what_home_looks_at(well):
    examined = doctor.examine()
    assert [next(examined), next(examined)] == list(doctor.quick_look())


def test_the_learners_own_scores_are_shown_best_first(work):
    rows = [
        {"name": name, "average": {"score": s, "low": s - 0.1, "high": s + 0.1}}
        for name, s in (("low", 0.2), ("mine", 0.412))
    ]
    boards.write(boards.own_file(), {"tasks": {}, "rows": rows})
    lines = [line for line in str(homepage.current()).splitlines() if line.startswith("Leaderboard")]
    assert lines[0] == "Leaderboard: mine, average 41.2 (95 % interval 31.2 to 51.2)"
    assert len(lines) == 2 and "low" in lines[1]


def test_the_best_speedrun_is_shown_for_each_race_beside_the_courses(work):
    from week2_pretraining.speedrun_times import times_file

    def time(who, run, seconds, machine="m"):
        return {"who": who, "run": run, "data": "stories ab12", "target": 1.5, "machine": machine, "seconds": seconds,
                "iterations": 9, "loss": 1.4, "date": "2026-11-23"}  # fmt: skip

    work.mkdir()
    assert times_file() == work / homepage.SPEEDRUN_FILE  # the lesson writes what home reads
    races = [
        time("course", "baseline", 20.0),
        time("you", "first", 15.0),
        time("you", "second", 12.34),
        time("you", "first", 3.0, "n"),
    ]
    times_file().write_text(json.dumps(races))
    lines = [line for line in str(homepage.current()).splitlines() if line.startswith("Speedrun")]
    assert lines == [
        "Speedrun: 12.3 s to 1.500 on stories (second, 2026-11-23; the course's baseline took 20.0 s)",
        "Speedrun: 3.0 s to 1.500 on stories (first, 2026-11-23)",
    ]
    times_file().write_text(json.dumps(races[:1]))
    assert "Speedrun" not in str(homepage.current())


# What is damaged or missing


@pytest.fixture
def small(tmp_path):
    """A course folder with two weeks of the six, as small as they can be, and no notebook."""
    root = tmp_path / "course"
    for week, lesson, name in (("week1_decoder", "attention", "attention"), ("week4_finetuning", "lora", "merge_all")):
        for shelf, file in (
            ("lessons", f"01_{lesson}.py"),
            ("lessons", "graded_solution.py"),
            ("solutions", f"{lesson}.py"),
        ):
            path = root / week / shelf / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                f"def {name}():\n    # BEGIN SOLUTION\n    pass\n    # END SOLUTION\n" if shelf == "solutions" else ""
            )
    (root / "week1_decoder" / "README.md").write_text("# Week 1: small\n\n*A goal of *its* own.* About 2 hours.\n")
    return root


def test_weeks_readmes_and_notebooks_that_are_missing_are_told(small):
    card = homepage.current(small)
    text = str(card)
    assert "Not in this folder: week 2, week 3, week 5, week 6. git status may say why." in text
    assert "python -m shared.build makes them anew" in text and text.count(": open, missing") == 2
    assert "Week 1: small" in text and "week4_finetuning (open, 0 of 1 passed)" in text and "in all" not in text
    page = Page(card.html())
    assert page.links == [] and page.words.count("missing") == 2


def test_a_folder_without_weeks_is_no_finished_course(tmp_path):
    text = str(homepage.current(tmp_path))
    assert "There are no exercises here." in text and "passed every" not in text


def test_a_damaged_source_is_named(small):
    path = small / "week4_finetuning" / "solutions" / "lora.py"
    for damage in (b"def (", b"\xff\xfe"):
        path.write_bytes(damage)
        course.forget_exercises()
        assert "A source of the course is damaged" in str(homepage.current(small))


@pytest.mark.parametrize(
    "damage", [b"\xff\xfe{\n", b'[1]\n"x"\n{"exercise": []}\n{"exercise": 3}\n', b'{"exercise": "attention"}\n']
)
def test_a_damaged_diary_changes_nothing_that_is_saved(work, damage):
    passed(work, *names_of("tokenization"))
    (work / "attempts.jsonl").write_bytes(damage + b'{"exercise": "softmax", "time": "yesterday"}\n')
    card = homepage.current()
    assert card.states["softmax"] == "tried" and card.next()[1] == "softmax"
    assert card.weeks[0].lessons[0].state == "passed"


def test_a_work_folder_that_cannot_be_read_is_told(work, monkeypatch):
    work.write_text("a file where the folder should be")
    assert "your answers: cannot be written" in " ".join(str(homepage.current()).split())
    work.unlink()

    def refuse(*_):
        raise PermissionError(13, "Permission denied", "work")

    with monkeypatch.context() as patch:
        patch.setattr(answers, "attempts", refuse)
        assert "Your diary cannot be read: [Errno 13]" in str(homepage.current())
    monkeypatch.setattr(answers, "state_of", refuse)
    text = str(homepage.current())
    assert "Your answers cannot be read: [Errno 13] Permission denied: 'work'." in text and "First step" in text


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "{}x", '[{"who": "you"}]', '{"schema": 1, "tasks": {}, "rows": [{"name": "x"}]}']
)
def test_damaged_scores_and_times_are_told_and_left_alone(work, text):
    work.mkdir()
    for file in (boards.own_file(), work / homepage.SPEEDRUN_FILE):
        file.write_text(text)
    told = str(homepage.current())
    assert "Leaderboard: your rows cannot be read" in told and "speedrun_times.json is damaged" in told
    assert boards.own_file().read_text() == (work / homepage.SPEEDRUN_FILE).read_text() == text


# Where it is shown


def test_status_prints_the_card_and_home_shows_it(work, well, capsys):
    passed(work, "softmax")
    assert cli.main(["status"]) == 0
    told = capsys.readouterr().out
    shared.home()
    assert told == capsys.readouterr().out == f"{homepage.current()}\n"


def test_home_loads_no_torch(work):
    passed(work, *list(EXERCISES)[:40])
    code = "import sys; from shared import home; home()\n"
    code += "print([m for m in ('torch', 'transformers', 'IPython') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=course.ROOT)
    assert done.stdout.splitlines()[-1] == "[]"


def built(folder: Path) -> Path:
    """A root with the real start page's source, its notebook built."""
    (folder / "shared").mkdir(parents=True)
    shutil.copy(START, folder / "shared")
    shutil.copy(course.ROOT / "pyproject.toml", folder)
    source = folder / "shared" / START.name
    build.notebook_of(source).write_text(build.text_of(build.build_notebook(source, root=folder)), encoding="utf-8")
    return source


def test_the_start_page_is_generated_and_a_stale_one_is_noticed(small):
    source = built(small)
    target = small / "start.ipynb"
    assert build.stale(source, root=small) is None
    (small / "week1_decoder" / "README.md").write_text("# Week 1: small\n\n*Another goal.* About 2 hours.\n")
    assert build.stale(source, root=small) == "is stale"
    target.unlink()
    assert build.stale(source, root=small) == "is missing"


def test_the_start_page_shows_the_calendar_before_it_is_run(small, work):
    passed(work, "attention")  # whoever builds it: theirs is not shown
    built(small)
    notebook = nbformat.read(small / "start.ipynb", as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert "shared/start.py" in notebook.cells[0].source and "blob/main/start.ipynb" in notebook.cells[0].source
    (cell,) = [cell for cell in notebook.cells if cell.source.endswith("home()")]
    card = HomeCard(homepage.calendar({}, small), folder=small)
    assert cell.outputs[0].data == card._repr_mimebundle_()
    assert (
        "0 of 1 passed" in cell.outputs[0].data["text/plain"]
        and "Environment" not in cell.outputs[0].data["text/plain"]
    )


def test_check_and_build_include_the_start_page_unless_weeks_are_named(monkeypatch, capsys):
    monkeypatch.setattr(build, "validate", lambda: None)
    monkeypatch.setattr(build, "stale", lambda path: "is stale" if path == START else None)
    assert build.main(["--check"]) == 1
    assert capsys.readouterr().out.endswith("start.ipynb: is stale\n")
    assert build.main(["--check", course.weeks()[0]]) == 0


def test_the_cells_of_the_start_page_run_where_the_course_is(work, capsys):
    for cell in build.build_notebook(START).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, "<start>", "exec"), {})
    assert capsys.readouterr().out.startswith("LLMs in six weeks: 0 passed")
    assert os.environ["SIXWEEKS_WORK"] == str(work)
