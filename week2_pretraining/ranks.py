"""Ranks that compute together: processes that torchrun starts, or threads of one process that take turns.

torchrun cannot start a function of a notebook's cell, so the program that lesson 04 runs on two processes is here:

    torchrun --standalone --nproc-per-node 2 -m week2_pretraining.ranks FOLDER
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psutil
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from shared import answers, course
from shared.data import corpus
from shared.guard import uninterrupted


class Group:
    """What one rank knows of the ranks that compute together: its number, how many there are, and how to exchange.

    Every rank must make the same calls in the same order; each call waits for all. A result is a new tensor,
    the argument stays as it is, and no gradient flows through. `calls` lists the collectives, and `sent_bytes` adds up
    what a rank sends in them, on average over the ranks, if they stand in a ring and pass pieces on.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.calls: list[str] = []
        self.sent_bytes = 0.0

    def __repr__(self) -> str:
        return f"<rank {self.rank} of {self.size}>"

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum of the tensors of all ranks, on every rank. Sent: 2 (n - 1) / n of the tensor."""
        return self._collective("all_reduce", tensor, 2)

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all ranks, in the order of the ranks, on every rank. Sent: n - 1 times this rank's."""
        return self._collective("all_gather", tensor, self.size)

    def broadcast(self, tensor: Tensor, source: int) -> Tensor:
        """The tensor of the rank `source`, on every rank. Sent: (n - 1) / n of the tensor."""
        if not 0 <= source < self.size:
            raise ValueError(f"broadcast from rank {source!r}, but the ranks are 0 to {self.size - 1}")
        return self._collective("broadcast", tensor, 1, source)

    def _collective(self, name: str, tensor: Tensor, times: int, source: int | None = None):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} needs a tensor, got {type(tensor).__name__}")
        self.calls.append(name)
        self.sent_bytes += times * (self.size - 1) / self.size * tensor.nbytes
        return self._exchange(name, tensor.detach().contiguous(), source)

    def _exchange(self, name: str, tensor: Tensor, source: int | None):
        raise NotImplementedError("use simulate(...) or Processes()")


class Processes(Group):
    """The ranks are processes, and torch.distributed connects them."""

    def __init__(self) -> None:
        super().__init__(dist.get_rank(), dist.get_world_size())

    def _exchange(self, name: str, tensor: Tensor, source: int | None):
        if name == "all_gather":
            parts = [torch.empty_like(tensor) for _ in range(self.size)]
            dist.all_gather(parts, tensor)
            return parts
        tensor = tensor.clone()
        if name == "all_reduce":
            dist.all_reduce(tensor)
        else:
            dist.broadcast(tensor, source)
        return tensor


def simulate(function: Callable[[Group], object], n_ranks: int) -> list:
    """`function(group)` of every rank, without processes; the results in the order of the ranks.

    The ranks are threads that take turns. A rank runs to its next collective or to its end, then the next one does, so
    the order is always the same. What processes would wait for without end is an error at once. The first error of
    a rank is raised here.
    """
    ranks = [_Turns(function, rank, n_ranks) for rank in range(n_ranks)]
    try:
        while not all(rank.ended for rank in ranks):
            for rank in ranks:
                rank.advance()
            _exchange_between(ranks)
    finally:
        _stop(ranks)
    return [rank.result for rank in ranks]


@uninterrupted
def _stop(ranks: list[_Turns]) -> None:
    for rank in ranks:
        rank.stop()


def _exchange_between(ranks: list[_Turns]) -> None:
    """All ranks have come to a collective, or all to their end; else they would wait for each other for ever."""
    wanted = ["its end" if rank.ended else rank.wants for rank in ranks]
    if len(set(wanted)) > 1:
        places = "; ".join(f"rank {rank.rank} is at {want}" for rank, want in zip(ranks, wanted, strict=True))
        raise RuntimeError(f"The ranks do not make the same calls, so they would wait for ever: {places}.")
    if ranks[0].ended:
        return
    tensors = [rank.tensor for rank in ranks]
    for rank in ranks:
        if rank.name == "all_gather":
            rank.answer = [tensor.clone() for tensor in tensors]
        elif rank.name == "all_reduce":
            rank.answer = sum(tensors[1:], tensors[0].clone())
        else:
            rank.answer = tensors[rank.source].clone()


class _Stop(SystemExit):
    """Ends a rank that nobody waits for any more; a thread that it ends prints nothing."""


