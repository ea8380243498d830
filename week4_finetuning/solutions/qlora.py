"""QLoRA: weights in 4 bits (NF4), their scales in 8, and the two factors of LoRA beside them."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn


def nf4_codebook() -> Float[Tensor, "16"]:
    """The 16 values of NF4 in ascending order, float32: quantiles of N(0, 1), scaled so that they end at -1 and 1.

    Q is the quantile function, and o = 0.9677083, which is 1 - (1/30 + 1/32) / 2 to seven digits. Q(p) for nine evenly
    spaced p from 1/2 to o gives 0 and the 8 positive values; eight such p give, negated, 0 (left out: it is there
    already) and the 7 negative ones. All are divided by the largest. Dettmers et al. 2023, §3 and appendix E.
    """
    # BEGIN SOLUTION
    outermost = 0.9677083
    # p in float32 and Q in float64: so the published digits came about, and so they are met to the last bit.
    positive = torch.special.ndtri(torch.linspace(0.5, outermost, 9).double())
    negative = -torch.special.ndtri(torch.linspace(0.5, outermost, 8).double())
    values = torch.cat([negative[1:].flip(0), positive]).float()
    return values / values.max()
    # END SOLUTION


def check_finite(w: Tensor, block: int) -> None:
    """Raise where `w` cannot be quantized in blocks of `block`: no floats, none at all, nan or inf among them."""
    if not torch.is_tensor(w) or not w.is_floating_point():
        kind = str(w.dtype) if torch.is_tensor(w) else type(w).__name__
        raise TypeError(f"expected a tensor of floating-point numbers, got {kind}")
    if not isinstance(block, int) or block < 1:
        raise ValueError(f"the block must be a whole number of at least 1, got {block!r}")
    if w.numel() == 0:
        raise ValueError(f"there is nothing to quantize in a tensor of shape {tuple(w.shape)}")
    bad = int((~torch.isfinite(w)).sum())
    if bad:
        raise ValueError(f"{bad} of {w.numel()} values are nan or inf; one of them would spoil its whole block")


def nf4_quantize(w: Float[Tensor, "..."], block: int = 64) -> tuple[UInt8[Tensor, "numel"], Float[Tensor, "blocks"]]:
    """(codes, absmax): each entry of w as the index, 0 to 15, of the NF4 value nearest to entry / absmax of its block.

    Blocks are `block` entries in a row, in row-major order, across rows; the last may be short. absmax is the
    largest magnitude in a block, float32. A block of zeros has absmax 0 and the code 7, which is the value 0.
    Dettmers et al. 2023, eq. 1 and §3. Raises ValueError for nan or inf, TypeError for anything but floats.
    """
    check_finite(w, block)
    # BEGIN SOLUTION
    flat = w.detach().float().flatten()
    blocks = F.pad(flat, (0, -flat.numel() % block)).view(-1, block)  # zeros change no absmax
    absmax = blocks.abs().amax(dim=1)
    scaled = blocks * (1 / absmax.clamp(min=1e-38))[:, None]
    values = nf4_codebook().to(w.device)
    borders = (values[:-1] + values[1:]) / 2
    codes = torch.bucketize(scaled.flatten()[: flat.numel()], borders)
    return codes.to(torch.uint8), absmax
    # END SOLUTION


def nf4_dequantize(
    codes: UInt8[Tensor, "numel"], absmax: Float[Tensor, "blocks"], shape: tuple[int, ...], block: int = 64
) -> Float[Tensor, "..."]:
    """The weights that the codes stand for, float32, in the given shape: the NF4 value of each code times its absmax.

    The inverse of `nf4_quantize` up to rounding. Dettmers et al. 2023, eq. 2.
    Raises ValueError when shape, codes and absmax do not belong together.
    """
    numel = math.prod(shape)
    if (codes.numel(), absmax.numel()) != (numel, -(-numel // block)):
        raise ValueError(
            f"{tuple(shape)} in blocks of {block} takes {numel} codes and {-(-numel // block)} scales, "
            f"got {codes.numel()} and {absmax.numel()}"
        )
    # BEGIN SOLUTION
    values = nf4_codebook().to(codes.device).index_select(0, codes.flatten().int())
    blocks = F.pad(values, (0, -numel % block)).view(-1, block) * absmax[:, None]
    return blocks.flatten()[:numel].view(tuple(shape))
    # END SOLUTION


def dynamic_codebook() -> Float[Tensor, "256"]:
    """The 256 values of the 8-bit dynamic type, ascending from -0.993 to 1: more digits where a value is larger.

    For e = 0 … 6 the 2^e middles of equal steps from 0.1 to 1, times 10^(e - 6), and their negatives; 0; and 1.
    Dettmers 2016, "8-Bit Approximations for Parallelism in Deep Learning".
    """
    parts = []
    for e in range(7):
        edges = torch.linspace(0.1, 1.0, 2**e + 1)
        parts.append((edges[:-1] + edges[1:]) / 2 * 10.0 ** (e - 6))
    positive = torch.cat(parts)
    return torch.cat([-positive.flip(0), torch.zeros(1), positive, torch.ones(1)])


def double_quantize(
    absmax: Float[Tensor, "n"], block: int = 256
) -> tuple[UInt8[Tensor, "n"], Float[Tensor, "blocks"], Float[Tensor, ""]]:
    """(codes, second_absmax, offset): the scales themselves in 8 bits, after their mean, the offset, is subtracted.

    absmax - offset is quantized as in `nf4_quantize`, in blocks of `block`, with the 256 values of `dynamic_codebook`
    in place of NF4's 16: codes are indices into it, uint8; second_absmax and offset are float32.
    Dettmers et al. 2023, §3, "Double Quantization". Raises ValueError for nan or inf.
    """
    check_finite(absmax, block)
    # BEGIN SOLUTION
    offset = absmax.float().mean()
    deviations = absmax.float() - offset
    blocks = F.pad(deviations, (0, -absmax.numel() % block)).view(-1, block)
    second_absmax = blocks.abs().amax(dim=1)
    scaled = blocks * (1 / second_absmax.clamp(min=1e-38))[:, None]
    values = dynamic_codebook().to(absmax.device)
    borders = (values[:-1] + values[1:]) / 2
    codes = torch.bucketize(scaled.flatten()[: absmax.numel()], borders)
    return codes.to(torch.uint8), second_absmax, offset
    # END SOLUTION


def double_dequantize(
    codes: UInt8[Tensor, "n"], second_absmax: Float[Tensor, "blocks"], offset: Float[Tensor, ""], block: int = 256
) -> Float[Tensor, "n"]:
    """The scales again, float32: the dynamic value of each code, times its block's absmax, plus the offset."""
    values = dynamic_codebook().to(codes.device).index_select(0, codes.int())
    blocks = F.pad(values, (0, -codes.numel() % block)).view(-1, block) * second_absmax.float()[:, None]
    return blocks.flatten()[: codes.numel()] + offset.float()


