"""Perplexity against bits, by hand: `OMP_NUM_THREADS=1 python -m week5_inference.quantization_study` (15 minutes).

SmolLM2 and the course model; 8, 4, 3 and 2 bits; nearest rounding, GPTQ and AWQ on one grid (zero points, groups).
Every setting is written to quantization_study.json when it is done; what is there already is not run again.
"""

import copy
import json
import os
import sys
import time
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from shared.answers import write_atomically
from shared.data import corpus, stories
from shared.models import course_folder, smollm2
from shared.runtime import machine
from week1_decoder.solutions.decoder import GPT
from week2_pretraining.solutions.pretraining import load_pretrained
from week5_inference.quantized import METHODS, quantize_model, stored_bytes

STORED = Path(__file__).parent / "quantization_study.json"
SEED, LENGTH, BITS = 0, 128, (8, 4, 3, 2)
# 576, SmolLM2's width, is no multiple of 128, so its groups are 64.
MODELS = {
    "course model": {"group_size": 128, "stories": 200, "windows": 64},
    "SmolLM2": {"group_size": 64, "stories": 24, "windows": 16},
}


def load(name: str) -> tuple[nn.Module, object]:
    return smollm2() if name == "SmolLM2" else load_pretrained(course_folder(), GPT)


def calibration(tokenizer, windows: int, length: int = LENGTH, seed: int = SEED) -> list[Int[Tensor, "batch seq"]]:
    """Windows of stories from the training split, in batches of at most 8."""
    text = corpus(windows * length * 8, seed=seed)
    token_ids = torch.tensor(tokenizer(text, verbose=False).input_ids[: windows * length]).view(-1, length)
    return list(token_ids.split(8))


@torch.no_grad()
def story_nats(
    model: nn.Module, tokenizer, count: int, length: int = LENGTH, seed: int = SEED
) -> tuple[Float[Tensor, "story"], Int[Tensor, "story"]]:
    """(nats, tokens) of held-out stories, each cut at `length` tokens: the negative log-likelihood but of the first."""
    rows = [tokenizer(s.text).input_ids[:length] for s in stories(count, seed=seed, split="validation")]
    nats, tokens = [], []
    for start in range(0, count, 8):
        batch = [torch.tensor(row) for row in rows[start : start + 8]]
        token_ids = nn.utils.rnn.pad_sequence(batch, batch_first=True)  # causal: padding at the end changes nothing
        logits = model(token_ids)
        logits = getattr(logits, "logits", logits)[:, :-1].float()
        lost = nn.functional.cross_entropy(logits.transpose(1, 2), token_ids[:, 1:], reduction="none")
        for row, length_of in zip(lost, map(len, batch), strict=True):
            nats.append(row[: length_of - 1].sum())
            tokens.append(length_of - 1)
    return torch.stack(nats), torch.tensor(tokens)


def settings() -> list[tuple[str, int]]:
    """(method, bits): full precision, nearest rounding, which is quick, then GPTQ and AWQ, 8 bits last."""
    calibrated = [(method, bits) for bits in (4, 3, 2, 8) for method in METHODS[1:]]
    return [("full", 32), *((METHODS[0], bits) for bits in BITS), *calibrated]


def measure(name: str, method: str, bits: int, model: nn.Module, tokenizer) -> dict:
    """One setting: nats of each story, bytes, seconds."""
    chosen, start = MODELS[name], time.perf_counter()
    if method != "full":
        batches = calibration(tokenizer, chosen["windows"])
        quantize_model(model, bits, method, chosen["group_size"], batches, act_order=True)
    made = time.perf_counter() - start
    nats, tokens = story_nats(model, tokenizer, chosen["stories"])
    return {
        "model": name,
        "method": method,
        "bits": bits,
        "nats": [round(value, 4) for value in nats.tolist()],
        "tokens": tokens.tolist(),
        "bytes": stored_bytes(model),
        "seconds_to_quantize": round(made, 1),
    }


def main() -> None:
    torch.manual_seed(SEED)
    about = {
        "command": "OMP_NUM_THREADS=1 python -m week5_inference.quantization_study",
        "seed": SEED,
        "machine": ", ".join(machine().values()),
        "threads": torch.get_num_threads(),
        "settings": {"tokens_a_story": LENGTH, **MODELS, "gptq": "act_order, damping 0.01", "awq": "10 steps"},
    }
    runs = json.loads(STORED.read_text(encoding="utf-8"))["runs"] if STORED.exists() else []
    done = {(run["model"], run["method"], run["bits"]) for run in runs}
    for name in MODELS:
        todo = [setting for setting in settings() if (name, *setting) not in done]
        if not todo:
            continue
        model, tokenizer = load(name)
        for method, bits in tqdm(todo, desc=name, file=sys.stderr):
            runs.append(measure(name, method, bits, copy.deepcopy(model), tokenizer))
            write_atomically(STORED, json.dumps({**about, "runs": runs}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
