"""A stand-in for Colab: a `google.colab` whose Drive works, declines or fails, and kernels that have it loaded."""

import json
import os
import shutil
import subprocess
import textwrap
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from shared import bootstrap, build, course

MOUNTS = {
    "works": "os.makedirs(os.path.join(mountpoint, 'MyDrive'), exist_ok=True)",
    "declines": "raise ValueError('mount failed: credential propagation was unsuccessful')",
}


def stand_in(folder: Path, mount: str = "works") -> Path:
    """Write `google.colab` with a `drive` of this kind into a folder; returns the folder, for a path."""
    package = folder / "google" / "colab"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text("from google.colab import drive\n")
    (package / "drive.py").write_text(f"import os\n\n\ndef mount(mountpoint):\n    {MOUNTS[mount]}\n")
    return folder


def repository(folder: Path) -> str:
    """This tree as a git repository in `folder`, committed or not; returns its address."""
    unwanted = shutil.ignore_patterns(".git", "__pycache__", "work", "build", "dist", "venv", "*.egg-info")
    shutil.copytree(course.ROOT, folder, ignore=unwanted)
    who = ["-c", "user.name=author", "-c", "user.email=author@example.org", "-c", "commit.gpgsign=false"]
    for command in (["init", "--quiet"], ["add", "--all"], [*who, "commit", "--quiet", "--message", "course"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder.as_uri()


def notebook(source: Path, address: str, home: Path, extra: tuple[str, ...] = ()) -> nbformat.NotebookNode:
    """A lesson's notebook, solved, which fetches the course from `address` into `home`; `extra` cells follow."""
    made = build.build_notebook(source, solved=True)
    name = build.notebook_of(source).relative_to(course.ROOT).as_posix()
    (cell,) = [cell for cell in made.cells if "bootstrap" in cell.metadata.get("tags", [])]
    cell.source = bootstrap.cell(name, address, str(home))
    made.cells += build.with_ids([nbformat.v4.new_code_cell(textwrap.dedent(text)) for text in extra])
    return made


def run(made: nbformat.NotebookNode, python: Path, content: Path, google: Path) -> None:
    """Run it with a kernel of `python` in `content`, with the stand-in in `google` imported when the kernel starts."""
    settings = content.parent / "jupyter"
    spec = settings / "kernels" / "colab"
    spec.mkdir(parents=True, exist_ok=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Colab", "language": "python"}))
    startup = settings / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True, exist_ok=True)
    (startup / "00_colab.py").write_text(f"import sys\nsys.path.append({str(google)!r})\nimport google.colab\n")
    content.mkdir(exist_ok=True)
    environment = {k: v for k, v in os.environ.items() if k not in ("SIXWEEKS_WORK", "PYTHONPATH", "PYTEST_VERSION")}
    environment |= {"JUPYTER_PATH": str(settings), "IPYTHONDIR": str(settings / "ipython")}
    before = os.environ.get("JUPYTER_PATH")
    os.environ["JUPYTER_PATH"] = str(settings)
    try:
        place = {"metadata": {"path": str(content)}}
        NotebookClient(made, timeout=900, kernel_name="colab", resources=place, coalesce_streams=True).execute(
            env=environment
        )
    finally:
        os.environ.pop("JUPYTER_PATH")
        if before is not None:
            os.environ["JUPYTER_PATH"] = before


def printed(cell) -> str:
    """What a cell wrote, streams only."""
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")
