"""What right answers of lesson 02 show, and the known mistakes. How a cache lies in memory is nobody's business here."""

import torch
from torch import Tensor, nn

from shared.checking import observes, raised
from week1_decoder.solutions.decoder import GPT, GPTConfig
from week2_pretraining.solutions.sampling import next_token_probs
from week5_inference.solutions.kv_cache import cached_forward, empty_cache, generate_cached, grouped_query_attention
from week5_inference.solutions.kv_cache import generate_cached as reference_generate


def numbers(*shape: int, rng: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=rng)


def one_key_head(q, k, v, visible=None):
    """A wrong grouped_query_attention: all query heads read the first key head."""
    grouped_query_attention(q, k, v, visible)
    return grouped_query_attention(q, k[:, :1], v[:, :1], visible)


@observes(
    "grouped_query_attention",
    difficulty=2,
    minutes=15,
    hints=(
        "With 8 query heads and 2 key heads, heads 0 to 3 read key head 0, and 4 to 7 read key head 1. Give q one more axis: which "
        "group, and which of the group.",
        "rearrange splits an axis in two: `(kv_head group)` on the left, with the number of key heads given, puts "
        "neighbours into one group. k and v get an axis of length 1 at that place, and broadcasting does the rest.",
        "Scores, then a mask of the shape (batch, 1, 1, query, key) with a lowest finite number where nothing is visible, then softmax "
        "over the keys, times v. At the end fold the two axes of heads into one.",
    ),
    mistakes={
        "Neighbouring query heads read different key heads: head h should read h // group, here it reads h % kv_heads.": [
            ("batch (kv_head group) query d_head -> batch", "batch (group kv_head) query d_head -> batch"),
            ("query d_value -> batch (kv_head group) query", "query d_value -> batch (group kv_head) query"),
        ],
        "The scores are not divided by √d_head, so the softmax saturates as heads get wider.": (
            " / math.sqrt(q.shape[-1])",
            "",
        ),
        "The scores are divided by the root of the width of v: it is q and k whose products grow with their width.": (
            "math.sqrt(q.shape[-1])",
            "math.sqrt(v.shape[-1])",
        ),
        "The mask is the wrong way round: `visible` is True where a query may look.": ("~visible[:", "visible[:"),
        "The mask is not used: every query sees every key.": ("if visible is not None:", "if False:"),
        "A query that sees no key gives nan: a softmax over nothing but -inf is 0 / 0.": (
            "torch.finfo(scores.dtype).min",
            "-math.inf",
        ),
        "The softmax runs over the queries, where it is each query that should spread a weight of 1 over the keys.": (
            "scores.softmax(dim=-1)",
            "scores.softmax(dim=-2)",
        ),
        "All query heads read the first key head: that is multi-query attention, whatever the number of key heads.": one_key_head,
    },
)
def check_grouped_query_attention(grouped_query_attention, rng):
    q = torch.ones(1, 4, 1, 2)
    k = torch.tensor([[[[0.0, 0.0], [1.0, 2.0]], [[1.0, 2.0], [0.0, 0.0]]]])
    v = torch.tensor([[[[0.0], [1.0]], [[10.0], [20.0]]]])
    yield "four query heads, two key heads, one query", grouped_query_attention(q, k, v), {"q": q, "k": k, "v": v}
    q, k, v = numbers(2, 6, 3, 4, rng=rng), numbers(2, 2, 5, 4, rng=rng), numbers(2, 2, 5, 3, rng=rng)
    yield "six query heads, two key heads", grouped_query_attention(q, k, v)
    yield "as many key heads as query heads", grouped_query_attention(q[:, :2], k, v)
    yield "one key head for all", grouped_query_attention(q, k[:, :1], v[:, :1])
    visible = torch.rand(2, 3, 5, generator=rng) < 0.6
    visible[:, :, 2] = True
    yield "with a mask, one for each row and query", grouped_query_attention(q, k, v, visible), {"visible": visible}
    visible = visible.clone()
    visible[1, 2] = False
    out = grouped_query_attention(q, k, v, visible)
    yield "a query that sees no key: whether all is finite", bool(out.isfinite().all())
    yield "a query that sees no key: what the others get", out.flatten(2)[0], {"visible": visible}
    q.requires_grad_(True), k.requires_grad_(True)
    gradients = torch.autograd.grad(grouped_query_attention(q, k, v)[..., 0].square().sum(), (q, k))
    yield "the gradient for q", gradients[0]
    yield "the gradient for k", gradients[1]
    yield (
        "float64 in: the dtype that comes out",
        str(grouped_query_attention(q.detach().double(), k.detach().double(), v.double()).dtype),
    )


