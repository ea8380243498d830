"""shared.sandbox: attacks on it, as far as this machine can hold them off."""

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest

from shared import sandbox
from shared.limits import Isolation, Limits
from shared.sandbox import call, isolation, run_code
from tests.conftest import needs

ROOT = Path(__file__).parent.parent
SHORT = Limits(seconds=0.5)
pytestmark = pytest.mark.skipif(os.name == "nt", reason="the attacks are written for POSIX")


def run(code, **options):
    return run_code(textwrap.dedent(code), **options)


def server():
    """The process that runs without packages are forked from."""
    run_code("")
    return psutil.Process(next(s[0].pid for key, s in sandbox._Forked.servers.items() if key[1:] == ((False,), ())))


# What it gives


def test_importing_the_sandbox_does_not_import_torch():
    code = "import sys, shared.sandbox; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "False\n"


def test_a_program_that_ends_passes():
    outcome = run(
        """
        import sys
        print("owl", __name__, "é")
        print("oops", file=sys.stderr)
        """
    )
    assert outcome.passed and outcome.status == "passed" and outcome.error == ""
    assert outcome.stdout == "owl __main__ é\n" and outcome.stderr == "oops\n"
    assert 0 < outcome.seconds < 10 and outcome.isolation == isolation()


def test_an_exception_is_told_with_its_line_and_without_our_frames():
    outcome = run("def half(x):\n    return 1 / x\nhalf(0)\n")
    assert (outcome.status, outcome.error) == ("failed", "ZeroDivisionError: division by zero (line 2)")
    assert "return 1 / x" in outcome.stderr and "sandbox" not in outcome.stderr


@pytest.mark.parametrize(
    "code", ["1 +", "x = '", "\0", "return", "assert 1 == 2", "raise BaseException('x')", "input()"]
)
def test_what_does_not_run_to_its_end_fails(code):
    outcome = run(code)
    assert outcome.status == "failed" and outcome.error


def test_an_exception_that_lies_about_itself_only_fails():
    outcome = run(
        """
        class Sly(Exception):
            def __str__(self): raise SystemExit(0)
            __repr__ = __str__
        raise Sly
        """
    )
    assert outcome.status == "failed"


def test_files_lie_in_the_folder_of_the_run_and_nothing_is_left(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = "import os; print(open('a.txt').read(), os.listdir('b')); open('c', 'w').write('new'); print(os.getcwd())"
    outcome = run(code, files={"a.txt": "é", "b/c.py": ""})
    assert outcome.stdout.startswith("é ['c.py']\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/../../x"])
def test_a_file_outside_the_folder_is_refused(name):
    with pytest.raises(ValueError, match="outside the run's folder"):
        run("", files={name: ""})


def test_threads_and_asyncio_and_temporary_files_work():
    outcome = run(
        """
        import asyncio, tempfile, threading
        thread = threading.Thread(target=print, args=("thread",)); thread.start(); thread.join()
        async def main(): await asyncio.sleep(0.001); print("asyncio")
        asyncio.run(main())
        with tempfile.TemporaryDirectory() as folder: open(folder + "/a", "w").write("x")
        """
    )
    assert outcome.stdout == "thread\nasyncio\n", outcome


def test_a_program_may_put_its_own_functions_in_the_place_of_ours():
    outcome = run(
        """
        import io, json, os, sys, time
        print("mine", end="")
        json.dumps = time.monotonic = os.write = os._exit = len
        sys.stdout = io.StringIO()
        """
    )
    assert outcome.passed and outcome.stdout == "mine"


def test_runs_know_nothing_of_each_other():
    assert run("import json; json.dumps = None; open('mark', 'w').close()").passed
    assert run("import json, os; json.dumps(1); assert os.listdir() == []").passed


# A pass cannot be had without reaching the end


@pytest.mark.parametrize(
    "code",
    [
        "import os; os._exit(0)",
        "import sys; sys.exit(0)",
        "import sys; sys.exit()",
        "exit = SystemExit; raise exit",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import os; os.abort()",
        "import os, sys; os.execv(sys.executable, ['python', '-c', ''])",
        "import ctypes; ctypes.string_at(0)",
        "import os; os.closerange(0, 100)",
        "import os; os.closerange(0, 100); os._exit(0)",
        "import threading, os; threading.Thread(target=os._exit, args=(0,)).start(); threading.Event().wait()",
        "import atexit, sys; atexit.register(print, 'passed'); sys.exit()",
    ],
)
def test_leaving_early_is_not_a_pass(code):
    outcome = run(code)
    assert outcome.status == "failed" and outcome.value is None
    assert "before its" in outcome.error or "sys.exit" in outcome.error or "SystemExit" in outcome.error


