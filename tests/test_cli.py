"""The `sixweeks` command, called as a learner calls it."""

import subprocess
import sys

import pytest

from shared import cli
from shared import leaderboard as boards
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


def a_board(**scores) -> dict:
    """Rows by name, each with one task of eight items, so many of them right."""
    interval = {"low": 0.0, "high": 1.0}
    rows = [
        {
            "name": name, "parameters": 1000, "tokens": 2000, "seconds": 3.0, "machine": "one",
            "average": {"score": right / 8, **interval}, "scores": {"arc": {"score": right / 8, **interval}},
            "bits_per_byte": {"score": 2.0, **interval}, "items": {"arc": [1.0] * right + [0.0] * (8 - right)},
        }
        for name, right in scores.items()
    ]  # fmt: skip
    tasks = {"arc": {"metric": "acc", "items": 8, "chance": 0.25, "right_or_wrong": True, "sha256": "0"}}
    return {"schema": boards.SCHEMA, "tasks": tasks, "rows": rows}


@pytest.fixture
def one_week(tmp_path, monkeypatch):
    """A course with one week that holds two reference rows."""
    week = tmp_path / "course" / "week3_x"
    (week / "solutions").mkdir(parents=True)
    boards.write(week / boards.FILE, a_board(small=2, large=7))
    monkeypatch.setattr(boards.current, "__defaults__", (week.parent,))
    return week / boards.FILE


def test_leaderboard_shows_reference_rows_and_ones_own_merged_by_name(one_week, work, capsys):
    assert main(["leaderboard"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:-1]]
    assert names == ["large", "small"]
    boards.write(boards.own_file(), a_board(mine=5, small=8))
    assert main(["leaderboard"]) == 0
    _, *lines, note = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["small", "large", "mine"]
    assert lines[0].split()[1:3] == ["100.0", "±50.0"] and lines[0].endswith("1.000")
    assert lines[1].endswith("0.500") and not lines[2].rstrip().endswith("0.500")  # two items differ: 2 · 1/4
    assert str(boards.own_file()) in note


def test_rows_on_other_items_and_broken_files_are_refused(one_week, work, capsys):
    other = a_board(mine=5)
    other["tasks"]["arc"]["sha256"] = "1"
    boards.write(boards.own_file(), other)
    assert main(["leaderboard"]) == 2
    assert "mine were scored on other items" in capsys.readouterr().err
    for text in ("", "[1]", '{"schema": 1}', '{"schema": 99, "tasks": {}, "rows": []}'):
        boards.own_file().write_text(text)
        assert main(["leaderboard"]) == 2
        told = capsys.readouterr().err
        assert str(boards.own_file()) in told and "make it again" in told
    boards.own_file().unlink()
    one_week.unlink()
    assert main(["leaderboard"]) == 2
    assert "no leaderboard yet" in capsys.readouterr().err


def test_a_written_leaderboard_is_read_again_and_changes_by_line(one_week):
    board = a_board(small=2, large=7)
    assert boards.read(one_week) == board
    before = one_week.read_text().splitlines()
    boards.write(one_week, a_board(small=2, large=6))
    after = one_week.read_text().splitlines()
    assert len(before) == len(after) and sum(a != b for a, b in zip(before, after, strict=True)) == 1


def test_lab_opens_the_start_page_in_the_courses_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli.course, "ROOT", tmp_path)
    assert main(["lab"]) == 2
    assert "start.ipynb is not there" in capsys.readouterr().err
    (tmp_path / "start.ipynb").write_text("")
    calls = []

    class Server:
        def __init__(self, command):
            calls.append(command)

        def wait(self):
            return 0

    monkeypatch.setattr(cli.subprocess, "Popen", Server)
    assert main(["lab", "--no-browser"]) == 0
    (command,) = calls
    assert f"--ServerApp.root_dir={tmp_path}" in command and "--LabApp.default_url=/lab/tree/start.ipynb" in command
    assert command[-1] == "--no-browser" and command[0] == sys.executable


def test_the_command_is_installed_and_explains_itself():
    done = subprocess.run([sys.executable, "-m", "shared.cli", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    for command in ("lab", "check", "grade", "status", "leaderboard", "doctor", "update", "restore", "site"):
        assert command in done.stdout