class Reader:
    """Feeds a cache, and reads from it by attention: what comes out does not depend on how the cache lies."""

    def __init__(self, cache, rng: torch.Generator, n_kv_heads: int = 2, d_head: int = 3):
        self.cache, self.rng, self.shape = cache, rng, (n_kv_heads, d_head)

    def __call__(self, batch: int, new: int, layer: int = 0, real: Tensor | None = None) -> Tensor:
        """The output of attention for the real tokens among the new ones: (tokens, 2 n_kv_heads, d_head)."""
        n_kv_heads, d_head = self.shape
        k, v = (numbers(batch, n_kv_heads, new, d_head, rng=self.rng) for _ in range(2))
        q = numbers(batch, 2 * n_kv_heads, new, d_head, rng=self.rng)
        keys, values, visible = self.cache.append(layer, k, v, real)
        out = grouped_query_attention(q, keys.to(q.dtype), values.to(q.dtype), visible).transpose(1, 2)
        return out[torch.ones(batch, new, dtype=torch.bool) if real is None else real]


def written_before_read(source: str) -> list[tuple[str, str]]:
    return [
        ("newest = torch.arange(self.n_slots, device=k.device), self.lengths[:, None] - 1", source),
        ("                held = torch.cat([held, fresh], dim=1)\n", ""),
        (
            "        if wraps:\n            keys, values = torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2)\n",
            "",
        ),
    ]


