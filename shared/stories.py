"""The course's stories: facts are drawn first, then told, so that everything a story says is known.

    plot + seed  ->  draw()  ->  Facts  ->  tell()  ->  Story(text, facts, parts)

The same facts can be told many times in other words, and changed facts (`dataclasses.replace`) give a story
that is wrong in a known place: later weeks make questions, summaries, endings and preference pairs that way.
The words and the plots are written in `shared.world`.

Templates are plain text with `{slots}` and `[one|of|these]`; a/an and capital letters are set afterwards.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from shared.world import PLOTS, words
from shared.world.plot import SHARED_STEPS
from shared.world.words import CHARACTERS, NUMBERS, PLACES, counted, plural

WORDS = range(60, 151)  # a story is 60 to 150 words long
HELD_OUT = 10           # one in ten (hero, thing, place) triples is kept for validation


@dataclass(frozen=True)
class Facts:
    """What is true in one story. None means that the story does not say it: a question about it has no answer."""

    plot: str            # "lost"
    hero: str            # "Pip"
    friend: str          # "Nell"
    thing: str           # what the story turns on: "kite"
    place: str           # "park"
    time: str            # "morning"
    reason: str          # why there is a problem, a clause: "the wind carried it off"
    means: str           # what solved it, a phrase that depends on the plot: "asked everyone who came by"
    mood: str            # how the hero feels about the problem: "sad"
    feeling: str         # how the hero feels at the end: "happy"
    colour: str | None = None
    day: str | None = None
    weather: str | None = None
    spot: str | None = None      # the exact place: "under a bench"
    goal: str | None = None      # what the hero wanted to do: "fly the kite"
    counted: str | None = None   # what is counted: "shell"
    before: int | None = None    # so many at first
    change: int | None = None    # so many came (or went, where the plot takes away)
    after: int | None = None     # so many in the end: before + change or before - change

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
    """A text with the facts that it tells; `parts` names its steps in order ("opening", …, "ending")."""

    text: str
    facts: Facts
    parts: dict[str, str]


class Dice:
    """Choices made from `Random.random()` alone, the one method that Python promises never to change."""

    def __init__(self, seed: int):
        self.random = Random(seed).random

    def pick(self, options):
        return options[int(self.random() * len(options))]

    def between(self, low: int, high: int) -> int:
        return low + int(self.random() * (high - low + 1))

    def happens(self, probability: float) -> bool:
        return self.random() < probability


# --- templates ---------------------------------------------------------------------------------------------

@lru_cache(maxsize=None)
def parse(template: str) -> tuple:
    """Split into text, slots and choices. Example: "a [red|{x}] b" -> ("a ", (("red",), (Slot x,)), " b")."""
    tokens = re.split(r"([\[\]|])", " ".join(template.split()))
    parts, rest = parse_tokens(tokens)
    if rest:
        raise ValueError(f"a bracket is closed but never opened in the template {template!r}")
    return parts


def parse_tokens(tokens: list[str], inside: bool = False) -> tuple[tuple, list[str]]:
    options, current = [], []
    while tokens:
        token, tokens = tokens[0], tokens[1:]
        if token == "[":
            choice, tokens = parse_tokens(tokens, inside=True)
            current.append(choice)
        elif token == "|" and inside:
            options.append(tuple(current))
            current = []
        elif token == "]" and inside:
            return (*options, tuple(current)), tokens
        elif token == "]":
            return tuple(current), [token, *tokens]
        elif token:
            current.append(token)
    if inside:
        raise ValueError(f"a bracket is opened but never closed before {''.join(map(str, current))!r}")
    return tuple(current), []


def expand(parts: tuple, dice: Dice) -> str:
    return "".join(part if isinstance(part, str) else expand(dice.pick(part), dice) for part in parts)


VOWEL = re.compile(r"\b([Aa]) (?=[aeiou])(?!one\b|use)")
SENTENCE_START = re.compile(r'(?:^|[.!?] "?|\." )[a-z]')


def render(template: str, words: dict[str, str], dice: Dice | None = None) -> str:
    """Fill a template; without dice, the first of all options is taken."""
    text = expand(parse(template), dice or FIRST).format_map(words)
    text = VOWEL.sub(r"\1n ", " ".join(text.split()))
    return SENTENCE_START.sub(lambda match: match.group().upper(), text)


class _First(Dice):
    def __init__(self):
        self.random = lambda: 0.0


FIRST = _First()


def slots(facts: Facts, dice: Dice | None = None) -> dict[str, str]:
    """All words that a template can ask for; those of the friend begin with f."""
    dice = dice or FIRST
    hero, friend, place = CHARACTERS[facts.hero], CHARACTERS[facts.friend], PLACES[facts.place]
    he, him, his, himself = hero.pronouns
    fhe, fhim, fhis, fhimself = friend.pronouns
    words = {
        "hero": hero.name, "kind": hero.kind, "home": hero.home, "food": hero.food, "hero_full": full(hero),
        "he": he, "him": him, "his": his, "himself": himself, "He": he.title(), "His": his.title(),
        "friend": friend.name, "fkind": friend.kind, "friend_full": full(friend),
        "fhe": fhe, "fhim": fhim, "fhis": fhis, "fhimself": fhimself, "fHe": fhe.title(),
        "thing": facts.thing, "things": plural(facts.thing), "colour": facts.colour or "",
        "item": f"{facts.colour} {facts.thing}" if facts.colour else facts.thing,
        "place": f"the {place.name}", "at_place": place.at, "to_place": f"to the {place.name}",
        "spot": facts.spot or "", "goal": facts.goal or "", "reason": facts.reason, "means": facts.means,
        "mood": facts.mood, "feeling": facts.feeling, "time": facts.time,
        **moment(facts, dice),
    }
    if facts.counted:
        words |= {
            "before": NUMBERS[facts.before], "change": NUMBERS[facts.change], "after": NUMBERS[facts.after],
            "n_before": counted(facts.before, facts.counted), "n_change": counted(facts.change, facts.counted),
            "n_after": counted(facts.after, facts.counted), "unit": facts.counted,
            "units": plural(facts.counted), "them": "it" if facts.change == 1 else "them",
        }
    return words


def full(character: words.Character) -> str:
    """Example: "Pip the rabbit", "a girl named Mia"."""
    return f"a {character.kind} named {character.name}" if character.is_child else (
        f"{character.name} the {character.kind}")


def moment(facts: Facts, dice: Dice) -> dict[str, str]:
    """When it happened: day, weather and time of day as far as they are told, in one phrase."""
    named = " ".join(filter(None, (facts.weather, facts.day, facts.time)))
    when = [f"one {named}", f"on a {named}" if facts.weather or facts.day else f"early one {named}"]
    if facts.day and not facts.weather:
        when.append(f"on {named}")
    meal = {"morning": "after breakfast", "afternoon": "after lunch", "evening": "after supper"}[facts.time]
    return {"when": dice.pick(when), "a_day": f"a {named}", "meal": meal}


# --- from a seed to a story --------------------------------------------------------------------------------

def is_held_out(hero: str, thing: str, place: str) -> bool:
    """Whether this triple belongs to validation: a rule over positions, so each word and pair is in both."""
    position = (tuple(CHARACTERS).index(hero) + 3 * words.THINGS.index(thing) + 7 * tuple(PLACES).index(place))
    return position % HELD_OUT == 0


def draw(dice: Dice, validation: bool = False, plot: str | None = None) -> Facts:
    """Draw the facts of one story, of the given plot or of any."""
    chosen = PLOTS[plot or dice.pick(tuple(PLOTS))]
    while True:
        case = dice.pick(chosen.cases)
        hero, friend = dice.pick(tuple(CHARACTERS)), dice.pick(tuple(CHARACTERS))
        thing, place = dice.pick(case.things or chosen.things), dice.pick(chosen.places)
        if hero != friend and is_held_out(hero, thing, place) == validation:
            break
    before = change = after = unit = None
    if chosen.counts:
        unit = thing if chosen.units == ("thing",) else dice.pick(chosen.units)
        (low, high), (low_change, high_change) = chosen.counts
        before = dice.between(low, high)
        change = dice.between(low_change, min(high_change, before - 1) if chosen.takes else high_change)
        after = before - change if chosen.takes else before + change
    facts = Facts(
        plot=chosen.name, hero=hero, friend=friend, thing=thing, place=place, time=dice.pick(words.TIMES),
        reason=case.reason, means=case.means, goal=case.goal,
        mood=dice.pick(chosen.moods), feeling=dice.pick(chosen.feelings),
        colour=dice.pick(words.COLOURS) if chosen.coloured and dice.happens(0.85) else None,
        day=dice.pick(words.DAYS) if dice.happens(0.3) else None,
        weather=dice.pick(chosen.weathers) if dice.happens(0.6) else None,
        spot=dice.pick(PLACES[place].spots) if chosen.has_spot else None,
        counted=unit, before=before, change=change, after=after,
    )
    words = slots(facts)
    phrases = {name: expand(parse(value), dice).format_map(words)
               for name in ("reason", "means", "goal") if (value := getattr(facts, name))}
    return Facts(**(facts.__dict__ | {name: VOWEL.sub(r"\1n ", text) for name, text in phrases.items()}))


def tell(facts: Facts, dice: Dice) -> Story:
    """Tell the facts in words, each step of the plot by one of its templates."""
    plot = PLOTS[facts.plot]
    while True:
        words = slots(facts, dice)
        parts = {}
        for name, optional, templates in plot.steps:
            if optional and dice.happens(0.5):
                continue
            template = dice.pick(templates)
            if template.startswith("*"):  # *opening: a step that several plots share
                template = dice.pick(SHARED_STEPS[template[1:]])
            parts[name] = render(template, words, dice)
        if facts.weather and dice.happens(0.4):
            parts["opening"] += " " + dice.pick(words.SKIES[facts.weather]) + "."
        text = " ".join(parts.values())
        if text.count(" ") + 1 in WORDS:
            return Story(text, facts, parts)
