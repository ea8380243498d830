# ruff: noqa: B012, SIM105, SIM115
"""Answers that no check expects: what each does, and what its card may say. `tests/test_hostile.py` runs them.

As a program (`python -m tests.hostile RESULTS EXERCISE [NAME ...]`) it judges them one after the other in one process
and writes a line of JSON for each: an answer that ends or hangs the process is the last one in the file.
"""

from __future__ import annotations

import atexit
import builtins
import ctypes
import decimal
import fractions
import functools
import gc
import inspect
import itertools
import json
import logging
import math
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import numpy
import torch

LIMIT = 0.4  # seconds that each answer gets
REFUSED = ("failed", "error")


@dataclass(frozen=True)
class Hostile:
    """`make(reference)` gives the answer; its result has one of the statuses, and the card holds all of `says`."""

    name: str
    make: Callable
    statuses: tuple[str, ...]
    says: str = ""


TABLE: dict[str, Hostile] = {}


def add(name: str, make: Callable, *statuses: str, says: str = "") -> None:
    assert name not in TABLE, name
    TABLE[name] = Hostile(name, make, statuses or REFUSED, says)


def acting(reference: object, act: Callable) -> object:
    """The reference (of a class, its methods) where each call gives `act(call)`; `call()` is the right result."""
    if not inspect.isclass(reference):

        @functools.wraps(reference)
        def answer(*args, **kwargs):
            return act(lambda: reference(*args, **kwargs))

        return answer
    module = issubclass(reference, torch.nn.Module)
    methods = ["forward"] if module else [m for m in vars(reference) if not m.startswith("_")]

    def changed(method):
        return lambda self, *args, **kwargs: act(lambda: method(self, *args, **kwargs))

    found = {name: getattr(reference, name) for name in methods}
    return type(reference.__name__, (reference,), {n: changed(m) for n, m in found.items() if callable(m)})


def returns(name: str, change: Callable, *statuses: str, says: str = "") -> None:
    """An answer whose calls give `change(right result)`."""
    add(name, lambda reference: acting(reference, lambda call: change(call())), *statuses, says=says)


def does(name: str, act: Callable, *statuses: str, says: str = "") -> None:
    """An answer that does this at each call and then gives the right result."""

    def act_first(call):
        act()
        return call()

    add(name, lambda reference: acting(reference, act_first), *statuses, says=says)


# What it gives back


class Loops:
    """Every question to it is answered by an endless loop."""

    def _loop(self, *args):
        while True:
            pass

    __repr__ = __str__ = __eq__ = __len__ = __bool__ = __iter__ = __hash__ = __getattr__ = __float__ = __add__ = _loop


class Raises:
    """Every question to it is answered by an exception."""

    def _raise(self, *args):
        raise ValueError("hostile")

    __repr__ = __str__ = __eq__ = __len__ = __bool__ = __iter__ = __hash__ = __getattr__ = __float__ = __add__ = _raise
    __del__ = _raise


class Recurses:
    def __repr__(self):
        return repr(self)

    __str__ = __repr__

    def __getattr__(self, name):
        return getattr(self, name + "_")

    def __eq__(self, other):
        return self == other

    __hash__ = None


class LiesAboutItsClass:
    @property
    def __class__(self):
        raise ValueError("no class")


class LoopsWhenFreed:
    def __del__(self):
        while True:
            pass


class BadText(str):
    def __eq__(self, other):
        raise ValueError

    __hash__ = str.__hash__
    __repr__ = __str__ = __len__ = __iter__ = __getitem__ = split = Raises._raise


class BadList(list):
    __iter__ = __len__ = __eq__ = __repr__ = __getitem__ = Loops._loop


class BadDict(dict):
    __iter__ = __len__ = __eq__ = __repr__ = __getitem__ = keys = items = values = Raises._raise


class BadInt(int):
    __eq__ = __repr__ = __index__ = __int__ = __float__ = __lt__ = __add__ = Raises._raise
    __hash__ = int.__hash__


class BadTensor(torch.Tensor):
    @classmethod
    def __torch_function__(cls, *args, **kwargs):
        raise ValueError("no torch function")


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def self_referring() -> list:
    value: list = [1.0]
    value += [value, value, {"again": value}]
    return value


async def coroutine():
    return 1


def endless():
    while True:
        yield 1


class _Meta(type):
    def __getattribute__(cls, name):
        raise ValueError(name)


def _on_tensors(change: Callable) -> Callable:
    return lambda value: change(value) if isinstance(value, torch.Tensor) else change(torch.ones(3))


