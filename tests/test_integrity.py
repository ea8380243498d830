"""A submission cannot raise its own grade: each known way is tried, and is caught or does nothing."""

import json
import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from shared import course, judging, observations, values, wire
from shared.answers import Answer, extract
from shared.checking import LESSON_SEED, find_check, observe
from tests.conftest import needs

IMPORTS = "import math\nimport sys\nimport torch\nfrom torch import nn, Tensor\n"
WRONG = "def softmax(x, dim):\n    return torch.zeros_like(x)\n"
SEED = 31


def graded(source, name="softmax", provided=(), seed=SEED):
    answer = Answer(name, IMPORTS + textwrap.dedent(source), frozenset(provided))
    find_check(name)
    return judging.verdict(name, seed, judging.judge(answer, seed))


def honest(name, source, seed=SEED):
    answer = extract([source], name, provided=course.exercises())
    find_check(name)
    return judging.verdict(name, seed, judging.judge(answer, seed))


def test_wrong_without_a_trick_fails():
    assert graded(WRONG)[0] == "failed"


# Before the answer is called: its module patches what it finds. What follows is a wrong answer.
AT_IMPORT = {
    "torch.allclose": "torch.allclose = lambda *a, **k: True",
    "torch.equal and isclose": "torch.equal = torch.isclose = lambda *a, **k: torch.tensor(True)",
    "torch.testing": "torch.testing.assert_close = lambda *a, **k: None",
    "numpy.testing": "import numpy.testing\nnumpy.testing.assert_allclose = lambda *a, **k: None",
    "the code of a function": "torch.testing.assert_close.__code__ = (lambda *a, **k: None).__code__",
    "Tensor.__eq__": "Tensor.__eq__ = lambda a, b: torch.ones_like(a).bool()",
    "the comparer": "import shared.observations as o\no.compare = lambda *a: None",
    "the comparer, by sys.modules": "sys.modules['shared.checking'].compare = lambda *a: None",
    "judge, by importlib": "import importlib\nimportlib.import_module('shared.checking').judge = lambda *a: None",
    "snapshot": "import shared.observations as o\no.snapshot = lambda v: torch.ones(3)",
    "pack": "import shared.wire as w\nw.pack = lambda v: ['raised', 'x', 'y']",
    "all and zip": "import builtins\nbuiltins.all = lambda *a: True\nbuiltins.any = lambda *a: False",
    "json": 'import json\njson.dumps = lambda *a, **k: \'{"status": "passed"}\'',
    "json's class": "import json\njson.JSONEncoder.encode = lambda *a: '{}'",
    "pickle and secrets": "import pickle, secrets\npickle.dumps = secrets.compare_digest = lambda *a: True",
    "the check": "sys.modules['week1_decoder.checks.attention'].check_softmax = lambda f, rng: iter(())",
    "frames": "frame = sys._getframe()\nwhile frame: frame.f_locals.clear(); frame = frame.f_back",
    "inspect": "import inspect\nseen = [f.frame.f_locals for f in inspect.stack()]",
    "a traceback": "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    frame = e.__traceback__.tb_frame.f_back",
    "all objects": "import gc\nseen = [o for o in gc.get_objects() if callable(o)]",
    "a trace function": "sys.settrace(lambda *a: None)",
    "ctypes": "import ctypes\nctypes.pythonapi.PyErr_Clear()",
    "sys.exit": "sys.exit(0)",
    "os._exit": "import os\nos._exit(0)",
    "a signal": "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)",
    "a forged result": "print('softmax: passed'); print('{\"status\": \"passed\"}')",
    "the grader's pipe": 'import os\nos.write(3, b\'{"status": "passed", "value": {}, "nonce": ""}\\n\')',
    "every descriptor": "import os\nfor fd in range(3, 9):\n    try: os.write(fd, b'1\\n')\n    except OSError: pass",
}


@pytest.mark.parametrize("trick", AT_IMPORT)
def test_what_an_answer_changes_when_it_is_loaded_does_not_help_it(trick):
    result, told = graded(f"{AT_IMPORT[trick]}\n{WRONG}")
    assert result in ("failed", "error"), told
    assert told


