"""What right answers of lesson 05 show, and the known mistakes. The cache is judged by what goes in and comes out."""

import torch

from shared.checking import observes, raised
from week5_inference.solutions.serving import Request, static_batching

LAYERS, HEADS, D_HEAD = 2, 3, 5  # all different


def tokens(n, rng):
    """Keys and values of n new tokens."""
    return torch.randn(2, LAYERS, HEADS, n, D_HEAD, generator=rng)


def state(cache):
    """What a right cache has, however it numbers its blocks."""
    used = [block for table in cache.tables.values() for block in table]
    return {
        "free blocks": len(cache.free_blocks),
        "free blocks that a table names": len(set(cache.free_blocks) & set(used)),
        "blocks free twice": len(cache.free_blocks) - len(set(cache.free_blocks)),
        "blocks of each sequence": {name: len(table) for name, table in cache.tables.items()},
        "lengths": dict(cache.lengths),
        "counts are the tables'": all(count == used.count(block) for block, count in enumerate(cache.counts)),
    }


@observes(
    "PagedKVCache",
    difficulty=4,
    minutes=45,
    hints=(
        "Token number t of a sequence lies in the block `tables[sequence][t // block_size]`, at the place t % block_size in it. "
        "Writing and reading are both this look-up; `blocks_for` tells how many blocks a length needs.",
        "append: how many blocks will be needed, one more if the part-filled last block has a count above 1? Compare with the free "
        "ones first, and raise before anything is changed. Then copy that block if need be, take the new blocks, write.",
        "fork copies the *list* of blocks (not their contents) and raises each count by 1. free lowers each count by 1, and gives a "
        "block back when its count is 0. In append a copied block's old count goes down by 1 and the new one's becomes 1.",
    ),
    mistakes={
        "A block that another sequence names too is written in place, so the other's tokens change with it.": (
            "copies = new > 0 and length % size > 0 and self.counts[table[-1]] > 1",
            "copies = 0",
        ),
        "free gives back blocks that another sequence still names: only a count of 0 makes a block free.": (
            "            if self.counts[block] == 0:\n                self.free_blocks.append(block)",
            "            self.free_blocks.append(block)",
        ),
        "Tokens behind the sequence's end come out too: the last block is only part full.": (
            ".flatten(2, 3)[:, :, :length]",
            ".flatten(2, 3)",
        ),
        "Every append takes new blocks, so each one leaves a part-filled block behind, and the places do not fit.": (
            "while len(table) < blocks_for(length + new, size):",
            "for _ in range(blocks_for(new, size)):",
        ),
        "When the blocks do not suffice, those that were left are taken all the same: after a refusal the pool is empty.": (
            'raise OutOfBlocks(f"{new} more tokens need {needed} blocks, and {len(self.free_blocks)} are free")',
            "taken = [self.free_blocks.pop() for _ in range(len(self.free_blocks))]\n"
            "            table.extend(taken)\n            raise OutOfBlocks(needed)",
        ),
        "The block that was copied keeps its count, so it is never free again.": (
            "            self.counts[shared] -= 1\n",
            "",
        ),
        "fork does not count the new table, so the blocks are written, and freed, as if they had one owner.": (
            "            self.counts[block] += 1\n",
            "            pass\n",
        ),
        "The child gets the parent's own list of blocks, not a list like it: a block that one of them takes, both have.": (
            "self.tables[child] = self.tables[parent][: blocks_for(length, self.block_size)]",
            "self.tables[child] = self.tables[parent]",
        ),
        "A full last block is copied too when it is shared. Nothing is written to it, so it can stay shared.": (
            "new > 0 and length % size > 0 and self.counts",
            "new > 0 and length > 0 and self.counts",
        ),
    },
)
def check_paged_kv_cache(PagedKVCache, rng):
    cache = PagedKVCache(LAYERS, 7, 4, HEADS, D_HEAD)
    a, b, c, more = tokens(6, rng), tokens(1, rng), tokens(5, rng), tokens(1, rng)
    cache.add("a")
    cache.append("a", *a)
    sizes = {"block_size": 4, "n_blocks": 7}
    yield "six tokens at once", cache("a"), sizes | {"tokens of a": 6}
    yield "six tokens at once: blocks, lengths and counts", state(cache), sizes | {"tokens of a": 6}
    cache.add("b")
    for _ in range(3):
        cache.append("b", *b)
    cache.append("b", *c)
    yield "three single tokens, then five", cache("b"), sizes | {"tokens of b": "1 + 1 + 1 + 5"}
    yield "two sequences: blocks, lengths and counts", state(cache), sizes | {"tokens": "a: 6, b: 1 + 1 + 1 + 5"}

    story = sizes | {"before": "a has 6 tokens, b has 8", "then": "fork a to child, append one token to child"}
    cache.fork("a", "child")
    yield "a fork takes no block", state(cache), story
    yield "a fork has its parent's tokens", cache("child"), story
    cache.append("child", *more)
    yield "the parent after its child has written", cache("a"), story
    yield "the child after it has written", cache("child"), story
    yield "blocks after the child has written", state(cache), story
    cache.append("a", *tokens(1, rng))
    yield "the parent writes in place: the copy was enough", state(cache), story | {"and": "append one token to a"}
    yield "the child after its parent has written", cache("child"), story | {"and": "append one token to a"}

    full = sizes | {"before": "b has 8 tokens, two full blocks", "then": "fork b to twin, append one token to twin"}
    cache.fork("b", "twin")
    cache.append("twin", *more)
    yield "a full block stays shared", state(cache), full
    cache.free("b")
    yield "after the parent is freed its child has all tokens", cache("twin"), full | {"and": "free b"}
    yield "blocks after the parent is freed", state(cache), full | {"and": "free b"}

    cache.fork("twin", "short", 3)
    yield (
        "a fork of the first three tokens",
        cache("short"),
        {"twin": "9 tokens", "then": "fork twin to short, 3 tokens"},
    )
    for name in ("short", "twin", "child"):
        cache.free(name)
    yield "all sequences but one are freed", state(cache), {"sequences": "a, with 7 tokens"}

    before = cache("a")
    too_many = {"free blocks": 5, "append to a": "22 tokens, which need 6 blocks"}
    yield "more tokens than the pool holds: refused", raised(cache.append, "a", *tokens(22, rng)), too_many
    yield "more tokens than the pool holds: nothing has changed", state(cache), too_many
    yield (
        "more tokens than the pool holds: the sequence has its own",
        [torch.equal(x, y) for x, y in zip(cache("a"), before, strict=True)],
        too_many,
    )
    cache.append("a", *tokens(21, rng))
    yield "what just fits, fits", state(cache), {"free blocks": 5, "append to a": "21 tokens"}
    cache.free("a")
    yield "the last sequence is freed: every block is free", state(cache)
    cache.add("one")
    cache.append("one", *tokens(9, rng))
    cache.fork("one", "two")
    one = sizes | {"before": "one has 9 tokens, its third block has one of them", "then": "fork one to two"}
    cache.append("two", *tokens(0, rng))
    yield "nothing is appended to a fork: no block is copied", state(cache), one | {"and": "append no token to two"}
    cache.append("two", *more)
    yield "one token is appended to it: blocks, lengths and counts", state(cache), one | {"and": "one token to two"}
    yield "one token is appended to it: what it has", cache("two"), one | {"and": "append one token to two"}
    cache.append("one", *tokens(15, rng))
    cache.fork("two", "three")
    full = {"free blocks": 0, "before": "fork two, with 10 tokens, to three", "then": "append one token to three"}
    yield "no block is left for a copy: refused", raised(cache.append, "three", *more), full
    yield "no block is left for a copy: nothing has changed", state(cache), full
    half = PagedKVCache(LAYERS, 2, 3, HEADS, D_HEAD, dtype=torch.float16)
    half.add(0)
    half.append(0, *(x.half() for x in a[:, :, :, :2]))
    yield "float16 stays", half(0), {"dtype": "float16"}
    yield "an unknown sequence is refused", raised(half.free, "nobody"), {"free": "nobody"}