for _name, _value in {
    "None": lambda: None,
    "NotImplemented": lambda: NotImplemented,
    "an ellipsis": lambda: ...,
    "a class": lambda: int,
    "a class whose metaclass raises": lambda: _Meta("X", (), {}),
    "a class without a name": lambda: type("", (), {})(),
    "a class with a name of 100 kB": lambda: type("X" * 100_000, (), {})(),
    "a module": lambda: math,
    "a lambda": lambda: lambda: 1,
    "a partial": lambda: functools.partial(print),
    "a generator": lambda: (i for i in range(3)),
    "an endless generator": endless,
    "an endless C iterator": lambda: itertools.count(),
    "an endless C iterator without memory": lambda: itertools.repeat(0),
    "a range of 10**12": lambda: range(10**12),
    "a Decimal": lambda: decimal.Decimal("sNaN"),
    "a Fraction": lambda: fractions.Fraction(1, 3),
    "a complex number": lambda: 1 + 2j,
    "an int of 5,000 digits": lambda: 10**5000,
    "an infinite float": lambda: math.inf,
    "100 MB of text": lambda: "x" * 10**8,
    "100 MB of bytes": lambda: b"x" * 10**8,
    "lists 10,000 deep": lambda: nested(10_000),
    "a list that holds itself": self_referring,
    "a million items": lambda: [1.0] * 10**6,
    "10**9 elements": lambda: torch.ones(1).expand(10**9),
    "10**9 rows of nothing": lambda: torch.ones(10**9, 0),
    "a tensor without elements": lambda: torch.ones(0),
    "a sparse tensor": lambda: torch.eye(3).to_sparse(),
    "a nested tensor": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "a quantized tensor": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    "a NumPy array": lambda: numpy.ones((2, 3)),
    "an array of objects": lambda: numpy.array([Raises(), 1], dtype=object),
    "every question loops": Loops,
    "every question raises": Raises,
    "every question recurses": Recurses,
    "a list of what loops": lambda: [Loops(), Loops()],
    "a dict of what raises": lambda: {"a": Raises(), BadText("b"): Loops()},
    "no __class__": LiesAboutItsClass,
    "text of a bad class": lambda: BadText("abc"),
    "a list of a bad class": lambda: BadList([1, 2, 3]),
    "a dict of a bad class": lambda: BadDict(a=1),
    "an int of a bad class": lambda: BadInt(3),
    "a mock": mock.MagicMock,
    "a mock of a list": lambda: mock.MagicMock(spec=list),
    "a mock of a tensor": lambda: mock.MagicMock(spec=torch.Tensor),
    "text that is HTML": lambda: "<script>alert(1)</script>`<b>`",
    "text with lone surrogates": lambda: "\ud800\x1b[31m\u202e",
}.items():
    returns(f"gives {_name}", lambda result, value=_value: value(), *REFUSED, "timeout")

returns("gives an async result", lambda result: coroutine())
returns("gives a tensor of a bad class", _on_tensors(lambda t: t.detach().clone().as_subclass(BadTensor)), *REFUSED)
returns("gives a tensor on the meta device", _on_tensors(lambda t: t.to("meta")), "timeout", *REFUSED)  # slow at first
returns("gives a list of the tensor", _on_tensors(lambda t: t.tolist()))
returns("gives nan", _on_tensors(lambda t: t * torch.nan))
returns("gives inf", _on_tensors(lambda t: t + torch.inf))
returns("gives float64", _on_tensors(lambda t: t.double() + 1))
returns("gives half precision", _on_tensors(lambda t: t.half() + 1))
returns("gives integers", _on_tensors(lambda t: t.long() + 1))
returns("gives complex numbers", _on_tensors(lambda t: t + 1j))
returns("gives one more axis", _on_tensors(lambda t: t[None]))
returns("gives what loops when freed", lambda result: LoopsWhenFreed(), *REFUSED, "timeout")


# What it is


def _generator_function(*args, **kwargs):
    yield 1


async def _async_function(*args, **kwargs):
    return 1


class _Callable:
    def __call__(self, *args, **kwargs):
        raise ValueError("called")

    __getattr__ = __repr__ = __eq__ = __len__ = __bool__ = Raises._raise
    __hash__ = object.__hash__


class _LoopingCallable:
    def __call__(self, *args, **kwargs):
        return Loops()

    __getattr__ = Loops._loop


class _BadClass:
    def __new__(cls, *args, **kwargs):
        raise ValueError("no instance")


