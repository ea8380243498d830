"""The KV cache: keys and values are kept, so that a new token costs one row of attention and not the whole square."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from week2_pretraining.solutions.sampling import inference, sample_next_token


def check_heads(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ValueError unless k and v have as many heads and keys, and their heads divide those of q."""
    if k.shape[:-1] != v.shape[:-1]:
        raise ValueError(f"k and v must have the same heads and keys, got {tuple(k.shape)} and {tuple(v.shape)}")
    if q.shape[1] % k.shape[1]:
        raise ValueError(f"the {q.shape[1]} query heads cannot be shared out evenly among {k.shape[1]} key heads")


def grouped_query_attention(
    q: Float[Tensor, "batch head query d_head"],
    k: Float[Tensor, "batch kv_head key d_head"],
    v: Float[Tensor, "batch kv_head key d_value"],
    visible: Bool[Tensor, "batch query key"] | None = None,
) -> Float[Tensor, "batch head query d_value"]:
    """softmax(q kᵀ / √d_head) v, where neighbouring query heads share a key head: with g = head / kv_head of them to
    a group, query head h reads key head h // g. One key head: MQA (Shazeer 2019); GQA: Ainslie et al. 2023, §2.2.

    `visible` says which keys a query may see (None: all). One that sees none gets a finite output.
    """
    check_heads(q, k, v)
    # BEGIN SOLUTION
    grouped = rearrange(q, "batch (kv_head group) query d_head -> batch kv_head group query d_head", kv_head=k.shape[1])
    scores = grouped @ k[:, :, None].transpose(-2, -1) / math.sqrt(q.shape[-1])
    if visible is not None:
        scores = scores.masked_fill(~visible[:, None, None], torch.finfo(scores.dtype).min)
    out = scores.softmax(dim=-1) @ v[:, :, None]
    return rearrange(out, "batch kv_head group query d_value -> batch (kv_head group) query d_value")
    # END SOLUTION


