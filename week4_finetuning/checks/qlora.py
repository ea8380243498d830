"""What right answers of lesson 04 show, and the known mistakes."""

import contextlib
import gc
import math
import weakref

import torch
from torch import Tensor, nn

from shared.checking import observes, raised
from week4_finetuning.solutions.qlora import (
    double_dequantize,
    dynamic_codebook,
    nf4_codebook,
    nf4_quantize,
)


def weights(rng: torch.Generator, scales: list[float], numel: int, block: int) -> Tensor:
    """Weights whose blocks have these absmax, each entry far from the border between two codes.

    Division and multiplication by the inverse round differently: on a border both neighbours are right.
    """
    values = nf4_codebook()
    edges = torch.cat([values[:1], (values[:-1] + values[1:]) / 2, values[-1:]])
    codes = (torch.arange(numel) % 16)[torch.randperm(numel, generator=rng)]
    inside = edges[codes] + (0.1 + 0.8 * torch.rand(numel, generator=rng)) * (edges[codes + 1] - edges[codes])
    for start in range(0, numel, block):
        inside[start + int(torch.randint(min(block, numel - start), (), generator=rng))] = (-1.0) ** (start // block)
    return inside * torch.tensor(scales).repeat_interleave(block)[:numel]


def one_scale(w, block=64):
    """A wrong nf4_quantize: one absmax for all blocks."""
    nf4_quantize(w, block)
    codes, absmax = nf4_quantize(w, w.numel())
    return codes, absmax.expand(-(-w.numel() // block)).clone()


def blocks_in_each_row(w, block=64):
    """A wrong nf4_quantize: every row begins a new block."""
    nf4_quantize(w, block)
    rows = [nf4_quantize(row, block) for row in w.reshape(-1, w.shape[-1])]
    return torch.cat([codes for codes, _ in rows]), torch.cat([absmax for _, absmax in rows])


@observes(
    "nf4_codebook",
    difficulty=3,
    minutes=15,
    rtol=1e-6,
    atol=1e-6,
    hints=(
        "`torch.special.ndtri` is the quantile function of N(0, 1): ndtri(0.5) = 0. Evenly spaced p are a "
        "`torch.linspace(0.5, o, n)`; `.double()` gives ndtri more digits.",
        "Nine p for the half with 0 in it, eight for the other, and of the eight drop the first: its value is 0 again. "
        "9 + 7 = 16.",
        "The negative half is minus ndtri of its p, and runs from 0 outwards, so turn it round with `.flip(0)` before you "
        "join the halves. Then `.float()`, and divide by the largest value.",
    ),
    mistakes={
        "The values lie at equal distances: that is plain int4. NF4's lie closer together where more weights are.": (
            "return values / values.max()",
            "return torch.linspace(-1, 1, 16)",
        ),
        "There are 16 quantiles at equal steps of probability over both halves, and so no exact 0: padding and zeroed "
        "weights could not be kept.": (
            "return values / values.max()",
            "return torch.special.ndtri(torch.linspace(1 - outermost, outermost, 16)) / values.max()",
        ),
        "The halves are swapped: the positive one has the extra value (8, and 7 negative ones).": (
            "return values / values.max()",
            "return -values.flip(0) / values.max()",
        ),
        "The values are not divided by the largest: they end at ±1.85, and absmax could not be the scale.": (
            "return values / values.max()",
            "return values",
        ),
        "The 0 of the second half was kept, so there are 17 values with 0 twice; four bits hold 16.": (
            "negative[1:]",
            "negative",
        ),
        "The outermost p is 1 - 1/32, half a step of 1/16 from the end. NF4 takes the mean of 1/32 and 1/30, half "
        "a step of 1/15.": ("outermost = 0.9677083", "outermost = 1 - 1 / 32"),
        "The outermost p is 1 - (1/30 + 1/32): the division by 2 is missing.": (
            "outermost = 0.9677083",
            "outermost = 1 - (1 / 30 + 1 / 32)",
        ),
        "The negative values run from the middle outwards: the code book must ascend, or the search for the nearest "
        "value goes wrong.": ("negative[1:].flip(0)", "negative[1:]"),
        "Both halves have eight p, and the outermost value comes twice: the larger half needs nine p.": (
            "torch.linspace(0.5, outermost, 9)",
            "torch.cat([torch.linspace(0.5, outermost, 8), torch.tensor([outermost])])",
        ),
    },
)
def check_nf4_codebook(nf4_codebook, rng):
    values = nf4_codebook()
    yield "sixteen values", values
    yield "-1, 0 and 1 are exact", (values[[0, 7, 15]] == torch.tensor([-1.0, 0.0, 1.0])).tolist()
    yield "the steps between them", values.diff()


@observes(
    "nf4_quantize",
    difficulty=3,
    minutes=20,
    hints=(
        "Flatten, pad with zeros to whole blocks, and view as (blocks, block): then absmax is one `amax` over the last axis.",
        "Divide each block by its absmax. `torch.bucketize(x, borders)` counts the borders below x; with the 15 "
        "middles between neighbouring values as borders, that is the index of the nearest value.",
        "A block of zeros divides 0 by 0: keep the divisor above 0, but far below any weight (`clamp`). At the end "
        "cut the padding off again, and convert the codes to `torch.uint8`.",
    ),
    mistakes={
        "One absmax serves the whole tensor. With one for each block, a single large weight spoils only its own 64.": one_scale,
        "Every row begins a new block. NF4 runs on across rows: only the very last block may be short.": blocks_in_each_row,
        "The scale is the largest entry, not the largest magnitude: a large negative weight is cut off.": (
            "blocks.abs().amax(dim=1)",
            "blocks.amax(dim=1)",
        ),
        "The code is the next value below, not the nearest one: all weights are pulled down, by half a step on "
        "average.": (
            "(values[:-1] + values[1:]) / 2",
            "values[1:]",
        ),
        "The code is the next value above, not the nearest one: all weights are pushed up, by half a step on "
        "average.": (
            "(values[:-1] + values[1:]) / 2",
            "values[:-1]",
        ),
        "The codes are those of 16 evenly spaced values. Between NF4's values the steps differ.": (
            "values = nf4_codebook().to(w.device)",
            "values = torch.linspace(-1, 1, 16)",
        ),
        "A block of zeros is divided by its absmax of 0: its codes come from nan.": (".clamp(min=1e-38)", ""),
        "The divisor of a block is never below 1e-8, so a block of very small weights becomes zeros.": (
            "1e-38",
            "1e-8",
        ),
        "The last, short block is left out: its weights get no codes.": [
            ("F.pad(flat, (0, -flat.numel() % block)).view", "flat[: flat.numel() // block * block].view")
        ],
        "absmax is kept in the dtype of the weights; it is float32, for it multiplies 64 of them.": (
            "torch.uint8), absmax",
            "torch.uint8), absmax.to(w.dtype)",
        ),
        "The argument block is not used: it is always 64.": (
            "(0, -flat.numel() % block)).view(-1, block)",
            "(0, -flat.numel() % 64)).view(-1, 64)",
        ),
        "The weights are read in the order in which they lie in memory, which for a transposed matrix is not row by row.": (
            "w.detach().float().flatten()",
            "(w if w.is_contiguous() else w.T).detach().float().flatten()",
        ),
        "The codes are not uint8: they are then eight times as large as they need to be.": (
            "codes.to(torch.uint8)",
            "codes",
        ),
    },
)
def check_nf4_quantize(nf4_quantize, rng):
    yield "four entries, one block", nf4_quantize(torch.tensor([[2.0, -2.0, 1.2, 0.0]]), 4)
    yield "the largest magnitude is negative", nf4_quantize(torch.tensor([1.0, -4.0, 0.8, -0.8]), 4)
    yield "two rows of six, blocks of four", nf4_quantize(weights(rng, [1.0, 4.0, 0.25], 12, 4).view(2, 6), 4)
    yield "a short last block", nf4_quantize(weights(rng, [2.0, 0.5, 8.0], 10, 4), 4)
    yield (
        "a block of zeros, also negative ones",
        nf4_quantize(torch.tensor([0.0, -0.0, 0.0, 0.0, 1.0, 0.1, 0.0, -1.0]), 4),
    )
    yield "blocks of one entry", nf4_quantize(torch.tensor([3.0, -0.5, 0.0]), 1)
    w = weights(rng, [1.0, 3.0, 0.5], 150, 64)
    yield "blocks of 64 where no size is given", nf4_quantize(w.view(5, 30))
    yield "the codes' dtype", str(nf4_quantize(w)[0].dtype)
    yield "a transposed matrix", nf4_quantize(weights(rng, [1.0, 2.0], 20, 10).view(4, 5).T.contiguous().T, 10)
    for dtype in (torch.float16, torch.bfloat16):
        yield f"weights in {dtype}", nf4_quantize(weights(rng, [1.0, 0.5], 64, 32).to(dtype), 32)
    for size in (1e-30, 1e30):
        codes, absmax = nf4_quantize(size * weights(rng, [1.0, 2.0], 40, 20), 20)
        yield f"weights near {size}", (codes, absmax / size)
    for bad in (math.nan, math.inf):
        yield f"{bad} is refused", raised(nf4_quantize, torch.tensor([1.0, bad]))


@observes(
    "nf4_dequantize",
    difficulty=2,
    minutes=10,
    hints=(
        "`nf4_codebook()[codes]` looks up all values at once; an index must be of type int or long, not uint8.",
        "Each scale goes with `block` values in a row: `absmax.repeat_interleave(block)`, cut to the number of codes, or "
        "values padded and viewed as (blocks, block), times absmax[:, None].",
        "Multiply, and `.view(shape)`.",
    ),
    mistakes={
        "The codes are used as if they were evenly spaced: the value is what the code book has at that place.": (
            "nf4_codebook().to(codes.device).index_select(0, codes.flatten().int())",
            "codes.flatten() / 7.5 - 1",
        ),
        "The values are divided by absmax: that was done to make the codes, and has to be undone.": (
            "* absmax[:, None]",
            "/ absmax[:, None]",
        ),
        "The scales alternate from entry to entry: each belongs to a whole block.": (
            "F.pad(values, (0, -numel % block)).view(-1, block) * absmax[:, None]",
            "values * absmax.repeat(block)[:numel]",
        ),
        "The first scale is used for all blocks: each block was divided by its own.": (
            "* absmax[:, None]",
            "* absmax[0]",
        ),
        "The argument block is not used: it is always 64.": (
            "F.pad(values, (0, -numel % block)).view(-1, block) * absmax[:, None]",
            "values * F.pad(absmax, (0, numel)).repeat_interleave(64)[:numel]",
        ),
        "The weights come back as a flat vector; they had a shape.": (".view(tuple(shape))", ""),
        "The weights come back in column-major order: the codes run along the rows.": (
            ".view(tuple(shape))",
            ".view(tuple(shape)[::-1]).permute(*range(len(shape))[::-1])",
        ),
        "A code of 8 is taken for zero. NF4's zero is code 7: there are 8 values above it and 7 below.": (
            "codes.flatten().int()",
            "(codes.flatten().int() - 1).clamp(min=0)",
        ),
    },
)
def check_nf4_dequantize(nf4_dequantize, rng):
    yield "all sixteen codes", nf4_dequantize(torch.arange(16, dtype=torch.uint8), torch.tensor([2.0]), (16,))
    codes = torch.randint(16, (12,), generator=rng).to(torch.uint8)
    yield "a matrix, three blocks of four", nf4_dequantize(codes, torch.tensor([1.0, 10.0, 0.1]), (2, 6), 4)
    yield "a short last block", nf4_dequantize(codes[:10], torch.tensor([1.0, 0.5, 3.0]), (5, 2), 4)
    yield "a block with absmax 0", nf4_dequantize(codes[:4], torch.tensor([0.0, 1.0]), (4,), 2)
    yield "blocks of one entry", nf4_dequantize(codes[:3], torch.tensor([3.0, 0.5, 1.0]), (3,), 1)
    w = weights(rng, [1.0, 2.0, 0.25], 150, 64)
    yield "there and back", nf4_dequantize(*nf4_quantize(w.view(5, 30)), (5, 30))
    yield "codes that do not fill the shape are refused", raised(nf4_dequantize, codes, torch.ones(1), (4, 4))
    yield "too few scales are refused", raised(nf4_dequantize, codes, torch.ones(2), (12,), 4)


def scales(rng: torch.Generator, sizes: dict[int, float]) -> Tensor:
    """Block scales around 1 with an exact mean of 1, for {how many: how far from 1}, all far from a border.

    Multiples of 2^-14, in pairs 1 ± d: so float32 adds them up without rounding, in whatever order.
    """
    values = dynamic_codebook()
    borders = (values[:-1] + values[1:]) / 2
    blocks = []
    for count, furthest in sizes.items():
        steps = int(furthest * 2**14)
        found = torch.randint(1, steps, (40 * count,), generator=rng)
        relative = torch.cat([found, -found]).double() / steps
        index = torch.bucketize(relative.float(), borders)
        step = values.diff()[(index - 1).clamp(0, 254)]
        near = (relative[:, None] - borders.double()).abs().amin(dim=1) < 0.1 * step
        chosen = found[~near.view(2, -1).any(dim=0)][: count // 2 - 1]
        deviations = torch.cat([torch.tensor([steps]), chosen]) / 2**14
        block = torch.cat([1 + deviations, 1 - deviations])
        blocks.append(block[torch.randperm(count, generator=rng)])
    return torch.cat(blocks)


@observes(
    "double_quantize",
    difficulty=3,
    minutes=15,
    rtol=1e-6,
    atol=1e-7,
    hints=(
        "All scales are positive, and the 8-bit type has as many negative values as positive ones. So first subtract "
        "the mean: what is left lies on both sides of 0.",
        "From there on it is `nf4_quantize` with another code book and another block: blocks, their largest magnitude, divide, "
        "nearest value by `torch.bucketize`.",
        "Return the codes as uint8, the largest magnitudes, and the mean. The scales that came in stay as they are: no "
        "`-=` on them.",
    ),
    mistakes={
        "The mean is not subtracted: the scales are all positive, so half of the 256 codes are never used.": [
            ("deviations = absmax.float() - offset", "deviations = absmax.float()"),
            ("second_absmax, offset\n    # END", "second_absmax, 0 * offset\n    # END"),
        ],
        "The mean is subtracted from each block of 256 on its own; one offset serves all of them.": [
            (
                "    deviations = absmax.float() - offset\n",
                "    deviations = torch.cat([part - part.mean() for part in absmax.split(block)])\n",
            ),
        ],
        "The second scale is taken before the mean is subtracted: it is too large, and the codes crowd around 0.": (
            "second_absmax = blocks.abs()",
            "second_absmax = (blocks + offset).abs()",
        ),
        "The second scale is the largest entry, not the largest magnitude: scales far below the mean are cut off.": (
            "blocks.abs().amax",
            "blocks.amax",
        ),
        "The 256 values are evenly spaced (plain int8). The dynamic type puts more of them near 0, where most deviations "
        "are.": ("values = dynamic_codebook().to(absmax.device)", "values = torch.linspace(-1, 1, 256)"),
        "The code is the next value below, not the nearest one: all scales come back too small.": (
            "(values[:-1] + values[1:]) / 2",
            "values[1:]",
        ),
        "One second scale serves all blocks: a single large deviation then spoils them all.": (
            "second_absmax = blocks.abs().amax(dim=1)",
            "second_absmax = blocks.abs().amax().expand(len(blocks)).clone()",
        ),
        "The mean is subtracted from the caller's own scales, in place.": (
            "deviations = absmax.float() - offset",
            "deviations = absmax.sub_(offset)",
        ),
        "The scales are quantized in blocks of 64, like the weights; they come in blocks of 256.": (
            "(0, -absmax.numel() % block)).view(-1, block)",
            "(0, -absmax.numel() % 64)).view(-1, 64)",
        ),
        "The codes are counted from -128. Indices into the 256 values run from 0.": (
            "codes.to(torch.uint8), second",
            "(codes - 128).to(torch.int8), second",
        ),
        "Scales that are all equal deviate by 0, and 0 is divided by 0.": (".clamp(min=1e-38)", ""),
    },
)
def check_double_quantize(double_quantize, rng):
    yield "four scales", double_quantize(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    yield "the same, dequantized again", double_dequantize(*double_quantize(torch.tensor([1.0, 2.0, 3.0, 4.0])))
    yield "the same in float16", double_quantize(torch.tensor([1.0, 2.0, 3.0, 4.0]).half())
    yield "far below the mean", double_quantize(torch.tensor([1.0, 1.5, 1.5, 1.5, 1.5]))
    yield "blocks of four, the last one short", double_quantize(scales(rng, {4: 0.5, 2: 0.25}), 4)
    yield "two blocks of two with other means", double_quantize(torch.tensor([0.25, 0.75, 1.0, 2.0]), 2)
    absmax = scales(rng, {256: 0.5, 44: 0.125})
    yield "300 scales, blocks of 256", double_quantize(absmax)
    yield "the codes' dtype", str(double_quantize(absmax)[0].dtype)
    yield "equal scales", double_quantize(torch.full((5,), 0.75))
    yield "one scale", double_quantize(torch.tensor([0.5]))
    yield "nan is refused", raised(double_quantize, torch.tensor([1.0, math.nan]))


@observes(
    "bits_per_parameter",
    difficulty=1,
    minutes=5,
    rtol=1e-6,
    hints=(
        "A scale of 32 bits serves `block` weights: each of them bears 32 / block.",
        "With a second block a scale takes 8 bits in place of 32, and a second scale of 32 bits serves second_block scales.",
        "That second scale serves block · second_block weights.",
    ),
    mistakes={
        "The second scale, which double quantization adds, is not counted.": (" + 32 / (block * second_block)", ""),
        "The second scale is counted as if second_block weights shared it: second_block scales do, each of a whole "
        "block.": (
            "32 / (block * second_block)",
            "32 / second_block",
        ),
        "The scales are counted as 16 bits; they are float32.": ("4 + 32 / block", "4 + 16 / block"),
        "Only the codes are counted: without the scales they cannot be read.": [
            ("4 + 32 / block", "4.0"),
            ("4 + 8 / block + 32 / (block * second_block)", "4.0"),
        ],
        "A quantized scale is counted as 4 bits: it takes 8.": ("8 / block", "4 / block"),
    },
)
def check_bits_per_parameter(bits_per_parameter, rng):
    yield "blocks of 64", float(bits_per_parameter())
    yield "blocks of 64, scales in blocks of 256", float(bits_per_parameter(64, 256))
    yield "blocks of 16", float(bits_per_parameter(16))
    yield "blocks of 128, scales in blocks of 32", float(bits_per_parameter(block=128, second_block=32))
    block, second_block = torch.randint(20, 300, (2,), generator=rng).tolist()
    yield "other blocks", float(bits_per_parameter(block))
    yield "other blocks, with scales in blocks", float(bits_per_parameter(block, second_block))
    yield "a block of 0 is refused", raised(bits_per_parameter, 0)


def layer_of(
    make, rng: torch.Generator, d_out=5, d_in=16, rank=2, alpha=6.0, block=16, bias=True, dtype=None, **options
):
    """A QLoRALinear over a layer whose scales, one a row, have the exact mean 1; and the same numbers as tensors."""
    base = nn.Linear(d_in, d_out, bias=bias)
    with torch.no_grad():
        base.weight.copy_(weights(rng, [1.0, 0.5, 1.5, 0.75, 1.25], d_out * d_in, block).view(d_out, d_in))
        if bias:
            base.bias.copy_(torch.randn(d_out, generator=rng))
    return make(base.to(dtype), rank, alpha, block=block, **options)


def factors(layer: nn.Module, d_out: int, d_in: int, rank: int) -> tuple[nn.Parameter, nn.Parameter]:
    """A and B among the trained parameters, whatever their names, and either way round."""
    trained = [p for p in layer.parameters() if p.requires_grad]
    sizes = sorted(sorted(p.shape) for p in trained)
    if sizes != sorted([sorted((rank, d_in)), sorted((rank, d_out))]):
        shown = [tuple(p.shape) for p in trained]
        raise ValueError(f"trained should be A of ({rank}, {d_in}) and B of ({d_out}, {rank}), got shapes {shown}")
    return tuple(next(p for p in trained if d in p.shape) for d in (d_in, d_out))


def fill(layer: nn.Module, rng: torch.Generator, d_out=5, d_in=16, rank=2) -> nn.Module:
    """Random factors: the same A and B whatever their orientation."""
    for p, shape in zip(factors(layer, d_out, d_in, rank), ((rank, d_in), (d_out, rank)), strict=True):
        value = torch.randn(shape, generator=rng)
        p.data.copy_(value if p.shape == shape else value.T)
    return layer


def held_bytes(thing: object, seen: set[int] | None = None) -> int:
    """Bytes of all tensors that a module holds, as parameter, buffer, or attribute, plain or in a container."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return 0
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        storage = thing.untyped_storage()
        if storage.data_ptr() in seen:
            return 0
        seen.add(storage.data_ptr())
        return storage.nbytes()
    inside = (
        vars(thing).values() if isinstance(thing, nn.Module) else thing.values() if isinstance(thing, dict) else thing
    )
    if isinstance(thing, (nn.Module, dict, list, tuple, set)):
        return sum(held_bytes(part, seen) for part in inside)
    return 0


def saved_sizes(function) -> list[int]:
    """The number of elements of each tensor that autograd keeps for the backward pass of `function`."""
    sizes = []

    def pack(tensor):
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function()
    return sizes


@contextlib.contextmanager
def new_garbage_collected():
    """At the end the cycles of the block are gone. What was there before it is not looked at, which would take long."""
    gc.freeze()
    try:
        yield
        gc.collect()
    finally:
        gc.unfreeze()


FROZEN = "FrozenProduct.apply(x, lambda: self.dequantized().to(x.dtype))"


@observes(
    "QLoRALinear",
    difficulty=4,
    minutes=35,
    hints=(
        "In __init__: `nf4_quantize`, then `double_quantize` its absmax, `pack_codes` the codes, and `register_buffer` "
        "all of it, and the bias. Nothing else of `base` may stay.",
        "The way back: `double_dequantize` gives absmax, and `dequantize_packed` the weight. `FrozenProduct` takes "
        "x and a function that makes the weight, in the dtype of x: it calls that anew in the backward pass.",
        "A is an nn.Parameter (rank, d_in), random, B one of zeros (d_out, rank). The output is the frozen product, plus "
        "bias, plus alpha / rank · dropout(x) @ A.T @ B.T. Dropout works on that second path only.",
    ),
    mistakes={
        "The update is not multiplied by alpha / rank.": ("self.scale * (self.dropout", "(self.dropout"),
        "The update is multiplied by alpha, not by alpha / rank.": ("block, alpha / rank", "block, alpha"),
        "The update is multiplied by alpha / √rank (rsLoRA); LoRA and QLoRA have alpha / rank.": (
            "block, alpha / rank",
            "block, alpha / rank**0.5",
        ),
        "The bias of the base layer is lost: quantized or not, it belongs to the output.": (
            "None if base.bias is None else base.bias.detach().clone()",
            "None",
        ),
        "The base layer's own weight is used, not the quantized one; and it stays in memory.": [
            (
                "        self.shape, self.block",
                "        self.base = base.requires_grad_(False)\n        self.shape, self.block",
            ),
            (FROZEN, "F.linear(x, self.base.weight)"),
        ],
        "The base layer is kept beside its codes: the layer takes more memory than before, not less.": (
            "        self.shape, self.block",
            "        self.kept = [base.requires_grad_(False)]\n        self.shape, self.block",
        ),
        "The weight is dequantized once, in __init__, and kept: then all of it is in memory all the time.": [
            (
                '        self.register_buffer("bias"',
                '        self.full = self.dequantized()\n        self.register_buffer("bias"',
            ),
            (FROZEN, "FrozenProduct.apply(x, lambda: self.full.to(x.dtype))"),
        ],
        "The codes are not packed: each takes a byte, and half of it is empty.": [
            ('"codes", pack_codes(codes)', '"codes", codes'),
            ("dequantize_packed(self.codes", "nf4_dequantize(self.codes"),
        ],
        "The scales are kept in float32, not quantized a second time: that is half a bit for each weight, not an "
        "eighth.": [
            ('"absmax_codes", absmax_codes', '"absmax", absmax'),
            ("double_dequantize(self.absmax_codes, self.second_absmax, self.offset)", "self.absmax"),
        ],
        "A plain product keeps the whole dequantized weight for the backward pass, in every layer of the model.": (
            FROZEN,
            "F.linear(x, self.dequantized().to(x.dtype))",
        ),
        "No gradient flows through the frozen weight, so the layers below learn only from what the factors pass on.": (
            FROZEN,
            "F.linear(x.detach(), self.dequantized().to(x.dtype))",
        ),
        "Both factors start at zero: the gradient of each is multiplied by the other, so neither ever moves.": (
            "torch.empty(rank, d_in).uniform_(-1, 1, generator=generator).to(base.weight) / d_in**0.5",
            "torch.zeros(rank, d_in).to(base.weight)",
        ),
        "Factor B is random, so the layer does not begin as the layer that it replaces.": (
            "torch.zeros(d_out, rank).to(base.weight)",
            "torch.empty(d_out, rank).uniform_(-1, 1, generator=generator).to(base.weight)",
        ),
        "The codes and scales are plain attributes, not buffers: they are in no state dict, so a saved layer is lost.": [
            ('self.register_buffer("codes", pack_codes(codes))', "self.codes = pack_codes(codes)"),
            ('self.register_buffer("absmax_codes", absmax_codes)', "self.absmax_codes = absmax_codes"),
            ('self.register_buffer("second_absmax", second_absmax)', "self.second_absmax = second_absmax"),
        ],
        "The bias is trained: it is frozen with the rest of the base layer.": (
            'self.register_buffer("bias", None if base.bias is None else base.bias.detach().clone())',
            "self.bias = base.bias",
        ),
        "Dropout also hits the input of the frozen weight; it belongs to the path through the factors.": (
            "        y = FrozenProduct",
            "        x = self.dropout(x)\n        y = FrozenProduct",
        ),
        "The argument dropout is not used: nothing is ever dropped.": ("nn.Dropout(dropout)", "nn.Dropout(0.0)"),
        "Dropout hits what A gives, rank numbers, not the entries of x.": (
            "(self.dropout(x) @ self.A.T)",
            "self.dropout(x @ self.A.T)",
        ),
        "The argument block is not used: it is always 64.": [
            ("nf4_quantize(base.weight, block)", "nf4_quantize(base.weight)"),
            ("tuple(base.weight.shape), block", "tuple(base.weight.shape), 64"),
        ],
        "The argument generator is not used, so the same seed gives another A.": (
            "generator=generator",
            "generator=None",
        ),
    },
)
def check_QLoRALinear(QLoRALinear, rng):
    x = torch.randn(3, 16, generator=rng)
    shown = {"x": x[:1]}
    layer = layer_of(QLoRALinear, rng)
    yield "a new layer gives what the quantized layer gives", layer(x), shown
    a, b = factors(layer, 5, 16, 2)
    yield "B is zero, A is random", [bool((b == 0).all()), bool(0.05 < a.detach().std() * 4 < 20)], {}
    fill(layer, rng)
    yield "factors that are not zero", layer(x), shown
    batch = torch.randn(2, 3, 16, generator=rng, requires_grad=True)
    output = layer(batch)
    yield "a batch of sequences", output, {}
    target = torch.randn(output.shape, generator=rng)
    (output * target).sum().backward()
    yield "the gradient of the input", batch.grad, {}
    yield (
        "the gradients of A and B",
        [p.grad if p.shape[i] == 2 else p.grad.T for i, p in enumerate(factors(layer, 5, 16, 2))],
        {},
    )
    yield "nothing else is trained", sum(p.numel() for p in layer.parameters() if p.requires_grad), {}

    base = nn.Linear(16, 5)
    QLoRALinear(base, 2, 6.0)(x).sum().backward()
    yield "the base layer gets no gradient", [p.grad is None for p in base.parameters()], {}

    other = fill(layer_of(QLoRALinear, rng, bias=False), rng)
    yield "no bias, other weights", other(x), shown
    yield (
        "six rows of ten, so that blocks cross rows",
        layer_of(QLoRALinear, rng, d_out=6, d_in=10, block=12)(x[:, :10]),
        {},
    )
    yield "an odd number of weights", layer_of(QLoRALinear, rng, d_out=5, d_in=5, block=5)(x[:, :5]), {}
    saved = fill(layer_of(QLoRALinear, rng), rng)
    copy = layer_of(QLoRALinear, rng)
    copy.load_state_dict(saved.state_dict())
    yield "a state dict carries all of it", copy(x), shown

    torch.manual_seed(int(torch.randint(2**31, (), generator=rng)))
    layer = fill(layer_of(QLoRALinear, rng, dropout=1.0), rng)
    yield "all dropped: only the frozen path is left", layer(x), {"x": x[:1], "dropout": 1.0}
    yield "nothing is dropped in evaluation", layer.eval()(x), {"x": x[:1], "dropout": 1.0}
    layer = fill(layer_of(QLoRALinear, rng, rank=1, dropout=0.5), rng, rank=1)
    outputs = {round(layer(x[0])[0].item(), 4) for _ in range(20)}
    yield "half of the entries of x are dropped", len(outputs) > 4, {"dropout": 0.5}

    same = [layer_of(QLoRALinear, rng, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    yield "the same generator gives the same A", bool(torch.equal(*(factors(s, 5, 16, 2)[0] for s in same))), {}
    half = layer_of(QLoRALinear, rng, dtype=torch.bfloat16)
    yield (
        "a bfloat16 layer works in bfloat16",
        [str(half(x.bfloat16()).dtype), str(factors(half, 5, 16, 2)[0].dtype)],
        {},
    )

    with new_garbage_collected():
        base = nn.Linear(192, 256, bias=False)
        nn.init.normal_(base.weight, generator=rng)
        still_there, numel = weakref.ref(base.weight), base.weight.numel()
        layer = QLoRALinear(base, 1, 1.0)
        layer(torch.ones(1, 192)).sum().backward()
        layer.zero_grad(set_to_none=True)
        del base
    held = held_bytes(layer) - 4 * (192 + 256)
    allowed = numel // 2 + numel // 64 + 4 * (numel // (64 * 256) + 1) + 1400  # 1,400: room for code books
    yield "no full weight is kept", [still_there() is None, held <= allowed], {"bytes": held, "allowed": allowed}
    kept = max(saved_sizes(lambda: layer(torch.ones(1, 192, requires_grad=True))), default=0)
    yield "no full weight is kept for the backward pass", kept < numel, {"largest tensor kept": kept}
    yield "a layer that is not linear is refused", raised(QLoRALinear, nn.ReLU(), 2, 1.0), {}
    yield "a rank of 0 is refused", raised(QLoRALinear, nn.Linear(4, 4), 0, 1.0), {}
