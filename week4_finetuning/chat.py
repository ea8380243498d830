"""An instruction as a conversation, a conversation as tokens, a reply as a score: what lessons 02 to 05 share."""

from __future__ import annotations

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from shared.world.words import NUMBERS
from week3_evaluation.solutions.ngram_metrics import rouge_l
from week3_evaluation.solutions.qa_and_code import exact_match, normalize_answer
from week4_finetuning.instructions import Example
from week4_finetuning.solutions.instruction_data import format_chatml

START, STOP = "<|endoftext|>", "<|im_end|>"
OPEN_KINDS = ("summary", "continuation", "story")  # many right replies: compared by ROUGE-L, not right or wrong


def conversation(example: Example) -> list[dict[str, str]]:
    """The messages before the reply: one of the user, the instruction with its input below."""
    content = f"{example.instruction}\n\n{example.input}" if example.input else example.instruction
    return [{"role": "user", "content": content}]


def encode_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]) -> list[int]:
    """ChatML up to where the assistant begins; first the token that every text of the base model began with."""
    text = START + format_chatml(list(messages), add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False).input_ids


def encode(tokenizer: PreTrainedTokenizerBase, example: Example) -> tuple[list[int], list[int]]:
    """(prompt ids, response ids); the response ends in <|im_end|>, which the model must learn to write."""
    response = tokenizer(example.output + STOP, add_special_tokens=False).input_ids
    return encode_prompt(tokenizer, conversation(example)), response


def score(example: Example, reply: str) -> float:
    """1 or 0 for the kinds that have a gold answer; ROUGE-L's F1 against the course's output for the open kinds."""
    if example.kind in OPEN_KINDS:
        return rouge_l(reply, example.output)[2]
    if example.kind == "refusal":
        return float(normalize_answer(reply).startswith("no i will not"))
    if example.kind == "arithmetic":
        found = re.findall(rf"\b({'|'.join(NUMBERS)})\b", reply.lower())
        return float(bool(found) and found[-1] == example.gold)
    return exact_match(reply, [example.gold, example.output])
