"""What an answer may not do to its own grade: change what the check uses, look into its frames, take the solutions.

This runs in the sandbox's child, beside the answer. The grade does not rest on it: the reference is in another
process, and so is the comparison. It keeps a check honest that compares something itself, and says plainly what was
tried.
"""

from __future__ import annotations

import base64
import builtins
import importlib.abc
import json
import math
import operator
import os
import random
import re
import sys
import sysconfig
from collections.abc import Callable, Collection, Iterable

import numpy
import numpy.testing
import torch
import torch.testing

REFUSAL = "the course's own solutions are not available to a submission"
LOOKING = {
    "sys._getframe",
    "sys._current_frames",
    "sys._current_exceptions",
    "sys.settrace",
    "sys.setprofile",
    "sys.monitoring.register_callback",
    "gc.get_objects",
    "gc.get_referrers",
    "gc.get_referents",
}
FRAMES = {"tb_frame", "gi_frame", "cr_frame", "ag_frame"}


class Refused(BaseException):
    """The answer did what a submission may not. Not an Exception, so that `except Exception` does not hide it."""


class NoSolutions(importlib.abc.MetaPathFinder):
    """Refuses to import what the child has not been given: solutions, checks, tests."""

    def find_spec(self, name: str, path=None, target=None):
        if re.match(r"week\d+_\w+\.(solutions|checks|lessons)\b|tests\b", name):
            raise ImportError(REFUSAL)
        return None


def _entries(owners: Iterable) -> list[tuple[Callable, str, object, str]]:
    """(how to look a name up, name, value, what it is called) of all that can be called in modules and classes."""
    return [
        (vars(owner).get, name, value, f"{getattr(owner, '__name__', owner)}.{name}")
        for owner in owners
        for name, value in vars(owner).items()
        if name != "manual_seed" and (callable(value) or isinstance(value, (property, staticmethod, classmethod)))
    ]  # torch._dynamo, which loads late, puts its own manual_seed in the place of PyTorch's


# Taken when this module is imported: in the sandbox that is before any answer, once for all.
_LIBRARIES = _entries(
    [builtins, json, json.encoder, json.JSONEncoder, math, operator, random, re, base64]
    + [torch, torch.Tensor, torch.Generator, torch.nn.Module, torch.nn.functional, torch.linalg, torch.autograd]
    + [torch.testing, numpy, numpy.linalg, numpy.testing]
)


def unchanged(owners: Iterable, besides: Collection[str] = ()) -> Callable[[], str]:
    """A function that says what is no longer as it is now, of PyTorch, NumPy, Python and these modules; "" if nothing.

    It uses no name that an answer could give another meaning.
    """
    own = [entry for entry in _entries(owners) if entry[1] not in besides]
    lookups, names, values, told = (list(column) for column in zip(*_LIBRARIES, *own, strict=True))
    same, call, every, pair, number = operator.is_, operator.call, all, map, enumerate

    def look() -> str:
        if every(pair(same, pair(call, lookups, names), values)):
            return ""
        for i, name in number(names):
            if lookups[i](name) is not values[i]:
                return told[i]
        return ""

    return look


def forbid(roots: Iterable[str], readable: Iterable[str]) -> None:
    """From now on refuse an answer that looks into frames, all objects, memory, or the course's files.

    Cannot be taken back. Landlock keeps the files where there is one; this also on macOS and Windows.
    """
    sys.meta_path.insert(0, NoSolutions())
    libraries = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
    inside = tuple(root + os.sep for root in roots)
    allowed = (*readable, *(path for path in (*libraries, sys.prefix) if path.startswith(inside)))
    course_code = tuple(root + name for root in inside for name in ("shared", "week"))
    helpers = ("inspect.py", "traceback.py")
    busy: list[str] = []

    def asked_by_answer() -> bool:
        frame = sys._getframe(2)
        while frame is not None and frame.f_code.co_filename.endswith(helpers):
            frame = frame.f_back
        name = "" if frame is None else frame.f_code.co_filename
        return not name.startswith((*libraries, *course_code, "<frozen"))

    def hook(event: str, arguments: tuple) -> None:
        if busy:
            return
        if event == "open":
            path = arguments[0]
            if isinstance(path, str) and path.startswith(inside) and not path.startswith(allowed):
                raise PermissionError(f"{REFUSAL}: {path}")
        elif (
            event in LOOKING
            or event.startswith("ctypes.")
            or (event == "object.__getattr__" and arguments[1] in FRAMES)
            or (event == "object.__setattr__" and arguments[1] == "__code__")
        ):
            busy.append(event)
            try:
                refused = asked_by_answer()
            finally:
                busy.clear()
            if refused:
                raise Refused(f"It looks into the grader ({event}): an answer may not.")

    sys.addaudithook(hook)
