"""A larger model for lesson 05, three times as deep as the course model, which drafts for it.

python -m week5_inference.larger           make it again, into work/larger
python -m week5_inference.larger --steps 50

It is grown, not trained from nothing: every block of the course model is followed by two new ones, copies of it whose
two output matrices are zero, so that at first the larger model says what the course model says (block expansion, as in
LLaMA Pro, Wu et al. 2024). Then it goes on with week 2's training loop. Its matrices are stored as lesson 04 would have
it: 8-bit codes, one scale a row, which is a quarter of the float32 file.
"""

import argparse
import copy
import json
import shlex
import sys
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerFast

from shared.answers import write_atomically
from shared.course import work_folder
from shared.models import course_folder
from shared.runtime import machine, pick_device
from week1_decoder.solutions.decoder import GPT, GPTConfig
from week2_pretraining import pretrain as week2
from week2_pretraining.fused import fuse
from week2_pretraining.solutions.pretraining import evaluate_loss, load_pretrained

FOLDER = Path(__file__).with_name("larger_weights")


@dataclass(frozen=True)
class LargerConfig:
    """How the larger model is made; `LargerConfig()` is the one in the repository."""

    copies: int = 2  # new blocks after each block of the course model
    steps: int = 500
    batch_size: int = 4  # rows of 256 tokens in one step
    max_lr: float = 3e-4  # AdamW. Both are a tenth of what trained the course model:
    muon_lr: float = 0.002  # at half of that, what it knew was lost first, and 500 steps did not bring it back
    n_stories: int = 24_000
    seed: int = 1  # other batches than the course model saw


def grow(model: nn.Module, copies: int) -> nn.Module:
    """A deeper GPT with the same outputs: each block, and behind it `copies` of it that add nothing yet."""
    config = replace(model.config, n_layers=model.config.n_layers * (1 + copies))
    larger = GPT(config)
    larger.load_state_dict(
        {name: value for name, value in model.state_dict().items() if not name.startswith("blocks.")}, strict=False
    )
    with torch.no_grad():
        for i, block in enumerate(larger.blocks):
            block.load_state_dict(model.blocks[i // (1 + copies)].state_dict())
            if i % (1 + copies):
                for linear in (block.attention.w_o, block.feed_forward.w_out):
                    nn.init.zeros_(linear.weight)
                    nn.init.zeros_(linear.bias)
    return larger


def to_8_bits(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices as int8 codes and a float32 scale a row (absmax / 127), all else as float32."""
    stored = {}
    for name, value in state.items():
        if value.dim() == 2:
            scale = value.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / 127
            stored[f"{name}.scale"] = scale.contiguous()
            value = (value / scale).round().to(torch.int8)
        stored[name] = value.contiguous()
    return stored


def from_8_bits(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict in float32 that `to_8_bits` stored."""
    names = [name for name in stored if not name.endswith(".scale")]
    return {name: stored[name].float() * stored.get(f"{name}.scale", 1.0) for name in names}


def load_larger(model_class: type[nn.Module] = GPT, folder: Path = FOLDER) -> tuple[nn.Module, PreTrainedTokenizerFast]:
    """(model, tokenizer) of the larger model, in float32 and evaluation mode; the tokenizer is the course model's.

    Raises FileNotFoundError if the folder is not there: `python -m week5_inference.larger` makes it.
    """
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(f"{folder} holds no model: python -m week5_inference.larger makes one in work/larger")
    config = GPTConfig(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
    model = model_class(config)
    model.load_state_dict(from_8_bits(load_file(folder / "model.safetensors")))
    return model.eval(), load_pretrained(course_folder("base"), GPT)[1]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m week5_inference.larger", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=work_folder() / "larger", help="folder for the model")
    for field in fields(LargerConfig):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    options = parser.parse_args(arguments)
    config = LargerConfig(**{field.name: getattr(options, field.name) for field in fields(LargerConfig)})

    device = pick_device()
    base, tokenizer = load_pretrained(course_folder("base"), GPT)
    model = fuse(grow(base, config.copies)).to(device)
    run = week2.PretrainConfig(
        n_layers=model.config.n_layers,
        n_stories=config.n_stories,
        batch_size=config.batch_size,
        steps=config.steps,
        max_lr=config.max_lr,
        muon_lr=config.muon_lr,
        warmup=0.1,
        evaluate_every=50,
        seed=config.seed,
    )
    train_ids = week2.encode_stories(tokenizer, config.n_stories, 0, "train")  # the course model's stories
    held_out = week2.held_out_batches(tokenizer, replace(run, seed=0))
    optimizer = week2.make_optimizer(model, run)
    starts = week2.story_starts(train_ids, tokenizer, run)
    generator = torch.Generator().manual_seed(config.seed)
    on_device = [(x.to(device), y.to(device)) for x, y in held_out]
    losses = {"course model": evaluate_loss(base.to(device), on_device), "grown": evaluate_loss(model, on_device)}
    records = []
    for record in week2.pretrain(model, optimizer, run, train_ids, held_out, generator, starts=starts):
        tqdm.write(f"step {record.step}: {record.loss:.3f} nats a token, held out {record.held_out_loss:.3f}")
        records.append({k: v for k, v in asdict(record).items() if k != "losses"})

    whole = GPT(model.config)
    whole.load_state_dict(copy.deepcopy(model.state_dict()))
    losses["larger"] = evaluate_loss(whole.to(device), on_device)
    stored = {name: value.cpu() for name, value in to_8_bits(whole.state_dict()).items()}
    options.out.mkdir(parents=True, exist_ok=True)
    save_file(stored, options.out / "model.safetensors")
    write_atomically(options.out / "config.json", json.dumps(asdict(model.config), indent=1) + "\n")
    losses["larger, stored in 8 bits"] = evaluate_loss(load_larger(GPT, options.out)[0].to(device), on_device)
    about = {
        "command": shlex.join(["python", "-m", "week5_inference.larger", *arguments]),
        "machine": ", ".join(machine().values()),
        "config": asdict(config),
        "held_out_nats_per_token": losses,
        "records": records,
    }
    write_atomically(options.out / "training.json", json.dumps(about, indent=1) + "\n")
    print(f"The model is in {options.out}; held-out nats a token: {losses}")


if __name__ == "__main__":
    main(sys.argv[1:])
