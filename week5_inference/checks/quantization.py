"""What right answers of lesson 04 show, and the known mistakes. Codes are compared away from ties between two codes."""

import torch

from shared.checking import observes, raised
from week5_inference.solutions.quantization import int8_quantize as reference_int8


def normal(*shape: int, rng: torch.Generator) -> torch.Tensor:
    return torch.randn(*shape, generator=rng)


def spoiled(w: torch.Tensor, value: float) -> torch.Tensor:
    w = w.clone()
    w[1, 2] = value
    return w


@observes(
    "int8_quantize",
    difficulty=1,
    minutes=10,
    hints=(
        "One scale a row: the largest magnitude in it, divided by the largest code. `amax(dim=1, keepdim=True)` of the "
        "magnitudes has the shape (out, 1).",
        "Divide, round to the nearest whole number, then `.to(torch.int8)`. The conversion alone cuts off what is behind the "
        "point. Work in float32: `w.float()`.",
        "A row of zeros divides 0 by 0. Keep the scale 0 for the result, but divide by something tiny that is not 0.",
    ),
    mistakes={
        "The whole matrix has one scale: its largest weight then decides how coarse every row is.": (
            "w.detach().float().abs().amax(dim=1, keepdim=True)",
            "w.detach().float().abs().amax().expand(len(w), 1)",
        ),
        "The scales are those of the columns: each row (each output) has one.": (
            "absmax = w.detach().float().abs().amax(dim=1, keepdim=True)",
            "absmax = w.detach().float().abs().amax(dim=0)[torch.arange(len(w)) % w.shape[1], None]",
        ),
        "The scale is the largest value, not the largest magnitude: a row whose extreme is negative overflows.": (
            "w.detach().float().abs().amax(dim=1, keepdim=True)",
            "w.detach().float().amax(dim=1, keepdim=True)",
        ),
        "The codes are cut off towards 0, not rounded to the nearest: the error is up to twice as large.": (
            "torch.round(w.detach().float() * (127 / absmax.clamp(min=1e-36)))",
            "torch.trunc(w.detach().float() * (127 / absmax.clamp(min=1e-36)))",
        ),
        "The codes are rounded down: all weights become a little smaller, and the errors add up instead of cancelling.": (
            "torch.round(w.detach().float() * (127 / absmax.clamp(min=1e-36)))",
            "torch.floor(w.detach().float() * (127 / absmax.clamp(min=1e-36)))",
        ),
        "absmax is divided into 128 steps, not 127: its code +128 is no int8, and wraps round to -128.": [
            ("(127 / absmax", "(128 / absmax"),
            ("codes.to(torch.int8), absmax / 127", "codes.to(torch.int8), absmax / 128"),
        ],
        "The scale that comes back is the row's absmax: dequantizing multiplies by it, so it has to be the value of one step.": (
            "codes.to(torch.int8), absmax / 127",
            "codes.to(torch.int8), absmax",
        ),
        "The scale that comes back is the inverse: how many steps there are in 1.": (
            "codes.to(torch.int8), absmax / 127",
            "codes.to(torch.int8), 127 / absmax",
        ),
        "The scale of float16 weights is computed in float16, where it has three digits only.": (
            "codes.to(torch.int8), absmax / 127",
            "codes.to(torch.int8), absmax.to(w.dtype).div(127).float()",
        ),
    },
)
def check_int8_quantize(int8_quantize, rng):
    w = torch.tensor([[0.52, -1.0, 0.26], [0.02, 0.0, 0.0157]])
    yield "a row of large weights and one of small ones", int8_quantize(w), {"w": w}
    w = torch.tensor([[-3.0, 1.0, 0.7], [0.0, 0.0, 0.0]])
    yield "a negative extreme, and a row of zeros", int8_quantize(w), {"w": w}
    w = normal(5, 7, rng=rng)
    yield "more columns than rows", int8_quantize(w), {"w": w}
    yield "float16 weights", int8_quantize(w.half() * 64), {"w": w.half() * 64}
    yield "the dtype of the codes", str(int8_quantize(w)[0].dtype), {"w": w}
    yield "a nan is refused", raised(int8_quantize, spoiled(w, torch.nan)), {"w": spoiled(w, torch.nan)}