@observes(
    "KVCache",
    difficulty=4,
    minutes=45,
    hints=(
        "Two tensors of zeros, (n_layers, batch, n_kv_heads, slots, d_head). The token at position p of a row lies in slot p: then "
        "append writes at positions lengths, lengths + 1, … and returns what lies before the new end. A new token at position p may "
        "see keys of positions up to p.",
        "Ragged rows: `real.cumsum(dim=1) - 1` numbers the real tokens of each row; add `lengths`. Write with index tensors, "
        "`cache[row, :, slot] = k[row, :, column]`, where `(row, column)` are `real.nonzero(as_tuple=True)`. Let lengths grow when the "
        "last layer has been written.",
        "A window: there are only `window` slots, and position p lies in slot p % window. A slot then holds the newest position that "
        "leaves this remainder. New tokens overwrite keys that the first of them still see: so join the old keys and the new ones for "
        "reading, and write afterwards. A query at p sees positions above p - window.",
    ),
    mistakes={
        "The lengths grow with every layer; all layers of one step stand at the same positions.": (
            "if layer == self.n_layers - 1:",
            "if True:",
        ),
        "All layers share one store, so that each reads what the last one wrote.": [
            ("keys, values = self.keys[layer], self.values[layer]", "keys, values = self.keys[0], self.values[0]"),
            ("self.keys[layer][self.to]", "self.keys[0][self.to]"),
            ("self.values[layer][self.to]", "self.values[0][self.to]"),
        ],
        "Padding is kept like a token: `real` says which of the new ones count.": (
            "            positions = self.lengths[:, None] + before  #",
            "            real = real if real is None else torch.ones_like(real)\n"
            "            before = torch.arange(k.shape[2])\n"
            "            positions = self.lengths[:, None] + before  #",
        ),
        "Tokens that come together all see each other, also those after them.": (
            "(key >= 0) & (key <= query)",
            "(key >= 0) & (key <= query.amax(dim=1, keepdim=True))",
        ),
        "A token does not see itself.": ("(key <= query)", "(key < query)"),
        "The window is one too long: it holds `window` tokens, the query's own among them.": (
            "key > query - self.window",
            "key >= query - self.window",
        ),
        "The window bounds what is seen, but room is taken for the whole capacity: no more than `window` tokens need a place.": (
            "capacity if window is None else min(window, capacity)",
            "capacity",
        ),
        "In a window the new tokens are written before the old ones are read, and their first ones miss what was overwritten.": (
            written_before_read(
                "newest = torch.arange(self.n_slots, device=k.device), (self.lengths + counts)[:, None] - 1"
            )
        ),
        "reset(rows) forgets all rows, not just these.": ("self.lengths[rows] = 0", "self.lengths[:] = 0"),
        "truncate takes the number of tokens to forget; it gets the number to keep.": (
            "self.lengths = lengths.clone()",
            "self.lengths = self.lengths - lengths",
        ),
        "`bytes` counts the keys and not the values.": ("2 * self.keys.nbytes", "self.keys.nbytes"),
        "Keys are stored where the values should be.": ("= v[self.source]", "= k[self.source]"),
        "Keys and values come back in the dtype in which they are kept, not in that of the new ones, and so do not fit the queries.": (
            "keys.to(k.dtype), values.to(k.dtype)",
            "keys.to(self.keys.dtype), values.to(self.keys.dtype)",
        ),
    },
)
def check_KVCache(KVCache, rng):
    cache = KVCache(1, 1, 2, 3, 4)
    read = Reader(cache, rng)
    yield "three tokens, one by one", torch.cat([read(1, 1) for _ in range(3)])
    yield "three tokens, one by one: the lengths", cache.lengths
    yield "bytes of 1 layer, 1 row, 2 heads of 3, 4 tokens in float32", cache.bytes
    yield "two more tokens than there is room for: refused", raised(read, 1, 2)

    read = Reader(KVCache(1, 2, 2, 3, 9), rng)
    yield "two rows, four tokens at once, then three", torch.cat([read(2, 4), read(2, 3)])

    cache = KVCache(3, 2, 2, 3, 6)
    read, found = Reader(cache, rng), []
    for _ in range(2):
        for layer in range(3):
            found.append(read(2, 2, layer))
            if layer == 1:
                yield "the lengths after two of three layers", cache.lengths
    yield "three layers, two steps of two tokens", torch.cat(found)
    yield "the lengths after all layers", cache.lengths

    cache = KVCache(2, 3, 2, 3, 8)
    read, found = Reader(cache, rng), []
    masks = [[[1, 1, 0], [0, 0, 1], [1, 1, 1]], [[1, 0, 1], [1, 1, 1], [0, 0, 0]], [[1, 0, 0], [0, 1, 0], [0, 0, 1]]]
    for mask in masks:
        real = torch.tensor(mask).bool()
        found += [read(3, 3, layer, real) for layer in range(2)]
    yield "ragged rows, in three steps: what the real tokens read", torch.cat(found), {"real": masks}
    yield "ragged rows: the lengths", cache.lengths
    yield "two rows for a cache of three are refused", raised(read, 2, 1)

    cache = KVCache(1, 1, 2, 3, 20, window=3)
    read = Reader(cache, rng)
    yield "a window of 3: eight tokens, one by one", torch.cat([read(1, 1) for _ in range(8)])
    yield "a window of 3: then five at once", read(1, 5)
    yield "a window of 3: bytes", cache.bytes
    cache = KVCache(2, 2, 2, 3, 20, window=4)
    read, found = Reader(cache, rng), []
    for mask in ([[1, 1, 1], [1, 0, 0]], [[0, 1, 1], [1, 1, 1]], [[1, 1, 1], [1, 1, 0]], [[1, 0, 0], [1, 1, 1]]):
        found += [read(2, 3, layer, torch.tensor(mask).bool()) for layer in range(2)]
    yield "a window of 4, ragged rows, in four steps", torch.cat(found)

    cache = KVCache(1, 3, 2, 3, 6)
    read = Reader(cache, rng)
    read(3, 4)
    cache.reset([1])
    yield "one row of three is reset: the lengths", cache.lengths
    yield "one row of three is reset: what two new tokens read", read(3, 2)
    cache.reset()
    yield (
        "all rows are reset: the lengths, and what one token reads",
        torch.cat([cache.lengths[:, None].float(), read(3, 1)[:, 0, :1]], dim=1),
    )
    read(3, 4)
    cache.truncate(torch.tensor([4, 5, 1]))
    yield "cut to 4, 5 and 1: the lengths", cache.lengths
    yield "cut to 4, 5 and 1: what a new token reads", read(3, 1)

    cache = KVCache(1, 2, 2, 3, 4)
    read = Reader(cache, rng)
    read(2, 4, real=torch.tensor([[1, 1, 1, 1], [1, 0, 1, 1]]).bool())
    cache.truncate(torch.tensor([2, 1]))
    yield "rows of 4 and 3, one of them full, cut to 2 and 1: what a new token reads", read(2, 1)

    cache = KVCache(1, 1, 1, 2, 5)
    k, v = numbers(1, 1, 2, 2, rng=rng), numbers(1, 1, 2, 2, rng=rng)
    cache.append(0, k, v)
    k.zero_(), v.zero_()
    read = Reader(cache, rng, n_kv_heads=1, d_head=2)
    yield "the tensors given to it are changed afterwards", read(1, 1)
    half = KVCache(1, 1, 2, 3, 4, dtype=torch.float16)
    yield "kept in float16: bytes", half.bytes
    k, v = numbers(1, 2, 3, 3, rng=rng), numbers(1, 2, 3, 3, rng=rng)
    yield "kept in float16, float32 comes: the dtypes of what is read", [str(x.dtype) for x in half.append(0, k, v)[:2]]
    half.reset()
    some = torch.tensor([[True, False, True]])
    yield (
        "kept in float16, one row with padding in the middle: what is read, to three digits",
        (Reader(half, rng)(1, 3, real=some) * 100).round() / 100,
    )


