"""Self-Instruct (Wang et al. 2022) with a small model: from a few tasks written by people to new ones by the model.

    1. propose   a numbered list of tasks from the pool; the model goes on with it
    2. classify  is it a classification task? (its instances are then made label first)
    3. instance  an input and an output for the task
    4. filter    keep_instruction: new against the pool, of a length, without what a text model cannot serve

The prompts are ours, shorter than the paper's: eight examples in the prompt of step 1 there, six here.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from week3_evaluation.solutions.ngram_metrics import rouge_l
from week4_finetuning.solutions.instruction_data import KEYWORDS


@dataclass(frozen=True)
class Task:
    """A task of the pool. `by_model` tells what the model wrote from what a person wrote."""

    instruction: str
    is_classification: bool = False
    by_model: bool = False


SEEDS = (
    Task("Write a short poem about a river in spring."),
    Task("Explain to a child why it rains."),
    Task("Give three tips for someone who cannot sleep."),
    Task("Turn the sentence into a question."),
    Task("List five things that you can cook with potatoes."),
    Task("Write a letter that thanks a neighbour for her help."),
    Task("Describe how to plant a tree, step by step."),
    Task("Correct the spelling of the following sentence."),
    Task("Sum up the text in one sentence."),
    Task("Suggest a name for a small bakery and say why."),
    Task("Compare living in a town with living in a village."),
    Task("Tell whether the review is positive or negative.", True),
    Task("Say which of the animals cannot fly.", True),
    Task("Decide whether the two sentences mean the same. Answer yes or no.", True),
    Task("Sort the message into one of these groups: question, complaint, praise.", True),
    Task("Is the number odd or even?", True),
)


# --- 1. propose ------------------------------------------------------------------------------------------------


def pick_examples(pool: Sequence[Task], dice: random.Random, by_people: int = 4, by_model: int = 2) -> list[str]:
    """Instructions for one prompt, from people and, as soon as there are any, from the model; in random order."""
    written = {own: [task for task in pool if task.by_model == own] for own in (False, True)}
    machine = dice.sample(written[True], min(by_model, len(written[True])))
    people = dice.sample(written[False], by_people + by_model - len(machine))
    picked = [task.instruction for task in people + machine]
    dice.shuffle(picked)
    return picked


def list_prompt(instructions: Sequence[str]) -> str:
    """A numbered list that ends with the next number, so that the model goes on with a task."""
    lines = [f"{number}. {text}\n" for number, text in enumerate(instructions, 1)]
    return f"Come up with a series of tasks:\n{''.join(lines)}{len(instructions) + 1}."


def read_list(text: str, finished: bool) -> list[str]:
    """The tasks in what the model wrote after the last number; the last one is dropped if it was cut at the limit.

    Example: " Name a fruit.\\n8. Sing", finished=False -> ["Name a fruit."].
    """
    items = re.split(r"\n\s*\d+\s?[.)]\s*", text.partition("\n\n")[0])
    if not finished and "\n\n" not in text:
        items = items[:-1]
    return [item for item in (" ".join(item.split()) for item in items) if item]


def left_padded(model, tokenizer, prompts: Sequence[str]):
    """The prompts as one batch that can be continued at its right end."""
    side, tokenizer.padding_side = tokenizer.padding_side, "left"
    batch = tokenizer(list(prompts), padding=True, return_tensors="pt").to(model.device)
    tokenizer.padding_side = side
    return batch


def write(
    model, tokenizer, prompts: Sequence[str], max_new_tokens: int, temperature: float = 0.0, stops: Sequence[str] = ()
) -> list[tuple[str, bool]]:
    """(what the model writes after each prompt, whether it came to an end); draws from torch's global generator."""
    batch = left_padded(model, tokenizer, prompts)
    drawn = {"do_sample": True, "temperature": temperature, "top_p": 0.95} if temperature else {"do_sample": False}
    with torch.inference_mode():
        token_ids = model.generate(
            **batch, **drawn, max_new_tokens=max_new_tokens, stop_strings=list(stops) or None, tokenizer=tokenizer
        )
    new = token_ids[:, batch.input_ids.shape[1] :]
    texts = tokenizer.batch_decode(new, skip_special_tokens=True)
    ended = (new == tokenizer.eos_token_id).any(dim=1).tolist()
    return [(text, end or any(stop in text for stop in stops)) for text, end in zip(texts, ended, strict=True)]


