"""Right answers to the exercises of week 4, lesson 04, written in other ways."""

import math
from statistics import NormalDist

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from week4_finetuning.solutions.qlora import (
    double_dequantize,
    double_quantize,
    dynamic_codebook,
    nf4_codebook,
    nf4_dequantize,
    nf4_quantize,
    pack_codes,
    unpack_codes,
)


def nf4_codebook__statistics():
    quantile = NormalDist().inv_cdf
    tail = (1 / 30 + 1 / 32) / 2  # what is left outside on either side
    half = 0.5 - tail
    upper = [quantile(0.5 + half * i / 8) for i in range(1, 9)]
    lower = [quantile(0.5 - half * i / 7) for i in range(7, 0, -1)]
    return torch.tensor([v / upper[-1] for v in [*lower, 0.0, *upper]])


def nf4_codebook__sorted_set():
    p = 1 - 0.5 * (1 / 30 + 1 / 32)
    normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1.0)
    one = normal.icdf(torch.linspace(p, 0.5, 9, dtype=torch.float64)[:-1])
    other = normal.icdf(torch.linspace(1 - p, 0.5, 8, dtype=torch.float64)[:-1])
    values = torch.cat([one / one[0], other / other[0].abs(), torch.zeros(1)])
    return values.sort().values.float()


def nf4_codebook__error_function():
    p = torch.cat(
        [
            torch.linspace(31 / 960, 0.5, 8, dtype=torch.float64),
            torch.linspace(0.5, 1 - 31 / 960, 9, dtype=torch.float64)[1:],
        ]
    )
    values = torch.erfinv(2 * p - 1)
    return values.div(values[-1]).to(torch.float32)


def refuse(w):
    if not torch.isfinite(w).all():
        raise ValueError("nan or inf")


def nf4_quantize__nearest_of_sixteen(w, block=64):
    refuse(w)
    codes, absmax = [], []
    for part in w.reshape(-1).float().split(block):
        largest = max(abs(part.min()), abs(part.max()))
        part = part / largest if largest > 0 else part * 0
        codes.append((part[:, None] - nf4_codebook()).abs().argmin(dim=1))
        absmax.append(largest)
    return torch.cat(codes).to(torch.uint8), torch.stack(absmax)