class KVCache:
    """Keys and values of all layers, for rows of up to `capacity` tokens; `lengths` (batch,) counts those of each row.

    With a `window`, a query sees the last `window` tokens, itself included, and no more are kept (Jiang et al. 2023,
    *Mistral 7B*, §2: the rolling buffer). `bytes` is the size of the room for them, which is taken once, at the start.
    """

    def __init__(
        self,
        n_layers: int,
        batch: int,
        n_kv_heads: int,
        d_head: int,
        capacity: int,
        window: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        sizes = {"n_layers": n_layers, "batch": batch, "n_kv_heads": n_kv_heads, "d_head": d_head, "capacity": capacity}
        for name, size in (sizes | ({} if window is None else {"window": window})).items():
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} must be a positive whole number, got {size!r}")
        self.n_layers, self.batch, self.n_kv_heads, self.d_head = n_layers, batch, n_kv_heads, d_head
        self.capacity, self.window = capacity, window
        self.lengths = torch.zeros(batch, dtype=torch.long, device=device)
        # BEGIN SOLUTION
        self.n_slots = capacity if window is None else min(window, capacity)
        shape = (n_layers, batch, n_kv_heads, self.n_slots, d_head)
        self.keys, self.values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        # END SOLUTION

    @property
    def bytes(self) -> int:
        # BEGIN SOLUTION
        return 2 * self.keys.nbytes
        # END SOLUTION

    def append(
        self,
        layer: int,
        k: Float[Tensor, "batch kv_head new d_head"],
        v: Float[Tensor, "batch kv_head new d_head"],
        real: Bool[Tensor, "batch new"] | None = None,
    ) -> tuple[Float[Tensor, "batch kv_head key d_head"], Float[Tensor, "batch kv_head key d_head"], Tensor]:
        """Keep the new tokens of one layer; returns keys, values and `visible` (batch, new, key) for their attention.

        `real` (None: all) is True for the tokens to keep: in a ragged batch rows grow by different numbers. A new token
        sees itself and the kept ones before it. Called for layer 0 to the last; then `lengths` has grown. Keys and
        values come in k's dtype, whatever the cache's is. Raises ValueError for another batch size or number of heads,
        and for a row that would exceed `capacity`.
        """
        expected = (self.batch, self.n_kv_heads, k.shape[2], self.d_head)
        if tuple(k.shape) != expected or k.shape != v.shape:
            raise ValueError(f"this cache takes k and v of shape {expected}, got {tuple(k.shape)} and {tuple(v.shape)}")
        if real is not None and tuple(real.shape) != (self.batch, k.shape[2]):
            raise ValueError(f"real must be of shape {(self.batch, k.shape[2])}, got {tuple(real.shape)}")
        counts = k.shape[2] if real is None else real.sum(dim=1)
        longest = int((self.lengths + counts).max())
        if longest > self.capacity:
            raise ValueError(f"the cache is full: a row would have {longest} tokens, and holds {self.capacity}")
        # BEGIN SOLUTION
        wraps = longest > self.n_slots  # new tokens overwrite what the first of them still need
        if layer == 0:  # where they go, and what they see, is the same in all layers
            before = torch.arange(k.shape[2], device=k.device) if real is None else real.cumsum(dim=1) - 1
            positions = self.lengths[:, None] + before  # (batch, new)
            slots, newest = torch.arange(self.n_slots, device=k.device), self.lengths[:, None] - 1
            held = slots[None, :longest]  # the position of each key: before the first wrap, the number of its slot
            if wraps:
                held = newest - (newest - slots) % self.n_slots  # below 0: nothing
                fresh = positions if real is None else positions.masked_fill(~real, -1)
                held = torch.cat([held, fresh], dim=1)
            query, key = positions[:, :, None], held[:, None, :]
            self.visible = (key >= 0) & (key <= query)
            if self.window is not None:
                self.visible &= key > query - self.window
            if real is None and not wraps and (self.batch == 1 or (positions == positions[:1]).all()):
                self.to, self.source = (..., slice(longest - k.shape[2], longest), slice(None)), (...,)  # rows alike
            else:
                stays = positions >= (self.lengths + counts)[:, None] - self.n_slots
                row, column = (stays if real is None else stays & real).nonzero(as_tuple=True)
                self.to = row, slice(None), positions[row, column] % self.n_slots
                self.source = row, slice(None), column
        keys, values = self.keys[layer], self.values[layer]
        if wraps:
            keys, values = torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2)
        self.keys[layer][self.to] = k[self.source].to(self.keys.dtype)
        self.values[layer][self.to] = v[self.source].to(self.values.dtype)
        if not wraps:  # a view, no copy
            keys, values = keys[:, :, :longest], values[:, :, :longest]
        if layer == self.n_layers - 1:
            self.lengths = self.lengths + counts
        return keys.to(k.dtype), values.to(k.dtype), self.visible
        # END SOLUTION

    def reset(self, rows: Sequence[int] | None = None) -> None:
        """Forget everything, or everything of these rows."""
        # BEGIN SOLUTION
        rows = slice(None) if rows is None else list(rows)
        self.lengths = self.lengths.clone()
        self.lengths[rows] = 0
        for stored in (self.keys, self.values):  # what is hidden counts with weight 0, but 0 times nan is nan
            stored[:, rows] = 0
        # END SOLUTION

    def truncate(self, lengths: Int[Tensor, "batch"]) -> None:
        """Forget the newest tokens of each row, so that `lengths` are left.

        Raises ValueError for another number of rows, for a length below 0 or above the present one, and where a window
        has overwritten what would be needed again.
        """
        if lengths.shape != self.lengths.shape:
            raise ValueError(f"truncate takes one length for each of {self.batch} rows, got {tuple(lengths.shape)}")
        if ((lengths < 0) | (lengths > self.lengths)).any():
            raise ValueError(f"a cache of lengths {self.lengths.tolist()} cannot be cut to {lengths.tolist()}")
        slots = self.capacity if self.window is None else self.window
        if ((lengths < self.lengths) & (self.lengths > slots)).any():
            raise ValueError(f"a window of {self.window} has overwritten what a shorter row would see")
        # BEGIN SOLUTION
        self.lengths = lengths.clone()
        # END SOLUTION


def empty_cache(model: nn.Module, batch: int, window: int | None = None, capacity: int | None = None) -> KVCache:
    """A cache that fits a GPT and its context (or `capacity` tokens), in the dtype and on the device of its weights."""
    config, w_k = model.config, model.blocks[0].attention.w_k
    n_kv_heads, capacity = w_k.out_features // config.d_head, capacity or config.context_length
    options = {"dtype": w_k.weight.dtype, "device": w_k.weight.device}
    return KVCache(config.n_layers, batch, n_kv_heads, config.d_head, capacity, window, **options)