def pack_codes(codes: UInt8[Tensor, "n"]) -> UInt8[Tensor, "packed"]:
    """Two codes of 4 bits to a byte, the first in the high half, as in bitsandbytes. Example: [1, 2, 3] -> [18, 48]."""
    pairs = F.pad(codes, (0, codes.numel() % 2)).view(-1, 2)
    return pairs[:, 0] << 4 | pairs[:, 1]


def unpack_codes(packed: UInt8[Tensor, "packed"], numel: int) -> UInt8[Tensor, "n"]:
    """The first `numel` codes that `pack_codes` has packed."""
    return torch.stack([packed >> 4, packed & 15], dim=1).flatten()[:numel]


def dequantize_packed(
    packed: UInt8[Tensor, "packed"], absmax: Float[Tensor, "blocks"], shape: tuple[int, ...], block: int = 64
) -> Float[Tensor, "..."]:
    """`nf4_dequantize` of the codes in `packed`, the same numbers in less time: one look-up a byte, not two.

    Row b of a table of 256 has the two values of byte b; the eight bytes of both are looked up as one whole number.
    """
    numel, values = math.prod(shape), nf4_codebook().to(packed.device)
    table = torch.cartesian_prod(values, values).view(torch.int64).flatten()
    weights = table.index_select(0, packed.int()).view(torch.float32)[:numel]
    blocks = (F.pad(weights, (0, -numel % block)) if numel % block else weights).view(-1, block)
    return blocks.mul_(absmax[:, None]).flatten()[:numel].view(shape)