def gpt(rng: torch.Generator, context_length: int = 12, bias: bool = True, positions: str = "learned") -> GPT:
    """A model with large random numbers everywhere, so that all that it reads shows."""
    sizes = {"vocab_size": 11, "context_length": context_length, "d_model": 8, "n_heads": 2, "n_layers": 2, "d_ff": 12}
    model = GPT(GPTConfig(**sizes, bias=bias, positions=positions))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(numbers(*parameter.shape, rng=rng) * (0.4 if parameter.dim() > 1 else 1.0))
    return model.eval()


@observes(
    "cached_forward",
    difficulty=3,
    minutes=30,
    hints=(
        "Write down what GPT.hidden_states does, layer by layer. Only two things change: where the new tokens stand, and where attention "
        "finds its keys and values.",
        "The position of a new token is the number of tokens in its row's cache, plus the number of real ones before it in this call. In "
        "each block: q, k and v of the new tokens only; append k and v to the cache of this layer; attend to what it returns.",
        "What append returns is just what grouped_query_attention wants after q. Its heads, joined and through w_o, "
        "are added to x; then the feed-forward net as ever. Behind the last block: the final norm, and the product "
        "with the token embeddings.",
    ),
    mistakes={
        "Each call numbers its tokens from 0; the cached ones stand before them.": (
            "cache.lengths[:, None] + before",
            "0 * cache.lengths[:, None] + before",
        ),
        "Padding takes positions, so the tokens after it stand too far behind.": (
            "torch.arange(token_ids.shape[1], device=x.device) if real is None else real.cumsum(dim=1) - 1",
            "torch.arange(token_ids.shape[1], device=x.device)",
        ),
        "The cache is not told what is padding, and keeps it as if it were text.": (
            "cache.append(layer, k, v, real)",
            "cache.append(layer, k, v)",
        ),
        "Attention sees the new tokens only, and the cache is filled for nothing.": (
            "heads = grouped_query_attention(q, *cache.append(layer, k, v, real))",
            "cache.append(layer, k, v, real)\n"
            "        causal = torch.ones(len(x), q.shape[2], q.shape[2], dtype=torch.bool).tril()\n"
            "        heads = grouped_query_attention(q, k, v, causal)",
        ),
        'Positions are added to every model: one with positions "none" has no table of them.': (
            'if config.positions == "learned":',
            "if True:",
        ),
        "Attention reads x without the norm before it.": (
            "attention, normed = block.attention, block.norm_1(x)",
            "attention, normed = block.attention, x",
        ),
        "The final norm is missing: the logits are read from the residual stream as it is.": (
            "F.linear(model.final_norm(x), ",
            "F.linear(x, ",
        ),
        "What attention gives is not added to x, but takes its place.": (
            "x = x + attention.w_o(",
            "x = attention.w_o(",
        ),
        "The heads are joined in the wrong order: the numbers of one head belong side by side.": (
            "batch head new d_head -> batch new (head d_head)",
            "batch head new d_head -> batch new (d_head head)",
        ),
    },
)
def check_cached_forward(cached_forward, rng):
    model = gpt(rng)
    token_ids = torch.randint(0, 11, (2, 9), generator=rng)
    with torch.no_grad():
        cache = empty_cache(model, 2)
        yield (
            "two rows of five tokens at once",
            cached_forward(model, token_ids[:, :5], cache),
            {"token_ids": token_ids[:, :5]},
        )
        yield (
            "the next three, one by one",
            torch.cat([cached_forward(model, token_ids[:, i : i + 1], cache) for i in (5, 6, 7)], 1),
        )
        yield "the lengths of the cache", cache.lengths
        real = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0, 0]]).bool()
        cache = empty_cache(model, 2)
        yield (
            "prompts of 5 and 2 tokens, padded on the right",
            cached_forward(model, token_ids[:, :7], cache, real)[real],
        )
        yield "prompts of 5 and 2 tokens, then one more for each", cached_forward(model, token_ids[:, 8:], cache)
        cache = empty_cache(model, 2)
        yield (
            "prompts of 5 and 2 tokens, padded on the left",
            cached_forward(model, token_ids[:, :7], cache, real.flip(1))[real.flip(1)],
        )
        some = torch.tensor([[True], [False]])
        yield "after them one row goes on, the other has ended", cached_forward(model, token_ids[:, 8:], cache, some)[0]
        yield "after that both rows go on", cached_forward(model, token_ids[:, 7:8], cache)
        cache = empty_cache(model, 1, window=3)
        yield (
            "a window of 3 tokens",
            torch.cat([cached_forward(model, token_ids[:1, i : i + 4], cache) for i in (0, 4)], 1),
        )
        cache.reset()
        yield "three tokens after a reset", cached_forward(model, token_ids[:1, :3], cache)
        plain = gpt(rng, bias=False)
        yield "a model without biases", cached_forward(plain, token_ids[:, :3], empty_cache(plain, 2))
        blind = gpt(rng, positions="none")
        yield "a model without positions", cached_forward(blind, token_ids[:, :3], empty_cache(blind, 2))
        cache = empty_cache(model, 2, capacity=30)
        cached_forward(model, token_ids, cache)
        yield "more tokens than the context holds: refused", raised(cached_forward, model, token_ids[:, :4], cache)


