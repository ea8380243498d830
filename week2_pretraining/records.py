"""What a pretraining run writes down: a Record at each evaluation, and training.json beside the model."""

import json
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shared.answers import write_atomically
from shared.runtime import machine


@dataclass(frozen=True)
class Record:
    """What is written down at an evaluation."""

    step: int
    loss: float  # nats a token, mean of the training steps since the last record
    held_out_loss: float  # nats a token
    seconds: float  # of training alone, since the run was started or resumed
    tokens: int  # in that time
    losses: tuple[float, ...]  # of each of those training steps


class TrainingLog:
    """training.json beside the model: how it was made, and a Record at each evaluation."""

    def __init__(self, path: Path, arguments: list[str], config: Any, first_step: int):
        self.path = path
        self.about = {
            "command": shlex.join(["python", "-m", "week2_pretraining.pretrain", *arguments]),
            "machine": ", ".join(machine().values()),
            "config": asdict(config),
            "records": [],
        }
        if first_step:
            earlier = json.loads(path.read_text(encoding="utf-8"))["records"]
            self.about["records"] = [record for record in earlier if record["step"] <= first_step]

    def write(self, record: Record) -> None:
        self.about["records"].append(asdict(record))
        write_atomically(self.path, json.dumps(self.about, indent=1) + "\n")
