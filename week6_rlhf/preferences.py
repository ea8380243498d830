"""What people of the course's world prefer, known exactly: stories that keep to what was asked, kind and short.

prompts(100, split="validation")        what is asked for, with the facts that a good story keeps to
true_score(prompt, text).total          what the preference is made of; a learner's reward model never sees it

A real preference is known by its labels only. Here the labels are made from a score that can be computed, so it can be
measured what a reward model has learnt, what noise does to it, and whether a policy that pleases it is really better.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from shared.data import SPLITS, story_stream
from shared.stories import Dice
from shared.world.words import CHARACTERS, PLACES
from week4_finetuning.instructions import with_article

ENOUGH_KIND = 3  # more kind words than this make no story better
LONG = 80  # words; each one more costs a little
KIND = re.compile(
    r"\b(thank(s|ed|ful)?|kind(ly)?|help(s|ed|ing)?|hug(s|ged)?|shar(e|ed|ing)|together|friends?|smil(e|ed|ing)|gentl[ey]"
    r"|please|welcome|glad)\b",
    re.IGNORECASE,
)
UNKIND = re.compile(
    r"\b(angry|angrily|cross|mean|quarrel(l?ed)?|shout(ed|ing)?|lie[ds]?|lying|stole|stolen|broke|cr(y|ied)|hurt)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Prompt:
    """An instruction to tell a story, and what the story must keep to."""

    text: str
    names: tuple[str, ...]  # who was asked for: nobody else has any business in the story
    words: tuple[str, ...]  # the thing or the place that was asked for


@dataclass(frozen=True)
class Score:
    """The three parts of the preference, each at most 1."""

    faithful: float  # share of what was asked for that is told, less a third for each stranger
    kind: float  # a third for each kind word up to three, less a third for each unkind one
    short: float  # 1 up to 80 words, and 1 less for each 40 words more

    @property
    def total(self) -> float:
        return 2 * self.faithful + self.kind + self.short


def prompt_stream(*, seed: int = 0, split: str = "train") -> Iterator[Prompt]:
    """Endless prompts, each about the facts of a story of this seed and split. ValueError for another split."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; the prompts have the splits {' and '.join(SPLITS)}")
    dice = Dice(3_000_017 + 2 * seed + SPLITS.index(split))  # far from the seeds that told the stories
    for story in story_stream(seed=seed, split=split):
        facts = story.facts
        hero, friend, thing, at = facts.hero, facts.friend, facts.thing, PLACES[facts.place].at
        yield dice.pick(
            [
                Prompt(f"Write a story about {hero} and {friend}.", (hero, friend), ()),
                Prompt(f"Tell me a story with {hero}, {friend} and {with_article(thing)}.", (hero, friend), (thing,)),
                Prompt(f"Write a story in which {hero} is {at}.", (hero,), (facts.place,)),
            ]
        )


def prompts(n: int, *, seed: int = 0, split: str = "train") -> list[Prompt]:
    """The first n prompts of this seed and split; a longer list begins with the shorter one."""
    if n < 0:
        raise ValueError(f"n is {n}; it must be 0 or more")
    return list(islice(prompt_stream(seed=seed, split=split), n))


def true_score(prompt: Prompt, text: str) -> Score:
    """How well a story pleases. An empty text scores 0 in all parts."""
    if not text.strip():
        return Score(0.0, 0.0, 0.0)
    told = set(re.findall(r"\w+", text))
    wanted = (*prompt.names, *prompt.words)
    # Where one name was asked for, the story may bring in one friend.
    strangers = max(0, len(told & CHARACTERS.keys() - set(prompt.names)) - (len(prompt.names) == 1))
    faithful = sum(word in told for word in wanted) / len(wanted) - strangers / 3
    kind = (min(ENOUGH_KIND, len(KIND.findall(text))) - len(UNKIND.findall(text))) / ENOUGH_KIND
    short = 1 - max(0, len(text.split()) - LONG) / 40
    return Score(max(-1.0, faithful), max(-1.0, kind), max(-1.0, short))