def talkative(rng: torch.Generator, scale: float = 1.0) -> GPT:
    """A model that repeats itself little: its next token depends on all that it has read, and on where."""
    model = gpt(rng, context_length=16)
    with torch.no_grad():  # else the biases, or the last token in the tied head, decide alone
        for name, parameter in model.named_parameters():
            parameter.mul_(0.1 if name.endswith("bias") else 0.4 if "embedding" in name else 1.5)
            if "norm" in name and name.endswith("weight"):
                parameter.fill_(1.0)
        model.final_norm.weight.fill_(6 * scale)
    return model


def looks_drawn(tokens: list[int], probs: Tensor) -> bool:
    """Whether the tokens are spread as the probabilities say: chi-square below its 99.99 % quantile."""
    expected = probs * len(tokens)
    counts = torch.bincount(torch.tensor(tokens), minlength=len(probs)).to(expected)
    likely = expected > 4
    statistic = ((counts - expected)[likely] ** 2 / expected[likely]).sum()
    degrees = max(int(likely.sum()) - 1, 1)
    return bool(statistic < degrees + 4 * (2 * degrees) ** 0.5 + 8) and not bool(counts[probs == 0].any())


def without_the_end(model, prompts, max_new_tokens, *args, eos_id=None, **options):
    """A wrong generate_cached: the end token is cut off."""
    rows = generate_cached(model, prompts, max_new_tokens, *args, eos_id=eos_id, **options)
    return [row[:-1] if row and row[-1] == eos_id else row for row in rows]


