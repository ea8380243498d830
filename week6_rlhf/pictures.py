"""Small pictures of coloured shapes, with what is in them, what can be asked about them, and a caption.

    pictures(1000, seed=0)                        for training: no picture shows a held-out pair
    pictures(200, seed=1, target="unseen")        the first thing of each is a held-out pair of colour and shape
    pictures(1000, seed=0, target="any")          as if there were no held-out pairs

Eight colours and five shapes make 40 pairs; eight of them are held out, by a rule: each colour with one shape. So every
colour and every shape is seen in training, but a red circle, say, is not. The facts are chosen by `Dice`; only the
noise of the pixels is NumPy's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from shared.stories import Dice
from week4_finetuning.instructions import sentence, with_article
from week6_rlhf.solutions.multimodal import patchify

SIZE, PATCH = 32, 8  # pixels, both ways
PALETTE = {
    "red": (0.85, 0.10, 0.10),
    "blue": (0.15, 0.25, 0.90),
    "green": (0.10, 0.65, 0.20),
    "yellow": (0.95, 0.90, 0.15),
    "orange": (0.98, 0.55, 0.05),
    "purple": (0.55, 0.15, 0.65),
    "white": (0.98, 0.98, 0.98),
    "black": (0.05, 0.05, 0.05),
}
SHAPES = ("circle", "triangle", "ring", "kite", "moon")
COLOURS = tuple(PALETTE)
PAIRS = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)


def held_out(colour: str, shape: str) -> bool:
    """Whether training never shows this pair. Each colour has one such shape."""
    return (COLOURS.index(colour) + 2 * SHAPES.index(shape)) % len(SHAPES) == 0


SEEN = tuple(pair for pair in PAIRS if not held_out(*pair))
UNSEEN = tuple(pair for pair in PAIRS if held_out(*pair))


@dataclass(frozen=True)
class Thing:
    """One shape of a picture: its centre and half its width, in pixels."""

    colour: str
    shape: str
    x: float
    y: float
    radius: float

    @property
    def name(self) -> str:
        return f"{with_article(self.colour)} {self.shape}"


@dataclass(frozen=True)
class Question:
    """What is asked, the reply in the form of the course's instructions, and the word that a reply is judged by."""

    kind: str  # "colour" or "shape"
    text: str
    gold: str

    @property
    def reply(self) -> str:
        return sentence(self.gold)


@dataclass(frozen=True)
class Picture:
    """One or two things of different colours and shapes; questions are about the first."""

    things: tuple[Thing, ...]
    pixels: Float[Tensor, "3 height width"]  # from -1 to 1

    @property
    def caption(self) -> str:
        """Example: a red ring and a blue kite."""
        return " and ".join(thing.name for thing in self.things)

    def question(self, kind: str) -> Question:
        thing = self.things[0]
        if kind == "colour":
            return Question(kind, f"What colour is the {thing.shape}?", thing.colour)
        return Question(kind, f"What shape is {thing.colour}?", thing.shape)


def covered(thing: Thing) -> np.ndarray:
    """How far each pixel is covered by the thing, from 0 to 1; (height, width)."""
    fine = (np.arange(3 * SIZE) + 0.5) / 3  # three points a pixel, so that edges are soft
    x, y = fine[None, :] - thing.x, fine[:, None] - thing.y
    r = thing.radius
    match thing.shape:
        case "circle":
            inside = x**2 + y**2 < r**2
        case "triangle":
            inside = (y < 0.8 * r) & (2 * abs(x) < y + r)
        case "ring":
            inside = (x**2 + y**2 < r**2) & (x**2 + y**2 > (0.55 * r) ** 2)
        case "kite":
            inside = abs(x) / 0.75 + abs(y) < r
        case "moon":
            inside = (x**2 + y**2 < r**2) & ((x - 0.5 * r) ** 2 + y**2 > (0.8 * r) ** 2)
        case other:
            raise ValueError(f"there is no shape {other!r}; there are {', '.join(SHAPES)}")
    return inside.reshape(SIZE, 3, SIZE, 3).mean(axis=(1, 3))


