"""What right answers of 02_attention show, and the mistakes that we know."""

import torch

from shared.checking import alike, observes, raised


@observes(
    "softmax",
    difficulty=1,
    minutes=5,
    hints=(
        "Two steps: raise e to every score, then divide by a sum. Which axis does the sum run over?",
        "exp(1000) is infinite in float32. Softmax does not change when you take the same number from all scores.",
        "Take the largest score along `dim` away first, then exponentiate, then divide by the sum along `dim`. "
        "Keep the reduced axis (`keepdim=True`) so that the shapes still line up.",
    ),
    mistakes={
        "The largest score is not taken away first, so exp overflows to inf and inf / inf is nan.": (
            "x - x.amax(dim=dim, keepdim=True)",
            "x",
        ),
        "One maximum of the whole tensor is taken away: a row far below it underflows to 0 / 0.": (
            "x.amax(dim=dim, keepdim=True)",
            "x.max()",
        ),
        "The sum runs over the whole tensor, so it is all rows together that sum to 1, not each of them.": (
            "weights.sum(dim=dim, keepdim=True)",
            "weights.sum()",
        ),
        "`dim` is ignored: it is always the last axis whose weights sum to 1.": (
            "shifted = x",
            "dim = -1\n    shifted = x",
        ),
        "The sum loses its axis, so that each row is divided by the sums of other rows.": (
            "weights.sum(dim=dim, keepdim=True)",
            "weights.sum(dim=dim)",
        ),
        "The logarithm of the softmax comes back: its numbers are negative and do not sum to 1.": (
            "return weights / weights.sum(dim=dim, keepdim=True)",
            "return shifted - weights.sum(dim=dim, keepdim=True).log()",
        ),
    },
)
def check_softmax(softmax, rng):
    yield "one row", softmax(torch.tensor([0.0, 1.0, 3.0]), 0)
    square = torch.randn(2, 2, generator=rng)
    yield "rows of a square", softmax(square, 1)
    yield "columns of a square", softmax(square, 0)
    yield "the middle of three axes", softmax(torch.randn(2, 3, 4, generator=rng), 1)
    yield "a negative axis number", softmax(torch.randn(2, 3, 4, generator=rng), -2)
    large = torch.tensor([[720.0, 719.0], [-720.0, -721.0]])  # e^720 is inf in float64 too
    yield "very large scores", softmax(large, 1)
    yield "a hidden key (-inf)", softmax(torch.tensor([[0.5, -torch.inf, 1.5]]), 1)
    x = torch.randn(3, 4, generator=rng, requires_grad=True)
    weight = torch.randn(3, 4, generator=rng)
    yield "the gradient", torch.autograd.grad((softmax(x, 1) * weight).sum(), x)[0]
    yield "float64 stays float64", softmax(torch.randn(2, 3, generator=rng, dtype=torch.float64), 0)


@observes(
    "causal_mask",
    difficulty=1,
    minutes=5,
    hints=(
        "Number the queries and the keys. Which keys j may query i see when there are as many queries as keys?",
        "With fewer queries than keys the queries are the *last* positions: query i sits at position "
        "i + (n_key - n_query).",
        "Compare a row of key positions with a column of query positions by broadcasting; the result is boolean.",
    ),
    mistakes={
        "The diagonal is hidden too: the first token has nothing to look at.": ("key <= query", "key < query"),
        "The triangle is the wrong way round: each token sees the future and not the past.": (
            "key <= query",
            "key >= query",
        ),
        "The mask is aligned at the top left: with fewer queries than keys (a cache) the queries are taken for the "
        "first positions, and the last query does not see the last key.": ("query + offset", "query"),
        "The mask is inverted: it is True where a key is hidden. Here True means may look.": (
            "return key <= query + offset",
            "return ~(key <= query + offset)",
        ),
        "The mask holds the numbers 0 and 1: `~` and `masked_fill`, which come after it, need True and False.": (
            "return key <= query + offset",
            "return (key <= query + offset).float()",
        ),
        "The numbers of queries and of keys are swapped: the mask has a row for each key.": (
            "offset = n_key - n_query",
            "n_query, n_key = n_key, n_query\n    offset = n_key - n_query",
        ),
        "Everything is visible: nothing hides the future.": (
            "return key <= query + offset",
            "return key <= query + n_key",
        ),
    },
)
def check_causal_mask(causal_mask, rng):
    yield "two queries, two keys", causal_mask(2, 2)
    yield "two queries, three keys", causal_mask(2, 3)
    yield "one query, four keys (one step with a cache)", causal_mask(1, 4)
    yield "a single token", causal_mask(1, 1)
    n_query = int(torch.randint(2, 6, (), generator=rng))
    yield "more keys than queries", causal_mask(n_query, n_query + 3)
    yield "as many keys as queries", causal_mask(n_query + 1, n_query + 1)


