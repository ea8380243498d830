"""Around an answer that runs in the learner's own kernel: time, global state, what it prints, what it raises."""

from __future__ import annotations

import contextlib
import io
import signal
import sysconfig
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

from shared import course


class TimedOut(BaseException):
    """The answer took too long. Not an Exception, so that `except Exception` in an answer cannot swallow it."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimedOut in this thread after so many seconds; the alarm repeats in case it is swallowed."""
    if threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer"):

        def alarm(signum, frame):
            raise TimedOut

        before = signal.signal(signal.SIGALRM, alarm)
        signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    else:
        import ctypes

        target, done = ctypes.c_ulong(threading.get_ident()), threading.Event()

        def watch():
            if not done.wait(seconds):
                ctypes.pythonapi.PyThreadState_SetAsyncExc(target, ctypes.py_object(TimedOut))

        threading.Thread(target=watch, daemon=True).start()
        try:
            yield
        finally:
            done.set()


@contextlib.contextmanager
def global_state_kept() -> Iterator[None]:
    """Whatever an answer does to seeds, dtypes or grad mode ends with its check."""
    import random

    import torch

    dtype, grad, python_state = torch.get_default_dtype(), torch.is_grad_enabled(), random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            torch.set_grad_enabled(True)
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
        random.setstate(python_state)


class Bounded(io.StringIO):
    """Keeps the first few thousand characters that an answer prints."""

    def write(self, text: str) -> int:
        if self.tell() < 2000:
            super().write(text[:2000])
        return len(text)


def _is_learners(filename: str) -> bool:
    if filename.startswith("<") or "ipykernel" in filename or "ipython-input" in filename:
        return "frozen" not in filename
    path = Path(filename)
    libraries = {sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    if any(path.is_relative_to(folder) for folder in libraries) or "site-packages" in path.parts:
        return False
    inside = path.relative_to(course.ROOT).parts if path.is_relative_to(course.ROOT) else ("",)
    return inside[0] != "shared" and not inside[0].startswith("week")


def learner_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The frames of the learner's own code, innermost last."""
    return [frame for frame in traceback.extract_tb(error.__traceback__) if _is_learners(frame.filename)]


def learner_traceback(error: BaseException) -> str:
    """The frames of the learner's own code, then the exception; none of the course's."""
    frames = learner_frames(error)
    lines = [f"line {frame.lineno}, in {frame.name}:  {frame.line}" for frame in frames[-4:]]
    message = " ".join(str(error).split())
    message = message if len(message) <= 400 else message[:400] + " …"
    if not frames and isinstance(error, TypeError):
        message += "  (Raised where the check calls your code: compare its arguments with the exercise's signature.)"
    return "\n".join([*lines, f"{type(error).__name__}: {message}".rstrip(": ")])