@observes(
    "int8_dequantize",
    difficulty=1,
    minutes=5,
    hints=(
        "Each code times the scale of its row.",
        "The scale has the shape (out, 1), so that broadcasting gives every row its own.",
        "First `codes.float()`: int8 times int8 would stay int8.",
    ),
    mistakes={
        "The codes are divided by the scale. Quantizing divided; the way back multiplies.": (
            "codes.float() * scale",
            "codes.float() / scale",
        ),
        "The scale is divided by 127 once more: it is the value of one step already.": (
            "codes.float() * scale.float()",
            "codes.float() * scale.float() / 127",
        ),
        "All rows get the scale of the first.": (
            "codes.float() * scale.float()",
            "codes.float() * scale.float()[:1]",
        ),
        "The codes count as numbers from 0 to 255: they have a sign.": (
            "codes.float()",
            "codes.view(torch.uint8).float()",
        ),
        "The result is float64: it should be float32.": ("codes.float()", "codes.double()"),
    },
)
def check_int8_dequantize(int8_dequantize, rng):
    codes = torch.randint(-127, 128, (4, 3), generator=rng).to(torch.int8)
    codes[0] = torch.tensor([-127, 0, 5])
    scale = torch.rand(4, 1, generator=rng) + torch.arange(4)[:, None] / 2 + 0.1
    yield "four rows", int8_dequantize(codes, scale), {"codes": codes, "scale": scale}
    w = normal(3, 5, rng=rng)
    codes, scale = reference_int8(w)
    yield (
        "the codes that int8_quantize gives for three rows",
        int8_dequantize(codes, scale),
        {"codes": codes, "scale": scale},
    )


