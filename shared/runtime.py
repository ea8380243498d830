"""What this machine offers: device, number format, seeds, a preset for a laptop or a GPU, the network."""

from __future__ import annotations

import functools
import os
import platform
import random
import socket
import sys
from importlib import metadata, util
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
DEVICES = ("cuda", "mps", "cpu")


def pick_device() -> torch.device:
    """The GPU if there is one (cuda, then mps), else the CPU; SIXWEEKS_DEVICE=cpu overrides it."""
    import torch

    wanted = os.environ.get("SIXWEEKS_DEVICE", "").strip()
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if not wanted:
        return torch.device(next(name for name in DEVICES if there[name]))
    name = wanted.partition(":")[0]
    if not there.get(name, False):
        names = ", ".join(name for name in DEVICES if there[name])
        raise ValueError(f"SIXWEEKS_DEVICE is {wanted!r}, and this machine offers {names}; change or unset it")
    return torch.device(wanted)


def pick_dtype(device: torch.device | str) -> torch.dtype:
    """bfloat16 where a GPU computes in it, float16 on older GPUs (a T4), float32 on a CPU and on mps."""
    import torch

    if torch.device(device).type != "cuda":
        return torch.float32
    # Without the argument a T4 says yes: it emulates bfloat16, slowly.
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float16


def seed_everything(seed: int) -> torch.Generator:
    """Seed Python, NumPy and torch, and give a CPU generator with that seed."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)  # the largest seed NumPy takes
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def preset(laptop: T, gpu: T) -> T:
    """`gpu` where there is a CUDA GPU, else `laptop`. Example: n_layers = preset(laptop=4, gpu=12)"""
    return gpu if pick_device().type == "cuda" else laptop


def on_colab() -> bool:
    return "google.colab" in sys.modules or "COLAB_RELEASE_TAG" in os.environ


@functools.cache
def hub_reachable(timeout: float = 2.0) -> bool:
    """Whether the Hugging Face hub answers within `timeout` seconds; asked once, never raises.

    HF_HUB_OFFLINE=1 says no at once; HF_ENDPOINT names a mirror.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").strip().upper() in ("1", "ON", "YES", "TRUE"):
        return False
    ...


def machine() -> dict[str, str]:
    ...
