"""Quantization after training: int8 by rows, zero points and groups, LLM.int8()'s outliers, GPTQ and AWQ."""

import torch
from jaxtyping import Float, Int, Int8, UInt8
from torch import Tensor


def check_weight(w: Tensor, name: str = "the weight") -> None:
    """Raise TypeError unless `w` is a matrix of floats, ValueError where it is empty or holds nan or inf."""
    if not torch.is_tensor(w) or not w.is_floating_point():
        kind = str(w.dtype) if torch.is_tensor(w) else type(w).__name__
        raise TypeError(f"{name} must be a tensor of floating-point numbers, got {kind}")
    if w.dim() != 2 or w.numel() == 0:
        raise ValueError(f"{name} must be a matrix (out, in) with entries, got shape {tuple(w.shape)}")
    bad = int((~torch.isfinite(w)).sum())
    if bad:
        raise ValueError(f"{bad} of {w.numel()} entries of {name} are nan or inf, which would spoil whole rows")


def check_grid(w: Tensor, bits: int, group_size: int | None) -> int:
    """The size of a group (None: the whole row); ValueError for bits not from 2 to 8 or groups that do not fit."""
    check_weight(w)
    if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 8:
        raise ValueError(f"bits must be a whole number from 2 to 8, got {bits!r}")
    size = w.shape[1] if group_size is None else group_size
    if isinstance(size, bool) or not isinstance(size, int) or size < 1 or w.shape[1] % size:
        raise ValueError(f"the group size must divide the {w.shape[1]} columns, got {group_size!r}")
    return size


def int8_quantize(w: Float[Tensor, "out in"]) -> tuple[Int8[Tensor, "out in"], Float[Tensor, "out 1"]]:
    """codes = round(w · 127 / absmax), int8 from -127 to 127; scale = absmax / 127, float32; absmax by row.

    Computed in float32 whatever w's dtype. A row of zeros has the scale 0 and codes 0, so it comes back exactly.
    Dettmers et al. 2022, §2.1 (there X_i8 with one scale for all; §3.1 gives each row its own).
    Raises TypeError for anything but floats, ValueError for nan, inf or a shape that is not (out, in).
    """
    check_weight(w)
    # BEGIN SOLUTION
    absmax = w.detach().float().abs().amax(dim=1, keepdim=True)
    codes = torch.round(w.detach().float() * (127 / absmax.clamp(min=1e-36)))
    return codes.to(torch.int8), absmax / 127
    # END SOLUTION


def int8_dequantize(codes: Int8[Tensor, "out in"], scale: Float[Tensor, "out 1"]) -> Float[Tensor, "out in"]:
    """codes · scale, row by row, float32: within half a scale of the weights that were quantized.

    Raises ValueError unless codes are int8 and there is one scale a row.
    """
    if codes.dtype != torch.int8 or codes.dim() != 2 or scale.shape != (codes.shape[0], 1):
        raise ValueError(
            f"expected int8 codes (out, in) and a scale (out, 1), got {codes.dtype} {tuple(codes.shape)} and "
            f"{tuple(scale.shape)}"
        )
    # BEGIN SOLUTION
    return codes.float() * scale.float()
    # END SOLUTION


def zero_point_quantize(
    w: Float[Tensor, "out in"], bits: int = 8, group_size: int | None = None
) -> tuple[UInt8[Tensor, "out in"], Float[Tensor, "out groups"], Float[Tensor, "out groups"]]:
    """(codes, scale, zero): codes = clamp(round(w / scale) + zero, 0, 2^bits - 1) by groups of `group_size` in a row.

    low = min(group's smallest, 0), high = max(largest, 0); scale = (high - low) / (2^bits - 1), zero = round(-low /
    scale), a whole number: the code that stands for exactly 0. A group of zeros: scale 1, zero 0. scale, zero: float32.
    group_size None: one group a row. Jacob et al. 2018, eq. 1; Frantar et al. 2022, §4 (groups).
    Raises ValueError for nan, inf, bits not from 2 to 8, groups that do not divide the row.
    """
    size = check_grid(w, bits, group_size)
    # BEGIN SOLUTION
    groups = w.detach().float().unflatten(1, (-1, size))
    low = groups.amin(dim=2).clamp(max=0)
    high = groups.amax(dim=2).clamp(min=0)
    scale = (high - low) / (2**bits - 1)
    scale = torch.where(scale > 1e-36, scale, 1.0)
    zero = torch.round(-low / scale)
    codes = torch.round(groups / scale[..., None]) + zero[..., None]
    return codes.clamp(0, 2**bits - 1).flatten(1).to(torch.uint8), scale, zero
    # END SOLUTION


