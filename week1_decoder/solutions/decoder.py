"""The GPT decoder: positions, LayerNorm, feed-forward, block, model, and GPT-2's weights in it."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from week1_decoder.solutions.attention import MultiHeadAttention


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a decoder; `GPTConfig()` is GPT-2 small."""

    vocab_size: int = 50257
    context_length: int = 1024
    d_model: int = 768
    n_heads: int = 12
    n_layers: int = 12
    d_ff: int | None = None  # None: 4 * d_model
    bias: bool = True  # in the linear maps and in the norms
    positions: str = "learned"  # "learned", "sinusoidal" or "none"
    norm: str = "layernorm"  # "layernorm" or "none"
    norm_placement: str = "pre"  # "pre" (GPT-2) or "post" (the original Transformer)

    def __post_init__(self) -> None:
        if self.d_ff is None:
            object.__setattr__(self, "d_ff", 4 * self.d_model)
        for name in ("vocab_size", "context_length", "d_model", "n_heads", "n_layers", "d_ff"):
            size = getattr(self, name)
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} must be a positive whole number, got {size!r}")
        if self.d_model % self.n_heads:
            raise ValueError(
                f"d_model must be divisible by n_heads, got d_model={self.d_model}, n_heads={self.n_heads}"
            )
        options = {
            "positions": ("learned", "sinusoidal", "none"),
            "norm": ("layernorm", "none"),
            "norm_placement": ("pre", "post"),
        }
        for name, allowed in options.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")

    @property
    def d_head(self) -> int:
        return self.d_model // self.n_heads


def sinusoidal_positions(context_length: int, d_model: int) -> Float[Tensor, "seq d_model"]:
    """PE[t, 2i] = sin(t / 10000^(2i / d_model)), PE[t, 2i + 1] = cos of the same angle, for t = 0, 1, …

    Vaswani et al. 2017, §3.5. Example: (2, 2) -> [[0, 1], [sin 1, cos 1]].
    Raises ValueError when d_model is odd: sines and cosines come in pairs.
    """
    # BEGIN SOLUTION
    if d_model % 2:
        raise ValueError(f"d_model must be even, got {d_model}")
    t = torch.arange(context_length, dtype=torch.float32)[:, None]
    wavelength = 10000 ** (torch.arange(0, d_model, 2) / d_model)
    table = torch.empty(context_length, d_model)
    table[:, 0::2] = torch.sin(t / wavelength)
    table[:, 1::2] = torch.cos(t / wavelength)
    return table
    # END SOLUTION


class LayerNorm(nn.Module):
    """weight * (x - mean) / √(variance + eps) + bias over the last axis, variance = mean of (x - mean)².

    Ba, Kiros and Hinton 2016, eq. 4 (with the biased variance, as everywhere in practice).
    Parameters `weight` (ones) and, where bias is True, `bias` (zeros), each of shape (d_model,).
    """

    def __init__(self, d_model: int, bias: bool = True, eps: float = 1e-5) -> None:
        super().__init__()
        # BEGIN SOLUTION
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model)) if bias else None
        self.eps = eps
        # END SOLUTION

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        # BEGIN SOLUTION
        centred = x - x.mean(dim=-1, keepdim=True)
        variance = centred.square().mean(dim=-1, keepdim=True)
        normed = self.weight * centred / torch.sqrt(variance + self.eps)
        return normed if self.bias is None else normed + self.bias
        # END SOLUTION


class FeedForward(nn.Module):
    """w_out(GELU(w_in(x))), the same for each position; w_in: d_model -> d_ff, w_out: d_ff -> d_model.

    GELU in GPT-2's tanh form: 0.5 h (1 + tanh(√(2/π) (h + 0.044715 h³))), Hendrycks and Gimpel 2016, §2.
    Parameters: the linear maps `w_in` and `w_out`, both with a bias or both without.
    """

    def __init__(self, d_model: int, d_ff: int, bias: bool = True) -> None:
        super().__init__()
        # BEGIN SOLUTION
        self.w_in = nn.Linear(d_model, d_ff, bias=bias)
        self.w_out = nn.Linear(d_ff, d_model, bias=bias)
        # END SOLUTION

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        # BEGIN SOLUTION
        h = self.w_in(x)
        h = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        return self.w_out(h)
        # END SOLUTION


def make_norm(config: GPTConfig) -> nn.Module:
    """The norm that the config names."""
    return LayerNorm(config.d_model, bias=config.bias) if config.norm == "layernorm" else nn.Identity()


