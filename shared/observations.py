"""What a check sees: record the calls of an answer, compare what came out."""

from __future__ import annotations

import cmath
import contextlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from numbers import Number

from shared.values import SMALL, Opaque, Raised, brief, is_tensor, items, kind, loaded, snapshot

UNCHANGED = "inputs left unchanged"  # the label of the observation that every function gets


@dataclass
class Observation:
    """One named value that a check saw, with the inputs that led to it."""

    label: str
    value: object
    inputs: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """How an observed value differs from the expected one."""

    kind: str  # "value", "shape", "type", "dtype", "device", "detached", "raised", "missing", "changed"
    text: str
    expected: object = None  # the innermost values that differ, where they sit inside containers
    got: object = None


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
    """Exactly equal, nan equal to nan; objects that cannot be compared count as the same. Both are snapshots."""
    if is_tensor(a):
        alike = is_tensor(b) and (a.shape, a.dtype, a.is_meta) == (b.shape, b.dtype, b.is_meta)
        return alike and (a.is_meta or bool(((a == b) | (a.isnan() & b.isnan())).all()))
    if isinstance(a, (list, tuple)):
        return isinstance(b, (list, tuple)) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (str, bytes, Number, set, frozenset)):
        return a == b or a != a
    return True


def compare(expected: object, got: object, rtol: float, atol: float) -> Difference | None:
    """The first way in which `got` differs from `expected`, or None. Both are snapshots.

    Lenient where the meaning is the same: a tuple for a list, any integer dtype, a 0-d tensor for a Python number.
    """

    def differ(kind_of, text=None):
        return Difference(kind_of, text or f"expected {brief(expected)}, got {brief(got)}", expected, got)

    if isinstance(expected, Raised) or isinstance(got, Raised):
        alike = isinstance(expected, Raised) and isinstance(got, Raised) and expected.kind == got.kind
        return None if alike else differ("raised")
    if isinstance(expected, Opaque) or isinstance(got, Opaque):
        return differ("type", f"expected {kind(expected)}, got {kind(got)}")
    if got is None and expected is not None:
        return differ("type", f"expected {kind(expected)}, got None: is there a `return`?")
    if is_tensor(expected) and is_tensor(got):
        return _compare_tensors(expected, got, rtol, atol)
    if is_tensor(got) and got.dim() == 0 and not got.is_meta and isinstance(expected, Number):
        got = got.item()
    if isinstance(expected, Number) and isinstance(got, Number) and isinstance(expected, bool) == isinstance(got, bool):
        close = expected == got or (expected != expected and got != got)
        if not close and not (isinstance(expected, int) and isinstance(got, int)):
            with contextlib.suppress(OverflowError):  # an int beyond the floats is close to none
                close = cmath.isclose(expected, got, rel_tol=rtol, abs_tol=atol)
        return None if close else differ("value")
    if isinstance(expected, (list, tuple)) and isinstance(got, (list, tuple)):
        if len(expected) != len(got):
            return differ("shape", f"expected {items(len(expected))}, got {items(len(got))}")
        for i, (e, g) in enumerate(zip(expected, got, strict=True)):
            if found := compare(e, g, rtol, atol):
                return _inside(f"item {i}", found)
        return None
    if isinstance(expected, dict) and isinstance(got, dict):
        for name, keys in (("is missing", expected.keys() - got.keys()), ("is too much", got.keys() - expected.keys())):
            if keys:
                return differ("shape", f"the key {brief(min(keys, key=brief))} {name}")
        for key in expected:
            if found := compare(expected[key], got[key], rtol, atol):
                return _inside(f"at key {brief(key)}", found)
        return None
    sets = isinstance(expected, (set, frozenset)) and isinstance(got, (set, frozenset))
    if not sets and (isinstance(expected, bool) != isinstance(got, bool) or not isinstance(got, type(expected))):
        return differ("type", f"expected {kind(expected)}, got {kind(got)}")
    return None if expected == got else differ("value")


def _inside(where: str, found: Difference) -> Difference:
    return replace(found, text=f"{where}: {found.text}")


def _compare_tensors(expected, got, rtol: float, atol: float) -> Difference | None:
    torch = loaded("torch")

    def differ(kind_of, text):
        return Difference(kind_of, text, expected, got)

    if got.shape != expected.shape:
        return differ("shape", f"expected shape {tuple(expected.shape)}, got {tuple(got.shape)}")
    both_integer = not any(t.is_floating_point() or t.is_complex() or t.dtype == torch.bool for t in (expected, got))
    if got.dtype != expected.dtype and not both_integer:
        return differ("dtype", f"expected dtype {expected.dtype}, got {got.dtype}")
    if got.is_meta:
        return differ("device", "a tensor on the meta device has a shape, but no values")
    exact = torch.complex128 if expected.is_complex() else torch.float64
    e, g = (t.detach().to("cpu", exact) for t in (expected, got))
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
        text += f"; the first at {list(at)}: expected {brief(expected[at].item())}, got {brief(got[at].item())}"
    return differ("value", text)