def zero_point_dequantize(
    codes: UInt8[Tensor, "out in"], scale: Float[Tensor, "out groups"], zero: Float[Tensor, "out groups"]
) -> Float[Tensor, "out in"]:
    """(codes - zero) · scale, each group with its own; what `zero_point_quantize` and `gptq_quantize` give goes in."""
    groups = codes.float().unflatten(1, (scale.shape[1], -1))
    return ((groups - zero[..., None]) * scale[..., None]).flatten(1)


def stochastic_round(x: Float[Tensor, "..."], generator: torch.Generator | None = None) -> Float[Tensor, "..."]:
    """Each x up to the next whole number with probability x - floor(x), else down: right on average, E[result] = x.

    Whole numbers stay as they are. Every entry draws for itself. Gupta et al. 2015, §3. Example: -0.25 is -1 in a
    quarter of the draws and 0 in the others. The input's dtype.
    """
    # BEGIN SOLUTION
    floor = torch.floor(x)
    chance = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return floor + (chance < x - floor).to(x.dtype)
    # END SOLUTION


def int8_product(a: Int8[Tensor, "rows in"], b: Int8[Tensor, "out in"]) -> Int[Tensor, "rows out"]:
    """a bᵀ of two int8 matrices, added up in 32 bits, where 127 · 127 · in has room for 130,000 columns."""
    if a.device.type == "cpu":
        return a.int() @ b.int().T
    return torch.round(a.double() @ b.double().T).int()  # a GPU multiplies no int32; float64 is as exact


def llm_int8_matmul(
    x: Float[Tensor, "... in"], w: Float[Tensor, "out in"], threshold: float = 6.0
) -> Float[Tensor, "... out"]:
    """x wᵀ in two parts (Dettmers et al. 2022, eq. 8): outlier features in x's dtype, all others in int8.

    A feature (column of x) is an outlier if |x| >= threshold for any token. The others: x by `int8_quantize`, a scale a
    token, over these features alone; w by its whole rows, as it is stored before any x is known; `int8_product` of the
    codes, times both scales. Outlier columns of w are used unquantized. Result in x's dtype; threshold 0: int8 only.
    Raises ValueError for nan or inf, widths that differ, a threshold below 0.
    """
    check_weight(w)
    if x.dim() < 1 or x.shape[-1] != w.shape[1]:
        raise ValueError(f"x has the shape {tuple(x.shape)}, and w {tuple(w.shape)}: their last sizes must be equal")
    check_weight(x.reshape(-1, x.shape[-1]), "x")
    if not threshold >= 0:
        raise ValueError(f"the threshold must be 0 (int8 only) or above, got {threshold!r}")
    # BEGIN SOLUTION
    tokens = x.reshape(-1, x.shape[-1])
    is_outlier = (tokens.abs() >= threshold).any(dim=0) if threshold else torch.zeros_like(tokens[0], dtype=torch.bool)
    x_codes, x_scale = int8_quantize(tokens.masked_fill(is_outlier, 0))  # zeros add nothing to the product
    w_codes, w_scale = int8_quantize(w)
    regular = int8_product(x_codes, w_codes).float() * x_scale * w_scale.T
    outliers = tokens[:, is_outlier] @ w[:, is_outlier].to(x.dtype).T
    return (regular.to(x.dtype) + outliers).reshape(*x.shape[:-1], -1)
    # END SOLUTION


def check_hessian(weight: Tensor, hessian: Tensor, damping: float) -> None:
    """Raise ValueError unless the Hessian is (in, in), finite, symmetric and not all 0, and the damping 0 or above."""
    d_in = weight.shape[1]
    if hessian.shape != (d_in, d_in):
        raise ValueError(f"a weight with {d_in} columns has a Hessian ({d_in}, {d_in}), got {tuple(hessian.shape)}")
    check_weight(hessian, "the Hessian")
    if not torch.allclose(hessian, hessian.T, rtol=1e-3, atol=1e-5 * hessian.abs().max().item()):
        raise ValueError("the Hessian must be symmetric: it is the mean of x xᵀ over calibration inputs x")
    if not hessian.diagonal().any():
        raise ValueError("the Hessian is all zeros: no calibration input has reached this layer")
    if not damping >= 0:
        raise ValueError(f"the damping must be 0 or above, got {damping!r}")


