"""The course's leaderboard: rows of scores in JSON, merged by name, shown as a table.

A week may hold reference rows in `leaderboard.json`; the learner's own are in the work folder. Later files win, so a
model that is scored again replaces its row. Which tasks there are, and how a row is made, is the week's affair.
"""

from __future__ import annotations

import json
from pathlib import Path

from shared import course
from shared.answers import write_atomically

SCHEMA = 1
FILE = "leaderboard.json"


def own_file() -> Path:
    """Where the learner's own rows are kept."""
    return course.work_folder() / FILE


def read(path: Path) -> dict:
    """{"schema", "tasks": name -> about it, "rows": [...]}; ValueError for a file that is not a leaderboard of ours."""
    try:
        board = json.loads(path.read_text(encoding="utf-8"))
        schema, _, _ = board["schema"], board["tasks"], [row["name"] for row in board["rows"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a leaderboard ({error}): delete it, or make it again") from None
    if schema != SCHEMA:
        raise ValueError(f"{path} has schema {schema}, and this version of the course reads {SCHEMA}: make it again")
    return board


def write(path: Path, board: dict) -> None:
    """One line a row, so that a change of one row is a change of one line."""
    rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in board["rows"])
    head = json.dumps({"schema": SCHEMA, "tasks": board["tasks"]}, ensure_ascii=False, indent=1)
    write_atomically(path, f'{head.removesuffix("}").rstrip()},\n "rows": [\n{rows}\n]}}\n')


def merged(boards: list[dict]) -> dict:
    """All rows, the best average first; of rows with one name the last stays.

    Raises ValueError where the tasks differ: scores on other items cannot be compared.
    """
    if not boards:
        raise FileNotFoundError("there is no leaderboard yet: lesson 06 of week 3 makes one")
    tasks, rows = boards[0]["tasks"], {}
    for board in boards:
        if board["tasks"] != tasks:
            names = ", ".join(row["name"] for row in board["rows"])
            raise ValueError(f"the rows {names} were scored on other items: score them again, or delete {own_file()}")
        rows |= {row["name"]: row for row in board["rows"]}
    return {"tasks": tasks, "rows": sorted(rows.values(), key=lambda row: -row["average"]["score"])}


def current(root: Path = course.ROOT) -> dict:
    """The reference rows and the learner's own, merged."""
    files = [*(root / week / FILE for week in course.weeks(root)), own_file()]
    return merged([read(path) for path in files if path.exists()])


def against_next(board: dict) -> list[float | None]:
    """For each row, McNemar's p against the row below it, over all items that are right or wrong; None for the last."""
    import torch

    mcnemar = course.reference("mcnemar")
    names = [name for name, task in board["tasks"].items() if task["right_or_wrong"]]
    answers = [torch.tensor([bool(x) for name in names for x in row["items"][name]]) for row in board["rows"]]
    return [mcnemar(a, b)[2] for a, b in zip(answers, answers[1:], strict=False)] + [None]


def cells(board: dict) -> list[list[str]]:
    """A line of titles and one line a row: scores in percent with half the width of their 95 % interval."""

    def cell(value: dict, scale: float, digits: int) -> str:
        half = (value["high"] - value["low"]) / 2
        return f"{scale * value['score']:.{digits}f} ±{scale * half:.{digits}f}"

    lines = [["", "average", *board["tasks"], "bits/byte", "parameters", "tokens", "seconds", "p, next row"]]
    for row, p in zip(board["rows"], against_next(board), strict=True):
        scores = [cell(row["scores"][name], 100, 0) for name in board["tasks"]]
        cost = [f"{row[name]:,}" for name in ("parameters", "tokens", "seconds")]
        told = "" if p is None else f"{p:.3f}" if p >= 0.001 else "< 0.001"
        average, text = cell(row["average"], 100, 1), cell(row["bits_per_byte"], 1, 2)
        lines.append([row["name"], average, *scores, text, *cost, told])
    return lines


def table(board: dict) -> str:
    """The leaderboard as text."""
    lines = cells(board)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(text.rjust(w) for text, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )
