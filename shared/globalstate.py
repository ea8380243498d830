"""What an answer changes in Python, NumPy and PyTorch for everyone is put back when its check ends."""

from __future__ import annotations

import builtins
import contextlib
import gc
import operator
import os
import random
import signal
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator

# Where a function can be replaced so that more than the answer sees the new one. The first one is put back first.
# fmt: off
_MODULES = [
    "builtins", "math", "random", "time", "os", "sys", "io", "json", "re", "copy", "signal", "threading", "warnings",
    "itertools", "functools", "collections", "inspect", "traceback", "contextlib", "operator", "statistics",
    "numpy", "numpy.linalg", "numpy.random", "einops", "regex", "torch", "torch.autograd", "torch.cuda", "torch.fft",
    "torch.linalg", "torch.random", "torch.nn", "torch.nn.functional", "torch.nn.init", "torch.nn.utils", "torch.optim",
]
# fmt: on
_SIGNALS = [
    number
    for number in map(signal.Signals.__members__.get, ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGCHLD"))
    if number
]
_WITH_CLASSES = ("torch.nn", "torch.optim")
_HEAP_TYPE = 1 << 9  # a class made by Python code: the attributes of others cannot be replaced


@contextlib.contextmanager
def global_state_kept(names: bool = True) -> Iterator[Callable]:
    """Seeds, dtypes, modes, settings, environment and replaced functions are as before when the block is left.

    In it PyTorch's own settings hold. Without `names` a replaced function or module stays: for code that we trust. It
    gives a function that puts the functions back already. Threads, child processes and open files that an answer
    leaves stay, too.
    """
    import torch

    put_back = [*_settings(torch), *_containers(), *_signal_handlers(), *_numpy_settings()]
    saved = [(space, vars(space).copy()) for space in _namespaces(len(sys.modules))] if names else []
    modules = sys.modules.copy() if names else {}
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            stack.enter_context(torch.inference_mode(False))  # its end undoes modes that were entered and not left
            stack.enter_context(torch.random.fork_rng(devices=cuda))
            names_back = stack.callback(_names_back, saved)  # first of all, for what follows uses them
            (torch.manual_seed if cuda else torch.default_generator.manual_seed)(0)
            torch.set_grad_enabled(True)
            torch.set_default_dtype(torch.float32)
            yield lambda: names_back(saved)
    finally:
        if not all(map(operator.is_, modules.values(), map(sys.modules.get, modules))):
            sys.modules.update(modules)
        for restore in put_back:
            with contextlib.suppress(Exception):
                restore()


def _kept(read: Callable, write: Callable) -> Callable:
    """A function that writes what is read now, if by then it is another."""
    before = read()

    def restore() -> None:
        if read() != before:
            write(before)

    return restore


def _settings(torch) -> Iterator[Callable]:
    yield _kept(random.getstate, random.setstate)
    yield _kept(torch.get_default_dtype, torch.set_default_dtype)
    yield _kept(torch.is_grad_enabled, torch.set_grad_enabled)
    yield _kept(torch.get_num_threads, torch.set_num_threads)
    yield _kept(torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode)
    yield _kept(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision)
    yield _kept(torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly)
    yield _kept(lambda: torch.is_autocast_enabled("cpu"), lambda on: torch.set_autocast_enabled("cpu", on))
    yield _kept(lambda: _default_device(torch), torch.set_default_device)
    yield _kept(gc.isenabled, lambda on: gc.enable() if on else gc.disable())
    yield _kept(sys.gettrace, sys.settrace)
    yield _kept(sys.getprofile, sys.setprofile)
    yield _kept(threading.gettrace, threading.settrace)
    yield _kept(threading.getprofile, threading.setprofile)
    yield _kept(sys.getrecursionlimit, sys.setrecursionlimit)
    yield _kept(sys.getswitchinterval, sys.setswitchinterval)
    yield _kept(sys.get_int_max_str_digits, sys.set_int_max_str_digits)
    with contextlib.suppress(OSError):  # the folder may be gone
        yield _kept(os.getcwd, os.chdir)


def _default_device(torch):
    """None where none was set: `torch.get_default_device()` calls that cpu, and to set that slows every call."""
    import torch.utils._device as device

    return device.CURRENT_DEVICE


def _containers() -> Iterator[Callable]:
    def environment(before: dict[str, str]) -> None:
        for name in [name for name in os.environ if name not in before]:
            del os.environ[name]
        os.environ.update(before)

    def path(before: list[str]) -> None:
        sys.path[:] = before

    yield _kept(os.environ.copy, environment)
    yield _kept(sys.path.copy, path)


def _signal_handlers() -> Iterator[Callable]:
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            if signal.getsignal(number) is not None:  # None: set by other than Python code
                yield _kept(lambda n=number: signal.getsignal(n), lambda handler, n=number: signal.signal(n, handler))
        for timer in ("ITIMER_VIRTUAL", "ITIMER_PROF") if hasattr(signal, "getitimer") else ():
            which = getattr(signal, timer)
            yield _kept(lambda w=which: signal.getitimer(w), lambda was, w=which: signal.setitimer(w, *was))


def _numpy_settings() -> Iterator[Callable]:
    if "numpy.random" in sys.modules:
        numpy = sys.modules["numpy"]
        yield _kept(numpy.geterr, lambda errors: numpy.seterr(**errors))
        state = numpy.random.get_state()
        yield lambda: numpy.random.set_state(state)


_found: dict[int, list] = {}


def _namespaces(count: int) -> list[types.ModuleType | type]:
    """Modules and classes in which an answer could replace something; found anew when modules have come."""
    if count not in _found:
        watched = [sys.modules[name] for name in _MODULES if name in sys.modules]
        course = [name for name in sys.modules if name.startswith("shared.") or name.partition(".")[0][:4] == "week"]
        holders = [sys.modules[name] for name in (*_WITH_CLASSES, *course)]
        classes = {value: None for module in holders for value in vars(module).values() if _can_be_patched(value)}
        _found.clear()
        _found[count] = [*watched, *(sys.modules[name] for name in course), *classes, sys.modules["torch"].Tensor]
    return _found[count]


def _can_be_patched(value: object) -> bool:
    return type(value) is type and value.__flags__ & _HEAP_TYPE and value.__module__.startswith(("torch", "week"))


def _names_back(saved: list[tuple]) -> None:
    """Put back what was replaced or deleted, and take methods out again that classes got."""
    for _, before in saved[:1]:
        builtins.__dict__.update(before)  # what follows uses them
    for space, before in saved:
        now = vars(space)
        if len(now) == len(before) and all(map(operator.is_, now.values(), before.values())):
            continue
        for name, value in before.items():
            if now.get(name) is not value and (name[0] != "_" or name[:2] == "__" and isinstance(space, type)):
                setattr(space, name, value)
        for name in [name for name in now if name not in before]:
            if isinstance(space, type) and callable(now[name]):
                delattr(space, name)