@observes(
    "zero_point_quantize",
    difficulty=3,
    minutes=25,
    hints=(
        "First cut each row into groups: `w.float().unflatten(1, (-1, size))` is (out, groups, size). Then everything is one "
        "`amin` and one `amax` over the last axis. (`size` is what `check_grid` gives.)",
        "0 must lie between low and high: clamp low to at most 0 and high to at least 0. The scale divides high - low into "
        "2^bits - 1 steps, and zero = round(-low / scale) is the code of the value 0.",
        "Round w / scale, add the zero point, clamp to 0 … 2^bits - 1, flatten the groups again, convert to uint8. Where scale "
        "is 0 (a group of zeros) put 1 with torch.where.",
    ),
    mistakes={
        "The groups are not used: the whole row has one scale.": (
            "groups = w.detach().float().unflatten(1, (-1, size))",
            "groups = w.detach().float().unflatten(1, (1, -1))",
        ),
        "The entries of a group lie a stride apart: a group is `group_size` neighbours in a row.": [
            (
                "w.detach().float().unflatten(1, (-1, size))",
                "w.detach().float().unflatten(1, (size, -1)).transpose(1, 2)",
            ),
            ("2**bits - 1).flatten(1).to", "2**bits - 1).transpose(1, 2).flatten(1).to"),
        ],
        "low may be above 0: then 0 has no code, and the zero point is negative.": (
            ".amin(dim=2).clamp(max=0)",
            ".amin(dim=2)",
        ),
        "high may be below 0: in a group without positive values 0 lies beyond the last code.": (
            ".amax(dim=2).clamp(min=0)",
            ".amax(dim=2)",
        ),
        "The range is divided into 2^bits steps: 2^bits codes have one step less between them.": (
            "(high - low) / (2**bits - 1)",
            "(high - low) / 2**bits",
        ),
        "The range is made symmetric about 0: up to half of the codes are lost where the weights lean to one side.": (
            "scale = (high - low) / (2**bits - 1)",
            "high = torch.maximum(high, -low)\n    low = -high\n    scale = (high - low) / (2**bits - 1)",
        ),
        "The zero point is not a whole number, so 0 itself does not come back as 0.": (
            "zero = torch.round(-low / scale)",
            "zero = -low / scale",
        ),
        "The zero point has the wrong sign: low is negative or 0, so -low / scale is a code.": (
            "torch.round(-low / scale)",
            "torch.round(low / scale)",
        ),
        "The codes are cut off, not rounded to the nearest.": (
            "torch.round(groups / scale[..., None])",
            "torch.trunc(groups / scale[..., None])",
        ),
        "The codes are clamped a step too early, so that the largest has no use.": (
            "codes.clamp(0, 2**bits - 1)",
            "codes.clamp(0, 2**bits - 2)",
        ),
        "Without a clamp a value that is rounded beyond the last code wraps round to 0.": (
            "codes.clamp(0, 2**bits - 1).flatten(1).to(torch.uint8)",
            "(codes % 2**bits).flatten(1).to(torch.uint8)",
        ),
        "A group of zeros has the scale 0: dividing by it gives nan.": (
            "scale = torch.where(scale > 1e-36, scale, 1.0)",
            "scale = scale * 1",
        ),
    },
)
def check_zero_point_quantize(zero_point_quantize, rng):
    w = torch.tensor([[-1.0, 0.1, 0.6, 2.0], [0.3, 0.7, 1.2, 1.5], [-0.9, -0.6, -0.35, -0.2], [0.0, 0.0, 0.0, 0.0]])
    yield "two bits: mixed signs, all positive, all negative, zeros", zero_point_quantize(w, 2), {"w": w, "bits": 2}
    w = torch.tensor([[-0.9, 0.2, 0.7, 2.55], [-1.45, 0.4, 3.05, 0.0]])
    yield "three bits", zero_point_quantize(w, 3), {"w": w, "bits": 3}
    w = torch.tensor([[-3.5, 1.0, 3.5]])  # 3.5 steps on both sides: the zero point and the last code both round up
    yield (
        "the largest code, where zero and code both round up",
        zero_point_quantize(w, 3)[0][:, -1],
        {"w": w, "bits": 3},
    )
    w = normal(3, 12, rng=rng) * torch.tensor([1.0, 1, 1, 1, 5, 5, 5, 5, 0.1, 0.1, 0.1, 0.1]) + 0.2
    yield "groups of four", zero_point_quantize(w, 4, 4), {"w": w, "bits": 4, "group_size": 4}
    yield "groups of six, three bits", zero_point_quantize(w, 3, 6), {"w": w, "bits": 3, "group_size": 6}
    yield "eight bits, float16", zero_point_quantize(w.half()), {"w": w.half(), "bits": 8}
    yield "the dtype of the codes", str(zero_point_quantize(w)[0].dtype), {"w": w, "bits": 8}
    refused = {
        "groups that do not fit": raised(zero_point_quantize, w, 4, 5),
        "9 bits": raised(zero_point_quantize, w, 9),
        "inf": raised(zero_point_quantize, spoiled(w, torch.inf)),
    }
    yield "groups that do not fit, 9 bits and inf are refused", refused, {"w": w}


def frequencies(stochastic_round, values: list[float], rng: torch.Generator, draws: int = 4000) -> dict[str, list[str]]:
    """For each value which whole numbers came, and about how often, to the nearest eighth."""
    drawn = stochastic_round(torch.tensor(values).expand(draws, len(values)).contiguous(), rng)
    found = {}
    for i, value in enumerate(values):
        kinds, counts = drawn[:, i].unique(return_counts=True)
        found[str(value)] = [
            f"{k:g}: {round(8 * n / draws)}/8" for k, n in zip(kinds.tolist(), counts.tolist(), strict=True)
        ]
    return found