def cached_forward(
    model: nn.Module,
    token_ids: Int[Tensor, "batch new"],
    cache: KVCache,
    real: Bool[Tensor, "batch new"] | None = None,
) -> Float[Tensor, "batch new vocab"]:
    """The logits of new tokens that follow those in the cache, as `model` gives them for the whole rows.

    `model` is a GPT with `norm_placement` "pre" and positions "learned" or "none"; a token's position is the number
    of real ones before it. `real` is False for padding, wherever it stands. The cache grows by the real tokens.
    Raises ValueError for another kind of model or number of rows, and for more tokens than the context holds.
    """
    config = model.config
    if config.norm_placement != "pre" or config.positions not in ("learned", "none"):
        raise ValueError(f"no cached pass for norm_placement={config.norm_placement!r}, positions={config.positions!r}")
    if len(token_ids) != len(cache.lengths):
        raise ValueError(f"{len(token_ids)} rows of tokens do not fit a cache for {len(cache.lengths)}")
    if real is not None and real.shape != token_ids.shape:
        raise ValueError(f"real must be of shape {tuple(token_ids.shape)}, got {tuple(real.shape)}")
    longest = int((cache.lengths + (token_ids.shape[1] if real is None else real.sum(dim=1))).max())
    if longest > config.context_length:
        raise ValueError(f"{longest} tokens do not fit in a context of {config.context_length}")
    # BEGIN SOLUTION
    x = model.token_embedding(token_ids)
    if config.positions == "learned":
        before = torch.arange(token_ids.shape[1], device=x.device) if real is None else real.cumsum(dim=1) - 1
        positions = cache.lengths[:, None] + before
        x = x + model.position_embedding(positions.clamp(min=0))
    for layer, block in enumerate(model.blocks):
        attention, normed = block.attention, block.norm_1(x)
        q, k, v = (
            rearrange(project(normed), "batch new (head d_head) -> batch head new d_head", d_head=config.d_head)
            for project in (attention.w_q, attention.w_k, attention.w_v)
        )
        heads = grouped_query_attention(q, *cache.append(layer, k, v, real))
        x = x + attention.w_o(rearrange(heads, "batch head new d_head -> batch new (head d_head)"))
        x = x + block.feed_forward(block.norm_2(x))
    return F.linear(model.final_norm(x), model.token_embedding.weight)
    # END SOLUTION


def check_prompts(model: nn.Module, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """Raise ValueError for no prompt, an empty one, or one that does not fit the context with its new tokens."""
    context_length = model.config.context_length
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must be 0 or more, got {max_new_tokens}")
    if len(prompts) == 0 or not all(map(len, prompts)):
        raise ValueError("a prompt is empty: give each row at least one token, such as the end-of-text token")
    longest = max(map(len, prompts))
    if longest + max_new_tokens > context_length:
        raise ValueError(
            f"{longest} tokens of a prompt and {max_new_tokens} new ones are more than the context of {context_length}"
        )


def generate_cached(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    eos_id: int | None = None,
    generator: torch.Generator | None = None,
    forward: Callable | None = None,
) -> list[list[int]]:
    """The new tokens of each prompt: one pass over all prompts (*prefill*), then one for each new token (*decode*).

    Prompts may have different lengths; each is continued as it would be alone. A row ends with `eos_id`, which is its
    last token. Dropout is off meanwhile. `forward` computes the logits (None: your `cached_forward`).
    Raises ValueError for prompts that `check_prompts` refuses.
    """
    check_prompts(model, prompts, max_new_tokens)
    forward = forward or cached_forward
    # BEGIN SOLUTION
    device = model.token_embedding.weight.device
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    real = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
    token_ids = torch.zeros(real.shape, dtype=torch.long)
    token_ids[real] = torch.tensor([token for prompt in prompts for token in prompt])
    cache, rows = empty_cache(model, len(prompts), capacity=real.shape[1] + max_new_tokens), torch.arange(len(prompts))
    written, active = [[] for _ in prompts], [True for _ in prompts]
    with inference(model):
        if max_new_tokens:
            logits = forward(model, token_ids.to(device), cache, real.to(device))[rows, lengths - 1]
        for step in range(max_new_tokens):
            next_ids = sample_next_token(logits, temperature, top_k, top_p, generator)
            for row, token in enumerate(next_ids.tolist()):
                if active[row]:
                    written[row].append(token)
                    active[row] = token != eos_id
            if step == max_new_tokens - 1 or not any(active):
                break
            going = None if all(active) else torch.tensor(active, device=device)[:, None]
            logits = forward(model, next_ids[:, None], cache, going)[:, -1]
    return written
    # END SOLUTION


def kv_cache_bytes(
    n_layers: int,
    n_kv_heads: int,
    d_head: int,
    tokens: int,
    batch: int = 1,
    window: int | None = None,
    bytes_per_number: float = 2,
) -> int:
    """Bytes of a KV cache: 2 · n_layers · batch · n_kv_heads · d_head · min(tokens, window) · bytes_per_number.

    The 2 is for keys and values; two bytes a number are float16. Example: Llama 2 7B (32, 32, 128), one token: 524,288.
    Raises ValueError for sizes below 1, or tokens below 0.
    """
    sizes = {"n_layers": n_layers, "n_kv_heads": n_kv_heads, "d_head": d_head, "batch": batch}
    for name, size in (sizes | ({} if window is None else {"window": window})).items():
        if size < 1:
            raise ValueError(f"{name} must be 1 or more, got {size}")
    if tokens < 0 or bytes_per_number <= 0:
        raise ValueError(f"tokens must be 0 or more and bytes_per_number positive, got {tokens}, {bytes_per_number}")
    # BEGIN SOLUTION
    kept = tokens if window is None else min(tokens, window)
    return round(2 * n_layers * batch * n_kv_heads * d_head * kept * bytes_per_number)
    # END SOLUTION
