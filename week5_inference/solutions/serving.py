"""Serving: a cache in pages, batches that are never full of the finished, drafts that a larger model checks, stops."""

import math
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from week2_pretraining.solutions.sampling import next_token_probs

# --- the cache in pages -----------------------------------------------------------------------------------------


class OutOfBlocks(RuntimeError):
    """The pool has too few free blocks. The cache is as it was: free a sequence, or let the request wait."""


def blocks_for(n_tokens: int, block_size: int) -> int:
    """How many blocks hold so many tokens: the last one may be part empty. Example: 9 tokens, blocks of 4 -> 3."""
    return -(-n_tokens // block_size)


class PagedKVCache(nn.Module):
    """Keys and values of many sequences in one pool of blocks of `block_size` tokens each; Kwon et al. 2023, section 4.

    `tables[sequence]` lists its blocks in order, `lengths[sequence]` its tokens, `counts[block]` how many tables name
    the block, and `free_blocks` those that none names. `cache(sequence)` gives the keys and values in order.
    ValueError for a size below 1, KeyError for a sequence that is not there, OutOfBlocks where the pool is too small.
    """

    def __init__(
        self,
        n_layers: int,
        n_blocks: int,
        block_size: int,
        n_kv_heads: int,
        d_head: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        sizes = {"n_layers": n_layers, "n_blocks": n_blocks, "block_size": block_size}
        for name, size in (sizes | {"n_kv_heads": n_kv_heads, "d_head": d_head}).items():
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} must be a whole number of 1 or more, got {size!r}")
        super().__init__()
        self.block_size = block_size
        shape = (n_layers, n_kv_heads, n_blocks, block_size, d_head)
        for name in ("keys", "values"):  # buffers, so that cache.to(device) moves them
            self.register_buffer(name, torch.zeros(shape, dtype=dtype, device=device), persistent=False)
        self.counts = [0] * n_blocks
        self.free_blocks = list(range(n_blocks))
        self.tables: dict[Hashable, list[int]] = {}
        self.lengths: dict[Hashable, int] = {}

    def add(self, sequence: Hashable) -> None:
        """Begin a sequence without tokens. ValueError if it is there already."""
        if sequence in self.tables:
            raise ValueError(f"the sequence {sequence!r} is in the cache already: free it first")
        self.tables[sequence], self.lengths[sequence] = [], 0

    def fork(self, parent: Hashable, child: Hashable, n_tokens: int | None = None) -> None:
        """Begin `child` with the first `n_tokens` (None: all) of `parent`, in the same blocks: nothing is copied."""
        length = self.lengths[parent] if n_tokens is None else n_tokens
        if not 0 <= length <= self.lengths[parent]:
            raise ValueError(f"{parent!r} has {self.lengths[parent]} tokens, so the first {length} cannot be shared")
        self.add(child)
        # BEGIN SOLUTION
        self.tables[child] = self.tables[parent][: blocks_for(length, self.block_size)]
        self.lengths[child] = length
        for block in self.tables[child]:
            self.counts[block] += 1
        # END SOLUTION

    def append(
        self,
        sequence: Hashable,
        k: Float[Tensor, "n_layers n_kv_heads new d_head"],
        v: Float[Tensor, "n_layers n_kv_heads new d_head"],
    ) -> None:
        """Write the keys and values of new tokens behind the sequence's others.

        A part-filled last block that another table names too is copied before it is written (copy on write).
        OutOfBlocks, with nothing changed, if there are fewer free blocks than all this needs.
        """
        # BEGIN SOLUTION
        table, length, new, size = self.tables[sequence], self.lengths[sequence], k.shape[2], self.block_size
        copies = new > 0 and length % size > 0 and self.counts[table[-1]] > 1
        needed = blocks_for(length + new, size) - len(table) + copies
        if needed > len(self.free_blocks):
            raise OutOfBlocks(f"{new} more tokens need {needed} blocks, and {len(self.free_blocks)} are free")
        if copies:
            shared, own = table[-1], self.free_blocks.pop()
            self.keys[:, :, own] = self.keys[:, :, shared]
            self.values[:, :, own] = self.values[:, :, shared]
            self.counts[shared] -= 1
            self.counts[own] = 1
            table[-1] = own
        while len(table) < blocks_for(length + new, size):
            table.append(self.free_blocks.pop())
            self.counts[table[-1]] = 1
        start = 0
        while start < new:  # a block's part of the new tokens at a time
            block, place = table[(length + start) // size], (length + start) % size
            n = min(size - place, new - start)
            self.keys[:, :, block, place : place + n] = k[:, :, start : start + n]
            self.values[:, :, block, place : place + n] = v[:, :, start : start + n]
            start += n
        self.lengths[sequence] = length + new
        # END SOLUTION

    def forward(
        self, sequence: Hashable
    ) -> tuple[Float[Tensor, "n_layers n_kv_heads key d_head"], Float[Tensor, "n_layers n_kv_heads key d_head"]]:
        """The sequence's keys and values in order, as a contiguous cache would hold them."""
        # BEGIN SOLUTION
        table, length = torch.tensor(self.tables[sequence], dtype=torch.long), self.lengths[sequence]
        keys, values = (pool[:, :, table].flatten(2, 3)[:, :, :length] for pool in (self.keys, self.values))
        return keys, values
        # END SOLUTION

    def free(self, sequence: Hashable) -> None:
        """Forget the sequence; blocks that no other table names are free again."""
        # BEGIN SOLUTION
        del self.lengths[sequence]
        for block in self.tables.pop(sequence):
            self.counts[block] -= 1
            if self.counts[block] == 0:
                self.free_blocks.append(block)
        # END SOLUTION


# --- scheduling -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """What a client asks: when it comes (seconds), the tokens of its prompt, and how many it wants (1 or more)."""

    arrival: float
    n_prompt: int
    n_new: int


def check_requests(requests: Sequence[Request], n_slots: int, n_blocks: int | None, block_size: int) -> None:
    """ValueError for a server that can hold nothing, or a request that it could never hold."""
    if n_slots < 1 or block_size < 1:
        raise ValueError(f"n_slots and block_size must be 1 or more, got {n_slots} and {block_size}")
    for request in requests:
        if request.n_prompt < 1 or request.n_new < 1:
            raise ValueError(f"a request has a prompt and asks for tokens, at least one each: {request}")
        needed = blocks_for(request.n_prompt + request.n_new, block_size)
        if n_blocks is not None and needed > n_blocks:
            raise ValueError(f"{request} needs {needed} blocks of {block_size}, and there are {n_blocks} in all")


def continuous_batching(
    requests: Sequence[Request],
    n_slots: int,
    prefill_seconds: Callable[[int], float],
    decode_seconds: Callable[[int], float],
    n_blocks: int | None = None,
    block_size: int = 16,
) -> list[tuple[float, float]]:
    """When each request has its first and its last token, if every step chooses its batch anew (Yu et al. 2022, §3.1).

    A step: first, in the order of arrival, waiting requests take free slots; each is prefilled alone in
    prefill_seconds(n_prompt), which gives its first token. Then all that still want tokens get one more, together, in
    decode_seconds(how many). Who has all leaves at once. With `n_blocks`, the blocks of prompt and new tokens must be
    free too; nobody overtakes. An idle server waits for the next arrival. Results in the order of `requests`.
    """
    check_requests(requests, n_slots, n_blocks, block_size)
    # BEGIN SOLUTION
    waiting = deque(sorted(range(len(requests)), key=lambda i: requests[i].arrival))
    blocks = [blocks_for(request.n_prompt + request.n_new, block_size) for request in requests]
    n_free = math.inf if n_blocks is None else n_blocks
    running: dict[int, int] = {}  # request -> tokens that it has
    first, last, now = {}, {}, 0.0
    while waiting or running:
        if not running:
            now = max(now, requests[waiting[0]].arrival)
        while waiting and len(running) < n_slots:
            i = waiting[0]
            if requests[i].arrival > now or blocks[i] > n_free:
                break
            waiting.popleft()
            now += prefill_seconds(requests[i].n_prompt)
            first[i] = last[i] = now
            if requests[i].n_new > 1:
                running[i] = 1
                n_free -= blocks[i]
        if running:
            now += decode_seconds(len(running))
        for i in list(running):
            running[i] += 1
            if running[i] == requests[i].n_new:
                last[i] = now
                n_free += blocks[i]
                del running[i]
    return [(first[i], last[i]) for i in range(len(requests))]
    # END SOLUTION


def static_batching(
    requests: Sequence[Request],
    n_slots: int,
    prefill_seconds: Callable[[int], float],
    decode_seconds: Callable[[int], float],
) -> list[tuple[float, float]]:
    """The same with batches that stay together: up to n_slots of those that wait, decoded until the longest is done.

    The slots of those that are done earlier run on for nothing. Each token counts when it is there, not at the end.
    """
    check_requests(requests, n_slots, None, 1)
    waiting = deque(sorted(range(len(requests)), key=lambda i: requests[i].arrival))
    served, now = {}, 0.0
    while waiting:
        now = max(now, requests[waiting[0]].arrival)
        batch = []
        while waiting and len(batch) < n_slots and requests[waiting[0]].arrival <= now:
            batch.append(waiting.popleft())
        first = {}
        for i in batch:
            now += prefill_seconds(requests[i].n_prompt)
            first[i] = now
        step = decode_seconds(len(batch))
        for i in batch:
            finished = now + step * (requests[i].n_new - 1) if requests[i].n_new > 1 else first[i]
            served[i] = (first[i], finished)
        now += step * (max(requests[i].n_new for i in batch) - 1)
    return [served[i] for i in range(len(requests))]


# --- speculative decoding ---------------------------------------------------------------------------------------


def acceptance_probability(
    target_probs: Float[Tensor, "... vocab"], draft_probs: Float[Tensor, "... vocab"]
) -> Float[Tensor, "..."]:
    """Σ_x min(p(x), q(x)): how likely a token drawn from the draft's q is accepted by the target's p.

    It is 1 - the total variation distance of the two. Leviathan et al. 2023, theorem 3.5.
    Example: p = (0.5, 0.5, 0), q = (0.2, 0.4, 0.4) -> 0.6.
    """
    # BEGIN SOLUTION
    return torch.minimum(target_probs, draft_probs).sum(dim=-1)
    # END SOLUTION


def expected_tokens(acceptance: float, n_draft: int) -> float:
    """Tokens of one round, (1 - a^(k + 1)) / (1 - a), if each of k drafted tokens is accepted with probability a.

    Leviathan et al. 2023, eq. 1. Example: a = 0.5, k = 2 -> 1 + 0.5 + 0.25.
    """
    return sum(acceptance**i for i in range(n_draft + 1))


def check_speculation(prompt: Int[Tensor, "seq"], n_draft: int, max_new_tokens: int, models: Sequence) -> None:
    """ValueError for an empty prompt, nothing to draft, or more tokens than a model's context holds."""
    if prompt.dim() != 1 or len(prompt) == 0:
        raise ValueError(f"the prompt must be one row of at least one token id, got shape {tuple(prompt.shape)}")
    if n_draft < 1 or max_new_tokens < 0:
        raise ValueError(f"n_draft must be 1 or more and max_new_tokens 0 or more, got {n_draft}, {max_new_tokens}")
    for model in models:
        context_length = getattr(getattr(model, "config", None), "context_length", math.inf)
        if len(prompt) + max_new_tokens > context_length:
            raise ValueError(
                f"{len(prompt)} tokens and {max_new_tokens} new ones do not fit in a context of {context_length}"
            )


@torch.no_grad()
def speculative_decode(
    target: Callable[[Int[Tensor, "1 seq"]], Float[Tensor, "1 seq vocab"]],
    draft: Callable[[Int[Tensor, "1 seq"]], Float[Tensor, "1 seq vocab"]],
    prompt: Int[Tensor, "seq"],
    n_draft: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    eos_id: int | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "longer"], int]:
    """(prompt and new tokens, how many of them were drafted and accepted), distributed as if the target drew them all.

    A round: the draft draws up to n_draft tokens, one by one; one call of the target gives p after each of them. A
    drafted x stays with probability min(1, p(x)/q(x)). At the first that does not, a token from norm(max(0, p - q))
    takes its place, and the round ends; if all stay, one from the target's p behind them. Leviathan 2023, algorithm 1.
    Stops behind the first new `eos_id`. With temperature 0, just the target's greedy tokens.
    """
    check_speculation(prompt, n_draft, max_new_tokens, (target, draft))
    # BEGIN SOLUTION
    ids, n_accepted, end = prompt, 0, len(prompt) + max_new_tokens

    def drawn(probs: Float[Tensor, "vocab"]) -> Int[Tensor, "1"]:
        return torch.multinomial(probs, 1, generator=generator)

    while len(ids) < end:
        start, guesses = len(ids), []
        for _ in range(min(n_draft, end - start - 1)):  # the round's last token is the target's own
            guesses.append(next_token_probs(draft(ids[None])[:, -1], temperature)[0])
            ids = torch.cat([ids, drawn(guesses[-1])])
        probs = next_token_probs(target(ids[None])[0, start - 1 :], temperature)  # (drafted + 1, vocab)
        for i, q in enumerate(guesses):
            x, p = ids[start + i], probs[i]
            if torch.rand((), generator=generator) >= p[x] / q[x]:
                rest = (p - q).clamp_min(0)
                ids = torch.cat([ids[: start + i], drawn(rest if rest.sum() > 0 else p)])
                break
        else:
            ids = torch.cat([ids, drawn(probs[-1])])
        n_kept = len(ids) - start - 1
        ended = (ids[start:] == eos_id).nonzero() if eos_id is not None else []
        if len(ended):
            ids = ids[: start + ended[0, 0] + 1]
            return ids, n_accepted + min(n_kept, len(ids) - start)
        n_accepted += n_kept
    return ids, n_accepted
    # END SOLUTION


# --- streaming --------------------------------------------------------------------------------------------------


def stop_at(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """(what of the text so far may be sent, whether a stop string was found); called again as the text grows.

    The text is cut before the stop string that begins first. Without one, an end that may still become a stop string
    is held back, since what was sent cannot be called back. Example: "one. Us" with stop "User:" -> ("one. ", False).
    """
    if isinstance(stop, str) or "" in stop:
        raise ValueError(f"stop must be a list of strings that are not empty, got {stop!r}")
    # BEGIN SOLUTION
    found = [text.find(word) for word in stop if word in text]
    if found:
        return text[: min(found)], True
    held = max((n for word in stop for n in range(1, len(word)) if text.endswith(word[:n])), default=0)
    return text[: len(text) - held], False
    # END SOLUTION
