"""Text to learn from: the course's own stories, and real corpora streamed from the Hugging Face hub.

    corpus(1_000_000)                         one megabyte of stories, for a tokenizer or a first training run
    stories(100, seed=1, split="validation")  with their facts; combinations that never occur in "train"
    hub_texts("tinystories")                  one document after another, nothing is downloaded as a whole
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from shared.stories import Dice, Story, draw, tell

SPLITS = ("train", "validation")

# name -> (repository on the hub, its configuration, where each split is called otherwise)
HUB = {
    "tinystories": ("roneneldan/TinyStories", None),
    "wikitext": ("Salesforce/wikitext", "wikitext-2-raw-v1"),
    "c4": ("allenai/c4", "en"),
}


def story_stream(*, seed: int = 0, split: str = "train") -> Iterator[Story]:
    """Endless stories; those of "validation" tell (hero, thing, place) triples that "train" never tells."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; the course corpus has the splits {' and '.join(SPLITS)}")
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed is {seed!r}; it must be a whole number, 0 or more")
    dice = Dice(2 * seed + SPLITS.index(split))
    while True:
        yield tell(draw(dice, validation=split == "validation"), dice)


def stories(count: int, *, seed: int = 0, split: str = "train") -> list[Story]:
    """The first `count` stories of this seed and split; a longer list begins with the shorter one."""
    if count < 0:
        raise ValueError(f"count is {count}; it must be 0 or more")
    return list(islice(story_stream(seed=seed, split=split), count))


def corpus(n_bytes: int, *, seed: int = 0, split: str = "train") -> str:
    """Stories separated by a blank line: as many whole ones as fit into n_bytes (at least one)."""
    if n_bytes < 1:
        raise ValueError(f"n_bytes is {n_bytes}; it must be 1 or more")
    texts, size = [], 0
    for story in story_stream(seed=seed, split=split):
        size += len(story.text) + 2 * bool(texts)  # the stories are ASCII: one character, one byte
        if texts and size > n_bytes:
            return "\n\n".join(texts)
        texts.append(story.text)