class _Turns(Group):
    """A rank in a thread that runs only while it is its turn."""

    def __init__(self, function: Callable[[Group], object], rank: int, size: int) -> None:
        super().__init__(rank, size)
        self.go, self.pause = threading.Semaphore(0), threading.Semaphore(0)
        self.ended = self.stopped = False
        self.result = self.error = None
        self.thread = threading.Thread(target=self._run, args=(function,), daemon=True)

    def _run(self, function: Callable[[Group], object]) -> None:
        try:
            self._wait()
            self.result = function(self)
        except BaseException as error:
            self.error = error
        self.ended = True
        self.pause.release()

    def _wait(self) -> None:
        self.go.acquire()
        if self.stopped:
            raise _Stop

    def _exchange(self, name: str, tensor: Tensor, source: int | None):
        self.name, self.tensor, self.source = name, tensor, source
        where = "" if source is None else f" from rank {source}"
        self.wants = f"{name}{where} of {str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
        self.pause.release()
        self._wait()
        return self.answer

    def advance(self) -> None:
        """From the outside: run to the next collective or to the end."""
        if self.thread.ident is None:
            self.thread.start()
        self.go.release()
        while not self.pause.acquire(timeout=0.1):  # in slices, so that a time limit on this thread comes through
            pass
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        """From the outside: end the thread wherever it is, also in an endless loop."""
        if self.thread.ident is None:  # it never had its turn
            return
        self.stopped = True
        self.go.release()
        for _ in range(20):
            self.thread.join(0 if self.ended else 0.05)
            if not self.thread.is_alive():
                return
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.thread.ident), ctypes.py_object(_Stop))


# What torchrun runs: the same small model, trained for a few steps in five ways.

STEPS = 4
ADAMW = {"lr": 3e-4, "weight_decay": 0.1}
D_MODEL, D_FF = 48, 192  # of the layers that are cut by columns and rows


def small_model() -> nn.Module:
    """Your GPT, with the same weights in every process: about 860,000 parameters."""
    from week1_decoder.solutions.decoder import GPTConfig

    config = GPTConfig(vocab_size=256, context_length=64, d_model=128, n_heads=4, n_layers=4)
    return yours("GPT")(config, generator=torch.Generator().manual_seed(0))


def rows_of_step(step: int) -> Tensor:
    """The whole batch of a step: eight rows of 65 bytes of stories, the same in every process."""
    text = torch.tensor(list(corpus(20_000).encode("ascii", "replace")))
    starts = torch.randint(len(text) - 65, (8, 1), generator=torch.Generator().manual_seed(step))
    return text[starts + torch.arange(65)]


def loss_of(model: nn.Module, rows: Tensor) -> Tensor:
    """Mean nats per byte."""
    return F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())


def yours(name: str):
    """Your own saved answer to an exercise, or the course's: `mine` without its note."""
    answer = answers.load_saved(name)
    return course.reference(name) if answer is None else answer


def loopback() -> str | None:
    """The name of the network device over which processes of one machine talk to each other."""
    addresses = psutil.net_if_addrs()
    return next((name for name in addresses if any(a.address == "127.0.0.1" for a in addresses[name])), None)


def bytes_on_the_wire() -> float:
    """What this machine's kernel has sent over the loopback device so far; nan where it does not count."""
    counters = psutil.net_io_counters(pernic=True)
    return counters[loopback()].bytes_sent if loopback() in counters else float("nan")


def wire_bytes_of(work: Callable[[], object], group: Group) -> float:
    """Bytes a rank sends in `work`, on average over the ranks, as the kernel counts them."""
    dist.barrier()
    before = bytes_on_the_wire()
    dist.barrier()
    work()
    dist.barrier()
    sent = bytes_on_the_wire() - before
    dist.barrier()
    return sent / group.size


def held_bytes(tensors) -> int:
    """Bytes of these tensors in this process; of a sharded tensor (DTensor) its own shard counts."""
    return sum(getattr(t, "_local_tensor", t).nbytes for t in tensors if isinstance(t, Tensor) and t.dim() > 0)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, group: Group, average: Callable | None = None) -> dict:
    """A few steps on this rank's rows; what came out, what is held, and the least traffic of a step."""
    parameters, traffic = list(model.parameters()), []

    def backward(step: int) -> None:
        loss_of(model, rows_of_step(step).chunk(group.size)[group.rank]).backward()
        if average is not None:
            average(parameters, group)

    for step in range(STEPS):
        model.zero_grad()  # not optimizer.zero_grad(): that one may know only a part of the parameters
        work = lambda step=step: (backward(step), optimizer.step())  # noqa: E731
        traffic.append(wire_bytes_of(work, group))
    state = getattr(optimizer, "optim", optimizer).state  # ZeroRedundancyOptimizer keeps its own part in `optim`
    whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in parameters]
    return {
        "parameters": torch.cat([p.detach().flatten() for p in whole]),
        "held": {
            "parameters": held_bytes(parameters),
            "gradients": held_bytes(p.grad for p in parameters),
            "optimizer": held_bytes(value for of_one in state.values() for value in of_one.values()),
        },
        "wire": min(traffic),  # other programs only add to it
    }


def data_parallel(group: Group) -> dict:
    """Your average_gradients, and torch's own DistributedDataParallel."""
    model, theirs = small_model(), nn.parallel.DistributedDataParallel(small_model())
    return {
        "average_gradients": train(
            model, torch.optim.AdamW(model.parameters(), **ADAMW), group, yours("average_gradients")
        ),
        "DistributedDataParallel": train(theirs, torch.optim.AdamW(theirs.parameters(), **ADAMW), group),
    }


