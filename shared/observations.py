"""What a check sees: record the calls of an answer, take snapshots of values, compare them, put them in words."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from numbers import Number

SMALL = 24  # tensors with at most so many elements are shown whole
UNCHANGED = "inputs left unchanged"  # the label of the observation that every function gets


@dataclass
class Observation:
    """One named value that a check saw, with the inputs that led to it."""

    label: str
    value: object
    inputs: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Raised:
    """Stands for the value of an observation that could not be made."""

    kind: str
    message: str = ""


@dataclass(frozen=True)
class Difference:
    """How an observed value differs from the expected one."""

    kind: str  # "value", "shape", "type", "dtype", "detached", "raised", "missing", "changed"
    text: str
    expected: object = None  # the innermost values that differ, where they sit inside containers
    got: object = None


def snapshot(value: object) -> object:
    """A copy that later in-place changes of the original cannot reach; a tensor keeps its `requires_grad` flag."""
    torch = _torch()
    if torch is not None and isinstance(value, torch.Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad and value.is_floating_point())
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(snapshot(item) for item in value)
    if isinstance(value, dict):
        return {key: snapshot(item) for key, item in value.items()}
    if isinstance(value, (str, bytes, Number, type(None), set, frozenset)):
        return copy.copy(value)
    return value


def _torch():
    import sys

    return sys.modules.get("torch")


class Recorder:
    """Stands in for a function: remembers the arguments of its latest call, and whether any were changed in place."""

    def __init__(self, function: Callable):
        self.function = function
        self.inputs: dict[str, object] = {}
        self.changed: str | None = None
        self.__name__ = getattr(function, "__name__", "answer")
        try:
            self.__signature__ = inspect.signature(function)
        except (TypeError, ValueError):
            self.__signature__ = None

    def __call__(self, *args, **kwargs):
        self.inputs = self._bind(args, kwargs)
        result = self.function(*args, **kwargs)
        after = self._bind(args, kwargs)
        self.changed = self.changed or next((n for n, v in self.inputs.items() if not same(v, after[n])), None)
        return result

    def _bind(self, args: tuple, kwargs: dict) -> dict[str, object]:
        if self.__signature__ is None:
            return {}
        try:
            bound = self.__signature__.bind(*args, **kwargs).arguments
        except TypeError:
            return {}
        return {name: snapshot(value) for name, value in bound.items()}


def same(a: object, b: object) -> bool:
    """Exactly equal, nan equal to nan; objects that cannot be compared count as the same."""
    torch = _torch()
    if torch is not None and isinstance(a, torch.Tensor):
        return (
            isinstance(b, torch.Tensor)
            and a.shape == b.shape
            and a.dtype == b.dtype
            and torch.equal(torch.nan_to_num(a.detach()), torch.nan_to_num(b.detach()))
        )
    if isinstance(a, (list, tuple)):
        return isinstance(b, (list, tuple)) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (str, bytes, Number, set, frozenset)):
        return a == b or a != a
    return True


def compare(expected: object, got: object, rtol: float, atol: float) -> Difference | None:
    """The first way in which `got` differs from `expected`, or None.

    Lenient where the meaning is the same: a tuple for a list, any integer dtype, a 0-d tensor for a Python number.
    """
    torch = _torch()

    def is_tensor(value):
        return torch is not None and isinstance(value, torch.Tensor)

    def differ(kind_of, text):
        return Difference(kind_of, text, expected, got)

    as_values = f"expected {brief(expected)}, got {brief(got)}"
    if isinstance(expected, Raised) or isinstance(got, Raised):
        alike = isinstance(expected, Raised) and isinstance(got, Raised) and expected.kind == got.kind
        return None if alike else differ("raised", as_values)
    if got is None and expected is not None:
        return differ("type", f"expected {kind(expected)}, got None: is there a `return`?")
    if is_tensor(expected) and is_tensor(got):
        return _compare_tensors(expected, got, rtol, atol)
    if is_tensor(got) and got.dim() == 0 and isinstance(expected, Number):
        got = got.item()
    if isinstance(expected, Number) and isinstance(got, Number) and isinstance(expected, bool) == isinstance(got, bool):
        close = expected == got or (expected != expected and got != got)
        if not close and not (isinstance(expected, int) and isinstance(got, int)):
            close = math.isclose(expected, got, rel_tol=rtol, abs_tol=atol)
        return None if close else differ("value", as_values)
    if isinstance(expected, (list, tuple)) and isinstance(got, (list, tuple)):
        if len(expected) != len(got):
            return differ("shape", f"expected {items(len(expected))}, got {items(len(got))}")
        pairs = enumerate(zip(expected, got, strict=True))
        return _first((f"item {i}", compare(e, g, rtol, atol)) for i, (e, g) in pairs)
    if isinstance(expected, dict) and isinstance(got, dict):
        for name, keys in (("is missing", expected.keys() - got.keys()), ("is too much", got.keys() - expected.keys())):
            if keys:
                return differ("shape", f"the key {brief(min(keys, key=repr))} {name}")
        return _first((f"at key {brief(k)}", compare(expected[k], got[k], rtol, atol)) for k in expected)
    sets = isinstance(expected, (set, frozenset)) and isinstance(got, (set, frozenset))
    if not sets and (isinstance(expected, bool) != isinstance(got, bool) or not isinstance(got, type(expected))):
        return differ("type", f"expected {kind(expected)}, got {kind(got)}")
    return None if expected == got else differ("value", as_values)


def _first(parts: Iterator[tuple[str, Difference | None]]) -> Difference | None:
    for where, found in parts:
        if found:
            return Difference(found.kind, f"{where}: {found.text}", found.expected, found.got)
    return None


def _compare_tensors(expected, got, rtol: float, atol: float) -> Difference | None:
    torch = _torch()

    def differ(kind_of, text):
        return Difference(kind_of, text, expected, got)

    if got.shape != expected.shape:
        return differ("shape", f"expected shape {tuple(expected.shape)}, got {tuple(got.shape)}")
    both_integer = not any(t.is_floating_point() or t.is_complex() or t.dtype == torch.bool for t in (expected, got))
    if got.dtype != expected.dtype and not both_integer:
        return differ("dtype", f"expected dtype {expected.dtype}, got {got.dtype}")
    e, g = (t.detach().to("cpu", torch.float64) for t in (expected, got))
    wrong = ~torch.isclose(e, g, rtol=rtol, atol=atol, equal_nan=True)
    if not wrong.any():
        if expected.requires_grad and not got.requires_grad:
            return differ("detached", "the values are right, but no gradient can flow back through them")
        return None
    for name, bad in (("nan", g.isnan() & ~e.isnan()), ("inf", g.isinf() & ~e.isinf())):
        if bad.any():
            return differ("value", f"{int(bad.sum())} of {items(g.numel(), 'value')} {name}")
    worst = f"{(e - g).abs().nan_to_num(0, 0, 0).max().item():.3g}"
    if g.numel() == 1:
        text = f"it differs by {worst}"
    else:
        text = f"{int(wrong.sum())} of {g.numel()} values differ" + (
            f", by up to {worst}" if got.is_floating_point() else ""
        )
    if g.numel() > SMALL:
        at = tuple(wrong.nonzero()[0].tolist())
        text += f"; the first at {list(at)}: expected {_rounded(expected[at].item())}, got {_rounded(got[at].item())}"
    return differ("value", text)


def items(count: int, noun: str = "item") -> str:
    """ "1 item", "3 items"; "1 value is", "3 values are" for what follows a count of wrong values."""
    if noun == "value":
        return "1 value is" if count == 1 else f"{count} values are"
    return f"{count} {noun}" + ("" if count == 1 else "s")


def kind(value: object) -> str:
    """The type in words: "a tensor of shape (2, 3)", "a list of 4 items", "a str"."""
    torch = _torch()
    if torch is not None and isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)} ({str(value.dtype).removeprefix('torch.')})"
    if isinstance(value, (list, tuple, dict, set)):
        return f"a {type(value).__name__} of {items(len(value))}"
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def brief(value: object, width: int = 160) -> str:
    """A value in one line, at most `width` characters; large tensors by their shape."""
    torch = _torch()
    if isinstance(value, Raised):
        return f"{value.kind}: {value.message}" if value.message else value.kind
    if torch is not None and isinstance(value, torch.Tensor):
        if value.numel() > SMALL:
            return kind(value)
        text = _rounded(value.detach().tolist())
    elif isinstance(value, float):
        text = f"{value:.4g}"
    elif isinstance(value, (list, tuple, dict)):
        text = _rounded(value)
    else:
        text = repr(value)
    return text if len(text) <= width else text[: width - 1] + "…"


def _rounded(value: object) -> str:
    torch = _torch()
    if isinstance(value, float):
        return f"{value:.4g}"
    if torch is not None and isinstance(value, torch.Tensor):
        return brief(value)
    if isinstance(value, list):
        return "[" + ", ".join(map(_rounded, value)) + "]"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_rounded, value)) + ("," if len(value) == 1 else "") + ")"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k!r}: {_rounded(v)}" for k, v in value.items()) + "}"
    return repr(value)


def size(value: object) -> int:
    """How much there is to read: elements of tensors, items of containers, characters of text."""
    torch = _torch()
    if torch is not None and isinstance(value, torch.Tensor):
        return value.numel()
    if isinstance(value, dict):
        return sum(map(size, value.values())) + len(value)
    if isinstance(value, (list, tuple)):
        return sum(map(size, value)) + 1
    if isinstance(value, (str, bytes)):
        return len(value)
    return 1
