"""Which settings of SFT matter: a search by Optuna, by hand. `python -m week4_finetuning.study` writes study.json."""

import argparse
import copy
import json
import math
import time
from dataclasses import replace
from pathlib import Path

import optuna
import torch
from tqdm.auto import tqdm

from shared.answers import write_atomically
from shared.models import course_folder
from shared.runtime import machine
from week1_decoder.solutions.decoder import GPT
from week2_pretraining.solutions.pretraining import load_pretrained
from week4_finetuning.chat import encode
from week4_finetuning.instructions import instructions
from week4_finetuning.sft import SFTConfig, encoded, tune
from week4_finetuning.solutions.instruction_data import collate_sft, fit, sft_loss

STORED = Path(__file__).parent / "study.json"
SPACE = {
    "max_lr": optuna.distributions.FloatDistribution(1e-4, 3e-2, log=True),
    "batch_size": optuna.distributions.CategoricalDistribution([4, 8, 16]),
    "steps": optuna.distributions.CategoricalDistribution([20, 40, 80]),
}


@torch.no_grad()
def held_out_loss(model: torch.nn.Module, pairs: list, pad_id: int) -> float:
    """Nats a reply token over all pairs."""
    total = counted = 0
    for start in range(0, len(pairs), 25):
        batch = collate_sft(pairs[start : start + 25], pad_id, model.config.context_length)
        n = int((batch["labels"][:, 1:] != -100).sum())
        total += n * sft_loss(model(batch["token_ids"]), batch["labels"]).item()
        counted += n
    return total / counted


def load_study(path: Path = STORED) -> optuna.Study:
    """The stored trials as a study of Optuna's own."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize")
    for trial in json.loads(path.read_text(encoding="utf-8"))["trials"]:
        study.add_trial(
            optuna.trial.create_trial(params=trial["params"], distributions=SPACE, value=trial["held_out_loss"])
        )
    return study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=24)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    base, tokenizer = load_pretrained(course_folder("base"), GPT)
    pairs = encoded(tokenizer, replace(SFTConfig(), n_examples=4000), base.config.context_length)
    held_out, _ = fit([encode(tokenizer, e) for e in instructions(200, seed=2, split="validation")], 256)
    study = optuna.create_study(direction="minimize", sampler=optuna.samplers.TPESampler(seed=0))
    trials = []
    about = {"command": "python -m week4_finetuning.study", "machine": ", ".join(machine().values()), "trials": trials}
    for _ in tqdm(range(options.trials), desc="trials"):
        trial, start, model = study.ask(SPACE), time.perf_counter(), copy.deepcopy(base)
        list(tune(model, pairs, replace(SFTConfig(), **trial.params), tokenizer.pad_token_id))
        loss = held_out_loss(model, held_out, tokenizer.pad_token_id)
        study.tell(trial, min(loss, 100.0) if math.isfinite(loss) else 100.0)
        trials.append({"params": trial.params, "held_out_loss": loss, "seconds": round(time.perf_counter() - start, 1)})
        write_atomically(STORED, json.dumps(about, indent=1) + "\n")  # now: a search may be stopped
    print(f"the best of {len(trials)}: {study.best_value:.3f} nats a reply token, {study.best_params}")


if __name__ == "__main__":
    main()
