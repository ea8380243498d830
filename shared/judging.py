"""Judge one answer in two processes: one runs it and only tells what the check saw, the other compares.

    grader (ours): seed, stripped solutions ──> child: the answer, the check ──> what the check saw, as plain data
           compares with the reference, names the mistake <──────────────────────────────┘

The child has no reference of the exercise that it judges: its module there holds the skeleton. So an answer that
changes whatever it finds beside it can make false numbers, but does not learn the right ones.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import importlib
import importlib.abc
import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path

import torch

import shared
from shared import answers, checking, course, globalstate, guard, integrity, observations, values, wire
from shared.limits import Limits
from shared.sandbox import call

HIDDEN = ("solutions", "checks", "lessons", "questions")  # shelves that no child may read once the answer runs
# What PyTorch imports at the first tensor without data, and at the first compilation: ten seconds, not of the answer's.
DYNAMO = ("torch._dynamo", "torch._inductor.decomposition")


# In the grader's process


def judge(answer: answers.Answer, seed: int) -> dict:
    """Run the check of an answer in the sandbox. What comes back is not yet compared: `verdict` does that."""
    return prepared(answer, seed)()


def prepared(answer: answers.Answer, seed: int) -> Callable[[], dict]:
    """What runs the check, from any thread: it only waits for the sandbox. All that parses Python is done here."""
    exercise, check = course.find(answer.name), checking.find_check(answer.name)
    lends = [n for n in re.findall(r"\b(?:mine|borrow)\(\s*['\"](\w+)['\"]", answer.source) if n in course.exercises()]
    given = {name: course.find(name).module for name in sorted({*answer.provided, *lends} - {answer.name})}
    starts = (f"{exercise.week}.checks.{exercise.lesson}", exercise.module, *given.values(), *_helpers(answer.source))
    modules = sorted({module for start in starts for module in _reached(start)[0]})
    heavy = DYNAMO if re.search(r"['\"]meta['\"]|torch\.compile", answer.source) else ()
    return functools.partial(
        _run,
        observe,
        answer.source,
        sorted(answer.provided),
        seed,
        check.seconds,
        copies(),
        readable(),
        limits=Limits(seconds=2 * check.seconds + 10),
        preload=(*_preload(exercise.week), *heavy, "shared.judging"),
        prepare=(prepare, answer.name, exercise.module, stripped(exercise), modules, given),
        readable=readable(),
        private=copies(),
    )


def _run(*args, **how) -> dict:
    outcome = call(*args, **how)
    if outcome.passed:
        return {"saw": outcome.value, "seconds": outcome.seconds}
    status = outcome.status if outcome.status in ("timeout", "memory") else "error"
    return {"status": status, "error": outcome.error or outcome.status, "seconds": outcome.seconds}


def _helpers(source: str) -> list[str]:
    """The solutions modules of which an answer's cells import helpers and constants, as lessons do, but no exercise."""
    found = re.findall(r"^from (week\d+_\w+\.solutions\.\w+) import ([\w, ]+)$", source, re.MULTILINE)
    known = course.exercises()
    return [module for module, names in found if _module_file(module) and not known.keys() & set(names.split(", "))]


def verdict(name: str, seed: int, told: dict) -> tuple[str, str]:
    """(result, the mistake or the first difference) from what `judge` returned; what the child saw may be anything."""
    if "status" in told:
        return told["status"], told.get("error", "")
    check, saw = checking.find_check(name), told["saw"]
    try:
        if "refused" in saw:
            return "error", str(saw["refused"])[:500]
        seen = [observations.Observation(str(label), wire.unpack(value)) for label, value in saw["seen"]]
        changed = saw["changed"] if saw["changed"] is None else str(saw["changed"])
        timed_out = saw["timed out"] is True
        run = checking.Run(seen, _failure(saw["failure"]), timed_out, changed=changed)
        result = checking.judge(check, seed, run)
        if result.passed or result.status in ("todo", "timeout"):
            return result.status, ""
        if result.mistake or result.error:
            return result.status, result.mistake or result.error.splitlines()[-1]
        _, _, difference = result.differing[0]
        return result.status, f"{result.observation}: {difference.text}"
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, RecursionError):
        return "error", "What it returns cannot be compared."


def _failure(told: list | None) -> guard.Failure | None:
    if told is None:
        return None
    kind, message, text, in_answer, todo = told
    return guard.Failure(str(kind), str(message), str(text), in_answer is True, todo is True)