def nf4_quantize__count_the_borders(w, block=64):
    refuse(w)
    flat, n = w.detach().to(torch.float32).ravel(), w.numel()
    absmax = torch.zeros(math.ceil(n / block))
    absmax.scatter_reduce_(0, torch.arange(n) // block, flat.abs(), "amax")
    scaled = torch.nan_to_num(flat / absmax.repeat_interleave(block)[:n], nan=0.0)
    middles = nf4_codebook().unfold(0, 2, 1).mean(dim=1)
    codes = torch.zeros(n, dtype=torch.uint8)
    for middle in middles:
        codes += scaled > middle
    return codes, absmax


def nf4_dequantize__repeat(codes, absmax, shape, block=64):
    numel = math.prod(shape)
    if codes.numel() != numel or absmax.numel() != math.ceil(numel / block):
        raise ValueError("they do not belong together")
    return (nf4_codebook()[codes.long()] * absmax.repeat_interleave(block)[:numel]).reshape(shape)


def nf4_dequantize__one_by_one(codes, absmax, shape, block=64):
    if codes.numel() != math.prod(shape) or absmax.numel() * block < codes.numel():
        raise ValueError("they do not belong together")
    book, scales = nf4_codebook().tolist(), absmax.tolist()
    return torch.tensor([book[code] * scales[i // block] for i, code in enumerate(codes.tolist())]).view(*shape)


def double_quantize__nearest_of_256(absmax, block=256):
    refuse(absmax)
    mean = absmax.double().mean()
    codes, second = [], []
    for part in (absmax - mean).float().split(block):
        largest = part.abs().max()
        part = part / (largest if largest > 0 else 1.0)
        codes.append(torch.cdist(part[:, None].double(), dynamic_codebook()[:, None].double()).argmin(dim=1))
        second.append(largest)
    return torch.cat(codes).byte(), torch.stack(second), mean.float()


def double_quantize__searchsorted(absmax, block=256):
    refuse(absmax)
    absmax = absmax.float()
    n, offset = len(absmax), absmax.sum() / len(absmax)
    whole = torch.full((math.ceil(n / block) * block,), offset)
    whole[:n] = absmax
    rows = (whole - offset).reshape(-1, block)
    second = rows.abs().max(dim=1).values
    rows = torch.where(second[:, None] > 0, rows / second[:, None], 0.0).reshape(-1)[:n]
    book = dynamic_codebook()
    above = torch.searchsorted(book, rows).clamp(1, 255)
    nearer_below = rows - book[above - 1] <= book[above] - rows
    return (above - nearer_below.long()).to(torch.uint8), second, offset


def bits_per_parameter__count_a_large_model(block=64, second_block=None):
    if block < 1 or (second_block is not None and second_block < 1):
        raise ValueError("at least 1")
    n = block * (second_block or 1)
    scales = n // block
    return (4 * n + (32 * scales if second_block is None else 8 * scales + 32 * scales // second_block)) / n


def bits_per_parameter__scale_first(block=64, second_block=None):
    if min(block, second_block or block) < 1 or second_block == 0:
        raise ValueError("at least 1")
    a_scale = 8 + 32 / second_block if second_block else 32
    return 4.0 + a_scale / block


class QLoRALinear__checkpointed(nn.Module):
    """The frozen product is computed again in the backward pass; factors are (d_in, rank) and (rank, d_out)."""

    def __init__(self, base, rank, alpha, dropout=0.0, block=64, generator=None):
        super().__init__()
        if not isinstance(base, nn.Linear):
            raise TypeError("nn.Linear wanted")
        if rank < 1:
            raise ValueError("rank")
        self.rank, self.alpha, self.block = rank, alpha, block
        self.d_out, self.d_in = base.out_features, base.in_features
        codes, absmax = nf4_quantize(base.weight.data, block)
        a, b, c = double_quantize(absmax)
        self.state = nn.ParameterDict(
            {name: nn.Parameter(value, requires_grad=False) for name, value in dict(a=a, b=b, c=c).items()}
        )
        self.packed = nn.Parameter(pack_codes(codes), requires_grad=False)
        self.bias = base.bias
        if self.bias is not None:
            self.bias.requires_grad_(False)
        down = torch.randn(self.d_in, rank, generator=generator) / math.sqrt(self.d_in)
        self.up = nn.Parameter(torch.zeros(rank, self.d_out, dtype=base.weight.dtype))
        self.down = nn.Parameter(down.to(base.weight.dtype))
        self.drop = nn.Dropout(dropout)

    def frozen(self, x):
        absmax = double_dequantize(self.state["a"], self.state["b"], self.state["c"])
        codes = unpack_codes(self.packed, self.d_out * self.d_in)
        weight = nf4_dequantize(codes, absmax, (self.d_out, self.d_in), self.block)
        return F.linear(x, weight.to(x.dtype), self.bias)

    def forward(self, x):
        y = checkpoint(self.frozen, x, use_reentrant=False) if torch.is_grad_enabled() else self.frozen(x)
        return y + (self.drop(x) @ self.down) @ self.up * (self.alpha / self.rank)


class Frozen(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, layer):
        ctx.layer = layer
        return x.matmul(layer.whole().to(x.dtype).t())

    @staticmethod
    def backward(ctx, grad):
        return grad.matmul(ctx.layer.whole().to(grad.dtype)), None


class QLoRALinear__two_linear_layers(nn.Module):
    """The factors as two nn.Linear; one buffer of bytes for each scale, packed low half first."""

    def __init__(self, base, rank, alpha, dropout=0.0, block=64, generator=None):
        super().__init__()
        if type(base) is not nn.Linear:
            raise TypeError("nn.Linear wanted")
        if not rank > 0:
            raise ValueError("rank")
        like = dict(device=base.weight.device, dtype=base.weight.dtype)
        self.up = nn.Linear(rank, base.out_features, bias=False, **like)
        self.down = nn.Linear(base.in_features, rank, bias=False, **like)
        nn.init.zeros_(self.up.weight)
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5, generator=generator)
        self.size, self.n = base.weight.size(), base.weight.numel()
        self.scaling, self.p, self.block = alpha / rank, dropout, block
        codes, absmax = nf4_quantize(base.weight, block)
        codes = torch.cat([codes, codes.new_zeros(self.n % 2)])
        self.codes = nn.Buffer(codes[0::2] + 16 * codes[1::2])
        parts = double_quantize(absmax)
        self.c8, self.c32, self.mean = (nn.Buffer(part) for part in parts)
        self.bias = nn.Buffer(base.bias.detach().clone()) if base.bias is not None else None

    def whole(self):
        codes = torch.empty(2 * len(self.codes), dtype=torch.uint8)
        codes[0::2], codes[1::2] = self.codes % 16, self.codes // 16
        return nf4_dequantize(codes[: self.n], double_dequantize(self.c8, self.c32, self.mean), self.size, self.block)

    def forward(self, x):
        dropped = F.dropout(x, self.p, self.training)
        update = self.up(self.down(dropped)).mul(self.scaling)
        y = Frozen.apply(x, self).add(update)
        return y if self.bias is None else y.add(self.bias)