def zero_1(group: Group) -> dict:
    """Your shard_optimizer_state, and torch's own ZeroRedundancyOptimizer."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model, theirs = small_model(), nn.parallel.DistributedDataParallel(small_model())
    optimizer, _ = yours("shard_optimizer_state")(list(model.parameters()), group, **ADAMW)
    zero = ZeroRedundancyOptimizer(theirs.parameters(), optimizer_class=torch.optim.AdamW, **ADAMW)
    return {
        "shard_optimizer_state": train(model, optimizer, group, yours("average_gradients")),
        "ZeroRedundancyOptimizer": train(theirs, zero, group),
    }


def zero_3(group: Group) -> dict:
    """FSDP2: each block, then the rest, in shards that are gathered when they are needed."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (group.size,))
    model = small_model()
    for block in model.blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    optimizer = torch.optim.AdamW(model.parameters(), **ADAMW)  # made after the sharding: its state is sharded too
    return {"fully_shard": train(model, optimizer, group)}


def mlp() -> tuple[nn.Module, Tensor]:
    """Two linear layers with GELU between them, and an input; the same in every process."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(D_MODEL, D_FF), nn.GELU(), nn.Linear(D_FF, D_MODEL))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model, torch.randn(4, 16, D_MODEL, generator=generator).requires_grad_()


def tensor_parallel(group: Group) -> dict:
    """Your column- and row-parallel layers, and torch's own, on the two layers of `mlp()`."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.debug import CommDebugMode
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    model, x = mlp()
    shard = lambda tensor, dim: tensor.detach().chunk(group.size, dim)[group.rank].clone().requires_grad_()  # noqa: E731
    w_in, b_in = shard(model[0].weight, 0), shard(model[0].bias, 0)
    w_out, b_out = shard(model[2].weight, 1), model[2].bias
    group.calls.clear()
    hidden = F.gelu(yours("column_parallel_linear")(x, w_in, b_in, group))
    y = yours("row_parallel_linear")(hidden, w_out, b_out, group)
    y.square().sum().backward()
    ours = {"y": y.detach(), "x": x.grad, "w_in": w_in.grad, "w_out": w_out.grad, "b_out": b_out.grad}

    model, x = mlp()
    mesh = init_device_mesh("cpu", (group.size,))
    model = parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    with CommDebugMode() as communication:
        y = model(x)
        y.square().sum().backward()
    theirs = {"y": y.detach(), "x": x.grad} | {
        name: parameter.grad.to_local()
        for name, parameter in (("w_in", model[0].weight), ("w_out", model[2].weight), ("b_out", model[2].bias))
    }
    return {
        "yours": {name: value.clone() for name, value in ours.items()},
        "torch": {name: value.clone() for name, value in theirs.items()},
        "calls": list(group.calls),
        "torch calls": {str(operation): n for operation, n in communication.get_comm_counts().items()},
    }


def collectives(group: Group) -> dict[str, float]:
    """What gloo really sends for a tensor of 4 MB, as a part of its size."""
    tensor, part = torch.ones(1_000_000), torch.ones(1_000_000 // group.size)
    parts = [torch.empty_like(part) for _ in range(group.size)]
    work = {
        "all-reduce": lambda: dist.all_reduce(tensor),
        "all-gather": lambda: dist.all_gather(parts, part),
        "reduce-scatter": lambda: dist.reduce_scatter(part, list(tensor.chunk(group.size))),
        "broadcast": lambda: dist.broadcast(tensor, 0),
    }
    return {name: min(wire_bytes_of(do, group) for _ in range(3)) / tensor.nbytes for name, do in work.items()}


def launch(module: str, *arguments: str, n_ranks: int = 2, seconds: float = 240) -> str:
    """`torchrun --standalone --nproc-per-node n_ranks -m module arguments`; returns what the ranks print.

    Raises RuntimeError with the end of the output where a rank fails or the time is over; then all ranks are ended.
    """
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    command = [*torchrun, "--nproc-per-node", str(n_ranks), "-m", module, *map(str, arguments)]
    path = os.pathsep.join(filter(None, [str(course.ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "TQDM_DISABLE": "1"}
    if loopback() is not None:
        environment.setdefault("GLOO_SOCKET_IFNAME", loopback())
    if torch.cuda.device_count() < n_ranks:  # two ranks of NCCL cannot share a GPU
        environment["SIXWEEKS_DEVICE"] = "cpu"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    try:
        printed, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{' '.join(command)}: not finished after {seconds:g} seconds") from None
    finally:
        if process.poll() is None:  # too late, or interrupted: torchrun's own children end too
            for started in [*psutil.Process(process.pid).children(recursive=True), process]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    started.kill()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}\n{printed[-3000:]}")
    return printed


def main(folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=120))  # a rank that dies ends the others after it
    group = Processes()
    results = {
        "training": data_parallel(group) | zero_1(group) | zero_3(group),
        "tensor parallel": tensor_parallel(group),
        "collectives": collectives(group),
    }
    torch.save(results, Path(folder) / f"rank_{group.rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
