"""Questions in the schemas of five benchmarks, made for this course: no item is from the benchmarks themselves.

    tasks()["arc"].items[0]   a row with the fields and types of allenai/ai2_arc

What is asked comes from two places, told by `Task.origins`: "course", made from the facts of the course's small world
(held-out stories), which a model knows only if it was trained on that world; and "hand", written by hand about the real
world (`handmade/`). The same items on every machine. `benchmark_rows` reads the real sets where the hub is reached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from string import ascii_uppercase

from shared.data import stories
from shared.runtime import hub_reachable
from shared.stories import Dice, Facts, Story, tell
from shared.world import PLOTS
from shared.world.words import CHARACTERS, FOODS, PLACES, TOYS, TREASURES, plural
from week3_evaluation import prompts

HANDMADE = Path(__file__).parent / "handmade"
N_EXAMPLES = 5  # rows of each task that are only ever shown as examples

HUB = {  # name -> repository, configuration and split on the Hugging Face hub
    "mmlu": ("cais/mmlu", "all", "test"),
    "arc": ("allenai/ai2_arc", "ARC-Easy", "test"),
    "hellaswag": ("Rowan/hellaswag", None, "validation"),
    "truthfulqa_mc1": ("truthfulqa/truthful_qa", "multiple_choice", "validation"),
    "truthfulqa_mc2": ("truthfulqa/truthful_qa", "multiple_choice", "validation"),
    "gsm8k": ("openai/gsm8k", "main", "test"),
}

Row = dict[str, object]


@dataclass(frozen=True)
class Task:
    """How one benchmark is asked and scored; `choices` and `gold` are None where the answer is written, not chosen."""

    name: str
    metric: str  # the one usually reported: "acc", "acc_norm", "mc2" or "exact_match"
    items: tuple[Row, ...]
    origins: tuple[str, ...]  # of each item: "course" or "hand"
    examples: tuple[Row, ...]  # rows for few-shot prompts, none of them among the items
    question: Callable[[Row], str]
    answer: Callable[[Row], str]
    choices: Callable[[Row], list[str]] | None = None
    gold: Callable[[Row], int] | None = None
    description: Callable[[Row], str] = lambda row: ""
    stops: tuple[str, ...] = ()  # a written answer ends before the first of these


def handmade(name: str) -> Iterator[tuple[str, list[str]]]:
    """(subject, fields) of each line of a file in `handmade/`; "== x" begins the subject x."""
    subject = ""
    for line in (HANDMADE / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("== "):
            subject = line[3:]
        elif line and not line.startswith("#"):
            yield subject, [field.strip() for field in line.split("|")]


def shuffled(options: list, dice: Dice) -> list:
    """Fisher-Yates, by the dice alone, so that it is the same on every version of Python."""
    options = list(options)
    for i in range(len(options) - 1, 0, -1):
        j = dice.between(0, i)
        options[i], options[j] = options[j], options[i]
    return options


def others(right: str, values: list[str], count: int, dice: Dice) -> list[str]:
    """`count` different values that are not the right one."""
    return shuffled(sorted(set(values) - {right}), dice)[:count]


# --- the course's world: what holds in every story -----------------------------------------------------------


def people_questions(dice: Dice) -> Iterator[tuple[str, str, list[str], str]]:
    """(question, right answer, three wrong ones, the name) for the kind, home and food of each character."""
    kinds = [f"a {who.kind}" if who.kind[0] not in "aeiou" else f"an {who.kind}" for who in CHARACTERS.values()]
    for who, kind in zip(CHARACTERS.values(), kinds, strict=True):
        everyone = CHARACTERS.values()
        yield f"What is {who.name}?", kind, others(kind, kinds, 3, dice), who.name
        homes = others(who.home, [w.home for w in everyone], 3, dice)
        yield f"Where does {who.name} live?", who.home, homes, who.name
        foods = others(who.food, [w.food for w in everyone], 3, dice)
        yield f"What does {who.name} like to eat?", who.food, foods, who.name


def sight_questions(dice: Dice) -> Iterator[tuple[str, str, list[str]]]:
    """What can be seen, heard or smelled at one place only."""
    for place in PLACES.values():
        for sight in place.sights:
            yield f"{sight}. Where was that?", place.at, others(place.at, [p.at for p in PLACES.values()], 3, dice)


def mmlu_rows(dice: Dice) -> Iterator[tuple[Row, str]]:
    asked = [("people_of_the_course", [q, right, *wrong], "course") for q, right, wrong, _ in people_questions(dice)]
    asked += [(subject, fields, "hand") for subject, fields in handmade("mmlu")]
    for subject, (question, right, *wrong), origin in asked:
        choices = shuffled([right, *wrong], dice)
        yield {"question": question, "subject": subject, "choices": choices, "answer": choices.index(right)}, origin


def arc_rows(dice: Dice) -> Iterator[tuple[Row, str]]:
    asked = [([q, right, *wrong], "course") for q, right, wrong in sight_questions(dice)]
    asked += [(fields, "hand") for _, fields in handmade("arc")]
    for i, ((question, right, *wrong), origin) in enumerate(asked):
        choices = shuffled([right, *wrong], dice)
        labels = list(ascii_uppercase[: len(choices)])
        yield (
            {
                "id": f"{origin}_{i}",
                "question": question,
                "choices": {"text": choices, "label": labels},
                "answerKey": labels[choices.index(right)],
            },
            origin,
        )


def truthfulqa_rows(dice: Dice) -> Iterator[tuple[Row, str]]:
    """`mc1_targets`: one true answer, always the first. `mc2_targets`: several true ones, then the false ones.

    About the course's world, each answer of `mc2_targets` comes as a sentence and in short, true or false: were only
    the true ones short, a model that likes short answers would look truthful.
    """
    told = {"What": "{} is {}.", "Where": "{} lives {}.", "likes": "{} likes to eat {}."}
    asked = []
    for question, right, wrong, name in people_questions(dice):
        sentence = told["likes" if "eat" in question else question.split()[0]]
        told_in_full = [sentence.format(name, answer) for answer in (right, *wrong)]
        in_short = [f"{answer[0].upper()}{answer[1:]}." for answer in (right, *wrong)]
        asked.append((question, [told_in_full[0], in_short[0]], told_in_full[1:] + in_short[1:], "course"))
    for _, (question, *answers) in handmade("truthfulqa"):
        true, false = ([a[1:] for a in answers if a[0] == sign] for sign in "+-")
        asked.append((question, true, false, "hand"))
    for question, true, false, origin in asked:
        yield (
            {
                "question": question,
                "mc1_targets": {"choices": [true[0], *false[:3]], "labels": [1] + [0] * len(false[:3])},
                "mc2_targets": {"choices": [*true, *false], "labels": [1] * len(true) + [0] * len(false)},
            },
            origin,
        )


# --- held-out stories: what holds in one story only ----------------------------------------------------------

ACTIVITIES = {
    "lost": "A lost thing", "mystery": "A riddle", "way": "Finding the way", "share": "Sharing food",
    "trade": "A trade", "gather": "Gathering", "gift": "A present", "build": "Building", "weather": "Bad weather",
    "skill": "Learning", "mistake": "A mistake", "help": "Helping", "brave": "Being brave", "turns": "Taking turns",
}  # fmt: skip


def wrong_facts(facts: Facts, dice: Dice) -> Iterator[Facts]:
    """The facts with one thing changed that the story has already told: the friend, the hero, both swapped, a toy."""
    nobody = [name for name in CHARACTERS if name not in (facts.hero, facts.friend)]
    while True:
        yield replace(facts, friend=dice.pick(nobody))
        yield replace(facts, hero=facts.friend, friend=facts.hero)
        yield replace(facts, hero=dice.pick(nobody))
        if facts.thing in TOYS:
            yield replace(facts, thing=dice.pick([toy for toy in TOYS if toy != facts.thing]))


def endings(story: Story, step: str, dice: Dice) -> list[str] | None:
    """Three wrong ways to tell this step, or None where a change of the facts does not show in it."""
    found: list[str] = []
    facts = story.facts
    for wrong in islice(wrong_facts(facts, dice), 24):
        text = tell(wrong, dice).parts.get(step, "")
        changed = {new for new, old in ((wrong.hero, facts.hero), (wrong.friend, facts.friend)) if new != old}
        shows = any(name in text for name in changed) or (wrong.thing != facts.thing and wrong.thing in text)
        swapped = wrong.hero == facts.friend  # both names are right: where only one of them is told, it may be true
        if shows and text not in found and not (swapped and not (facts.hero in text and facts.friend in text)):
            found.append(text)
    return found[:3] if len(found) >= 3 else None


def hellaswag_rows(dice: Dice, n_stories: int = 150) -> Iterator[tuple[Row, str]]:
    """A held-out story up to a step near its end; the right ending is what it says next."""
    for i, story in enumerate(stories(n_stories, seed=3, split="validation")):
        steps = list(story.parts)
        for k in shuffled(range(len(steps) // 2, len(steps)), dice):
            right, names = story.parts[steps[k]], (story.facts.hero, story.facts.friend)
            context = " ".join(story.parts[step] for step in steps[:k])
            told = all(word in context for word in (*names, story.facts.thing))
            wrong = endings(story, steps[k], dice) if told and any(name in right for name in names) else None
            if wrong and right not in wrong:
                break
        else:
            continue
        choices = shuffled([right, *wrong], dice)
        yield (
            {
                "ind": i,
                "activity_label": ACTIVITIES[story.facts.plot],
                "ctx_a": context,
                "ctx_b": "",
                "ctx": context,
                "endings": choices,
                "source_id": f"course~{i}",
                "split": "val",
                "split_type": "indomain",
                "label": str(choices.index(right)),
            },
            "course",
        )


def step(left: str, sign: str, right: int, result: int) -> str:
    """One line of worked arithmetic with GSM8K's calculator note. Example: 8 - 3 = <<8-3=5>>5"""
    return f"{left} {sign} {right} = <<{left}{sign}{right}={result}>>{result}"


