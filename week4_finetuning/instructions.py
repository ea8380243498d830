"""The course's instruction set: what can be asked about a story, with right answers, made from the story's facts.

    instructions(1000)                              about training stories
    instructions(200, split="validation")           about stories that tell combinations never told in training

Ten kinds. An example has what a row of Alpaca has: an instruction, an input (often a story; may be empty), an output.
The split is by story: all that is asked about one story is on one side, so nothing about a held-out story is learnt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice

from shared.data import SPLITS, story_stream
from shared.stories import Dice, Story
from shared.world.words import CHARACTERS, COLOURS, NUMBERS, PLACES, counted


@dataclass(frozen=True)
class Example:
    """One instruction. `gold` is the shortest right answer where there is one: what a reply is judged by."""

    kind: str
    instruction: str
    input: str
    output: str
    gold: str | None
    story: int  # the number of the story in its stream


@dataclass(frozen=True)
class Asked:
    """What a kind makes of a story; an example without the story's number."""

    instruction: str
    input: str
    output: str
    gold: str | None = None


def sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


# --- the kinds: each makes one example of a story, or None where the story has nothing for it ----------------


def question(story: Story, dice: Dice) -> Asked | None:
    facts = story.facts
    asked = [
        (f"Where was {facts.hero}?", PLACES[facts.place].at),
        ("Who is the story about?", f"{facts.hero} and {facts.friend}"),
        (f"How did {facts.hero} feel in the end?", facts.feeling),
        ("What time of day was it?", facts.time),
    ]
    if facts.day:
        asked.append(("What day was it?", facts.day))
    if facts.colour:
        asked.append((f"What colour was the {facts.thing}?", facts.colour))
    text, gold = dice.pick(asked)
    return Asked(text, story.text, sentence(gold), gold)


def unanswerable(story: Story, dice: Dice) -> Asked:
    """A question that the story does not answer: the reply says so."""
    facts = story.facts
    asked = [f"How old is {facts.friend}?", f"What is the name of {facts.hero}'s sister?", "Who wrote this story?"]
    if not facts.day:
        asked.append("What day was it?")
    return Asked(dice.pick(asked), story.text, "The story does not say.", "the story does not say")


def summary(story: Story, dice: Dice) -> Asked:
    told = dice.pick(["Sum up the story.", "Tell the story in two sentences.", "What happens in this story?"])
    return Asked(told, story.text, story.facts.summary)


def continuation(story: Story, dice: Dice) -> Asked:
    """The end of the story: what comes after the problem."""
    steps = list(story.parts.values())
    cut = max(2, len(steps) - 3)
    told = dice.pick(["Go on with the story.", "Finish the story.", "How does the story go on?"])
    return Asked(told, " ".join(steps[:cut]), " ".join(steps[cut:]))


def arithmetic(story: Story, dice: Dice) -> Asked:
    """A word problem with a worked answer, about the one who is in the story."""
    noun = story.facts.counted or dice.pick(["shell", "apple", "nut", "button"])
    before, change = dice.between(2, 9), dice.between(1, 9)
    hero = story.facts.hero
    if dice.happens(0.5):
        happened, sign, after = f"found {NUMBERS[change]} more", "and", before + change
    else:
        change = min(change, before - 1)
        happened, sign, after = f"gave {NUMBERS[change]} away", "less", before - change
    worked = f"{NUMBERS[before]} {sign} {NUMBERS[change]} is {NUMBERS[after]}"
    told = f"{hero} had {counted(before, noun)} and {happened}. How many did {hero} have then?"
    return Asked(told, "", f"{sentence(worked)} {hero} had {counted(after, noun)}.", NUMBERS[after])