def gptq_quantize(
    weight: Float[Tensor, "out in"],
    hessian: Float[Tensor, "in in"],
    bits: int = 4,
    group_size: int | None = None,
    damping: float = 0.01,
    act_order: bool = False,
) -> tuple[UInt8[Tensor, "out in"], Float[Tensor, "out groups"], Float[Tensor, "out groups"]]:
    """(codes, scale, zero) on `zero_point_quantize`'s grid of the untouched weight, by columns (Frantar 2022, §3).

    U = upper Cholesky factor of (H + damping · mean(diag H) · I)⁻¹; after column j, with e = (w_j - ŵ_j) / U_jj, each
    later column k gets w_k -= e U_jk. act_order: columns in falling order of diag H; codes return in the old order.
    Dead column (H_jj = 0, an input always 0): first H_jj = 1 and its weights 0, so its codes are `zero`.
    Raises ValueError for nan, inf, bits, group_size or shapes that do not fit, a Hessian not positive definite.
    """
    size = check_grid(weight, bits, group_size)
    check_hessian(weight, hessian, damping)
    # BEGIN SOLUTION
    w, h = weight.detach().float().clone(), hessian.detach().float().clone()
    d_in = w.shape[1]
    _, scale, zero = zero_point_quantize(w, bits, size)
    dead = h.diagonal() == 0
    h.diagonal()[dead] = 1
    w[:, dead] = 0
    order = torch.argsort(h.diagonal(), descending=True) if act_order else torch.arange(d_in, device=w.device)
    w, h = w[:, order], h[order][:, order]
    h.diagonal().add_(damping * h.diagonal().mean())
    factor, failed = torch.linalg.cholesky_ex(h)
    if failed:
        raise ValueError(f"the Hessian with damping {damping} is not positive definite; more damping makes it so")
    u = torch.linalg.cholesky(torch.cholesky_inverse(factor), upper=True)
    codes = torch.empty_like(w)
    for start in range(0, d_in, 128):  # what lies beyond a block is updated once a block, by one product: §3, step 2
        end = min(start + 128, d_in)
        errors = torch.empty_like(w[:, start:end])
        for j in range(start, end):
            group = order[j] // size
            s, z = scale[:, group], zero[:, group]
            codes[:, j] = (torch.round(w[:, j] / s) + z).clamp(0, 2**bits - 1)
            error = (w[:, j] - (codes[:, j] - z) * s) / u[j, j]
            w[:, j + 1 : end] -= error[:, None] * u[j, j + 1 : end]
            errors[:, j - start] = error
        w[:, end:] -= errors @ u[start:end, end:]
    return codes[:, torch.argsort(order)].to(torch.uint8), scale, zero
    # END SOLUTION


def awq_scale_search(
    weight: Float[Tensor, "out in"],
    x: Float[Tensor, "tokens in"],
    bits: int = 4,
    group_size: int | None = None,
    n_steps: int = 20,
) -> tuple[Float[Tensor, "in"], float, Float[Tensor, "alphas"]]:
    """(s, α, errors): the s = mean|x|^α for which (w · s quantized) / s gives x wᵀ best, α = 0, 1/n_steps, …, 1.

    mean|x| by feature, at least 1e-4; s is divided by √(max s · min s); the grid is `zero_point_quantize`'s of w · s.
    errors[i] is the mean of (x ŵᵀ - x wᵀ)² at alpha i / n_steps; the smallest wins, of equal ones the first.
    Lin et al. 2023, eq. 4 and 5. ValueError for nan, inf, bits, group_size or widths that do not fit, n_steps < 1.
    """
    size = check_grid(weight, bits, group_size)
    check_weight(x, "x")
    if x.shape[1] != weight.shape[1]:
        raise ValueError(f"x has {x.shape[1]} features, and the weight {weight.shape[1]} columns")
    if not isinstance(n_steps, int) or n_steps < 1:
        raise ValueError(f"n_steps must be a whole number of at least 1, got {n_steps!r}")
    # BEGIN SOLUTION
    w, x = weight.detach().float(), x.detach().float()
    magnitude = x.abs().mean(dim=0).clamp(min=1e-4)
    scales, errors = [], []
    for i in range(n_steps + 1):
        s = magnitude ** (i / n_steps)
        s = s / torch.sqrt(s.max() * s.min())
        rounded = zero_point_dequantize(*zero_point_quantize(w * s, bits, size)) / s
        scales.append(s)
        errors.append((x @ (rounded - w).T).square().mean())
    errors = torch.stack(errors)
    best = int(errors.argmin())
    return scales[best], best / n_steps, errors
    # END SOLUTION