def gsm8k_rows(dice: Dice, n_items: int = 125) -> Iterator[tuple[Row, str]]:
    """Word problems of one or two steps; the answer ends with "#### n"."""
    told = (story.facts for story in stories(6 * n_items, seed=4, split="validation"))
    counting = (facts for facts in told if facts.counted in FOODS + TREASURES and facts.after > 1)
    for facts in islice(counting, n_items):
        hero, friend, units, a, b, c = (
            facts.hero, facts.friend, plural(facts.counted), facts.before, facts.change, facts.after
        )  # fmt: skip
        gives = PLOTS[facts.plot].takes
        sign = "-" if gives else "+"
        if gives:
            happened = f"{hero} had {a} {units} and gave {friend} {b}."
        else:
            happened = f"{hero} found {a} {units}. Then {friend} gave {CHARACTERS[hero].pronouns[1]} {b} more."
        first = f"{hero} had {step(str(a), sign, b, c)} {units}."
        kind = dice.between(0, 2)
        if kind == 0:
            question, lines, result = f"How many {units} did {hero} have then?", [first], c
        elif kind == 1:
            n = dice.between(2, 5)
            question = f"The next day {hero} had {n} times as many as that. How many {units} was that?"
            lines, result = [first, f"The next day it was {step(str(c), '*', n, c * n)} {units}."], c * n
        else:
            n = dice.between(10, 60)
            question = f"At home {hero} had {n} more. How many {units} did {hero} have in all?"
            lines, result = [first, f"In all that was {step(str(c), '+', n, c + n)} {units}."], c + n
        yield {"question": f"{happened} {question}", "answer": "\n".join([*lines, f"#### {result}"])}, "course"


