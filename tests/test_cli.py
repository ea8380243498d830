"""The `sixweeks` command, called as a learner calls it."""

import subprocess
import sys

import pytest

from shared import cli
from shared.cli import main


def test_status_counts_passed_tried_and_open(work, capsys):
    (work / "week1_decoder").mkdir(parents=True)
    (work / "week1_decoder" / "softmax.py").write_text("def softmax(x, dim):\n    return x\n")
    (work / "attempts.jsonl").write_text('{"exercise": "attention", "status": "failed", "mistake": null, "time": 1}\n')
    assert main(["status"]) == 0
    told = capsys.readouterr().out
    assert "✓ softmax: passed" in told and "◐ attention: tried" in told and "○ causal_mask: open" in told
    assert "1 passed, 1 tried" in told


def test_doctor_has_a_line_for_each_need_and_never_fails(capsys):
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    for need in ("Python", "packages", "device", "memory", "disk", "your answers", "hub", "SmolLM2", "sandbox"):
        assert need in told


def test_doctor_says_what_to_do_where_answers_cannot_be_kept(work, capsys):
    work.write_text("a file where the folder should be")
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert "look  your answers" in told and "SIXWEEKS_WORK" in told


@pytest.mark.parametrize("passed", [False, True])
def test_lab_opens_the_first_open_exercise_in_the_courses_folder(passed, work, monkeypatch, capsys):
    if passed:
        from shared import course

        for exercise in course.exercises().values():
            if exercise.lesson == "tokenization":
                path = work / exercise.week / f"{exercise.name}.py"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("")
    calls = []

    class Server:
        def __init__(self, command):
            calls.append(command)

        def wait(self):
            return 0

    monkeypatch.setattr(cli.subprocess, "Popen", Server)
    assert main(["lab", "--no-browser"]) == 0
    (command,) = calls
    where = "02_attention" if passed else "01_tokenization"
    assert f"--LabApp.default_url=/lab/tree/week1_decoder/{where}.ipynb" in command
    assert command[-1] == "--no-browser" and command[0] == sys.executable


def test_the_command_is_installed_and_explains_itself():
    done = subprocess.run([sys.executable, "-m", "shared.cli", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    for command in ("lab", "check", "grade", "status", "doctor"):
        assert command in done.stdout