class Block(nn.Module):
    """One layer: attention moves information between positions, the feed-forward net works on each alone.

    norm_placement "pre":  x = x + attention(norm_1(x)), then x = x + feed_forward(norm_2(x)) (GPT-2)
    norm_placement "post": x = norm_1(x + attention(x)), then x = norm_2(x + feed_forward(x)) (Vaswani, §3.1)
    Modules `norm_1`, `attention`, `norm_2`, `feed_forward`. `key_mask` is True for the real tokens.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        # BEGIN SOLUTION
        self.norm_1 = make_norm(config)
        self.attention = MultiHeadAttention(config.d_model, config.n_heads, bias=config.bias)
        self.norm_2 = make_norm(config)
        self.feed_forward = FeedForward(config.d_model, config.d_ff, bias=config.bias)
        # END SOLUTION

    def forward(
        self,
        x: Float[Tensor, "batch seq d_model"],
        key_mask: Bool[Tensor, "batch seq"] | None = None,
    ) -> Float[Tensor, "batch seq d_model"]:
        # BEGIN SOLUTION
        if self.config.norm_placement == "pre":
            x = x + self.attention(self.norm_1(x), key_mask)
            return x + self.feed_forward(self.norm_2(x))
        x = self.norm_1(x + self.attention(x, key_mask))
        return self.norm_2(x + self.feed_forward(x))
        # END SOLUTION


def init_weights(model: nn.Module, n_layers: int, generator: torch.Generator | None = None) -> None:
    """Fill in place: matrices from N(0, 0.02²), biases 0, norm weights 1.

    The two matrices of a block that write into the residual stream (`w_o.weight`, `w_out.weight`) get
    the standard deviation 0.02 / √(2 n_layers): 2 n_layers of them add up. Radford et al. 2019, §2.3.
    """
    # BEGIN SOLUTION
    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2:
            writes = name.endswith(("w_o.weight", "w_out.weight"))
            std = 0.02 / math.sqrt(2 * n_layers) if writes else 0.02
            nn.init.normal_(parameter, std=std, generator=generator)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.ones_(parameter)
    # END SOLUTION


class GPT(nn.Module):
    """Token ids to logits: embed, add positions, run the blocks, norm, compare with each token's embedding.

    Modules `token_embedding`, `position_embedding` (only "learned"), `blocks`, `final_norm` (only "pre"). The head
    has no weights of its own: logits = x Eᵀ with the token embeddings E (Press and Wolf 2017). With "sinusoidal", E's
    rows are multiplied by √d_model before the table is added (Vaswani, §3.4). The position of a token is the
    number of real tokens before it. Raises ValueError for more tokens than context_length.
    """

    def __init__(self, config: GPTConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        # BEGIN SOLUTION
        self.token_embedding = nn.Embedding(config.vocab_size, config.d_model)
        if config.positions == "learned":
            self.position_embedding = nn.Embedding(config.context_length, config.d_model)
        elif config.positions == "sinusoidal":
            table = sinusoidal_positions(config.context_length, config.d_model)
            self.register_buffer("position_table", table, persistent=False)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.final_norm = make_norm(config) if config.norm_placement == "pre" else nn.Identity()
        init_weights(self, config.n_layers, generator)
        # END SOLUTION

    def hidden_states(
        self,
        token_ids: Int[Tensor, "batch seq"],
        key_mask: Bool[Tensor, "batch seq"] | None = None,
    ) -> Float[Tensor, "batch seq d_model"]:
        """The residual stream after the final norm, which the head reads."""
        # BEGIN SOLUTION
        seq = token_ids.shape[1]
        if seq > self.config.context_length:
            raise ValueError(f"{seq} tokens do not fit in a context of {self.config.context_length}")
        positions = torch.arange(seq, device=token_ids.device)
        if key_mask is not None:  # padding takes no positions, on whichever side it is
            positions = (key_mask.cumsum(dim=1) - 1).clamp(min=0)
        x = self.token_embedding(token_ids)
        if self.config.positions == "learned":
            x = x + self.position_embedding(positions)
        elif self.config.positions == "sinusoidal":
            x = math.sqrt(self.config.d_model) * x + self.position_table[positions]
        for block in self.blocks:
            x = block(x, key_mask)
        return self.final_norm(x)
        # END SOLUTION

    def forward(
        self,
        token_ids: Int[Tensor, "batch seq"],
        key_mask: Bool[Tensor, "batch seq"] | None = None,
    ) -> Float[Tensor, "batch seq vocab"]:
        # BEGIN SOLUTION
        return F.linear(self.hidden_states(token_ids, key_mask), self.token_embedding.weight)
        # END SOLUTION


def count_parameters(config: GPTConfig) -> int:
    """The number of trained numbers in `GPT(config)`, by formula, without building it.

    Example: GPT-2 small, `GPTConfig()` -> 124439808.
    """
    # BEGIN SOLUTION
    d, bias = config.d_model, int(config.bias)
    attention = 4 * (d * d + bias * d)
    feed_forward = 2 * d * config.d_ff + bias * (config.d_ff + d)
    norm = d + bias * d if config.norm == "layernorm" else 0
    embeddings = config.vocab_size * d + (config.context_length * d if config.positions == "learned" else 0)
    final_norm = norm if config.norm_placement == "pre" else 0
    return embeddings + config.n_layers * (attention + feed_forward + 2 * norm) + final_norm
    # END SOLUTION


def transformer_flops(config: GPTConfig, n_tokens: int) -> dict[str, int]:
    """FLOPs of one forward pass over one sequence, by part; a multiply and an add are 2 FLOPs.

    Only matrix products count; (m, k) @ (k, n) takes 2 m k n. The attention part is the two products with
    a (query, key) matrix, masked half included, as plain PyTorch computes it. Norms and softmax are left out.
    Keys: "projections" (w_q, w_k, w_v, w_o), "attention" (q kᵀ and weights v), "feed_forward", "logits".
    """
    # BEGIN SOLUTION
    n, d = n_tokens, config.d_model
    return {
        "projections": config.n_layers * 4 * 2 * n * d * d,
        "attention": config.n_layers * 2 * 2 * n * n * d,
        "feed_forward": config.n_layers * 2 * 2 * n * d * config.d_ff,
        "logits": 2 * n * d * config.vocab_size,
    }
    # END SOLUTION


def from_gpt2_state_dict(state_dict: dict[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """GPT-2 weights in the layout of Hugging Face, nanoGPT or minGPT -> a state dict for `GPT(config)`.

    A prefix `_orig_mod.` or `transformer.` may be there or not; the masks `*.attn.bias` and
    `*.attn.masked_bias` are left out. `c_attn` holds w_q, w_k, w_v. Its weight tells whose layout it is:
    (d_model, 3 d_model) is Hugging Face's Conv1D, all four kinds of matrices transposed; else nn.Linear.
    Raises ValueError when it is neither, a name is missing or left over, or `lm_head.weight` is not `wte.weight`.
    """
    # BEGIN SOLUTION
    source = {}
    for key, value in state_dict.items():
        name = key.removeprefix("_orig_mod.").removeprefix("transformer.")
        if not name.endswith((".attn.bias", ".attn.masked_bias")):
            source[name] = value

    renamed = {"wte": "token_embedding", "wpe": "position_embedding", "ln_f": "final_norm"}
    for i in range(config.n_layers):
        renamed[f"h.{i}.ln_1"] = f"blocks.{i}.norm_1"
        renamed[f"h.{i}.attn.c_attn"] = f"blocks.{i}.attention.w_qkv"
        renamed[f"h.{i}.attn.c_proj"] = f"blocks.{i}.attention.w_o"
        renamed[f"h.{i}.ln_2"] = f"blocks.{i}.norm_2"
        renamed[f"h.{i}.mlp.c_fc"] = f"blocks.{i}.feed_forward.w_in"
        renamed[f"h.{i}.mlp.c_proj"] = f"blocks.{i}.feed_forward.w_out"

    wanted = {f"{module}.weight" for module in renamed}
    if config.bias:
        wanted |= {f"{module}.bias" for module in renamed if module not in ("wte", "wpe")}
    head = source.pop("lm_head.weight", None)
    if source.keys() != wanted:
        missing, left_over = sorted(wanted - source.keys()), sorted(source.keys() - wanted)
        raise ValueError(f"names missing: {missing}; names left over: {left_over}")
    if head is not None and not torch.equal(head, source["wte.weight"]):
        raise ValueError("lm_head.weight is not wte.weight: this model has a head of its own")

    fused = tuple(source["h.0.attn.c_attn.weight"].shape)
    conv1d, linear = (config.d_model, 3 * config.d_model), (3 * config.d_model, config.d_model)
    if fused not in (conv1d, linear):
        raise ValueError(f"c_attn.weight must be {conv1d} or {linear} for this config, got {fused}")

    ours = {}
    for name, value in source.items():
        module, kind = name.rsplit(".", 1)
        if fused == conv1d and kind == "weight" and ".c_" in module:
            value = value.T
        target = renamed[module]
        if target.endswith("w_qkv"):
            for w, part in zip(("w_q", "w_k", "w_v"), value.chunk(3), strict=True):
                ours[target.replace("w_qkv", w) + "." + kind] = part
        else:
            ours[target + "." + kind] = value
    return ours
    # END SOLUTION
