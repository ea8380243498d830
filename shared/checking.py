"""Run a check on an answer: observe, compare with the reference, name the mistake."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import signal
import sysconfig
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from shared import course
from shared.observations import UNCHANGED, Difference, Observation, Raised, Recorder, compare, size, snapshot


LESSON_SEED = 2026  # the lessons always show these inputs; the grade uses fresh ones


@dataclass(frozen=True)
class Check:
    """How one exercise is judged, and what goes with it: the hints and the known mistakes."""

    name: str
    observe: Callable
    mistakes: dict[str, course.Edits | Callable]
    hints: tuple[str, ...]
    difficulty: int
    minutes: int
    rtol: float
    atol: float
    seconds: float


@dataclass
class Result:
    """What a check found. The card, the grade and the tests are all made from it."""

    name: str
    status: str  # passed, failed, todo, error, timeout
    seconds: float = 0.0
    proved: tuple[str, ...] = ()  # the labels of all observations
    differing: list[tuple[Observation, Observation | None, Difference]] = field(default_factory=list)
    mistake: str | None = None
    error: str | None = None  # the learner's own frames and the exception, ready to print
    printed: str = ""
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return self.status == "passed"

    @property
    def observation(self) -> str | None:
        """The label of the first observation that differs."""
        return self.differing[0][0].label if self.differing else None

    @property
    def smallest(self) -> tuple[Observation, Observation | None, Difference] | None:
        """The observation that differs on the least input: the one to show."""
        if self.observation == UNCHANGED:
            return self.differing[0]
        reached = [entry for entry in self.differing if entry[1] is not None] or self.differing
        return min(reached, key=lambda entry: size(entry[0].inputs) or 10**9, default=None)

    @property
    def card(self):
        from shared.cards import ResultCard

        return ResultCard(self)


_CHECKS: dict[str, Check] = {}


def observes(
    name: str,
    *,
    mistakes: dict[str, course.Edits | Callable],
    hints: tuple[str, str, str],
    difficulty: int = 2,
    minutes: int = 10,
    rtol: float = 1e-4,
    atol: float = 1e-5,
    seconds: float = 10.0,
) -> Callable:
    """Register a generator `check(answer, rng)` that yields `(label, value)` or `(label, value, inputs)`."""

    def register(observe: Callable) -> Callable:
        _CHECKS[name] = Check(name, observe, mistakes, tuple(hints), difficulty, minutes, rtol, atol, seconds)
        return observe

    return register


def find_check(name: str) -> Check:
    """The check of an exercise; LookupError where there is none."""
    if name not in _CHECKS:
        exercise = course.find(name)
        course.import_week_module(exercise.week, "checks", exercise.lesson)
    if name not in _CHECKS:
        raise LookupError(f"{exercise.week}/checks/{exercise.lesson}.py has no check that observes {name!r}.")
    return _CHECKS[name]


def raised(function: Callable, *args, **kwargs) -> str:
    """Call, and tell the name of the exception that came, or "nothing": for observations of bad input."""
    try:
        function(*args, **kwargs)
    except NotImplementedError:
        raise
    except Exception as error:
        return type(error).__name__
    return "nothing"


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
def _global_state_kept() -> Iterator[None]:
    """Whatever an answer does to seeds, dtypes or grad mode ends with its check."""
    import random

    import torch

    dtype, grad, python_state = torch.get_default_dtype(), torch.is_grad_enabled(), random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(LESSON_SEED)
            torch.set_grad_enabled(True)
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
        random.setstate(python_state)


class _Bounded(io.StringIO):
    """Keeps the first few thousand characters that an answer prints."""

    def write(self, text: str) -> int:
        if self.tell() < 2000:
            super().write(text[:2000])
        return len(text)


@dataclass
class _Run:
    observations: list[Observation]
    exception: BaseException | None
    printed: str


def _observe(check: Check, answer: object, seed: int, seconds: float) -> _Run:
    """All observations of one answer; an exception becomes the last of them."""
    import torch

    target = answer if inspect.isclass(answer) else Recorder(answer)
    seen: list[Observation] = []
    printed = _Bounded()
    problem: BaseException | None = None
    with _global_state_kept(), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            with time_limit(seconds):
                for label, value, *inputs in check.observe(target, torch.Generator().manual_seed(seed)):
                    shown = inputs[0] if inputs else getattr(target, "inputs", {})
                    seen.append(Observation(label, snapshot(value), dict(shown)))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            problem = error
            message = "" if isinstance(error, TimedOut) else " ".join(str(error).split())[:300]
            inputs = dict(getattr(target, "inputs", {}))
            seen.append(Observation("", Raised(type(error).__name__, message), inputs))
    if isinstance(target, Recorder) and problem is None:
        seen.append(Observation(UNCHANGED, target.changed or "unchanged"))
    return _Run(seen, problem, printed.getvalue())


@functools.lru_cache(maxsize=64)
def _expected(name: str, seed: int) -> tuple[Observation, ...]:
    check = find_check(name)
    run = _observe(check, course.reference(name), seed, seconds=60)
    if run.exception is not None:
        raise RuntimeError(f"the check of {name} fails on the reference itself") from run.exception
    return tuple(run.observations)


@functools.lru_cache(maxsize=1024)
def _of_mistake(name: str, sentence: str, seed: int) -> tuple[Observation, ...]:
    check = find_check(name)
    made = check.mistakes[sentence]
    wrong = made if callable(made) else course.edited(course.find(name), made)
    return tuple(_observe(check, wrong, seed, seconds=5).observations)


def _differences(check: Check, expected, got) -> list[tuple[Observation, Observation | None, Difference]]:
    """Pairs that differ; observations that were never reached come with None."""
    found = []
    for i, want in enumerate(expected):
        if i < len(got):
            difference = compare(want.value, got[i].value, check.rtol, check.atol)
            if difference:
                seen = replace(got[i], label=want.label)
                found.append((replace(want, inputs=got[i].inputs or want.inputs), seen, difference))
        elif not (i == len(expected) - 1 and want.label == UNCHANGED):
            found.append((want, None, Difference("missing", "not reached")))
    # An argument changed in place spoils the observations after it: it is the first thing to tell.
    return sorted(found, key=lambda entry: entry[0].label != UNCHANGED)


def run_check(name: str, answer: object, *, seed: int | None = None, seconds: float | None = None) -> Result:
    """Judge any callable or class as an answer to the exercise `name`.

    `seed` chooses the inputs (None: those of the lesson); `seconds` bounds the answer's time (None: the check's own).
    """
    check = find_check(name)
    seed = LESSON_SEED if seed is None else seed
    if not callable(answer):
        kind = type(answer).__name__
        return Result(name, "error", error=f"{name} should be a function or class, and is of type {kind}.")
    expected = _expected(name, seed)
    start = time.perf_counter()
    run = _observe(check, answer, seed, check.seconds if seconds is None else seconds)
    proved = tuple(entry.label for entry in expected)
    result = Result(name, "passed", time.perf_counter() - start, proved, printed=run.printed)
    result.differing = _differences(check, expected, run.observations)
    if not result.differing:
        return result
    if isinstance(run.exception, NotImplementedError):
        result.status = "todo"
        return result
    if isinstance(run.exception, TimedOut):
        result.status = "timeout"
        return result
    if run.exception is not None:
        result.status, result.error = "error", learner_traceback(run.exception)
    else:
        result.status = "failed"
    result.mistake = _name_mistake(check, seed, run.observations)
    return result


def _name_mistake(check: Check, seed: int, got: list[Observation]) -> str | None:
    """The known mistake whose observations all equal these, if there is one."""
    for sentence in check.mistakes:
        other = _of_mistake(check.name, sentence, seed)
        if len(other) == len(got) and not any(
            compare(theirs.value, mine.value, check.rtol, check.atol) for theirs, mine in zip(other, got, strict=True)
        ):
            return sentence
    return None


def _is_learners(filename: str) -> bool:
    if filename.startswith("<") or "ipykernel" in filename or "ipython-input" in filename:
        return "frozen" not in filename
    path = Path(filename)
    libraries = {sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    if any(path.is_relative_to(folder) for folder in libraries) or "site-packages" in path.parts:
        return False
    inside = path.relative_to(course.ROOT).parts if path.is_relative_to(course.ROOT) else ("",)
    return inside[0] != "shared" and not inside[0].startswith("week")


def learner_traceback(error: BaseException) -> str:
    """The frames of the learner's own code, innermost last, then the exception; none of the course's."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_learners(f.filename)]
    lines = [f"line {frame.lineno}, in {frame.name}:  {frame.line}" for frame in frames[-4:]]
    message = " ".join(str(error).split())
    message = message if len(message) <= 400 else message[:400] + " …"
    if not frames and isinstance(error, TypeError):
        message += "  (Raised where the check calls your code: compare its arguments with the exercise's signature.)"
    return "\n".join([*lines, f"{type(error).__name__}: {message}".rstrip(": ")])