def test_saying_passed_in_every_place_is_not_a_pass():
    outcome = run(
        """
        import gc, json, os, sys
        def words(value):
            return [value] if isinstance(value, str) else []
        guesses = {"", "nonce", "0" * 32, *sys.argv, *sys.orig_argv, *os.environ.values()}
        frame = sys._getframe()
        while frame:
            for space in (frame.f_locals, frame.f_globals):
                guesses.update(word for value in space.values() for word in words(value))
                guesses.update(word for value in space.values() if isinstance(value, dict)
                               for inner in value.values() for word in words(inner))
            frame = frame.f_back
        for place in ("/proc/self/environ", "/proc/self/cmdline"):
            try: guesses.update(open(place).read().split(chr(0)))
            except OSError: pass
        for nonce in list(guesses)[:300]:
            line = json.dumps({"status": "passed", "nonce": nonce, "value": "forged"}) + chr(10)
            for descriptor in range(12):
                try: os.write(descriptor, line.encode())
                except OSError: pass
        os._exit(0)
        """,
        limits=Limits(output_bytes=10_000_000),
    )
    assert outcome.status == "failed" and outcome.value is None
    assert "forged" in outcome.stdout  # it did try


@pytest.mark.parametrize(
    "junk", [b"\n", b"null\n", b"[]\n", b"{}\n", b'{"nonce": 1}\n', b"\xff\n", b"[" * 100_000 + b"\n"]
)
def test_junk_instead_of_an_answer_fails(junk):
    code = f"import os\nfor d in range(3, 12):\n  try: os.write(d, {junk!r})\n  except OSError: pass"
    assert run(code).status == "failed"


# Time, memory, output


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        "import signal; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]; signal.pause()",
        "while True:\n  try:\n    while True: pass\n  except BaseException: pass",
        "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
        "import threading; threading.Thread(target=threading.Event().wait).start(); threading.Event().wait()",
        "sum(range(10**12))",
    ],
)
def test_what_never_ends_is_ended(code):
    outcome = run("print('begun')\n" + code, limits=SHORT)
    assert (outcome.status, outcome.error) == ("timeout", "stopped after 0.5 seconds")
    assert outcome.stdout == "begun\n"
    assert 0.5 <= outcome.seconds < 5


def test_a_thread_left_behind_does_not_hold_up_the_end():
    code = "import threading; threading.Thread(target=threading.Event().wait).start()"
    assert run(code).passed


@pytest.mark.parametrize(
    "code", ["x = [0] * 10**9", "x = []\nwhile True: x.append(bytearray(10**7))", "'a' * 10**10", "list(range(10**9))"]
)
def test_memory_is_limited(code):
    needs("memory")
    outcome = run(code, limits=Limits(memory_mb=200))
    assert outcome.status == "memory" and "MemoryError" in outcome.error


def test_caught_memory_errors_do_not_stop_the_limit():
    needs("memory")
    code = """
        kept = []
        size = 2**28
        while size:
            try: kept.append(bytearray(size))
            except MemoryError: size //= 2
        """
    assert run(code, limits=Limits(memory_mb=200)).status in ("memory", "failed", "passed")
    assert run("").passed


def test_memory_cannot_be_had_as_a_file():
    needs("processes")
    assert "PermissionError" in run("import os; os.memfd_create('hidden')").error


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_print_bomb_is_cut_off(stream):
    outcome = run(f"import sys\nwhile True: print('x' * 999, file=sys.{stream})", limits=Limits(output_bytes=5000))
    assert (outcome.status, outcome.error) == ("output", "printed more than 5,000 bytes")
    assert len(getattr(outcome, stream)) == 5000


def test_a_program_that_prints_too_much_and_ends_is_no_pass():
    assert run("print('x' * 100_000)").status == "output"
    assert run("print('x' * 50_000)").passed


def test_bytes_that_are_no_text_are_shown():
    outcome = run("import os; os.write(1, bytes([255, 254])); print(chr(0xD800))")
    assert outcome.passed and outcome.stdout == "\ufffd\ufffd\\ud800\n"


def test_endless_recursion_fails():
    outcome = run("def f(): f()\nf()")
    assert outcome.status == "failed" and "RecursionError" in outcome.error
    deeper = "import sys; sys.setrecursionlimit(10**9)\nclass A:\n  def __repr__(self): return repr(self)\n"
    outcome = run(deeper + "repr(A())")
    assert outcome.status in ("failed", "memory", "timeout")


