"""Whatever a learner hands to a check: a short, clear card in time, and nothing of it in what comes after."""

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from shared import checking, course, guard, judging
from shared.answers import Answer
from shared.checking import run_check
from shared.guard import TimedOut, time_limit
from shared.learner import check, hint
from tests.conftest import needs
from tests.hostile import LIMIT, TABLE, acting, loop_swallowing_exceptions

SILENCE = 60  # seconds without a word, after which a process counts as hanging
PATIENCE = 4  # seconds over its limit that an answer may take on a busy machine, card and all
SHORT = [name for name in TABLE if name.startswith(("gives", "is ", "counts", "overwrites"))]
RUNS = {
    "attention": list(TABLE),  # tensors
    "LayerNorm": [name for name in TABLE if not name.startswith("never ends")],  # a class
    "encode_bpe": SHORT,  # text to ints
    "sample_next_token": SHORT,  # a generator, and distributions
    "parse_tool_call": SHORT,  # text to a dict
    "accumulate_gradients": SHORT,  # a step of training
    "continuous_batching": SHORT,  # a server's loop
}

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers for signals")


def judged(exercise, names, path):
    """Name of the hostile answer -> what came of it; in processes of their own, which may end or hang."""
    found = {}
    while waiting := [name for name in names if name not in found]:
        path.write_text("")
        end = _run(path, exercise, waiting)
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            name = record.setdefault("name", record.get("start"))
            found[name] = record if "status" in record else {"status": end}
        if waiting[0] not in found:
            pytest.fail(f"the process did not start ({end})")
    return found


