"""What teaches the course model to look names up: `python -m benchmarks.names` (eight minutes; by hand, never a test).

Four runs of the course model's config over 0.8 million tokens each. Then each is asked, wherever a name comes again
in a held-out story, which of all first names is the likeliest. Prints markdown.
"""

import argparse
import re
from dataclasses import replace

import torch

from shared.data import stories
from shared.runtime import machine
from shared.stories import NAMES
from week2_pretraining.pretrain import (
    END_OF_TEXT,
    PretrainConfig,
    encode_stories,
    held_out_batches,
    make_model,
    make_optimizer,
    make_tokenizer,
    pretrain,
    story_starts,
)

RUNS = {  # position_scale, and whether rows begin at stories
    "rows from anywhere, positions begin as noise": (0.0, False),
    "rows from anywhere, positions begin as sinusoids": (0.1, False),
    "rows at stories, positions begin as noise": (0.0, True),
    "rows at stories, positions begin as sinusoids": (0.1, True),
}


@torch.no_grad()
def names_found(model: torch.nn.Module, tokenizer, texts: list[str]) -> tuple[int, int]:
    """(right, asked): is the name that comes again the likeliest of all names, by their first tokens?"""
    first = {name: tokenizer(" " + name)["input_ids"][0] for name in NAMES}
    choices = torch.tensor(list(first.values()))
    right = asked = 0
    for text in texts:
        encoded = tokenizer(text, return_offsets_mapping=True, truncation=True)
        place = {start: i for i, (start, _) in enumerate(encoded["offset_mapping"])}
        logits, seen = model(torch.tensor([encoded["input_ids"]]))[0], set()
        for match in re.finditer(rf"\b({'|'.join(NAMES)})\b", text):
            name, i = match.group(), place.get(match.start() - 1)  # a token begins with its space
            if name in seen and i and encoded["input_ids"][i] == first[name]:
                asked += 1
                right += choices[logits[i - 1, choices].argmax()].item() == first[name]
            seen.add(name)
    return right, asked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    config = replace(PretrainConfig(), n_stories=10_000, full_every=10**9, evaluate_every=options.steps)
    tokenizer = make_tokenizer(config)
    token_ids = encode_stories(tokenizer, config.n_stories, config.seed, "train")
    texts = [END_OF_TEXT + story.text for story in stories(100, seed=7, split="validation")]
    held_out, starts = held_out_batches(tokenizer, config), story_starts(token_ids, tokenizer, config)
    print("; ".join(machine().values()))
    print("| run | tokens | held-out loss (full rows) | known names found |\n|---|---|---|---|")
    for label, (scale, at_stories) in RUNS.items():
        run_config = replace(config, position_scale=scale)
        model = make_model(run_config)
        generator = torch.Generator().manual_seed(config.seed)
        run = pretrain(
            model,
            make_optimizer(model, run_config),
            replace(run_config, steps=2 * options.steps),  # the schedule of a run twice as long, stopped half-way
            token_ids,
            held_out,
            generator,
            starts=starts if at_stories else None,
        )
        record = next(run)
        right, asked = names_found(model.eval(), tokenizer, texts)
        found = f"{right} of {asked} ({right / asked:.0%})"
        print(f"| {label} | {record.tokens / 1e6:.2f} M | {record.held_out_loss:.2f} | {found} |", flush=True)


if __name__ == "__main__":
    main()
