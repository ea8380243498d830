"""Week 1's GPT with rotary positions, and the small one of lesson 03: `python -m week5_inference.rope_model` trains it.

It is trained on 64 tokens at a time, so that what happens beyond can be seen; a few minutes on one core. The weights go
to rope_gpt.safetensors in float16, with the settings, the loss, the command and the machine in the file's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from shared.data import corpus
from shared.models import course_folder
from shared.runtime import machine
from shared.training import train
from week1_decoder.solutions.attention import attention
from week1_decoder.solutions.decoder import GPT, GPTConfig
from week5_inference.solutions.attention_kernels import apply_rope

FILE = Path(__file__).with_name("rope_gpt.safetensors")
TRAINED_LENGTH = 64
CONFIG = {"vocab_size": 2048, "context_length": 1024, "d_model": 64, "n_heads": 4, "n_layers": 4, "positions": "none"}


class RopeAttention(nn.Module):
    """Week 1's multi-head attention, its four projections shared, with q and k turned by their positions.

    `frequencies` None means base^(-2i/d_head); another set of them extends the context.
    """

    def __init__(self, plain: nn.Module, rope: Callable, base: float = 10000.0) -> None:
        super().__init__()
        self.n_heads, self.rope, self.base, self.frequencies = plain.n_heads, rope, base, None
        self.w_q, self.w_k, self.w_v, self.w_o = plain.w_q, plain.w_k, plain.w_v, plain.w_o

    def forward(
        self, x: Float[Tensor, "batch seq d_model"], key_mask: Bool[Tensor, "batch seq"] | None = None
    ) -> Float[Tensor, "batch seq d_model"]:
        if key_mask is not None:
            raise ValueError("this small model is for rows without padding")
        q, k, v = (
            rearrange(project(x), "batch seq (head d_head) -> batch head seq d_head", head=self.n_heads)
            for project in (self.w_q, self.w_k, self.w_v)
        )
        positions = torch.arange(x.shape[1], device=x.device)
        q, k = (self.rope(part, positions, self.base, self.frequencies) for part in (q, k))
        return self.w_o(rearrange(attention(q, k, v), "batch head seq d_head -> batch seq (head d_head)"))


def with_rope(model: nn.Module, rope: Callable = apply_rope, base: float = 10000.0) -> nn.Module:
    """Put a RopeAttention in place of each block's attention; the same model. It should have positions="none"."""
    for block in model.blocks:
        block.attention = RopeAttention(block.attention, rope, base)
    return model


def set_frequencies(model: nn.Module, frequencies: Float[Tensor, " pairs"] | None) -> None:
    """Let all layers turn by these frequencies; None is what the model was trained with."""
    for block in model.blocks:
        block.attention.frequencies = frequencies


def load_rope_gpt(build: Callable = GPT, rope: Callable = apply_rope) -> tuple[nn.Module, dict[str, object]]:
    """(model in float32 and evaluation mode, how it was made); `build`: the learner's GPT, `rope`: their apply_rope."""
    with safe_open(FILE, framework="pt") as file:
        about = json.loads(file.metadata()["about"])
    weights = {name: value.float() for name, value in load_file(FILE).items()}
    model = build(GPTConfig(**CONFIG))
    model.load_state_dict(weights)  # before the layers are exchanged: the names are week 1's
    return with_rope(model, rope).eval(), about


def windows(ids: Tensor, seq: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`count` pieces of a stream of ids, each with its targets."""
    starts = torch.randint(0, len(ids) - seq - 1, (count, 1), generator=generator)
    pieces = ids[starts + torch.arange(seq + 1)]
    return pieces[:, :-1], pieces[:, 1:]


def corpus_ids(n_bytes: int, split: str, seed: int = 0) -> Tensor:
    """The course corpus as one stream of the course model's tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(course_folder("base"))
    return torch.tensor(tokenizer(corpus(n_bytes, seed=seed, split=split), verbose=False).input_ids)


def main(steps: int = 1200, batch: int = 16, learning_rate: float = 4e-3) -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    plain = GPT(GPTConfig(**CONFIG), generator)
    model = with_rope(plain)
    ids = corpus_ids(3_000_000, "train")
    losses: list[float] = []
    for share, rate in ((0.6, learning_rate), (0.3, learning_rate / 3), (0.1, learning_rate / 10)):
        get_batch = lambda step: windows(ids, TRAINED_LENGTH, batch, generator)  # noqa: E731
        losses += train(model, get_batch, int(steps * share), rate, weight_decay=0.1)
    about = {
        "command": "python -m week5_inference.rope_model", "seed": 0, "steps": steps, "batch": batch,
        "tokens": steps * batch * TRAINED_LENGTH, "trained_length": TRAINED_LENGTH, "learning_rate": learning_rate,
        "loss of the last 100 steps": round(sum(losses[-100:]) / 100, 3), "machine": machine() | {"threads": 1},
    }  # fmt: skip
    weights = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, FILE, metadata={"about": json.dumps(about)})
    print(about, f"{FILE.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