@observes(
    "attention",
    difficulty=2,
    minutes=10,
    hints=(
        "Write it in the order of equation 1: scores, scale, mask, softmax, weighted sum of the values.",
        "The scores have shape (..., query, key): transpose the last two axes of k. Each query's weights sum to 1 over "
        "the *keys*.",
        "Divide by the square root of the width of q. Where the mask forbids a look, set the score to -inf before the "
        "softmax: exp(-inf) is 0, and the other weights still sum to 1.",
    ),
    mistakes={
        "The scores are not divided by √d_head, so the softmax saturates as heads get wider.": (
            " / math.sqrt(q.shape[-1])",
            "",
        ),
        "The scores are divided by d_head, not by its square root: the weights are too even.": (
            "math.sqrt(q.shape[-1])",
            "q.shape[-1]",
        ),
        "The scores are divided by the root of the width of v. The dot product runs over the width of q and k.": (
            "math.sqrt(q.shape[-1])",
            "math.sqrt(v.shape[-1])",
        ),
        "The scores are divided by the root of the number of keys, not of the head's width.": (
            "math.sqrt(q.shape[-1])",
            "math.sqrt(k.shape[-2])",
        ),
        "The softmax runs over the queries: the weights of one query do not sum to 1.": (
            "return softmax(scores, dim=-1) @ v",
            "return softmax(scores, dim=-2) @ v",
        ),
        "The mask comes after the softmax: hidden keys have taken their share, and the rest no longer sums to 1.": [
            ("scores = scores.masked_fill(~visible, -math.inf)", "pass"),
            (
                "return softmax(scores, dim=-1) @ v",
                "weights = softmax(scores, dim=-1)\n    return (weights * visible if causal else weights) @ v",
            ),
        ],
        "Hidden scores are set to 0, not to -inf: a score of 0 still gets weight.": (
            "masked_fill(~visible, -math.inf)",
            "masked_fill(~visible, 0.0)",
        ),
        "Hidden scores are only lowered by a small number, so a large score shows through the mask.": (
            "scores.masked_fill(~visible, -math.inf)",
            "scores - 10.0 * ~visible",
        ),
        "The mask hides the diagonal too: the first token has nothing to look at.": ("key <= query", "key < query"),
        "The mask is aligned at the top left: with fewer queries than keys the last query does not see the last key.": (
            "query + offset",
            "query",
        ),
        "The mask is the wrong way round: the future is seen and the past is hidden.": (
            "masked_fill(~visible,",
            "masked_fill(visible,",
        ),
        "`causal` is ignored: the mask is always on.": ("if causal:", "if True:"),
        "There is no mask: `causal` changes nothing, and each token sees the answer it should predict.": (
            "if causal:",
            "if False:",
        ),
        "The weights are returned, not the values that they weigh.": (
            "return softmax(scores, dim=-1) @ v",
            "return softmax(scores, dim=-1)",
        ),
    },
)
def check_attention(attention, rng):
    q, k = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    yield "one query on two keys", attention(q, k, torch.tensor([[1.0], [2.0]]))
    q = torch.randn(2, 3, 5, 4, generator=rng)
    k = torch.randn(2, 3, 5, 4, generator=rng)
    v = torch.randn(2, 3, 5, 6, generator=rng)
    yield "two tokens", attention(q[0, 0, :2], k[0, 0, :2], v[0, 0, :2, :3])
    yield "two tokens, not causal", attention(q[0, 0, :2], k[0, 0, :2], v[0, 0, :2, :3], causal=False)
    yield "three queries on five keys", attention(q[..., -3:, :], k, v)
    yield "three queries on five keys, not causal", attention(q[..., -3:, :], k, v, causal=False)
    yield "a batch of heads", attention(q, k, v)
    yield "scores far apart", attention(100 * q, k, v)
    q_leaf, k_leaf, v_leaf = (t.clone().requires_grad_() for t in (q, k, v))
    out = attention(q_leaf, k_leaf, v_leaf)
    direction = torch.randn(2, 3, 5, 6, generator=rng)
    yield "the gradients", list(torch.autograd.grad((out * direction).sum(), (q_leaf, k_leaf, v_leaf)))
    yield "float64 stays float64", attention(q.double(), k.double(), v.double())


