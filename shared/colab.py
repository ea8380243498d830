"""Google Colab: what a notebook's first cell does once the course is on the machine's disk.

Answers go to the learner's Drive, where they allow it; the packages that this lesson lacks are installed. Nothing that
Colab has is replaced: pip is held to the installed version of everything.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from shared import course, imports

DRIVE = course.ROOT.parent / "drive"  # the course is in /content, where Colab's own examples mount it too
UNREACHED = "pip cannot reach the package index"
# Colab has a notebook server of its own; the other three are for authors and for tests on one's own machine.
NOT_WANTED = {"jupyterlab", "jupytext", "nbval", "pytest"}


def prepare(notebook: str | None = None, keep_on_drive: bool = True) -> None:
    """Make this runtime ready for a notebook of the course, `week/name.ipynb`; without a name, for all of them."""
    path = [str(course.ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, path)))  # for processes that lessons start
    print(keep_progress(keep_on_drive))
    wanted = imports.needed(notebook)
    for line in install(wanted):
        print(line)
    if any(requirement.name == "torch" for requirement in wanted):
        print(machine(notebook))


# Progress


def keep_progress(on_drive: bool) -> str:
    """Choose the work folder, on Drive where the learner allows it, and say where it is."""
    local = course.ROOT / "work"
    if os.environ.get("SIXWEEKS_WORK"):  # this cell ran before, or the learner chose a folder
        return f"Your answers are kept in {course.work_folder()}."
    lost = f"Your answers are kept in {local}, and are lost when this runtime ends"
    if not on_drive:
        return f"{lost}: tick keep_progress_on_drive and run this cell again to keep them on your Drive."
    fault = _mount()
    folder = DRIVE / "MyDrive" / course.ROOT.name / "work"
    try:
        if not fault:
            folder.mkdir(parents=True, exist_ok=True)
            _bring(local, folder)
    except OSError as error:
        fault = str(error)
    if fault:
        return f"{lost}, since your Drive is not there ({fault}). Run this cell again to allow it."
    os.environ["SIXWEEKS_WORK"] = str(folder)
    n_answers = len(list(folder.glob("*/*.py")))
    found = f": {n_answers} of them are there" if n_answers else ""
    return f"Your answers are kept on your Drive, in {folder.relative_to(DRIVE)}{found}."


def _mount() -> str | None:
    """Ask for the Drive; None when it is there, else the reason why not."""
    if (DRIVE / "MyDrive").is_dir():
        return None
    from google.colab import drive

    try:
        drive.mount(str(DRIVE))
    except Exception as error:  # a learner who declines, a browser without cookies, a Workspace account's rules
        return f"{type(error).__name__}: {error}".strip(": ")
    return None if (DRIVE / "MyDrive").is_dir() else "it was not mounted"


def _bring(local: Path, folder: Path) -> None:
    """Copy what was passed before the Drive was allowed; what is on the Drive already stays."""
    for path in sorted(local.rglob("*")):
        target = folder / path.relative_to(local)
        if path.is_file() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


# Packages


def install(wanted: list[Requirement]) -> list[str]:
    """Install those that are missing, at versions that go with all that is there; returns what the learner should know.

    One that fits no such set is installed as it is, without replacing what it asks for in vain.
    """
    before = imports.installed()
    missing = [r for r in wanted if canonicalize_name(r.name) not in before and r.name not in NOT_WANTED]
    notes = [
        f"{r.name} {before[r.name]} is here, and the course was tried with {r.specifier}. It was not replaced."
        for r in wanted
        if r.name in before and not r.specifier.contains(before[r.name], prereleases=True)
    ]
    if not missing:
        return notes
    print(f"Installing what this lesson needs and Colab lacks: {', '.join(r.name for r in missing)} ...", flush=True)
    start = time.monotonic()
    fault = _pip(missing)
    if fault == UNREACHED:
        return [*notes, f"{fault}. Is this runtime connected to the internet? Then run this cell again."]
    if fault:
        blamed = [r for r in missing if fault.startswith(f"{r.name} ")]
        others = [r for r in missing if r not in blamed]
        if not blamed or others and _pip(others):
            blamed = [r for r in missing if _pip([r])]  # one by one finds those that do not fit
        notes += map(_install_alone, blamed)
    importlib.invalidate_caches()
    after = imports.installed()
    replaced = [
        f"{name} was {old}, and is {after.get(name)} now." for name, old in before.items() if after.get(name) != old
    ]
    print(f"... {time.monotonic() - start:.0f} s. {'' if replaced else 'Nothing that was here was replaced.'}")
    return notes + replaced


def _pip(wanted: list[Requirement], *options: str) -> str | None:
    """Install, with every installed package held to its version; the reason where pip could not, else None."""
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "constraints.txt")
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in _pins()), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--constraint", str(constraints), *options]
        done = subprocess.run([*command, *map(str, wanted)], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode == 0:
        return None
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    if any("connection broken by" in line for line in lines):
        return UNREACHED
    asked = [line for line in lines if " depends on " in line]
    return (asked or [line for line in lines if line.startswith("ERROR")] or lines or ["pip gave no reason"])[0]


def _pins() -> list[tuple[str, str]]:
    """Name and version of what is installed, as far as pip reads the version."""
    pins = []
    for name, version in imports.installed().items():
        try:
            pins.append((name, str(Version(version))))
        except (InvalidVersion, TypeError):
            continue
    return pins


def _install_alone(requirement: Requirement) -> str:
    """Install a package as it is, and of what it asks for only what is missing; returns a sentence on how that went."""
    failed = _pip([requirement], "--no-deps")
    importlib.invalidate_caches()
    there = imports.installed()
    if not failed:
        asked = _asked_by(requirement.name)
        lacking = [r for r in asked if canonicalize_name(r.name) not in there]
        failed = _pip(lacking) if lacking else None
    if failed:
        weeks = ", ".join(imports.weeks_with(requirement.name))
        return f"{requirement} could not be installed ({failed}). Parts of {weeks} need it; all else works without it."
    unfit = [r for r in asked if r not in lacking and not r.specifier.contains(there[canonicalize_name(r.name)], True)]
    wishes = ", ".join(f"{r} (here {there[canonicalize_name(r.name)]})" for r in unfit)
    return f"{requirement.name} asks for {wishes}. It was installed as it is, and nothing was replaced."


def _asked_by(name: str) -> list[Requirement]:
    """What an installed package asks for on this machine, without its extras."""
    found = []
    for line in metadata.requires(name) or ():
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            found.append(requirement)
    return found


# The machine


def machine(notebook: str | None = None) -> str:
    """What a lesson runs on here, and how to get a GPU where there is none."""
    from shared import runtime

    source = imports.source_of(notebook)
    uses = re.compile(r"^device = pick_device\(\)|\btorch\.cuda\.is_available\(\)", flags=re.MULTILINE)
    if source and not uses.search(source.read_text(encoding="utf-8")):
        return (
            "This lesson runs on the CPU, also where there is a GPU. To save GPU hours: Runtime > Change runtime type."
        )
    device = runtime.pick_device()
    if device.type != "cuda":
        return (
            "No GPU here. This lesson runs on the CPU too, with its smaller models. "
            "For a GPU: Runtime > Change runtime type > T4 GPU."
        )
    import torch

    kind = str(runtime.pick_dtype(device)).removeprefix("torch.")
    name = torch.cuda.get_device_name(device)
    return f"GPU: {name}. The models run on it, larger ones than on a CPU; mixed precision, where used, is {kind}."
