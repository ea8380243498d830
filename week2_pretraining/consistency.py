"""Does a continuation keep to what its story has said? Names, things, places, counts, judged by the story's facts."""

import re
from collections import Counter

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from shared.stories import NAMES, Story
from shared.world.words import NUMBERS, PLACES, THINGS, plural

COUNT = {word: n for n, word in enumerate(NUMBERS)}
NAME = re.compile(rf"\b({'|'.join(NAMES)})\b")
THING = re.compile(rf"\b({'|'.join([*THINGS, *map(plural, THINGS)])})\b")
SPOT = re.compile("|".join(spot for place in PLACES.values() for spot in place.spots))
NUMBER = re.compile(rf"\b({'|'.join(NUMBERS)})\b")


def beginning(story: Story) -> str:
    """The story's first sentences, up to the one in which hero, friend, thing and first count have all been told."""
    facts = story.facts
    needed = {rf"{facts.hero}\b", rf"{facts.friend}\b", facts.thing}  # the thing also in the plural
    if facts.counted:
        needed.add(rf"{NUMBERS[facts.before]}\b")
    missing, told = {word.lower() for word in needed}, []
    for sentence in re.split(r"(?<=[.!?]) (?=[A-Z\"])", story.text):
        told.append(sentence)
        missing = {word for word in missing if not re.search(rf"\b{word}", sentence.lower())}
        if not missing:
            break
    return " ".join(told)


def kept(story: Story, start: str, continuation: str) -> Counter:
    """What the continuation names ("all names", "all things" …), and how much of it belongs to the story ("names" …).

    Names: hero and friend. Things: those in the start. Places: spots ("under a bench") of the place where the story is.
    Counts: where the continuation holds a number, one number after the first count must be that count plus (or minus)
    another one: seven tries, five more, twelve in all.
    """
    facts, found = story.facts, Counter()
    for kind, pattern, right in (
        ("names", NAME, {facts.hero, facts.friend}),
        ("things", THING, set(THING.findall(start))),
        ("places", SPOT, {*PLACES[facts.place].spots, *SPOT.findall(start)}),
    ):
        mentions = pattern.findall(continuation)
        found[f"all {kind}"] += len(mentions)
        found[kind] += sum(mention in right for mention in mentions)
    if facts.counted and NUMBER.search(continuation.lower()):
        numbers = [COUNT[word] for word in NUMBER.findall((start + continuation).lower())]
        later = numbers[numbers.index(facts.before) + 1 :]
        sign = 1 if facts.after > facts.before else -1
        found["all counts"] += 1
        found["counts"] += any(facts.before + sign * n in later for n in later)
    return found


@torch.no_grad()
def consistency(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, told: list[Story], max_new_tokens: int
) -> list[Counter]:
    """`kept` of each story: it is begun as it is told, and a transformers model goes on greedily, up to its end."""
    starts = [beginning(story) for story in told]
    prompts = [tokenizer.eos_token + start for start in starts]
    batch = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
    n_tokens = batch["input_ids"].shape[1]
    written = model.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False)
    texts = tokenizer.batch_decode(written[:, n_tokens:], skip_special_tokens=True)
    return [kept(story, start, text) for story, start, text in zip(told, starts, texts, strict=True)]
