"""What the engine decodes with: a GPT over the paged cache, and the course model put together for the server."""

from collections.abc import Callable, Hashable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from shared import mine
from shared.models import course_folder
from week2_pretraining.solutions.pretraining import load_pretrained
from week5_inference.engine import Engine
from week5_inference.solutions.kv_cache import cached_forward
from week5_inference.solutions.serving import PagedKVCache, blocks_for


class PagedRows:
    """Some sequences of a paged cache, as the rows of a `KVCache`: what `cached_forward` reads and appends to.

    The pages are gathered into one padded tensor for each pass. (vLLM's kernel reads them where they lie.)
    """

    def __init__(self, pages: PagedKVCache, sequences: Sequence[Hashable]):
        self.pages, self.sequences = pages, list(sequences)
        found = [pages(sequence) for sequence in self.sequences]
        self.lengths = torch.tensor([k.shape[2] for k, _ in found])
        layers, heads, _, d_head = found[0][0].shape
        shape = (layers, len(found), heads, int(self.lengths.max()), d_head)
        self.old = tuple(found[0][0].new_zeros(shape) for _ in range(2))
        for row, pair in enumerate(found):
            for padded, kept in zip(self.old, pair, strict=True):
                padded[:, row, :, : kept.shape[2]] = kept
        self.new: list[tuple[Tensor, Tensor]] = []

    def append(
        self,
        layer: int,
        k: Float[Tensor, "batch kv_head new d_head"],
        v: Float[Tensor, "batch kv_head new d_head"],
        real: Bool[Tensor, "batch new"] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `KVCache.append`: keys, values and what each new token sees; after the last layer all is in the pages."""
        if layer == 0:
            n_old, new = self.old[0].shape[3], k.shape[2]
            self.real = torch.ones(k.shape[0], new, dtype=torch.bool) if real is None else real
            self.all_real = real is None or bool(real.all())
            before = (torch.arange(n_old) < self.lengths[:, None])[:, None].expand(-1, new, -1)
            among = torch.ones(new, new, dtype=torch.bool).tril() & self.real[:, None]
            self.visible = torch.cat([before, among], dim=2)
        self.new.append((k, v))
        keys, values = (torch.cat([old[layer], fresh], dim=2) for old, fresh in zip(self.old, (k, v), strict=True))
        if layer == len(self.old[0]) - 1:
            k_all, v_all = (torch.stack(parts) for parts in zip(*self.new, strict=True))
            for row, sequence in enumerate(self.sequences):
                parts = k_all[:, row], v_all[:, row]
                if not self.all_real:
                    parts = tuple(part[:, :, self.real[row]] for part in parts)
                self.pages.append(sequence, *parts)
            self.lengths = self.lengths + self.real.sum(dim=1)
        return keys, values, self.visible


class PagedDecoder:
    """A GPT that decodes up to n_slots sequences together, in `n_blocks` blocks (None: as contiguous rows would take).

    `fits` promises the blocks of a whole request, so a request that runs never runs out of them.
    """

    def __init__(
        self,
        model: nn.Module,
        n_slots: int = 4,
        n_blocks: int | None = None,
        block_size: int = 16,
        forward: Callable = cached_forward,
        pages: type = PagedKVCache,
    ):
        if n_slots < 1:
            raise ValueError(f"n_slots must be 1 or more, got {n_slots}")
        config = model.config
        self.model, self.n_slots, self.forward, self.block_size = model, n_slots, forward, block_size
        self.n_blocks = n_blocks or n_slots * blocks_for(config.context_length, block_size)
        self.pages = pages(config.n_layers, self.n_blocks, block_size, config.n_heads, config.d_head)
        self.context_length = min(config.context_length, self.n_blocks * block_size)
        self.promised: dict[int, int] = {}  # slot -> blocks

    def fits(self, n_tokens: int) -> bool:
        """Whether a request of so many tokens, prompt and answer, can be let in now."""
        return sum(self.promised.values()) + blocks_for(n_tokens, self.block_size) <= self.n_blocks

    def prefill(self, slot: int, prompt: Sequence[int], n_tokens: int) -> Float[Tensor, "vocab"]:
        """Put a prompt into a free slot; the logits of its first new token."""
        self.promised[slot] = blocks_for(n_tokens, self.block_size)
        self.pages.add(slot)
        return self.forward(self.model, torch.tensor([prompt]), PagedRows(self.pages, [slot]))[0, -1]

    def decode(self, tokens: dict[int, int]) -> Float[Tensor, "batch vocab"]:
        """Each slot's newest token in; the logits of its next one out, in the order of the slots given."""
        token_ids: Int[Tensor, "batch 1"] = torch.tensor(list(tokens.values()))[:, None]
        return self.forward(self.model, token_ids, PagedRows(self.pages, list(tokens)))[:, -1]

    def release(self, slot: int) -> None:
        """Forget the slot's sequence, if there is one."""
        if self.promised.pop(slot, None) is not None:
            self.pages.free(slot)


def course_engine(stage: str = "instruct", bits: int = 8, n_slots: int = 4, queue_size: int = 16, **options) -> Engine:
    """An engine over a stage of the course model, with its weights in `bits` bits (0: float32).

    GPT, the cache and the rest are the learner's own where they are saved; the course's stand in.
    """
    model, tokenizer = load_pretrained(course_folder(stage), mine("GPT"))
    if bits:
        from week5_inference.quantized import quantize_model

        model = quantize_model(model, bits) or model  # in place, or a copy
    parts = {"forward": mine("cached_forward"), "pages": mine("PagedKVCache")}
    decoder = PagedDecoder(model, n_slots, **(parts | options))
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    return Engine(decoder, tokenizer, ends, queue_size, mine("stop_at"))
