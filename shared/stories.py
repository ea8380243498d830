"""The course's stories: facts are drawn first and told afterwards, so everything that a story says is known.

    seed -> draw() -> Facts -> tell() -> Story(text, facts, parts)

The same facts can be told many times in other words, and changed facts (`dataclasses.replace`) give a story
that is wrong in a known place: questions, summaries, endings and preference pairs are made that way. (Change what no
other fact repeats, such as the spot, the colour or the feeling: a reason may name the hero.)
The words and the plots are in `shared.world`; `shared.data` hands the stories out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from random import Random

from shared.world import PLOTS
from shared.world.plot import SHARED_STEPS
from shared.world.templates import AN, expand, parse, polish, render
from shared.world.words import (
    CHARACTERS,
    COLOURS,
    DAYS,
    MEALS,
    NUMBERS,
    PLACES,
    SKIES,
    THINGS,
    TIMES,
    counted,
    plural,
)

MIN_WORDS, MAX_WORDS = 60, 150
NAMES, PLOT_NAMES = tuple(CHARACTERS), tuple(PLOTS)
HELD_OUT = 10  # one in ten (hero, thing, place) triples is kept for validation
POSITION = {word: i for words in (CHARACTERS, THINGS, PLACES) for i, word in enumerate(words)}


@dataclass(frozen=True)
class Facts:
    """What is true in one story. None: the story does not say it, so a question about it has no answer."""

    plot: str  # "lost"
    hero: str  # "Pip"
    friend: str  # "Nell"
    thing: str  # what the story turns on: "kite"
    place: str  # "park"
    time: str  # "morning"
    reason: str  # why there is a problem, a clause: "the wind had carried it off"
    means: str  # what helped, a phrase for this plot: "followed the paw prints"
    mood: str  # of the one who has the problem: "sad"
    feeling: str  # of the hero in the end: "happy"
    colour: str | None = None
    day: str | None = None  # "Monday"
    weather: str | None = None  # "sunny"
    spot: str | None = None  # the exact place: "under a bench"
    event: str | None = None  # what happened, a phrase for this plot: "glowed in the dark"
    goal: str | None = None  # what the hero wanted to do: "fly a kite"
    counted: str | None = None  # what is counted: "shell"
    before: int | None = None  # so many at first,
    change: int | None = None  # so many more or fewer,
    after: int | None = None  # so many in the end

    @property
    def problem(self) -> str:
        """The problem in one sentence."""
        return render(PLOTS[self.plot].problem, slots(self, FIRST_OPTION))

    @property
    def resolution(self) -> str:
        """How it was solved, in one sentence."""
        return render(PLOTS[self.plot].resolution, slots(self, FIRST_OPTION))

    @property
    def summary(self) -> str:
        """The story in two sentences: the problem with its reason, and how it ended."""
        return render(PLOTS[self.plot].summary, slots(self, FIRST_OPTION))


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


FIRST_OPTION = FirstOption()


# --- the words that templates ask for ------------------------------------------------------------------------


@cache
def words_about(name: str, role: str, prefix: str) -> dict[str, str]:
    """The slots of one character: {hero}, {hero_full}, {he}, {his} … or {friend}, {friend_full}, {fhe}, {fhis} …"""
    who = CHARACTERS[name]
    he, him, his, himself = who.pronouns
    own = {
        "kind": who.kind,
        "home": who.home,
        "food": who.food,
        "moved": who.moved,
        "he": he,
        "him": him,
        "his": his,
        "himself": himself,
        "He": he.title(),
        "His": his.title(),
    }
    full = f"a {who.kind} named {name}" if who.kind in ("girl", "boy") else f"{name} the {who.kind}"
    return {role: name, f"{role}_full": full} | {prefix + slot: word for slot, word in own.items()}


def slots(facts: Facts, dice: Dice) -> dict[str, str]:
    """All words that a template can ask for; what can be said in several ways is picked by the dice."""
    place = PLACES[facts.place]
    told = facts.weather or facts.day
    named = " ".join(filter(None, (facts.weather, facts.day, facts.time)))
    when = [f"one {named}", f"on a {named}" if told else f"early one {named}"]
    if facts.day and not facts.weather:
        when.append(f"on {named}")
    day = [f"a {named}"] if told else [f"an ordinary {named}", f"still early in the {named}"]
    filling = {
        **words_about(facts.hero, "hero", ""),
        **words_about(facts.friend, "friend", "f"),
        "thing": facts.thing,
        "things": plural(facts.thing),
        "colour": facts.colour or "",
        "item": f"{facts.colour} {facts.thing}" if facts.colour else facts.thing,
        "place": f"the {place.name}",
        "at_place": place.at,
        "to_place": f"to the {place.name}",
        "when": dice.pick(when),
        "a_day": dice.pick(day),
        "meal": MEALS[facts.time],
        "time": facts.time,
        "setting": dice.pick(place.sights if place.indoors else SKIES.get(facts.weather, ()) + place.sights),
        "spot": facts.spot or "",
        "event": facts.event or "",
        "goal": facts.goal or "",
        "reason": facts.reason,
        "means": facts.means,
        "mood": facts.mood,
        "feeling": facts.feeling,
    }
    if facts.counted:
        unit = facts.counted
        filling |= {
            "unit": unit,
            "units": plural(unit),
            "before": NUMBERS[facts.before],
            "change": NUMBERS[facts.change],
            "after": NUMBERS[facts.after],
            "n_before": counted(facts.before, unit),
            "n_change": counted(facts.change, unit),
            "n_after": counted(facts.after, unit),
            "more_change": counted(facts.change, f"more {unit}"),
            "them": "it" if facts.change == 1 else "them",
            "were_after": "was" if facts.after == 1 else "were",
        }
    return filling


# --- from a seed to a story ----------------------------------------------------------------------------------


def is_held_out(hero: str, thing: str, place: str) -> bool:
    """Whether validation owns this triple: a rule over positions, so that each word and pair is in both splits."""
    return (POSITION[hero] + 3 * POSITION[thing] + 7 * POSITION[place]) % HELD_OUT == 0


def draw(dice: Dice, *, validation: bool = False, plot: str | None = None) -> Facts:
    """Draw the facts of one story, of the given plot or of any."""
    chosen = PLOTS[plot or dice.pick(PLOT_NAMES)]
    case = dice.pick(chosen.cases)
    while True:
        hero, friend = dice.pick(NAMES), dice.pick(NAMES)
        thing, place = dice.pick(case.things or chosen.things), dice.pick(chosen.places)
        if hero != friend and is_held_out(hero, thing, place) == validation:
            break
    facts = Facts(
        plot=chosen.name,
        hero=hero,
        friend=friend,
        thing=thing,
        place=place,
        time=dice.pick(TIMES),
        reason=case.reason,
        means=case.means,
        event=case.event,
        goal=case.goal,
        mood=dice.pick(chosen.moods),
        feeling=dice.pick(chosen.feelings),
        colour=dice.pick(COLOURS) if chosen.coloured and dice.happens(0.85) else None,
        day=dice.pick(DAYS) if dice.happens(0.3) else None,
        weather=dice.pick(chosen.weathers) if dice.happens(0.6) else None,
        spot=dice.pick(PLACES[place].spots) if chosen.has_spot else None,
    )
    if chosen.counts:
        first, second = chosen.counts
        before = change = dice.between(*first)
        if second:
            change = dice.between(second[0], min(second[1], before - 1) if chosen.takes else second[1])
        facts = replace(
            facts,
            before=before,
            change=change,
            after=before - change if chosen.takes else before + change,
            counted=thing if chosen.units == ("thing",) else dice.pick(chosen.units),
        )
    filling = slots(facts, FIRST_OPTION)
    phrases = {
        name: AN.sub(" an", expand(parse(phrase), filling, dice.pick)) if phrase else None
        for name in ("reason", "means", "event", "goal")
        for phrase in [getattr(facts, name)]
    }
    return replace(facts, **phrases)


def tell(facts: Facts, dice: Dice) -> Story:
    """Tell the facts in words: each step of the plot in one of its ways."""
    while True:
        filling, steps, said = slots(facts, dice), [], []
        for step, optional, ways in PLOTS[facts.plot].steps:
            if optional and dice.happens(0.5):
                continue
            way = dice.pick(ways)
            if way[0] == "*":
                way = dice.pick(SHARED_STEPS[way[1:]])
            steps.append(step)
            said.append(expand(parse(way), filling, dice.pick))
        paragraph = polish("\n".join(said))
        if MIN_WORDS <= len(paragraph.split()) <= MAX_WORDS:
            return Story(paragraph.replace("\n", " "), facts, dict(zip(steps, paragraph.split("\n"), strict=True)))
