"""Colab without Colab: a stand-in Drive, a recorded pip, and then a real kernel with Colab's IPython."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import types
from importlib import metadata
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from shared import answers, bootstrap, build, colab, course, imports
from tests import colabs
from tests.test_runtime import fake_gpus

LESSON = course.ROOT / "week1_decoder" / "lessons" / "01_tokenization.py"
ADDRESS = build.repository()


@pytest.fixture
def content(tmp_path, monkeypatch):
    """A runtime's /content: a Drive that is not mounted yet, and the course with no answers in it."""
    folder = tmp_path / "content"
    (folder / "course").mkdir(parents=True)
    monkeypatch.setattr(colab, "DRIVE", folder / "drive")
    monkeypatch.setattr(course, "ROOT", folder / "course")
    monkeypatch.delenv("SIXWEEKS_WORK")
    return folder


def drive(monkeypatch, mount):
    """A `google.colab` whose `drive.mount` is this function; returns the list of calls."""
    calls = []
    module = types.ModuleType("google.colab")
    module.drive = types.SimpleNamespace(mount=lambda place, **options: (calls.append(place), mount(place)))
    monkeypatch.setitem(sys.modules, "google.colab", module)
    return calls


def mounts(place):
    Path(place, "MyDrive").mkdir(parents=True)


def declines(place):
    raise ValueError("mount failed: credential propagation was unsuccessful")


# Progress


def test_answers_go_to_the_drive_and_the_next_day_they_are_found_there(content, monkeypatch):
    calls = drive(monkeypatch, mounts)
    told = colab.keep_progress(True)
    assert told == "Your answers are kept on your Drive, in MyDrive/course/work."
    work = content / "drive" / "MyDrive" / "course" / "work"
    assert course.work_folder() == work and calls == [str(content / "drive")]
    answers.save(answers.Answer("softmax", "def softmax(x):\n    return 'mine'\n", frozenset()))

    monkeypatch.delenv("SIXWEEKS_WORK")  # the next day: a new kernel on a new machine, the same Drive
    shutil.move(content / "drive" / "MyDrive", content / "kept")
    drive(monkeypatch, lambda place: shutil.move(content / "kept", Path(place, "MyDrive")))
    told = colab.keep_progress(True)
    assert told == "Your answers are kept on your Drive, in MyDrive/course/work: 1 of them are there."
    assert answers.state_of("softmax") == "passed" and answers.load_saved("softmax")(0) == "mine"


def test_the_cell_run_again_asks_for_no_drive_and_keeps_the_folder(content, monkeypatch):
    calls = drive(monkeypatch, mounts)
    colab.keep_progress(True)
    work = course.work_folder()
    assert colab.keep_progress(True) == f"Your answers are kept in {work}."
    assert course.work_folder() == work and len(calls) == 1


def test_answers_from_before_the_drive_was_allowed_are_brought_and_none_is_overwritten(content, monkeypatch):
    for folder, text in (("course/work", "local"), ("drive/MyDrive/course/work", "on the Drive")):
        (content / folder / "week").mkdir(parents=True)
        (content / folder / "week" / "both.py").write_text(text)
    (content / "course/work/week/new.py").write_text("local")
    calls = drive(monkeypatch, mounts)
    assert "2 of them are there" in colab.keep_progress(True)
    assert not calls  # it was mounted already
    found = content / "drive/MyDrive/course/work/week"
    assert (found / "both.py").read_text() == "on the Drive" and (found / "new.py").read_text() == "local"


@pytest.mark.parametrize(
    ("mount", "reason"),
    [
        (declines, "ValueError: mount failed: credential propagation was unsuccessful"),
        (lambda place: None, "it was not mounted"),
        (lambda place: Path(place).write_text("a file where the folder should be"), "it was not mounted"),
    ],
)
def test_a_drive_that_is_declined_or_fails_is_told_in_a_sentence_and_the_course_goes_on(
    content, monkeypatch, mount, reason
):
    drive(monkeypatch, mount)
    told = colab.keep_progress(True)
    assert f"since your Drive is not there ({reason}). Run this cell again to allow it." in told
    assert "are lost when this runtime ends" in told and "\n" not in told
    assert "SIXWEEKS_WORK" not in os.environ


def test_a_full_drive_is_told_and_answers_stay_here(content, monkeypatch):
    drive(monkeypatch, mounts)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(colab, "_bring", full)
    assert "No space left on device" in colab.keep_progress(True)
    assert "SIXWEEKS_WORK" not in os.environ


def test_who_does_not_want_the_drive_is_not_asked(content, monkeypatch):
    calls = drive(monkeypatch, mounts)
    assert "tick keep_progress_on_drive" in colab.keep_progress(False)
    assert not calls and "SIXWEEKS_WORK" not in os.environ


# Packages


class Pip:
    """In place of pip: records what it was asked for, and refuses what does not fit."""

    def __init__(self, monkeypatch, installed, refused=(), asks=None):
        self.installed, self.refused, self.calls, self.constraints = dict(installed), set(refused), [], []
        monkeypatch.setattr(colab.imports, "installed", lambda: dict(self.installed))
        monkeypatch.setattr(colab.metadata, "requires", lambda name: (asks or {}).get(name))
        monkeypatch.setattr(colab.subprocess, "run", self.run)

    def run(self, command, **options):
        at = command.index("--constraint")
        self.constraints.append(Path(command[at + 1]).read_text().splitlines())
        asked = command[at + 2 :]
        self.calls.append(asked)
        names = [Requirement(text).name for text in asked if not text.startswith("--")]
        unfit = [n for n in names if n in self.refused and "--no-deps" not in asked or f"{n} at all" in self.refused]
        if unfit:
            said = f"ERROR: Cannot install {unfit[0]}\n\nThe conflict is caused by:\n    {unfit[0]} 1 depends on x>=9"
            return subprocess.CompletedProcess(command, 1, "", said)
        self.installed |= dict.fromkeys(names, "1.0")
        return subprocess.CompletedProcess(command, 0, "", "")


THERE = {"torch": "2.11.0+cu130", "numpy": "2.1.3", "transformers": "5.15.1", "datasets": "4.0.0", "odd": "no version"}


def wanted(*texts):
    return [Requirement(text) for text in texts]


def test_only_what_is_missing_is_installed_and_everything_there_is_held(monkeypatch, capsys):
    pip = Pip(monkeypatch, THERE)
    assert colab.install(wanted("torch>=2.9", "numpy>=2", "einops>=0.8", "pytest>=8", "jupyterlab>=4")) == []
    assert pip.calls == [["einops>=0.8"]]
    assert pip.constraints == [["torch==2.11.0+cu130", "numpy==2.1.3", "transformers==5.15.1", "datasets==4.0.0"]]
    told = capsys.readouterr().out
    assert "Installing what this lesson needs and Colab lacks: einops ..." in told
    assert "Nothing that was here was replaced." in told


def test_where_all_is_there_pip_is_not_started_and_nothing_is_said(monkeypatch, capsys):
    pip = Pip(monkeypatch, THERE)
    assert colab.install(wanted("torch>=2.9", "datasets>=4.0", "pytest")) == []
    assert pip.calls == [] and capsys.readouterr().out == ""


def test_a_package_that_asks_for_another_version_is_installed_as_it_is_and_it_is_said(monkeypatch):
    asks = {"trl": ["datasets>=4.7.0", "transformers>=4.56.2", "jinja2", "rich; extra == 'cli'"]}
    pip = Pip(monkeypatch, THERE, refused={"trl"}, asks=asks)
    (note,) = colab.install(wanted("einops>=0.8", "trl==1.12.*"))
    assert pip.calls == [
        ["einops>=0.8", "trl==1.12.*"],
        ["einops>=0.8"],
        ["--no-deps", "trl==1.12.*"],
        ["jinja2"],
    ]
    assert note == "trl asks for datasets>=4.7.0 (here 4.0.0). It was installed as it is, and nothing was replaced."
    assert pip.installed["datasets"] == "4.0.0"


def test_a_package_that_cannot_be_had_is_named_with_its_lessons_and_the_rest_is_installed(monkeypatch):
    pip = Pip(monkeypatch, THERE, refused={"bm25s at all"})
    (note,) = colab.install(wanted("bm25s>=0.2", "einops>=0.8"))
    assert "bm25s>=0.2 could not be installed (bm25s 1 depends on x>=9)." in note
    assert note.endswith(" Parts of week6_rlhf need it; all else works without it.")
    assert "einops" in pip.installed