@functools.cache
def version(name: str) -> str:
    """Changes when anything does that decides on the grade of an exercise: its week's sources, the grader, PyTorch."""
    files = [p for week in course.weeks()[: course.weeks().index(course.find(name).week) + 1] for p in _sources(week)]
    digest = hashlib.sha256(f"{sys.version_info[:2]} {torch.__version__}".encode())
    for path in [*files, *sorted((course.ROOT / "shared").glob("*.py"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _sources(week: str) -> list[Path]:
    return [path for shelf in ("solutions", "checks") for path in sorted((course.ROOT / week / shelf).glob("*.py"))]


@functools.cache
def stripped(exercise: course.Exercise) -> str:
    """The solutions module with the skeleton in the place of this exercise."""
    text = exercise.path.read_text(encoding="utf-8")
    if text.count(exercise.source) != 1:
        raise course.SourceError(exercise.path, exercise.line, f"{exercise.name} does not stand there just once")
    return text.replace(exercise.source, exercise.skeleton)


@functools.cache
def copies() -> tuple[str, ...]:
    """The folders that modules come from and that hold the course; not one with all packages, which are needed."""
    holding = [path for path in sys.path if path and any(Path(path).glob("week[0-9]*_*/solutions"))]
    return tuple(dict.fromkeys([str(course.ROOT), *(path for path in holding if "-packages" not in path)]))


@functools.cache
def readable() -> tuple[str, ...]:
    """What of the course's folder a child may read: the shared package, and the weeks' own modules."""
    found = [course.ROOT / "shared"]
    for week in course.weeks():
        found += [p for p in sorted((course.ROOT / week).iterdir()) if p.suffix != ".ipynb" and p.name not in HIDDEN]
    return tuple(str(path) for path in found)


def _module_file(name: str) -> Path | None:
    path = course.ROOT.joinpath(*name.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


@functools.cache
def _imports(path: Path) -> tuple[str, ...]:
    """What a file imports, anywhere in it: `module` or `module:name`."""
    found: dict[str, None] = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.update((f"{node.module}:{alias.name}", None) for alias in node.names)
    return tuple(found)


@functools.cache
def _reached(start: str) -> tuple[str, ...]:
    """The weeks' modules behind this one, itself first; then what these and `shared`'s modules import."""
    own, elsewhere, queue, shared_ones = {}, {}, [start], {}
    while queue:
        name = queue.pop()
        if name in own or name in shared_ones:
            continue
        (shared_ones if name.startswith("shared.") else own)[name] = None
        if name == "shared.checking":  # it can do more, with more packages, than a child asks of it
            continue
        for one in _imports(_module_file(name)):
            module, _, attribute = one.partition(":")
            inner = f"{module}.{attribute}"
            if attribute and _module_file(inner):
                queue.append(inner)
            elif _module_file(module):
                queue.append(module)
            elif not module.startswith("week"):
                elsewhere[one] = None
    return tuple(own), (*elsewhere, *shared_ones)


@functools.cache
def _preload(week: str) -> tuple[str, ...]:
    """The packages that the checks of a week need, not its solutions: no answer is to find them in memory."""
    lessons = dict.fromkeys(e.lesson for e in course.exercises().values() if e.week == week)
    shelves = [f"{week}.{shelf}.{lesson}" for lesson in lessons for shelf in ("checks", "solutions")]
    return tuple(sorted({one for module in shelves for one in _reached(module)[1]}))


# In the child's process


_given: dict[str, object] = {}
_checks: dict[str, checking.Check] = {}
_callers: list[tuple[dict, str]] = []  # where the exercise's name stands in the course: they get the answer


class _Stripped(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one solutions module from the source that the grader sent."""

    def __init__(self, module: str, source: str):
        self.module, self.source = module, source

    def find_spec(self, name, path=None, target=None):
        return importlib.util.spec_from_loader(name, self) if name == self.module else None

    def exec_module(self, module):
        filename = str(course.ROOT.joinpath(*self.module.split("."))) + ".py"
        exec(compile(self.source, filename, "exec", dont_inherit=True), module.__dict__)


def prepare(name: str, module: str, source: str, modules: list[str], given: dict[str, str]) -> None:
    """Import all that the check needs, before the answer is there and while the files can be read."""
    finder = _Stripped(module, source)
    sys.meta_path.insert(0, finder)
    for one in modules:
        importlib.import_module(one)
    _given.update({other: getattr(sys.modules[where], other) for other, where in given.items()})
    open_still = getattr(sys.modules[module], name)
    for one in modules:
        space = vars(sys.modules[one])
        _callers.extend((space, other) for other, value in space.items() if value is open_still)
    _checks[name] = dataclasses.replace(checking._CHECKS[name], mistakes={}, hints=())
    checking._CHECKS.clear()
    finder.source = ""


def lend(name: str) -> object:
    """`mine` and `borrow` for an answer that is graded: the course's own, of what its cells ask for by name."""
    if name not in _given:
        raise LookupError(f"{name}: {integrity.REFUSAL}")
    return _given[name]


def observe(source: str, provided: list[str], seed: int, seconds: float, roots: list[str], files: list[str]) -> dict:
    """What the check saw of an answer, as plain data. Called in the sandbox, after `prepare`."""
    ((name, check),) = _checks.items()
    shared.mine = shared.borrow = lend
    own = (answers, checking, globalstate, guard, observations, values, wire, integrity, sys.modules[__name__])
    own += (observations.Recorder, sys.modules[check.observe.__module__])
    changed = integrity.unchanged(own, besides={other for _, other in _callers})
    see, tell, load = checking.observe, _told, answers.load
    integrity.forbid(roots, files)
    first = ""

    def watched(target, rng):
        nonlocal first
        for entry in check.observe(target, rng):
            first = first or changed()
            yield entry

    try:
        answer = load(answers.Answer(name, source, frozenset(provided)), {other: _given[other] for other in provided})
    except integrity.Refused as error:
        return {"refused": str(error)}
    except Exception as error:
        return {"refused": guard.learner_traceback(error).splitlines()[-1]}
    for space, other in _callers:
        space[other] = answer
    first = changed()
    if not callable(answer):
        return {"refused": f"{name} should be a function or class, and this is {values.kind(answer)}."}
    told = tell(see(dataclasses.replace(check, observe=watched), answer, seed, seconds))
    first = first or changed()
    if first:
        return {"refused": f"It changes {first}, which is not its own: an answer may not."}
    return told


def _told(run: checking.Run) -> dict:
    failure = run.failure
    if failure is not None and failure.kind == integrity.Refused.__name__:
        return {"refused": failure.message}
    return {
        "seen": [[entry.label, wire.pack(entry.value)] for entry in run.observations],
        "changed": run.changed,
        "timed out": run.timed_out,
        "failure": None if failure is None else list(dataclasses.astuple(failure)),
    }