def draw(things: Sequence[Thing], noise: np.random.Generator) -> Float[Tensor, "3 height width"]:
    """Pixels from -1 to 1: the things, each in a shade of its colour, on a background of some grey; noise over all."""
    grey = noise.uniform(0.4, 0.6) + noise.normal(0, 0.08, size=3)
    pixels = np.tile(grey[:, None, None], (1, SIZE, SIZE))
    for thing in things:
        mask = covered(thing)
        shade = np.array(PALETTE[thing.colour]) * noise.uniform(0.9, 1.0) + noise.normal(0, 0.05, size=3)
        pixels = pixels * (1 - mask) + shade[:, None, None] * mask
    pixels = pixels + noise.normal(0, 0.03, size=pixels.shape)
    return torch.from_numpy(2 * pixels.clip(0, 1) - 1).float()


QUARTERS = tuple((x, y) for y in (8, 24) for x in (8, 24))  # their centres


def place(dice: Dice, pairs: Sequence[tuple[str, str]]) -> tuple[Thing, ...]:
    """A thing for each pair of colour and shape, each in a quarter of the picture, near its centre."""
    free, things = list(QUARTERS), []
    for colour, shape in pairs:
        x, y = free.pop(int(dice.random() * len(free)))
        moved_x, moved_y = (2 * dice.random() - 1 for _ in range(2))
        things.append(Thing(colour, shape, x + moved_x, y + moved_y, radius=5 + 2 * dice.random()))
    return tuple(things)


POOLS = {"seen": SEEN, "unseen": UNSEEN, "any": PAIRS}


def pictures(n: int, *, seed: int = 0, target: str = "seen", n_things: int | None = None) -> list[Picture]:
    """n pictures; the first thing is of a pair that training shows ("seen"), never shows ("unseen"), or "any".

    The second thing is of a seen pair, with "any" of any; it has another colour and another shape than the first.
    `n_things` is 1 or 2; None: half and half, by chance. Raises ValueError for another target or number of things.
    """
    if target not in POOLS:
        raise ValueError(f"target is {target!r}; it must be one of {', '.join(POOLS)}")
    if n_things not in (None, 1, 2):
        raise ValueError(f"n_things is {n_things}; it must be 1, 2, or None for either")
    number = list(POOLS).index(target)
    dice, noise, made = Dice(7_000_003 + 3 * seed + number), np.random.default_rng([seed, number]), []
    for _ in range(n):
        colour, shape = dice.pick(POOLS[target])
        pairs = [(colour, shape)]
        if n_things == 2 or (n_things is None and dice.happens(0.5)):
            others = PAIRS if target == "any" else SEEN
            pairs.append(dice.pick([pair for pair in others if pair[0] != colour and pair[1] != shape]))
        things = place(dice, pairs)
        made.append(Picture(things, draw(things, noise)))
    return made


def pixels_of(made: Sequence[Picture]) -> Float[Tensor, "picture 3 height width"]:
    return torch.stack([picture.pixels for picture in made])


def new_pictures(n: int, seed: int = 0) -> dict[str, list[Picture]]:
    """Four sets that no training has: of seen and of unseen pairs, with one thing and with two."""
    return {
        f"{target}, {n_things}": pictures(n, seed=1_000 + seed, target=target, n_things=n_things)
        for target in ("seen", "unseen")
        for n_things in (1, 2)
    }


def shuffled(rows: Float[Tensor, "batch patch values"]) -> Float[Tensor, "batch patch values"]:
    """Each row's patches in another order, always the same for the same row number."""
    generator = torch.Generator().manual_seed(0)
    return torch.stack([row[torch.randperm(len(row), generator=generator)] for row in rows])


def shuffled_pixels(pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
    """The same patches of each picture, elsewhere in it."""
    return F.fold(shuffled(patchify(pixels, PATCH)).transpose(1, 2), SIZE, kernel_size=PATCH, stride=PATCH)
