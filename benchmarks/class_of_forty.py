"""A class of forty: how long `sixweeks grade` takes for 160 notebooks of week 1, and where the time goes.

    python -m benchmarks.class_of_forty [students]

Each student has the four lesson notebooks of the week with answers in them: the course's own, the variants of
`tests/variants`, known mistakes, untouched skeletons, and errors, drawn with a fixed seed. A comment makes every
answer a text of its own, so that none is judged for another.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import random
import re
import resource
import sys
import tempfile
import time
from pathlib import Path

from shared import course
from shared.checking import find_check
from shared.runtime import machine

WEEK = "week1_decoder"
FIRST = [
    "Ada",
    "Grace",
    "Alan",
    "Edsger",
    "Barbara",
    "Donald",
    "Frances",
    "John",
    "Katherine",
    "Claude",
    "Radia",
    "Tim",
    "Hedy",
    "Niklaus",
    "Jürgen",
    "Zoë",
]
LAST = ["Stern", "Vogel", "Roth", "Keller", "Brandt"]


def right_answers(exercise: course.Exercise) -> list[str]:
    """The course's own answer and its variants, each as the text of a cell."""
    module = importlib.import_module(f"tests.variants.{exercise.lesson}")
    tree = ast.parse(inspect.getsource(module))
    variants = {n.name: ast.unparse(n) for n in tree.body if "__" in getattr(n, "name", "_").strip("_")}
    helpers = "\n".join(ast.unparse(n) for n in tree.body if getattr(n, "name", "") not in variants)
    own = [name for name in variants if name.startswith(f"{exercise.name}__")]
    renamed = [re.sub(rf"\b{name}\b", exercise.name, variants[name]) for name in own]
    renamed = [text for text in renamed if not any(name in text for name in variants)]  # that build on each other
    return [exercise.solution, *(f"{helpers}\n\n{text}" for text in renamed)]


def wrong_answers(exercise: course.Exercise) -> list[str]:
    """The known mistakes that are edits of the answer itself."""
    found = []
    for edits in find_check(exercise.name).mistakes.values():
        text = exercise.source
        for old, new in [] if callable(edits) else [edits] if isinstance(edits, tuple) else edits:
            text = text.replace(old, new) if text.count(old) == 1 else exercise.source
        if text != exercise.source:
            found.append(text)
    return found


def hand_in(folder: Path, students: int, seed: int = 1) -> None:
    """Write the notebooks of a class."""
    dice = random.Random(seed)
    exercises = [e for e in course.exercises().values() if e.week == WEEK]
    texts = {e.name: (right_answers(e), wrong_answers(e)) for e in exercises}
    for number in range(students):
        who = f"{FIRST[number % len(FIRST)]} {LAST[number // len(FIRST) % len(LAST)]}"
        skill = dice.choice([0.95, 0.8, 0.8, 0.6, 0.4])
        answers = {}
        for exercise in exercises:
            right, wrong = texts[exercise.name]
            drawn = dice.random()
            if drawn < skill:
                answer = dice.choice(right)
            elif drawn < skill + 0.6 * (1 - skill) and wrong:
                answer = dice.choice(wrong)
            elif drawn > 0.99:
                answer = f"def {exercise.name}(*args):\n    return not_there(*args)"
            else:
                continue
            answers[exercise.name] = f"{answer}\n# by {who}"
        for path in dict.fromkeys(map(course.lesson_notebook, exercises)):
            notebook = json.loads(path.read_text(encoding="utf-8"))
            for cell in notebook["cells"]:
                source = "".join(cell["source"])
                name = re.search(r"^(?:def|class) (\w+)", source, re.MULTILINE)
                if "exercise" in cell["metadata"].get("tags", []) and name and name[1] in answers:
                    cell["source"] = answers[name[1]]
            target = folder / who / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(json.dumps(notebook), encoding="utf-8")


def processor_seconds() -> float:
    """Of this process and all that it started and that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def main(students: int = 40) -> None:
    from shared import sandbox
    from shared.classroom import Kept, grade_class, write_csv
    from shared.gradebook import write_html

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "submissions"
        hand_in(folder, students)
        print(machine())
        before = time.perf_counter(), processor_seconds()
        graded = grade_class(folder, seed=1, kept=Kept(Path(temporary) / "judged.jsonl"))
        write_csv(graded, Path(temporary) / "grades.csv")
        write_html(graded, Path(temporary) / "grades.html")
        own = time.perf_counter() - before[0], sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        sandbox.end_servers()
        rows = [row for student in graded.students for row in student.rows]
        print(f"{students} students, {len(rows)} answers, {len(list(folder.rglob('*.ipynb')))} notebooks")
        print(
            f"by the clock {own[0]:.0f} s; processor {processor_seconds() - before[1]:.0f} s, of which "
            f"{own[1] - before[1]:.0f} s here (reading, comparing) and the rest in the sandbox; "
            f"load {os.getloadavg()[0]:.1f}"
        )
        print(f"answers' own time {sum(row.seconds for row in rows):.0f} s")
        start = time.perf_counter()
        grade_class(folder, kept=Kept(Path(temporary) / "judged.jsonl"))
        print(f"again, all kept: {time.perf_counter() - start:.1f} s; pairs pointed out: {len(graded.pairs)}")
        print(f"points: {sorted(student.points for student in graded.students)} of {graded.students[0].out_of}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
