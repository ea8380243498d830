"""Run a check on an answer: observe, compare with the reference, name the mistake."""

from __future__ import annotations

import contextlib
import functools
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from shared import course
from shared.globalstate import global_state_kept
from shared.guard import Bounded, Failure, described, time_limit
from shared.observations import UNCHANGED, Difference, Observation, Recorder, compare
from shared.result import Result
from shared.values import Raised, brief, form_of, is_class, kind, name_of, snapshot

LESSON_SEED = 2026  # the lessons always show these inputs; the grade uses fresh ones
PATIENCE = 60.0  # seconds for the course's own code, which ends, however busy the machine is


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


def alike(one: object, other: object, rtol: float = 1e-4, atol: float = 1e-5) -> bool:
    """Whether two values are equal but for rounding: two runs of one model need not agree in the last bit."""
    difference = compare(snapshot(one), snapshot(other), rtol, atol)
    return difference is None or difference.kind == "detached"


@dataclass
class Run:
    """What a check saw of one answer; it can be told from one process to another."""

    observations: list[Observation]
    failure: Failure | None = None
    timed_out: bool = False
    printed: str = ""
    inputs: dict[str, object] = field(default_factory=dict)  # of the latest call
    changed: str | None = None  # the argument that was changed in place


def observe(
    check: Check, answer: object, seed: int, seconds: float, trusted: bool = True, enough: Callable | None = None
) -> Run:
    """All observations of one answer; an exception becomes the last of them. What it says is read under the limit too.

    Of what the answer gave only snapshots are left afterwards: none of its code runs when they are compared and shown.
    `enough(observations)` may end it earlier.
    """
    run, printed = Run([]), Bounded()
    errors: list[BaseException] = []
    streams = contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed)
    with global_state_kept(names=not trusted) as names_back, streams[0], streams[1]:
        try:
            with time_limit(seconds) as alarm:
                try:
                    _take_observations(run, check, answer, seed, enough)
                finally:
                    names_back()
        except BaseException as error:
            errors.append(error)
    run.printed, run.timed_out = printed.getvalue(), alarm.sounded > 0  # even if the answer went on after the alarm
    if errors:
        run.failure = _in_words(errors)
    if alarm.interrupted:
        raise KeyboardInterrupt
    if run.timed_out:
        run.failure = Failure("TimedOut", text="it took too long")
    if run.failure is not None:
        run.observations.append(Observation("", Raised(run.failure.kind, run.failure.message), run.inputs))
    return run


def _take_observations(run: Run, check: Check, answer: object, seed: int, enough: Callable | None) -> None:
    import torch

    target = answer if is_class(answer) else Recorder(answer)
    try:
        for label, value, *inputs in check.observe(target, torch.Generator().manual_seed(seed)):
            shown = snapshot(inputs[0]) if inputs else getattr(target, "inputs", {})
            run.observations.append(Observation(label, snapshot(value), dict(shown)))
            if enough is not None and enough(run.observations):
                break
    finally:
        run.inputs, run.changed = getattr(target, "inputs", {}), getattr(target, "changed", None)


def _in_words(errors: list[BaseException]) -> Failure:
    """What there is to tell of an exception. It is freed here, where the time is limited, with all its frames hold."""
    failure = Failure(name_of(type(errors[0])))
    with contextlib.suppress(BaseException), time_limit(1):
        failure = described(errors[0])
    with contextlib.suppress(BaseException), time_limit(1):
        traceback.clear_frames(errors[0].__traceback__)
    with contextlib.suppress(BaseException), time_limit(1):
        errors.clear()
    return failure


@functools.lru_cache(maxsize=1024)
def _expected(name: str, seed: int) -> Run:
    check = find_check(name)
    run = observe(check, course.reference(name), seed, seconds=PATIENCE)
    if run.failure is not None:
        raise RuntimeError(f"the check of {name} fails on the reference itself: {run.failure.text}")
    return run


class _Mistake:
    """What is seen of a known mistake, taken only as far as it is asked for: most of them part from an answer soon."""

    def __init__(self, name: str, sentence: str, seed: int):
        self.check, self.seed = find_check(name), seed
        made = self.check.mistakes[sentence]
        self.answer = made if callable(made) else course.edited(course.find(name), made)
        self.run, self.whole = Run([]), False

    def seen(self, enough: Callable) -> Run:
        """Its observations until they are enough, and all that were taken before."""
        if not enough(self.run.observations) and not self.whole:
            self.run = observe(self.check, self.answer, self.seed, seconds=PATIENCE, enough=enough)
            self.whole = not enough(self.run.observations)
        return self.run


_mistake = functools.lru_cache(maxsize=1024)(_Mistake)


class _Likeness:
    """How many observations, from the first on, an answer has alike with the reference or with a known mistake."""

    def __init__(self, check: Check, run: Run):
        self.check, self.run, self.alike = check, run, 0

    def __call__(self, observations: list[Observation]) -> bool:
        """Look at more of the other's observations, as they come: whether the answer's have parted from them."""
        for expected, got in zip(observations[self.alike :], self.run.observations[self.alike :], strict=False):
            if compare(expected.value, got.value, self.check.rtol, self.check.atol):
                break
            self.alike += 1
        return self.alike < len(observations)


def _differences(check: Check, expected: Run, run: Run) -> list[tuple[Observation, Observation | None, Difference]]:
    """Pairs that differ; observations that were never reached come with None."""
    found = []
    if run.changed != expected.changed:  # it spoils the observations after it, so it is the first thing to tell
        names = [Observation(UNCHANGED, changed) for changed in (expected.changed, run.changed)]
        found.append((*names, Difference("changed", f"the argument `{run.changed}` is changed in place")))
    for i, want in enumerate(expected.observations):
        if i >= len(run.observations):
            found.append((want, None, Difference("missing", "not reached")))
            continue
        got = run.observations[i]
        difference = compare(want.value, got.value, check.rtol, check.atol)
        if difference:
            found.append((replace(want, inputs=got.inputs or want.inputs), replace(got, label=want.label), difference))
    if run.failure is not None and not found:  # all was right until then
        last = run.observations[-1]
        found.append((Observation("the end of the check", None), last, Difference("raised", brief(last.value))))
    return found


def run_check(name: str, answer: object, *, seed: int | None = None, seconds: float | None = None) -> Result:
    """Judge any callable or class as an answer to the exercise `name`.

    `seed` chooses the inputs (None: those of the lesson); `seconds` bounds the answer's time (None: the check's own).
    """
    check = find_check(name)
    seed = LESSON_SEED if seed is None else seed
    if not callable(answer):
        text = f"{name} should be {form_of(course.reference(name))}, and this is {kind(answer)}."
        return Result(name, "error", error=text)
    expected = _expected(name, seed)
    start = time.perf_counter()
    run = observe(check, answer, seed, check.seconds if seconds is None else seconds, trusted=False)
    result = judge(check, seed, run)
    result.seconds = time.perf_counter() - start
    if not is_class(answer) and expected.changed is None:
        result.proved += (UNCHANGED,)
    if result.status in ("failed", "error") and form_of(answer) != form_of(course.reference(name)):
        result.notes = (f"`{name}` should be {form_of(course.reference(name))}; yours is {form_of(answer)}.",)
    return result


def judge(check: Check, seed: int, run: Run) -> Result:
    """Compare what a check saw of an answer with what it sees of the reference. Nothing of the answer runs here."""
    name, expected = check.name, _expected(check.name, seed)
    result = Result(name, "passed", proved=tuple(entry.label for entry in expected.observations), printed=run.printed)
    result.differing = _differences(check, expected, run)
    if not result.differing:
        return result
    if run.timed_out:
        result.status = "timeout"
        return result
    failure = run.failure
    if failure is not None and failure.todo:
        result.status = "todo"
        open_one = failure.message.partition(":")[0]  # a skeleton raises "name: your code, ..."
        if open_one != name and open_one in course.exercises():
            result.waits_for = open_one
        return result
    result.status = "failed"
    # Raised in the check itself, on a value that was wrong before: that value is what to tell.
    if failure is not None and (failure.in_answer or isinstance(result.differing[0][1].value, Raised)):
        result.status, result.error = "error", failure.text
    if not isinstance(run.observations[0].value, Raised):  # an exception at once says nothing of what was meant
        result.mistake = _name_mistake(check, seed, run)
        result.resembles = _name_resemblance(check, seed, run) if result.mistake is None else None
    return result


def _name_mistake(check: Check, seed: int, run: Run) -> str | None:
    """The known mistake whose observations all equal these, if there is one."""
    for sentence in check.mistakes:
        likeness = _Likeness(check, run)
        other = _mistake(check.name, sentence, seed).seen(likeness)
        same_end = likeness.alike == len(other.observations) == len(run.observations)
        if same_end and other.changed == run.changed:
            return sentence
    return None


def _name_resemblance(check: Check, seed: int, run: Run) -> str | None:
    """A known mistake that gives the same on the first observation that differs: one of several mistakes, perhaps."""
    expected = _expected(check.name, seed).observations
    right = _Likeness(check, run)
    if not right(expected):
        return None
    first, got = right.alike, run.observations[right.alike].value
    if compare(expected[first].value, got, check.rtol, check.atol).kind != "value":
        return None
    for sentence in check.mistakes:
        others = _mistake(check.name, sentence, seed).seen(lambda seen: len(seen) > first).observations
        if first < len(others) and not compare(others[first].value, got, check.rtol, check.atol):
            return sentence
    return None