@observes(
    "stochastic_round",
    difficulty=1,
    minutes=10,
    hints=(
        "x lies between floor(x) and floor(x) + 1. How far it is above the lower one is the probability of the upper one.",
        "Draw a uniform number in [0, 1) for each entry: `torch.rand(x.shape, generator=generator)`. It is below p with "
        "probability p.",
        "Start from the whole number below, and add 1 where the uniform number is less than x's distance to it. "
        '"Below" is floor, not trunc: for negative x they differ.',
    ),
    mistakes={
        "It goes up with the probability of going down: the nearer whole number should be the likelier one.": (
            "chance < x - floor",
            "chance > x - floor",
        ),
        "Up and down are equally likely wherever x lies, which is right on average only half way between.": (
            "(chance < x - floor)",
            "((chance < 0.5) & (x > floor))",
        ),
        "Nothing is drawn: this is rounding to the nearest.": ("(chance < x - floor)", "(x - floor > 0.5)"),
        "For negative x the fraction is measured from the whole number towards 0: it is negative there, so x never goes down.": (
            "floor = torch.floor(x)",
            "floor = torch.trunc(x)",
        ),
        "One draw is used for a whole row, so that the errors of its entries do not cancel.": (
            "torch.rand(x.shape, generator",
            "torch.rand((*x.shape[:-1], 1), generator",
        ),
        "Chance does not come from the generator: two runs with the same seed differ.": ("generator=generator, ", ""),
        "It always goes up: on average that is half a step too much.": ("(chance < x - floor)", "(x > floor)"),
    },
)
def check_stochastic_round(stochastic_round, rng):
    whole = torch.randint(-40, 40, (9,), generator=rng)
    eighths = (whole[:5] + torch.randint(1, 8, (5,), generator=rng) / 8).tolist()
    yield (
        "how often each whole number comes",
        frequencies(stochastic_round, [0.25, 2.75, -0.25, -1.625, 3.0], rng),
        {"x": [0.25, 2.75, -0.25, -1.625, 3.0], "draws": 4000},
    )
    yield (
        "numbers at random: how often each whole number comes",
        frequencies(stochastic_round, eighths, rng),
        {"x": eighths, "draws": 4000},
    )
    x = torch.full((400, 20), 0.5)
    rows = stochastic_round(x, rng)
    together = (rows == rows[:, :1]).float().mean().item()
    yield "each entry draws for itself", together < 0.7, {"x": "0.5, 8000 times"}
    yield (
        "whole numbers stay as they are, and float64 too",
        stochastic_round(whole.double(), rng),
        {"x": whole.tolist()},
    )
    twice = [stochastic_round(x, torch.Generator().manual_seed(5)) for _ in range(2)]
    yield "the same seed twice gives the same numbers", torch.equal(*twice), {"x": "0.5, 8000 times"}


REGULAR = "x_codes, x_scale = int8_quantize(tokens.masked_fill(is_outlier, 0))"
OUTLIERS = "tokens[:, is_outlier] @ w[:, is_outlier].to(x.dtype).T"


