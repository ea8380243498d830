"""Which mutants of the reference solutions the checks accept: `python -m tests.mutation_report [exercise or week ...]`.

Results are kept in docs/mutants.json, by exercise; survivors that are equivalent stand in tests/equivalents/,
each with the reason. One exercise after the other is judged in a child process, so that a mutant that hangs or takes
all memory ends only itself, and counts as rejected.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import resource
import tomllib

from tqdm.auto import tqdm

from shared import answers, checking, course
from shared.checking import find_check, run_check
from tests.mutants import Mutant, mutants

RESULTS = course.ROOT / "docs" / "mutants.json"
EQUIVALENT = course.ROOT / "tests" / "equivalents"  # one file a week
SEEDS = (None, 7)  # the inputs of the lesson, then others
SECONDS = 5.0
MEMORY = 8 * 2**30


def accepted(mutant: Mutant) -> bool:
    """Whether the check passes a mutant, with every seed."""
    try:
        answer = mutant.make()
    except Exception:
        return False  # it cannot even be defined
    limit = min(SECONDS, find_check(mutant.exercise).seconds)
    return all(run_check(mutant.exercise, answer, seed=seed, seconds=limit).passed for seed in SEEDS)


def equivalents() -> dict[str, dict[str, str]]:
    """Exercise -> change -> why no right check can reject it."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted(EQUIVALENT.glob("*.toml")):
        found |= tomllib.loads(path.read_text(encoding="utf-8"))
    return found


def survivors(name: str) -> tuple[int, list[str]]:
    """(number of mutants, changes that the check accepts) of an exercise."""
    made = mutants(name)
    found: list[str] = []
    done = 0
    context = multiprocessing.get_context("fork")
    while done < len(made):
        here, there = context.Pipe(duplex=False)
        child = context.Process(target=_judge, args=(made[done:], there))
        child.start()
        there.close()
        with contextlib.suppress(EOFError):
            while done < len(made) and here.poll(12 * SECONDS):
                passes = here.recv()
                found += [made[done].change] if passes else []
                done += 1
        done += done < len(made)  # this one hung, or took the process with it
        child.kill()
        child.join()
    return len(made), found


def _judge(made: list[Mutant], there) -> None:
    import torch

    torch.set_num_threads(1)
    checking._name_mistake = checking._name_resemblance = lambda *args: None  # they judge all known mistakes
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for mutant in made:
        there.send(accepted(mutant))
    there.close()
    os._exit(0)  # threads that a mutant left running hold nobody up


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation_report", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="exercises or weeks (default: what has no result yet)")
    options = parser.parse_args(arguments)
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    wanted = [e.name for e in course.exercises().values() if {e.name, e.week} & set(options.names)]
    wanted = wanted or [name for name in course.exercises() if name not in kept]
    for name in wanted:  # in this process, so that no child has to
        find_check(name)
        course.reference(name)
    for name in tqdm(wanted, desc="exercises"):
        count, alive = survivors(name)
        kept[name] = {"mutants": count, "accepted": alive}
        ordered = {other: kept[other] for other in course.exercises() if other in kept}
        answers.write_atomically(RESULTS, json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")
    known = equivalents()
    total = sum(kept[name]["mutants"] for name in kept)
    alive = {name: [c for c in kept[name]["accepted"] if c not in known.get(name, {})] for name in kept}
    for name, changes in alive.items():
        for change in changes:
            print(f"{name}: {change}")
    equal = sum(len(kept[name]["accepted"]) - len(alive[name]) for name in kept)
    killed = total - equal - sum(map(len, alive.values()))
    print(f"{total} mutants, {equal} equivalent, {killed} of the other {total - equal} rejected")


if __name__ == "__main__":
    main()