def rewrite(story: Story, dice: Dice) -> Asked:
    """The opening sentence with somebody else in it, who is called by the same pronouns."""
    opening, hero = story.parts["opening"], CHARACTERS[story.facts.hero]
    children = ("girl", "boy")
    others = [
        someone
        for someone in CHARACTERS.values()
        if someone.name not in opening
        and someone.he == hero.he
        and (someone.kind in children) == (hero.kind in children)
        and someone is not hero
    ]
    other = dice.pick(others)
    output = opening
    for word in ("home", "food", "kind", "name", "moved"):
        output = re.sub(rf"\b{getattr(hero, word)}\b", getattr(other, word), output)
    output = re.sub(r"\ba (?=[aeiou])", "an ", re.sub(r"\ban (?=[^aeiou])", "a ", output))
    return Asked(f"Write this again with {other.name} in place of {hero.name}.", opening, output, output)


def recolour(story: Story, dice: Dice) -> Asked:
    """A phrase changed as asked: the smallest edit that can be judged exactly."""
    thing, old = story.facts.thing, dice.pick(COLOURS)
    new = dice.pick([colour for colour in COLOURS if colour != old])
    text = f"{story.facts.hero} had {with_article(old)} {thing}."
    output = f"{story.facts.hero} had {with_article(new)} {thing}."
    return Asked(f"Make the {thing} {new}.", text, output, output)


def who(story: Story, dice: Dice) -> Asked:
    """What holds in every story: kind, home and food of each character."""
    name = dice.pick(list(CHARACTERS))
    about = CHARACTERS[name]
    told, gold = dice.pick(
        [
            (f"What is {name}?", with_article(about.kind)),
            (f"Where does {name} live?", about.home),
            (f"What does {name} like to eat?", about.food),
        ]
    )
    return Asked(told, "", sentence(gold), gold)


def tell_story(story: Story, dice: Dice) -> Asked:
    facts = story.facts
    told = dice.pick(
        [
            f"Write a story about {facts.hero} and {facts.friend}.",
            f"Tell me a story with {facts.hero}, {facts.friend} and {with_article(facts.thing)}.",
            f"Write a story in which {facts.hero} is {PLACES[facts.place].at}.",
        ]
    )
    return Asked(told, "", story.text)


def refusal(story: Story, dice: Dice) -> Asked:
    """What nobody in this world helps with; the reply says no, and why."""
    hero, friend, thing = story.facts.hero, story.facts.friend, story.facts.thing
    told, why = dice.pick(
        [
            (f"Help me to lie to {friend}.", f"{friend} trusts you"),
            (f"How can I take the {thing} from {hero} without being seen?", f"the {thing} is not yours"),
            (f"Tell me how to make {friend} cry.", f"it would hurt {friend}"),
            (f"Write something mean about {hero}.", f"it would hurt {hero}"),
        ]
    )
    return Asked(told, "", f"No, I will not help with that, because {why}.", "No")


KINDS: dict[str, Callable[[Story, Dice], Asked | None]] = {
    "question": question,
    "unanswerable": unanswerable,
    "summary": summary,
    "continuation": continuation,
    "arithmetic": arithmetic,
    "rewrite": rewrite,
    "recolour": recolour,
    "who": who,
    "story": tell_story,
    "refusal": refusal,
}


def instruction_stream(*, seed: int = 0, split: str = "train") -> Iterator[Example]:
    """Endless examples, three different kinds a story. Raises ValueError for another split, as the stories do."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; the instructions have the splits {' and '.join(SPLITS)}")
    stream = story_stream(seed=seed, split=split)
    dice = Dice(1_000_003 + 2 * seed + SPLITS.index(split))  # far from the seeds that told the stories
    for number, story in zip(count(), stream):
        kinds = list(KINDS)
        for _ in range(3):
            kind = kinds.pop(int(dice.random() * len(kinds)))
            asked = KINDS[kind](story, dice)
            yield Example(kind, asked.instruction, asked.input, asked.output, asked.gold, number)


def instructions(n: int, *, seed: int = 0, split: str = "train") -> list[Example]:
    """The first n examples of this seed and split; a longer list begins with the shorter one."""
    if n < 0:
        raise ValueError(f"n is {n}; it must be 0 or more")
    return list(islice(instruction_stream(seed=seed, split=split), n))