@observes(
    "llm_int8_matmul",
    difficulty=3,
    minutes=30,
    rtol=2e-4,
    atol=2e-4,
    hints=(
        "Flatten x to (tokens, in). A feature is a column of it; it is an outlier where the largest magnitude over all tokens "
        "reaches the threshold. That is one bool a column.",
        "The regular part: set the outlier columns of x to 0 (they then add nothing, and no scale knows of them), quantize its "
        "rows and w's rows, `int8_product` of the codes, times x's scale (tokens, 1) and w's scale as (1, out).",
        "The other part is an ordinary product: the outlier columns of x with the same columns of w, in x's dtype. "
        "Add both, and give the result x's leading shape. For threshold 0 no column is an outlier.",
    ),
    mistakes={
        "No outlier is taken out: x's scales are blown up by them, and all other features lose their digits.": [
            (REGULAR, "x_codes, x_scale = int8_quantize(tokens)"),
            (OUTLIERS, "tokens[:, :0] @ w[:, :0].to(x.dtype).T"),
        ],
        "The outliers are left out of the int8 part and never come back.": (
            "(regular.to(x.dtype) + outliers)",
            "regular.to(x.dtype)",
        ),
        "The outliers count twice: they are in the int8 part too, and blow up its scales.": (
            REGULAR,
            "x_codes, x_scale = int8_quantize(tokens)",
        ),
        "Outliers are sought among positive values only: large negative ones are outliers too.": (
            "(tokens.abs() >= threshold)",
            "(tokens >= threshold)",
        ),
        "A feature counts as an outlier only if every token is large in it: one is enough.": (
            ".any(dim=0) if threshold",
            ".all(dim=0) if threshold",
        ),
        "Rows are taken out, not columns: the outliers are features, in the same columns for all tokens.": [
            ("(tokens.abs() >= threshold).any(dim=0) if", "(tokens.abs() >= threshold).any(dim=1) if"),
            (REGULAR, "x_codes, x_scale = int8_quantize(tokens.masked_fill(is_outlier[:, None], 0))"),
            (OUTLIERS, "(tokens * is_outlier[:, None]) @ w.to(x.dtype).T"),
        ],
        "A value that just reaches the threshold stays in the int8 part: it is an outlier already.": (
            "abs() >= threshold",
            "abs() > threshold",
        ),
        "The threshold given is not used: it is always 6.": ("abs() >= threshold", "abs() >= 6.0"),
        "w's scale is missing: both sides were divided by a scale of their own, and only x's comes back.": (
            "* x_scale * w_scale.T",
            "* x_scale",
        ),
        "x's scale is missing: both sides were divided by a scale of their own, and only w's comes back.": (
            "* x_scale * w_scale.T",
            "* w_scale.T",
        ),
        "All tokens share one scale, and small tokens lose their digits: each row of x has its own.": (
            "int8_product(x_codes, w_codes).float() * x_scale * w_scale.T",
            "int8_product(int8_quantize(tokens.masked_fill(is_outlier, 0).view(1, -1))[0].view(tokens.shape), w_codes)"
            ".float() * x_scale.max() * w_scale.T",
        ),
        "The outlier columns of w are used after quantization; here they stay in full precision.": (
            "w[:, is_outlier].to(x.dtype).T",
            "(w_codes * w_scale)[:, is_outlier].to(x.dtype).T",
        ),
        "Nothing is quantized: this is x wᵀ, right to the last digit, but without int8.": (
            "(regular.to(x.dtype) + outliers)",
            "(tokens @ w.to(x.dtype).T)",
        ),
        "threshold 0 makes every feature an outlier; it should turn the outliers off.": (
            " if threshold else torch.zeros_like(tokens[0], dtype=torch.bool)",
            "",
        ),
    },
)
def check_llm_int8_matmul(llm_int8_matmul, rng):
    x = torch.tensor([[0.5, -8.0, 0.31], [1.0, 7.0, -0.77]])
    w = torch.tensor([[0.3, 0.41, -0.2], [1.0, -0.33, 0.55]])
    yield "one outlier feature of three", llm_int8_matmul(x, w), {"x": x, "w": w, "threshold": 6.0}
    w = normal(4, 9, rng=rng)
    x = normal(5, 9, rng=rng).clamp(-3, 3) * torch.tensor([0.1, 1, 1, 3, 0.5])[:, None].clamp(max=1.5)
    x[2, 1], x[3, 6], x[:, 4] = -20.0, 6.0, torch.tensor([9.0, -7, 8, 6.5, -30])
    yield "a negative one, one at the threshold, one in all tokens", llm_int8_matmul(x, w), {"x": x, "w": w}
    yield "the threshold 15", llm_int8_matmul(x, w, 15.0), {"x": x, "w": w, "threshold": 15.0}
    yield "the threshold 0", llm_int8_matmul(x, w, 0.0), {"x": x, "w": w, "threshold": 0.0}
    x = normal(2, 3, 9, rng=rng)
    yield "two rows of three tokens without an outlier", llm_int8_matmul(x, w), {"x": x, "w": w}
    yield "a single vector", llm_int8_matmul(x[0, 0] * 5, w), {"x": x[0, 0] * 5, "w": w}
    yield "float16 in, float16 out", str(llm_int8_matmul(x.half(), w.half()).dtype), {"x": x.half()}
    yield "one token, the threshold 0", llm_int8_matmul(x[0, :1] * 5, w, 0.0), {"x": x[0, :1] * 5, "w": w}
    yield "float64 in, float64 out", str(llm_int8_matmul(x.double(), w.double()).dtype), {"x": x.double()}
    refused = [
        raised(llm_int8_matmul, x / 0, w),
        raised(llm_int8_matmul, x, w[:, 1:]),
        raised(llm_int8_matmul, x, w, -1.0),
    ]
    yield "inf, widths that differ and a threshold below 0 are refused", refused, {"w": w}


