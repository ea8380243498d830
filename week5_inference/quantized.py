"""Whole models with quantized weights: codes in memory in place of floats, and the data-aware methods block by block.

quantize_model(model, bits=8)                                        int8 by rows, for the server
quantize_model(model, bits=4, method="gptq", batches=token_ids)      4 bits in groups, with calibration
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from tqdm.auto import tqdm

from week5_inference.solutions.quantization import (
    awq_scale_search,
    check_grid,
    gptq_quantize,
    int8_quantize,
    zero_point_dequantize,
    zero_point_quantize,
)

METHODS = ("nearest", "gptq", "awq")
CODES_TOGETHER = {2: 4, 3: 8, 4: 2, 5: 8, 6: 4, 7: 8, 8: 1}  # so many codes fill whole bytes


def pack_bits(codes: UInt8[Tensor, "n"], bits: int) -> UInt8[Tensor, "packed"]:
    """Codes side by side without a gap, the first in the lowest bits. Example of 4 bits: [1, 2] -> [33]."""
    together = CODES_TOGETHER[bits]
    rows = F.pad(codes.long(), (0, -codes.numel() % together)).view(-1, together)
    numbers = (rows << bits * torch.arange(together, device=codes.device)).sum(dim=1)
    shifts = 8 * torch.arange(together * bits // 8, device=codes.device)
    return (numbers[:, None] >> shifts & 255).to(torch.uint8).flatten()


def unpack_bits(packed: UInt8[Tensor, "packed"], bits: int, n: int) -> UInt8[Tensor, "n"]:
    """The first n codes that `pack_bits` has packed."""
    together = CODES_TOGETHER[bits]
    if together * bits == 8:  # the usual case, a whole number of codes in each byte, without wider numbers
        shifts = bits * torch.arange(together, device=packed.device, dtype=torch.uint8)
        return (packed[:, None] >> shifts & 2**bits - 1).flatten()[:n]
    rows = packed.view(-1, together * bits // 8).long()
    numbers = (rows << 8 * torch.arange(rows.shape[1], device=packed.device)).sum(dim=1)
    shifts = bits * torch.arange(together, device=packed.device)
    return (numbers[:, None] >> shifts & 2**bits - 1).to(torch.uint8).flatten()[:n]


class Int8Linear(nn.Module):
    """A linear layer whose weight is int8 codes and a scale a row: F.linear(x, codes) · scale + bias, in x's dtype."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.out_features, self.in_features = linear.weight.shape
        codes, scale = int8_quantize(linear.weight)
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    @property
    def weight(self) -> Float[Tensor, "out in"]:
        """The weight that the codes stand for, made anew at each call."""
        return self.codes.float() * self.scale

    def forward(self, x: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        out = F.linear(x, self.codes.to(x.dtype)) * self.scale.flatten().to(x.dtype)
        return out if self.bias is None else out + self.bias


class GroupedLinear(nn.Module):
    """A linear layer of packed codes of 2 to 8 bits with a scale and a zero point a group: the weight is made per call.

    `input_scale` is AWQ's s: codes stand for w · s, and x / s comes in. (In a model for production it is folded into
    the layer before, and costs nothing.) Scales are float16 where that keeps their digits.
    """

    def __init__(self, codes: Tensor, scale: Tensor, zero: Tensor, bits: int, bias=None, input_scale=None) -> None:
        super().__init__()
        self.out_features, self.in_features = codes.shape
        self.bits, self.bias = bits, bias
        safe = scale.min() > 1e-4 and scale.max() < 6e4
        self.register_buffer("packed", pack_bits(codes.flatten(), bits))
        self.register_buffer("scale", scale.half() if safe else scale)
        self.register_buffer("zero", zero.to(torch.uint8))
        self.register_buffer("input_scale", input_scale)

    def stored_weight(self) -> Float[Tensor, "out in"]:
        codes = unpack_bits(self.packed, self.bits, self.out_features * self.in_features)
        return zero_point_dequantize(codes.view(self.out_features, -1), self.scale.float(), self.zero.float())

    @property
    def weight(self) -> Float[Tensor, "out in"]:
        """The weight that the layer multiplies with, made anew at each call."""
        return self.stored_weight() if self.input_scale is None else self.stored_weight() / self.input_scale

    def forward(self, x: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        if self.input_scale is not None:
            x = x / self.input_scale.to(x.dtype)
        return F.linear(x, self.stored_weight().to(x.dtype), self.bias)


def blocks_of(model: nn.Module) -> nn.ModuleList:
    """The blocks of a decoder, ours or one of transformers': its longest nn.ModuleList."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    if not lists:
        raise ValueError(f"{type(model).__name__} has no nn.ModuleList of blocks to quantize")
    return max(lists, key=len)


def linears_of(block: nn.Module) -> dict[str, nn.Linear]:
    found = {name: module for name, module in block.named_modules() if isinstance(module, nn.Linear)}
    if not found:
        raise ValueError("there is no nn.Linear in the blocks: is the model quantized already?")
    return found


def fitting_group(width: int) -> int:
    """The largest of 128, 64 and 32 that divides the width, or the width itself."""
    return next((size for size in (128, 64, 32) if width % size == 0), width)


def put(block: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(block.get_submodule(parent), child, layer)


@torch.no_grad()
def quantize_model(
    model: nn.Module,
    bits: int = 8,
    method: str = "nearest",
    group_size: int | None = None,
    batches: list[Int[Tensor, "batch seq"]] | None = None,
    act_order: bool = False,
    awq_steps: int = 10,
    awq_tokens: int = 384,
    quiet: bool = True,
) -> nn.Module:
    """Put a layer of codes in place of each nn.Linear of the blocks, and return the same model.

    bits 8, "nearest", group_size None: `Int8Linear`. Else `GroupedLinear`, in groups of `group_size` or, with None,
    `fitting_group`. "gptq" and "awq" need `batches`, token ids without padding: they go through block by block, the
    blocks before being quantized already. Embeddings, norms and the output layer stay. Layers with one input (q, k and
    v; gate and up) share its Hessian or scale. Raises ValueError for settings that do not fit, nan or inf;
    the model is then as it was.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    if method != "nearest" and not batches:
        raise ValueError(f"{method} needs calibration: batches, a list of token ids (batch, seq)")
    blocks = blocks_of(model)
    for block in blocks:  # before anything is changed
        for linear in linears_of(block).values():
            check_grid(linear.weight, bits, group_size)
    if method == "nearest":
        for block in blocks:
            for name, linear in linears_of(block).items():
                if bits == 8 and group_size is None:
                    layer = Int8Linear(linear)
                else:
                    size = group_size or fitting_group(linear.in_features)
                    layer = GroupedLinear(*zero_point_quantize(linear.weight, bits, size), bits, linear.bias)
                put(block, name, layer)
        return model

    calls = first_block_inputs(model, blocks[0], batches)
    for block in tqdm(blocks, desc=f"{method}, {bits} bits", disable=quiet):
        for names, x in shared_inputs(block, calls):
            linears = [block.get_submodule(name) for name in names]
            weight = torch.cat([linear.weight for linear in linears])  # rows are independent of each other
            size, input_scale = group_size or fitting_group(weight.shape[1]), None
            if method == "gptq":
                parts = gptq_quantize(weight, x.T @ x / len(x), bits, size, act_order=act_order)
            else:
                some = x[:: max(1, len(x) // awq_tokens)]
                input_scale, _, _ = awq_scale_search(weight, some, bits, size, awq_steps)
                parts = zero_point_quantize(weight * input_scale, bits, size)
            heights = [linear.out_features for linear in linears]
            for name, linear, *stored in zip(names, linears, *(part.split(heights) for part in parts), strict=True):
                put(block, name, GroupedLinear(*stored, bits, linear.bias, input_scale))
        calls = [((run(block, call), *call[0][1:]), call[1]) for call in calls]
    return model


class _Stop(Exception):
    """Enough of the model has run."""


def first_block_inputs(model: nn.Module, block: nn.Module, batches: list[Tensor]) -> list[tuple[tuple, dict]]:
    """(args, kwargs) with which the model calls its first block, for each batch; without a cache."""
    calls = []

    def keep(module, args, kwargs):
        left_out = {"past_key_values", "past_key_value", "use_cache", "cache_position"}
        calls.append((args, {name: value for name, value in kwargs.items() if name not in left_out}))
        raise _Stop

    handle = block.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        for token_ids in batches:
            try:
                model(token_ids)
            except _Stop:
                continue
    finally:
        handle.remove()
    return calls


def run(block: nn.Module, call: tuple[tuple, dict]) -> Tensor:
    out = block(*call[0], **call[1])
    return out[0] if isinstance(out, tuple) else out


def shared_inputs(block: nn.Module, calls: list[tuple[tuple, dict]]) -> list[tuple[list[str], Float[Tensor, "n in"]]]:
    """The linear layers of a block by what comes in, in their order: (names, all inputs as rows)."""
    seen: dict[str, list[Tensor]] = {name: [] for name in linears_of(block)}
    handles = [
        linear.register_forward_pre_hook(lambda module, args, name=name: seen[name].append(args[0]))
        for name, linear in linears_of(block).items()
    ]
    try:
        for call in calls:
            run(block, call)
    finally:
        for handle in handles:
            handle.remove()
    together: dict[int, list[str]] = {}
    for name, inputs in seen.items():
        together.setdefault(id(inputs[0]), []).append(name)
    return [
        (names, torch.cat([x.reshape(-1, x.shape[-1]) for x in seen[names[0]]]).float()) for names in together.values()
    ]


def stored_bytes(model: nn.Module) -> dict[str, int]:
    """Bytes of all parameters and buffers, each counted once: {"blocks": …, "rest": …}."""

    def size(module: nn.Module) -> int:
        tensors = {t.data_ptr(): t for t in (*module.parameters(), *module.buffers())}
        return sum(t.numel() * t.element_size() for t in tensors.values())

    blocks = size(blocks_of(model))
    return {"blocks": blocks, "rest": size(model) - blocks}