def with_the_prompt(model, prompts, *args, **options):
    """A wrong generate_cached: the prompt comes back too."""
    return [
        [*prompt, *row] for prompt, row in zip(prompts, generate_cached(model, prompts, *args, **options), strict=True)
    ]


@observes(
    "generate_cached",
    difficulty=3,
    minutes=30,
    seconds=30,  # one prompt at a time is right, too
    hints=(
        "Prefill: put the prompts into one tensor, padded on the right, with `real` where there are tokens, and one call of forward. "
        "Which column of each row predicts its first new token?",
        "The last *real* one: `logits[rows, lengths - 1]`. Then draw a token for each row, and feed just these tokens, (batch, 1), for "
        "the next logits. No token is fed twice.",
        "Keep a list for each row and a flag whether it goes on. A row that has written eos_id gets no more tokens; pass `real` False for "
        "it, and its cache stays as it is. Stop when no row goes on, or before the forward pass that nobody needs.",
    ),
    mistakes={
        "The logits of the last column are read in the prefill: in a shorter row that is padding.": (
            "real.to(device))[rows, lengths - 1]",
            "real.to(device))[:, -1]",
        ),
        "The prefill does not say what is padding, so it stays in the cache like words of the prompt.": (
            "cache, real.to(device))[rows",
            "cache, None)[rows",
        ),
        "A row that has written its end token goes on writing.": ("active[row] = token != eos_id", "pass"),
        "All rows end when the first one does.": ("or not any(active)", "or not all(active)"),
        "One token too few is written.": (
            "for step in range(max_new_tokens):",
            "for step in range(max_new_tokens - 1):",
        ),
        "The temperature is not used: every token is the likeliest.": (
            "sample_next_token(logits, temperature, top_k, top_p, generator)",
            "sample_next_token(logits, 0.0, top_k, top_p, generator)",
        ),
        "top_k is not used: tokens beyond the k likeliest are drawn too.": (
            "sample_next_token(logits, temperature, top_k, top_p, generator)",
            "sample_next_token(logits, temperature, 0, top_p, generator)",
        ),
        "top_p is not used: tokens beyond the likeliest that make up p are drawn too.": (
            "sample_next_token(logits, temperature, top_k, top_p, generator)",
            "sample_next_token(logits, temperature, top_k, 1.0, generator)",
        ),
        "`forward` is not looked at: the logits come from cached_forward, whatever was given.": [
            ("logits = forward(model, token_ids", "logits = cached_forward(model, token_ids"),
            ("logits = forward(model, next_ids", "logits = cached_forward(model, next_ids"),
        ],
        "Chance does not come from the generator: two runs with the same seed differ.": (
            "top_k, top_p, generator)",
            "top_k, top_p, None)",
        ),
        "The end token is cut off; it is the row's last token.": without_the_end,
        "The prompt comes back with the new tokens: they alone were asked for.": with_the_prompt,
    },
)
def check_generate_cached(generate_cached, rng):
    model = talkative(rng)
    prompts = [[1, 2, 3, 4, 5], [6], [7, 8, 9], [10, 2], [3, 3, 9, 1], [5, 7]]
    shown = {"prompts": prompts}
    yield "six prompts of 1 to 5 tokens, four new ones each", generate_cached(model, prompts, 4), shown
    lengths = torch.randint(1, 7, (24,), generator=rng).tolist()
    crowd = [torch.randint(1, 11, (length,), generator=rng).tolist() for length in lengths]
    yield "24 prompts of 1 to 6 tokens, two new ones each", generate_cached(model, crowd, 2)
    yield "three of the prompts, each alone", [generate_cached(model, [prompt], 3)[0] for prompt in prompts[:3]], shown
    rows = reference_generate(model, prompts, 9)
    # The end token is one that some rows write soon, and others late or never.
    ends = max(range(11), key=lambda token: len({row.index(token) if token in row[:8] else 9 for row in rows}))
    yield (
        "one token ends a row, rows end at different times",
        generate_cached(model, prompts, 9, eos_id=ends),
        shown | {"eos_id": ends},
    )
    yield "no new tokens", generate_cached(model, prompts, 0), shown
    yield "as many as the context holds", generate_cached(model, [[1, 2, 3, 4]], 12)
    flat = talkative(rng, scale=0.2)
    generator = torch.Generator().manual_seed(int(torch.randint(0, 2**31, (), generator=rng)))
    many = [[1, 2]] * 200
    with torch.no_grad():
        logits = flat(torch.tensor([[1, 2]]))[:, -1]
    for name, n, settings in (
        ("temperature 1.5", 200, {"temperature": 1.5}),
        ("temperature 1, top_k 3", 200, {"temperature": 1.0, "top_k": 3}),
        ("temperature 1, top_p 0.6", 50, {"temperature": 1.0, "top_p": 0.6}),
    ):
        drawn = [row[0] for row in generate_cached(flat, many[:n], 1, **settings, generator=generator)]
        yield (
            f"{name}: {n} first tokens are spread as the probabilities say",
            looks_drawn(drawn, next_token_probs(logits, **settings)[0]),
        )
    twice = [
        generate_cached(flat, many[:12], 5, temperature=1.0, generator=torch.Generator().manual_seed(5))
        for _ in range(2)
    ]
    yield "the same seed twice gives the same tokens", twice[0] == twice[1]
    yield "one seed: the rows differ from each other", len({tuple(row) for row in twice[0]}) > 5

    def backwards(*args):
        return -cached_forward(*args)

    yield "`forward` gives all logits the other sign", generate_cached(model, prompts, 3, forward=backwards), shown
    model.final_norm = nn.Sequential(model.final_norm, nn.Dropout(0.5)).train()
    yield "a model with dropout in training mode: it is off meanwhile", generate_cached(model, prompts, 4), shown
    yield "dropout after that: on again", all(module.training for module in model.final_norm)
    yield "a prompt longer than the context is refused", raised(generate_cached, model, [[1] * 20], 5)


