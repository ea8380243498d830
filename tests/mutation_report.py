"""Which mutants of the reference solutions the checks accept: `python -m tests.mutation_report [exercise or week ...]`.

Results are kept in docs/mutants.json, by exercise; survivors that are equivalent stand in tests/equivalents/,
each with the reason. One exercise after the other is judged in a child process, so that a mutant that hangs or takes
all memory ends only itself, and counts as rejected.
"""

import argparse
import contextlib
import functools
import json
import multiprocessing
import os
import random
import resource
import sys
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


@functools.cache
def equivalents() -> dict[str, dict[str, str]]:
    """Exercise -> change -> why no right check can reject it."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted(EQUIVALENT.glob("*.toml")):
        found |= tomllib.loads(path.read_text(encoding="utf-8"))
    return found


@functools.cache
def results() -> dict[str, dict]:
    """Exercise -> {"mutants": how many, "accepted": the changes that its check accepts}, as last measured."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def counted(name: str) -> tuple[int, int]:
    """(mutants that are not equivalent, how many of these the check rejects), as last measured."""
    kept = results()[name]
    alive = [change for change in kept["accepted"] if change not in equivalents().get(name, {})]
    different = kept["mutants"] - (len(kept["accepted"]) - len(alive))
    return different, different - len(alive)


def survivors(made: list[Mutant]) -> list[Mutant]:
    """Those that the checks accept. One that hangs or ends its process is rejected."""
    found: list[Mutant] = []
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
                found += [made[done]] if passes else []
                done += 1
        done += done < len(made)  # this one hung, or took the process with it
        child.kill()
        child.join()
    return found


def _judge(made: list[Mutant], there) -> None:
    import torch

    torch.set_num_threads(1)
    checking._name_mistake = checking._name_resemblance = lambda *args: None  # they judge all known mistakes
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for mutant in made:
        there.send(accepted(mutant))
    there.close()
    os._exit(0)  # threads that a mutant left running hold nobody up


def sample(week: str) -> list[str]:
    """Judge one mutant of each exercise of a week again; what no longer comes out as it is kept in the results."""
    names = [e.name for e in course.exercises().values() if e.week == week]
    drawn = [random.Random(name).choice(mutants(name)) for name in names]
    kept, alive = results(), survivors(drawn)
    wrong = [mutant for mutant in drawn if (mutant in alive) != (mutant.change in kept[mutant.exercise]["accepted"])]
    return [f"{mutant.exercise}: {mutant.change}" for mutant in wrong]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation_report", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="exercises or weeks (default: what has no result yet)")
    parser.add_argument("--sample", metavar="WEEK", help="judge one mutant of each exercise; write nothing")
    options = parser.parse_args(arguments)
    if options.sample:
        wrong = sample(options.sample)
        print("\n".join(wrong))
        return int(bool(wrong))
    kept = results()
    wanted = [e.name for e in course.exercises().values() if {e.name, e.week} & set(options.names)]
    wanted = wanted or [name for name in course.exercises() if name not in kept]
    for name in wanted:  # in this process, so that no child has to
        find_check(name)
        course.reference(name)
    for name in tqdm(wanted, desc="exercises"):
        made = mutants(name)
        kept[name] = {"mutants": len(made), "accepted": [mutant.change for mutant in survivors(made)]}
        ordered = {other: kept[other] for other in course.exercises() if other in kept}
        answers.write_atomically(RESULTS, json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")
    known = equivalents()
    for name in kept:
        for change in kept[name]["accepted"]:
            if change not in known.get(name, {}):
                print(f"{name}: {change}")
    different, rejected = (sum(column) for column in zip(*map(counted, kept), strict=True))
    total = sum(one["mutants"] for one in kept.values())
    print(f"{total} mutants, {total - different} equivalent, {rejected} of the other {different} rejected")
    return 0


if __name__ == "__main__":
    sys.exit(main())