# Files


@pytest.mark.parametrize(
    "code",
    [
        "open('a', 'wb').write(bytes(10**8))",
        "open('a', 'wb').truncate(10**12)",
        "for i in range(10**6): open(f'{i}', 'w').close()",
        "for i in range(10**6): open(f'{i}', 'wb').write(bytes(2**20))",
        "import os\nwhile True: os.mkdir('d'); os.chdir('d')",
    ],
)
def test_files_are_limited_in_size_and_number_and_cleared_away(monkeypatch, tmp_path, code):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    outcome = run(code, limits=Limits(file_mb=4, files=50))
    assert outcome.status == "files"
    assert list(tmp_path.iterdir()) == []


ATTACKS_ON_FILES = {
    "write": "open(victim, 'w').write('gone')",
    "append": "open(victim, 'a').write('gone')",
    "truncate": "os.truncate(victim, 0)",
    "truncate while reading": "os.open(victim, os.O_RDONLY | os.O_TRUNC)",
    "remove": "os.remove(victim)",
    "rename": "os.rename(victim, victim + '2')",
    "take": "os.rename(victim, 'mine')",
    "link and write": "os.link(victim, 'mine'); open('mine', 'w').write('gone')",
    "symbolic link and write": "os.symlink(victim, 'mine'); open('mine', 'w').write('gone')",
    "make unreadable": "os.chmod(victim, 0)",
    "give away": "os.chown(victim, 1, 1)",
    "new file beside it": "open(victim + '2', 'w')",
    "new folder": "os.mkdir(os.path.dirname(victim) + '/new')",
    "through the folder above": "open('../answer', 'w')",
    "the server's memory": "open(f'/proc/{os.getppid()}/mem', 'r+b')",
    "the installed packages": "open(os.__file__, 'a')",
    "their rights": "os.fchmod(os.open(os.__file__, os.O_RDONLY), os.stat(os.__file__).st_mode & 0o777)",
}


@pytest.mark.parametrize("attack", ATTACKS_ON_FILES)
def test_files_outside_the_folder_are_out_of_reach(tmp_path, attack):
    needs("files")
    victim = tmp_path / "home" / "thesis.txt"
    victim.parent.mkdir()
    victim.write_text("three years of work")
    before = victim.stat(), os.stat(os.__file__)
    outcome = run(f"import os; victim = {str(victim)!r}; {ATTACKS_ON_FILES[attack]}")
    assert outcome.status == "failed" and "Error" in outcome.error
    assert victim.read_text() == "three years of work" and [p.name for p in victim.parent.iterdir()] == ["thesis.txt"]
    after = victim.stat(), os.stat(os.__file__)
    for one, other in zip(before, after, strict=True):
        assert (one.st_mode, one.st_uid, one.st_size) == (other.st_mode, other.st_uid, other.st_size)


@pytest.mark.parametrize("code", ["print(open(secret).read())", "print(os.listdir(os.path.dirname(secret)))"])
@pytest.mark.parametrize("packages", [False, True])
def test_the_home_folder_cannot_be_read(monkeypatch, tmp_path, code, packages):
    needs("files")
    secret = tmp_path / "home" / ".token"
    secret.parent.mkdir()
    secret.write_text("hunter2")
    monkeypatch.setenv("HOME", str(secret.parent))
    outcome = run(f"import os; secret = {str(secret)!r}\n{code}", packages=packages)
    assert outcome.status == "failed" and "PermissionError" in outcome.error
    assert "hunter2" not in outcome.stdout + outcome.stderr


def test_a_call_with_modules_in_the_home_folder_says_that_files_are_open(monkeypatch, tmp_path):
    needs("files")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "at_home.py").write_text("def two(): return 2")
    import at_home

    outcome = call(at_home.two)
    assert outcome.value == 2 and not outcome.isolation.files and outcome.isolation.network
    assert "but not on files" in str(outcome.isolation)


def test_the_callers_environment_stays_with_the_caller(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hunter2")
    outcome = run(
        """
        import os
        print(dict(os.environ))
        for place in (f"/proc/{os.getpid()}/environ", f"/proc/{os.getppid()}/environ"):
            try: print(open(place).read())
            except OSError: print("refused")
        """
    )
    assert outcome.passed and "hunter2" not in outcome.stdout


# Network and processes


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)
        yield listening


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.create_connection(address, timeout=2)",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', address)",
        "import socket; socket.socket(socket.AF_UNIX)",
        "import urllib.request; urllib.request.urlopen('http://%s:%s' % address, timeout=2)",
        "import ctypes; assert ctypes.CDLL(None).socket(2, 1, 0) >= 0",
        "import ctypes; assert ctypes.CDLL(None).syscall(425, 8, bytes(200)) >= 0  # io_uring",
    ],
)
def test_no_connection_is_made_even_to_this_machine(listener, code):
    needs("network")
    outcome = run(f"address = {listener.getsockname()}\n{code}")
    assert outcome.status == "failed"
    with pytest.raises(TimeoutError):
        listener.accept()


