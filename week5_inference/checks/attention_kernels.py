"""What right answers of lesson 03 show, and the known mistakes."""

import math

import torch

from shared.checking import observes, raised
from week5_inference.memory import LiveBytes
from week5_inference.solutions.attention_kernels import flash_attention as reference_flash


@observes(
    "apply_rope",
    difficulty=2,
    minutes=20,
    hints=(
        "One angle for each position and pair: `positions[..., None] * frequencies`, of shape (... seq, d_head / 2). The "
        "frequencies are base ** (-2i / d_head) for i = 0, 1, …: `torch.arange(0, d_head, 2)` gives the 2i.",
        "The pairs lie half a head apart: a is the first half of the last axis and b the second (`x.chunk(2, dim=-1)`). "
        "A turn by an angle is a cos - b sin and b cos + a sin.",
        "Put the two halves together again with `torch.cat(..., dim=-1)`. Make positions and frequencies float32 before "
        "they meet, whatever x is, and bring the result back to x.dtype at the very end.",
    ),
    mistakes={
        "The pairs are neighbours (0, 1), (2, 3), …: the interleaved layout. Here number i is paired with i + d_head/2.": (
            "a, b = x.chunk(2, dim=-1)\n    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)",
            "a, b = x[..., 0::2], x[..., 1::2]\n"
            "    return torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2).to(x.dtype)",
        ),
        "It turns the other way: b sin is added to a here, and a sin is taken from b, a turn by minus the angle.": (
            "(a * cos - b * sin, b * cos + a * sin)",
            "(a * cos + b * sin, b * cos - a * sin)",
        ),
        "Both halves have the same sign before the sine. That is no turn: it changes the length of the vector.": (
            "b * cos + a * sin",
            "b * cos - a * sin",
        ),
        "The exponent is i / d_head where it should be 2i / d_head: the slow half of the frequencies is missing.": (
            "torch.arange(0, d_head, 2, device=x.device, dtype=torch.float32) / d_head)\n    angles",
            "torch.arange(d_head // 2, device=x.device, dtype=torch.float32) / d_head)\n    angles",
        ),
        "The sign of the exponent is missing, so later pairs turn faster than the first, and not slower.": (
            "base ** (-torch.arange(0, d_head, 2, device=x.device",
            "base ** (torch.arange(0, d_head, 2, device=x.device",
        ),
        "`positions` is not looked at: the tokens are numbered 0, 1, 2, … as they come. With a cache, or padding on the "
        "left, they stand elsewhere.": (
            "angles = positions.to(x.device, torch.float32)[..., None]",
            "angles = torch.arange(x.shape[-2], dtype=torch.float32)[:, None]",
        ),
        "Positions are counted from 1: each is one too large. Scores do not show it, a cache with other code does.": (
            "positions.to(x.device, torch.float32)[..., None]",
            "(positions.to(x.device, torch.float32) + 1)[..., None]",
        ),
        "`base` is not used: it is always 10,000. Newer models have other bases (SmolLM2 has 100,000).": (
            "frequencies = base ** (-torch.arange(0, d_head, 2, device=x.device",
            "frequencies = 10000.0 ** (-torch.arange(0, d_head, 2, device=x.device",
        ),
        "`frequencies` is ignored, so that no method of context extension has an effect.": (
            "if frequencies is None:",
            "if True:",
        ),
        "Positions are cut to whole numbers. Position interpolation needs those in between.": (
            "positions.to(x.device, torch.float32)[..., None]",
            "positions.long()[..., None].float()",
        ),
        "The angles are computed in x's dtype: bfloat16 has 8 bits, so that positions beyond 256 fall together.": (
            "* frequencies.to(x.device)",
            "* frequencies.to(x.device)\n    angles = (positions.to(x.dtype)[..., None] * frequencies.to(x.dtype)).float()",
        ),
        "The result is float32 whatever x is. In a model of bfloat16 the next product then fails.": (
            ", dim=-1).to(x.dtype)",
            ", dim=-1)",
        ),
    },
)
def check_apply_rope(apply_rope, rng):
    x = torch.randn(3, 4, generator=rng)
    one = torch.tensor([[1.0, 0.0]])
    yield "the vector (1, 0) at position 1", apply_rope(one, torch.tensor([1])), {"x": one, "positions": [1]}
    yield (
        "position 0 changes nothing",
        apply_rope(x, torch.zeros(3, dtype=torch.long)),
        {"x": x, "positions": [0, 0, 0]},
    )
    yield "three tokens", apply_rope(x, torch.arange(3)), {"x": x, "positions": [0, 1, 2]}
    gaps = torch.tensor([7, 2, 30])
    yield "positions with gaps, in any order", apply_rope(x, gaps), {"x": x, "positions": gaps}
    yield "a base of 100", apply_rope(x, gaps, base=100.0), {"x": x, "positions": gaps, "base": 100.0}
    halves = torch.tensor([0.0, 0.5, 1.5])
    yield "positions between whole numbers", apply_rope(x, halves), {"x": x, "positions": halves}
    given = torch.tensor([0.5, 0.25])
    yield "given frequencies", apply_rope(x, gaps, frequencies=given), {"x": x, "positions": gaps, "frequencies": given}
    heads = torch.randn(2, 3, 5, 6, generator=rng)
    rows = torch.randint(0, 50, (2, 1, 5), generator=rng)
    yield "each row of a batch at its own positions", apply_rope(heads, rows), {"x": "(2, 3, 5, 6)", "positions": rows}
    far = torch.tensor([1000, 1001, 1003])
    wide = torch.ones(3, 4, dtype=torch.bfloat16)
    turned = apply_rope(wide, far, base=4.0)
    yield "bfloat16 stays bfloat16", str(turned.dtype), {"x": "ones (3, 4) in bfloat16", "positions": far, "base": 4.0}
    exact = apply_rope(wide.double(), far, base=4.0)
    error = float((turned.double() - exact).abs().max())
    yield "bfloat16 far from the start is right to a few hundredths", error < 0.05, {"positions": far, "base": 4.0}
    leaf = heads.clone().requires_grad_()
    direction = torch.randn(heads.shape, generator=rng)
    yield (
        "the gradient for x",
        torch.autograd.grad((apply_rope(leaf, rows) * direction).sum(), leaf)[0],
        {"positions": rows},
    )
    yield "an odd d_head is refused", raised(apply_rope, torch.zeros(2, 3), torch.arange(2)), {"d_head": 3}