def test_where_pip_blames_one_of_two_they_are_tried_one_by_one(monkeypatch):
    pip = Pip(monkeypatch, THERE, refused={"bm25s at all", "optuna at all"})
    notes = colab.install(wanted("bm25s>=0.2", "einops>=0.8", "optuna>=4"))
    assert [note.split()[0] for note in notes] == ["bm25s>=0.2", "optuna>=4"] and "einops" in pip.installed


def test_without_a_network_pip_is_asked_once_and_the_learner_told(monkeypatch):
    pip = Pip(monkeypatch, THERE)
    said = "WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError': /simple/einops/"
    monkeypatch.setattr(
        colab.subprocess,
        "run",
        lambda command, **options: pip.calls.append(1) or subprocess.CompletedProcess(command, 1, "", said),
    )
    (note,) = colab.install(wanted("einops", "regex"))
    assert note.startswith("pip cannot reach the package index. Is this runtime connected") and pip.calls == [1]


def test_what_pip_replaced_all_the_same_is_told(monkeypatch, capsys):
    pip = Pip(monkeypatch, THERE)
    run = pip.run

    def replace(command, **options):
        pip.installed["numpy"] = "9"
        return run(command, **options)

    monkeypatch.setattr(colab.subprocess, "run", replace)
    assert colab.install(wanted("einops")) == ["numpy was 2.1.3, and is 9 now."]
    assert "Nothing" not in capsys.readouterr().out


def test_a_version_that_the_course_does_not_know_is_told_and_left(monkeypatch):
    pip = Pip(monkeypatch, THERE)
    (note,) = colab.install(wanted("transformers<5", "torch<3"))
    assert note == "transformers 5.15.1 is here, and the course was tried with <5. It was not replaced."
    assert not pip.calls


def test_a_lesson_gets_what_its_imports_reach():
    def names(notebook):
        return {requirement.name for requirement in imports.needed(notebook)}

    first = names("week1_decoder/01_tokenization.ipynb")
    assert {"torch", "tiktoken", "sentencepiece", "gguf", "jaxtyping"} <= first  # gguf by way of shared.models
    assert not first & {"trl", "lm-eval", "bitsandbytes", "optuna", "openai", "einops"}
    assert "einops" in names("week1_decoder/02_attention.ipynb")
    assert "trl" in names("week6_rlhf/02_ppo.ipynb")
    assert "rouge-score" in names("week4_finetuning/01_instruction_data.ipynb")
    assert "nltk" in names("week6_rlhf/05_applications.ipynb")  # by `mine` of an exercise of week 3
    assert "torch" not in names("start.ipynb")
    everything = {requirement.name for requirement in imports.dependencies()}
    assert names(None) == names("week9_unknown/01_x.ipynb") == everything


def test_every_dependency_is_found_under_the_name_of_its_module():
    by_module = metadata.packages_distributions()
    for requirement in imports.dependencies():
        brought = {imports.canonicalize_name(name) for name in by_module.get(imports.module_of(requirement.name), ())}
        assert requirement.name in brought, f"{requirement.name} brings no {imports.module_of(requirement.name)}"


# The machine


def test_a_t4_a_newer_gpu_and_no_gpu_are_described(monkeypatch):
    training = "week2_pretraining/03_pretraining.ipynb"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    fake_gpus(monkeypatch, cuda=True)
    told = colab.machine(training)
    assert told.startswith("GPU: Tesla T4. ") and told.endswith("mixed precision, where used, is float16.")
    fake_gpus(monkeypatch, cuda=True, bf16=True)
    assert colab.machine(training).endswith("is bfloat16.")
    assert colab.machine("week6_rlhf/03_dpo.ipynb").startswith(
        "This lesson runs on the CPU, also where there is a GPU."
    )
    assert colab.machine("week5_inference/03_attention_kernels.ipynb").startswith("GPU: ")  # its kernel in Triton
    fake_gpus(monkeypatch)
    assert "This lesson runs on the CPU too" in colab.machine(training)
    assert "Runtime > Change runtime type > T4 GPU" in colab.machine(training)


def test_only_lessons_that_use_the_gpu_grow_with_it():
    for source in course.ROOT.glob("week*/lessons/*.py"):
        text = source.read_text(encoding="utf-8")
        assert "preset(" not in text or "device = pick_device()" in text, source


