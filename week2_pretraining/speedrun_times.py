"""The speedrun on the clock: the race to a loss, and the table of times."""

import json
import os
import tempfile
import time
import zlib
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from shared.course import work_folder
from shared.homepage import SPEEDRUN_FILE
from shared.runtime import machine
from week2_pretraining.solutions.data import get_batch
from week2_pretraining.solutions.optimization import parameter_groups, warmup_cosine_lr
from week2_pretraining.solutions.pretraining import evaluate_loss
from week2_pretraining.solutions.speedrun import Run, SpeedrunGPT, muon_step, trapezoid_lr


@dataclass(frozen=True)
class CharacterText:
    """A text as token ids, one for each character: nanoGPT's data, 90 % to train on, 10 % to validate."""

    name: str
    checksum: str
    characters: str
    train_ids: Int[Tensor, "n_train"]
    validation_ids: Int[Tensor, "n_validation"]

    @classmethod
    def of(cls, text: str, name: str) -> "CharacterText":
        if len(text) < 10_000:
            raise ValueError(f"a race takes 10,000 characters or more, {name} has {len(text):,}")
        characters = "".join(sorted(set(text)))
        index = {character: i for i, character in enumerate(characters)}
        token_ids = torch.tensor([index[character] for character in text])
        n_train = int(0.9 * len(text))
        checksum = f"{zlib.crc32(text.encode()):08x}"
        return cls(name, checksum, characters, token_ids[:n_train], token_ids[n_train:])


@dataclass
class Result:
    """What a race gave: validation losses with the iteration and the training seconds at which each was measured."""

    run: Run
    target: float
    iterations: list[int]
    seconds: list[float]
    losses: list[float]

    @property
    def seconds_to_target(self) -> float | None:
        """Training seconds at the first validation loss that is not above the target; None if there was none."""
        return next((s for s, loss in zip(self.seconds, self.losses, strict=True) if loss <= self.target), None)


def learning_rate(run: Run, step: int, max_lr: float) -> float:
    """The run's schedule, for an optimizer whose highest learning rate is `max_lr`."""
    min_lr = max_lr * run.min_lr / run.lr
    if run.decay is None:
        return warmup_cosine_lr(step, max_lr, run.warmup, run.iterations, min_lr)
    return trapezoid_lr(step, max_lr, run.warmup, run.iterations, run.decay, min_lr)


def race(run: Run, data: CharacterText, target: float = 0.0, evaluate_every: int = 250, seed: int = 0) -> Result:
    """Train until the validation loss is at most `target`, or the run's iterations are used up.

    The loss is nanoGPT's estimate, 20 batches of 12 windows, here the same ones each time. The clock stands still while
    it is measured.
    """
    generator = torch.Generator().manual_seed(seed)
    model = SpeedrunGPT(run, len(data.characters), generator)
    judge = torch.Generator().manual_seed(1234)
    validation = [get_batch(data.validation_ids, 12, run.context_length, judge) for _ in range(20)]

    matrices = [model.w_qkv, model.w_o, model.w_in, model.w_out] if run.muon_lr else []
    buffers = [torch.zeros_like(w) for w in matrices]
    groups = parameter_groups(model, run.weight_decay)
    for group in groups:
        group["params"] = [p for p in group["params"] if all(p is not w for w in matrices)]
    adamw = torch.optim.AdamW(groups, betas=run.betas, fused=True)

    result = Result(run, target, [], [], [])
    seconds, start = 0.0, time.perf_counter()
    for step in range(run.iterations):
        for group in adamw.param_groups:
            group["lr"] = learning_rate(run, step, run.lr)
        token_ids, targets = get_batch(data.train_ids, run.batch_size, run.context_length, generator)
        loss = F.cross_entropy(model(token_ids).flatten(0, 1), targets.flatten())
        model.zero_grad()
        loss.backward()
        if run.clip:
            nn.utils.clip_grad_norm_(model.parameters(), run.clip)
        adamw.step()
        for i, w in enumerate(matrices):
            muon_lr = learning_rate(run, step, run.muon_lr)
            w.data, buffers[i] = muon_step(w.data, w.grad, buffers[i], muon_lr, run.momentum)
        if (step + 1) % evaluate_every == 0 or step + 1 == run.iterations:
            seconds += time.perf_counter() - start
            result.iterations.append(step + 1)
            result.seconds.append(seconds)
            result.losses.append(evaluate_loss(model, validation))
            if result.losses[-1] <= target:
                break
            start = time.perf_counter()
    return result


TIME = {"who": str, "run": str, "data": str, "target": float, "machine": str, "seconds": float, "iterations": int,
        "loss": float, "date": str}  # fmt: skip


def times_file() -> Path:
    return work_folder() / SPEEDRUN_FILE


def race_key(data: CharacterText, target: float) -> dict[str, str | float]:
    """What two times must share to be compared: the text, the target, the machine and its threads."""
    threads = f"{torch.get_num_threads()} threads"
    return {
        "data": f"{data.name} {data.checksum}",
        "target": round(float(target), 4),
        "machine": ", ".join([*machine().values(), threads]),
    }


def read_times(path: Path) -> list[dict]:
    """The recorded times. A file that is damaged or is no such table is kept aside under another name, and told."""
    if not path.exists():
        return []
    try:
        times = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(times, list):
            raise ValueError(f"a list of times is wanted, this is of type {type(times).__name__}")
        for entry in times:
            if not isinstance(entry, dict) or {k: type(v) for k, v in entry.items()} != TIME:
                raise ValueError(f"an entry is not a time with {', '.join(TIME)}")
    except ValueError as error:  # not JSON, not UTF-8, or not a table of times
        aside = next(a for i in range(1, 1000) if not (a := path.with_suffix(f".damaged{i}.json")).exists())
        os.replace(path, aside)
        print(f"{path.name} is no table of times ({error}). It is kept as {aside.name}, and a new one begins.")
        return []
    return times


def record_time(result: Result, data: CharacterText, who: str = "you", path: Path | None = None) -> None:
    """Add the race to the table of times, in one piece: a crash leaves the old file whole.

    Raises ValueError for a race that did not reach its target.
    """
    if result.seconds_to_target is None:
        raise ValueError(f"{result.run.name} ended at {result.losses[-1]:.3f} and did not reach {result.target:.3f}")
    path = times_file() if path is None else path
    last = {"iterations": result.iterations[-1], "loss": result.losses[-1], "date": date.today().isoformat()}
    entry = {"who": who, "run": result.run.name, **race_key(data, result.target), "seconds": result.seconds[-1], **last}
    text = json.dumps([*read_times(path), entry], indent=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, suffix=".part", delete=False) as file:
        file.write(text)
    os.replace(file.name, path)


def leaderboard(data: CharacterText, target: float, path: Path | None = None) -> str:
    """The best time of everyone's runs on this text, target and machine, fastest first, as a text table."""
    times = read_times(times_file() if path is None else path)
    key = race_key(data, target)
    alike = sorted((t for t in times if key.items() <= t.items()), key=lambda t: t["seconds"])
    best = {}
    for entry in alike:
        best.setdefault((entry["who"], entry["run"]), entry)
    lines = [f"to {target:.3f} on {data.name}; {key['machine']}", f"{'seconds':>8}  {'iterations':>10}  who and run"]
    for t in best.values():
        lines.append(f"{t['seconds']:8.1f}  {t['iterations']:10,}  {t['who']}: {t['run']} ({t['date']})")
    if len(times) > len(alike):
        lines.append(f"left out: {len(times) - len(alike)} of another text, target or machine")
    return "\n".join(lines)