@observes(
    "interleaved_to_half",
    difficulty=1,
    minutes=10,
    hints=(
        "The heads stay where they are: only rows inside a head change places. Split the first axis by head first.",
        "Inside a head, row 2i + j is number j of pair i. Give the rows three axes, (head, pair, 2), and leave the others.",
        "Exchange the two axes pair and 2, and put the three together again. `rest = weight.shape[1:]` is there for "
        "weights and empty for biases.",
    ),
    mistakes={
        "The rows are reordered across the heads, as if there was one large head.": (
            "weight.reshape(n_heads, -1, 2, *rest)",
            "weight.reshape(1, -1, 2, *rest)",
        ),
        "The rows go the way back, from half order to interleaved order.": (
            "pairs = weight.reshape(n_heads, -1, 2, *rest)",
            "pairs = weight.reshape(n_heads, 2, -1, *rest)",
        ),
        "The heads and the pairs have changed places: the rows of a head no longer stand together.": (
            "pairs.transpose(1, 2)",
            "pairs.transpose(0, 1)",
        ),
        "The rows come back as they were: nothing is reordered.": ("pairs.transpose(1, 2)", "pairs"),
    },
)
def check_interleaved_to_half(interleaved_to_half, rng):
    one = torch.arange(6.0)
    yield "a bias, one head of six rows", interleaved_to_half(one, 1), {"weight": one, "n_heads": 1}
    two = torch.arange(8.0)
    yield "a bias, two heads of four rows", interleaved_to_half(two, 2), {"weight": two, "n_heads": 2}
    weight = torch.randn(12, 3, generator=rng)
    yield "a weight, two heads of six rows", interleaved_to_half(weight, 2), {"weight": weight, "n_heads": 2}
    yield "a weight, three heads of four rows", interleaved_to_half(weight, 3), {"weight": weight, "n_heads": 3}
    yield "heads with an odd number of rows are refused", raised(interleaved_to_half, torch.zeros(6, 2), 2), {"rows": 6}


