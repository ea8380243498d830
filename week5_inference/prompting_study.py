"""The experiments of lesson 01 that take longer than a lesson: `python -m week5_inference.prompting_study [PART ...]`.

Parts: scratchpads, few_shot, chain_of_thought, tools, refine, injection. Each result goes into prompting_study.json as
soon as it is there; a part that is run again replaces what it gave before.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from tqdm.auto import tqdm

from shared.answers import write_atomically
from shared.runtime import machine
from week5_inference import smol_study
from week5_inference.scratchpads import TARGETS, problems, right, rows_of, small_gpt, train_addition, write

STORED = Path(__file__).parent / "prompting_study.json"
DIGITS, STEPS, N_HELD_OUT = 3, 600, 200
SIZES, SEEDS = (250, 1000, 4000), (0, 1, 2)


def scratchpads() -> Iterator[dict]:
    """Three-digit sums, learnt with and without steps: as many examples seen, and as many tokens seen."""
    for seed in SEEDS:
        held_out = problems(N_HELD_OUT, DIGITS, seed=100 + seed)
        for size in SIZES:
            pairs = problems(size, DIGITS, seed, without=held_out)
            rows = {kind: rows_of(pairs, target) for kind, target in TARGETS.items()}
            tokens = {kind: rows[kind][0].shape[1] for kind in rows}
            settings = [(kind, STEPS, "examples") for kind in TARGETS]
            settings.append(("answer at once", STEPS * tokens["worked steps"] // tokens["answer at once"], "tokens"))
            for kind, steps, equal in settings:
                start = time.perf_counter()
                model = small_gpt(seed, tokens[kind] + 1)
                train_addition(model, rows[kind], steps, seed)
                scores = right(write(model, held_out, tokens[kind]), held_out)
                yield {
                    "setting": f"{kind}, as many {equal}, {size} problems, seed {seed}",
                    "kind": kind,
                    "equal": equal,
                    "problems": size,
                    "seed": seed,
                    "steps": steps,
                    "tokens_read": steps * 32 * tokens[kind],
                    "right": int(scores.sum()),
                    "of": N_HELD_OUT,
                    "seconds": round(time.perf_counter() - start, 1),
                }


PARTS: dict[str, Callable[[], Iterator[dict]]] = {"scratchpads": scratchpads, **smol_study.PARTS}


def load(path: Path = STORED) -> dict:
    """The stored study: {"command", "parts": {part: [result, ...]}}."""
    return json.loads(path.read_text(encoding="utf-8"))


def as_text(study: dict) -> str:
    """JSON with one line a result."""
    parts = []
    for name, part in study["parts"].items():
        rows = ",\n".join(json.dumps(result) for result in part["results"])
        about = {key: value for key, value in part.items() if key != "results"}
        parts.append(f'{json.dumps(name)}: {json.dumps(about)[:-1]}, "results": [\n{rows}\n]}}')
    return f'{{"command": {json.dumps(study["command"])}, "parts": {{\n' + ",\n".join(parts) + "\n}}\n"


def main(arguments: list[str], path: Path = STORED) -> None:
    unknown = set(arguments) - PARTS.keys()
    if unknown:
        raise SystemExit(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    study = load(path) if path.exists() else {"command": "python -m week5_inference.prompting_study", "parts": {}}
    for part in arguments or PARTS:
        results: list[dict] = []
        study["parts"][part] = {
            "machine": ", ".join(machine().values()),
            "threads": torch.get_num_threads(),
            "results": results,
        }
        for result in tqdm(PARTS[part](), desc=part):
            results.append(result)
            write_atomically(path, as_text(study))  # now: a study may be stopped


if __name__ == "__main__":
    main(sys.argv[1:])