for _name, _value in {
    "None": None,
    "a number": 3,
    "a module": math,
    "an instance": object(),
    "a property": property(lambda self: 1),
    "text": "def attention(): ...",
    "no __class__": LiesAboutItsClass(),
}.items():
    add(f"is {_name}", lambda reference, value=_value: value, "error", says="should be a ")

add("is a lambda without arguments", lambda reference: lambda: None, says="Error")
add("is a generator function", lambda reference: _generator_function, says="yours is a function with `yield`")
add("is an async function", lambda reference: _async_function, says="yours is an `async` function")
add("is a built-in function", lambda reference: len)
add("is `print`", lambda reference: print)
add("is a partial", lambda reference: functools.partial(print, "a"))
add("is a mock", lambda reference: mock.MagicMock(), *REFUSED, "timeout")
add("is a torch module", lambda reference: torch.nn.Identity())
add("is a class that takes anything", lambda reference: type("X", (), {"__init__": lambda self, *args, **kw: None}))
add("is a class that gives no instance", lambda reference: _BadClass)
add("is a function for a class and the other way round", lambda reference: (
    (lambda *args, **kwargs: None) if inspect.isclass(reference) else type("X", (), {})
), says="; yours is a")  # fmt: skip
add("is a callable that raises", lambda reference: _Callable())
add("is a callable that loops", lambda reference: _LoopingCallable(), *REFUSED, "timeout")
add("is a class whose metaclass raises", lambda reference: _Meta("X", (), {}))
add("is a function with a bad signature", lambda reference: _with_signature(3))
add("is a function with a signature that raises", lambda reference: _with_signature(Raises()))


def _with_signature(signature: object) -> Callable:
    def answer(*args, **kwargs):
        return None

    answer.__signature__ = signature
    return answer


# What it raises


class NoText(Exception):
    def __str__(self):
        raise ValueError("no text")

    __repr__ = __str__


class LoopingText(Exception):
    def __str__(self):
        while True:
            pass

    __repr__ = __str__


class OddText(Exception):
    def __str__(self):
        return BadText("odd")


class OwnBase(BaseException):
    pass


def raising(error: Callable) -> Callable:
    def act():
        raise error()

    return act


def chained():
    error = None
    for i in range(2000):
        error, before = ValueError(i), error
        error.__cause__ = before
    return error


def not_yet():
    raise NotImplementedError("later")


def recursion():
    return recursion() + 1


for _name, _error in {
    "without a message": ValueError,
    "with a message of 10 MB": lambda: ValueError("long " * 2_000_000),
    "with HTML": lambda: ValueError("<script>alert(1)</script>"),
    "with escapes": lambda: ValueError("\x1b[31m\ud800\x00\u202e"),
    "that cannot be told": NoText,
    "whose telling loops": LoopingText,
    "whose text is of a bad class": OddText,
    "with a name of 100 kB": lambda: type("X" * 100_000, (Exception,), {})("a"),
    "with 2,000 causes": chained,
    "of a BaseException": lambda: OwnBase("mine"),
    "SystemExit": lambda: SystemExit(0),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "StopIteration": lambda: StopIteration("done"),
    "StopAsyncIteration": StopAsyncIteration,
    "MemoryError": MemoryError,
    "a group of errors": lambda: ExceptionGroup("many", [ValueError(i) for i in range(5000)]),
}.items():
    does(f"raises: {_name}", raising(_error), "error", says="Next: `hint(")

does("raises: what PyTorch cannot do", lambda: torch.ones(2, device="meta").tolist(), "error", says="NotImplemented")
does("raises: still to do", not_yet, "todo")
does("recurses without end", recursion, "error", says="RecursionError")
does("recurses in its repr", lambda: repr(Recurses()), "error", says="RecursionError")


# What never ends


def loop():
    while True:
        pass


def loop_swallowing_exceptions():
    while True:
        try:
            loop()
        except Exception:
            pass


def loop_swallowing_everything():
    while True:
        try:
            loop()
        except BaseException:
            pass


def loop_retrying():
    while True:
        try:
            raise ValueError
        except:  # noqa: E722
            continue


def loop_in_finally():
    while True:
        try:
            time.sleep(10)
        finally:
            continue


def sleep_swallowing_everything():
    while True:
        try:
            time.sleep(1000)
        except BaseException:
            pass


def without_timer():
    signal.setitimer(signal.ITIMER_REAL, 0)
    loop()


def without_handler():
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    loop()


def with_signals_blocked():
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    loop()


def deadlock():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def right_after_an_alarm():
    try:
        loop()
    except BaseException:
        pass


def loop_printing():
    while True:
        print("x" * 1000)


def loop_with_trace():
    sys.settrace(lambda *args: None)
    loop()