def calibration(rng: torch.Generator, d_in: int = 12, dead: int | None = 3) -> torch.Tensor:
    """Correlated inputs of different size: few directions and a little noise."""
    x = normal(40, 5, rng=rng) @ normal(5, d_in, rng=rng) + 0.4 * normal(40, d_in, rng=rng)
    x = x * torch.linspace(0.5, 2.0, d_in)[torch.randperm(d_in, generator=rng)]
    if dead is not None:
        x[:, dead] = 0
    return x


CODE = "codes[:, j] = (torch.round(w[:, j] / s) + z).clamp(0, 2**bits - 1)"


@observes(
    "gptq_quantize",
    difficulty=5,
    minutes=60,
    hints=(
        "The grid is fixed first: scale and zero of `zero_point_quantize(weight, bits, size)`. Then copies of weight and "
        "Hessian; dead columns get H_jj = 1 and the weights 0; damping is added to the diagonal; U comes from three calls: "
        "torch.linalg.cholesky, torch.cholesky_inverse, torch.linalg.cholesky(..., upper=True).",
        "For each column j: round w_j with its group's scale and zero and clamp; e = (w_j - what the codes stand for) / U_jj; "
        "subtract the outer product of e and U[j, j + 1:] from the later columns. Rows do not touch each other, so all rows "
        "go at once.",
        "act_order: order = argsort of diag H, falling; permute w's columns and both axes of H before the Cholesky; the group "
        "of column j is `order[j] // size`; at the end codes[:, argsort(order)]. cholesky_ex tells by its second result "
        "whether H was positive definite: raise ValueError if not.",
    ),
    mistakes={
        "No error is passed on: this is rounding to the nearest, and the Hessian is not used.": [
            ("w[:, j + 1 : end] -= error[:, None] * u[j, j + 1 : end]", "pass"),
            ("w[:, end:] -= errors @ u[start:end, end:]", "pass"),
        ],
        "The error is added to the later columns, not subtracted: they make it worse where they should make up for it.": [
            ("w[:, j + 1 : end] -= error", "w[:, j + 1 : end] += error"),
            ("w[:, end:] -= errors", "w[:, end:] += errors"),
        ],
        "The columns behind the first 128 get no error from those: a block of columns passes its errors on beyond its end too.": (
            "w[:, end:] -= errors @ u[start:end, end:]",
            "pass",
        ),
        "The error is not divided by U_jj, so what the later columns make up for has the wrong size.": (
            "error = (w[:, j] - (codes[:, j] - z) * s) / u[j, j]",
            "error = w[:, j] - (codes[:, j] - z) * s",
        ),
        "U is the Cholesky factor of H: errors are passed on by that of its inverse.": (
            "torch.linalg.cholesky(torch.cholesky_inverse(factor), upper=True)",
            "factor.T.contiguous()",
        ),
        "The rows of H⁻¹ are used, not those of its Cholesky factor: they still count on columns that are done already.": (
            "torch.linalg.cholesky(torch.cholesky_inverse(factor), upper=True)",
            "torch.cholesky_inverse(factor)",
        ),
        "There is no damping: small eigenvalues make the corrections large.": (
            "h.diagonal().add_(damping * h.diagonal().mean())",
            "h.diagonal().add_(1e-7 * h.diagonal().mean())",
        ),
        "The damping is an absolute number: it should be a share of the mean of H's diagonal.": (
            "h.diagonal().add_(damping * h.diagonal().mean())",
            "h.diagonal().add_(damping)",
        ),
        "act_order is not used: the columns always go from left to right.": (
            "if act_order else torch.arange(d_in, device=w.device)",
            "if False else torch.arange(d_in, device=w.device)",
        ),
        "act_order goes from the smallest H_jj up: the columns that matter most come last, when none is left to make up for them.": (
            "descending=True",
            "descending=False",
        ),
        "With act_order the codes come back in the order in which they were made.": (
            "codes[:, torch.argsort(order)]",
            "codes",
        ),
        "With act_order the permutation is applied again, not undone.": (
            "codes[:, torch.argsort(order)]",
            "codes[:, order]",
        ),
        "With act_order a column takes the scale of the group at its new place: its group is the one of its old place.": (
            "group = order[j] // size",
            "group = j // size",
        ),
        "All columns use the scale of the first group.": ("group = order[j] // size", "group = 0"),
        "A dead column keeps its weights: no input reaches them, so they are set to 0.": ("w[:, dead] = 0", "pass"),
        "The codes are not clamped: a corrected weight may lie beyond the grid, and its code wraps round.": (
            CODE,
            "codes[:, j] = (torch.round(w[:, j] / s) + z) % 2**bits",
        ),
        "The Hessian is changed in place: the caller's own has a 1 for each dead column afterwards.": (
            "hessian.detach().float().clone()",
            "hessian.detach().float()",
        ),
        "A Hessian that is not positive definite passes unnoticed.": (
            "    if failed:\n",
            "    if failed and d_in > 2:\n",
        ),
    },
)
def check_gptq_quantize(gptq_quantize, rng):
    w = torch.tensor([[0.9, 0.45, -1.0]])
    h = torch.tensor([[1.0, 0.8, 0.1], [0.8, 1.0, 0.2], [0.1, 0.2, 1.0]])
    yield "one row of three columns, two bits", gptq_quantize(w, h, 2), {"weight": w, "hessian": h, "bits": 2}
    w = normal(6, 12, rng=rng)
    x = calibration(rng, dead=None)
    h = x.T @ x / len(x)
    yield "four bits, one group", gptq_quantize(w, h, 4), {"weight": w, "hessian": h, "bits": 4}
    about = {"weight": w, "hessian": h, "bits": 3, "group_size": 4}
    yield "three bits, groups of four", gptq_quantize(w, h, 3, 4), about
    yield "with act_order", gptq_quantize(w, h, 3, 4, act_order=True), about | {"act_order": True}
    yield "a hundred times the Hessian", gptq_quantize(w, 100 * h, 3, 4), about | {"hessian": 100 * h}
    yield "much damping", gptq_quantize(w, h, 4, 6, damping=1.0), about | {"damping": 1.0}
    x = calibration(rng)
    h = x.T @ x / len(x)
    about = {"weight": w, "hessian": h, "bits": 4, "group_size": 6, "dead column": 3}
    yield "a dead column", gptq_quantize(w, h, 4, 6), about
    yield "a dead column with act_order", gptq_quantize(w, h, 2, 6, act_order=True), about | {"bits": 2}
    w = normal(16, 12, rng=rng)
    about = {"weight": w, "hessian": h / 400, "bits": 4, "group_size": 6, "damping": 0.1, "dead column": 3}
    yield "a dead column beside small inputs", gptq_quantize(w, h / 400, 4, 6, damping=0.1), about
    w, x = normal(6, 132, rng=rng), calibration(rng, d_in=132, dead=None)
    h = x.T @ x / len(x)
    codes = gptq_quantize(w, h, 4, 66, damping=0.1)[0]
    about = {"weight": w, "hessian": h, "bits": 4, "group_size": 66, "damping": 0.1}
    yield "132 columns: the codes of the first 24 and of the last 6", [codes[:, :24], codes[:, 126:]], about
    singular = torch.ones(2, 2)
    singular[0, 0] = 0.5
    refused = {
        "not positive definite": raised(gptq_quantize, w[:, :2], singular, damping=0.0),
        "all zeros": raised(gptq_quantize, w[:, :2], torch.zeros(2, 2)),
        "another width": raised(gptq_quantize, w[:, :3], singular),
        "nan": raised(gptq_quantize, w[:, :2], singular * torch.nan),
    }
    yield (
        "a Hessian that is not positive definite, all zeros, of another width or nan is refused",
        refused,
        {"not positive definite": singular, "damping": 0.0},
    )