# --- 2. classify -----------------------------------------------------------------------------------------------

ASKED = (
    ("Tell whether the email is spam or not.", "Yes"),
    ("Write a story about a lost dog.", "No"),
    ("Which of these four words does not belong to the others?", "Yes"),
    ("Explain how a bicycle works.", "No"),
    ("Answer with true or false: the sentence has a verb.", "Yes"),
    ("Make a shopping list for a birthday.", "No"),
)


def classification_chances(model, tokenizer, instructions: Sequence[str]) -> list[float]:
    """P("Yes") / (P("Yes") + P("No")) after six answered examples and the paper's question, "Is it classification?"."""
    shown = "".join(f"Task: {text}\nIs it classification? {answer}\n\n" for text, answer in ASKED)
    batch = left_padded(model, tokenizer, [f"{shown}Task: {text}\nIs it classification?" for text in instructions])
    with torch.inference_mode():
        logits = model(**batch, logits_to_keep=1).logits[:, -1]
    yes, no = (tokenizer(f" {word}", add_special_tokens=False)["input_ids"][0] for word in ("Yes", "No"))
    return torch.sigmoid(logits[:, yes] - logits[:, no]).tolist()


# --- 3. instance -----------------------------------------------------------------------------------------------

INPUT_FIRST = (
    "Task: Put the sentence into the past.\nInput: She walks to school.\nOutput: She walked to school.\n\n"
    "Task: Name two animals that lay eggs.\nInput: none\nOutput: A hen and a turtle.\n\n"
    "Task: Tell how to boil an egg.\nInput: none\nOutput: Put it into boiling water for eight minutes.\n\n"
)
LABEL_FIRST = (
    "Task: Tell whether the sentence is about food or about travel.\nLabel: food\nInput: We had warm bread.\n\n"
    "Task: Is the word a noun? Answer yes or no.\nLabel: no\nInput: quickly\n\n"
    "Task: Say whether the weather is good or bad.\nLabel: bad\nInput: It has rained since noon.\n\n"
)


def write_instances(model, tokenizer, tasks: Sequence[tuple[str, bool]]) -> list[tuple[str, str]]:
    """(input, output) for each (instruction, is_classification), greedily, one line each; "" is no input.

    Input first, then output. For a classification task the label comes first, then an input that deserves it: asked
    for an input first, a model tends to write inputs of one label only (Wang et al. 2022).
    """
    prompts = [f"{LABEL_FIRST if label else INPUT_FIRST}Task: {text}\n" for text, label in tasks]
    parts = []
    for input_first, label_first in (("Input:", "Label:"), ("Output:", "Input:")):
        titles = [label_first if label else input_first for _, label in tasks]
        prompts = [prompt + title for prompt, title in zip(prompts, titles, strict=True)]
        lines = [text.partition("\n")[0].strip() for text, _ in write(model, tokenizer, prompts, 32, stops=["\n"])]
        prompts = [f"{prompt} {line}\n" for prompt, line in zip(prompts, lines, strict=True)]
        parts.append(lines)
    pairs = [(b, a) if label else (a, b) for a, b, (_, label) in zip(*parts, tasks, strict=True)]
    return [("" if given.lower() == "none" else given, output) for given, output in pairs]


# --- 4. filter -------------------------------------------------------------------------------------------------


def why_refused(new: str, pool: Sequence[str]) -> str:
    """Why `keep_instruction` refuses, in words, with its usual settings; "" where it does not."""
    words = len(new.split())
    if not 4 <= words <= 150:
        return f"length: {words} words"
    for word in KEYWORDS:
        if re.search(rf"\b{word}\b", new, flags=re.IGNORECASE):
            return f"keyword: {word}"
    nearest = max(pool, key=lambda old: rouge_l(new, old)[2], default=None)
    if nearest is not None and rouge_l(new, nearest)[2] >= 0.7:
        return f"overlap: {rouge_l(new, nearest)[2]:.2f} with {nearest!r}"
    return ""


def instance_fault(given: str, output: str) -> str:
    """What is wrong with an instance that can be seen without understanding it; "" if nothing."""
    if output.lower().strip(".") in ("", "none"):
        return "no output"
    return "the output repeats the input" if output == given else ""