def bits_per_parameter(block: int = 64, second_block: int | None = None) -> float:
    """Bits that NF4 takes for one weight, its share of the scales included.

    4 for the code, and of the block's scale: 32 bits (float32), or, with a second_block, 8 bits and a share of a second
    scale of 32 bits, one for each second_block scales. Example: block=64 -> 4.5. Dettmers et al. 2023, §3.
    Raises ValueError for a block below 1.
    """
    for size in (block, second_block):
        if size is not None and size < 1:
            raise ValueError(f"a block has at least 1 entry, got {size}")
    # BEGIN SOLUTION
    if second_block is None:
        return 4 + 32 / block
    return 4 + 8 / block + 32 / (block * second_block)
    # END SOLUTION


class FrozenProduct(torch.autograd.Function):
    """x Wᵀ for a frozen W that `make_weight()` makes anew in both passes, so that nothing of W's size is kept between.

    (F.linear would keep W until the backward pass, for the gradient of x is gradient @ W.)
    """

    @staticmethod
    def forward(ctx, x, make_weight):
        ctx.make_weight = make_weight
        return x @ make_weight().T

    @staticmethod
    def backward(ctx, gradient):
        return gradient @ ctx.make_weight(), None


class QLoRALinear(nn.Module):
    """x dequant(W)ᵀ + bias + (alpha / rank) · dropout(x) Aᵀ Bᵀ, W and bias frozen. Dettmers et al. 2023, eq. 5.

    W is kept as NF4 codes, two to a byte, with doubly quantized scales, all in buffers, and made anew for each product;
    no full copy of it stays, neither here nor for the backward pass. Trained are A (rank, d_in), random, and B
    (d_out, rank), zero, in the dtype of base.weight. Raises TypeError for another layer, ValueError for rank < 1.
    """

    def __init__(
        self,
        base: nn.Linear,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        block: int = 64,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(base, nn.Linear):
            raise TypeError(f"QLoRALinear replaces an nn.Linear, got {type(base).__name__}")
        if rank < 1:
            raise ValueError(f"the rank must be at least 1, got {rank}")
        # BEGIN SOLUTION
        self.shape, self.block, self.scale = tuple(base.weight.shape), block, alpha / rank
        codes, absmax = nf4_quantize(base.weight, block)
        absmax_codes, second_absmax, offset = double_quantize(absmax)
        self.register_buffer("codes", pack_codes(codes))
        self.register_buffer("absmax_codes", absmax_codes)
        self.register_buffer("second_absmax", second_absmax)
        self.register_buffer("offset", offset)
        self.register_buffer("bias", None if base.bias is None else base.bias.detach().clone())
        d_out, d_in = self.shape
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()  # Dropout(0.0) would keep a copy of x
        self.A = nn.Parameter(torch.empty(rank, d_in).uniform_(-1, 1, generator=generator).to(base.weight) / d_in**0.5)
        self.B = nn.Parameter(torch.zeros(d_out, rank).to(base.weight))
        # END SOLUTION

    def dequantized(self) -> Float[Tensor, "d_out d_in"]:
        """The frozen weight, as the codes and scales give it."""
        # BEGIN SOLUTION
        absmax = double_dequantize(self.absmax_codes, self.second_absmax, self.offset)
        return dequantize_packed(self.codes, absmax, self.shape, self.block)
        # END SOLUTION

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        # BEGIN SOLUTION
        y = FrozenProduct.apply(x, lambda: self.dequantized().to(x.dtype))
        if self.bias is not None:
            y = y + self.bias
        return y + self.scale * (self.dropout(x) @ self.A.T) @ self.B.T  # scaled where there are `rank` numbers only
        # END SOLUTION
