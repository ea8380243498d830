"""Right answers to lesson 05 of week 5, written otherwise: they must pass."""

import heapq
import re

import torch
from torch import nn

from week2_pretraining.solutions.sampling import sample_next_token
from week5_inference.solutions.serving import OutOfBlocks, PagedKVCache, check_speculation


class PagedKVCache__token_by_token(PagedKVCache):
    """Loops in Python, and the lowest free block first."""

    def fork(self, parent, child, n_tokens=None):
        if n_tokens is None:
            n_tokens = self.lengths[parent]
        if n_tokens > self.lengths[parent] or n_tokens < 0:
            raise ValueError("too many")
        self.add(child)
        for i, block in enumerate(self.tables[parent]):
            if i * self.block_size < n_tokens:
                self.tables[child].append(block)
                self.counts[block] += 1
        self.lengths[child] = n_tokens

    def append(self, sequence, k, v):
        table, length = self.tables[sequence], self.lengths[sequence]
        new, used = k.shape[-2], length % self.block_size
        room = 0 if used == 0 else self.block_size - used
        shared = bool(new and room and self.counts[table[-1]] != 1)
        needed = -(-max(0, new - room) // self.block_size) + shared
        if len(self.free_blocks) < needed:
            raise OutOfBlocks("full")
        self.free_blocks.sort()
        if shared:
            old = table.pop()
            self.counts[old] -= 1
            table.append(self.take())
            for pool in (self.keys, self.values):
                pool[:, :, table[-1], :used] = pool[:, :, old, :used]
        for i in range(new):
            if length % self.block_size == 0:
                table.append(self.take())
            self.keys[:, :, table[-1], length % self.block_size] = k[:, :, i]
            self.values[:, :, table[-1], length % self.block_size] = v[:, :, i]
            length += 1
        self.lengths[sequence] = length

    def take(self):
        block = self.free_blocks.pop(0)
        self.counts[block] = 1
        return block

    def forward(self, sequence):
        length, size = self.lengths[sequence], self.block_size
        blocks = self.tables[sequence]
        found = [
            torch.stack([pool[:, :, blocks[t // size], t % size] for t in range(length)], dim=2)
            for pool in (self.keys, self.values)
        ]
        return found[0], found[1]

    def free(self, sequence):
        for block in self.tables[sequence]:
            self.counts[block] = self.counts[block] - 1
            if not self.counts[block]:
                self.free_blocks = [block, *self.free_blocks]
        del self.tables[sequence], self.lengths[sequence]


class PagedKVCache__one_flat_pool(nn.Module):
    """One row a token, layers and heads joined; counts found from the tables; blocks zeroed when they are freed."""

    def __init__(self, n_layers, n_blocks, block_size, n_kv_heads, d_head, dtype=torch.float32, device="cpu"):
        super().__init__()
        if min(n_layers, n_blocks, block_size, n_kv_heads, d_head) < 1:
            raise ValueError("sizes")
        self.block_size, self.n_blocks = block_size, n_blocks
        self.pool = torch.zeros(n_blocks * block_size, 2, n_layers, n_kv_heads, d_head, dtype=dtype, device=device)
        self.tables, self.lengths = {}, {}

    @property
    def counts(self):
        named = [block for table in self.tables.values() for block in table]
        return [named.count(block) for block in range(self.n_blocks)]

    @property
    def free_blocks(self):
        return [block for block, count in enumerate(self.counts) if count == 0]

    def add(self, sequence):
        if sequence in self.tables:
            raise ValueError("there")
        self.tables[sequence] = []
        self.lengths[sequence] = 0

    def fork(self, parent, child, n_tokens=None):
        n = self.lengths[parent] if n_tokens is None else n_tokens
        if not 0 <= n <= self.lengths[parent]:
            raise ValueError("length")
        self.add(child)
        self.tables[child] += self.tables[parent][: (n + self.block_size - 1) // self.block_size]
        self.lengths[child] = n

    def rows(self, sequence, start, stop):
        table = self.tables[sequence]
        return [table[t // self.block_size] * self.block_size + t % self.block_size for t in range(start, stop)]

    def append(self, sequence, k, v):
        table, old, size = list(self.tables[sequence]), self.lengths[sequence], self.block_size
        free, moved = self.free_blocks, None
        total = old + k.shape[2]
        try:
            if total > old and old % size and self.counts[table[-1]] > 1:
                moved = table[-1], free.pop()
                table[-1] = moved[1]
            while len(table) * size < total:
                table.append(free.pop())
        except IndexError:
            raise OutOfBlocks("no block is free") from None
        if moved:
            source, goal = (self.pool[block * size : (block + 1) * size] for block in moved)
            goal.copy_(source)
        self.tables[sequence], self.lengths[sequence] = table, total
        self.pool[self.rows(sequence, old, total)] = torch.stack([k, v]).permute(3, 0, 1, 2, 4)

    def forward(self, sequence):
        rows = self.pool[self.rows(sequence, 0, self.lengths[sequence])]
        return tuple(rows.permute(1, 2, 3, 0, 4))

    def free(self, sequence):
        del self.tables[sequence]
        del self.lengths[sequence]


def continuous_batching__events(requests, n_slots, prefill_seconds, decode_seconds, n_blocks=None, block_size=16):
    """A heap of arrivals, and countdowns instead of counts."""
    if n_slots < 1:
        raise ValueError("slots")
    heap = [(r.arrival, i) for i, r in enumerate(requests)]
    heapq.heapify(heap)
    left = [r.n_new for r in requests]
    need = [(r.n_prompt + r.n_new + block_size - 1) // block_size for r in requests]
    first, last, active, clock = [0.0] * len(left), [0.0] * len(left), [], 0.0
    while True:
        if not active:
            if not heap:
                break
            clock = max(clock, heap[0][0])
        while heap and len(active) < n_slots and heap[0][0] <= clock:
            i = heap[0][1]
            if n_blocks is not None and sum(need[j] for j in active) + need[i] > n_blocks:
                break
            heapq.heappop(heap)
            clock += prefill_seconds(requests[i].n_prompt)
            first[i] = last[i] = clock
            left[i] -= 1
            if left[i]:
                active.append(i)
        if active:
            clock += decode_seconds(len(active))
        for i in active:
            left[i] -= 1
            last[i] = clock
        active = [i for i in active if left[i]]
    return list(zip(first, last, strict=True))


def continuous_batching__slots(requests, n_slots, prefill_seconds, decode_seconds, n_blocks=None, block_size=16):
    """A fixed row of slots that are filled and emptied."""
    order = sorted(range(len(requests)), key=lambda i: requests[i].arrival)
    slots, time, results = [None] * n_slots, 0.0, {}

    def blocks(i):
        return -(-(requests[i].n_prompt + requests[i].n_new) // block_size)

    while order or any(slot is not None for slot in slots):
        if all(slot is None for slot in slots) and requests[order[0]].arrival > time:
            time = requests[order[0]].arrival
        while order and None in slots:
            i = order[0]
            taken = sum(blocks(slot[0]) for slot in slots if slot is not None)
            if requests[i].arrival > time or (n_blocks is not None and taken + blocks(i) > n_blocks):
                break
            order.pop(0)
            time = time + prefill_seconds(requests[i].n_prompt)
            results[i] = (time, time)
            if requests[i].n_new != 1:
                slots[slots.index(None)] = [i, requests[i].n_new - 1]
        busy = [k for k, slot in enumerate(slots) if slot is not None]
        if busy:
            time = time + decode_seconds(len(busy))
        for k in busy:
            slots[k][1] -= 1
            if slots[k][1] == 0:
                i = slots[k][0]
                results[i] = (results[i][0], time)
                slots[k] = None
    return [results[i] for i in range(len(requests))]


def acceptance_probability__total_variation(target_probs, draft_probs):
    return 1 - (target_probs - draft_probs).abs().sum(-1) / 2


def acceptance_probability__expectation(target_probs, draft_probs):
    ratio = (target_probs / draft_probs).clamp(max=1)
    return torch.where(draft_probs > 0, draft_probs * ratio, torch.zeros_like(ratio)).sum(dim=-1)


def probabilities(logits, temperature):
    if temperature == 0:
        return (logits == logits.max()).to(torch.float64)
    return torch.softmax(logits.double() / temperature, dim=0)


@torch.no_grad()
def speculative_decode__lists(
    target, draft, prompt, n_draft, max_new_tokens, temperature=1.0, eos_id=None, generator=None
):
    """Python lists; all uniform numbers of a round at once; the first refusal by searching."""
    check_speculation(prompt, n_draft, max_new_tokens, (target, draft))
    tokens, accepted, wanted = prompt.tolist(), 0, len(prompt) + max_new_tokens
    while len(tokens) < wanted and (len(tokens) == len(prompt) or tokens[-1] != eos_id):
        k = min(n_draft, wanted - len(tokens) - 1)
        guess, qs = [], []
        for _ in range(k):
            qs.append(probabilities(draft(torch.tensor([tokens + guess]))[0, -1], temperature))
            guess.append(int(torch.multinomial(qs[-1], 1, generator=generator)))
        logits = target(torch.tensor([tokens + guess]))[0]
        ps = [probabilities(logits[len(tokens) - 1 + i], temperature) for i in range(k + 1)]
        chance = torch.rand(k, generator=generator).tolist()
        refused = [i for i in range(k) if chance[i] * qs[i][guess[i]] >= ps[i][guess[i]]]
        kept = refused[0] if refused else k
        last = torch.clamp(ps[kept] - qs[kept], min=0) if refused else ps[k]
        new = guess[:kept] + [int(torch.multinomial(last / last.sum(), 1, generator=generator))]
        if eos_id in new:
            new = new[: new.index(eos_id) + 1]
        accepted += min(kept, len(new))
        tokens += new
    return torch.tensor(tokens), accepted


@torch.no_grad()
def speculative_decode__one_token_at_a_time(
    target, draft, prompt, n_draft, max_new_tokens, temperature=1.0, eos_id=None, generator=None
):
    """The text grows token by token; the draft's sampler is week 2's; a refused token is overwritten."""
    if n_draft < 1:
        raise ValueError("n_draft")
    text, n_accepted = prompt.clone(), 0
    end = len(prompt) + max_new_tokens
    while len(text) < end:
        begin = len(text)
        q = []
        while len(text) < begin + n_draft and len(text) < end - 1:
            logits = draft(text.unsqueeze(0))[:, -1]
            q.append(logits[0])
            text = torch.cat((text, sample_next_token(logits, temperature, generator=generator)))
        p = target(text.unsqueeze(0))[0]
        whole = True
        for at in range(begin, len(text)):
            want, have = probabilities(p[at - 1], temperature), probabilities(q[at - begin], temperature)
            x = text[at]
            if torch.rand(1, generator=generator).item() < (want[x] / have[x]).item():
                n_accepted += 1
                if x == eos_id:
                    return text[: at + 1], n_accepted
                continue
            left = torch.relu(want - have)
            text = torch.cat((text[:at], torch.multinomial(left, 1, generator=generator)))
            whole = False
            break
        if whole:
            text = torch.cat((text, sample_next_token(p[-1:], temperature, generator=generator)))
        if text[-1] == eos_id:
            break
    return text, n_accepted


def stop_at__regular_expression(text, stop):
    if isinstance(stop, str) or not all(stop):
        raise ValueError("stop")
    if not stop:
        return text, False
    match = re.search("|".join(map(re.escape, stop)), text)
    if match:
        return text[: match.start()], True
    half = "|".join(re.escape(word[:n]) for word in stop for n in range(len(word) - 1, 0, -1))
    match = re.search(f"(?:{half})$", text) if half else None
    return (text[: match.start()] if match else text), False


def stop_at__by_position(text, stop):
    """The first position from which a stop string, or the beginning of one, runs to the end."""
    if isinstance(stop, str) or "" in list(stop):
        raise ValueError("stop")
    for i in range(len(text)):
        if any(text.startswith(word, i) for word in stop):
            return text[:i], True
    for i in range(len(text)):
        if any(word.startswith(text[i:]) for word in stop):
            return text[:i], False
    return text, False
