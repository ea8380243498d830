"""The course's stories: facts are drawn first and told afterwards, so everything that a story says is known.

    seed -> draw() -> Facts -> tell() -> Story(text, facts, parts)

The same facts can be told many times in other words, and changed facts (`dataclasses.replace`) give a story
that is wrong in a known place: questions, summaries, endings and preference pairs are made that way.
The words and the plots are in `shared.world`; `shared.data` hands the stories out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from random import Random

from shared.world import PLOTS
from shared.world.plot import SHARED_STEPS
from shared.world.words import (
    CHARACTERS, COLOURS, DAYS, MEALS, NUMBERS, PLACES, SKIES, THINGS, TIMES, Character, counted, plural,
)

MIN_WORDS, MAX_WORDS = 60, 150
HELD_OUT = 10  # one in ten (hero, thing, place) triples is kept for validation
POSITION = {word: i for words in (CHARACTERS, THINGS, PLACES) for i, word in enumerate(words)}


@dataclass(frozen=True)
class Facts:
    """What is true in one story. None: the story does not say it, so a question about it has no answer."""

    plot: str                    # "lost"
    hero: str                    # "Pip"
    friend: str                  # "Nell"
    thing: str                   # what the story turns on: "kite"
    place: str                   # "park"
    time: str                    # "morning"
    reason: str                  # why there is a problem, a clause: "the wind had carried it off"
    means: str                   # what helped, a phrase for this plot: "followed the paw prints"
    mood: str                    # of the one who has the problem: "sad"
    feeling: str                 # of the hero in the end: "happy"
    colour: str | None = None
    day: str | None = None       # "Monday"
    weather: str | None = None   # "sunny"
    spot: str | None = None      # the exact place: "under a bench"
    event: str | None = None     # what happened, a phrase for this plot: "glowed in the dark"
    goal: str | None = None      # what the hero wanted to do: "fly a kite"
    counted: str | None = None   # what is counted: "shell"
    before: int | None = None    # so many at first,
    change: int | None = None    # so many more or fewer,
    after: int | None = None     # so many in the end

    @property
    def problem(self) -> str:
        """The problem in one sentence."""
        return render(PLOTS[self.plot].problem, slots(self))

    @property
    def resolution(self) -> str:
        """How it was solved, in one sentence."""
        return render(PLOTS[self.plot].resolution, slots(self))

    @property
    def summary(self) -> str:
        """The story in two sentences: the problem with its reason, and how it ended."""
        return render(PLOTS[self.plot].summary, slots(self))


@dataclass(frozen=True)
class Story:
    """A text and the facts that it tells; `parts` maps the steps in their order ("opening", …, "ending") to text."""

    text: str
    facts: Facts
    parts: dict[str, str]


class Dice:
    """Choices made by `Random.random()` alone: the one method that Python promises never to change."""

    def __init__(self, seed: int):
        self.random = Random(seed).random

    def pick(self, options):
        return options[int(self.random() * len(options))]

    def between(self, low: int, high: int) -> int:
        return low + int(self.random() * (high - low + 1))

    def happens(self, probability: float) -> bool:
        return self.random() < probability


class FirstOption(Dice):
    """Always the first option: for canonical sentences such as a summary."""

    def __init__(self):
        self.random = lambda: 0.0


# --- templates: plain text with {slots} and [one|of|these] ---------------------------------------------------

class Slot(str):
    """The name of a slot, to be told from plain text."""


TOKEN = re.compile(r"\{\w+\}|[\[\]|]|[^\[\]|{}]+")
AN = re.compile(r"\b([Aa])(?= [aeiou])(?! one\b)")
FIRST_LETTER = re.compile(r'(?:^"?|[.!?] "?|\." )[a-z]')


@cache
def parse(template: str) -> list[list]:
    """Options, each a list of text, slots and further options. Example: "a [b|{c}]" -> [["a ", [["b"], [c]]]]."""
    if template.count("[") != template.count("]"):
        raise ValueError(f"the brackets of this template do not match: {template!r}")
    tokens = iter(TOKEN.findall(template))

    def options() -> list[list]:
        found = [[]]
        for token in tokens:
            if token == "|":
                found.append([])
            elif token == "]":
                break
            else:
                found[-1].append(options() if token == "[" else Slot(token[1:-1]) if token[0] == "{" else token)
        return found

    return options()


def expand(options: list[list], filling: dict[str, str], dice: Dice) -> str:
    text = ""
    for part in dice.pick(options):
        kind = part.__class__
        text += part if kind is str else filling[part] if kind is Slot else expand(part, filling, dice)
    return text


def render(template: str, filling: dict[str, str], dice: Dice | None = None) -> str:
    """Fill a template, then set "an", the spaces and the capital letters; without dice, by the first options."""
    text = " ".join(expand(parse(template), filling, dice or FirstOption()).split())
    return FIRST_LETTER.sub(lambda match: match.group().upper(), AN.sub(r"\1n", text))


def slots(facts: Facts, dice: Dice | None = None) -> dict[str, str]:
    """All words that a template can ask for; the friend's begin with f."""
    hero, friend, place = CHARACTERS[facts.hero], CHARACTERS[facts.friend], PLACES[facts.place]
    he, him, his, himself = hero.pronouns
    fhe, fhim, fhis, fhimself = friend.pronouns
    named = " ".join(filter(None, (facts.weather, facts.day, facts.time)))
    when = [f"one {named}", f"on a {named}" if facts.weather or facts.day else f"early one {named}"]
    if facts.day and not facts.weather:
        when.append(f"on {named}")
    filling = {
        "hero": hero.name, "kind": hero.kind, "home": hero.home, "food": hero.food, "hero_full": full(hero),
        "he": he, "him": him, "his": his, "himself": himself, "He": he.title(), "His": his.title(),
        "friend": friend.name, "fkind": friend.kind, "fhome": friend.home, "friend_full": full(friend),
        "fhe": fhe, "fhim": fhim, "fhis": fhis, "fhimself": fhimself, "fHe": fhe.title(),
        "thing": facts.thing, "things": plural(facts.thing), "colour": facts.colour or "",
        "item": f"{facts.colour} {facts.thing}" if facts.colour else facts.thing,
        "place": f"the {place.name}", "at_place": place.at, "to_place": f"to the {place.name}",
        "when": (dice or FirstOption()).pick(when), "a_day": f"a {named}", "meal": MEALS[facts.time],
        "spot": facts.spot or "", "event": facts.event or "", "goal": facts.goal or "",
        "reason": facts.reason, "means": facts.means, "mood": facts.mood, "feeling": facts.feeling,
        "time": facts.time,
    }
    if facts.counted:
        filling |= {
            "before": NUMBERS[facts.before], "change": NUMBERS[facts.change], "after": NUMBERS[facts.after],
            "n_before": counted(facts.before, facts.counted), "n_change": counted(facts.change, facts.counted),
            "n_after": counted(facts.after, facts.counted),
            "more_change": counted(facts.change, f"more {facts.counted}"), "unit": facts.counted,
            "units": plural(facts.counted), "them": "it" if facts.change == 1 else "them",
            "are_change": "is" if facts.change == 1 else "are", "were_after": "was" if facts.after == 1 else "were",
        }
    return filling


