"""The inside of the sandbox: a server that forks, and what its children may not do.

`shared.sandbox` starts this file as a program. Nothing else should: a process that calls `_confine` cannot go
back. It imports the standard library alone, for `shared` need not be on its path.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import gc
import importlib
import json
import linecache
import os
import platform
import select
import signal
import socket
import struct
import sys
import tempfile
import time
import traceback
import types
from pathlib import Path

with contextlib.suppress(ImportError):  # Windows has none
    import resource

ANSWER_BYTES = 16_000_000


# The server's side


def _main(end: str, settings: str) -> None:
    (site, *paths), preload = json.loads(settings)
    sys.path[:] = paths if site else sys.path + paths
    sys.argv[1:] = []
    for name in preload:
        with contextlib.suppress(Exception):  # the run itself will say it better
            module, _, attribute = name.partition(":")
            getattr(importlib.import_module(module), attribute or "__name__")  # some packages load on demand
    if end.isdigit():
        _serve(socket.socket(fileno=int(end)))
    with open(end, "ab", buffering=0) as answer:
        job = json.loads(sys.stdin.readline())
        sys.stdin = open(os.devnull)  # noqa: SIM115
        _work(job, answer.write)


def _serve(control: socket.socket) -> None:
    _kernel(), _readable()  # once for all children
    gc.freeze()  # what is loaded stays shared between them
    running: dict[socket.socket, int] = {}
    callers = [control]
    while callers or running:
        for ready in select.select([*callers, *running], [], [])[0]:
            if ready is not control:  # the caller hung up
                pid = running.pop(ready)
                _kill(pid)
                with contextlib.suppress(OSError), ready:
                    ready.sendall(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
                continue
            descriptors = socket.recv_fds(control, 1, 4)[1]
            if not descriptors:  # no more will come
                callers.clear()
                continue
            pid = os.fork()
            if pid == 0:
                _become_child(*descriptors)
            running[socket.socket(fileno=descriptors[0])] = pid
            for descriptor in descriptors[1:]:
                os.close(descriptor)
    os._exit(0)


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(OSError):
            kill(pid, signal.SIGKILL)


# The child's side


def _become_child(lease: int, channel: int, out: int, err: int) -> None:
    """Keep only the standard streams and the channel, as descriptors 0 to 3."""
    try:
        os.setsid()
        for number, descriptor in ((1, out), (2, err), (3, channel)):
            os.dup2(descriptor, number)
        os.closerange(4, 65536)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)  # OpenMP's threads did not survive the fork
        with open(3, "rb", closefd=False) as stream:
            job = json.loads(stream.readline())
        _work(job, functools.partial(os.write, 3))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _work(job: dict, report) -> None:
    folder, limits = job["folder"], types.SimpleNamespace(**job["limits"])
    os.chdir(folder)
    tempfile.tempdir = None
    os.environ |= dict.fromkeys(("HOME", "USERPROFILE", "TMPDIR", "TEMP", "TMP"), folder) | {"USER": "learner"}
    finish, clock, streams = _sealed(job.pop("nonce"), report), time.monotonic, (sys.stdout, sys.stderr)
    for stream in streams:  # line by line: what was printed before an endless loop is seen
        stream.reconfigure(line_buffering=True, encoding="utf-8", errors="backslashreplace")
    if "prepare" in job:
        _run_function(**job.pop("prepare"))
    held = _confine(limits, folder, job["home"], job.pop("private", ()), job.pop("readable", ()))
    report(json.dumps(held).encode() + b"\n")
    start = clock()
    try:
        value = _run_program(job["code"]) if "code" in job else _run_function(**job)
        answer = {"status": "passed", "value": value}
    except BaseException as error:
        answer = _failure(error)
    seconds = clock() - start
    for stream in streams:
        with contextlib.suppress(Exception):
            stream.flush()
    try:
        finish(answer, seconds)
    except BaseException as error:  # a value that is not JSON
        finish(_failure(error), seconds)


def _sealed(nonce: str, report):
    write, leave = _json_writer(), os._exit  # as they are now: a program may put its own in their place

    def finish(answer: dict, seconds: float) -> None:
        line = write(answer | {"seconds": seconds, "nonce": nonce}).encode()
        if len(line) > ANSWER_BYTES:
            return finish({"status": "output", "error": f"returned more than {ANSWER_BYTES:,} bytes"}, seconds)
        report(line + b"\n")
        leave(0)

    return finish


def _json_writer():
    """json.dumps by the C encoder alone, which no program can change."""
    quote, make, join = json.encoder.c_encode_basestring_ascii, json.encoder.c_make_encoder, "".join
    encode = make(None, json.JSONEncoder().default, quote, None, ": ", ", ", False, False, True)
    return lambda value: join(encode(value, 0))


def _run_program(code: str) -> None:
    linecache.cache["<code>"] = (len(code), None, code.splitlines(True), "<code>")  # for tracebacks
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(code, "<code>", "exec", dont_inherit=True), module.__dict__)


def _run_function(module: str, function: str, args: list, **_) -> object:
    found = importlib.import_module(module)
    for name in function.split("."):
        found = getattr(found, name)
    return found(*args)


def _failure(error: BaseException, isinstance=isinstance, type=type) -> dict:
    """What a reader is told, without our own frames. The error's methods, and builtins, may be the program's own."""
    steps, line, text = error.__traceback__, "", type(error).__name__
    while steps and steps.tb_frame.f_code.co_filename == __file__:
        steps = steps.tb_next
    for frame, number in traceback.walk_tb(steps):
        line = f" (line {number})" if frame.f_code.co_filename == "<code>" else line
    with contextlib.suppress(Exception):
        if isinstance(error, SystemExit):
            return {"status": "failed", "error": f"stopped itself by sys.exit({str(error.code)[:80]}){line}"}
        text = traceback.format_exception_only(error)[-1].strip()[:300]
        traceback.print_exception(error.with_traceback(steps))
    number = getattr(error, "errno", None)
    memory = isinstance(error, MemoryError) or number == errno.ENOMEM or "can't allocate memory" in text
    status = "memory" if memory else "files" if number == errno.EFBIG else "failed"
    return {"status": status, "error": text + line}


def _confine(limits: types.SimpleNamespace, folder: str, home: str, private=(), readable=()) -> dict[str, bool]:
    """Take away, for good, what this process may not do. What the system refuses is reported, not raised."""
    if os.name != "posix":
        return {}

    def bound(name: str, value: int) -> bool:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(getattr(resource, name), (value, value))
            return True
        return False

    bound("RLIMIT_CORE", 0)
    bound("RLIMIT_NOFILE", 256)
    bound("RLIMIT_FSIZE", limits.file_mb * 2**20)
    if sys.platform != "linux":
        return {"processes": bound("RLIMIT_NPROC", 0) and os.getuid() != 0}
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    memory = bound("RLIMIT_AS", mapped + limits.memory_mb * 2**20)
    kernel = _kernel()
    kernel.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: not to outlive the server
    kernel.prctl(38, *map(ctypes.c_ulong, (1, 0, 0, 0)))  # PR_SET_NO_NEW_PRIVS
    kernel.capset(struct.pack("=Ii", 0x20080522, 0), bytes(24))  # an administrator's powers
    files = _allow_files(folder, home, private, readable)
    calls = _refuse_calls()
    return {"memory": memory, "files": files and calls, "network": calls, "processes": calls}


@functools.cache
def _kernel() -> ctypes.CDLL:
    return ctypes.CDLL(None)


@functools.cache
def _readable() -> list[str]:
    """What Python and its packages need."""
    system = ["/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime", "/dev/urandom"]
    hardware = ["/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu"]
    python = [path for path in (sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path) if path]
    return sorted({os.path.realpath(path) for path in system + hardware + python})


def _allow_files(folder: str, home: str, private=(), readable=()) -> bool:
    """Landlock: all of `folder`, reading what is `_readable` and not `private`, and `readable`; nothing else."""

    def landlock(number: int, *arguments) -> int:
        return _kernel().syscall(*(ctypes.c_long(a) if isinstance(a, int) else a for a in (number, *arguments)))

    create, add, restrict = 444, 445, 446
    version = landlock(create, None, 0, 1)
    if version < 3:  # before Linux 6.2 it let files be cut to length 0
        return False
    everything = 2 ** (16 if version >= 5 else 15) - 1
    execute, write, read, read_folder, truncate = 1, 2, 4, 8, 1 << 14
    ruleset = landlock(create, struct.pack("=Q", everything), 8, 0)
    found = set(_readable()) - set(map(os.path.realpath, private))
    allowed = dict.fromkeys([*found, *readable], execute | read | read_folder)
    allowed |= {"/dev/null": read | write, folder: everything}
    for path, rights in allowed.items():
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_PATH)
            rights &= everything if os.path.isdir(path) else execute | write | read | truncate
            landlock(add, ruleset, 1, struct.pack("=Qi", rights, descriptor), 0)
            os.close(descriptor)
    open_home = any(Path(home).is_relative_to(path) for path in allowed)  # it is a folder of modules, too
    return landlock(restrict, ruleset, 0) == 0 and not open_home


# Refused to the code: name, number on x86_64, number on aarch64 (- where it does not exist)
REFUSED = """
    socket 41 198   fork 57 -   vfork 58 -   setsid 112 157   setpgid 109 154   unshare 272 97   setns 308 268
    ptrace 101 117   process_vm_readv 310 270   process_vm_writev 311 271   process_madvise 440 440
    tkill 200 130   rt_sigqueueinfo 129 138   rt_tgsigqueueinfo 297 240   pidfd_open 434 434
    pidfd_send_signal 424 424   pidfd_getfd 438 438   setpriority 141 140   sched_setaffinity 203 122
    chmod 90 -   fchmod 91 52   fchmodat 268 53   fchmodat2 452 452   truncate 76 45   mount 165 40
    chown 92 -   lchown 94 -   fchown 93 55   fchownat 260 54   setxattr 188 5   lsetxattr 189 6
    fsetxattr 190 7   removexattr 197 14   lremovexattr 198 15   fremovexattr 199 16   setxattrat 463 463
    removexattrat 466 466   bpf 321 280   userfaultfd 323 282   perf_event_open 298 241   keyctl 250 219
    add_key 248 217   request_key 249 218   io_uring_setup 425 425   shmget 29 194   msgget 68 186
    semget 64 190   memfd_create 319 279   memfd_secret 447 447