@observes(
    "kv_cache_bytes",
    difficulty=1,
    minutes=5,
    hints=(
        "For one token, one layer has n_kv_heads keys of d_head numbers, and as many values.",
        "Times layers, rows and tokens; a window bounds the tokens.",
        "What counts is the smaller of tokens and window; without a window it is tokens alone. Half a byte a number "
        "is possible (int4), and the result is a whole number all the same.",
    ),
    mistakes={
        "Keys are counted, values are not.": ("round(2 * n_layers", "round(n_layers"),
        "The window is not used, so the count grows on: beyond a window nothing more is kept.": (
            "tokens if window is None else min(tokens, window)",
            "tokens",
        ),
        "The whole window is counted also before it is full.": ("else min(tokens, window)", "else window"),
        "The rows of the batch are not counted: each has a cache of its own.": (
            "n_layers * batch * n_kv",
            "n_layers * n_kv",
        ),
        "Bits are counted, not bytes.": ("kept * bytes_per_number", "kept * 8 * bytes_per_number"),
    },
)
def check_kv_cache_bytes(kv_cache_bytes, rng):
    yield "one layer, one head of one number, one token", kv_cache_bytes(1, 1, 1, 1)
    yield "2 layers, 3 heads of 5, 7 tokens, 11 rows, float32", kv_cache_bytes(2, 3, 5, 7, batch=11, bytes_per_number=4)
    yield "Llama 2 7B, 4,096 tokens, float16", kv_cache_bytes(32, 32, 128, 4096)
    yield "a window of 4 with 7 tokens", kv_cache_bytes(2, 1, 8, 7, window=4)
    yield "a window of 4 with 3 tokens", kv_cache_bytes(2, 1, 8, 3, window=4)
    layers, heads, d_head, batch = (int(size) for size in torch.randint(2, 90, (4,), generator=rng))
    short, long = sorted(int(size) for size in torch.randint(2, 5000, (2,), generator=rng))
    yield "sizes at random", kv_cache_bytes(layers, heads, d_head, long, batch, bytes_per_number=1)
    yield "sizes at random: a window that is full", kv_cache_bytes(layers, heads, d_head, long, batch, short)
    yield "half a byte a number", kv_cache_bytes(3, 2, 16, 10, bytes_per_number=0.5)
    yield "no tokens", kv_cache_bytes(3, 2, 16, 0)
