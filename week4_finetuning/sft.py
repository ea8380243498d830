"""Tune the course model on the course's instructions: one flat loop.

python -m week4_finetuning.sft                 from the base model into work/instruct
python -m week4_finetuning.sft --steps 200     a shorter run
python -m week4_finetuning.sft --lora-rank 16  LoRA in every linear layer, merged at the end

Yours are used where you have passed them (GPT, LoRA, collate_sft, sft_loss, the schedule, clipping); the course's stand
in. The weights are stored in 16 bits, which halves the file.
"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from shared import mine
from shared.answers import write_atomically
from shared.course import work_folder
from shared.models import course_folder
from shared.runtime import machine, pick_device
from week2_pretraining.solutions.optimization import clip_grad_norm, parameter_groups, warmup_cosine_lr
from week2_pretraining.solutions.pretraining import load_pretrained, save_pretrained
from week4_finetuning.chat import encode
from week4_finetuning.instructions import instructions
from week4_finetuning.solutions.instruction_data import collate_sft, fit, sft_loss
from week4_finetuning.solutions.lora import inject_lora, linear_names, merge_all

Pair = tuple[list[int], list[int]]


@dataclass(frozen=True)
class SFTConfig:
    """A tuning run; `SFTConfig()` is the course's instruct model."""

    n_examples: int = 20_000
    batch_size: int = 16
    steps: int = 1_500
    max_lr: float = 3e-3
    warmup: float = 0.04  # share of the steps
    weight_decay: float = 0.1
    max_norm: float = 1.0
    on_prompts: bool = False  # whether the loss counts the prompts too
    lora_rank: int = 0  # of the command line's run: LoRA in every linear layer, merged at the end; 0: all is trained
    seed: int = 0


def encoded(tokenizer: PreTrainedTokenizerBase, config: SFTConfig, context_length: int) -> list[Pair]:
    """The training examples as (prompt ids, response ids); those that do not fit the context are left out."""
    examples = instructions(config.n_examples, seed=config.seed)
    return fit([encode(tokenizer, example) for example in examples], context_length)[0]


def tune(model: torch.nn.Module, pairs: Sequence[Pair], config: SFTConfig, pad_id: int) -> Iterator[float]:
    """Train `model` in place; yields the loss of each step, nats a counted token. It ends in evaluation mode.

    Batches are drawn with replacement. It is a generator: `list(tune(...))` runs it.
    """
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay), lr=config.max_lr, betas=(0.9, 0.95))
    generator = torch.Generator().manual_seed(config.seed)
    model.train()
    for step in tqdm(range(config.steps), desc="tuning", leave=False):
        picked = torch.randint(len(pairs), (config.batch_size,), generator=generator).tolist()
        batch = collate_sft([pairs[i] for i in picked], pad_id, max_length=model.config.context_length)
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        labels = batch["labels"]
        if config.on_prompts:
            labels = batch["token_ids"].masked_fill(~batch["attention_mask"], -100)
        for group in optimizer.param_groups:
            group["lr"] = warmup_cosine_lr(step, config.max_lr, int(config.warmup * config.steps), config.steps)
        loss = sft_loss(model(batch["token_ids"]), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        clip_grad_norm(model.parameters(), config.max_norm)
        optimizer.step()
        yield loss.item()
    model.eval()


def as_transformers(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The same weights as a transformers GPT-2, which writes with a cache."""
    with TemporaryDirectory() as folder:
        save_pretrained(model, tokenizer, Path(folder))
        return AutoModelForCausalLM.from_pretrained(folder).eval().to(next(model.parameters()).device)


def add_lora(model: torch.nn.Module, rank: int) -> None:
    """LoRA in every linear layer, alpha = 2 rank; the embedding is trained whole, for the chat tokens are new in it."""
    inject_lora(model, linear_names(model), rank, alpha=2 * rank)
    model.token_embedding.requires_grad_(True)


def halve(folder: Path) -> None:
    """Store the weights of a model folder as float16; its config says float32, so that it is computed in that."""
    file = folder / "model.safetensors"
    save_file({name: t.half() for name, t in load_file(file).items()}, file, metadata={"format": "pt"})
    config = AutoConfig.from_pretrained(folder)
    config.dtype = torch.float32
    config.save_pretrained(folder)


PARTS = ("GPT", "inject_lora", "merge_all", "collate_sft", "sft_loss")
PARTS += ("parameter_groups", "clip_grad_norm", "warmup_cosine_lr")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m week4_finetuning.sft", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=work_folder() / "instruct", help="folder for the tuned model")
    for field, value in asdict(SFTConfig()).items():
        kind = (lambda text: text == "True") if isinstance(value, bool) else type(value)
        parser.add_argument(f"--{field.replace('_', '-')}", type=kind, default=value, help=f"default: {value}")
    options = parser.parse_args(arguments)
    config = SFTConfig(**{field: getattr(options, field) for field in asdict(SFTConfig())})
    parts = {name: mine(name) for name in PARTS}
    globals().update(parts)

    model, tokenizer = load_pretrained(course_folder("base"), parts["GPT"])
    model = model.to(pick_device())
    if config.lora_rank:
        add_lora(model, config.lora_rank)
    pairs = encoded(tokenizer, config, model.config.context_length)
    start = time.perf_counter()
    losses = list(tune(model, pairs, config, tokenizer.pad_token_id))
    save_pretrained(merge_all(model), tokenizer, options.out)
    halve(options.out)
    about = {
        "command": shlex.join(["python", "-m", "week4_finetuning.sft", *arguments]),
        "machine": ", ".join(machine().values()),
        "config": asdict(config),
        "seconds": round(time.perf_counter() - start, 1),
        "losses": [round(loss, 4) for loss in losses],
    }
    write_atomically(options.out / "training.json", json.dumps(about, indent=1) + "\n")
    last = losses[-50:]
    print(f"The model is in {options.out}; the last {len(last)} steps: {sum(last) / len(last):.3f} nats a token.")


if __name__ == "__main__":
    main(sys.argv[1:])
