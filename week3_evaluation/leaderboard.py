"""A small open leaderboard: models over all tasks, with intervals and cost.

    python -m week3_evaluation.leaderboard [NAME ...]   scores the reference entries anew (all, or those named), into
                                                        week3_evaluation/leaderboard.json
    add([Entry("mine", load)])                          scores yours, into your work folder; `sixweeks leaderboard`
                                                        shows all rows, merged by name

A score is over the first `N_ITEMS` items of each task, asked without examples. The average is over tasks, each
stretched so that guessing is 0 and all right is 1, as on the Open LLM Leaderboard 2. Bits per byte are of held-out
stories.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from shared import leaderboard as boards
from shared.data import stories
from shared.models import course_folder, smollm2
from shared.runtime import machine
from shared.stories import Dice
from week3_evaluation.harness import prompt_of, score_task
from week3_evaluation.items import Task, tasks
from week3_evaluation.solutions.benchmarks import encode_pair, multiple_choice_loglikelihood
from week3_evaluation.solutions.leaderboard import bootstrap_interval, mean

N_ITEMS, N_STORIES = 100, 40
REFERENCE = Path(__file__).parent / boards.FILE


@dataclass(frozen=True)
class Entry:
    """A name, and how to get (model, tokenizer); (None, None) stands for guessing."""

    name: str
    load: Callable[[], tuple[nn.Module | None, object]]


class Unigram(nn.Module):
    """Each next token by how often it stands in the training text, whatever came before."""

    def __init__(self, counts: Tensor):
        super().__init__()
        self.log_probs = nn.Parameter((counts / counts.sum()).log(), requires_grad=False)

    def forward(self, token_ids: Tensor, key_mask: Tensor | None = None) -> Tensor:
        return self.log_probs.expand(*token_ids.shape, -1)


def course_model(stage: str = "base") -> tuple[nn.Module, object]:
    """As transformers reads it: it writes with a cache."""
    folder = course_folder(stage)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    return model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def unigram(n_stories: int = 2000) -> tuple[nn.Module, object]:
    """Counts of the course tokenizer's tokens in training stories; each counted once more than seen, so none is 0."""
    _, tokenizer = course_model()
    token_ids = [i for story in stories(n_stories) for i in tokenizer(story.text).input_ids]
    return Unigram(torch.bincount(torch.tensor(token_ids), minlength=len(tokenizer)) + 1.0).eval(), tokenizer


ENTRIES = (
    Entry("course model (base)", course_model),
    Entry("SmolLM2-135M-Instruct", smollm2),
    Entry("unigram baseline", unigram),
    Entry("guessing", lambda: (None, None)),
)


@cache
def about_tasks(n_items: int = N_ITEMS) -> dict[str, dict]:
    """For each task: metric, number of items, what guessing scores on average, and a fingerprint of the items."""
    told = {}
    for name, task in tasks().items():
        items = task.items[:n_items]
        asked = json.dumps([[prompt_of(task, row), row] for row in items], sort_keys=True)
        told[name] = {
            "metric": task.metric,
            "items": len(items),
            "chance": round(sum(map(chance_of(task), items)) / len(items), 4),
            "right_or_wrong": task.metric != "mc2",
            "sha256": hashlib.sha256(asked.encode()).hexdigest()[:12],
        }
    return told


def chance_of(task: Task) -> Callable[[dict], float]:
    """What a guess scores on an item, on average."""
    if task.choices is None:
        return lambda row: 0.0
    if task.metric == "mc2":
        return lambda row: sum(row["mc2_targets"]["labels"]) / len(row["mc2_targets"]["labels"])
    return lambda row: 1 / len(task.choices(row))


def guesses(n_items: int) -> dict[str, list[float]]:
    """One guess an item: right with its chance; where a score is a share, the chance itself."""
    dice, found = Dice(1), {}
    for name, task in tasks().items():
        chances = [chance_of(task)(row) for row in task.items[:n_items]]
        found[name] = chances if task.metric == "mc2" else [float(dice.happens(chance)) for chance in chances]
    return found


@contextmanager
def tokens_read(model: nn.Module) -> Iterator[list[int]]:
    """How many tokens each call of the model reads, padding included."""
    seen: list[int] = []

    def note(_, args, kwargs):
        seen.append((args[0] if args else kwargs["input_ids"]).numel())

    hook = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