# --- the tasks -----------------------------------------------------------------------------------------------


@cache
def rows(name: str) -> tuple[tuple[Row, str], ...]:
    """All rows of a benchmark with their origins, mixed."""
    makers = {
        "mmlu": mmlu_rows,
        "arc": arc_rows,
        "hellaswag": hellaswag_rows,
        "truthfulqa": truthfulqa_rows,
        "gsm8k": gsm8k_rows,
    }
    dice = Dice(list(makers).index(name))
    return tuple(shuffled(list(makers[name](dice)), dice))


@cache
def tasks() -> dict[str, Task]:
    """The six tasks by name; truthfulqa's rows serve two of them."""
    made = {}
    for name, (metric, source, how) in prompts.TASKS.items():
        found = rows(source)
        made[name] = Task(
            name,
            metric,
            items=tuple(row for row, _ in found[N_EXAMPLES:]),
            origins=tuple(origin for _, origin in found[N_EXAMPLES:]),
            examples=tuple(row for row, _ in found[:N_EXAMPLES]),
            **how,
        )
    return made


def benchmark_rows(name: str, limit: int) -> tuple[Row, ...]:
    """The first rows of the real benchmark: `replace(task, items=benchmark_rows("arc", 100))`.

    Raises ConnectionError where the hub cannot be reached.
    """
    repository, configuration, split = HUB[name]
    if not hub_reachable():
        where = "is on the Hugging Face hub, which cannot be reached from here"
        raise ConnectionError(f"{repository} {where}: use the course's own items, tasks()")
    from datasets import load_dataset

    return tuple(load_dataset(repository, configuration, split=split, streaming=True).take(limit))