@pytest.mark.parametrize(
    "code",
    [
        # Were a child to start, it would end at once: no bomb goes off where the limit fails.
        "for _ in range(20):\n  if os.fork() == 0: os._exit(0)",
        "import subprocess; subprocess.run([sys.executable, '-c', ''])",
        "assert os.system('true') == 0",
        "os.posix_spawn(sys.executable, ['python', '-c', ''], {})",
        "import multiprocessing as m; p = m.get_context('fork').Process(target=int); p.start()",
        "import ctypes; assert ctypes.CDLL(None).syscall(435, bytes(88), 88) > 0  # clone3",
    ],
)
def test_no_other_process_is_started_so_none_can_survive(code):
    needs("processes")
    before = server().pid
    outcome = run(f"import os, sys\n{code}")
    assert outcome.status == "failed"
    assert server().pid == before and server().children() == []


@pytest.mark.parametrize(
    "code",
    [
        "os.kill(os.getppid(), 9)",
        "os.killpg(os.getpgid(os.getppid()), 9)",
        "os.kill(caller, 0)",
        "os.kill(-1, 0)",
        "os.pidfd_open(caller)",
        "assert ctypes.CDLL(None).ptrace(16, caller, 0, 0) == 0",
        "assert ctypes.CDLL(None).tgkill(caller, caller, 0) == 0",
        "import resource; resource.prlimit(caller, resource.RLIMIT_CPU)",
        "os.setpriority(os.PRIO_PROCESS, caller, 19)",
    ],
)
def test_neither_server_nor_caller_can_be_harmed(code):
    needs("processes")
    before = server().pid
    outcome = run(f"import ctypes, os; caller = {os.getpid()}\n{code}")
    assert outcome.status == "failed" and "Error" in outcome.error
    assert server().pid == before


def test_limits_cannot_be_taken_back():
    needs("memory")
    code = "import resource; resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)"
    assert run(code).status == "failed"


def test_signals_to_oneself_work():
    code = "import os, signal; signal.signal(signal.SIGUSR1, lambda *_: print('rang')); os.kill(os.getpid(), 10)"
    assert run(code.replace("10", str(int(signal.SIGUSR1)))).stdout == "rang\n"


def test_a_dead_server_is_replaced():
    first = server()
    first.kill()
    first.wait(10)
    assert run("print(1)").stdout == "1\n"
    assert server().pid != first.pid


def test_only_a_few_servers_are_kept_and_none_loses_its_work(monkeypatch):
    monkeypatch.setattr(sandbox, "SERVERS", 1)
    slow = []
    thread = threading.Thread(target=lambda: slow.append(call(eval, "[__import__('time').sleep(0.5), 'done'][1]")))
    thread.start()
    for name in ("colorsys", "this_is_no_module"):
        assert call(math.gcd, 4, 6, preload=(name,)).value == 2
        assert len(sandbox._Forked.servers) == 1
    thread.join(30)
    assert slow[0].value == "done"


