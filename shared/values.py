"""Values that an answer gave: copies that run none of its code, and words for them."""

from __future__ import annotations

import functools
import inspect
import sys
import types
from dataclasses import dataclass
from fractions import Fraction

SMALL = 24  # tensors with at most so many elements are shown whole
MOST_ELEMENTS = 2**24  # a larger tensor is kept by shape and dtype alone, on the meta device
MOST_ITEMS, DEEPEST = 200_000, 50  # in lists of lists; the course's own observations have 2,000 and 5
_FUNCTIONS = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    functools.partial,
    type(functools.cache(len)),
)
_EXACT = {str: str.__str__, int: int.__int__, float: float.__float__, complex: complex.__complex__}


@dataclass(frozen=True)
class Raised:
    """Stands for the value of an observation that could not be made."""

    kind: str
    message: str = ""


class Opaque:
    """Stands for a value that a check does not look into: its kind, and what the card shows of it."""

    def __init__(self, kind: str, text: str = ""):
        self.kind, self.text = kind, text or kind


def snapshot(value: object) -> object:
    """A copy that later changes cannot reach, of plain types alone, so that using it runs none of the answer's code.

    Tensors keep `requires_grad`, subclasses become what they derive from, and of all that is no tensor, number, text
    or container of these only the kind is kept.
    """
    return _copy(value, [MOST_ITEMS], 0)


def _copy(value: object, room: list[int], depth: int) -> object:
    of, torch = type(value), loaded("torch")
    room[0] -= 1
    if room[0] < 0:
        return Opaque(f"more than {MOST_ITEMS:,} items")
    if value is None or of is bool:
        return value
    if torch and issubclass(of, torch.Tensor):
        return _copy_of_tensor(value)
    for plain, exact in _EXACT.items():
        if issubclass(of, plain):
            return exact(value)
    if issubclass(of, bytes):
        return bytes(memoryview(value))
    if depth == DEEPEST and issubclass(of, (list, tuple, dict, set, frozenset)):
        return Opaque(f"more than {DEEPEST} containers inside each other")
    for plain in (list, tuple, set, frozenset):
        if issubclass(of, plain):
            return plain(_copy(item, room, depth + 1) for item in plain.__iter__(value))
    if issubclass(of, dict):
        return {_copy(k, room, depth + 1): _copy(v, room, depth + 1) for k, v in dict.items(value)}
    if of is Fraction:
        return float(value)
    if loaded("numpy") and issubclass(of, loaded("numpy").number) and type(value.item()) in _EXACT:
        return value.item()
    return Opaque(kind(value), repr(value) if hasattr(of, "__dataclass_fields__") else "")


def _copy_of_tensor(value) -> object:
    torch = loaded("torch")
    with torch._C.DisableTorchFunctionSubclass():  # else a subclass's own code would run
        if value.is_nested or value.is_quantized or value.layout is not torch.strided:
            return Opaque(f"a tensor that is {'nested' if value.is_nested else 'not dense'}")
        if value.is_meta or value.numel() > MOST_ELEMENTS:
            copied = torch.empty(value.shape, dtype=value.dtype, device="meta")
        else:
            copied = value.detach().clone()
        if type(copied) is not torch.Tensor:
            return Opaque(kind(value))
        return copied.requires_grad_(value.requires_grad)


def loaded(name: str) -> types.ModuleType | None:
    """A package that has been imported already: where it has not, no value is of its types."""
    return sys.modules.get(name)


def is_tensor(value: object) -> bool:
    """Whether this is a tensor, and torch has been imported at all."""
    torch = loaded("torch")
    return torch is not None and issubclass(type(value), torch.Tensor)


def name_of(of: type) -> str:
    """The name of a type, at most 60 characters."""
    return printable(type.__dict__["__name__"].__get__(of), 60)


