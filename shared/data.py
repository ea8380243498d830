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

HUB = {  # name -> repository on the hub and its configuration; each row has its text in the column "text"
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


def hub_texts(
    name: str, *, split: str = "train", limit: int | None = None, data_files: str | list[str] | None = None
) -> Iterator[str]:
    """Stream the documents of "tinystories", "wikitext" or "c4", at most `limit` of them.

    `data_files` reads local files of the same schema instead (a column "text"; .parquet, .json, .jsonl, .gz of these).
    Raises ValueError for a name that is not known and ConnectionError where the hub cannot be reached.
    """
    if name not in HUB:
        raise ValueError(f"no corpus is called {name!r}; there are {', '.join(HUB)}")
    rows = open_rows(name, split, data_files)
    texts = (row["text"].strip() for row in rows)
    documents = join_wikitext(texts) if name == "wikitext" else (text for text in texts if text)
    return islice(documents, limit)


def open_rows(name: str, split: str, data_files: str | list[str] | None) -> Iterable[dict]:
    from datasets import load_dataset  # imported here: the stories need neither datasets nor torch

    from shared.runtime import hub_reachable

    if data_files is not None:
        first = data_files if isinstance(data_files, str) else data_files[0]
        reader = "parquet" if ".parquet" in first else "json"
        return load_dataset(reader, data_files={split: data_files}, split=split, streaming=True)
    repository, configuration = HUB[name]
    if not hub_reachable():
        raise ConnectionError(
            f"{repository} is on the Hugging Face hub, which cannot be reached from here. Connect to the network, "
            "give files of the same schema as data_files=, or use the course's own stories: corpus(n_bytes)."
        )
    return load_dataset(repository, configuration, split=split, streaming=True)


def join_wikitext(lines: Iterable[str]) -> Iterator[str]:
    """Join wikitext's rows, one paragraph each, to articles; " = Title = " begins one, " = = Part = = " does not."""
    article: list[str] = []
    for line in lines:
        starts = line.startswith("= ") and not line.startswith("= =")
        if starts and article:
            yield "\n".join(article)
            article = []
        if line:
            article.append(line)
    if article:
        yield "\n".join(article)
