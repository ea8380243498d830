"""What a GPU would run, as far as a CPU can tell: no tensor and no generator is left on the wrong device."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tests.second_device import DEVICE, pretended
from week1_decoder.solutions.decoder import GPT, GPTConfig
from week2_pretraining import pretrain
from week2_pretraining.solutions.optimization import LossScaler, checkpointed_forward
from week2_pretraining.solutions.sampling import beam_search, contrastive_decode, generate, sample_next_token
from week3_evaluation.solutions.benchmarks import multiple_choice_loglikelihood
from week3_evaluation.solutions.perplexity import sliding_window_nll
from week4_finetuning import sft
from week4_finetuning.solutions.lora import inject_lora, linear_names, merge_all
from week4_finetuning.solutions.qlora import nf4_dequantize, nf4_quantize
from week5_inference.solutions.kv_cache import generate_cached

CONFIG = GPTConfig(vocab_size=61, context_length=32, d_model=16, n_heads=2, n_layers=2)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def small():
    return GPT(CONFIG, generator=seeded()).eval()


def test_mixing_devices_is_refused_as_on_a_gpu():
    with pretended() as device:
        x = torch.randn(3, 4).to(device)
        assert x.device == DEVICE and x.cpu().device.type == "cpu"
        for wrong in (
            lambda: x + torch.randn(3, 4),
            lambda: torch.cat([x, torch.zeros(3, 4)]),
            lambda: nn.Linear(4, 2)(x),
            lambda: torch.randn(3, 4)[torch.tensor([0], device=device)],
            lambda: torch.multinomial(x.softmax(1), 1, generator=seeded()),
            lambda: torch.rand(3, device=device, generator=seeded()),
        ):
            with pytest.raises(RuntimeError, match="both devices|a CPU generator"):
                wrong()
        with pytest.raises(TypeError):
            np.asarray(x)
        assert (x * torch.tensor(2.0))[torch.tensor([1])].shape == (1, 4)


def test_a_step_there_equals_a_step_here():
    x, losses = torch.randn(5, 3, generator=seeded()), []
    with pretended() as device:
        for place in ("cpu", device):
            model = nn.Linear(3, 2)
            with torch.no_grad():
                [p.fill_(0.5) for p in model.parameters()]
            model = copy.deepcopy(model).to(place)
            optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
            for _ in range(3):
                optimizer.zero_grad()
                model(x.to(place)).square().mean().backward()
                optimizer.step()
            losses.append(model(x.to(place)).square().mean().item())
    assert losses[0] == losses[1]


def test_pretraining_keeps_to_the_device(monkeypatch):
    config = pretrain.PretrainConfig(61, 32, 16, 2, 2, batch_size=2, steps=2, evaluate_every=1, muon_lr=0.02)
    ids = torch.randint(61, (400,), generator=seeded())
    held_out = [(ids[:32][None], ids[1:33][None])]
    found = []
    with pretended() as device:
        for place in (torch.device("cpu"), device):
            monkeypatch.setattr(pretrain, "pick_device", lambda place=place: place)
            model = small().to(place)
            optimizer = pretrain.make_optimizer(model, config)
            run = pretrain.pretrain(model, optimizer, config, ids, held_out, seeded(1))
            found.append([(record.loss, record.held_out_loss) for record in run])
    assert found[1] == pytest.approx(np.array(found[0]), rel=1e-5)


def test_writing_keeps_to_the_device_with_a_generator_on_the_cpu():
    prompt = torch.tensor([[1, 2, 3], [4, 5, 6]])
    found = []
    with pretended() as device:
        for place in (torch.device("cpu"), device):
            model, amateur = small().to(place), small().to(place)
            ids = prompt.to(place)
            found.append(
                [
                    sample_next_token(model(ids)[:, -1], 0.8, 20, 0.9, seeded()).tolist(),
                    generate(model, ids, 5, temperature=1.0, top_p=0.9, generator=seeded()).tolist(),
                    beam_search(model, ids[0], 3, 4)[0].tolist(),
                    contrastive_decode(model(ids), amateur(ids)).argmax(dim=-1).tolist(),
                    generate_cached(model, [[1, 2, 3], [4, 5]], 5, temperature=1.0, generator=seeded()),
                ]
            )
    assert found[0] == found[1]


def test_scoring_keeps_to_the_device():
    text, found = torch.randint(61, (90,), generator=seeded()), []
    with pretended() as device:
        for place in (torch.device("cpu"), device):
            model = small().to(place)
            found.append(sliding_window_nll(model, text.to(place), 32, 16).sum().item())
            found.append(multiple_choice_loglikelihood(model, [[([1, 2], [3]), ([1, 2], [4, 5])]])[0][1].item())
    assert found[2:] == pytest.approx(found[:2], rel=1e-5)


def test_tuning_keeps_to_the_device_whole_and_with_lora():
    pairs = [([1, 2, 3], [4, 5]), ([6, 7], [8, 9, 10]), ([11], [12])]
    config = sft.SFTConfig(batch_size=2, steps=2)
    found = []
    with pretended() as device:
        for place in (torch.device("cpu"), device):
            for lora in (False, True):
                model = small().to(place)
                if lora:
                    torch.manual_seed(0)
                    inject_lora(model, linear_names(model), rank=2, alpha=4)
                found += list(sft.tune(model, pairs, config, 0))
            found.append(merge_all(model)(torch.tensor([[1, 2]], device=place)).sum().item())
    half = len(found) // 2
    assert found[half:] == pytest.approx(found[:half], rel=1e-4)


def test_the_small_parts_of_a_step_keep_to_the_device():
    with pretended() as device:
        codes, absmax = nf4_quantize(torch.randn(4, 64, generator=seeded()).to(device))
        assert nf4_dequantize(codes, absmax, (4, 64)).device == device
        block, x = nn.Linear(4, 4).to(device), torch.randn(2, 4).to(device).requires_grad_()
        checkpointed_forward(block, x).sum().backward()
        assert x.grad.device == device
        optimizer, scaler = torch.optim.SGD(block.parameters()), LossScaler().to(device)
        scaler(block(x).square().mean()).backward()
        scaler.unscale(optimizer)
        scaler.step(optimizer)
        scaler.update()
