"""Right answers to lesson 04 of week 5, written otherwise: they must pass."""

import torch
import torch.nn.functional as F

from week5_inference.solutions.quantization import (
    check_grid,
    check_hessian,
    check_weight,
    int8_dequantize,
    int8_product,
    int8_quantize,
    zero_point_dequantize,
    zero_point_quantize,
)


def int8_quantize__row_by_row(w):
    check_weight(w)
    codes, scales = [], []
    for row in w.double():
        largest = max(row.max().item(), -row.min().item())
        codes.append((row / (largest / 127)).round() if largest else torch.zeros_like(row))
        scales.append([largest / 127])
    return torch.stack(codes).to(torch.int8), torch.tensor(scales)


def int8_quantize__norm(w):
    check_weight(w)
    scale = torch.linalg.vector_norm(w.float(), float("inf"), dim=-1, keepdim=True) / 127
    return F.hardtanh(w.float() / scale.masked_fill(scale == 0, 1), -127.0, 127.0).round().char(), scale


def int8_dequantize__einsum(codes, scale):
    return torch.einsum("oi,o->oi", codes.to(scale.dtype), scale.squeeze(1))


def int8_dequantize__diagonal(codes, scale):
    return torch.diag(scale.flatten()) @ codes.float()


def zero_point_quantize__one_group_after_another(w, bits=8, group_size=None):
    size = check_grid(w, bits, group_size)
    top, codes, scales, zeros = 2**bits - 1, [], [], []
    for part in w.float().split(size, dim=1):
        ends = F.pad(part, (0, 1))  # with a 0 among the entries
        low, high = ends.min(dim=1, keepdim=True).values, ends.max(dim=1, keepdim=True).values
        step = (high - low) / top
        step[step == 0] = 1
        zero = (low / step).round().neg() + 0.0
        codes.append(((part / step).round() + zero).clip(0, top))
        scales.append(step)
        zeros.append(zero)
    return torch.cat(codes, dim=1).byte(), torch.cat(scales, dim=1), torch.cat(zeros, dim=1)


def zero_point_quantize__torch_fake(w, bits=8, group_size=None):
    """The grid by hand; the codes through torch's own fake quantization."""
    size = check_grid(w, bits, group_size)
    flat = w.float().reshape(-1, size)
    low, high = flat.min(dim=1).values.clamp_max(0), flat.max(dim=1).values.clamp_min(0)
    scale = (high - low).div(2**bits - 1)
    scale = scale.masked_fill(scale == 0, 1.0)
    zero = torch.round(-low / scale)
    back = torch.fake_quantize_per_channel_affine(flat, scale, zero.int(), 0, 0, 2**bits - 1)
    codes = torch.round(back / scale[:, None] + zero[:, None])
    return codes.view(w.shape).to(torch.uint8), scale.view(len(w), -1), zero.view(len(w), -1)


def stochastic_round__noise(x, generator=None):
    return torch.floor(x + torch.rand(x.shape, generator=generator).to(x))


def stochastic_round__bernoulli(x, generator=None):
    whole = x.floor()
    return torch.where(torch.bernoulli(x - whole, generator=generator) == 1, whole + 1, whole)


def llm_int8_matmul__two_lists(x, w, threshold=6.0):
    check_weight(w)
    rows = x.reshape(-1, x.shape[-1])
    check_weight(rows, "x")
    if x.shape[-1] != w.shape[1] or threshold < 0:
        raise ValueError("shapes or threshold")
    peaks = rows.abs().amax(dim=0).tolist()
    large = [i for i, peak in enumerate(peaks) if threshold > 0 and peak >= threshold]
    small = [i for i in range(w.shape[1]) if i not in large]
    w_codes, w_scale = int8_quantize(w)
    total = rows[:, large] @ w[:, large].T
    if small:
        x_codes, x_scale = int8_quantize(rows[:, small])
        total = total + (int8_product(x_codes, w_codes[:, small]) * (x_scale @ w_scale.T)).to(total.dtype)
    return total.view(*x.shape[:-1], len(w)).to(x.dtype)


def llm_int8_matmul__dequantized(x, w, threshold=6.0):
    """The int8 part as a product of the dequantized matrices: equal up to float rounding."""
    check_weight(w)
    rows = x.reshape(-1, x.shape[-1])
    check_weight(rows, "x")
    if x.shape[-1] != w.shape[1] or not threshold >= 0:
        raise ValueError("shapes or threshold")
    large = (rows.abs().max(dim=0).values >= threshold) & (threshold > 0)
    outer = F.linear(rows * large, w.to(x.dtype))
    inner = int8_dequantize(*int8_quantize(rows * ~large)) @ int8_dequantize(*int8_quantize(w)).T
    return (outer + inner.to(x.dtype)).reshape(x.shape[:-1] + w.shape[:1])