@observes(
    "continuous_batching",
    difficulty=4,
    minutes=35,
    hints=(
        "Keep a clock, a queue of waiting requests in the order of arrival, and a dict of those that run: request -> tokens that it "
        "has. One turn of the loop is one step of the server.",
        "A step: while the first in the queue has arrived and there are a free slot and its blocks, take it, move the clock by its "
        "prefill, and note its first token. Then move the clock once by decode_seconds(running), and each gets a token.",
        "A request that wants one token is done after its prefill, and needs no slot. Without running requests the clock jumps to the "
        "next arrival. Who has n_new tokens is finished at the clock's time, and gives slot and blocks back before the next step.",
    ),
    mistakes={
        "New requests wait until the whole batch is done. That is static batching: slots that are free stay empty meanwhile.": (
            lambda requests, n_slots, prefill_seconds, decode_seconds, n_blocks=None, block_size=16: static_batching(
                requests, n_slots, prefill_seconds, decode_seconds
            )
        ),
        "Requests are served before they have arrived.": (
            "if requests[i].arrival > now or blocks",
            "if blocks",
        ),
        "The newest request goes first, so the oldest waits longest.": (
            "waiting = deque(sorted(range(len(requests)), key=lambda i: requests[i].arrival))\n    blocks",
            "waiting = deque(sorted(range(len(requests)), key=lambda i: -requests[i].arrival))\n    blocks",
        ),
        "The prefill gives no token here, and each request takes a step too many. Its last logits are those of the first new token.": (
            "running[i] = 1\n",
            "running[i] = 0\n",
        ),
        "A step is paid for all slots, filled or not.": (
            "now += decode_seconds(len(running))",
            "now += decode_seconds(n_slots)",
        ),
        "Each running request pays for a step of its own. They share one.": (
            "now += decode_seconds(len(running))",
            "now += decode_seconds(1) * len(running)",
        ),
        "The prefill takes no time here.": (
            "        now += prefill_seconds(requests[i].n_prompt)\n            first[i] = last[i] = now\n            if",
            "        first[i] = last[i] = now\n            if",
        ),
        "The blocks are not looked at: requests come in for which the cache has no room.": (
            " or blocks[i] > n_free:",
            ":",
        ),
        "Blocks come back only when nothing runs any more. Each request gives its own back when it is done.": (
            "                n_free += blocks[i]\n                del running[i]",
            "                del running[i]\n                if n_blocks and not running:\n                    n_free = n_blocks",
        ),
        "Blocks are kept for the prompt only, and the new tokens have no room.": (
            "blocks = [blocks_for(request.n_prompt + request.n_new, block_size)",
            "blocks = [blocks_for(request.n_prompt, block_size)",
        ),
        "The results are in the order in which requests arrived, not in the order of `requests`.": (
            "return [(first[i], last[i]) for i in range(len(requests))]\n    # END",
            "return [(first[i], last[i]) for i in sorted(first, key=lambda i: requests[i].arrival)]\n    # END",
        ),
    },
)
def check_continuous_batching(continuous_batching, rng):
    prefill, decode = (lambda n: 0.1 * n), (lambda n: 1.0 + 0.25 * n)
    costs = {"prefill_seconds(n)": "0.1 n", "decode_seconds(n)": "1 + 0.25 n"}

    def run(requests, n_slots, **blocks):
        shown = {"requests (arrival, n_prompt, n_new)": [(r.arrival, r.n_prompt, r.n_new) for r in requests]}
        results = continuous_batching(requests, n_slots, prefill, decode, **blocks)
        return results, shown | {"n_slots": n_slots} | blocks | costs

    yield "one request", *run([Request(2.0, 10, 3)], 2)
    yield "a request that wants one token", *run([Request(0.0, 10, 1), Request(0.0, 20, 2)], 1)
    yield (
        "two that want one token each, the second after the first is done: nothing is decoded",
        *run([Request(0.0, 10, 1), Request(1.5, 10, 1)], 1),
    )
    yield "two requests at once", *run([Request(0.0, 10, 3), Request(0.0, 20, 2)], 2)
    yield "one slot: the second waits", *run([Request(0.0, 10, 3), Request(0.5, 20, 2)], 1)
    yield (
        "a third takes the slot of the one that is done",
        *run([Request(0.0, 5, 6), Request(0.0, 5, 2), Request(0.1, 5, 3)], 2),
    )
    yield "a late request joins the others", *run([Request(0.0, 5, 6), Request(3.0, 5, 3)], 2)
    yield "the server is idle between two requests", *run([Request(0.0, 5, 2), Request(50.0, 5, 2)], 2)
    yield (
        "the list is not in the order of arrival",
        *run([Request(4.0, 10, 3), Request(0.0, 20, 4), Request(1.0, 7, 2)], 1),
    )
    small = {"n_blocks": 4, "block_size": 4}
    yield (
        "the blocks suffice for one at a time",
        *run([Request(0.0, 6, 3), Request(0.0, 5, 4), Request(0.2, 6, 3)], 3, **small),
    )
    yield "nobody overtakes", *run([Request(0.0, 4, 4), Request(0.1, 9, 6), Request(0.2, 2, 2)], 3, **small)
    draws = torch.rand(9, 3, generator=rng).tolist()
    requests = [Request(round(9 * x, 2), 3 + int(20 * y), 2 + int(9 * z)) for x, y, z in draws]
    yield "nine requests in three slots", *run(requests, 3)
    yield "nine requests and few blocks", *run(requests, 4, n_blocks=12, block_size=4)
    yield "no requests", continuous_batching([], 2, prefill, decode)


