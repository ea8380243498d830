"""Score a model on a task, one result for each item: `score_task(model, tokenizer, tasks()["arc"])`.

The scores equal those of lm-evaluation-harness on the same rows, item by item: `lm_eval_tasks/` holds the same tasks
for it, and a test compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from os.path import commonprefix

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from week2_pretraining.solutions.sampling import generate
from week3_evaluation.items import Row, Task
from week3_evaluation.solutions.benchmarks import (
    context_length_of,
    encode_pair,
    extract_number,
    few_shot_prompt,
    multiple_choice_loglikelihood,
    normalized_scores,
    truthfulqa_mc2,
)

MAX_NEW_TOKENS = 64  # of a written answer


@dataclass(frozen=True)
class ItemResult:
    """What one item gave. `scores` holds every metric of the task; `score` is the one usually reported, from 0 to 1."""

    index: int
    score: float
    scores: dict[str, float]
    loglikelihoods: tuple[float, ...] = ()  # of the choices, in nats
    output: str | None = None  # a written answer
    parsed: bool = True  # whether a number could be read from it


def prompt_of(task: Task, row: Row, n_shot: int = 0) -> str:
    """The whole prompt of a row: the task's first examples, then the question."""
    shots = [(task.question(shown), task.answer(shown)) for shown in task.examples[:n_shot]]
    return few_shot_prompt(shots, task.question(row), task.description(row))


def score_task(
    model: Callable,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    n_shot: int = 0,
    limit: int | None = None,
    batch_size: int = 16,
) -> list[ItemResult]:
    """One result for each of the first `limit` items (None: all), asked with `n_shot` worked examples."""
    if not 0 <= n_shot <= len(task.examples):
        raise ValueError(f"{task.name} has {len(task.examples)} examples, so n_shot={n_shot} cannot be")
    rows = task.items[:limit]
    prompts = [prompt_of(task, row, n_shot) for row in rows]
    if task.choices is None:
        return written(model, tokenizer, task, rows, prompts, batch_size)
    return chosen(model, tokenizer, task, rows, prompts, batch_size)


def chosen(
    model: Callable,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    rows: Sequence[Row],
    prompts: Sequence[str],
    batch_size: int,
) -> list[ItemResult]:
    """Results of a multiple-choice task: which choice is the likeliest, by each way to count its length."""
    choices = [task.choices(row) for row in rows]
    pairs = [
        [encode_pair(tokenizer, text, f" {choice}") for choice in of_row]
        for text, of_row in zip(prompts, choices, strict=True)
    ]
    results = []
    one_row = all(len({tuple(choice_ids[:-1]) for _, choice_ids in question}) == 1 for question in pairs)  # letters
    if hasattr(model, "generate") and not one_row:  # a model of transformers, which can hand out its keys and values
        found = with_shared_prompts(model, pairs)
    else:
        found = multiple_choice_loglikelihood(model, pairs, batch_size)
    for i, (row, loglikelihoods) in enumerate(zip(rows, found, strict=True)):
        loglikelihoods = loglikelihoods.cpu()
        if task.metric == "mc2":
            scores = {"mc2": truthfulqa_mc2(loglikelihoods, row["mc2_targets"]["labels"])}
        else:
            by = normalized_scores(loglikelihoods, choices[i], [len(ids) for _, ids in pairs[i]])
            scores = {name: float(values.argmax().item() == task.gold(row)) for name, values in by.items()}
        results.append(ItemResult(i, scores[task.metric], scores, tuple(loglikelihoods.tolist())))
    return results


@torch.no_grad()
def with_shared_prompts(model: PreTrainedModel, pairs: Sequence[Sequence[tuple[list[int], list[int]]]]) -> list[Tensor]:
    """`multiple_choice_loglikelihood` of a model in evaluation mode that can keep keys and values (week 5 builds that).

    Each question's prompt is read once, and only the ends of its choices are read as a batch.
    """
    context, found = context_length_of(model), []
    # transformers calls it `cache` since 5.24, and `past_key_values` before
    name = "cache" if "cache" in signature(model.forward).parameters else "past_key_values"
    for question in tqdm(pairs, desc="scoring", leave=False):
        rows = [(prompt_ids + choice_ids)[-context - 1 : -1] for prompt_ids, choice_ids in question]
        starts = [len(row) - len(choice_ids) for row, (_, choice_ids) in zip(rows, question, strict=True)]
        shared = len(commonprefix([row[:start] for row, start in zip(rows, starts, strict=True)]))
        ends = sorted({tuple(row[shared:]) for row in rows})  # " A" and " B" leave the same end
        longest = max(map(len, ends))
        padded = torch.tensor([[*end, *[0] * (longest - len(end))] for end in ends], device=model.device)
        cache = DynamicCache(config=model.config)
        if shared:
            model(torch.tensor([rows[0][:shared]], device=model.device), logits_to_keep=1, **{name: cache})
            cache.batch_repeat_interleave(len(ends))
        log_probs = model(padded, **{name: cache}).logits.float().log_softmax(dim=-1)
        scores = []
        for row, start, (_, choice_ids) in zip(rows, starts, question, strict=True):
            places = log_probs[ends.index(tuple(row[shared:])), start - shared : len(row) - shared]
            scores.append(places.gather(1, torch.tensor(choice_ids, device=model.device)[:, None]).sum())
        found.append(torch.stack(scores))
    return found


def written(
    model: Callable,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    rows: Sequence[Row],
    prompts: Sequence[str],
    batch_size: int,
) -> list[ItemResult]:
    """Results of a task whose answer is written: the greedy text up to a stop, and the number read from it."""
    results = []
    for start in tqdm(range(0, len(rows), batch_size), desc=f"{task.name}: writing", leave=False):
        outputs = write(model, tokenizer, prompts[start : start + batch_size])
        for row, output in zip(rows[start : start + batch_size], outputs, strict=True):
            for stop in task.stops:
                output = output.split(stop)[0]
            gold = extract_number(task.answer(row), strict=True)
            read = {"exact_match": extract_number(output), "exact_match_strict": extract_number(output, strict=True)}
            scores = {name: float(number is not None and number == gold) for name, number in read.items()}
            parsed = read[task.metric] is not None
            results.append(ItemResult(len(results), scores[task.metric], scores, output=output, parsed=parsed))
    return results


def write(model: Callable, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[str]:
    """The greedy continuation of each prompt, which is cut on the left where the context would not hold both."""
    room = context_length_of(model) - MAX_NEW_TOKENS
    ids = [tokenizer(text, add_special_tokens=False).input_ids[-room:] for text in prompts]
    longest, eos = max(map(len, ids)), tokenizer.eos_token_id
    device = next(model.parameters()).device
    batch = torch.tensor([[eos] * (longest - len(row)) + row for row in ids], device=device)
    key_mask = torch.tensor([[False] * (longest - len(row)) + [True] * len(row) for row in ids], device=device)
    if hasattr(model, "generate"):  # a model of transformers, with its cache
        settings = {"do_sample": False, "max_new_tokens": MAX_NEW_TOKENS, "pad_token_id": eos, "eos_token_id": eos}
        output = model.generate(batch, attention_mask=key_mask.long(), **settings)
    else:
        output = generate(model, batch, MAX_NEW_TOKENS, temperature=0, eos_id=eos, key_mask=key_mask)
    return tokenizer.batch_decode(output[:, longest:], skip_special_tokens=True)
