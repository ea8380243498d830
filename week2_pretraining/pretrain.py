"""Pretrain the course model: one flat loop, in one process or, started by torchrun, in many.

python -m week2_pretraining.pretrain                                       the course model, into work/base
python -m week2_pretraining.pretrain --resume                              go on where it was stopped
torchrun --nproc-per-node 2 -m week2_pretraining.pretrain                  the same, sharded over two processes

In one process the parts that you wrote (GPT, its sinusoids, BPE, batches, schedule, clipping, Muon's step, evaluation,
checkpoints) are taken from your saved answers; the course's stand in for what you have not passed yet.
"""

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerFast

from shared import mine
from shared.course import work_folder
from shared.data import stories
from shared.runtime import pick_device, pick_dtype, preset
from week1_decoder.solutions.decoder import GPT, GPTConfig, sinusoidal_positions
from week1_decoder.solutions.tokenization import to_tokenizers, train_bpe
from week2_pretraining.fused import fuse
from week2_pretraining.records import Record, TrainingLog
from week2_pretraining.sharding import ShardedRun, export, latest, shard
from week2_pretraining.solutions.data import get_batch
from week2_pretraining.solutions.optimization import clip_grad_norm, parameter_groups, warmup_cosine_lr
from week2_pretraining.solutions.pretraining import evaluate_loss, load_checkpoint, save_checkpoint
from week2_pretraining.solutions.speedrun import muon_step

END_OF_TEXT = "<|endoftext|>"
SPECIAL_TOKENS = (END_OF_TEXT, "<|im_start|>", "<|im_end|>", "<|pad|>")  # the chat tokens wait for week 4


@dataclass(frozen=True)
class PretrainConfig:
    """A pretraining run; `PretrainConfig()` is the course model's."""

    vocab_size: int = 2048
    context_length: int = 256
    d_model: int = 128
    n_heads: int = 4
    n_layers: int = 4
    position_scale: float = 0.1  # learned positions begin as so many times week 1's sinusoids; 0: as noise
    n_stories: int = 24_000
    batch_size: int = 8  # rows of context_length tokens in one step, over all processes
    steps: int = 1_000
    story_context: int = 160  # tokens of a row that begins at a story; a step has as many of these as fill its tokens
    full_every: int = 4  # so often comes a step on rows of context_length, from anywhere
    max_lr: float = 4e-3  # AdamW
    muon_lr: float = 0.02  # for the matrices of the blocks (lesson 06); 0: AdamW for everything
    warmup: float = 0.04  # share of the steps
    beta2: float = 0.95
    weight_decay: float = 0.1
    max_norm: float = 1.0
    evaluate_every: int = 100
    seed: int = 0

    def model(self) -> GPTConfig:
        return GPTConfig(self.vocab_size, self.context_length, self.d_model, self.n_heads, self.n_layers)


GPU_RUN = PretrainConfig(d_model=384, n_heads=6, n_layers=6, batch_size=64, steps=5000, n_stories=200_000, max_lr=2e-3)


def make_tokenizer(config: PretrainConfig) -> PreTrainedTokenizerFast:
    """Byte-level BPE, learned from the first 3,000 stories."""
    text = "\n\n".join(story.text for story in stories(3000, seed=config.seed))
    vocab, merges = train_bpe(text, config.vocab_size, SPECIAL_TOKENS)
    return PreTrainedTokenizerFast(
        tokenizer_object=to_tokenizers(vocab, merges, SPECIAL_TOKENS),
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token="<|pad|>",
        extra_special_tokens=["<|im_start|>", "<|im_end|>"],
        model_max_length=config.context_length,
        clean_up_tokenization_spaces=False,
    )


def encode_stories(tokenizer: PreTrainedTokenizerFast, count: int, seed: int, split: str) -> Int[Tensor, "n_tokens"]:
    """One row of token ids: each story with <|endoftext|> before it."""
    texts = [END_OF_TEXT + story.text for story in stories(count, seed=seed, split=split)]
    return torch.tensor([token_id for ids in tokenizer(texts)["input_ids"] for token_id in ids])


def held_out_batches(
    tokenizer: PreTrainedTokenizerFast, config: PretrainConfig, n_batches: int = 5
) -> list[tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]]:
    """The same rows of validation stories for every evaluation, one after another, without overlap."""
    width = config.context_length
    token_ids = encode_stories(tokenizer, 40 * n_batches, config.seed, "validation")
    rows = token_ids[: 8 * n_batches * width + 1].unfold(0, width + 1, width)
    return [(part[:, :-1], part[:, 1:]) for part in rows.split(8)]