# The cell


def test_the_cell_is_short_titled_and_has_a_form():
    for source in course.ROOT.glob("week*/lessons/*.py"):
        name = build.notebook_of(source).relative_to(course.ROOT).as_posix()
        text = bootstrap.cell(name, ADDRESS)
        first, second, *rest = text.splitlines()
        assert re.fullmatch(r"# @title [^{]+ \{ display-mode: \"form\" \}", first)
        assert second == 'keep_progress_on_drive = True  # @param {type: "boolean"}'
        assert len(rest) < 45 and max(map(len, text.splitlines())) <= 120
        assert f'colab.prepare("{name}", keep_progress_on_drive)' in text
        assert f'course_address = "{ADDRESS}"\n    course_home = "/content/{ADDRESS.rsplit("/", 1)[1]}"\n' in text


def run_cell(source, folder, google=None, *options):
    """The cell in a Python that sees no installed package; returns what it wrote on its error stream."""
    lines = [
        "import sys",
        f"sys.path[:0] = [{str(google)!r}]" if google else "",
        "import google.colab" if google else "",
    ]
    program = "\n".join([*lines, source])
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], cwd=folder, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stderr


def test_a_kernel_without_the_course_gets_one_message_with_what_to_do(tmp_path):
    code, said = run_cell(bootstrap.cell("week/x.ipynb", ADDRESS), tmp_path)
    assert code == 1 and "CourseNotFound: This kernel does not have the course" in said
    assert f'"{sys.executable}" -m pip install -e .' in said and "ModuleNotFoundError" not in said


def test_a_clone_that_fails_says_what_git_said_and_what_to_do(tmp_path):
    google = colabs.stand_in(tmp_path / "google")
    address = (tmp_path / "nowhere").as_uri()
    code, said = run_cell(bootstrap.cell("week/x.ipynb", address, str(tmp_path / "home")), tmp_path, google)
    assert code == 1 and f"CourseNotFound: The course could not be fetched from {address}. git says:" in said
    assert "fatal: " in said and "Then run this cell again." in said
    assert not (tmp_path / "home").exists()


def test_a_notebook_of_another_clone_is_told_apart_and_folders_of_this_one_are_not(tmp_path):
    (tmp_path / "other" / "shared").mkdir(parents=True)
    (tmp_path / "other" / "shared" / "course.py").touch()
    (tmp_path / "other" / "week1").mkdir()
    told = bootstrap.wrong_course(tmp_path / "other" / "week1")
    assert told.startswith(
        f"This notebook lies in {tmp_path}/other,\nbut this kernel runs the course in {course.ROOT}:\n"
    )
    assert f'cd "{tmp_path}/other"' in told and f'"{sys.executable}" -m pip install -e .' in told
    assert bootstrap.wrong_course(course.ROOT) is bootstrap.wrong_course(course.ROOT / "week1_decoder") is None
    assert bootstrap.wrong_course(tmp_path) is None  # a notebook that was taken elsewhere runs what is installed
    os.symlink(course.ROOT, tmp_path / "link")
    assert bootstrap.wrong_course(tmp_path / "link" / "week1_decoder") is None


def test_in_a_kernel_the_learner_reads_the_message_and_no_traceback(tmp_path, monkeypatch):
    (tmp_path / "clone" / "shared").mkdir(parents=True)
    (tmp_path / "clone" / "shared" / "course.py").touch()
    made = colabs.nbformat.v4.new_notebook()
    made.cells = [colabs.nbformat.v4.new_code_cell(bootstrap.cell("week/x.ipynb", ADDRESS))]
    monkeypatch.setenv("PYTHONPATH", str(course.ROOT))
    client = colabs.NotebookClient(made, allow_errors=True, resources={"metadata": {"path": str(tmp_path / "clone")}})
    client.execute()
    (error,) = made.cells[0].outputs
    assert error.ename == "CourseNotFound"
    assert "\n".join(error.traceback) == error.evalue == bootstrap.wrong_course(tmp_path / "clone")