@observes(
    "rope_frequencies",
    difficulty=2,
    minutes=15,
    hints=(
        "Start from the plain frequencies, base ** (-2i / d_head). s = new_length / trained_length, but never below 1: a "
        "shorter text needs no change.",
        "Interpolation squeezes the positions into the trained range. Dividing each position by s or each frequency by s "
        "gives the same angles.",
        "NTK: multiply the base by s ** (d_head / (d_head - 2)), then compute the plain frequencies with that base. Look at "
        "the last one, where 2i = d_head - 2: by how much has it changed?",
    ),
    mistakes={
        "Interpolation multiplies the frequencies by s: positions are pulled apart, not squeezed together.": (
            "frequencies / stretch if",
            "frequencies * stretch if",
        ),
        "s is trained_length / new_length, the wrong way round: a text longer than the trained length is then not stretched at all.": (
            "new_length / trained_length)",
            "trained_length / new_length)",
        ),
        "s may fall below 1: a text shorter than the trained length is stretched. Such a text needs no change.": (
            "max(1.0, new_length / trained_length)",
            "new_length / trained_length",
        ),
        "NTK multiplies the base by s alone. Then the last frequency is divided by less than s.": (
            "stretch ** (d_head / (d_head - 2))",
            "stretch",
        ),
        "NTK has the exponent d_head / (d_head - 1), not d_head / (d_head - 2): the last frequency is then divided by less than s.": (
            "(d_head / (d_head - 2))",
            "(d_head / (d_head - 1))",
        ),
        "NTK also divides the frequencies by s. It should change the base only, so that the first frequency stays.": (
            'if method == "interpolation" else frequencies',
            'if method != "none" else frequencies',
        ),
        "`base` is not used: it is always 10,000, and a model with another one gets angles that it was not trained on.": (
            "stretch = max(",
            "base = 10000.0\n    stretch = max(",
        ),
        '"interpolation" and "ntk" have changed places.': [
            ('if method == "ntk":', 'if method == "interpolation":'),
            ('if method == "interpolation" else', 'if method == "ntk" else'),
        ],
        "The stretch is rounded down to a whole number: two and a half times the length counts as twice.": (
            "max(1.0, new_length / trained_length)",
            "float(max(1, new_length // trained_length))",
        ),
    },
)
def check_rope_frequencies(rope_frequencies, rng):
    for method in ("none", "interpolation", "ntk"):
        about = {"method": method}
        yield f"{method}: twice the length", rope_frequencies(8, 10000.0, 64, 128, method), {**about, "d_head": 8}
        yield f"{method}: the trained length", rope_frequencies(8, 10000.0, 64, 64, method), {**about, "d_head": 8}
        yield f"{method}: a shorter text", rope_frequencies(8, 10000.0, 64, 16, method), {**about, "new_length": 16}
        base = float(torch.randint(50, 5000, (), generator=rng))
        yield (
            f"{method}: another base",
            rope_frequencies(6, base, 100, 250, method),
            {**about, "base": base, "d_head": 6},
        )
    yield "another method is refused", raised(rope_frequencies, 8, 10000.0, 64, 128, "magic"), {"method": "magic"}
    yield "an odd d_head is refused", raised(rope_frequencies, 7, 10000.0, 64, 128, "none"), {"d_head": 7}


def stream(blocks, drawn=None):
    """The blocks, each in the memory of the one before it where it has room: kept ones are overwritten."""
    memory = torch.empty(max(block.numel() for block in blocks), dtype=blocks[0].dtype)
    for block in blocks:
        view = memory[: block.numel()].view(block.shape)
        view.copy_(block)
        yield view


