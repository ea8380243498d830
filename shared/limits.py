"""What code from others may use, and which of these limits hold on this machine."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Limits:
    seconds: float = 10.0  # by the clock, from the first line on
    memory_mb: int = 2048  # beyond what the interpreter and preloaded packages take
    output_bytes: int = 64_000  # standard output and error together
    file_mb: int = 16  # one file; all together may take four times as much
    files: int = 200  # files and folders made


DEFAULT = Limits()


@dataclass(frozen=True)
class Isolation:
    """Which limits hold; what this machine cannot enforce is False."""

    time: bool = True
    output: bool = True
    memory: bool = False
    files: bool = False
    network: bool = False
    processes: bool = False

    def __str__(self) -> str:
        held, free = ([name for name, holds in asdict(self).items() if holds is now] for now in (True, False))
        if not held:
            return f"Code from others cannot be run: {sys.executable} does not start in a process of its own."
        text = f"Code from others runs with limits on {', '.join(held)}"
        return text + (f", but not on {', '.join(free)}: read such code before you run it." if free else ".")