"""


def _refuse_calls() -> bool:
    """A seccomp filter: no sockets, no new processes (threads are free), no signals to others, no rights given."""
    machines = {"x86_64": (1, 0xC000003E), "aarch64": (2, 0xC00000B7)}
    if platform.machine() not in machines or sys.maxsize < 2**32:
        return False
    column, architecture = machines[platform.machine()]

    def step(operation: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("=HBBI", operation, yes, no, value)  # yes, no: instructions to jump over

    load, equal, at_least, has_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, refuse, absent, kill = 0x7FFF0000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS, 0x80000000
    program = step(load, 4) + step(equal, architecture, yes=1) + step(give, kill)  # not a 32-bit call
    program += step(load, 0) + step(at_least, 0x40000000, no=1) + step(give, refuse)
    for number in REFUSED.split()[column::3]:
        if number != "-":
            program += step(equal, int(number), no=1) + step(give, refuse)
    clone, to_process, to_thread, limit = ((56, 62, 234, 302), (220, 129, 131, 261))[column - 1]
    program += step(equal, 435, no=1) + step(give, absent)  # clone3 hides its flags; libc falls back to clone
    thread, own = 0x00010000, os.getpid()
    firsts = ((clone, has_bit, thread), (to_process, equal, own), (to_thread, equal, own), (limit, equal, 0))
    for number, test, value in firsts:  # allowed where the first argument is so
        program += step(equal, number, no=4) + step(load, 16) + step(test, value, no=1)
        program += step(give, allow) + step(give, refuse)
    program += step(give, allow)
    memory = ctypes.create_string_buffer(program)
    return _kernel().prctl(22, 2, struct.pack("@HP", len(program) // 8, ctypes.addressof(memory))) == 0


if __name__ == "__main__":
    _main(*sys.argv[1:])