# Ways to the reference: whoever gets it returns its values, and would pass.
WAYS = {
    "import": "from week1_decoder.solutions.attention import softmax as reference",
    "importlib": "import importlib\nreference = importlib.import_module('week1_decoder.solutions.attention').softmax",
    "reload": "import importlib, week1_decoder.solutions.attention as m\nreference = importlib.reload(m).softmax",
    "a fresh import": "sys.modules.pop('week1_decoder.solutions.attention', 0)\nsys.meta_path[:] = sys.meta_path[2:]\n"
    "from week1_decoder.solutions.attention import softmax as reference",
    "borrow": "from shared import borrow\nreference = borrow('softmax')",
    "mine": "from shared.learner import borrow\nreference = borrow('softmax')",
    "course.reference": "from shared import course\nreference = course.reference('softmax')",
    "course.edited": "from shared import course\nreference = course.edited(course.find('softmax'), [])",
    "sys.modules": "reference = next(m.softmax for m in list(sys.modules.values()) if hasattr(m, 'softmax') "
    "and m.__name__.startswith('week'))",
    "another answer's globals": "reference = causal_mask.__globals__['softmax']",
    "what calls it": "def reference(x, dim):\n    return attention(x[..., None, :], torch.eye(3), torch.eye(3))",
    "the variants": "from tests.variants.attention import softmax__by_logsumexp as reference",
    "open": "import shared\nfrom pathlib import Path\n"
    "text = (Path(shared.__file__).parents[1] / 'week1_decoder/solutions/attention.py').read_text()\n"
    "space = {}\nexec(text, space)\nreference = space['softmax']",
    "os.open": "import os, shared\nroot = os.path.dirname(os.path.dirname(shared.__file__))\n"
    "fd = os.open(root + '/week1_decoder/solutions/attention.py', os.O_RDONLY)\n"
    "space = {}\nexec(os.read(fd, 10**6), space)\nreference = space['softmax']",
    "the notebook": "import shared, json\nfrom pathlib import Path\n"
    "json.loads((Path(shared.__file__).parents[1] / 'week1_decoder/graded_solution.ipynb').read_text())\n"
    "reference = torch.softmax",
    "inspect.getsource": "import inspect, week1_decoder.solutions.attention as m\n"
    "space = {}\nexec(inspect.getsource(m), space)\nreference = space['softmax']",
    "the known mistakes": "import shared.checking as c\n"
    "reference = next(iter(c._CHECKS['softmax'].mistakes.values()))[0]",
}


@pytest.mark.parametrize("way", WAYS)
def test_the_reference_is_not_to_be_had(way):
    source = f"{WAYS[way]}\ndef softmax(x, dim):\n    return reference(x, dim)\n"
    result, told = graded(source, provided=("causal_mask", "attention"))
    assert result in ("failed", "error", "todo"), told


def test_not_even_behind_a_try():
    source = """
        def softmax(x, dim):
            try:
                from week1_decoder.solutions.attention import softmax as reference
                return reference(x, dim)
            except BaseException:
                return torch.zeros_like(x)
    """
    assert graded(source)[0] == "failed"


def test_what_goes_around_pythons_own_open_does_not_read_the_solutions_either():
    """There it is Landlock that refuses."""
    needs("files")
    source = """
        import shared, os
        path = os.path.dirname(os.path.dirname(shared.__file__)) + "/week1_decoder/solutions/attention.py"
        def softmax(x, dim):
            torch.from_file(path, dtype=torch.uint8, size=100).sum()
            return torch.softmax(x, dim)
    """
    assert graded(source)[0] != "passed"