@observes(
    "online_softmax",
    difficulty=2,
    minutes=20,
    hints=(
        "Keep two numbers for each row: m, the maximum so far, and l, the sum so far of exp(score - m). Start at "
        "m = -inf and l = 0.",
        "When a block brings a larger maximum, all that was summed up so far is relative to the old one. exp(m - new_m) "
        "corrects it.",
        "-inf - (-inf) is nan. Where the new maximum is still -inf, take 0 away in its place: exp(-inf - 0) is 0, as it "
        "should be. `masked_fill` makes that shift.",
    ),
    mistakes={
        "The old sum is not corrected when the maximum grows: it still is relative to the old maximum.": (
            "l * (m - shift).exp()",
            "l",
        ),
        "The correction is upside down: exp(new m - old m), where exp(old m - new m) is due.": (
            "l * (m - shift).exp()",
            "torch.where(l > 0, l * (shift - m).exp(), l)",
        ),
        "Only the block's own maximum is taken: where a later block is lower, m must stay.": (
            "torch.maximum(m, block.amax(dim=-1))",
            "block.amax(dim=-1)",
        ),
        "No maximum is taken away before exp, and large scores overflow.": (
            "(block - shift[..., None]).exp()",
            "(block.exp() * (-shift[..., None]).exp())",
        ),
        "All rows share one maximum, so that rows far below it underflow to 0.": (
            "torch.maximum(m, block.amax(dim=-1))",
            "torch.maximum(m, block.max())",
        ),
        "A block in which all is hidden gives nan: its maximum is -inf, and -inf - (-inf) is nan.": (
            "new_m.masked_fill(new_m == -math.inf, 0.0)",
            "new_m",
        ),
        "The blocks are collected and put together at the end. They come once and share their memory: that is the point.": (
            "m = None\n    for block in blocks:",
            "m = None\n    for block in [torch.cat(list(blocks), dim=-1)]:",
        ),
        "The log of the sum is returned; asked for is the sum.": ("return m, l", "return m, l.log()"),
        "The block that came first is left out of the sum.": (
            "if m is None:\n            m, l = block.new_full(block.shape[:-1], -math.inf), block.new_zeros(block.shape[:-1])"
            "  # noqa: E741",
            "if m is None:\n            m, l = block.amax(dim=-1), block.new_zeros(block.shape[:-1])\n            continue",
        ),
    },
)
def check_online_softmax(online_softmax, rng):
    def observe(*blocks, as_it_comes=stream):
        blocks = [torch.as_tensor(block, dtype=torch.float32) for block in blocks]
        return list(online_softmax(as_it_comes(blocks))), {f"block {i}": block for i, block in enumerate(blocks, 1)}

    yield "one block", *observe([[0.0, 1.0]])
    yield "the maximum grows", *observe([[0.0, 1.0]], [[3.0, 2.0]])
    yield "the maximum stays", *observe([[3.0, 2.0]], [[0.0, 1.0]], as_it_comes=list)
    yield "a last block of another width", *observe([[0.0, 1.0, 5.0]], [[2.0]])
    yield "large scores", *observe([[620.0, 621.0]], [[720.0, 721.0]])  # e^720 is inf in float64 too
    yield "rows far apart", *observe([[0.0, 1.0], [-500.0, -501.0]], [[2.0, 0.0], [-499.0, -502.0]])
    yield "hidden scores (-inf)", *observe([[1.0, -math.inf]], [[-math.inf, 0.0]])
    yield "all of the first block is hidden", *observe([[-math.inf, -math.inf]], [[1.0, 0.0]])
    yield "all of the last block is hidden", *observe([[1.0, 0.0]], [[-math.inf, -math.inf]])
    yield "everything is hidden in one row", *observe([[-math.inf], [1.0]], [[-math.inf], [0.0]])
    yield (
        "heads, with blocks at random",
        *observe(*(3 * torch.randn(2, 3, width, generator=rng) for width in (4, 4, 1))),
    )
    yield "a stream without blocks is refused", raised(online_softmax, iter(())), {"blocks": "none"}


def tensors(rng, n_query, n_key, lead=(), d_head=4, d_value=3):
    """q, k, v, with scores large enough that the maximum matters."""
    shapes = ((n_query, d_head), (n_key, d_head), (n_key, d_value))
    q, k, v = (torch.randn(*lead, *shape, generator=rng) for shape in shapes)
    return 2 * q, k, v


def keeps_no_matrix(run) -> str:
    """Whether the run makes a tensor with a number for each query and key; 64 queries and keys, blocks of 8."""
    with LiveBytes() as memory:
        run()
    return "no tensor as large as queries × keys" if memory.largest < 4 * 64 * 64 // 2 else "a whole matrix of scores"


NO_FLOAT32 = (
    "The running numbers are in q's dtype. In bfloat16, with 8 bits, a sum of many small weights stops growing.",
    [
        (
            "kind = torch.promote_types(q.dtype, torch.float32)\n    n_query, n_key = q.shape[-2], k.shape[-2]\n"
            "    out = q.new_empty",
            "kind = q.dtype\n    n_query, n_key = q.shape[-2], k.shape[-2]\n    out = q.new_empty",
        ),
        (
            "scores = tile_scores(q_tile, k[..., j : j + block, :], position, j, causal)",
            "scores = tile_scores(q_tile, k[..., j : j + block, :], position, j, causal).to(kind)",
        ),
    ],
)