def items(count: int, noun: str = "item") -> str:
    """ "1 item", "3 items"; "1 value is", "3 values are" for what follows a count of wrong values."""
    if noun == "value":
        return "1 value is" if count == 1 else f"{count} values are"
    return f"{count} {noun}" + ("" if count == 1 else "s")


def kind(value: object) -> str:
    """The type in words: "a tensor of shape (2, 3)", "a list of 4 items", "a str"."""
    of = type(value)
    if of is Opaque:
        return value.kind
    if is_tensor(value):
        where = ", on the meta device" if value.is_meta else ""
        return f"a tensor of shape {tuple(value.shape)} ({str(value.dtype).removeprefix('torch.')}{where})"
    if of in (list, tuple, dict, set):
        return f"a {of.__name__} of {items(len(value))}"
    if value is None:
        return "None"
    if is_class(value):
        return f"the class {name_of(value)}"
    name = name_of(of).removeprefix("builtin_function_or_").replace("NoneType", "None")
    return f"{'an' if name[:1].lower() in tuple('aeiou') else 'a'} {name}"


def is_class(answer: object) -> bool:
    """Whether this is a class; its own code is not asked."""
    return issubclass(type(answer), type)


def form_of(answer: object) -> str:
    """What kind of callable this is, in words: "a function", "a class", "an async function"."""
    flags = answer.__code__.co_flags if type(answer) is types.FunctionType else 0
    if flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR):
        return "an `async` function, of which a call gives no value yet"
    if flags & inspect.CO_GENERATOR:
        return "a function with `yield`, of which a call gives a generator"
    if is_class(answer):
        return "a class"
    return "a function" if type(answer) in _FUNCTIONS else kind(answer)


def brief(value: object, width: int = 160) -> str:
    """A value in one line, at most `width` characters; large tensors by their shape."""
    text = printable(_words(value, width), width + 1)
    return text if len(text) <= width else text[: width - 1] + "…"


def _words(value: object, room: int) -> str:
    """What is longer than `room` may be cut anywhere behind it, so that little is read of much."""
    if is_tensor(value):
        if value.is_meta or not 0 < value.numel() <= SMALL:
            return kind(value)
        return _words(value.detach().tolist(), room)
    if isinstance(value, Opaque):
        return value.text
    if isinstance(value, Raised):
        return f"{value.kind}: {value.message}" if value.message else value.kind
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and value.bit_length() > 4 * room:
        return f"an int of {value.bit_length():,} bits"
    if isinstance(value, (str, bytes)):
        return repr(value[: room + 1])
    if isinstance(value, list):
        return f"[{_joined(value, room)}]"
    if isinstance(value, tuple):
        return f"({_joined(value, room)}{',' if len(value) == 1 else ''})"
    if isinstance(value, (set, frozenset)) and value:
        inner = f"{{{_joined(value, room)}}}"
        return inner if isinstance(value, set) else f"frozenset({inner})"
    if isinstance(value, dict):
        pairs = (f"{_words(k, room)}: {_words(v, room)}" for k, v in value.items())
        return f"{{{_until(pairs, room)}}}"
    return repr(value)


def _joined(values, room: int) -> str:
    return _until((_words(value, room) for value in values), room)


def _until(parts, room: int) -> str:
    taken = []
    for part in parts:
        taken.append(part)
        room -= len(part) + 2
        if room < 0:
            break
    return ", ".join(taken)


def printable(text: str, limit: int) -> str:
    """At most `limit` characters of a text, what a screen cannot show (escapes, lone surrogates) as an escape."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    if cut.isprintable():
        return cut
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in cut)


def size(value: object) -> int:
    """How much there is to read: elements of tensors, items of containers, characters of text."""
    if is_tensor(value):
        return value.numel()
    if isinstance(value, dict):
        return sum(map(size, value.values())) + len(value)
    if isinstance(value, (list, tuple)):
        return sum(map(size, value)) + 1
    if isinstance(value, (str, bytes)):
        return len(value)
    return 1
