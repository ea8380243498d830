"""`sixweeks doctor`: each thing that the course needs, what was found of it, and what to do where that is wrong."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import sys
import tempfile
import webbrowser
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from shared import course

Finding = tuple[str, bool, str]  # name, whether all is well, what was found and what to do
NAME = "llms-in-six-weeks"


def quick_look() -> Iterator[Finding]:
    """What is known at once."""
    yield _python()
    if "google.colab" not in sys.modules:  # there each notebook brings the course and just what it needs
        yield from (_packages(), _clone())
    yield from (_memory(), _disk(), _folder(), _answers())


def examine() -> Iterator[Finding]:
    """What is known at once, then what takes a second or two."""
    yield from quick_look()
    yield from (_jupyterlab(), _browser(), _git(), _device(), _proxy(), _hub(), _model(), _sandbox())


def _python() -> Finding:
    v = sys.version_info
    found = f"{v.major}.{v.minor}.{v.micro}"
    if (3, 11) <= v[:2] <= (3, 13):
        return "Python", True, found
    return "Python", False, (
        f"{found}, and the course wants 3.11 to 3.13. Make an environment with one of these and install there: "
        "python3.12 -m venv .venv"
    )  # fmt: skip


def _packages() -> Finding:
    """All that pyproject.toml asks for, in the versions that it asks for."""
    try:
        from shared.imports import dependencies

        wanted = dependencies()
    except (ImportError, OSError, ValueError, KeyError) as error:
        return "packages", False, f"cannot be compared ({error}). In the course's folder: pip install -e ."
    faults, found = [], {}
    for one in wanted:
        try:
            found[one.name] = metadata.version(one.name)
        except metadata.PackageNotFoundError:
            faults.append(f"{one.name} is missing")
            continue
        if not one.specifier.contains(found[one.name], prereleases=True):
            faults.append(f"{one.name} is {found[one.name]}, not {one.specifier}")
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        return "packages", False, f"{'; '.join(faults[:5])}{more}. In the course's folder: pip install -e ."
    main = ("torch", "transformers", "jupyterlab")
    return "packages", True, f"all {len(found)}: {', '.join(f'{name} {found[name]}' for name in main)} ..."


def installed_folder() -> Path | None:
    """The folder from which the course is installed in this Python; None where it is not."""
    try:
        direct = metadata.distribution(NAME).read_text("direct_url.json")
        return Path(url2pathname(urlsplit(json.loads(direct)["url"]).path)).resolve()
    except (metadata.PackageNotFoundError, ValueError, KeyError, TypeError):
        return None


def _clone() -> Finding:
    """Whether the notebooks, wherever they lie, run the code of the folder that is worked in."""
    here = _clone_around(Path.cwd()) or course.ROOT
    installed = installed_folder()
    if installed is None:
        return "course", False, f"not installed in this Python: cd {here}; pip install -e ."
    if installed != here:
        return "course", False, (
            f"this is {here}, but the course that is installed, and that its notebooks run, is {installed}. To work "
            f"here: cd {here}; pip install -e . and restart the kernels. To work there: cd {installed}"
        )  # fmt: skip
    return "course", True, f"installed from {here}"


def _clone_around(folder: Path) -> Path | None:
    """The clone of the course in which a folder lies."""
    for place in (folder, *folder.parents):
        with contextlib.suppress(OSError):
            if f'name = "{NAME}"' in (place / "pyproject.toml").read_text(encoding="utf-8", errors="replace"):
                return place.resolve()
    return None


def _memory() -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    found = f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free"
    enough = memory.available > 3e9
    return "memory", enough, found + ("" if enough else "; lessons with SmolLM2 take about 3 GB: close other programs")


def _disk() -> Finding:
    from shared import models

    places = {place: _free(place) for place in (course.ROOT, models.cache_folder())}
    tight = [place for place, free in places.items() if free < 1e9]
    found = ", ".join(f"{free / 1e9:.1f} GB free for {place}" for place, free in places.items())
    if not tight:
        return "disk", True, found
    cache = "" if tight == [course.ROOT] else "; SIXWEEKS_CACHE moves the models"
    return "disk", False, f"{found}. Make room for 1 GB: models and checkpoints take it{cache}"


def _free(place: Path) -> int:
    """Free bytes where a folder is, or will be made."""
    return shutil.disk_usage(next(folder for folder in (place, *place.parents) if folder.exists())).free


def _writable(folder: Path) -> OSError | None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error


def _folder() -> Finding:
    if error := _writable(course.ROOT):
        return "folder", False, (
            f"{course.ROOT} cannot be written ({error}): checks work, but JupyterLab cannot save notebooks there. "
            "Clone the course into a folder of yours"
        )  # fmt: skip
    return "folder", True, f"{course.ROOT} can be written"


def _answers() -> Finding:
    work = course.work_folder()
    if error := _writable(work):
        return "your answers", False, f"cannot be written to {work}: {error}. Set SIXWEEKS_WORK to a folder of yours"
    return "your answers", True, f"kept in {work}"


def _jupyterlab() -> Finding:
    """JupyterLab, and whether its kernel is this Python."""
    if importlib.util.find_spec("jupyterlab") is None:
        return "JupyterLab", False, "not installed in this Python: pip install -e ."
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        spec = KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        return "JupyterLab", False, "it has no kernel `python3`: python -m ipykernel install --sys-prefix"
    program = spec.argv[0]
    if Path(program).is_absolute() and Path(program).parent != Path(sys.executable).parent:
        where = "--sys-prefix" if Path(spec.resource_dir).is_relative_to(sys.prefix) else "--user"
        return "JupyterLab", False, (
            f"its kernel `python3` ({spec.resource_dir}) runs {program}, another Python than this one "
            f"({sys.executable}), where the course may not be: python -m ipykernel install {where}"
        )  # fmt: skip
    return "JupyterLab", True, f"{metadata.version('jupyterlab')}, and its kernel is this Python"


def _browser() -> Finding:
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return "browser", False, "you are root, which JupyterLab refuses: sixweeks lab --allow-root"
    try:
        webbrowser.get()
    except webbrowser.Error:
        return "browser", False, "none found: sixweeks lab --no-browser, and open the address that it prints"
    return "browser", True, "there is one"


def _git() -> Finding:
    if shutil.which("git") is None:
        return "git", False, "not on the path, and `sixweeks update` needs it: get it from git-scm.com"
    return "git", True, "there, so `sixweeks update` can work"


def _device() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return "device", False, "torch is not installed: pip install -e ."
    from shared import runtime

    try:
        device = runtime.pick_device()
    except ValueError as error:
        return "device", False, str(error)
    return "device", True, f"{device}, {runtime.pick_dtype(device)}".replace("torch.", "")


def _proxy() -> Finding:
    """Whether the proxies that are set answer at all."""
    from shared.download import proxy_of

    proxies = dict.fromkeys(filter(None, (proxy_of("https://example.org"), proxy_of("http://example.org"))))
    for proxy in proxies:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        try:
            socket.create_connection((parts.hostname, parts.port or 80), timeout=2).close()
        except (OSError, ValueError, TypeError) as error:
            return "proxy", False, (
                f"{proxy} is set and does not answer ({error}). Correct HTTPS_PROXY and HTTP_PROXY, or unset them "
                "if you need no proxy"
            )  # fmt: skip
    return "proxy", True, ", ".join(proxies) or "none is set"


def _hub() -> Finding:
    from shared import runtime

    reached = runtime.hub_reachable()
    return "hub", True, "reachable" if reached else "not reachable: the course goes on offline, with its own texts"


def _model() -> Finding:
    from shared import models

    if models.available():
        return "SmolLM2", True, "in the cache"
    arrived = sum(path.stat().st_size for path in models.SMOLLM2.arrived.rglob("*") if path.is_file())
    found = f"; {arrived / 1e6:.0f} MB have arrived" if arrived else ""
    return "SmolLM2", True, f"not here yet; the first lesson that uses it fetches 93 MB{found}"


def _sandbox() -> Finding:
    from shared import sandbox

    return "sandbox", True, str(sandbox.isolation())