def whole_matrix(q, k, v, block, causal=True):
    from week5_inference.solutions.attention_kernels import check_tiles, tile_scores

    check_tiles(q, k, v, block, causal)
    scores = tile_scores(q, k, k.shape[-2] - q.shape[-2], 0, causal)
    return (scores.softmax(dim=-1) @ v.to(scores.dtype)).to(q.dtype), scores.logsumexp(dim=-1)


@observes(
    "flash_attention",
    difficulty=4,
    minutes=45,
    hints=(
        "Two loops over the starts of tiles, range(0, n, block): outside over queries, inside over keys. A tile of queries "
        "keeps m and l as in `online_softmax`, and one thing more: o, the sum so far of exp(score - m) · v. "
        "Slices take care of a last tile that is shorter.",
        "For each tile of keys: scores, new_m, weights = exp(scores - new_m), shrink = exp(m - new_m). Then l and o are each "
        "multiplied by shrink, and get the sum of the weights, and weights @ v, added. Divide by l once, after the last.",
        "The tile of queries that starts at i begins at position i + n_key - n_query. Causal: tiles of keys that start after "
        "the tile's last query can be left out, which also keeps every new_m finite. The log-sum-exp is m + log l.",
    ),
    mistakes={
        "The output so far is not corrected when the maximum grows. Like l, it is relative to the old maximum.": (
            "o = o * shrink[..., None] + weights",
            "o = o + weights",
        ),
        "The sum l is not corrected when the maximum grows, only the output is.": (
            "l = l * shrink + weights.sum(dim=-1)",
            "l = l + weights.sum(dim=-1)",
        ),
        "The output is not divided by the sum of the weights.": ("= o / l[..., None]", "= o"),
        "Each tile's softmax is taken alone, and the tiles are added up: no tile knows the sum of the others.": [
            ("weights = (scores - new_m[..., None]).exp()", "weights = scores.softmax(dim=-1)"),
            ("shrink = (m - new_m).exp()", "shrink = torch.ones_like(m)"),
            ("= o / l[..., None]", "= o"),
        ],
        "The queries are taken for the first positions. With fewer queries than keys they are the last ones.": (
            "position = i + n_key - n_query  # the last query is at the position of the last key",
            "position = i",
        ),
        "A tile's position is not passed on to the mask: every tile of queries is masked as if it was the first.": (
            "position = i + n_key - n_query  # the last query is at the position of the last key",
            "position = n_key - n_query",
        ),
        "Tiles in the future are left out, but within a tile nothing is masked: a query also sees keys that come after it.": (
            "scores = tile_scores(q_tile, k[..., j : j + block, :], position, j, causal)",
            "scores = tile_scores(q_tile, k[..., j : j + block, :], position, j, False)",
        ),
        "The log-sum-exp is log l alone: the maximum that was taken away before exp is missing from it.": (
            "m + l.log()",
            "l.log()",
        ),
        "The second result is the sum l itself, not the log-sum-exp of the scores.": ("m + l.log()", "l"),
        "The last tile of keys is left out when the length is no multiple of the block.": (
            "for j in range(0, min(n_key, position + q_tile.shape[-2]) if causal else n_key, block):\n            scores =",
            "for j in range(0, max(1, n_key - block + 1), block):\n            if causal and j > position + q_tile.shape[-2]"
            " - 1:\n                break\n            scores =",
        ),
        NO_FLOAT32[0]: NO_FLOAT32[1],
        "Tiles that lie in the future are computed too: half of the work, for weights that are all 0.": (
            "min(n_key, position + q_tile.shape[-2]) if causal else n_key",
            "n_key",
        ),
        "The whole matrix of scores is made at once. The answer is right, the memory is what this was about.": whole_matrix,
    },
)
def check_flash_attention(flash_attention, rng):
    q, k, v = tensors(rng, 2, 3)
    about = {"q": q, "k": k, "v": v}
    yield "one tile, not causal", list(flash_attention(q, k, v, 4, False)), about | {"block": 4}
    yield "two tiles of keys, not causal", list(flash_attention(q, k, v, 2, False)), about | {"block": 2}
    yield "two queries on three keys, causal", list(flash_attention(q, k, v, 2, True)), about | {"block": 2}
    yield "blocks of one, causal", list(flash_attention(q, k, v, 1, True)), about | {"block": 1}
    q, k, v = tensors(rng, 7, 7, (2, 3))
    for block in (2, 3, 7, 100):
        about = {"q": "(2, 3, 7, 4)", "k": "(2, 3, 7, 4)", "v": "(2, 3, 7, 3)", "block": block}
        yield f"heads of seven tokens, causal, blocks of {block}", list(flash_attention(q, k, v, block, True)), about
        yield f"heads of seven tokens, blocks of {block}", list(flash_attention(q, k, v, block, False)), about
    yield "one query on seven keys, causal", list(flash_attention(q[..., -1:, :], k, v, 3, True)), {"block": 3}
    yield (
        "nine queries on seven keys, not causal",
        list(flash_attention(torch.cat((q, q), -2)[..., :9, :], k, v, 4, False)),
        {},
    )
    yield "scores far apart", list(flash_attention(200 * q, k, v, 3, True)), {"block": 3}
    later = v.clone()
    later[..., 4:, :] = math.nan
    about = {"v": "nan from the fifth token on", "block": 2}
    yield (
        "nan in the tiles of the future: what the first four tokens read",
        flash_attention(q, k, later, 2, True)[0][..., :4, :],
        about,
    )
    double = flash_attention(q.double(), k.double(), v.double(), 3, True)
    yield "float64 stays float64", list(double), {"block": 3}
    many = torch.zeros(1, 600, 4, dtype=torch.bfloat16)
    out, logsumexp = flash_attention(many[:, :1], many, torch.ones_like(many), 1, False)
    about = {"scores": "600 zeros in bfloat16", "v": "ones", "block": 1}
    yield "bfloat16: the output's dtype", str(out.dtype), about
    yield "600 equal scores in bfloat16: the log-sum-exp, and its dtype", [logsumexp, str(logsumexp.dtype)], about
    large = tensors(rng, 64, 64)
    yield (
        "the largest tensor that it makes",
        keeps_no_matrix(lambda: flash_attention(*large, 8, True)),
        {"queries, keys": 64, "block": 8},
    )
    yield "a block of 0 is refused", raised(flash_attention, q, k, v, 0, True), {"block": 0}
    longer = raised(flash_attention, torch.cat((q, q), -2), k, v, 2, True)
    yield "causal, more queries than keys: refused", longer, {"queries": 14, "keys": 7}


