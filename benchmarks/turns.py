"""Training steps of several ways in turns, each in a process of its own, so that its peak of memory is its own."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection


@dataclass(frozen=True)
class Measured:
    """One way: what it said when it was built, and of each step the seconds of processor time and the loss."""

    built: object
    seconds: list[float]
    losses: list[float]
    peak: float  # megabytes


def peak_megabytes() -> float:
    """The most memory that this process ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def take_steps(connection: Connection, built: object, step: Callable[[], float]) -> None:
    """In the process of one way: tell that it is built, then one step, which gives its loss, for each message."""
    connection.send(built)
    while connection.recv():
        start = time.process_time()
        loss = step()
        connection.send((time.process_time() - start, loss))
    connection.send(peak_megabytes())


def in_turns(work: Callable[..., None], ways: Sequence[str], steps: int, *arguments: object) -> dict[str, Measured]:
    """Run `work(way, *arguments, connection)` in a process for each way, and have them take their steps in turns."""
    context, connections, processes, built = get_context("spawn"), {}, [], {}
    for way in ways:
        connections[way], other_end = context.Pipe()
        processes.append(context.Process(target=work, args=(way, *arguments, other_end)))
        processes[-1].start()
        built[way] = connections[way].recv()
    taken = {way: [] for way in ways}
    for _ in range(steps):
        for way, connection in connections.items():
            connection.send(True)
            taken[way].append(connection.recv())
    found = {}
    for way, connection in connections.items():
        connection.send(False)
        seconds, losses = map(list, zip(*taken[way], strict=True))
        found[way] = Measured(built[way], seconds, losses, connection.recv())
    for process in processes:
        process.join()
    return found