def test_every_notebook_and_the_readme_have_the_badge():
    place = ADDRESS.replace("https://github.com/", "https://colab.research.google.com/github/") + "/blob/main"
    for path in [*course.ROOT.glob("week*/*.ipynb"), course.ROOT / "start.ipynb"]:
        first = json.loads(path.read_text(encoding="utf-8"))["cells"][0]
        assert f"({place}/{path.relative_to(course.ROOT).as_posix()})" in "".join(first["source"])
    readme = (course.ROOT / "README.md").read_text(encoding="utf-8")
    (linked,) = re.findall(rf"colab-badge\.svg\)\]\({re.escape(place)}/(\S+)\)", readme)
    assert linked == "week1_decoder/01_tokenization.ipynb"


# The real thing

COLABS = ["ipython==7.34.0", "ipykernel==6.17.1", "ipywidgets==7.7.1"]
HIDDEN = "tiktoken"  # what the runtime lacks, so that pip has something to do


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """A Python that sees the packages of this one, but for one, and over them the IPython and widgets of Colab."""
    folder = tmp_path_factory.mktemp("colab")
    seen = folder / "packages"
    seen.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith((HIDDEN, "__editable__", "llms_in_six_weeks")) and path.suffix != ".pth":
            (seen / path.name).symlink_to(path)
    subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
    (site,) = (folder / "env" / "lib").glob("python*/site-packages")
    (site / "seen.pth").write_text(f"{seen}\n")
    python = folder / "env" / "bin" / "python"
    command = [python, "-m", "pip", "install", "--quiet", *COLABS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f"PyPI did not give {', '.join(COLABS)}: {done.stderr.strip().splitlines()[-1]}")
    return python


CHECKS = """
import importlib.metadata, json, os, pathlib
import IPython, ipywidgets, numpy, shared, torch, transformers

print(json.dumps({
    "files": {module.__name__: module.__file__ for module in (shared, numpy, torch, transformers)},
    "ipython": IPython.__version__, "ipywidgets": ipywidgets.__version__,
    "work": os.environ["SIXWEEKS_WORK"], "path": os.environ["PYTHONPATH"],
    "notebooks": [path.name for path in pathlib.Path.cwd().glob("*.ipynb")],
}))
"""
SLIDERS = """
from shared import explore

explorer = explore(lambda n: f"{n} squared is {n * n}", n=(1, 9, 3))
explorer
"""
MOVED = """
row, view = explorer.widget().children
row.children[1].value = 7
print(view.value)
"""


@pytest.mark.skipif(os.name == "nt", reason="the environment is laid out as on Linux and macOS")
def test_the_first_lesson_runs_on_a_stand_in_for_colab(python, tmp_path):
    google = colabs.stand_in(tmp_path / "google")
    address = colabs.repository(tmp_path / "repository")
    content = tmp_path / "content"
    home = content / "course"
    made = colabs.notebook(LESSON, address, home, (CHECKS, SLIDERS, MOVED, "colab.prepare('x.ipynb')"))
    colabs.run(made, python, content, google)

    (cell,) = [cell for cell in made.cells if "bootstrap" in cell.metadata.get("tags", [])]
    told = colabs.printed(cell)
    assert "Your answers are kept on your Drive, in MyDrive/course/work." in told
    assert f"Colab lacks: {HIDDEN} ..." in told and "Nothing that was here was replaced." in told
    assert told.splitlines()[-1] == colab.machine(f"week1_decoder/{LESSON.stem}.ipynb")

    checks, sliders, moved, again = made.cells[-4:]
    found = json.loads(colabs.printed(checks))
    assert (found["ipython"], found["ipywidgets"]) == ("7.34.0", "7.7.1")
    assert found["files"].pop("shared") == str(home / "shared" / "__init__.py")
    assert all("/packages/" in file for file in found["files"].values())  # the ones of before, in their place
    assert found["notebooks"] == [] and found["path"].split(os.pathsep)[0] == str(home)

    work = content / "drive" / "MyDrive" / "course" / "work"
    assert found["work"] == str(work)
    names = {e.name for e in course.exercises().values() if e.lesson == "tokenization"}
    assert {path.stem for path in (work / "week1_decoder").glob("*.py")} == names
    assert not (home / "work").exists()

    (view,) = [output.data for output in sliders.outputs]
    assert view["text/plain"] == "3 squared is 9" and "model_id" in view["application/vnd.jupyter.widget-view+json"]
    assert "7 squared is 49" in colabs.printed(moved)
    assert "Installing" not in colabs.printed(again)