def story_batch(
    token_ids: Int[Tensor, "n_tokens"],
    starts: Int[Tensor, "n_stories"],
    batch_size: int,
    context_length: int,
    generator: torch.Generator,
) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]:
    """(inputs, targets) as from `get_batch`, but each row begins at one of `starts`."""
    chosen = starts[torch.randint(len(starts), (batch_size, 1), generator=generator)]
    places = chosen + torch.arange(context_length)
    return token_ids[places], token_ids[places + 1]


def story_starts(
    token_ids: Int[Tensor, "n_tokens"], tokenizer: PreTrainedTokenizerFast, config: PretrainConfig
) -> Int[Tensor, "n_stories"]:
    """Where a story begins and a whole row, with its last target, fits behind."""
    starts = (token_ids == tokenizer.convert_tokens_to_ids(END_OF_TEXT)).nonzero().flatten()
    return starts[starts < len(token_ids) - config.context_length]


def pretrain(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    config: PretrainConfig,
    train_ids: Int[Tensor, "n_tokens"],
    held_out: list[tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]],
    generator: torch.Generator,
    first_step: int = 0,
    starts: Int[Tensor, "n_stories"] | None = None,
) -> Iterator[Record]:
    """Train from `first_step` on, in place; yields a Record at each evaluation, and after the last step.

    With `starts`, the rows begin at stories, except in every `full_every`-th step; without, all begin anywhere.
    """
    device, n_processes = pick_device(), int(os.environ.get("WORLD_SIZE", 1))
    dtype = pick_dtype(device)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)  # a T4; else it does nothing
    warmup_steps = round(config.warmup * config.steps)
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    seconds, tokens, losses = 0.0, 0, []
    model.train()
    for step in tqdm(range(first_step, config.steps), desc="pretraining", initial=first_step, total=config.steps):
        started = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = warmup_cosine_lr(step, group["initial_lr"], warmup_steps, config.steps)
        rows, width = config.batch_size // n_processes, config.context_length
        if starts is None or (step + 1) % config.full_every == 0:
            batch = get_batch(train_ids, rows, width, generator)
        else:
            story_width = min(config.story_context, width)
            batch = story_batch(train_ids, starts, rows * width // story_width, story_width, generator)
        token_ids, targets = (t.to(device) for t in batch)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = F.cross_entropy(model(token_ids).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        clip_grad_norm(model.parameters(), config.max_norm)
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
        tokens += token_ids.numel() * n_processes
        seconds += time.perf_counter() - started
        if (step + 1) % config.evaluate_every == 0 or step + 1 == config.steps:
            batches = ((x.to(device), y.to(device)) for x, y in held_out)
            held_out_loss = evaluate_loss(model, batches)
            yield Record(step + 1, sum(losses) / len(losses), held_out_loss, seconds, tokens, tuple(losses))
            losses.clear()


def make_model(config: PretrainConfig) -> GPT:
    """A new GPT whose learned positions begin as week 1's sinusoids: "one place back" is then the same turn everywhere.

    If they began as noise, the model would have to learn for each place by itself which one comes before it. Attention
    and norms run in PyTorch's kernels (`fuse`); week 1 showed that they give what yours give.
    """
    model = GPT(config.model(), torch.Generator().manual_seed(config.seed))
    if config.position_scale:
        waves = sinusoidal_positions(config.context_length, config.d_model)
        model.position_embedding.weight.data.copy_(config.position_scale * waves)
    return fuse(model)


class MuonAdamW(torch.optim.AdamW):
    """AdamW, except that groups of equal matrices with `muon=True` take Muon's step together."""

    @torch.no_grad()
    def step(self, closure=None) -> None:
        groups = self.param_groups
        for group in (group for group in groups if group["muon"]):
            matrices = group["params"]
            for p in matrices:
                if not self.state[p]:  # "step" is what AdamW looks for in every state that it loads
                    self.state[p].update(step=torch.tensor(0.0), momentum_buffer=torch.zeros_like(p))
                self.state[p]["step"] += 1
            buffers = [self.state[p]["momentum_buffer"] for p in matrices]
            weights, gradients, buffer = (torch.stack(t) for t in (matrices, [p.grad for p in matrices], buffers))
            weights, buffer = muon_step(weights, gradients, buffer, group["lr"])
            for p, old, new_weight, new_buffer in zip(matrices, buffers, weights, buffer, strict=True):
                p.copy_(new_weight)
                old.copy_(new_buffer)
        self.param_groups = [group for group in groups if not group["muon"]]
        super().step(closure)
        self.param_groups = groups


def make_optimizer(model: torch.nn.Module, config: PretrainConfig) -> torch.optim.Optimizer:
    """AdamW; with `muon_lr`, Muon for the matrices of the blocks, which are grouped by their shapes."""
    groups = [{**group, "muon": False} for group in parameter_groups(model, config.weight_decay)]
    if config.muon_lr:
        by_shape = defaultdict(list)
        for p in model.blocks.parameters():
            if p.dim() == 2:
                by_shape[p.shape].append(p)
        taken = {id(p) for matrices in by_shape.values() for p in matrices}
        for group in groups:
            group["params"] = [p for p in group["params"] if id(p) not in taken]
        groups += [{"params": matrices, "lr": config.muon_lr, "muon": True} for matrices in by_shape.values()]
    optimizer = MuonAdamW(groups, lr=config.max_lr, betas=(0.9, config.beta2))
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]  # now, so that a sharded checkpoint has a place to load it to
    return optimizer


def parse(arguments: list[str]) -> tuple[PretrainConfig, argparse.Namespace]:
    """The command line: every field of PretrainConfig is an option."""
    parser = argparse.ArgumentParser(prog="python -m week2_pretraining.pretrain", description=__doc__.splitlines()[0])
    folder = work_folder() / "base"
    parser.add_argument("--out", type=Path, default=folder, help="folder for the model and its checkpoint")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in that folder")
    for field, value in asdict(preset(laptop=PretrainConfig(), gpu=GPU_RUN)).items():
        parser.add_argument(f"--{field.replace('_', '-')}", type=type(value), default=value, help=f"default: {value}")
    options = parser.parse_args(arguments)
    return PretrainConfig(**{field: getattr(options, field) for field in asdict(PretrainConfig())}), options


PARTS = [  # what weeks 1 and 2 had you write
    *("GPT", "sinusoidal_positions", "train_bpe", "get_batch", "warmup_cosine_lr", "parameter_groups"),
    *("clip_grad_norm", "muon_step", "evaluate_loss", "save_checkpoint", "load_checkpoint"),
]


def main(arguments: list[str]) -> None:
    config, options = parse(arguments)
    rank, n_processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = pick_device()
    generator = torch.Generator().manual_seed(config.seed + rank)  # each process draws batches of its own
    if n_processes == 1:
        globals().update({name: mine(name) for name in PARTS})
    else:
        if device.type == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")

    tokenizer = make_tokenizer(config)
    train_ids = encode_stories(tokenizer, config.n_stories, config.seed, "train")
    held_out = held_out_batches(tokenizer, config)
    model = make_model(config).to(device)
    if n_processes > 1:
        model = shard(model)
    optimizer = make_optimizer(model, config)

    checkpoint, first_step = options.out / "checkpoint.pt", 0
    sharded = ShardedRun(model, optimizer, generator, config)
    if options.resume and n_processes == 1:
        first_step = load_checkpoint(checkpoint, model, optimizer, generator, config)
    elif options.resume:
        dcp.load({"run": sharded}, checkpoint_id=latest(options.out))
        first_step = sharded.step

    log = TrainingLog(options.out / "training.json", arguments, config, first_step)
    starts = story_starts(train_ids, tokenizer, config)
    for record in pretrain(model, optimizer, config, train_ids, held_out, generator, first_step, starts):
        if n_processes == 1:
            save_checkpoint(checkpoint, model, optimizer, generator, record.step, config)
        else:
            sharded.step = record.step
            dcp.save({"run": sharded}, checkpoint_id=options.out / f"checkpoint-{record.step:07d}")
        if rank == 0:
            log.write(record)
            speed = record.tokens / record.seconds
            losses = f"{record.loss:.3f} nats a token, held out {record.held_out_loss:.3f}"
            tqdm.write(f"step {record.step}: {losses}, {speed:,.0f} tokens/s")
    export(model, GPT(config.model()), tokenizer, options.out)
    if n_processes > 1:
        dist.destroy_process_group()
    elif rank == 0:
        print(f"The model is in {options.out}: AutoModelForCausalLM.from_pretrained reads it.")


if __name__ == "__main__":
    main(sys.argv[1:])