def _run(path, exercise, names):
    """How the process that judges these ended: its exit code, or "hang"."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.hostile", str(path), exercise, *names]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=course.ROOT, **silent) as process:
        size, since = 0, time.monotonic()
        while process.poll() is None:
            time.sleep(0.1)
            if path.stat().st_size != size:
                size, since = path.stat().st_size, time.monotonic()
            if time.monotonic() - since > SILENCE:
                process.kill()
                return "hang"
        return f"exit code {process.returncode}"


@pytest.mark.parametrize("exercise", RUNS)
def test_hostile_answers_get_a_short_card_in_time_and_leave_nothing(exercise, tmp_path):
    found = judged(exercise, RUNS[exercise], tmp_path / "results")
    faults = {name: faulty for name in RUNS[exercise] if (faulty := _faults(exercise, TABLE[name], found[name]))}
    assert not faults


def _faults(exercise, hostile, found):
    if found["status"] not in hostile.statuses:
        return f"{found['status']}, not {hostile.statuses}: {found.get('card')}"
    card, page = found["card"], found["page"]
    (page + card).encode()  # no lone surrogate, which a notebook cannot be saved with
    rules = {
        "says": hostile.says in card and exercise in card,
        "ours": "shared/" not in card.partition("Your code printed")[0],
        "time": found["seconds"] < LIMIT + PATIENCE,
        "length": found["lengths"][0] < 3000 and found["lengths"][1] < 20_000,
        "markup": "<script" not in page and "\x1b" not in page + card,
        "leaks": found["leaks"] == [],
        "afterwards": found["afterwards"] == ["passed"] * 3,
    }
    return [f"{rule}: {found}" for rule, kept in rules.items() if not kept]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.builds(
        lambda shape, dtype: torch.ones(shape).to(dtype),
        st.lists(st.integers(0, 4), max_size=4),
        st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.complex64]),
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.parametrize("name", list(course.exercises()))
@settings(
    max_examples=2,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(value=VALUES)
def test_any_value_is_refused_in_time_with_a_short_card(name, value, monkeypatch):
    for naming in ("_name_mistake", "_name_resemblance"):  # they judge all known mistakes, which takes its time
        monkeypatch.setattr(checking, naming, lambda *args: None)
    result = run_check(name, acting(course.reference(name), lambda call: value), seconds=2)
    assert not result.passed
    assert result.seconds < 2 + PATIENCE
    assert len(str(result.card)) < 4000 and len(result.card.html()) < 30_000


def graded(source):
    told = judging.judge(Answer("softmax", source, frozenset()), seed=1)
    return judging.verdict("softmax", 1, told)


def test_a_call_of_c_code_that_never_looks_for_signals_ends_with_the_sandbox_of_the_grade(monkeypatch):
    needs("time")
    quick = dataclasses.replace(checking.find_check("softmax"), seconds=1.0)
    monkeypatch.setitem(checking._CHECKS, "softmax", quick)
    status, told = graded("def softmax(x, dim):\n    return sum(range(10**13))\n")
    assert (status, told) == ("timeout", "stopped after 12 seconds")


def test_memory_without_end_ends_with_the_sandbox_of_the_grade():
    needs("memory")
    source = "import itertools\n\ndef softmax(x, dim):\n    return list(itertools.repeat(0))\n"
    status, told = graded(source)
    assert status in ("error", "memory") and "MemoryError" in told


def test_a_real_interrupt_stops_the_check():
    def softmax(x, dim):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        run_check("softmax", softmax)


def test_a_limit_inside_a_limit_leaves_the_outer_one():
    with pytest.raises(TimedOut), time_limit(0.5):
        with pytest.raises(TimedOut), time_limit(0.1):
            time.sleep(5)
        time.sleep(5)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.fixture
def nothing_left():
    """A limit that has ended leaves neither its handlers nor its timer: they would end a later cell, or the kernel."""
    before = signal.getsignal(signal.SIGALRM), signal.getsignal(signal.SIGINT)
    yield
    assert (signal.getsignal(signal.SIGALRM), signal.getsignal(signal.SIGINT)) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_no_signal_is_sent_once_the_limit_has_ended(monkeypatch, nothing_left):
    limit, begun, ours = time_limit(0.2), threading.Event(), []

    def slowly(thread, number):
        begun.set()
        time.sleep(0.1)  # in which the answer comes to its end
        ours.append(signal.getsignal(number) == limit._ring)

    monkeypatch.setattr(signal, "pthread_kill", slowly)
    with limit:
        signal.setitimer(signal.ITIMER_REAL, 0)
        begun.wait(20)
    time.sleep(0.3)
    assert ours and all(ours)  # another's handler, or none, would end the process


def test_a_limit_begins_whole_however_slow_the_machine_is(monkeypatch, nothing_left):
    start, reached = threading.Thread.start, []

    def slowly(thread):
        start(thread)
        for _ in range(30):
            time.sleep(0.01)

    monkeypatch.setattr(threading.Thread, "start", slowly)
    with pytest.raises(TimedOut), time_limit(0.1):
        reached.append(True)
        time.sleep(5)
    assert reached


def test_a_long_call_of_c_code_that_hears_no_signal_is_told_once(nothing_left):
    with pytest.raises(TimedOut), time_limit(0.05):
        hashlib.pbkdf2_hmac("sha256", b"", b"", 4_000_000)
    time.sleep(0.1)  # in which no second one comes


def test_an_interrupt_at_the_end_of_a_limit_waits_until_it_has_ended(monkeypatch, nothing_left):
    end = time_limit._end

    def interrupted(limit):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        end(limit)

    monkeypatch.setattr(guard, "_OURS", guard._OURS | {interrupted.__code__})
    monkeypatch.setattr(time_limit, "_end", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_check("softmax", torch.softmax)


def test_an_endless_loop_in_a_thread_ends_too():
    seen = []

    def loop(x, dim):
        loop_swallowing_exceptions()

    thread = threading.Thread(target=lambda: seen.append(run_check("softmax", loop, seconds=0.3).status))
    thread.start()
    thread.join(30)
    assert seen == ["timeout"]


class _NamedBadly:
    def __getattr__(self, name):
        while True:
            pass

    def __call__(self):
        return None


def test_what_has_no_name_is_not_looked_up():
    for answer in (_NamedBadly(), lambda x: x, [], None, torch.nn.Identity()):
        with pytest.raises(TypeError, match="or its name with it"):
            check(answer)
        with pytest.raises(LookupError):
            hint(answer)