@observes(
    "awq_scale_search",
    difficulty=4,
    minutes=40,
    rtol=1e-3,
    hints=(
        "One number a feature: mean |x| over the tokens. s is it to the power of α, so α = 0 changes nothing and α = 1 makes "
        "all features alike in size.",
        "For each α: multiply the columns of w by s, quantize and dequantize with `zero_point_quantize` and "
        "`zero_point_dequantize`, divide by s again, and compare x times the result with x times w.",
        "Keep all scales and errors in lists; `int(torch.stack(errors).argmin())` is the winner. α runs from 0 to 1 in "
        "n_steps + 1 values: i / n_steps.",
    ),
    mistakes={
        "The weights are divided by s before quantization and multiplied after: columns with large inputs get coarser, not finer.": (
            "zero_point_dequantize(*zero_point_quantize(w * s, bits, size)) / s",
            "zero_point_dequantize(*zero_point_quantize(w / s, bits, size)) * s",
        ),
        "After quantization the weights are not divided by s again: each column stays s times too large for x.": (
            "zero_point_dequantize(*zero_point_quantize(w * s, bits, size)) / s",
            "zero_point_dequantize(*zero_point_quantize(w * s, bits, size))",
        ),
        "The error of the weights is measured: what counts is the error of the outputs, which x weighs.": (
            "(x @ (rounded - w).T).square().mean()",
            "(rounded - w).square().mean()",
        ),
        "The scales come from the weights' magnitudes: AWQ looks at the activations'.": (
            "magnitude = x.abs().mean(dim=0)",
            "magnitude = w.abs().mean(dim=0)",
        ),
        "The mean is taken with its sign, so that a feature that swings around 0 counts as small.": (
            "x.abs().mean(dim=0)",
            "x.mean(dim=0).abs()",
        ),
        "The largest magnitude of each feature is used: AWQ takes the mean.": (
            "x.abs().mean(dim=0)",
            "x.abs().amax(dim=0)",
        ),
        "s is not divided by √(max · min), so it does not lie around 1 as it should.": (
            "s = s / torch.sqrt(s.max() * s.min())",
            "s = s * 1",
        ),
        "The grid ends before α = 1.": ("range(n_steps + 1)", "range(n_steps)"),
        "α = 0, which is plain rounding, is not tried: the search could make things worse.": (
            "s = magnitude ** (i / n_steps)",
            "s = magnitude ** (max(i, 1) / n_steps)",
        ),
        "The largest error wins.": ("int(errors.argmin())", "int(errors.argmax())"),
        "The scales of the last α come back, not those of the best.": ("return scales[best]", "return scales[-1]"),
        "α comes back as its place in the grid, not as a number from 0 to 1.": (
            "best / n_steps, errors",
            "float(best), errors",
        ),
        "The groups are not used: each row has one scale.": (
            "zero_point_quantize(w * s, bits, size)",
            "zero_point_quantize(w * s, bits)",
        ),
        "The errors are summed up over outputs and tokens, not averaged.": (".square().mean())", ".square().sum())"),
        "A feature that is always 0 gets s = 0, and dividing by it gives nan: its mean was to count as 1e-4.": (
            ".mean(dim=0).clamp(min=1e-4)",
            ".mean(dim=0)",
        ),
    },
)
def check_awq_scale_search(awq_scale_search, rng):
    w = normal(6, 8, rng=rng) * torch.linspace(1.5, 0.5, 8)
    x = normal(20, 8, rng=rng) * torch.tensor([0.2, 1.0, 12.0, 0.5, 1.5, 0.3, 6.0, 1.0]) + 0.1
    yield "two features with large inputs", awq_scale_search(w, x, 4), {"weight": w, "x": x, "bits": 4}
    about = {"weight": w, "x": x, "bits": 3, "group_size": 4, "n_steps": 5}
    yield "three bits, groups of four, five steps", awq_scale_search(w, x, 3, 4, 5), about
    even = x.sign() * torch.linspace(0.9, 1.1, 8)
    yield "inputs of nearly one size", awq_scale_search(w, even, 2, 4, 4)[2], about | {"x": even, "n_steps": 4}
    dead = x.clone()
    dead[:, 5] = 0
    yield "a dead feature", awq_scale_search(w, dead, 4, 4, 4), about | {"x": dead, "bits": 4}
    refused = [
        raised(awq_scale_search, w, x[:, 1:]),
        raised(awq_scale_search, w, spoiled(x, torch.nan)),
        raised(awq_scale_search, w, x, 4, 3),
        raised(awq_scale_search, w, x, n_steps=0),
    ]
    yield "a width that differs, nan, groups that do not fit and no steps are refused", refused, {"weight": w}
