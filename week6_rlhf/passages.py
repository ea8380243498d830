"""A corpus to search: short passages of distinct facts about the course's world, and questions about them.

passages(5_000)                 the same for the same seed; a longer list begins with the shorter one
questions(300)                  what to ask, about every kind of fact; `other` asks it in other words
absent_questions(100)           the same about facts that no passage of the corpus tells
stored_embeddings()             MiniLM's vectors of passages(5_000), kept in 8 bits (passages.npz, under 2 MB)

python -m week6_rlhf.passages   makes passages.npz again: one to two minutes on one core
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from shared.stories import Dice, Facts, draw, slots
from shared.world.templates import AN, expand, parse, polish
from shared.world.words import COLOURS, DAYS, PLACES

N_PASSAGES = 5_000
STORED = Path(__file__).with_name("passages.npz")

WAYS = (  # each tells all seven facts: who, with whom, what, its colour, where, the day and the time
    "{when}, {hero_full} was {at_place} with {friend_full}. {hero} had a {item} with {him}.",
    "{when}, {hero_full} [went|{moved}] {to_place}. {he} [carried|had brought] a {item}, and {friend_full} came along.",
    "It was {a_day}. {hero_full} met {friend_full} {at_place}. {hero} had a {item}, a present from {his} aunt.",
    "{hero_full} had a {item}. {when}, {he} took it {to_place} and showed it to {friend_full}.",
    "{at_place}, {when}, {hero_full} played with a {item}. {friend_full} looked on.",
    "{friend_full} [saw|visited] {hero_full} {at_place}. It was {a_day}, and {hero} had a {item}.",
)

OTHER_THINGS = {
    "kite": "toy that flies on a string", "ball": "round toy that bounces", "hat": "thing worn on the head",
    "scarf": "woollen wrap for the neck", "book": "novel", "bell": "thing that rings",
    "drum": "instrument that one beats", "lantern": "lamp", "cup": "mug", "basket": "hamper", "bucket": "pail",
    "flute": "instrument that one blows", "blanket": "warm bedspread", "umbrella": "thing that keeps the rain off",
    "bag": "sack", "ribbon": "bow for the hair", "puppet": "marionette", "boat": "little ship", "doll": "toy baby",
    "apron": "thing worn for cooking", "pillow": "cushion", "crown": "tiara", "brush": "comb", "flag": "banner",
}  # fmt: skip

OTHER_PLACES = {
    "park": "on the town lawn", "garden": "among the vegetable beds", "meadow": "on the grassland",
    "beach": "at the seaside", "forest": "in the woods", "hill": "on the high ground", "pond": "at the small pool",
    "river": "at the stream", "market": "among the shopping stalls", "school": "in the classroom",
    "farm": "where cows are kept", "barn": "in the hay store", "orchard": "among the fruit trees",
    "mill": "where grain is ground", "lake": "at the large inland water", "library": "where books are lent",
    "bakery": "at the bread shop", "playground": "where the swings are", "station": "where the trains stop",
    "field": "on the cropland",
}  # fmt: skip


@dataclass(frozen=True)
class Passage:
    """A text of one to three sentences and the facts that it tells."""

    text: str
    facts: Facts


@dataclass(frozen=True)
class Question:
    """A question, its one right answer, and the number of the passage that gives it (None: no passage does)."""

    kind: str  # "colour", "place" or "day"
    text: str  # in the passage's words
    other: str  # thing and place in other words
    gold: str
    passage: int | None


KINDS = {  # kind -> (question, what it tells and so must be told by one passage alone)
    "colour": ("What colour was the {thing} that {hero} had {at_place} on {day}?", ("thing", "hero", "place", "day")),
    "place": ("Where was {hero} on {day} with the {colour} {thing}?", ("thing", "hero", "colour", "day")),
    "day": ("On what day did {hero} have the {colour} {thing} {at_place}?", ("thing", "hero", "colour", "place")),
}


def passage_stream(seed: int = 0) -> Iterator[Passage]:
    """Endless passages, no two with the same text."""
    dice, told = Dice(seed), set()
    while True:
        facts = draw(dice, plot="lost")
        facts = replace(facts, colour=dice.pick(COLOURS), day=dice.pick(DAYS), weather=None)
        text = polish(AN.sub(" an", expand(parse(dice.pick(WAYS)), slots(facts, dice), dice.pick)))
        if text not in told:
            told.add(text)
            yield Passage(text, facts)


def answerable_stream(seed: int = 0) -> Iterator[Passage]:
    """Passages of which each can be asked about in every kind: no other one tells what a question tells."""
    told = set()
    for passage in passage_stream(seed):
        keys = {(kind, *(getattr(passage.facts, name) for name in given)) for kind, (_, given) in KINDS.items()}
        if not keys & told:
            told |= keys
            yield passage


def passages(count: int = N_PASSAGES, seed: int = 0) -> list[Passage]:
    """The first `count` passages of this seed."""
    return list(islice(answerable_stream(seed), count))


def ask(facts: Facts, kind: str, number: int | None = None) -> Question:
    """The question of this kind about these facts."""
    template, _ = KINDS[kind]
    told = {name: getattr(facts, name) for name in ("hero", "thing", "colour", "day")}
    at_place = PLACES[facts.place].at
    return Question(
        kind,
        template.format(**told, at_place=at_place),
        template.format(**told | {"thing": OTHER_THINGS[facts.thing]}, at_place=OTHER_PLACES[facts.place]),
        {"colour": facts.colour, "place": at_place, "day": facts.day}[kind],
        number,
    )


def questions(count: int, corpus_size: int = N_PASSAGES, seed: int = 0) -> list[Question]:
    """Questions about passages spread evenly over the corpus, the kinds in turn."""
    if not 0 < count <= corpus_size:
        raise ValueError(f"count must be 1 to {corpus_size}, the number of passages, got {count}")
    corpus, kinds = passages(corpus_size, seed), list(KINDS)
    numbers = [i * corpus_size // count for i in range(count)]
    return [ask(corpus[number].facts, kinds[i % len(kinds)], number) for i, number in enumerate(numbers)]


def absent_questions(count: int, corpus_size: int = N_PASSAGES, seed: int = 0) -> list[Question]:
    """Questions that no passage of the corpus answers: about the passages that would come next."""
    kinds = list(KINDS)
    later = islice(answerable_stream(seed), corpus_size, corpus_size + count)
    return [ask(passage.facts, kinds[i % len(kinds)]) for i, passage in enumerate(later)]


# --- vectors, kept small --------------------------------------------------------------------------------------


def pack(vectors: Float[Tensor, "text dim"], path: Path) -> None:
    """Store rows as whole numbers from -127 to 127 and one scale each (week 5's absmax quantization)."""
    scale = vectors.abs().amax(dim=1, keepdim=True) / 127
    codes = (vectors / scale).round().to(torch.int8)
    np.savez_compressed(path, codes=codes.numpy(), scale=scale.half().numpy())


def stored_embeddings(path: Path = STORED) -> Float[Tensor, "text dim"]:
    """The vectors of passages(N_PASSAGES), of length 1 again; within half a step of 8 bits of MiniLM's own."""
    with np.load(path) as stored:
        vectors = torch.from_numpy(stored["codes"]).float() * torch.from_numpy(stored["scale"]).float()
    return torch.nn.functional.normalize(vectors, dim=1)


def main() -> None:
    from tqdm.auto import tqdm

    from shared.models import minilm
    from week6_rlhf.solutions.applications import embed

    model, tokenizer = minilm()
    texts = [passage.text for passage in passages()]
    by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    vectors = torch.empty(len(texts), model.config.hidden_size)
    for start in tqdm(range(0, len(texts), 64), desc="embedding"):
        rows = by_length[start : start + 64]
        vectors[rows] = embed([texts[i] for i in rows], model, tokenizer)
    pack(vectors, STORED)
    worst = (stored_embeddings() - vectors).abs().max()
    print(f"{STORED.name}: {STORED.stat().st_size / 1e6:.2f} MB; the largest change of a number {worst:.4f}")


if __name__ == "__main__":
    main()