for _name, _loop in {
    "a loop": loop,
    "a loop that swallows exceptions": loop_swallowing_exceptions,
    "a loop that swallows everything": loop_swallowing_everything,
    "a loop that tries again": loop_retrying,
    "a loop in a finally": loop_in_finally,
    "sleep": lambda: time.sleep(1000),
    "sleep that swallows everything": sleep_swallowing_everything,
    "a loop without the timer": without_timer,
    "a loop without the handler": without_handler,
    "a loop with all signals blocked": with_signals_blocked,
    "a deadlock": deadlock,
    "waiting for an event": lambda: threading.Event().wait(),
    "a result after the alarm": right_after_an_alarm,
    "a loop that prints": loop_printing,
    "a traced loop": loop_with_trace,
    "a regular expression": lambda: re.match(r"(a+)+$", "a" * 60 + "b"),
    "a big power": lambda: 3 ** (10**8),
    "a thread that is waited for": lambda: threading.Thread(target=time.sleep, args=(3,), daemon=True).run(),
}.items():
    does(f"never ends: {_name}", _loop, "timeout", says="too long")


# What it leaves behind, with the right result


def vandalise_seeds():
    random.seed(1)
    numpy.random.seed(1)
    torch.manual_seed(1)


def vandalise_torch():
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.use_deterministic_algorithms(True)
    torch.set_float32_matmul_precision("medium")
    torch.autograd.set_detect_anomaly(True)


_KEPT_MODES = []


def vandalise_modes():
    for mode in (torch.inference_mode(), torch.autocast("cpu"), torch.no_grad()):
        mode.__enter__()
        _KEPT_MODES.append(mode)


def vandalise_python():
    warnings.simplefilter("error")
    os.environ["HOSTILE"] = "1"
    os.environ.pop("PATH", None)
    os.chdir("/")
    sys.path.insert(0, "/hostile")
    sys.setrecursionlimit(5000)
    sys.setprofile(lambda *args: None)
    sys.setswitchinterval(0.5)
    sys.stdout = sys.stderr = None
    gc.disable()
    numpy.seterr(all="raise")
    signal.signal(signal.SIGTERM, lambda *args: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_VIRTUAL, 100)


def vandalise_names():
    builtins.len = builtins.isinstance = builtins.type = lambda *args: 1 / 0
    builtins.repr = builtins.all = builtins.max = builtins.issubclass = builtins.vars = None
    torch.softmax = torch.Tensor.__add__ = torch.allclose = torch.isclose = lambda *args, **kwargs: torch.ones(1)
    torch.Tensor.hostile = lambda self: None
    torch.nn.Module.__call__ = torch.nn.functional.softmax = math.sqrt = time.monotonic = None
    sys.modules["torch"] = types.ModuleType("torch")
    sys.modules.pop("json")
    signal.setitimer = signal.signal = None
    del os.getcwd


def close_streams():
    print("said")
    sys.stdout.close()
    sys.stderr.close()


def write_megabytes():
    for stream in (sys.stdout, sys.stderr):
        stream.write("x" * 5_000_000)
    os.write(1, b"x" * 5_000_000)


def leave_threads():
    for daemon in (True, False):
        threading.Thread(target=time.sleep, args=(60,), daemon=daemon).start()


_LEFT = []


def leave_things():
    if not _LEFT:
        _LEFT.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(20)"]))
    _LEFT.append(open(os.devnull))  # noqa: SIM115
    atexit.register(lambda: 1 / 0)
    logging.getLogger().warning("said")
    warnings.warn("said", stacklevel=1)
    ctypes.pythonapi.PyErr_CheckSignals()


does("leaves other seeds", vandalise_seeds, "passed", "failed")
does("leaves other settings of torch", vandalise_torch, "passed", "timeout", *REFUSED)
does("leaves modes that it entered", vandalise_modes, "passed", *REFUSED)
does("leaves other settings of Python", vandalise_python, "passed", *REFUSED)
does("leaves other functions", vandalise_names, "passed", *REFUSED)
does("leaves another default device", lambda: torch.set_default_device("meta"), "passed", "timeout", *REFUSED)
does("leaves other threads of torch", lambda: torch.set_num_threads(3), "passed")
does("leaves closed streams", close_streams, "passed")
does("leaves megabytes of output", write_megabytes, "passed")
does("leaves threads", leave_threads, "passed")
does("leaves a process, a file and a hook", leave_things, "passed", "error")
does("prints what cannot be shown", lambda: print("\ud800\x1b[31m<script>\x00") or 1 / 0, "error", says="<script>")
does("prints no text", lambda: sys.stdout.write(b"bytes"), "error", says="TypeError")


