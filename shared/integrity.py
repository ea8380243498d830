"""What an answer may not do to its own grade: change what the check uses, look into its frames, take the solutions.

This runs in the sandbox's child, beside the answer. The grade does not rest on it: the reference is in another
process, and so is the comparison. It keeps a check honest that compares something itself, and says plainly what was
tried.
"""

from __future__ import annotations

import builtins
import importlib.abc
import json
import math
import os
import random
import re
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

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


def unchanged(*modules) -> Callable[[], str]:
    """A function that says what has been changed since now in torch, NumPy, Python or these modules; "" for nothing.

    It uses no name that an answer could give another meaning.
    """
    import numpy
    import torch

    watched = [builtins, json, json.encoder, json.JSONEncoder, math, random, re, *modules]
    watched += [torch, torch.Tensor, torch.nn.Module, torch.nn.functional, torch.linalg, torch.autograd, torch.testing]
    watched += [torch.Generator, numpy, numpy.testing, numpy.linalg]
    entries = []
    for owner in watched:
        where = getattr(owner, "__name__", str(owner))
        for name, value in vars(owner).items():
            if callable(value) or isinstance(value, (property, staticmethod, classmethod)):
                entries.append((owner.__dict__, name, value, f"{where}.{name}"))

    def look() -> str:
        for space, name, value, told in entries:
            if name not in space or space[name] is not value:
                return told
        return ""

    return look


def forbid(root: Path, readable: tuple[str, ...]) -> None:
    """From now on refuse an answer that looks into frames, all objects, memory, or the course's files.

    Cannot be taken back. Landlock keeps the files where there is one; this also on macOS and Windows.
    """
    sys.meta_path.insert(0, NoSolutions())
    libraries = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
    inside = str(root) + os.sep
    allowed = (*readable, *(path for path in (*libraries, sys.prefix) if path.startswith(inside)))
    course_code = tuple(inside + name for name in ("shared", "week"))
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