@observes(
    "acceptance_probability",
    difficulty=1,
    minutes=8,
    hints=(
        "A drafted x comes with probability q(x), and stays with probability min(1, p(x) / q(x)). Multiply, and sum over x.",
        "q(x) · min(1, p(x) / q(x)) is min(q(x), p(x)): nothing is divided, so q(x) = 0 does no harm.",
        "Token by token the smaller of two numbers, then one sum: over the vocabulary, so that each position keeps "
        "a probability of its own.",
    ),
    mistakes={
        "It is Σ p q, how often two independent draws are equal: a drafted token may stay where the target would have drawn another.": (
            "torch.minimum(target_probs, draft_probs).sum(dim=-1)",
            "(target_probs * draft_probs).sum(dim=-1)",
        ),
        "It is how likely the token is *not* accepted, the total variation distance of the two.": (
            "torch.minimum(target_probs, draft_probs).sum(dim=-1)",
            "1 - torch.minimum(target_probs, draft_probs).sum(dim=-1)",
        ),
        "The mean is taken over the vocabulary, not the sum: the result shrinks as the vocabulary grows.": (
            "torch.minimum(target_probs, draft_probs).sum(dim=-1)",
            "torch.minimum(target_probs, draft_probs).mean(dim=-1)",
        ),
        "The sum runs over all positions too: each has an acceptance probability of its own.": (
            "torch.minimum(target_probs, draft_probs).sum(dim=-1)",
            "torch.minimum(target_probs, draft_probs).sum()",
        ),
        "p / q is not held to 1 at most: q cancels, and Σ p is left, which is 1 where q has no zeros.": (
            "torch.minimum(target_probs, draft_probs).sum(dim=-1)",
            "target_probs.where(draft_probs > 0, 0).sum(dim=-1)",
        ),
    },
)
def check_acceptance_probability(acceptance_probability, rng):
    p, q = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.2, 0.4, 0.4])
    yield "three tokens", acceptance_probability(p, q)
    yield "target and draft exchanged", acceptance_probability(q, p)
    yield "the same distribution", acceptance_probability(p, p)
    yield "nothing in common", acceptance_probability(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    p, q = (torch.softmax(2 * torch.randn(2, 3, 7, generator=rng), dim=-1) for _ in range(2))
    yield "a batch of positions", acceptance_probability(p, q)


def table(rng, vocab, scale=2.0):
    return scale * torch.randn(vocab, vocab, generator=rng)


def model_of(logits, calls=None):
    """A model whose next token depends on the last one alone; `calls` notes how many tokens each call got."""

    def model(token_ids):
        if calls is not None:
            calls.append(tuple(token_ids.shape))
        return logits[token_ids]

    return model


def distance(counts, probs):
    """Total variation distance of counted draws from what they should be."""
    return (counts / counts.sum() - probs).abs().sum().item() / 2


def histogram(draws, vocab):
    return torch.bincount(draws, minlength=vocab).float()


@observes(
    "speculative_decode",
    difficulty=4,
    minutes=40,
    hints=(
        "A round: the draft draws tokens one after the other, and you keep the distribution q of each. Then the target sees prompt and "
        "drafted tokens in *one* call: its logits at a position are about the token behind it.",
        "Drafted token x number i stands at position start + i, so its p comes from the target's logits at start + i - 1. Accept when a "
        "uniform number is below p[x] / q[x]. At the first refusal draw from (p - q) cut at 0 (multinomial normalizes), and end the round.",
        "If none was refused, draw one more from the target's logits behind the last drafted token: a round of k drafted tokens gives "
        "1 to k + 1. So draft at most (tokens still wanted) - 1. Python's for … else is made for this.",
    ),
    mistakes={
        "After a refusal the token is drawn from the target's p, of which the accepted tokens have had their part already: what the draft likes comes too often.": (
            "rest = (p - q).clamp_min(0)",
            "rest = p",
        ),
        "After a refusal the token is drawn from the draft again, so the target has no say in it.": (
            "rest = (p - q).clamp_min(0)",
            "rest = q",
        ),
        "Every drafted token is accepted: this is the draft's text, not the target's.": (
            "if torch.rand((), generator=generator) >= p[x] / q[x]:",
            "if False:",
        ),
        "A token is accepted only if the target likes it at least as much as the draft does. Without chance the distribution is another.": (
            "if torch.rand((), generator=generator) >= p[x] / q[x]:",
            "if p[x] < q[x]:",
        ),
        "A token is accepted with probability p(x), not p(x) / q(x): most of a good draft is refused.": (
            "if torch.rand((), generator=generator) >= p[x] / q[x]:",
            "if torch.rand((), generator=generator) >= p[x]:",
        ),
        "The round goes on after a refusal: the later drafted tokens followed a token that is gone.": (
            "                ids = torch.cat([ids[: start + i], drawn(rest if rest.sum() > 0 else p)])\n                break",
            "                ids = torch.cat([ids[: start + i], drawn(rest if rest.sum() > 0 else p), ids[start + i + 1 :]])",
        ),
        "The target's logits are read one place too late: those at a position are about the token behind it.": (
            "target(ids[None])[0, start - 1 :], temperature)",
            "target(ids[None])[0, start - 1 :].roll(-1, 0), temperature)",
        ),
        "The temperature is used for the draft only.": (
            "target(ids[None])[0, start - 1 :], temperature)",
            "target(ids[None])[0, start - 1 :], float(temperature > 0))",
        ),
        "The tokens go on behind the end-of-text token.": (
            "        if len(ended):\n",
            "        if False:\n",
        ),
        "The draft is not told how few tokens are still wanted, and too many come back.": (
            "range(min(n_draft, end - start - 1))",
            "range(n_draft)",
        ),
        "Chance does not come from the generator: two runs with the same seed differ.": [
            ("torch.multinomial(probs, 1, generator=generator)", "torch.multinomial(probs, 1)"),
            ("torch.rand((), generator=generator)", "torch.rand(())"),
        ],
        "The count holds the target's own tokens too; only drafted ones are accepted.": (
            "        n_accepted += n_kept\n",
            "        n_accepted += n_kept + 1\n",
        ),
    },
)
def check_speculative_decode(speculative_decode, rng):
    vocab = 6
    good = table(rng, vocab)
    other = good + 0.7 * table(rng, vocab)
    prompt = torch.tensor([2, 4])
    shown = {"target": good, "draft": other, "prompt": prompt}
    for n_draft, new in ((1, 5), (3, 9), (4, 3), (2, 1)):
        result = speculative_decode(model_of(good), model_of(other), prompt, n_draft, new, 0.0, None, rng)
        yield (
            f"greedy, {n_draft} drafted, {new} new tokens",
            result,
            shown | {"n_draft": n_draft, "max_new_tokens": new},
        )
    calls = []
    result = speculative_decode(model_of(good, calls), model_of(good), prompt, 3, 6, 0.0, None, rng)
    yield "the draft is the target: greedy, 3 drafted, 6 new", result, {"target and draft": good, "prompt": prompt}
    yield (
        "the target is called once a round",
        len(calls) <= 3,
        {"new tokens": 6, "n_draft": 3, "calls of the target": "at most 3"},
    )
    cycle = 9.0 * torch.eye(vocab).roll(1, 1)  # after token i comes i + 1
    stays = 9.0 * torch.eye(vocab)
    shown = {"target": "after i comes i + 1", "draft": "the same", "prompt": prompt[:1], "eos_id": 5, "n_draft": 5}
    yield (
        "it ends behind eos_id",
        speculative_decode(model_of(cycle), model_of(cycle), prompt[:1], 5, 12, 0.0, 5, rng),
        shown,
    )
    shown["n_draft"] = 1
    yield (
        "it ends behind eos_id in the second round",
        speculative_decode(model_of(cycle), model_of(cycle), prompt[:1], 1, 12, 0.0, 5, rng),
        shown,
    )
    yield (
        "eos_id again and again: it ends behind the first",
        speculative_decode(model_of(stays), model_of(stays), prompt[:1], 3, 12, 0.0, 2, rng),
        {"target": "after i comes i again", "draft": "the same", "prompt": prompt[:1], "eos_id": 2, "n_draft": 3},
    )
    errs = cycle.clone()
    errs[3] = stays[0]
    shown |= {"draft": "after i comes i + 1, but after 3 comes 0", "n_draft": 4}
    yield (
        "a draft whose second token is wrong",
        speculative_decode(model_of(cycle), model_of(errs), prompt[:1], 4, 5, 0.0, None, rng),
        shown,
    )
    shown["n_draft"] = 3
    shown["draft"] = "after i comes i again"
    yield (
        "a draft that is always wrong",
        speculative_decode(model_of(cycle), model_of(stays), prompt[:1], 3, 5, 0.0, None, rng),
        shown,
    )
    yield "no new tokens", speculative_decode(model_of(cycle), model_of(cycle), prompt, 2, 0, 1.0, None, rng)[0]

    # Distributions: models that ignore what stands before, so one long text is many draws.
    p, q = torch.tensor([0.6, 0.2, 0.2, 0.0]), torch.tensor([0.05, 0.25, 0.25, 0.45])
    flat = [model_of(probs.log().clamp_min(-30).expand(4, 4)) for probs in (p, q)]
    shown = {"p": p, "q": q, "n_draft": 2}
    ids, accepted = speculative_decode(*flat, torch.tensor([0]), 2, 300, 1.0, None, rng)
    yield "300 tokens are distributed as the target's", distance(histogram(ids[1:], 4), p) < 0.115, shown
    # Of a round's 1 + a + a² tokens a + a² are drafted ones, and here a = 0.45.
    yield (
        "300 tokens: as many are accepted as theory says",
        abs(accepted - 118) < 40,
        shown | {"accepted of 300": "about 118"},
    )
    twice = [
        speculative_decode(*flat, torch.tensor([0]), 2, 24, 1.0, None, torch.Generator().manual_seed(5))[0]
        for _ in range(2)
    ]
    yield "the same seed twice gives the same tokens", torch.equal(*twice), shown
    warm = torch.softmax(p.log().clamp_min(-30) / 4, dim=-1)
    ids, _ = speculative_decode(*flat, torch.tensor([0]), 3, 200, 4.0, None, rng)
    yield (
        "temperature 4: distributed as the target's",
        distance(histogram(ids[1:], 4), warm) < 0.14,
        shown | {"temperature": 4.0},
    )
    after = torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log()
    wrong = torch.tensor([[0.4, 0.6], [0.8, 0.2]]).log()
    ids, _ = speculative_decode(model_of(after), model_of(wrong), torch.tensor([0]), 2, 150, 1.0, None, rng)
    pairs = histogram(2 * ids[:-1] + ids[1:], 4).view(2, 2)
    shown = {"target": "0 -> (0.9, 0.1), 1 -> (0.5, 0.5)", "draft": "0 -> (0.4, 0.6), 1 -> (0.8, 0.2)"}
    yield "what follows the token 0 is distributed as the target's", distance(pairs[0], after[0].exp()) < 0.13, shown


@observes(
    "stop_at",
    difficulty=2,
    minutes=12,
    hints=(
        "Two cases. Is a whole stop string in the text? Then cut before the one that begins first.",
        "Else: does the text end in the beginning of a stop string? For each stop string and each of its beginnings, text.endswith.",
        "Hold back the longest such beginning, or nothing. Mind the second case: text[:-0] is not the text, but empty.",
    ),
    mistakes={
        "The stop string itself is sent too.": (
            "return text[: min(found)], True",
            "return text[: min(found) + max(len(w) for w in stop if text.find(w) == min(found))], True",
        ),
        "The first stop string of the list wins, not the one that begins first in the text.": (
            "return text[: min(found)], True",
            "return text[: found[0]], True",
        ),
        "Nothing is held back: half a stop string is sent before it is known to be one.": (
            "return text[: len(text) - held], False",
            "return text, False",
        ),
        "The longest stop string's length is always held back, also where the end cannot become one.": (
            "return text[: len(text) - held], False",
            "return text[: max(0, len(text) - max((len(word) - 1 for word in stop), default=0))], False",
        ),
        "The shortest beginning is held back, not the longest: the first part of a stop string is sent.": (
            "held = max((n for word",
            "held = min((n for word",
        ),
        "With nothing to hold back the text comes out empty: text[:-0] is text[:0].": (
            "return text[: len(text) - held], False",
            "return text[:-held], False",
        ),
        "The last occurrence is found, not the first: all that stands before it is sent.": (
            "text.find(word)",
            "text.rfind(word)",
        ),
        "Only a stop string at the very end is found. A token can bring more text behind it.": (
            "for word in stop if word in text]",
            "for word in stop if text.endswith(word)]",
        ),
    },
)
def check_stop_at(stop_at, rng):
    yield "no stop string in the text", stop_at("one. Two", ["User:"])
    yield "half a stop string at the end", stop_at("one. Us", ["User:"])
    yield "a whole stop string", stop_at("one. User:", ["User:"])
    yield "a stop string, and text behind it", stop_at("one. User: hm", ["User:"])
    yield "a stop string twice", stop_at("a\n\nb\n\nc", ["\n\n"])
    yield "two stop strings, the second begins first", stop_at("one. END two STOP", ["STOP", "END"])
    yield "a stop string that begins like itself", stop_at("x aab", ["aabaac"])
    yield "two beginnings of a stop string fit", stop_at("so aa", ["aab"])
    yield "the beginnings of two stop strings", stop_at("so ab", ["bc", "abd"])
    yield "one letter of a stop string at the end", stop_at("one. U", ["User:"])
    yield "half a stop string, but not at the end", stop_at("User one", ["User:"])
    for _ in range(4):
        text, *stop = (
            "".join("ab"[i] for i in torch.randint(0, 2, (n,), generator=rng).tolist()) for n in (12, 7, 6, 5)
        )
        yield "letters at random", stop_at(text, stop)
    yield "no stop strings", stop_at("one", [])
    yield "the whole text is a beginning", stop_at("Us", ["User:"])
    yield "empty text", stop_at("", ["x"])
