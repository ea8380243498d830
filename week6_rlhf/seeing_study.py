"""What the course model sees, over three seeds: `python -m week6_rlhf.seeing_study [SEED ...]`.

Each seed has two vision encoders: one that was never shown the held-out pairs of colour and shape ("narrow"), one that
was shown all ("broad"). Whatever is trained to answer questions is never shown them. Each result goes into
seeing_study.json as soon as it is there; a seed that is run again replaces what it gave before.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from tqdm.auto import tqdm

from shared import mine
from shared.answers import write_atomically
from shared.models import course_folder
from shared.runtime import machine
from week2_pretraining.solutions.pretraining import load_pretrained
from week4_finetuning.solutions.lora import inject_lora, linear_names
from week6_rlhf.pictures import (
    PATCH,
    SIZE,
    Picture,
    new_pictures,
    pictures,
    pixels_of,
    shuffled,
    shuffled_pixels,
)
from week6_rlhf.seeing import D_IMAGE, KINDS, Seer, patch_features, right, train_clip, train_seer
from week6_rlhf.solutions.multimodal import ImageProjector, VisionEncoder

STORED = Path(__file__).parent / "seeing_study.json"
N_TRAIN, N_TEST = 3_000, 200


SEE: dict[str, Callable[[VisionEncoder, Tensor], Tensor]] = {
    "projector": patch_features,
    "pixels shuffled": lambda encoder, pixels: patch_features(encoder, shuffled_pixels(pixels)),
    "features shuffled": lambda encoder, pixels: shuffled(patch_features(encoder, pixels)),
    "blind": lambda encoder, pixels: torch.zeros_like(patch_features(encoder, pixels)),
}


def measure(
    seer: Seer, encoder: VisionEncoder, tests: dict[str, list[Picture]], how: str = "projector"
) -> dict[str, int]:
    """Right answers by set and kind of question; `how` it sees is one of SEE."""
    seen = {name: SEE[how](encoder, pixels_of(shown)) for name, shown in tests.items()}
    return {
        f"{name}, {kind}": sum(right(seer, seen[name], [picture.question(kind) for picture in shown]))
        for name, shown in tests.items()
        for kind in KINDS
    }


def probe(encoder: VisionEncoder, shown: Sequence[Picture], tests: dict[str, list[Picture]]) -> dict[str, int]:
    """A linear classifier on the mean of the patches' features, for pictures of one thing: right answers."""
    single = [picture for picture in shown if len(picture.things) == 1]
    x, counts = patch_features(encoder, pixels_of(single)).mean(dim=1).numpy(), {}
    for kind in KINDS:
        classifier = LogisticRegression(max_iter=2_000).fit(x, [picture.question(kind).gold for picture in single])
        for name in ("seen, 1", "unseen, 1"):
            features = patch_features(encoder, pixels_of(tests[name])).mean(dim=1).numpy()
            gold = [picture.question(kind).gold for picture in tests[name]]
            counts[f"{name}, {kind}"] = int((classifier.predict(features) == gold).sum())
    return counts


def study(seed: int) -> Iterator[dict]:
    """All settings of one seed; each result counts right answers of N_TEST."""
    shown, tests = pictures(N_TRAIN, seed=seed), new_pictures(N_TEST, seed)
    model, tokenizer = load_pretrained(course_folder("instruct"), mine("GPT"))
    model.requires_grad_(False)

    def result(encoder: str, setting: str, counts: dict[str, int]) -> dict:
        return {"seed": seed, "encoder": encoder, "setting": setting, "of": N_TEST, "right": counts}

    def taught(seer: Seer, features: Tensor, steps: int = 300) -> Seer:
        train_seer(seer, features, shown, seed, steps)
        return seer

    def fresh(merge: int = 2) -> Seer:
        torch.manual_seed(seed)
        return Seer(model, tokenizer, ImageProjector(D_IMAGE, model.config.d_model, merge))

    for name, target in (("narrow", "seen"), ("broad", "any")):
        encoder = train_clip(tokenizer, pictures(N_TRAIN, seed=seed, target=target), seed)[0].encoder
        features = patch_features(encoder, pixels_of(shown))
        yield result(name, "linear probe", probe(encoder, shown, tests))
        seer = taught(fresh(), features)
        for how in ("projector", "pixels shuffled", "features shuffled"):
            yield result(name, how, measure(seer, encoder, tests, how))
        if name == "narrow":
            blind = taught(fresh(), torch.zeros_like(features))
            yield result(name, "blind", measure(blind, encoder, tests, "blind"))
            continue
        for merge in (4, 1):
            n_tokens = (SIZE // PATCH // merge) ** 2
            yield result(name, f"{n_tokens} tokens", measure(taught(fresh(merge), features), encoder, tests))
        tuned = Seer(copy.deepcopy(model), tokenizer, copy.deepcopy(seer.projector))
        inject_lora(tuned.model, linear_names(tuned.model), rank=8, alpha=16)
        yield result(name, "then LoRA", measure(taught(tuned, features, 150), encoder, tests))
        yield result(name, "then the projector alone", measure(taught(seer, features, 150), encoder, tests))


def load(path: Path = STORED) -> dict:
    """The stored study: {"command", "machine", "results": [{"seed", "encoder", "setting", "of", "right"}, …]}."""
    return json.loads(path.read_text(encoding="utf-8"))


def main(seeds: Sequence[int], path: Path = STORED) -> None:
    about = {"command": "python -m week6_rlhf.seeing_study", "machine": ", ".join(machine().values())}
    results = [row for row in load(path)["results"] if row["seed"] not in seeds] if path.exists() else []
    for seed in seeds:
        for result in tqdm(study(seed), desc=f"seed {seed}"):
            results.append(result)
            rows = ",\n".join(json.dumps(row) for row in results)  # one line a result
            write_atomically(path, f'{json.dumps(about)[:-1]}, "results": [\n{rows}\n]}}\n')


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or [0, 1, 2])