# While it is called: the answer patches what judges it, and hides that again.
CALLED = {
    "patches when called": "torch.allclose = torch.equal = lambda *a, **k: True\nreturn torch.zeros_like(x)",
    "a thread that waits": """import threading, time, builtins
        def later():
            time.sleep(0.0)
            builtins.all = lambda *a: True
        threading.Thread(target=later, daemon=True).start()
        time.sleep(0.01)
        return torch.zeros_like(x)""",
    "equal to everything": """class Same(Tensor):
            @classmethod
            def __torch_function__(cls, function, types, args=(), kwargs=None):
                if function in (torch.equal, torch.allclose, Tensor.__eq__, torch.isclose): return True
                return super().__torch_function__(function, types, args, kwargs or {})
        return torch.zeros_like(x).as_subclass(Same)""",
    "an object with __eq__": """class Same:
            def __eq__(self, other): return True
            def __ne__(self, other): return False
            def __array__(self, *a): return None
            def __getattr__(self, name): return self
        return Same()""",
    "a number with __eq__": """class Same(float):
            def __eq__(self, other): return True
            __hash__ = float.__hash__
        return Same(0)""",
    "lies the second time": """global n
        n = globals().get("n", 0) + 1
        return torch.softmax(x, dim) if n % 2 else torch.zeros_like(x)""",
    "not implemented": "raise NotImplementedError('attention: your code')",
    "stops in a call": "import os; os._exit(0)",
    "an exception that claims to be the end": "raise StopIteration",
    "writes the pipe in a call": 'import os; os.write(3, b\'{"status": "passed"}\\n\'); return torch.zeros_like(x)',
    "the seed": "torch.manual_seed(0); torch.set_default_dtype(torch.float64); return torch.zeros_like(x)",
    "detects the grader": """import os
        if "JPY_PARENT_PID" not in os.environ and "ipykernel" not in sys.modules: return x * 0
        return torch.softmax(x, dim)""",
    "the caller's locals": "import inspect\n        return inspect.currentframe().f_back.f_locals['expected']",
}


@pytest.mark.parametrize("trick", CALLED)
def test_what_an_answer_does_when_it_is_called_does_not_help_it(trick):
    result, told = graded(f"def softmax(x, dim):\n        {CALLED[trick].strip()}\n")
    assert result in ("failed", "error", "todo"), told


def test_outputs_learnt_by_heart_from_the_lesson_fail_the_grade():
    """An answer that knows what the lesson's inputs give: right there, wrong with the grade's seeds."""
    seen = []

    def spy(x, dim):
        result = torch.softmax(x, dim)
        seen.append((x.detach().tolist(), dim, result.tolist(), str(x.dtype)))
        return result

    observe(find_check("softmax"), spy, LESSON_SEED, 10)
    table = {repr((x, dim)): out for x, dim, out, _ in seen}
    source = f"""
        import json
        inf, nan = math.inf, math.nan
        TABLE = {table!r}
        def softmax(x, dim):
            known = TABLE.get(repr((x.detach().tolist(), dim)))
            return x * 0 if known is None else torch.tensor(known, dtype=x.dtype) + 0 * x
    """
    assert graded(source, seed=SEED)[0] == "failed"
    told = judging.judge(Answer("softmax", IMPORTS + textwrap.dedent(source), frozenset()), LESSON_SEED)
    labels = [label for label, value in told["saw"]["seen"]]
    assert labels == [entry.label for entry in observe(find_check("softmax"), spy, LESSON_SEED, 10).observations]


def test_a_patch_is_named_even_where_the_values_are_right():
    result, told = graded("torch.allclose = lambda *a: True\nsoftmax = torch.softmax")
    assert (result, told) == ("error", "It changes torch.allclose, which is not its own: an answer may not.")


# What arrives may be anything

WHOLE = {"changed": None, "timed out": False, "failure": None}


@pytest.mark.parametrize(
    "told",
    [
        None,
        [],
        {},
        "passed",
        {"status": "passed"},
        WHOLE | {"seen": []},
        WHOLE | {"seen": [["a", ["tensor", "torch.float32", [10**9], False, ""]]]},
        WHOLE | {"seen": [["a", ["tensor", "os.system", [], False, ""]]]},
        WHOLE | {"seen": [["a", ["meta", "torch.float32", [-1], False]]]},
        WHOLE | {"seen": 9 * [["a", ["opaque", "a Tensor", ""]]], "failure": ["SystemExit", "", "", True, False]},
        WHOLE | {"seen": [], "failure": ["KeyboardInterrupt"]},
    ],
    ids=repr,
)
def test_a_forged_report_gets_no_points(told):
    result, _ = judging.verdict("softmax", SEED, {"saw": told, "seconds": 0.0})
    assert result in ("failed", "error")


