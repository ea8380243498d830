"""Around an answer that runs in the learner's own kernel: its time, what it prints, what it raises."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import functools
import io
import signal
import sys
import sysconfig
import threading
import time
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shared import course, globalstate
from shared.values import name_of, printable


class TimedOut(BaseException):
    """The answer took too long. Not an Exception, so that `except Exception` in an answer cannot swallow it."""


class time_limit:  # noqa: N801  used like a function, as contextlib.suppress is
    """Raise TimedOut in this thread after so many seconds: `with time_limit(10): ...`.

    It ends Python code, sleeping and waiting. After the first time it comes faster and faster: an answer may swallow
    it, and at some time it comes outside of the answer's `try`. A call of C code that never looks for signals, like
    `sum(range(10**12))`, cannot be ended from within: *Restart Kernel* ends it, and in the grade the sandbox does.
    """

    def __init__(self, seconds: float):
        self.seconds, self.start = seconds, time.monotonic()
        self.sounded, self.heard = 0, 0
        self.interrupted, self.ready, self.over = False, False, False
        self.thread, self.quit, self.sending = threading.get_ident(), threading.Event(), threading.Lock()
        self.handlers: dict[int, object] = {}
        self.timer, self.mask = (0.0, 0.0), None
        self.watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> time_limit:
        if threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer"):
            self.handlers[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._ring)
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                self.handlers[signal.SIGINT] = signal.signal(signal.SIGINT, self._interrupt)
            self.mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
            self.timer = signal.setitimer(signal.ITIMER_REAL, self.seconds, 0.5)
        with contextlib.suppress(RuntimeError):  # no more threads: the timer has to do
            self.watcher.start()
        self.ready = True
        return self

    def __exit__(self, *exception) -> None:
        while True:
            try:
                return self._end()
            except TimedOut:  # raised by the other thread at the last moment
                continue

    def _end(self) -> None:
        """Nothing is raised after this; what there was before is back."""
        self.over = True
        self.quit.set()
        if self.sending.acquire(timeout=1):  # what the watcher is sending comes now; it sends nothing more
            self.sending.release()
        if self.handlers:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if self.watcher.ident:
            self.watcher.join(timeout=1)  # a signal may have come to it
        if self.handlers:
            signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)  # what waits comes now, while it is ours
        while self.handlers:
            number, handler = self.handlers.popitem()
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if self.timer[0]:
            signal.setitimer(signal.ITIMER_REAL, max(self.timer[0] - self._passed(), 0.01), self.timer[1])

    def _passed(self) -> float:
        return time.monotonic() - self.start

    def _pause(self) -> float:
        """Seconds until the next alarm."""
        return max(0.3 * 0.1**self.sounded, 2e-5)

    def _ring(self, number, frame) -> None:
        self.heard += 1
        if not self.ready or self.over or _is_ours(frame) or self._passed() < self.seconds:
            return  # the timer goes on
        sys.settrace(None), sys.setprofile(None)  # an answer's own would be called in our frames, too
        signal.setitimer(signal.ITIMER_REAL, self._pause(), self._pause())
        self.sounded += 1
        raise TimedOut

    def _interrupt(self, number, frame) -> None:
        self.interrupted = True
        if not _is_ours(frame):
            raise KeyboardInterrupt

    def _watch(self) -> None:
        """Where there is no timer, and where the answer has reset it, or the handler, or blocks the signal."""
        pause, heard, since = self.seconds + (0.5 if self.handlers else 0), -1, 0.0
        while not self.quit.wait(pause):
            pause, now = max(self._pause(), 1e-3), time.monotonic()
            if heard != self.heard:
                heard, since = self.heard, now
            with self.sending:
                if self.over:  # a signal without our handler would end the process
                    return
                if self.handlers and signal.getsignal(signal.SIGALRM) == self._ring and now - since < 0.25:
                    signal.pthread_kill(self.thread, signal.SIGALRM)
                elif not _is_ours(sys._current_frames().get(self.thread)):
                    self.sounded += 1
                    _raise_in(self.thread, TimedOut)


_OURS = {f.__code__ for f in (*vars(time_limit).values(), globalstate._names_back) if hasattr(f, "__code__")}


def uninterrupted(function: Callable) -> Callable:
    """A decorator: a time limit waits until this function has returned. For a short end that must come whole."""
    _OURS.add(function.__code__)
    return function


def _is_ours(frame: types.FrameType | None) -> bool:
    """Whether this, or what called it, is a beginning or an end that an exception would leave half done."""
    depth = 0
    while frame is not None and frame.f_code not in _OURS and depth < 8:
        frame, depth = frame.f_back, depth + 1
    return frame is not None and depth < 8


def _raise_in(thread: int, error: type[BaseException]) -> None:
    """Have this exception come up in a thread as soon as that runs Python code."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))


class Bounded(io.StringIO):
    """Keeps the first few thousand characters that an answer prints; it cannot be closed."""

    def write(self, text: str) -> int:
        if self.tell() < 2000:
            super().write(text[:2000])
        return len(text)

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Failure:
    """An exception of an answer in words. The exception itself, and all that its frames hold, can go."""

    kind: str
    message: str = ""
    text: str = "an exception that cannot be told"  # the learner's own frames and the exception, ready to print
    in_answer: bool = False  # whether a frame of the learner's own code is in it
    todo: bool = False  # whether it is the one of an open exercise


def described(error: BaseException) -> Failure:
    """An exception in words, also where its own methods raise."""
    if type(error) is RuntimeError and type(error.__cause__) is StopIteration:
        error = error.__cause__  # it went through a generator of ours
    kind = name_of(type(error))
    try:
        message = " ".join(str(error)[:2000].split())
    except TimedOut:
        raise
    except BaseException as other:
        message = f"(its message cannot be read: that raises {name_of(type(other))})"
    frames = learner_frames(error)
    lines = [
        f"line {frame.lineno}, in {printable(frame.name, 60)}:  {printable(frame.line or '', 160)}" for frame in frames
    ]
    shown = printable(message, 400)
    if not frames and isinstance(error, TypeError):
        shown += "  (Raised where the check calls your code: compare its arguments with the exercise's signature.)"
    text = "\n".join([*lines, f"{kind}: {shown}".rstrip(": ")])
    own = not message or "your code" in message or any("NotImplementedError" in line for line in lines[-1:])
    return Failure(kind, printable(message, 300), text, bool(frames), isinstance(error, NotImplementedError) and own)


def learner_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The last four frames of the learner's own code, innermost last."""
    steps = traceback.walk_tb(error.__traceback__)
    last = collections.deque((s for s in steps if _is_learners(s[0].f_code.co_filename)), maxlen=4)
    return list(traceback.StackSummary.extract(last))


def learner_traceback(error: BaseException) -> str:
    """The frames of the learner's own code, then the exception; none of the course's."""
    return described(error).text


@functools.cache
def _is_learners(filename: str) -> bool:
    if filename.startswith("<") or "ipykernel" in filename or "ipython-input" in filename:
        return "frozen" not in filename
    path = Path(filename)
    libraries = {sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    if any(path.is_relative_to(folder) for folder in libraries) or "site-packages" in path.parts:
        return False
    inside = path.relative_to(course.ROOT).parts if path.is_relative_to(course.ROOT) else ("",)
    return inside[0] != "shared" and not inside[0].startswith("week")