def full(character: Character) -> str:
    """Example: "Pip the rabbit", "a girl named Mia"."""
    name, kind = character.name, character.kind
    return f"a {kind} named {name}" if kind in ("girl", "boy") else f"{name} the {kind}"


# --- from a seed to a story ----------------------------------------------------------------------------------

def is_held_out(hero: str, thing: str, place: str) -> bool:
    """Whether validation owns this triple: a rule over positions, so that each word and pair is in both splits."""
    return (POSITION[hero] + 3 * POSITION[thing] + 7 * POSITION[place]) % HELD_OUT == 0


def draw(dice: Dice, *, validation: bool = False, plot: str | None = None) -> Facts:
    """Draw the facts of one story, of the given plot or of any."""
    chosen = PLOTS[plot or dice.pick(tuple(PLOTS))]
    case = dice.pick(chosen.cases)
    while True:
        hero, friend = dice.pick(tuple(CHARACTERS)), dice.pick(tuple(CHARACTERS))
        thing, place = dice.pick(case.things or chosen.things), dice.pick(chosen.places)
        if hero != friend and is_held_out(hero, thing, place) == validation:
            break
    facts = Facts(
        plot=chosen.name, hero=hero, friend=friend, thing=thing, place=place, time=dice.pick(TIMES),
        reason=case.reason, means=case.means, event=case.event, goal=case.goal,
        mood=dice.pick(chosen.moods), feeling=dice.pick(chosen.feelings),
        colour=dice.pick(COLOURS) if chosen.coloured and dice.happens(0.85) else None,
        day=dice.pick(DAYS) if dice.happens(0.3) else None,
        weather=dice.pick(chosen.weathers) if dice.happens(0.6) else None,
        spot=dice.pick(PLACES[place].spots) if chosen.has_spot else None,
    )
    if chosen.counts:
        (low, high), (low_change, high_change) = chosen.counts
        before = dice.between(low, high)
        change = dice.between(low_change, min(high_change, before - 1) if chosen.takes else high_change)
        facts = replace(facts, before=before, change=change,
                        after=before - change if chosen.takes else before + change,
                        counted=thing if chosen.units == ("thing",) else dice.pick(chosen.units))
    filling = slots(facts)
    return replace(facts, **{name: AN.sub(r"\1n", expand(parse(phrase), filling, dice)) or None
                             for name in ("reason", "means", "event", "goal")
                             for phrase in [getattr(facts, name)]})


def tell(facts: Facts, dice: Dice) -> Story:
    """Tell the facts in words: each step of the plot in one of its ways."""
    while True:
        filling, parts = slots(facts, dice), {}
        for name, optional, templates in PLOTS[facts.plot].steps:
            if optional and dice.happens(0.5):
                continue
            template = dice.pick(templates)
            if template[0] == "*":
                template = dice.pick(SHARED_STEPS[template[1:]])
            parts[name] = render(template, filling, dice)
        if facts.weather and dice.happens(0.4):
            parts["opening"] += f" {dice.pick(SKIES[facts.weather])}."
        text = " ".join(parts.values())
        if MIN_WORDS <= text.count(" ") + 1 <= MAX_WORDS:
            return Story(text, facts, parts)
