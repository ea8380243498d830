"""Observations as plain data, to be sent between processes: what arrives is never run."""

from __future__ import annotations

import base64
import math
from fractions import Fraction
from numbers import Complex, Integral, Real

import torch

from shared.observations import Raised

DTYPES = {str(d): d for d in vars(torch).values() if isinstance(d, torch.dtype)}
MOST_KEYS = 10_000  # keys can be made to collide: more of them could hold up whoever compares


class Foreign:
    """Stands for a value of a type that is not sent; it equals nothing."""


def pack(value: object) -> object:
    """A value as JSON can hold it; subclasses lose what they add."""
    if value is None or type(value) in (bool, float):
        return value
    if isinstance(value, Raised):
        return ["raised", str(value.kind), str(value.message)]
    if isinstance(value, torch.Tensor):
        return _pack_tensor(value)
    if isinstance(value, str):
        return ["str", str.__str__(value)]
    if isinstance(value, (bytes, bytearray)):
        return ["bytes", base64.b64encode(bytes(value)).decode()]
    if isinstance(value, (list, tuple)):
        kind = list if isinstance(value, list) else tuple
        return [kind.__name__, *(pack(item) for item in kind.__iter__(value))]
    if isinstance(value, dict):
        return ["dict", *([pack(key), pack(item)] for key, item in dict.items(value))]
    if isinstance(value, (set, frozenset)):
        return ["set" if isinstance(value, set) else "frozenset", *(pack(item) for item in sorted(value, key=repr))]
    if isinstance(value, Integral):
        return ["int", hex(int(value))]  # decimal digits are limited, and slow
    if isinstance(value, Fraction):
        return ["fraction", hex(value.numerator), hex(value.denominator)]
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, Complex):
        return ["complex", complex(value).real, complex(value).imag]
    return ["foreign", type(value).__name__]


def _pack_tensor(value: torch.Tensor) -> list:
    try:
        plain = value.detach().cpu().clone(memory_format=torch.contiguous_format).reshape(-1)
        data = plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b""
        needs_grad = bool(value.requires_grad and value.is_floating_point())
        return ["tensor", str(plain.dtype), list(value.shape), needs_grad, base64.b64encode(data).decode()]
    except (RuntimeError, TypeError, NotImplementedError):  # sparse, quantized, without data
        return ["foreign", type(value).__name__]


def unpack(told: object) -> object:
    """The value that `pack` was given; ValueError, TypeError or so for what it never makes."""
    if told is None or type(told) in (bool, float):
        return told
    kind, *rest = told
    if kind == "tensor":
        return _unpack_tensor(*rest)
    if kind in ("str", "foreign", "bytes", "int"):
        (text,) = rest
        if not isinstance(text, str):
            raise TypeError(f"{kind} is told by {type(text).__name__}")
        if kind == "foreign":
            return type(text[:60].replace("\0", ""), (Foreign,), {})()
        return text if kind == "str" else base64.b64decode(text) if kind == "bytes" else int(text, 16)
    if kind in ("list", "tuple"):
        return (list if kind == "list" else tuple)(map(unpack, rest))
    if kind in ("dict", "set", "frozenset") and len(rest) > MOST_KEYS:
        raise ValueError(f"more than {MOST_KEYS:,} keys")
    if kind == "dict":
        return {unpack(key): unpack(item) for key, item in rest}
    if kind in ("set", "frozenset"):
        return (set if kind == "set" else frozenset)(map(unpack, rest))
    if kind == "raised":
        return Raised(*map(str, rest))
    if kind == "fraction":
        return Fraction(*(int(text, 16) for text in rest))
    if kind == "complex":
        return complex(*map(float, rest))
    raise ValueError(f"a value of the kind {str(kind)[:40]!r}")


def _unpack_tensor(dtype: str, shape: list, needs_grad: bool, data: str) -> torch.Tensor:
    raw = bytearray(base64.b64decode(data))
    kind, shape = DTYPES[dtype], [int(n) for n in shape]
    if min(shape, default=0) < 0 or math.prod(shape) * kind.itemsize != len(raw):
        raise ValueError("a tensor whose data do not fill its shape")
    flat = torch.frombuffer(raw, dtype=kind) if raw else torch.empty(0, dtype=kind)
    return flat.reshape(shape).requires_grad_(needs_grad is True)
