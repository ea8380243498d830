"""The project's own files: what they promise is there."""

import re
import subprocess
import sys
import tomllib

import yaml

from shared import build, course

PROJECT = tomllib.loads((course.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
README = (course.ROOT / "README.md").read_text(encoding="utf-8")


def test_conda_gives_python_and_pip_and_pyproject_the_rest():
    environment = yaml.safe_load((course.ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = environment["dependencies"]
    assert conda == [f"python{PROJECT['requires-python']}", "pip"]
    assert pip == {"pip": ["-e ."]}


def test_the_readme_gives_the_two_commands_and_all_six_weeks():
    assert "pip install -e . && sixweeks lab" in README
    assert 'pip install -e ".[test]" && pytest -n logical --dist worksteal' in README
    for week in ("decoder", "pretraining", "evaluation", "finetuning", "inference", "rlhf"):
        assert re.search(rf"week\d_{week}", README)


def test_the_readme_marks_exactly_the_weeks_that_are_not_there():
    rows = re.findall(r"^\| \d \| .*$", README, flags=re.MULTILINE)
    assert len(rows) == 6
    there = {week for week in course.weeks()}
    for row in rows:
        (folder,) = re.findall(r"week\d_\w+", row)[:1]
        assert ("not there yet" in row) == (folder not in there), row


def test_the_repositorys_address_stands_in_one_place():
    address = build.repository()
    texts = [*course.ROOT.glob("shared/*.py"), *course.ROOT.glob("week*/*/*.py"), course.ROOT / "environment.yml"]
    assert not [path.name for path in texts if address in path.read_text(encoding="utf-8")]


def test_shared_names_no_week():
    for path in (course.ROOT / "shared").rglob("*.py"):
        assert not re.search(r"week\d_\w", path.read_text(encoding="utf-8")), path


def test_weeks_import_only_earlier_weeks_and_shared():
    for week in course.weeks():
        for path in (course.ROOT / week).rglob("*.py"):
            for other in re.findall(r"(?:from|import) (week\d_\w+)", path.read_text(encoding="utf-8")):
                assert other <= week, f"{path} imports {other}"


def test_importing_shared_loads_no_heavy_library():
    heavy = "('torch', 'transformers', 'IPython')"
    code = f"import shared, shared.learner, shared.course, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_ruff_finds_nothing():
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=course.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_modules_of_shared_stay_small():
    for path in (course.ROOT / "shared").rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 300, path


def test_each_weeks_readme_names_every_exercise_beside_its_lesson():
    for exercise in course.exercises().values():
        readme = (course.ROOT / exercise.week / "README.md").read_text(encoding="utf-8")
        (row,) = [line for line in readme.splitlines() if line.startswith("| [") and f"_{exercise.lesson}]" in line]
        assert f"`{exercise.name}`" in row, f"{exercise.name} is missing in {exercise.week}/README.md"
