"""shared.runtime: on a CPU, with the answers of a GPU faked."""

import http.server
import random
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from shared import runtime


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in ("SIXWEEKS_DEVICE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "http_proxy", "HTTP_PROXY", "COLAB_RELEASE_TAG"):
        monkeypatch.delenv(name, raising=False)
    runtime.hub_reachable.cache_clear()
    yield
    runtime.hub_reachable.cache_clear()


def fake_gpus(monkeypatch, cuda=False, mps=False, bf16=False):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    def is_bf16_supported(including_emulation=True):
        return bf16 or including_emulation  # as on a T4

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)


def test_importing_runtime_does_not_import_torch():
    code = "import sys, shared.runtime; print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    ("cuda", "mps", "device"),
    [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu"), (True, False, "cuda")],
)
def test_the_best_device_is_picked(monkeypatch, cuda, mps, device):
    fake_gpus(monkeypatch, cuda=cuda, mps=mps)
    assert runtime.pick_device() == torch.device(device)


def test_the_environment_overrides_the_device(monkeypatch):
    fake_gpus(monkeypatch, cuda=True)
    monkeypatch.setenv("SIXWEEKS_DEVICE", "cpu")
    assert runtime.pick_device() == torch.device("cpu")
    monkeypatch.setenv("SIXWEEKS_DEVICE", "cuda:1")
    assert runtime.pick_device() == torch.device("cuda", 1)


@pytest.mark.parametrize("wanted", ["cuda", "mps", "gpu", "CPU"])
def test_a_device_that_is_not_there_is_refused_clearly(monkeypatch, wanted):
    fake_gpus(monkeypatch)
    monkeypatch.setenv("SIXWEEKS_DEVICE", wanted)
    with pytest.raises(ValueError, match=f"SIXWEEKS_DEVICE is '{wanted}', but this machine has cpu"):
        runtime.pick_device()


def test_a_t4_gets_float16_and_a_newer_gpu_bfloat16(monkeypatch):
    fake_gpus(monkeypatch, cuda=True, bf16=False)
    assert runtime.pick_dtype("cuda") == torch.float16
    fake_gpus(monkeypatch, cuda=True, bf16=True)
    assert runtime.pick_dtype(torch.device("cuda", 0)) == torch.bfloat16


def test_cpu_and_mps_get_float32(monkeypatch):
    fake_gpus(monkeypatch, mps=True)
    assert runtime.pick_dtype("cpu") == runtime.pick_dtype(torch.device("mps")) == torch.float32


def test_the_preset_follows_the_device(monkeypatch):
    fake_gpus(monkeypatch, mps=True)
    assert runtime.preset(laptop=4, gpu=12) == 4
    fake_gpus(monkeypatch, cuda=True)
    assert runtime.preset(laptop=4, gpu=12) == 12
    monkeypatch.setenv("SIXWEEKS_DEVICE", "cpu")
    assert runtime.preset(laptop=4, gpu=12) == 4


def test_one_seed_gives_the_same_numbers_everywhere():
    def draws(seed):
        generator = runtime.seed_everything(seed)
        return random.random(), np.random.rand(), torch.rand(()).item(), torch.rand((), generator=generator).item()

    assert draws(1) == draws(1)
    assert all(a != b for a, b in zip(draws(1), draws(2), strict=True))
    assert isinstance(runtime.seed_everything(2**40), torch.Generator)


@pytest.fixture
def hub(monkeypatch):
    """A hub on this machine; `status` is what it answers."""

    class Hub(http.server.BaseHTTPRequestHandler):
        status, asked = 200, []

        def do_HEAD(self):
            Hub.asked.append(self.path)
            self.send_response(Hub.status)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    yield Hub
    server.shutdown()
    server.server_close()


def test_a_hub_that_answers_is_reachable_and_is_asked_once(hub):
    assert runtime.hub_reachable() and runtime.hub_reachable()
    assert hub.asked == ["/HuggingFaceTB/SmolLM2-135M-Instruct/resolve/main/config.json"]


@pytest.mark.parametrize("status", [403, 404, 503])
def test_a_hub_that_refuses_is_not_reachable(hub, status):
    hub.status = status
    assert not runtime.hub_reachable()


@pytest.mark.parametrize("value", ["1", "true", "YES", "on"])
def test_offline_mode_asks_nobody(hub, monkeypatch, value):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert not runtime.hub_reachable()
    assert hub.asked == []


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://no-such-host.invalid", "nonsense", "http://[::1"])
def test_no_network_is_an_answer_and_not_an_error(monkeypatch, address):
    monkeypatch.setenv("HF_ENDPOINT", address)
    assert runtime.hub_reachable() is False


def test_a_slow_look_up_of_the_name_does_not_hold_up_the_learner(monkeypatch):
    found = threading.Event()
    monkeypatch.setattr(runtime.urllib.request, "urlopen", lambda *_, **__: found.wait(30))
    start = time.monotonic()
    assert not runtime.hub_reachable(timeout=0.1)
    assert time.monotonic() - start < 10
    found.set()


def test_the_machine_is_described_in_words():
    found = runtime.machine()
    assert list(found) == ["cpu", "memory", "device", "torch", "python"]
    assert all(isinstance(text, str) and text for text in found.values())
    assert "CPU cores" in ", ".join(found.values())
