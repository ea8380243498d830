"""Several clients at once: how long answers take, and how many tokens a second a server gives.

Servers run in processes of their own, so that their clients take no time from them but the machine's.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai

from shared.course import ROOT


@dataclass(frozen=True)
class Answer:
    """One request as its client saw it, in seconds from when it was sent."""

    first_token: float
    seconds: float
    n_new: int


def ask(client: openai.OpenAI, model: str, prompt: str, max_tokens: int, seed: int) -> Answer:
    """One streamed completion, timed."""
    begun, first, n_new = time.perf_counter(), None, 0
    settings = {"max_tokens": max_tokens, "temperature": 0.8, "seed": seed}
    usage = {"stream_options": {"include_usage": True}}
    for chunk in client.completions.create(model=model, prompt=prompt, stream=True, **settings, **usage):
        if chunk.choices and chunk.choices[0].text:
            first = first or time.perf_counter() - begun
            n_new += 1  # pieces, where the server tells no usage
        if getattr(chunk, "usage", None):
            n_new = chunk.usage.completion_tokens
    seconds = time.perf_counter() - begun
    return Answer(first or seconds, seconds, n_new)


def crowd(
    url: str, model: str, n_clients: int, prompts: Sequence[str], lengths: Sequence[int], seed: int = 0
) -> tuple[list[Answer], float]:
    """(answers, seconds in all): each client takes the next prompt as soon as it has its answer, until none is left.

    Prompt i asks for lengths[i] tokens. An error of a request is raised here.
    """
    work = list(enumerate(zip(prompts, lengths, strict=True)))
    answers, errors, lock = [], [], threading.Lock()

    def client() -> None:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=120) as asking:
            while True:
                with lock:
                    if not work or errors:
                        return
                    i, (prompt, length) = work.pop(0)
                try:
                    answer = ask(asking, model, prompt, length, seed + i)
                except Exception as error:
                    errors.append(error)
                    return
                with lock:
                    answers.append(answer)

    begun = time.perf_counter()
    threads = [threading.Thread(target=client) for _ in range(n_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return answers, time.perf_counter() - begun


def environment() -> dict[str, str]:
    """Of a server: one thread unless told otherwise, no hub, and this checkout on the path."""
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {"OMP_NUM_THREADS": "1"} | os.environ | quiet | {"PYTHONPATH": path}


@contextmanager
def stopped_at_the_end(process: subprocess.Popen) -> Iterator[subprocess.Popen]:
    """Ctrl-C for the process when the block is left, whatever happened in it; after ten seconds it is killed."""
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def course_server(*options: str) -> Iterator[str]:
    """`python -m week5_inference.server --port 0 OPTIONS` in a process of its own; gives its url.

    RuntimeError with what it said, if it does not come up.
    """
    command = [sys.executable, "-m", "week5_inference.server", "--port", "0", "--grace", "2", *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), **pipes)
    with stopped_at_the_end(process):
        said = []
        for line in process.stdout:
            said.append(line)
            if found := re.search(r"on (http://\S+)/v1", line):
                break
        else:
            raise RuntimeError("the server did not start: " + "".join(said[-5:]))
        yield found[1]


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def start_transformers(folder: Path, *options: str) -> tuple[subprocess.Popen, str]:
    """(process, url) of `transformers serve FOLDER` on the CPU; it takes a while: `wait_until_up`."""
    port = free_port()
    program = Path(sys.executable).with_name("transformers")
    start = [str(program)] if program.exists() else [sys.executable, "-m", "transformers.cli.transformers"]
    command = [*start, "serve", str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu", *options]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, env=environment(), **quiet), f"http://127.0.0.1:{port}"


def wait_until_up(process: subprocess.Popen, url: str, seconds: float = 120) -> None:
    """Return when the server answers; RuntimeError if it ends or does not within the time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            httpx.get(f"{url}/v1/models", timeout=5)
            return
        except httpx.TransportError:
            time.sleep(0.1)
    raise RuntimeError(f"no answer from {url} (exit code {process.poll()})")


def gpu_servers() -> list[str]:
    """Which of vLLM's and TensorRT-LLM's programs are here, with a GPU to run on."""
    import torch

    return [name for name in ("vllm", "trtllm-serve") if shutil.which(name) and torch.cuda.is_available()]


def start_gpu_server(program: str, folder: Path, name: str) -> tuple[subprocess.Popen, str]:
    """(process, url) of `vllm serve` or `trtllm-serve` with a model folder; it takes minutes: `wait_until_up`."""
    port = free_port()
    place = ["--host", "127.0.0.1", "--port", str(port)]
    commands = {
        "vllm": ["vllm", "serve", str(folder), "--served-model-name", name, *place],
        "trtllm-serve": ["trtllm-serve", str(folder), "--served_model_name", name, *place],
    }
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(commands[program], env=environment(), **quiet), f"http://127.0.0.1:{port}"