def prepared(weight, hessian, bits, group_size, damping):
    size = check_grid(weight, bits, group_size)
    check_hessian(weight, hessian, damping)
    codes, scale, zero = zero_point_quantize(weight, bits, size)
    w, h = weight.double().clone(), hessian.double().clone()
    for j in range(len(h)):
        if h[j, j] == 0:
            h[j, j], w[:, j] = 1, 0
    return size, scale, zero, w, h


def gptq_quantize__shrinking_inverse(weight, hessian, bits=4, group_size=None, damping=0.01, act_order=False):
    """As OBQ has it: after each column, that column and row are eliminated from H⁻¹ (Frantar et al. 2022, eq. 3)."""
    size, scale, zero, w, h = prepared(weight, hessian, bits, group_size, damping)
    order = h.diagonal().sort(descending=True).indices.tolist() if act_order else list(range(len(h)))
    h = h + damping * h.diagonal().mean() * torch.eye(len(h), dtype=h.dtype)
    if torch.linalg.eigvalsh(h)[0] <= 1e-9:
        raise ValueError("not positive definite")
    inverse = torch.linalg.inv(h)
    codes = torch.zeros(weight.shape, dtype=torch.uint8)
    for j in order:
        s, z = scale[:, j // size].double(), zero[:, j // size].double()
        code = ((w[:, j] / s).round() + z).clamp(0, 2**bits - 1)
        codes[:, j] = code.byte()
        pivot = inverse[j, j].clone()
        w -= torch.outer((w[:, j] - (code - z) * s) / pivot, inverse[j])
        inverse = inverse - torch.outer(inverse[:, j], inverse[j]) / pivot
    return codes, scale, zero


def gptq_quantize__solve(weight, hessian, bits=4, group_size=None, damping=0.01, act_order=False):
    """Each step as a least-squares problem: what the remaining columns should be, given the error of this one."""
    size, scale, zero, w, h = prepared(weight, hessian, bits, group_size, damping)
    order = torch.argsort(-h.diagonal()) if act_order else torch.arange(len(h))
    w, h = w[:, order], h[order][:, order]
    h = h + torch.eye(len(h), dtype=h.dtype) * damping * h.diagonal().mean()
    # H = L D Lᵀ from the last column up: row j of L holds how much of e_j each later column takes over
    factor, failed = torch.linalg.cholesky_ex(h.flip(0, 1))
    if failed.item():
        raise ValueError("not positive definite")
    upper = factor.flip(0, 1)
    carried = torch.linalg.inv(upper / upper.diagonal())
    codes = torch.zeros_like(w)
    for j, old in enumerate(order.tolist()):
        s, z = scale[:, old // size], zero[:, old // size]
        codes[:, j] = ((w[:, j] / s).round() + z).clamp(0, 2**bits - 1)
        error = w[:, j] - (codes[:, j] - z) * s
        w[:, j + 1 :] -= torch.outer(error, carried[j, j + 1 :])
    back = torch.empty_like(codes)
    back[:, order] = codes
    return back.to(torch.uint8), scale, zero


def awq_scale_search__keeps_the_best(weight, x, bits=4, group_size=None, n_steps=20):
    size = check_grid(weight, bits, group_size)
    check_weight(x, "x")
    if x.shape[-1] != weight.shape[-1] or n_steps < 1:
        raise ValueError("x or n_steps")
    target = F.linear(x, weight)
    size_of = torch.maximum(x.abs().sum(dim=0) / len(x), torch.tensor(1e-4)).log()
    best, errors = (float("inf"), None, None), torch.zeros(n_steps + 1)
    for i, alpha in enumerate(torch.linspace(0, 1, n_steps + 1).tolist()):
        log_s = alpha * size_of
        s = (log_s - (log_s.max() + log_s.min()) / 2).exp()
        layer = zero_point_dequantize(*zero_point_quantize(weight * s[None], bits, size))
        errors[i] = F.mse_loss(F.linear(x / s, layer), target)
        if errors[i].item() < best[0]:
            best = (errors[i].item(), s, alpha)
    return best[1], best[2], errors


def awq_scale_search__hessian(weight, x, bits=4, group_size=None, n_steps=20):
    """The output error from x's second moments, so that the tokens are read once."""
    size = check_grid(weight, bits, group_size)
    check_weight(x, "x")
    if weight.shape[1] != x.shape[1] or n_steps <= 0:
        raise ValueError("x or n_steps")
    moments = x.T.double() @ x.double() / len(x)
    mean = x.abs().mean(0).clamp_min(1e-4)
    tried = [mean**0 if i == 0 else mean ** (i / n_steps) for i in range(n_steps + 1)]
    tried = [s / (s.max() * s.min()) ** 0.5 for s in tried]
    wrong = [zero_point_dequantize(*zero_point_quantize(weight * s, bits, size)) / s - weight for s in tried]
    errors = torch.stack([((d.double() @ moments) * d.double()).sum() / len(weight) for d in wrong]).float()
    i = int(torch.argmin(errors))
    return tried[i], i / n_steps, errors
