"""Run code that a model or a learner wrote, with limits on what it can do.

    caller ──job──> server (ours, packages loaded once) ──fork──> child: gives up its rights, runs the code
       └────────<──────── the answer, with a nonce ────────<────────┘

Each run has a process and an empty folder of its own, and nothing of the caller's environment. On Linux
no administrator and no helper program is needed: RLIMIT_AS bounds the memory, Landlock (Linux 6.2) the
files (the run's folder, and reading the installed packages), a seccomp filter refuses sockets, new
processes and signals to others. macOS: no new processes; Windows: none of these. The caller watches time,
output and folder everywhere, and `isolation()` says what holds on this machine.

A run passes only when its last line was reached: `os._exit(0)`, `sys.exit(0)` or printing a pass is none.
That is proved by a nonce, which is in no file, argument or environment variable; it is in the child's
memory, so a program that knows this module and searches there could still forge a pass.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from shared import confinement
from shared.confinement import ANSWER_BYTES
from shared.limits import DEFAULT, Isolation, Limits

STARTUP_SECONDS = 180  # a server's first answer waits for its packages: torch from a cold disk
SERVERS = 4  # each keeps its packages in memory, torch about 200 MB
KEPT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")  # some interpreters do not start without
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Outcome:
    status: str  # passed, failed, timeout, memory, output, files
    value: object = None  # what the function of a `call` returned
    error: str = ""  # one line for a reader
    stdout: str = ""
    stderr: str = ""
    seconds: float = 0.0
    isolation: Isolation = field(default_factory=Isolation)

    @property
    def passed(self) -> bool:
        return self.status == "passed"


def run_code(
    code: str, *, limits: Limits = DEFAULT, files: dict[str, str] | None = None, packages=False, preload=()
) -> Outcome:
    """Run a Python program in a folder that holds `files` (name -> text).

    It has the standard library; with `packages=True` also what is installed; `preload=("torch",)` loads
    packages once for all runs.
    """
    paths = [path for path in sys.path if "-packages" in path] if packages or preload else []
    return _run({"code": code}, limits, files or {}, (False, *paths), tuple(preload))


def call(
    function, *args, limits: Limits = DEFAULT, preload=(), prepare: tuple = (), private=(), readable=()
) -> Outcome:
    """`function(*args)` in a process of its own; the result, which must fit in JSON, is `Outcome.value`.

    The other process imports the function by its name, or has it already by `preload=("torch", "module:name")`.
    `prepare=(function, *args)` is called there before the rights are given up. Folders in `private` cannot be read
    after that, though modules lie in them; what is in `readable` can.
    Example: call(math.gcd, 12, 18).value -> 6
    """
    work = _named(function, *args) | {"private": private, "readable": readable}
    if prepare:
        work["prepare"] = _named(*prepare)
    return _run(work, limits, {}, (True, *map(os.path.abspath, sys.path)), tuple(preload))


def _named(function, *args) -> dict:
    module, name = function.__module__, function.__qualname__
    if module == "__main__" or "<" in name:
        raise TypeError(f"call() needs a function that can be imported; {name} cannot: put it in a module")
    return {"module": module, "function": name, "args": args}


@functools.cache
def isolation() -> Isolation:
    """Tried out once; `str(isolation())` is a sentence for `sixweeks doctor`."""
    try:
        return run_code("").isolation
    except (OSError, RuntimeError):
        return Isolation(time=False, output=False)


# The caller's side


def _run(work: dict, limits: Limits, files: dict[str, str], paths: tuple, preload: tuple) -> Outcome:
    private = Path(tempfile.mkdtemp(prefix="sixweeks-")).resolve()
    try:
        folder = private / "work"
        folder.mkdir()
        for name, text in files.items():
            if not (folder / name).resolve().is_relative_to(folder):
                raise ValueError(f"the file {name!r} would lie outside the run's folder")
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        job = work | {"nonce": secrets.token_hex(16), "limits": asdict(limits), "folder": str(folder)}
        job["home"] = os.path.realpath(os.path.expanduser("~"))
        start = _Forked if hasattr(os, "fork") else _Spawned
        with contextlib.closing(start(private, job, paths, preload)) as run:
            return _watch(run, private, limits, job["nonce"])
    finally:
        try:
            shutil.rmtree(private, ignore_errors=True)
        except RecursionError:  # thousands of folders in each other
            subprocess.run(["rm", "-rf", private], check=False)


def _watch(run: _Forked | _Spawned, private: Path, limits: Limits, nonce: str) -> Outcome:
    held = over = None
    start = time.monotonic()
    while True:
        lines = run.lines(timeout=0.05)
        if held is None and lines:
            held, start = Isolation(**json.loads(lines[0])), time.monotonic()
        seconds = time.monotonic() - start
        over = held and _over(private, limits)
        if over or run.ended or len(lines) > 1 or seconds > STARTUP_SECONDS + limits.seconds:
            break
        if held and seconds > limits.seconds:
            over = "timeout", f"stopped after {limits.seconds:g} seconds"
            break
    code = run.close()
    if held is None:
        told = (private / "stderr").read_text("utf-8", "replace").strip().splitlines()[-1:]
        why = told[0] if told else f"what does {sys.executable} -I say?"
        raise RuntimeError(f"the sandbox did not start ({_ending(code)}): {why}")
    answer = {"status": "failed", "error": f"ended before its last line ({_ending(code)})"}
    with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError, RecursionError):  # junk
        claim = json.loads(lines[1])
        if secrets.compare_digest(claim.pop("nonce"), nonce):
            answer = {key: claim[key] for key in ("status", "value", "error", "seconds") if key in claim}
    if over:
        answer = {"status": over[0], "error": over[1]}
    for name in ("stdout", "stderr"):
        with open(private / name, "rb") as stream:
            answer[name] = stream.read(limits.output_bytes).decode("utf-8", "replace")
    return Outcome(**({"seconds": seconds, "isolation": held} | answer))


def _over(private: Path, limits: Limits) -> tuple[str, str] | None:
    if sum((private / name).stat().st_size for name in ("stdout", "stderr")) > limits.output_bytes:
        return "output", f"printed more than {limits.output_bytes:,} bytes"
    count = size = 0
    for where, folders, names in os.walk(private / "work"):
        count += len(folders) + len(names)
        with contextlib.suppress(OSError):  # it may be gone again
            size += sum(os.lstat(os.path.join(where, name)).st_size for name in names[: limits.files])
        if count > limits.files or size > 4 * limits.file_mb * 2**20:
            return "files", f"made more than {limits.files} files or {4 * limits.file_mb} MB"
    return None


def _ending(code: int) -> str:
    try:
        return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _interpreter(site: bool, *arguments: str, **options) -> subprocess.Popen:
    flags = ["-I", "-B", "-X", "utf8"] + ([] if site else ["-S"])
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    environment = kept | ONE_THREAD | {"CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen([sys.executable, *flags, confinement.__file__, *arguments], env=environment, **options)


class _Forked:
    """A run forked off a server. Job and answer go over `channel`; hanging up the `lease` ends the run."""

    servers: dict[tuple, tuple[subprocess.Popen, socket.socket]] = {}
    retired: list[subprocess.Popen] = []
    lock = threading.Lock()

    def __init__(self, private: Path, job: dict, paths: tuple, preload: tuple):
        self.received, self.ended, self.code = b"", False, None
        self.lease, lease = socket.socketpair()
        self.channel, channel = socket.socketpair()
        with lease, channel, open(private / "stdout", "ab") as out, open(private / "stderr", "ab") as err:
            descriptors = [end.fileno() for end in (lease, channel, out, err)]
            self._hand_over(descriptors, (os.getpid(), paths, preload))
        with contextlib.suppress(OSError):  # it died already: there will be no answer
            self.channel.settimeout(STARTUP_SECONDS)
            self.channel.sendall(json.dumps(job).encode() + b"\n")

    @classmethod
    def _hand_over(cls, descriptors: list[int], key: tuple) -> None:
        with cls.lock:
            for _ in range(2):  # a server may have been killed: then a new one
                if key not in cls.servers:
                    while len(cls.servers) >= SERVERS:  # the oldest ends what it runs, and itself
                        server, control = cls.servers.pop(next(iter(cls.servers)))
                        control.close()
                        cls.retired.append(server)
                    cls.retired = [server for server in cls.retired if server.poll() is None]
                    cls.servers[key] = cls._start_server(*key[1:])
                try:
                    socket.send_fds(cls.servers[key][1], [b"."], descriptors)
                    return
                except OSError:
                    _end_server(*cls.servers.pop(key))
        raise RuntimeError(f"the sandbox's server ends at once; what does {sys.executable} -I say?")

    @staticmethod
    def _start_server(paths: tuple, preload: tuple) -> tuple[subprocess.Popen, socket.socket]:
        ours, theirs = socket.socketpair()
        with theirs:
            silent = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
            settings = [str(theirs.fileno()), json.dumps([paths, preload])]
            options = {"pass_fds": [theirs.fileno()], "start_new_session": True} | silent
            return _interpreter(paths[0], *settings, **options), ours

    def lines(self, timeout: float) -> list[bytes]:
        self.channel.settimeout(timeout)
        try:
            chunk = self.channel.recv(65536)
            self.received += chunk
            self.ended = not chunk or len(self.received) > 2 * ANSWER_BYTES
        except TimeoutError:
            pass
        except OSError:
            self.ended = True
        return self.received.split(b"\n")[:-1]

    def close(self) -> int:
        if self.code is None:
            self.channel.close()
            self.lease.settimeout(STARTUP_SECONDS)
            self.code = -signal.SIGKILL  # what is true when the server cannot say
            with contextlib.suppress(OSError, ValueError):
                self.lease.shutdown(socket.SHUT_WR)
                self.code = int(self.lease.recv(16))
            self.lease.close()
        return self.code


class _Spawned:
    """A run in a fresh interpreter, for systems without fork."""

    def __init__(self, private: Path, job: dict, paths: tuple, preload: tuple):
        self.answer, self.ended = private / "answer", False
        self.answer.touch()
        with open(private / "stdout", "wb") as out, open(private / "stderr", "wb") as err:
            options = {"stdin": subprocess.PIPE, "stdout": out, "stderr": err, "cwd": job["folder"]}
            self.process = _interpreter(paths[0], str(self.answer), json.dumps([paths, ()]), **options)
        with contextlib.suppress(OSError), self.process.stdin as stdin:
            stdin.write(json.dumps(job).encode() + b"\n")

    def lines(self, timeout: float) -> list[bytes]:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout)
            self.ended = True
        return self.answer.read_bytes().split(b"\n")[:-1]

    def close(self) -> int:
        if os.name == "nt" and self.process.poll() is None:  # with all that it started
            tree = ["taskkill", "/T", "/F", "/PID", str(self.process.pid)]
            subprocess.run(tree, capture_output=True, check=False)
        self.process.kill()
        return self.process.wait()


def _end_server(server: subprocess.Popen, control: socket.socket) -> None:
    control.close()
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        server.wait(timeout=5)


@atexit.register
def end_servers() -> None:
    while _Forked.servers:
        key, server = _Forked.servers.popitem()
        if key[0] == os.getpid():
            _end_server(*server)
