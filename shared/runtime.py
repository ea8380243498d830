"""What this machine offers: device, number format, seeds, laptop or GPU preset, the network."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import random
import threading
import urllib.request
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def pick_device() -> torch.device:
    """The GPU where there is one (cuda, then mps), else the CPU. SIXWEEKS_DEVICE=cpu chooses by hand."""
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    names = [name for name, is_there in there.items() if is_there]
    wanted = os.environ.get("SIXWEEKS_DEVICE", "").strip() or names[0]
    if wanted.partition(":")[0] not in names:
        raise ValueError(f"SIXWEEKS_DEVICE is {wanted!r}, but this machine has {', '.join(names)}: unset or change it")
    return torch.device(wanted)


def pick_dtype(device: torch.device | str) -> torch.dtype:
    """bfloat16 where the GPU computes in it, float16 on an older one (T4), float32 on cpu and mps."""
    import torch

    if torch.device(device).type != "cuda":
        return torch.float32
    # By default the question includes emulation, and then a T4 says yes and is slow.
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def seed_everything(seed: int) -> torch.Generator:
    """Seed Python, NumPy and torch; returns a generator on the CPU with this seed."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)  # NumPy takes no larger one
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def preset(laptop: T, gpu: T) -> T:
    """`gpu` where a CUDA GPU is used, else `laptop`. Example: n_layers = preset(laptop=4, gpu=12)"""
    return gpu if pick_device().type == "cuda" else laptop


@functools.cache
def hub_reachable(timeout: float = 2.0) -> bool:
    """Whether the Hugging Face hub answers within `timeout` seconds. Asks once; never raises.

    HF_HUB_OFFLINE=1 makes it False; HF_ENDPOINT names a mirror to ask instead.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").strip().upper() in ("1", "ON", "YES", "TRUE"):
        return False
    hub = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
    file = f"{hub}/HuggingFaceTB/SmolLM2-135M-Instruct/resolve/main/config.json"
    answered = []

    def ask() -> None:
        with contextlib.suppress(Exception):  # no route, a refusal, a proxy that says no, a malformed address
            urllib.request.urlopen(urllib.request.Request(file, method="HEAD"), timeout=timeout).close()
            answered.append(True)

    # In a thread, for the look-up of the name keeps to no time limit.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout)
    return bool(answered)


def machine() -> dict[str, str]:
    """This machine, for `sixweeks doctor`; `", ".join(machine().values())` is a caption for a measured figure."""
    import psutil
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    device = pick_device()
    return {
        "cpu": f"{cores} CPU cores ({platform.machine()})",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"device {device.type}",
        "torch": f"torch {torch.__version__}",
        "python": f"Python {platform.python_version()}",
    }