@observes(
    "multi_head_attention",
    difficulty=3,
    minutes=15,
    hints=(
        "Project first, then cut the last axis into heads, so that each head is one more batch axis for attention.",
        "From (batch, seq, d_model) to (batch, head, seq, d_head): heads are contiguous slices of the last axis. "
        "A mask of shape (batch, 1, 1, key) says which keys are real, for all heads and queries at once.",
        "A key is visible when it is not in the future *and* is real. Softmax as in `attention`, with the width of one "
        "head in the scale. Move the head axis back next to d_head before you merge, then apply w_o.",
    ),
    mistakes={
        "The heads are interleaved: head i takes every n_heads-th column, not a contiguous slice.": (
            "(head d_head) -> batch head seq d_head",
            "(d_head head) -> batch head seq d_head",
        ),
        "The scale uses d_model. Each dot product runs over one head, so over d_head numbers.": (
            "math.sqrt(q.shape[-1])",
            "math.sqrt(x.shape[-1])",
        ),
        "The scores are not divided by √d_head, so the softmax saturates as heads get wider.": (
            "scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])\n    weights",
            "scores = q @ k.transpose(-2, -1)\n    weights",
        ),
        "The output projection w_o is missing: the heads are never mixed.": ("return heads @ w_o", "return heads"),
        "The weights are applied transposed, as `nn.Linear` stores them. Here they are applied as x @ w.": [
            ("x @ w,", "x @ w.T,"),
            ("heads @ w_o", "heads @ w_o.T"),
        ],
        "`key_mask` is read the wrong way round: the padding is seen and the real tokens are hidden.": (
            "visible & key_mask[:, None, None, :]",
            "visible & ~key_mask[:, None, None, :]",
        ),
        "`key_mask` is ignored: real tokens attend to padding.": ("if key_mask is not None:", "if False:"),
        "`key_mask` hides rows (queries), not columns (keys): real tokens still attend to padding.": (
            "key_mask[:, None, None, :]",
            "key_mask[:, None, :, None]",
        ),
        "With a `key_mask` the causal mask is lost: the padding is hidden, and the future is not.": (
            "visible = visible & key_mask",
            "visible = key_mask",
        ),
        "Nothing hides the future: each token sees the answer that it should predict.": (
            "causal_mask(x.shape[1], x.shape[1])",
            "torch.ones(x.shape[1], x.shape[1], dtype=torch.bool)",
        ),
        "The heads are merged without moving the head axis back, so positions and heads get mixed up.": (
            'rearrange(weights @ v, "batch head seq d_head -> batch seq (head d_head)")',
            "(weights @ v).reshape(x.shape)",
        ),
        "The projections are never split: there is one wide head, with one set of weights for each query.": (
            "head=n_heads) for w in",
            "head=1) for w in",
        ),
        "Queries and keys are projected by the same matrix: w_k is never used.": (
            "for w in (w_q, w_k, w_v)",
            "for w in (w_q, w_q, w_v)",
        ),
    },
)
def check_multi_head_attention(multi_head_attention, rng):
    def weights(d_model):
        return [torch.randn(d_model, d_model, generator=rng) / d_model**0.5 for _ in range(4)]

    x = torch.randn(1, 3, 4, generator=rng)
    small = weights(4)
    yield "three tokens, two heads", multi_head_attention(x, *small, n_heads=2)
    yield "three tokens, one head", multi_head_attention(x, *small, n_heads=1)
    key_mask = torch.tensor([[True, False, True]])
    yield "the second token is padding", multi_head_attention(x, *small, n_heads=2, key_mask=key_mask)
    x = torch.randn(2, 5, 12, generator=rng)
    large = weights(12)
    yield "a batch, three heads", multi_head_attention(x, *large, n_heads=3)
    key_mask = torch.tensor([[True, True, True, False, False], [True, False, True, False, True]])
    yield "ragged padding", multi_head_attention(x, *large, n_heads=3, key_mask=key_mask)
    yield "large activations", multi_head_attention(100 * x, *large, n_heads=3, key_mask=key_mask)
    leaves = [t.clone().requires_grad_() for t in (x, *large)]
    out = multi_head_attention(leaves[0], *leaves[1:], 3, key_mask)
    direction = torch.randn(2, 5, 12, generator=rng)
    yield "the gradients", list(torch.autograd.grad((out * direction).sum(), leaves))


