"""Observations as plain data, to be sent between processes: what arrives is never run."""

from __future__ import annotations

import base64
import math

import torch

from shared.values import Opaque, Raised

DTYPES = {str(d): d for d in vars(torch).values() if isinstance(d, torch.dtype)}
MOST_KEYS = 10_000  # keys can be made to collide: more of them could hold up whoever compares


def pack(value: object) -> object:
    """A snapshot as JSON can hold it."""
    if value is None or type(value) in (bool, float):
        return value
    if isinstance(value, Raised):
        return ["raised", value.kind, value.message]
    if isinstance(value, Opaque):
        return ["opaque", value.kind, value.text]
    if isinstance(value, torch.Tensor):
        return _pack_tensor(value)
    if isinstance(value, dict):
        return ["dict", *([pack(key), pack(item)] for key, item in value.items())]
    of = type(value).__name__
    if isinstance(value, (list, tuple)):
        return [of, *map(pack, value)]
    if isinstance(value, (set, frozenset)):
        return [of, *map(pack, sorted(value, key=repr))]
    if isinstance(value, bytes):
        return [of, base64.b64encode(value).decode()]
    if isinstance(value, complex):
        return [of, value.real, value.imag]
    return [of, hex(value) if isinstance(value, int) else value]  # decimal digits are limited, and slow


def _pack_tensor(value: torch.Tensor) -> list:
    told = [str(value.dtype), list(value.shape), value.requires_grad]
    if value.is_meta:
        return ["meta", *told]
    plain = value.detach().cpu().resolve_conj().resolve_neg()
    plain = plain.clone(memory_format=torch.contiguous_format).reshape(-1)
    data = plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    return ["tensor", *told, base64.b64encode(data).decode()]


def unpack(told: object) -> object:
    """The value that `pack` was given; ValueError, TypeError or so for what it never makes."""
    if told is None or type(told) in (bool, float):
        return told
    kind, *rest = told
    if kind in ("tensor", "meta"):
        return _unpack_tensor(*rest)
    if kind in ("str", "bytes", "int"):
        (text,) = rest
        if not isinstance(text, str):
            raise TypeError(f"{kind} is told by {type(text).__name__}")
        return text if kind == "str" else base64.b64decode(text) if kind == "bytes" else int(text, 16)
    if kind in ("list", "tuple"):
        return (list if kind == "list" else tuple)(map(unpack, rest))
    if kind in ("dict", "set", "frozenset") and len(rest) > MOST_KEYS:
        raise ValueError(f"more than {MOST_KEYS:,} keys")
    if kind == "dict":
        return {unpack(key): unpack(item) for key, item in rest}
    if kind in ("set", "frozenset"):
        return (set if kind == "set" else frozenset)(map(unpack, rest))
    if kind in ("raised", "opaque"):
        return (Raised if kind == "raised" else Opaque)(*map(str, rest))
    if kind == "complex":
        return complex(*map(float, rest))
    raise ValueError(f"a value of the kind {str(kind)[:40]!r}")


def _unpack_tensor(dtype: str, shape: list, needs_grad: bool, data: str | None = None) -> torch.Tensor:
    kind, shape = DTYPES[dtype], [int(n) for n in shape]
    if data is None:
        return torch.empty(shape, dtype=kind, device="meta").requires_grad_(needs_grad is True)
    raw = bytearray(base64.b64decode(data))
    if min(shape, default=0) < 0 or math.prod(shape) * kind.itemsize != len(raw):
        raise ValueError("a tensor whose data do not fill its shape")
    flat = torch.frombuffer(raw, dtype=kind) if raw else torch.empty(0, dtype=kind)
    return flat.reshape(shape).requires_grad_(needs_grad is True)
