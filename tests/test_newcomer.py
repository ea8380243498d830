"""A newcomer in a real browser: from the start page to a passed exercise in each of the six weeks."""

import nbformat

from shared import answers, build, course
from shared.checking import find_check
from tests import lab

FIRST = {}  # week -> its first exercise
for _exercise in course.exercises().values():
    FIRST.setdefault(_exercise.week, _exercise)


def wrong_answer(exercise):
    """The exercise with its first known mistake that is an edit of the answer itself; the mistake's sentence."""
    for sentence, made in find_check(exercise.name).mistakes.items():
        edits = [made] if isinstance(made, tuple) else made
        if not callable(made) and all(exercise.solution.count(old) == 1 for old, _ in edits):
            text = exercise.solution
            for old, new in edits:
                text = text.replace(old, new)
            return text, sentence
    raise LookupError(f"{exercise.name} has no mistake that is an edit of its answer")


def test_a_newcomer_passes_an_exercise_in_each_of_the_six_weeks(course_in_browser):
    from playwright.sync_api import expect

    address, page, _ = course_in_browser
    assert list(FIRST) == course.weeks() and len(FIRST) == 6
    start = lab.Notebook(page, address, "start.ipynb")
    for week, exercise in FIRST.items():
        name, path = exercise.name, course.lesson_notebook(exercise).relative_to(course.ROOT).as_posix()
        bar = start.run("from shared import home").get_by_role("progressbar").nth(course.weeks().index(week))
        expect(bar).to_have_attribute("aria-valuenow", "0")

        lesson = lab.Notebook.behind(page.locator(f'{lab.SHOWN} a[href*="{path}"]').first, path)
        lesson.run_all_above(f"def {name}(")
        assert lesson.failed_cells() == []
        assert lab.barriers(page) == []
        expect(lesson.run(f"def {name}(")).to_be_empty()
        expect(lesson.run(f"check({name})").get_by_role("alert")).to_contain_text(f"{name}: still to do.")

        text, mistake = wrong_answer(exercise)
        lesson.replace(f"def {name}(", text)
        card = lesson.run(f"check({name})").get_by_role("alert")
        expect(card).to_contain_text(f"{name}: not yet.")
        expect(card).to_contain_text(mistake[1:].replace("`", "").rstrip("."))
        expect(lesson.new_cell(f"check({name})", f"hint({name})")).to_contain_text(f"{name}, hint 1 of 3")

        if week == course.weeks()[0]:  # the kernel is lost in the middle of the work
            lesson.restart_kernel()
            lesson.run_all_above(f"def {name}(")
        lesson.replace(f"def {name}(", exercise.solution)
        card = lesson.run(f"check({name})").get_by_role("status")
        expect(card).to_contain_text(f"{name}: passed.")
        assert lesson.failed_cells() == []
        total = sum(one.lesson == exercise.lesson for one in course.exercises().values())
        expect(lesson.run(f'progress("{week}")')).to_contain_text(f"1 of {total}")
        lesson.command("docmanager:save")

        start.show("start.ipynb")
        bar = start.run("from shared import home").get_by_role("progressbar").nth(course.weeks().index(week))
        expect(bar).to_have_attribute("aria-valuenow", "1")
    tries = {e.name: [entry["status"] for entry in answers.attempts()[e.name]] for e in FIRST.values()}
    assert set(map(tuple, tries.values())) == {("todo", "failed", "passed")}
    assert all(answers.load_saved(exercise.name) for exercise in FIRST.values())


def test_the_sampling_slider_is_moved_by_keyboard_and_the_text_changes(course_in_browser):
    from playwright.sync_api import expect

    address, page, folder = course_in_browser
    path = "week2_pretraining/05_sampling.ipynb"
    source = course.ROOT / "week2_pretraining" / "lessons" / "05_sampling.py"
    notebook = build.build_notebook(source, solved=True)
    last = next(i for i, cell in enumerate(notebook.cells) if cell.source.startswith("def live_text("))
    checked = [cell for cell in notebook.cells[: last + 1] if "check" not in cell.metadata.get("tags", [])]
    notebook.cells = checked
    nbformat.write(notebook, folder / path)
    lesson = lab.Notebook(page, address, path)
    lesson.run_all_above("def live_text(")
    assert lesson.failed_cells() == []
    output = lesson.run("def live_text(")
    field, slider = output.get_by_role("spinbutton", name="temperature"), output.get_by_role("slider").first
    text = output.locator("pre").last
    warm = text.inner_text()
    assert len(warm.split()) > 20
    slider.focus()
    page.keyboard.press("Home")
    expect(field).to_have_value("0")
    expect(text).not_to_have_text(warm)
    greedy = text.inner_text()
    page.keyboard.press("End")
    expect(field).to_have_value("2")
    expect(text).not_to_have_text(greedy)
    assert "Error" not in text.inner_text()
    field.fill("0")  # the exact number, by the field that a screen reader names
    page.keyboard.press("Tab")
    expect(text).to_have_text(greedy)
    for theme in ("Light", "Dark"):
        lesson.theme(f"JupyterLab {theme}")
        assert lab.barriers(page) == []
