"""What the checks find: every known mistake and every right variant judged. `python -m tests.mistakes_report`."""

import argparse
import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path

from tqdm.auto import tqdm

from shared import answers, course, homepage
from shared.checking import find_check, run_check
from tests import mutation_report

REPORT = course.ROOT / "docs" / "grading.md"
SEEDS = (None, 7, 123456)  # None: the inputs that the lessons show


@dataclass(frozen=True)
class Row:
    """What the check of one exercise, or the checks of several, found with all seeds."""

    mistakes: int
    rejected: int
    named: int
    variants: int
    accepted: int
    mutants: int  # those that are not equivalent to the reference
    killed: int

    def __add__(self, other: "Row") -> "Row":
        return Row(*(mine + theirs for mine, theirs in zip(self.cells, other.cells, strict=True)))

    @property
    def cells(self) -> tuple[int, ...]:
        return astuple(self)


@cache
def variants() -> tuple[tuple[str, str, Callable], ...]:
    """(exercise, name of the variant, right answer) for every right answer that is written in another way."""
    found = []
    for path in sorted((course.ROOT / "tests" / "variants").glob("*.py")):
        module = importlib.import_module(f"tests.variants.{path.stem}")
        for name, value in vars(module).items():
            if "__" in name.strip("_") and callable(value):
                found.append((name.split("__")[0], name, value))
    return tuple(found)


def with_mistake(name: str, sentence: str) -> Callable:
    """The exercise as it is with this known mistake in it."""
    course.reference(name)  # the edited module stands in for one that must be imported: dataclasses look it up
    made = find_check(name).mistakes[sentence]
    return made if callable(made) else course.edited(course.find(name), made)


def measure(name: str) -> Row:
    """Judge the known mistakes and the variants of an exercise; what counts is what holds with every seed."""
    sentences = find_check(name).mistakes
    found = {
        sentence: [run_check(name, with_mistake(name, sentence), seed=seed) for seed in SEEDS] for sentence in sentences
    }
    others = [[run_check(name, answer, seed=seed) for seed in SEEDS] for own, _, answer in variants() if own == name]
    mutants, killed = mutation_report.counted(name)
    return Row(
        mistakes=len(found),
        rejected=sum(not any(result.passed for result in results) for results in found.values()),
        named=sum(all(result.mistake == sentence for result in results) for sentence, results in found.items()),
        variants=len(others),
        accepted=sum(all(result.passed for result in results) for results in others),
        mutants=mutants,
        killed=killed,
    )


def report(rows: dict[str, Row]) -> str:
    """The measured tables as Markdown: one by week, then one of each week by exercise."""
    weeks = {week: [name for name in rows if course.find(name).week == week] for week in course.weeks()}
    titles = {week: homepage.about(course.ROOT / week)[0] for week in weeks}
    everything = sum(rows.values(), Row(*[0] * 7))
    total = sum(mutation_report.results()[name]["mutants"] for name in rows)
    left = ", ".join(f"{row.mutants - row.killed} of `{n}`" for n, row in rows.items() if row.killed < row.mutants)
    lines = [
        "# What the checks find",
        "",
        "Measured by `python -m tests.mistakes_report`, which writes this page. Each known mistake, and each right",
        "answer that is written in another way than the course's (a variant), was judged three times: on the",
        "inputs that the lesson shows, and on two other sets. Rejected, named and accepted count what was so all",
        "three times. A mistake is named when the card says the sentence that belongs to it.",
        "",
        "A mutant is the course's own solution with one change that a program made (`tests/mutants.py`): operands",
        "swapped, off by one, a term dropped, another axis or reduction, a `detach` forgotten, an argument ignored,",
        "state kept between calls. `python -m tests.mutation_report` judged each of them on two sets of inputs.",
        f"Of {total:,} mutants {total - everything.mutants:,} are equivalent: within the exercise's contract no input",
        "tells them from the solution. They stand with the reason in `tests/equivalents/`, and are not counted here.",
        f"Not rejected: {left or 'none'}.",
        "",
        *_table("week", ((titles[week], [rows[name] for name in names]) for week, names in weeks.items()), True),
    ]
    for week, names in weeks.items():
        lines += ["", f"## {titles[week]}", "", *_table("exercise", ((f"`{n}`", [rows[n]]) for n in names), False)]
    return "\n".join(lines) + "\n"


def _table(first: str, groups: Iterable[tuple[str, list[Row]]], by_week: bool) -> Iterator[str]:
    heads = ["mistakes", "rejected", "named", "variants", "accepted", "mutants", "rejected"]
    heads = [first, "exercises", *heads] if by_week else [first, *heads]
    yield f"| {' | '.join(heads)} |"
    yield "|---|" + "---:|" * (len(heads) - 1)
    everything: list[Row] = []
    for title, rows in groups:
        everything += rows
        yield _line(title, rows, by_week)
    if by_week:
        yield _line("all", everything, by_week)


def _line(title: str, rows: list[Row], by_week: bool) -> str:
    mistakes, rejected, named, others, accepted, mutants, killed = cells = sum(rows, Row(*[0] * 7)).cells
    if not by_week:
        return f"| {title} | {' | '.join(map(str, cells))} |"
    shares = [share(rejected, mistakes), share(named, mistakes), str(others), share(accepted, others)]
    shares += [str(mutants), share(killed, mutants)]
    return f"| {title} | {len(rows)} | {mistakes} | {' | '.join(shares)} |"


def share(part: int, whole: int) -> str:
    """Example: share(19, 20) -> "19 (95.0\u00a0%)"; the space does not break. Only all of them are 100.0 %."""
    if not whole:
        return "0"
    percent = 100 * part / whole
    digits = 2 if part < whole and percent > 99.9 else 1
    return f"{part} ({percent:.{digits}f}\u00a0%)"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mistakes_report", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=REPORT, help="the file to write (default: docs/grading.md)")
    options = parser.parse_args(arguments)
    rows = {name: measure(name) for name in tqdm(course.exercises(), desc="exercises")}
    answers.write_atomically(options.out, report(rows))
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
