"""What lessons 02 and 03 put metrics to the test with: summaries with a known number of right facts, and intervals.

graded_summaries(300)          candidates of the plot "lost" with 0 to 6 facts right, in one of three wordings
bootstrap(np.mean, scores)     (mean, low, high): 95 % interval over the rows
plot_intervals(ax, groups)     {"group": {"metric": (middle, low, high)}} as points with bars
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from shared.plotting import COLOURS
from shared.stories import FIRST_OPTION, Dice, Facts, draw, render, slots
from shared.world.words import CHARACTERS, PLACES
from shared.world.words import COLOURS as PAINTS

WORDINGS = {
    "as the reference": "{hero} lost a {item} {at_place}, because {reason}. {friend} helped {him}, and they found it "
    "{spot}.",
    "reworded": "A {item} went missing {at_place}: {reason}. {hero} looked for it with {friend}, and it turned up "
    "{spot}.",
    "other words": "{friend} and {hero} went on a search. {spot}, in the end, they saw what {hero} had missed so much "
    "since that day {at_place}, a {item}.",
}
N_FACTS = 6  # who lost it, who helped, what, its colour, where, and where it was found


@dataclass(frozen=True)
class Graded:
    """A candidate, its reference, and how many of the reference's six facts it has right."""

    text: str
    reference: str
    n_right: int
    wording: str
    facts: Facts  # of the reference


def write(facts: Facts, wording: str) -> str:
    """The facts in one of the WORDINGS."""
    text = render(WORDINGS[wording], slots(facts, FIRST_OPTION))
    return (text[0].upper() + text[1:]).replace("A orange", "An orange")


def graded_summaries(count: int, *, seed: int = 0) -> list[Graded]:
    """Summaries of `count` stories, each with 0 to 6 facts changed and in a wording drawn at random."""
    if not 0 <= count <= 600:
        raise ValueError(f"count is {count}; there are 0 to 600 summaries")
    lost = [facts for facts in (draw(Dice(n), plot="lost") for n in range(3000)) if facts.colour][:600]
    spots = sorted({spot for place in PLACES.values() for spot in place.spots})
    things = sorted({facts.thing for facts in lost})
    choices = {"hero": list(CHARACTERS), "friend": list(CHARACTERS), "thing": things, "colour": list(PAINTS)}
    choices |= {"place": list(PLACES), "spot": spots}
    dice, found = random.Random(seed), []
    for facts in lost[:count]:
        n_wrong, wording, told = dice.randint(0, N_FACTS), dice.choice(list(WORDINGS)), facts
        for name in dice.sample(list(choices), n_wrong):
            taken = {getattr(told, name), told.hero, told.friend}
            told = replace(told, **{name: dice.choice([choice for choice in choices[name] if choice not in taken])})
        found.append(Graded(write(told, wording), facts.summary, N_FACTS - n_wrong, wording, facts))
    return found


def bootstrap(
    statistic: Callable[..., float], *columns: np.ndarray, n_rounds: int = 2000
) -> tuple[float, float, float]:
    """The statistic, and its 95 % interval: the same on `n_rounds` samples of the rows, drawn with replacement."""
    generator = np.random.default_rng(0)
    rows = generator.integers(0, len(columns[0]), (n_rounds, len(columns[0])))
    low, high = np.quantile([statistic(*(column[r] for column in columns)) for r in rows], (0.025, 0.975))
    return statistic(*columns), float(low), float(high)


def plot_intervals(ax, groups: dict[str, dict[str, tuple[float, float, float]]]) -> None:
    """One colour and marker for each group, one place on the x axis for each metric."""
    for g, (label, values) in enumerate(groups.items()):
        middle, low, high = np.array(list(values.values())).T
        x = np.arange(len(middle)) + 0.2 * (g - (len(groups) - 1) / 2)
        ax.errorbar(x, middle, (middle - low, high - middle), fmt="osD^"[g], color=COLOURS[g], capsize=3, label=label)
    ax.set_xticks(range(len(values)), values)
    ax.legend(frameon=False, fontsize=8)