def task_average(about: dict[str, dict]) -> Callable[[Tensor], Tensor]:
    """The statistic of (resample, item, 2) rows of score and task number: the mean over tasks, guessing at 0."""
    chances = torch.tensor([task["chance"] for task in about.values()], dtype=torch.float64)

    def average(rows: Tensor) -> Tensor:
        scores, of_task = rows[..., 0], nn.functional.one_hot(rows[..., 1].long(), len(chances)).double()
        means = (scores[..., None] * of_task).sum(dim=1) / of_task.sum(dim=1).clamp(min=1)
        return ((means - chances) / (1 - chances)).mean(dim=1)

    return average


def labelled(items: dict[str, list[float]]) -> Tensor:
    """All items of all tasks as (item, 2): score and task number."""
    rows = [[score, number] for number, scores in enumerate(items.values()) for score in scores]
    return torch.tensor(rows, dtype=torch.float64)


def with_interval(values: Tensor, statistic: Callable[[Tensor], Tensor]) -> dict[str, float]:
    low, high = bootstrap_interval(values, statistic=statistic, generator=torch.Generator().manual_seed(0))
    score = statistic(values.double()[None]).item()
    return {name: round(value, 4) for name, value in (("score", score), ("low", low), ("high", high))}


def bits_per_byte(rows: Tensor) -> Tensor:
    """(resample, story, 2) rows of nats and bytes: all bits by all bytes."""
    nats, n_bytes = rows.sum(dim=1).unbind(dim=-1)
    return nats / math.log(2) / n_bytes


def story_rows(model: nn.Module | None, tokenizer) -> Tensor:
    """(story, 2): nats and bytes of held-out stories, each read from its start; guessing takes 8 bits a byte."""
    texts = [story.text for story in stories(N_STORIES, seed=5, split="validation")]
    sizes = torch.tensor([len(text.encode()) for text in texts], dtype=torch.float64)
    if model is None:
        return torch.stack([sizes * math.log(256), sizes], dim=1)
    pairs = [[encode_pair(tokenizer, "", text)] for text in texts]
    nats = -torch.stack(multiple_choice_loglikelihood(model, pairs)).double().cpu().squeeze(1)
    return torch.stack([nats, sizes], dim=1)


def score_entry(entry: Entry, n_items: int = N_ITEMS) -> dict:
    """The row of an entry: scores with 95 % intervals, the score of each item, and what it cost to get them."""
    model, tokenizer = entry.load()
    about, items, tokens = about_tasks(n_items), {}, 0
    start = time.perf_counter()
    if model is None:
        items = guesses(n_items)
        text = story_rows(None, None)
    else:
        with tokens_read(model) as seen:
            for name, task in tqdm(tasks().items(), desc=entry.name):
                items[name] = [found.score for found in score_task(model, tokenizer, task, limit=n_items)]
            text = story_rows(model, tokenizer)
        tokens = sum(seen)
    seconds = time.perf_counter() - start
    return {
        "name": entry.name,
        "parameters": 0 if model is None else sum(p.numel() for p in model.parameters()),
        "tokens": tokens,
        "seconds": round(seconds, 1),
        "machine": ", ".join(machine().values()),
        "average": with_interval(labelled(items), task_average(about)),
        "scores": {name: with_interval(torch.tensor(found), mean) for name, found in items.items()},
        "bits_per_byte": with_interval(text, bits_per_byte),
        "items": {name: [round(score, 3) for score in found] for name, found in items.items()},
    }


def make_board(entries: Iterable[Entry], n_items: int = N_ITEMS) -> dict:
    """A leaderboard of just these entries."""
    rows = [score_entry(entry, n_items) for entry in entries]
    return boards.merged([{"schema": boards.SCHEMA, "tasks": about_tasks(n_items), "rows": rows}])


def add(entries: Iterable[Entry], path: Path | None = None) -> None:
    """Score these entries and keep their rows (None: in the work folder); a row of the same name is replaced."""
    path = path or boards.own_file()
    old = [boards.read(path)] if path.exists() else []
    boards.write(path, boards.merged([*old, make_board(entries)]))


if __name__ == "__main__":
    wanted = sys.argv[1:]
    if wanted:
        add([entry for entry in ENTRIES if entry.name in wanted], REFERENCE)
    else:
        boards.write(REFERENCE, make_board(ENTRIES))
    print(boards.table(boards.read(REFERENCE)))
