"""Addition as text for a small model of characters: the answer at once, or worked steps before it (Nye et al. 2021)."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from week1_decoder.solutions.decoder import GPT, GPTConfig
from week2_pretraining.solutions.sampling import generate
from week3_evaluation.solutions.benchmarks import extract_number
from week5_inference.solutions.prompting import scratchpad_target

CHARACTERS = "0123456789+=# \n;"  # ";" ends a text
ID = {character: i for i, character in enumerate(CHARACTERS)}
Problem = tuple[int, int]


def direct_target(a: int, b: int) -> str:
    """The sum alone."""
    return str(a + b)


def answer_first_target(a: int, b: int) -> str:
    """As many tokens as the worked steps, but the sum stands before them, where they cannot help: a control."""
    *steps, answer = scratchpad_target(a, b).split("\n")
    return "\n".join([answer, *steps])


TARGETS = {
    "worked steps": scratchpad_target,
    "answer at once": direct_target,
    "answer, then steps": answer_first_target,
}


def problems(count: int, digits: int, seed: int, without: Sequence[Problem] = ()) -> list[Problem]:
    """Distinct pairs of numbers with so many digits, none of them in `without`; ValueError if there are not so many."""
    dice, low, high = random.Random(seed), 10 ** (digits - 1), 10**digits - 1
    found: dict[Problem, None] = {}
    taken = set(without)
    if count > (high - low + 1) ** 2 - len(taken):
        raise ValueError(f"there are only {(high - low + 1) ** 2 - len(taken)} pairs of {digits} digits, not {count}")
    while len(found) < count:
        pair = (dice.randint(low, high), dice.randint(low, high))
        if pair not in taken:
            found[pair] = None
    return list(found)


def encode(text: str) -> list[int]:
    return [ID[character] for character in text]


def rows_of(pairs: Sequence[Problem], target: Callable[[int, int], str]) -> tuple[Tensor, Tensor]:
    """(token_ids, targets) of "a+b=" and its target: the question is read, not learned (-100)."""
    rows = [(encode(f"{a}+{b}="), encode(target(a, b) + ";")) for a, b in pairs]
    width = max(len(prompt) + len(answer) for prompt, answer in rows) - 1
    token_ids, targets = torch.zeros(len(rows), width, dtype=torch.long), torch.full((len(rows), width), -100)
    for i, (prompt, answer) in enumerate(rows):
        whole = prompt + answer
        token_ids[i, : len(whole) - 1] = torch.tensor(whole[:-1])
        targets[i, len(prompt) - 1 : len(whole) - 1] = torch.tensor(answer)
    return token_ids, targets


def small_gpt(seed: int, context_length: int, GPT: type[nn.Module] = GPT) -> nn.Module:
    """A GPT of 0.1 million parameters."""
    torch.manual_seed(seed)
    shape = {"d_model": 64, "n_heads": 4, "n_layers": 2, "context_length": context_length}
    return GPT(GPTConfig(vocab_size=len(CHARACTERS), **shape))


def train_addition(model: nn.Module, rows: tuple[Tensor, Tensor], steps: int, seed: int, batch_size: int = 32) -> None:
    """AdamW on the mean nats of a target's character; the rate goes up for a tenth of the steps, then down to 0."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in tqdm(range(steps), desc="training", leave=False, disable=None):
        picked = torch.randint(len(rows[0]), (batch_size,), generator=generator)
        token_ids, targets = rows[0][picked], rows[1][picked]
        loss = F.cross_entropy(model(token_ids).flatten(0, 1), targets.flatten(), ignore_index=-100)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def write(model: nn.Module, pairs: Sequence[Problem], longest: int) -> list[str]:
    """What the model writes after "a+b=", greedily, all pairs at once; they must have equally many digits."""
    prompts = torch.tensor([encode(f"{a}+{b}=") for a, b in pairs])
    written = generate(model, prompts, longest, temperature=0.0, eos_id=ID[";"])
    texts = ["".join(CHARACTERS[i] for i in row) for row in written[:, prompts.shape[1] :].tolist()]
    return [text.partition(";")[0] for text in texts]


def right(texts: Sequence[str], pairs: Sequence[Problem]) -> Tensor:
    """1 for each text whose number, after "####" where there is one, is the sum; else 0."""
    sums = [float(a + b) for a, b in pairs]
    return torch.tensor([float(extract_number(text) == answer) for text, answer in zip(texts, sums, strict=True)])