# What it does with its arguments and between its calls


def overwriting(reference):
    def answer(*args, **kwargs):
        result = reference(*args, **kwargs)
        for value in (*args, *kwargs.values()):
            if isinstance(value, torch.Tensor):
                value.data.zero_()
            elif isinstance(value, (list, dict)):
                value.clear()
        return result

    return answer


def _buffered(reference):
    buffers = {}

    def act(call):
        result = call()
        if not isinstance(result, torch.Tensor):
            return result
        shared = buffers.setdefault((result.shape, result.dtype), result.detach())
        shared.copy_(result.detach())
        return shared

    return acting(reference, act)


def _every_second_call(reference):
    count = itertools.count()
    return acting(reference, lambda call: call() if next(count) % 2 else None)


def _counting(reference):
    count = itertools.count(1)
    return acting(reference, lambda call: next(count))


add("overwrites its arguments", lambda r: acting(r, lambda call: 1 / 0) if inspect.isclass(r) else overwriting(r))
add("gives its first argument back", lambda r: lambda *args, **kwargs: args[0] if args else None)
add("gives one buffer again and again", _buffered, "passed", *REFUSED)
add("is wrong at every second call", _every_second_call)
add("counts its calls", _counting)
add("needs a global that is not there", lambda r: acting(r, lambda call: no_such_global))  # noqa: F821


# The program


def state() -> dict[str, object]:
    """What the answers above change, in a form that can be compared."""
    return {
        "random": hash(random.getstate()),
        "numpy": numpy.random.get_state()[1].tobytes(),
        "torch": torch.get_rng_state().numpy().tobytes(),
        "torch settings": (
            torch.get_default_dtype(),
            torch.get_default_device(),
            torch.ones(1).device,
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.are_deterministic_algorithms_enabled(),
            torch.get_float32_matmul_precision(),
            torch.is_anomaly_enabled(),
            torch.get_num_threads(),
        ),
        "filters": list(warnings.filters),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "path": list(sys.path),
        "hooks": (sys.gettrace(), sys.getprofile(), sys.getrecursionlimit(), sys.getswitchinterval(), gc.isenabled()),
        "streams": (id(sys.stdin), id(sys.stdout), id(sys.stderr)),
        "errors of NumPy": numpy.geterr(),
        "signals": {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)},
        "mask": signal.pthread_sigmask(signal.SIG_BLOCK, []),
        "timers": [signal.getitimer(n) for n in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)],
        "builtins": {name: id(value) for name, value in vars(builtins).items() if name != "_"},
        "functions": (torch.softmax, torch.allclose, torch.nn.functional.softmax, math.sqrt, time.monotonic),
        "methods": (torch.Tensor.__add__, hasattr(torch.Tensor, "hostile"), torch.nn.Module.__call__),
        "modules": (sys.modules["torch"], sys.modules["json"]),
    }


def judge(hostile: Hostile, exercise: str) -> dict[str, object]:
    """Judge one answer, and look whether anything of it is left when two references are judged after it."""
    from shared import course
    from shared.checking import run_check

    answer = hostile.make(course.reference(exercise))
    before, start = state(), time.monotonic()
    result = run_check(exercise, answer, seconds=LIMIT)
    card, page = str(result.card), result.card.html()
    seconds = time.monotonic() - start
    after = state()
    return {
        "name": hostile.name,
        "exercise": exercise,
        "status": result.status,
        "seconds": seconds,
        "card": card[:3000],
        "page": page[:30_000],
        "lengths": [len(card), len(page)],
        "leaks": [name for name in before if before[name] != after[name]],
        "afterwards": [run_check(name, course.reference(name)).status for name in (exercise, "softmax", "LayerNorm")],
    }


def main(results: str, exercise: str, *names: str) -> None:
    import resource

    from shared import course
    from shared.checking import run_check

    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() if os.path.exists("/proc") else 0
    if used:  # what grows without end meets this limit before it meets the machine's
        resource.setrlimit(resource.RLIMIT_AS, (used + 3 * 2**30, used + 3 * 2**30))
    for name in (exercise, "softmax", "LayerNorm"):
        run_check(name, course.reference(name))
    with open(results, "a", encoding="utf-8") as file:
        for name in names or TABLE:
            print(json.dumps({"start": name, "exercise": exercise}), file=file, flush=True)
            print(json.dumps(judge(TABLE[name], exercise)), file=file, flush=True)
    os._exit(0)  # threads that answers left would keep it


if __name__ == "__main__":
    main(*sys.argv[1:])
