"""Does a story-teller keep to its story? `python -m benchmarks.consistency FOLDER ...` (a minute each, never a test).

Each folder holds a model as `week2_pretraining.pretrain` writes it; without one, the course model. 150 held-out stories
are begun, and each model goes on greedily for 80 tokens. Prints markdown: the share of names, things, places and counts
that belong to the story, with 95 % bootstrap intervals over stories.
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from shared.data import stories
from shared.models import course_folder
from shared.runtime import machine
from week2_pretraining.consistency import beginning, consistency, kept

KINDS = ("names", "things", "places", "counts")


def cell(rows: list[dict], kind: str) -> str:
    right, asked = torch.tensor([[row[kind], row[f"all {kind}"]] for row in rows], dtype=torch.float32).unbind(dim=1)
    drawn = torch.randint(len(rows), (2000, len(rows)), generator=torch.Generator().manual_seed(0))
    shares = right[drawn].sum(dim=1) / asked[drawn].sum(dim=1).clamp(min=1)
    low, high = (100 * shares.quantile(torch.tensor([0.025, 0.975]))).tolist()
    whole = f"{right.sum():.0f} of {asked.sum():.0f}"
    return f"{whole}, {100 * right.sum() / asked.sum().clamp(min=1):.0f} % ({low:.0f} to {high:.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, default=[course_folder("base")])
    logging.set_verbosity_error()
    told = stories(150, seed=5, split="validation")
    print(f"{', '.join(machine().values())}\n\n| model | {' | '.join(KINDS)} |\n|---|{'---|' * len(KINDS)}")
    for folder in parser.parse_args().folders:
        model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        rows = consistency(model.eval(), tokenizer, told, max_new_tokens=80)
        print(f"| {folder.name} | {' | '.join(cell(rows, kind) for kind in KINDS)} |", flush=True)
    rows = [kept(story, beginning(story), story.text[len(beginning(story)) :]) for story in told]
    print(f"| the stories themselves | {' | '.join(cell(rows, kind) for kind in KINDS)} |")


if __name__ == "__main__":
    main()