VALUES = [None, True, 3, -(10**4000), 0.1, float("inf"), "é\ud800", b"\0\xff", 1 + 2j, {"k", 1}, frozenset({2})]
VALUES += [[1, (2, [3])], {1: "a", (1, 2): {3}}]
VALUES += [torch.tensor(3), torch.zeros(0, 3), torch.tensor([True]), torch.arange(6).view(2, 3).T]
VALUES += [torch.ones(2, dtype=torch.float64, requires_grad=True), torch.ones(3, dtype=torch.bfloat16)]
VALUES += [torch.ones(2, dtype=torch.complex64), torch.arange(5, dtype=torch.uint8), torch.nn.Parameter(torch.ones(2))]
VALUES += [torch.ones(2, dtype=torch.complex64).mul(1j).conj(), torch.ones(4, 3)[:, :1]]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: f"{type(value).__name__}")
def test_what_a_check_sees_arrives_as_it_was(value):
    arrived = wire.unpack(json.loads(json.dumps(wire.pack(values.snapshot(value)))))
    assert observations.compare(value, arrived, 0, 0) is None
    assert observations.compare(arrived, value, 0, 0) is None
    if isinstance(value, torch.Tensor):
        assert arrived.requires_grad == value.requires_grad and arrived.dtype == value.dtype


def test_a_tensor_without_data_arrives_as_one():
    arrived = wire.unpack(wire.pack(torch.ones(2**40, device="meta")))
    assert arrived.is_meta and arrived.shape == (2**40,)
    assert observations.compare(torch.ones(3), arrived, 0, 0).kind == "shape"


def test_what_was_raised_arrives_too():
    assert wire.unpack(wire.pack(values.Raised("ValueError", "no"))) == values.Raised("ValueError", "no")


def test_a_subclass_arrives_as_plain_data_and_another_type_as_nothing():
    class Liar(str):
        def __eq__(self, other):
            return True

    arrived = wire.unpack(wire.pack(values.snapshot([Liar("x"), object()])))
    assert type(arrived[0]) is str and arrived[0] == "x"
    assert "got an object" in observations.compare([1, 2], [1, arrived[1]], 0, 0).text


# And no honest answer suffers


def test_an_answer_that_lends_from_the_course_gets_what_it_asks_for():
    source = """
        from shared import mine
        their_mask = mine("causal_mask")
        def attention(q, k, v, causal=True):
            scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
            if causal:
                scores = scores.masked_fill(~their_mask(q.shape[-2], k.shape[-2]), -math.inf)
            return scores.softmax(-1) @ v
    """
    assert graded(source, "attention") == ("passed", "")


def test_honest_answers_that_do_unusual_things_pass():
    for body in (
        "from collections import namedtuple; T = namedtuple('T', 'a'); return T(torch.softmax(x, dim)).a",
        "from dataclasses import make_dataclass; C = make_dataclass('C', ['a']); return C(torch.softmax(x, dim)).a",
        "import logging, warnings; logging.info('x'); warnings.warn('y'); return torch.softmax(x, dim)",
        "import tempfile; f = tempfile.TemporaryFile(); f.write(b'x'); return torch.softmax(x, dim)",
        "import inspect; inspect.signature(torch.softmax if False else softmax); return torch.softmax(x, dim)",
    ):
        assert graded(f"def softmax(x, dim):\n    {body}\n") == ("passed", ""), body


# Among them those whose check calls the reference itself, by way of another one.
SAMPLE = [
    "encode_bpe",
    "MultiHeadAttention",
    "init_weights",
    "GPT",
    "completion_log_prob",
    "bert_score",
    "generate_cached",
]


def test_what_runs_in_a_thread_parses_nothing(monkeypatch):
    """In Python 3.11 `ast.parse` in two threads at once fails now and then."""
    answer = extract([course.find("softmax").path.read_text()], "softmax", provided=course.exercises())
    for cached in (judging._imports, judging._reached, judging._preload):
        cached.cache_clear()
    run = judging.prepared(answer, SEED)
    monkeypatch.setattr("ast.parse", lambda *a, **k: pytest.fail("parsed"))
    assert run().keys() == {"saw", "seconds"}


def test_references_pass_from_the_stripped_process():
    with ThreadPoolExecutor(2) as pool:
        for name in SAMPLE:
            find_check(name)
        answers = [extract([course.find(n).path.read_text()], n, provided=course.exercises()) for n in SAMPLE]
        running = [pool.submit(judging.prepared(answer, SEED)) for answer in answers]
        told = [future.result() for future in running]
        wrong = {n: v for n, t in zip(SAMPLE, told, strict=True) if (v := judging.verdict(n, SEED, t))[0] != "passed"}
    assert not wrong