def by_autograd(grad_out, q, k, v, out, logsumexp, block, causal=True):
    from week1_decoder.solutions.attention import attention
    from week5_inference.solutions.attention_kernels import check_tiles

    check_tiles(q, k, v, block, causal)
    leaves = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    return torch.autograd.grad(attention(*leaves, causal), leaves, grad_out)


@observes(
    "flash_attention_backward",
    difficulty=4,
    minutes=40,
    hints=(
        "The same two loops as forward, with dq, dk, dv as sums that start at zero. A tile's weights need no running "
        "maximum now: P = exp(scores - logsumexp) are final at once.",
        "D is one number a query: the sum over d_value of grad_out · out. Compute it before the loops. "
        "In a tile: dP = dO vᵀ, and dS = P ∘ (dP - D).",
        "Three sums: dv of the tile of keys gets Pᵀ dO, dq of the tile of queries dS k / √d_head, dk of the tile of keys "
        "dSᵀ q / √d_head. Add (`+=`): every tile of queries meets every tile of keys that it sees.",
    ),
    mistakes={
        "D is missing: the softmax's derivative has a second term, because its weights sum to 1.": (
            " - row_sums[..., queries, :])",
            ")",
        ),
        "The factor 1/√d_head is missing in dq and dk: the scores were divided by √d_head.": (
            "scale = 1 / math.sqrt(q.shape[-1])",
            "scale = 1.0",
        ),
        "The factor 1/√d_head is missing in dk, not in dq.": (
            "scale * (d_scores.transpose(-2, -1) @ q_tile)",
            "d_scores.transpose(-2, -1) @ q_tile",
        ),
        "dv is computed from dS, not from the weights P.": (
            "weights.transpose(-2, -1) @ d_tile",
            "d_scores.transpose(-2, -1) @ d_tile",
        ),
        "dS is not multiplied by the weights P.": (
            "weights * (d_tile @ v_tile",
            "(d_tile @ v_tile",
        ),
        "dk and dv are overwritten by each tile of queries: of the sum over all tiles only the last one is left.": [
            ("dv[..., keys, :] +=", "dv[..., keys, :] ="),
            ("dk[..., keys, :] +=", "dk[..., keys, :] ="),
        ],
        "dq is overwritten by each tile of keys: of the sum over all tiles only the last one is left.": (
            "dq[..., queries, :] +=",
            "dq[..., queries, :] =",
        ),
        "The log-sum-exp is ignored, and each tile's weights are normalized alone.": (
            "weights = (scores - logsumexp[..., queries, None]).exp()\n            d_scores",
            "weights = scores.softmax(dim=-1)\n            d_scores",
        ),
        "D is taken within a tile, from its own P and dP. It needs the whole row: grad_out · out.": (
            "d_scores = weights * (d_tile @ v_tile.transpose(-2, -1) - row_sums[..., queries, :])",
            "d_p = d_tile @ v_tile.transpose(-2, -1)\n"
            "            d_scores = weights * (d_p - (weights * d_p).sum(dim=-1, keepdim=True))",
        ),
        "The queries are taken for the first positions. With fewer queries than keys they are the last ones.": (
            "position = i + n_key - n_query\n",
            "position = i\n",
        ),
        "Tiles in the future are left out, but within a tile nothing is masked: keys get gradients from queries before them.": (
            "scores = tile_scores(q_tile, k_tile, position, j, causal)",
            "scores = tile_scores(q_tile, k_tile, position, j, False)",
        ),
        "The sums are in the dtypes of q, k and v. In bfloat16, with 8 bits, 256 + 1 is 256.": (
            "torch.zeros_like(x, dtype=kind)",
            "torch.zeros_like(x)",
        ),
        "The whole matrix of weights is made again. The gradients are right, the memory is what this was about.": by_autograd,
    },
)
def check_flash_attention_backward(flash_attention_backward, rng):
    def observe(q, k, v, block, causal):
        grad_out = torch.randn(*q.shape[:-1], v.shape[-1], generator=rng).to(q.dtype)
        out, logsumexp = reference_flash(q, k, v, block, causal)
        return list(flash_attention_backward(grad_out, q, k, v, out, logsumexp, block, causal))

    q, k, v = tensors(rng, 2, 3)
    about = {"q": q, "k": k, "v": v}
    yield "one tile, not causal", observe(q, k, v, 4, False), about | {"block": 4}
    yield "two tiles of keys, not causal", observe(q, k, v, 2, False), about | {"block": 2}
    yield "two queries on three keys, causal", observe(q, k, v, 2, True), about | {"block": 2}
    yield "blocks of one, causal", observe(q, k, v, 1, True), about | {"block": 1}
    q, k, v = tensors(rng, 7, 7, (2, 3))
    for block in (2, 3, 100):
        yield f"heads of seven tokens, causal, blocks of {block}", observe(q, k, v, block, True), {"block": block}
        yield f"heads of seven tokens, blocks of {block}", observe(q, k, v, block, False), {"block": block}
    yield "one query on seven keys, causal", observe(q[..., -1:, :], k, v, 3, True), {"block": 3}
    yield "scores far apart", observe(2 * q, k, v, 3, True), {"block": 3}
    yield "float64 stays float64", observe(q.double(), k.double(), v.double(), 3, True), {"block": 3}
    thin = tensors(rng, 5, 7, d_head=2)
    yield "heads of two numbers, causal, blocks of four", observe(*thin, 4, True), {"block": 4}
    half = observe(q.bfloat16(), k.bfloat16(), v.bfloat16(), 3, True)
    ones = torch.ones(9, 4, dtype=torch.bfloat16)
    gradient = ones * torch.tensor([[256], *[[1]] * 8])
    dv = flash_attention_backward(gradient, 0 * ones, ones[:1], ones[:1], ones, torch.zeros(9), 1, False)[2]
    about = {"grad_out": gradient, "q": 0 * ones, "k": ones[:1], "v": ones[:1], "block": 1}
    yield "nine queries on one key in bfloat16: the gradient of its value", dv, about
    yield "bfloat16: the gradients' dtypes", [str(gradient.dtype) for gradient in half], {"block": 3}
    large = tensors(rng, 64, 64)
    yield (
        "the largest tensor that it makes",
        keeps_no_matrix(lambda: observe(*large, 8, True)),
        {"queries, keys": 64, "block": 8},
    )
    refused = raised(flash_attention_backward, v, q, k, v, v, v[..., 0], 0, True)
    yield "a block of 0 is refused", refused, {"block": 0}