def test_an_interrupted_caller_leaves_no_process_behind(monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    before = server()
    with monkeypatch.context() as patched:
        patched.setattr(sandbox, "_over", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run("while True: pass")
    assert before.children() == [] and run("").passed


def test_nothing_outlives_a_caller_that_is_killed(tmp_path):
    code = f"""
        import os, threading
        from shared import limits, sandbox
        sandbox.run_code("")
        server = next(iter(sandbox._Forked.servers.values()))[0].pid
        threading.Timer(0.3, lambda: (print(server, flush=True), os.kill(os.getpid(), {int(signal.SIGKILL)}))).start()
        sandbox.run_code("while True: pass", limits=limits.Limits(seconds=60))
        """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    left = int(done.stdout)
    deadline = time.monotonic() + 10
    while psutil.pid_exists(left) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert done.returncode == -signal.SIGKILL and not psutil.pid_exists(left)


# Calls


def test_a_call_gives_the_value_of_the_function():
    assert call(math.gcd, 12, 18).value == 6
    assert call(json.dumps, {"é": [1, None, 2.5]}).value == '{"\\u00e9": [1, null, 2.5]}'
    assert call(textwrap.dedent, "  " + "x" * 3_000_000).value == "x" * 3_000_000


@pytest.mark.parametrize(
    ("function", "arguments", "error"),
    [
        (math.sqrt, [-1], "ValueError: "),
        (math.gcd, ["a"], "TypeError: "),
        (sys.exit, [0], "sys.exit(0)"),
        (os._exit, [0], "before its last line (exit code 0)"),
        (threading.Lock, [], "not JSON serializable"),
    ],
)
def test_a_call_that_fails_says_why(function, arguments, error):
    outcome = call(function, *arguments)
    assert outcome.status == "failed" and error in outcome.error and outcome.value is None


def test_a_call_is_limited_like_a_program():
    assert call(time.sleep, 60, limits=SHORT).status == "timeout"
    assert call(eval, "'x' * 20_000_000").status == "output"
    if isolation().memory:
        assert call(bytearray, 10**9, limits=Limits(memory_mb=200)).status == "memory"
    if isolation().network:
        assert "PermissionError" in call(eval, "__import__('socket').socket()").error


def test_only_functions_of_a_module_can_be_called():
    with pytest.raises(TypeError, match="can be imported"):
        call(lambda: 1)
    with pytest.raises(TypeError, match="can be imported"):
        call(type("f", (), {"__module__": "__main__"}))


def test_many_threads_call_at_once():
    values = {}

    def work(i):
        values[i] = [call(math.gcd, 6 * i, 6).value for _ in range(3)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert values == {i: [6, 6, 6] for i in range(1, 7)}


def test_a_script_that_calls_is_not_run_again_and_a_kernel_may_call_too(tmp_path):
    code = "print('once')\nimport math\nfrom shared.sandbox import call, run_code\n"
    code += "print(call(math.gcd, 12, 18).value, run_code('print(7)').stdout)"
    script = tmp_path / "script.py"
    script.write_text(code)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for how in ([str(script)], ["-c", code]):  # a kernel, like -c, has a main module without a file
        done = subprocess.run([sys.executable, *how], capture_output=True, text=True, env=environment, check=True)
        assert done.stdout == "once\n6 7\n\n" and done.stderr == ""


def test_torch_is_loaded_once_and_limited():
    needs("memory")
    code = """
        import torch
        x = torch.ones(50, 50, requires_grad=True)
        (x @ x).sum().backward()
        print(x.grad.sum().item(), torch.get_num_threads())
        """
    outcome = run(code, preload=("torch",))
    assert outcome.stdout == "250000.0 1\n", outcome
    assert outcome.seconds < 2  # importing it again would take longer
    outcome = run("import torch; torch.empty(10**10)", preload=("torch",))
    assert outcome.status == "memory"


def test_without_packages_there_is_only_the_standard_library():
    assert "ModuleNotFoundError" in run("import numpy").error
    assert run("import numpy; print(numpy.ones(2).sum())", packages=True).stdout == "2.0\n"


# Where there is no fork


@pytest.fixture
def no_fork(monkeypatch):
    monkeypatch.setattr(sandbox, "_Forked", sandbox._Spawned)


def test_without_fork_a_fresh_interpreter_does_the_same(no_fork):
    outcome = run("print('hello')\nimport sys; print(sys.stdin.read() == '')")
    assert outcome.passed and outcome.stdout == "hello\nTrue\n" and outcome.isolation.time
    assert run("import os; os._exit(0)").status == "failed"
    assert run("import sys; sys.exit(0)").status == "failed"
    assert run("print('begun')\nwhile True: pass", limits=SHORT).status == "timeout"
    assert run("while True: print('x' * 99)", limits=Limits(output_bytes=999)).status == "output"
    assert call(math.gcd, 12, 18).value == 6


def test_the_isolation_is_told_in_a_sentence():
    assert str(Isolation()) == (
        "Code from others runs with limits on time, output, but not on memory, files, network, processes: "
        "read such code before you run it."
    )
    assert str(isolation()).startswith("Code from others runs with limits on time, output")


def test_an_interpreter_that_does_not_start_is_told_and_not_raised(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    monkeypatch.setattr(sandbox._Forked, "servers", {})
    isolation.cache_clear()
    try:
        assert "cannot be run: /no/such/python does not start" in str(isolation())
        with pytest.raises(OSError):
            run("")
        monkeypatch.setattr(sys, "executable", shutil.which("false"))
        with pytest.raises(RuntimeError, match="what does .*false -I say"):
            run("")
    finally:
        isolation.cache_clear()
