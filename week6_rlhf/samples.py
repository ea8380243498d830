"""Stories that the instruct model told, four for each prompt: what preference pairs are made of.

python -m week6_rlhf.samples            tells them again (about 7 minutes on one core)

They are stored, for the reward model, DPO and the comparisons all begin with them.
"""

from __future__ import annotations

import argparse
import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from shared.models import course_folder
from week1_decoder.solutions.decoder import GPT
from week2_pretraining.solutions.pretraining import load_pretrained
from week6_rlhf.policy import encode, sample_replies, text_of
from week6_rlhf.preferences import Prompt, prompts

STORED = Path(__file__).parent / "samples.json.gz"
SIZES = {"train": 1500, "validation": 300}  # prompts
PER_PROMPT = 4


@dataclass(frozen=True)
class Told:
    """A prompt and what the instruct model told four times, each story with whether it came to its end."""

    prompt: Prompt
    texts: tuple[str, ...]
    ended: tuple[bool, ...]  # False: cut off after 144 tokens


def told(split: str = "train") -> list[Told]:
    """The stored stories of this split; the prompts are those of `prompts(n, seed=1, split=split)`."""
    stored = json.loads(gzip.decompress(STORED.read_bytes()))[split]
    asked = prompts(len(stored), seed=1, split=split)
    return [
        Told(prompt, tuple(text for text, _ in row), tuple(bool(ended) for _, ended in row))
        for prompt, row in zip(asked, stored, strict=True)
    ]


def main() -> None:
    argparse.ArgumentParser(prog="python -m week6_rlhf.samples", description=__doc__.splitlines()[0]).parse_args()
    model, tokenizer = load_pretrained(course_folder("instruct"), GPT)
    generator = torch.Generator().manual_seed(0)
    stored = {}
    for split, n in SIZES.items():
        ids = encode(tokenizer, prompts(n, seed=1, split=split))
        replies = sample_replies(model.eval(), tokenizer, ids, PER_PROMPT, generator=generator, progress=split)
        end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        stored[split] = [[[text_of(tokenizer, reply), int(reply[-1] == end)] for reply in row] for row in replies]
    STORED.write_bytes(gzip.compress(json.dumps(stored).encode(), mtime=0))


if __name__ == "__main__":
    main()