@observes(
    "MultiHeadAttention",
    difficulty=2,
    minutes=10,
    hints=(
        "It is `multi_head_attention` again, with `self.w_q(x)` where `x @ w_q` stood. The layers bring their biases.",
        "Dropout falls on the weights, after the softmax: `self.dropout` knows by itself whether the module trains.",
        "Fill hidden scores with the lowest finite number of their dtype (`torch.finfo(...).min`): then a row in which "
        "everything is hidden becomes an even average, not nan.",
    ),
    mistakes={
        "The heads are interleaved: head i takes every n_heads-th column, not a contiguous slice.": (
            "(head d_head) -> batch head seq d_head",
            "(d_head head) -> batch head seq d_head",
        ),
        "Hidden scores are -inf, so a row of a left-padded batch in which everything is hidden becomes nan.": (
            "torch.finfo(scores.dtype).min",
            "-math.inf",
        ),
        "The scale uses d_model. Each dot product runs over one head, so over d_head numbers.": (
            "math.sqrt(q.shape[-1])",
            "math.sqrt(x.shape[-1])",
        ),
        "The output projection w_o is missing: the heads are never mixed.": ("return self.w_o(heads)", "return heads"),
        "`key_mask` is ignored: real tokens attend to padding.": ("if key_mask is not None:", "if False:"),
        "`key_mask` is read the wrong way round: the padding is seen and the real tokens are hidden.": (
            "visible & key_mask[:, None, None, :]",
            "visible & ~key_mask[:, None, None, :]",
        ),
        "Dropout is on in evaluation too: the same input gives another output each time.": (
            "self.dropout(softmax(scores, dim=-1))",
            "nn.functional.dropout(softmax(scores, dim=-1), self.dropout.p, True)",
        ),
        "There is no dropout on the attention weights in training.": (
            "self.dropout(softmax(scores, dim=-1))",
            "softmax(scores, dim=-1)",
        ),
        "Dropout falls on the output, not on the attention weights.": [
            ("self.dropout(softmax(scores, dim=-1))", "softmax(scores, dim=-1)"),
            ("return self.w_o(heads)", "return self.dropout(self.w_o(heads))"),
        ],
        "Queries, keys and values all use `w_q`: a token then looks most for what is like itself, and `w_k` and "
        "`w_v` never learn.": (
            "(self.w_q, self.w_k, self.w_v)",
            "(self.w_q, self.w_q, self.w_q)",
        ),
        "Nothing hides the future: each token sees the answer that it should predict.": (
            "causal_mask(x.shape[1], x.shape[1])",
            "torch.ones(x.shape[1], x.shape[1], dtype=torch.bool)",
        ),
    },
)
def check_module(MultiHeadAttention, rng):
    def filled(d_model, n_heads, **options):
        module = MultiHeadAttention(d_model, n_heads, **options)
        state = {name: torch.randn(value.shape, generator=rng) / d_model**0.5 for name, value in _shapes(d_model)}
        if options.get("bias") is False:
            state = {name: value for name, value in state.items() if name.endswith("weight")}
        module.load_state_dict(state)
        return module.eval()

    x = torch.randn(1, 3, 4, generator=rng)
    yield "three tokens, two heads", filled(4, 2)(x), {"x": x}
    yield "without biases", filled(4, 2, bias=False)(x), {"x": x}
    x = torch.randn(2, 5, 12, generator=rng)
    module = filled(12, 3)
    yield "a batch, three heads", module(x), {"x": x}
    right = torch.tensor([[True] * 5, [True, True, True, False, False]])
    yield "padding on the right", module(x, right)[right], {"key_mask": right}
    left = torch.tensor([[True] * 5, [False, False, True, True, True]])
    out = module(x, left)
    yield "padding on the left: the real tokens", out[left], {"key_mask": left}
    yield "padding on the left: all finite", bool(out.isfinite().all()), {"key_mask": left}
    x_leaf = x.clone().requires_grad_()
    yield "the gradient", torch.autograd.grad(module(x_leaf, left)[left].square().sum(), x_leaf)[0], {"x": x}
    yield "d_model that n_heads does not divide is refused", raised(MultiHeadAttention, 6, 4)
    dropping = filled(12, 3, dropout=0.5)
    yield "dropout is off in evaluation", dropping(x), {"x": x}
    yield from _dropout(dropping.train(), x)


def _shapes(d_model):
    for layer in ("w_q", "w_k", "w_v", "w_o"):
        yield f"{layer}.weight", torch.empty(d_model, d_model)
        yield f"{layer}.bias", torch.empty(d_model)


def _dropout(module, x):
    """The first token sees only itself: its head is either dropped whole or doubled, in half of the draws each."""
    with torch.no_grad():
        for layer in (module.w_q, module.w_k, module.w_v, module.w_o):
            layer.bias.zero_()
        module.w_v.weight.copy_(torch.eye(12))
        module.w_o.weight.copy_(torch.eye(12))
        first = torch.ones_like(x[:1, :1])
        out = module(first.expand(4000, 1, 12))[:, 0]  # (draws, d_model)
    heads = out.reshape(4000, 3, 4)
    yield "dropout: the values of one weight", sorted({round(value, 3) for value in out.flatten().tolist()})
    share = (heads[:, :, 0] == 0).float().mean().item()
    yield "dropout: about half of the weights are dropped", abs(share - 0.5) < 0.05
    yield "dropout: a weight is dropped for the whole head", alike(heads, heads[:, :, :1].expand_as(heads))
