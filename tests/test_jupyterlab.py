"""A lesson as a learner meets it: in JupyterLab, in a real browser."""

import json
import os
import re
from pathlib import Path

from shared import answers
from shared.checking import find_check, run_check
from shared.questions import questions_of
from tests import lab

LESSON = "week1_decoder/02_attention.ipynb"

SOFTMAX = """\
weights = torch.exp(x - x.max(dim=dim, keepdim=True).values)
return weights / weights.sum(dim=dim, keepdim=True)"""

CAUSAL_MASK = """\
return torch.ones(n_query, n_key, dtype=torch.bool).tril(n_key - n_query)"""

NOT_SCALED = """\
scores = torch.einsum("...qd,...kd->...qk", q, k)
if causal:
    scores = torch.where(causal_mask(q.shape[-2], k.shape[-2]), scores, -torch.inf)
return softmax(scores, dim=-1) @ v"""

ATTENTION = NOT_SCALED.replace("q, k)", "q, k) / q.shape[-1] ** 0.5")


MISTAKE = next(sentence for sentence in find_check("attention").mistakes if "not divided by √" in sentence)


def photograph(notebook, card, name):
    """Check that the card can be read in both themes; keep pictures of it where SIXWEEKS_SCREENSHOTS says."""
    folder = os.environ.get("SIXWEEKS_SCREENSHOTS")
    for theme in ("Light", "Dark"):
        notebook.theme(f"JupyterLab {theme}")
        assert lab.faint_text(card) == [], theme
        assert lab.barriers(notebook.page) == [], theme
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            card.screenshot(path=Path(folder) / f"{name}_{theme.lower()}.png")


def test_a_learner_works_through_the_attention_lesson(course_in_browser, work):
    from playwright.sync_api import expect

    address, page, folder = course_in_browser
    notebook = lab.Notebook(page, address, LESSON)

    notebook.run_all_above("def softmax(")
    assert notebook.failed_cells() == []
    notebook.fill("def softmax(", SOFTMAX)
    output = notebook.run("check(softmax)")
    expect(output).to_contain_text("softmax: passed.")
    expect(output).to_contain_text("Saved in work/week1_decoder/softmax.py")

    notebook.restart_kernel()
    assert (work / "week1_decoder" / "softmax.py").exists()
    notebook.run_all_above("def softmax(")
    mine = 'assert "softmax" not in globals()\nsoftmax = mine("softmax")\nsoftmax(torch.zeros(2), 0)'
    output = notebook.new_cell("check(softmax)", mine)
    expect(output).to_contain_text("softmax: your own answer.")
    expect(output).to_contain_text("tensor([0.5000, 0.5000])")

    notebook.fill("def causal_mask(", CAUSAL_MASK)
    expect(notebook.run("check(causal_mask)")).to_contain_text("causal_mask: passed.")

    notebook.fill("def attention(", NOT_SCALED)
    output = notebook.run("check(attention)")
    card = output.get_by_role("alert")
    expect(card).to_contain_text("attention: not yet.")
    expect(card).to_contain_text(f"You get just this when {MISTAKE[0].lower()}{MISTAKE[1:]}")
    expect(card).to_contain_text("hint(attention) (1 of 3)")
    expect(card.get_by_text("1.269")).to_have_css("font-weight", "700")  # the cell that differs from 1.33
    shown = output.inner_text()
    assert not re.search(r"Traceback|CheckFailed|learner\.py|checking\.py|raise |---->", shown), shown
    assert notebook.failed_cells() == ["check(attention)"]
    photograph(notebook, card, "failed")

    output = notebook.new_cell("check(attention)", "hint(attention)")
    expect(output).to_contain_text("hint 1 of 3")
    expect(output).to_contain_text(find_check("attention").hints[0])
    photograph(notebook, output, "hint")

    notebook.fill("def attention(", ATTENTION)
    output = notebook.run("check(attention)")
    card = output.get_by_role("status")
    expect(card).to_contain_text("attention: passed.")
    expect(card).to_contain_text("Saved in work/week1_decoder/attention.py")
    assert "your own answer" not in output.inner_text()  # saving runs the cells again, unseen
    assert notebook.failed_cells() == []
    photograph(notebook, card, "passed")

    notebook.command("docmanager:save")

    assert run_check("attention", answers.load_saved("attention")).passed
    assert [(a["status"], a["mistake"]) for a in answers.attempts()["attention"]] == [
        ("failed", MISTAKE),
        ("passed", None),
    ]
    saved = json.loads((folder / LESSON).read_text(encoding="utf-8"))
    assert "attention: passed." in json.dumps(saved["cells"])


def test_every_kind_of_card_can_be_read_in_both_themes(course_in_browser):
    from playwright.sync_api import expect

    address, page, _ = course_in_browser
    notebook = lab.Notebook(page, address, LESSON)
    notebook.run_all_above("def softmax(")

    def shows(output, role, text, name):
        card = output.get_by_role(role).first
        expect(card).to_contain_text(text)
        photograph(notebook, card, name)

    notebook.run("def softmax(")
    shows(notebook.run("check(softmax)"), "alert", "softmax: still to do.", "todo")
    notebook.fill("def softmax(", "return weights / weights.sum(dim=dim, keepdim=True)")
    shows(notebook.run("check(softmax)"), "alert", "stopped by an error", "error")
    notebook.fill("def softmax(", "while True:\n    pass")
    shows(notebook.run("check(softmax)"), "alert", "it took too long", "timeout")
    notebook.fill("def softmax(", SOFTMAX)
    notebook.run("check(softmax)")
    notebook.run("def causal_mask(")
    notebook.fill("def attention(", ATTENTION)
    shows(notebook.run("check(attention)"), "alert", "it calls causal_mask, which is still to do", "waiting")

    new = notebook.new_cell("check(softmax)", 'causal_mask = borrow("causal_mask")')
    shows(new, "note", "borrowed from the course", "borrowed")
    new = notebook.new_cell("check(softmax)", 'my_softmax = mine("softmax")')
    shows(new, "note", "softmax: your own answer.", "mine")
    shows(notebook.run('progress("week1_decoder")'), "status", "1 of ", "progress")

    output = notebook.run("from shared import answer")
    shows(output, "note", "Quiz attention", "quiz")
    new = notebook.new_cell("check(softmax)", 'answer("attention", 1, 4)')
    shows(new, "alert", "question 1", "answer_wrong")
    new = notebook.new_cell("check(softmax)", f'answer("attention", 1, {questions_of("attention")[0].value})')
    shows(new, "status", "question 1: right", "answer_right")
    page.set_viewport_size({"width": 1280, "height": 1500})  # the calendar as a whole
    start = lab.Notebook(page, address, "start.ipynb")
    shows(start.run("from shared import home"), "group", "1 passed", "home")
