"""The cell that the build puts after the first cell of every notebook: on Colab it fetches the course.

Every notebook holds it, and is stale when it changes, so it is short: what Colab needs once the course is on the disk
stands in `shared.colab`. Elsewhere it looks whether the kernel runs the course in whose folder the notebook lies.
"""

from __future__ import annotations

import sys
from pathlib import Path

from shared import course

_CELL = """\
# @title On Colab this fetches the course. Elsewhere it looks whether this kernel has it. { display-mode: "form" }
keep_progress_on_drive = True  # @param {type: "boolean"}

import pathlib, subprocess, sys


class CourseNotFound(Exception):
    def _render_traceback_(self):  # the message and nothing else
        return str(self).splitlines()


if "google.colab" in sys.modules:
    course_address = "ADDRESS"
    course_home = "HOME"
    if not pathlib.Path(course_home, "shared", "colab.py").exists():
        clone_course = ["git", "clone", "--quiet", "--depth", "1", course_address, course_home]
        cloned = subprocess.run(clone_course, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if cloned.returncode:
            raise CourseNotFound(
                f"The course could not be fetched from {course_address}. git says:\\n  {cloned.stderr.strip()}\\n"
                "Can this runtime reach the internet, and does the address open in a browser? Then run this cell again."
            )
    if course_home not in sys.path:
        sys.path.insert(0, course_home)
    from shared import colab

    colab.prepare("NOTEBOOK", keep_progress_on_drive)
else:
    try:
        from shared.bootstrap import wrong_course
    except ImportError:
        raise CourseNotFound(
            "This kernel does not have the course, or has an older version of it: nothing below can run.\\n"
            "Either choose the kernel of the environment in which you installed it: Kernel > Change Kernel ...\\n"
            "Or install it for this kernel. In a terminal, in the folder of the course:\\n"
            f'  "{sys.executable}" -m pip install -e .\\nThen restart the kernel and run this cell again.'
        ) from None
    if wrong_course():
        raise CourseNotFound(wrong_course())
"""
METADATA = {"cellView": "form", "jupyter": {"source_hidden": True}, "tags": ["bootstrap"]}


def cell(notebook: str, address: str, home: str | None = None) -> str:
    """The cell for a notebook of the course, `week/name.ipynb`, which is to be cloned from `address` into `home`."""
    home = home or f"/content/{address.rstrip('/').rsplit('/', 1)[-1]}"
    return _CELL.strip().replace("ADDRESS", address).replace("HOME", home).replace("NOTEBOOK", notebook)


def wrong_course(folder: Path | None = None, root: Path = course.ROOT) -> str | None:
    """What is wrong, and what to do, where a notebook lies in another clone of the course than the one that runs."""
    folder = (folder or Path.cwd()).resolve()
    here = next((path for path in (folder, *folder.parents) if (path / "shared" / "course.py").is_file()), root)
    if here == root.resolve():
        return None
    return (
        f"This notebook lies in {here},\nbut this kernel runs the course in {root}:\n"
        "that one would judge your answers, and keep them.\n"
        "Either open the notebook there, or choose the kernel of the environment in which you\n"
        "installed this one: Kernel > Change Kernel ...\n"
        f'Or let this kernel run this one. In a terminal:\n  cd "{here}"\n  "{sys.executable}" -m pip install -e .\n'
        "Then restart the kernel and run this cell again."
    )
