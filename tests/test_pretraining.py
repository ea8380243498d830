"""The reference of 03_pretraining against transformers, SciPy or NumPy and the papers, and its invariants."""

import contextlib
import itertools
import json
import math
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from shared.course import ROOT
from week1_decoder.solutions.decoder import GPT, GPTConfig, from_gpt2_state_dict
from week2_pretraining.solutions.pretraining import (
    chinchilla_optimal,
    evaluate_loss,
    fit_power_law,
    load_checkpoint,
    load_pretrained,
    model_flops_utilization,
    save_checkpoint,
    save_pretrained,
    t_quantile,
    to_gpt2_state_dict,
)

SMALL = GPTConfig(vocab_size=300, context_length=16, d_model=24, n_heads=3, n_layers=2, d_ff=50)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_gpt(config: GPTConfig = SMALL, seed: int = 0) -> GPT:
    """A GPT whose weights are all far from their initial values, biases and norms too."""
    model = GPT(config, seeded(seed))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=seeded(seed + parameter.numel())))
    return model.eval()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>", "<|pad|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=280, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["the cat and the hat and the bat"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=special[0], pad_token=special[1])


# Evaluation


def test_evaluate_loss_equals_torch_on_all_rows_at_once_however_they_are_cut():
    model = random_gpt()
    token_ids = torch.randint(0, 300, (7, 12), generator=seeded(1))
    targets = torch.randint(0, 300, (7, 12), generator=seeded(2))
    targets[torch.rand(7, 12, generator=seeded(3)) < 0.3] = -100
    targets[4] = -100
    with torch.no_grad():
        theirs = F.cross_entropy(model(token_ids).flatten(0, 1), targets.flatten()).item()
    for size in (1, 2, 3, 7):
        batches = zip(token_ids.split(size), targets.split(size), strict=True)
        assert evaluate_loss(model, batches) == pytest.approx(theirs, rel=1e-5)


def test_evaluate_loss_equals_the_loss_of_transformers():
    model = random_gpt()
    theirs = GPT2LMHeadModel(hugging_face_config(SMALL)).eval()
    theirs.load_state_dict(to_gpt2_state_dict(model.state_dict(), SMALL))
    token_ids = torch.randint(0, 300, (4, 13), generator=seeded(4))
    with torch.no_grad():
        loss = theirs(token_ids, labels=token_ids).loss.item()
    assert evaluate_loss(model, [(token_ids[:, :-1], token_ids[:, 1:])]) == pytest.approx(loss, rel=1e-4)


def test_evaluation_in_the_middle_changes_nothing_in_a_run_with_dropout():
    def losses(evaluate: bool) -> list[float]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(9, 8), nn.Dropout(0.5), nn.Linear(8, 9))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
        found = []
        for step in range(6):
            token_ids = torch.randint(0, 9, (3, 4), generator=seeded(step))
            if evaluate:
                evaluate_loss(model, [(token_ids, token_ids)])
            loss = F.cross_entropy(model(token_ids).flatten(0, 1), token_ids.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    assert losses(evaluate=True) == losses(evaluate=False)


# Utilization


def test_utilization_equals_the_formula_of_the_palm_paper():
    config = GPTConfig()
    n = 12 * 12 * 768**2 + 50257 * 768  # weights in matrix products: the blocks and the head
    per_token = 6 * n + 12 * 12 * 12 * 64 * 1024  # 6N + 12 L H Q T
    assert model_flops_utilization(config, 2e5, 312e12) == pytest.approx(2e5 * per_token / 312e12, rel=1e-9)


def test_utilization_equals_what_torch_counts_in_a_training_step():
    from torch.utils.flop_counter import FlopCounterMode

    config = replace(SMALL, bias=False)
    model = GPT(config, seeded(0))
    token_ids = torch.randint(0, 300, (2, 16), generator=seeded(1))
    with FlopCounterMode(display=False) as counter:
        model(token_ids).square().mean().backward()
    per_token = counter.get_total_flops() / token_ids.numel()
    assert model_flops_utilization(config, 1.0, 1.0) == pytest.approx(per_token, rel=1e-9)


# Checkpoints


@dataclass(frozen=True)
class RunConfig:
    width: int = 6
    lr: float = 0.02
    betas: tuple = (0.9, 0.95)


def run_parts(seed: int):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 1))
    groups = [{"params": model[0].parameters(), "lr": 0.05}, {"params": model[1:].parameters()}]
    return model, torch.optim.AdamW(groups, lr=0.02), seeded(seed)


def run_on(model, optimizer, generator, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        x = torch.randn(8, 6, generator=generator)
        loss = (model(x) - x.prod(dim=1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_a_resumed_run_has_the_losses_of_the_uninterrupted_one_to_the_last_digit(tmp_path):
    parts = run_parts(0)
    run_on(*parts, 5)
    save_checkpoint(tmp_path / "run.pt", *parts, 5, RunConfig())
    uninterrupted = run_on(*parts, 10)
    parts = run_parts(99)
    assert load_checkpoint(tmp_path / "run.pt", *parts, RunConfig()) == 5
    assert run_on(*parts, 10) == uninterrupted


def test_saving_changes_nothing_in_the_run(tmp_path):
    parts = run_parts(0)
    run_on(*parts, 3)
    undisturbed = run_parts(0)
    run_on(*undisturbed, 3)
    save_checkpoint(tmp_path / "run.pt", *parts, 3, RunConfig())
    assert run_on(*parts, 4) == run_on(*undisturbed, 4)


SAVER = """
import itertools, sys, torch
from week1_decoder.solutions.decoder import GPTConfig
from week2_pretraining.solutions.pretraining import save_checkpoint

model = torch.nn.Linear(1500, 1500)
optimizer = torch.optim.AdamW(model.parameters())
model(torch.randn(1, 1500)).sum().backward()
optimizer.step()
for step in itertools.count():
    torch.nn.init.constant_(model.weight, step)
    save_checkpoint(sys.argv[1], model, optimizer, torch.Generator(), step, GPTConfig())
    print(step, flush=True)
"""


def test_a_process_killed_while_it_saves_leaves_a_whole_checkpoint(tmp_path):
    path = tmp_path / "run.pt"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SAVER, str(path)]
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        for _ in range(3):
            told = int(child.stdout.readline())
        temporary, whole = path.with_name("run.pt.tmp"), path.stat().st_size
        end = time.monotonic() + 30
        while time.monotonic() < end:  # until it is in the middle of a write
            with contextlib.suppress(FileNotFoundError):
                if 0 < temporary.stat().st_size < whole:
                    break
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    model = nn.Linear(1500, 1500)
    step = load_checkpoint(path, model, torch.optim.AdamW(model.parameters()), torch.Generator(), GPTConfig())
    assert step >= told
    assert (model.weight == step).all()
    save_checkpoint(path, model, torch.optim.AdamW(model.parameters()), torch.Generator(), 7, GPTConfig())
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]  # what the kill left over is gone


@pytest.mark.parametrize("function", ["torch.save", "os.fsync", "os.replace"])
def test_a_save_that_fails_leaves_the_earlier_checkpoint_whole(tmp_path, monkeypatch, function):
    path = tmp_path / "run.pt"
    parts = run_parts(0)
    run_on(*parts, 2)
    save_checkpoint(path, *parts, 2, RunConfig())
    before = path.read_bytes()

    def fails(*args, **kwargs):
        if hasattr(args[-1], "write"):
            args[-1].write(b"half")
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(function, fails)
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(path, *parts, 3, RunConfig())
    assert path.read_bytes() == before
    assert load_checkpoint(path, *parts, RunConfig()) == 2


def test_a_checkpoint_cut_off_at_any_length_is_refused_and_nothing_is_changed(tmp_path):
    path = tmp_path / "run.pt"
    parts = run_parts(0)
    run_on(*parts, 2)
    save_checkpoint(path, *parts, 2, RunConfig())
    whole = path.read_bytes()
    twin = run_parts(5)
    parts = run_parts(5)
    for n_bytes in sorted({0, 1, 100, len(whole) - 1, *range(0, len(whole), 997)}):
        path.write_bytes(whole[:n_bytes])
        with pytest.raises(ValueError, match="cut off or not a checkpoint"):
            load_checkpoint(path, *parts, RunConfig())
    assert run_on(*parts, 3) == run_on(*twin, 3)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (RunConfig(lr=0.03), ["lr: 0.02 there, 0.03 here"]),
        (RunConfig(width=7, betas=(0.9, 0.99)), ["width: 6 there, 7 here", "betas: (0.9, 0.95) there, (0.9, 0.99)"]),
        (GPTConfig(), ["lr: 0.02 there, None here", "d_model: None there, 768 here"]),
    ],
)
def test_another_config_is_refused_with_the_fields_that_differ(tmp_path, config, named):
    parts, twin = run_parts(5), run_parts(5)
    save_checkpoint(tmp_path / "run.pt", *run_parts(0), 2, RunConfig())
    with pytest.raises(ValueError, match="another config") as error:
        load_checkpoint(tmp_path / "run.pt", *parts, config)
    assert all(text in str(error.value) for text in named)
    assert run_on(*parts, 3) == run_on(*twin, 3)


def test_a_missing_or_foreign_file_is_told(tmp_path):
    parts = run_parts(0)
    with pytest.raises(FileNotFoundError, match="start a new run"):
        load_checkpoint(tmp_path / "none.pt", *parts, RunConfig())
    torch.save(parts[0].state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="no checkpoint of save_checkpoint"):
        load_checkpoint(tmp_path / "weights.pt", *parts, RunConfig())


# Scaling laws


@pytest.mark.parametrize("n_points", [3, 5, 12, 40])
def test_fit_power_law_equals_numpy_and_scipy(n_points):
    x = np.linspace(np.log(1e4), np.log(1e8), n_points)
    y = 2.4 - 0.076 * x + 0.02 * np.random.default_rng(n_points).standard_normal(n_points)
    exponent, constant, (low, high) = fit_power_law(np.exp(x).tolist(), np.exp(y).tolist())
    (slope, intercept), covariance = np.polyfit(x, y, 1, cov=True)
    margin = t_quantile(n_points - 2) * math.sqrt(covariance[0, 0])
    assert exponent == pytest.approx(-slope, rel=1e-8)
    assert math.log(constant) == pytest.approx(-intercept / slope, rel=1e-8)
    assert (low, high) == pytest.approx((-slope - margin, -slope + margin), rel=1e-6)
    stats = pytest.importorskip("scipy.stats")
    theirs = stats.linregress(x, y)
    margin = stats.t.ppf(0.975, n_points - 2) * theirs.stderr
    assert (exponent, high - low) == pytest.approx((-theirs.slope, 2 * margin), rel=3e-4)


def test_t_quantile_equals_scipy():
    stats = pytest.importorskip("scipy.stats")
    for n in itertools.chain(range(1, 60), (100, 1000)):
        assert t_quantile(n) == pytest.approx(stats.t.ppf(0.975, n), abs=1e-3)


def test_an_exact_power_law_gives_the_papers_constants_and_no_width():
    sizes = [768.0, 1e5, 1e7, 1.5e9]
    exponent, constant, (low, high) = fit_power_law(sizes, [(8.8e13 / n) ** 0.076 for n in sizes])
    assert (exponent, constant) == pytest.approx((0.076, 8.8e13), rel=1e-6)
    assert high - low < 1e-6


def test_95_percent_of_the_intervals_hold_the_true_exponent():
    sizes = [1e4, 4e4, 2e5, 1e6, 3e6]
    noise = 0.03 * torch.randn(1000, 5, generator=seeded(0))
    hits = 0
    for row in noise.tolist():
        _, _, (low, high) = fit_power_law(sizes, [10 * n**-0.08 * math.exp(e) for n, e in zip(sizes, row, strict=True)])
        hits += low < 0.08 < high
    assert abs(hits / 1000 - 0.95) < 0.03  # four standard deviations of 1,000 draws


@pytest.mark.parametrize(
    ("sizes", "losses", "told"),
    [
        ([1, 2], [2, 1], "at least 3 points"),
        ([1, 2, 3], [2, 1], "3 sizes and 2 losses"),
        ([1, 2, 0], [3, 2, 1], "above 0"),
        ([1, 2, 3], [3, 2, math.nan], "above 0"),
        ([2, 2, 2], [3, 2, 1], "different"),
    ],
)
def test_what_cannot_be_fitted_is_told(sizes, losses, told):
    with pytest.raises(ValueError, match=told):
        fit_power_law(sizes, losses)


def test_chinchilla_had_the_optimal_size_for_its_budget():
    parameters, tokens = chinchilla_optimal(6 * 70e9 * 1.4e12)
    assert (parameters, tokens) == pytest.approx((70e9, 1.4e12), rel=1e-9)
    assert chinchilla_optimal(5.76e23)[0] == pytest.approx(67e9, rel=0.05)  # Hoffmann et al., table 3


# Hugging Face


def hugging_face_config(config: GPTConfig) -> GPT2Config:
    return GPT2Config(
        vocab_size=config.vocab_size,
        n_positions=config.context_length,
        n_embd=config.d_model,
        n_head=config.n_heads,
        n_layer=config.n_layers,
        n_inner=config.d_ff,
        bos_token_id=0,
        eos_token_id=0,
    )


def test_transformers_gives_the_logits_of_our_gpt_and_the_way_back_is_exact():
    model = random_gpt()
    weights = to_gpt2_state_dict(model.state_dict(), SMALL)
    theirs = GPT2LMHeadModel(hugging_face_config(SMALL)).eval()
    theirs.load_state_dict(weights)  # strict: no name missing, none left over
    token_ids = torch.randint(0, 300, (3, 16), generator=seeded(6))
    with torch.no_grad():
        torch.testing.assert_close(theirs(token_ids).logits, model(token_ids), rtol=1e-4, atol=1e-4)
    back = from_gpt2_state_dict(weights, SMALL)
    assert back.keys() == model.state_dict().keys()
    assert all(torch.equal(back[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "option", [{"bias": False}, {"positions": "sinusoidal"}, {"norm": "none"}, {"norm_placement": "post"}]
)
def test_what_gpt2_cannot_express_is_refused(option, tokenizer, tmp_path):
    model = GPT(replace(SMALL, **option), seeded(0))
    with pytest.raises(ValueError, match=f"GPT-2 cannot express {next(iter(option))}"):
        to_gpt2_state_dict(model.state_dict(), model.config)
    with pytest.raises(ValueError, match="GPT-2 cannot express"):
        save_pretrained(model, tokenizer, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_saved_folder_is_read_by_transformers_and_by_us(tokenizer, tmp_path):
    model = random_gpt()
    save_pretrained(model, tokenizer, tmp_path)
    again, our_tokenizer = load_pretrained(tmp_path, GPT)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    their_tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = "the hat<|endoftext|>and é"
    token_ids = tokenizer(text, return_tensors="pt").input_ids
    assert our_tokenizer(text).input_ids == their_tokenizer(text).input_ids == token_ids[0].tolist()
    assert their_tokenizer.eos_token == "<|endoftext|>" and theirs.config.eos_token_id == tokenizer.eos_token_id
    with torch.no_grad():
        torch.testing.assert_close(theirs(token_ids).logits, model(token_ids), rtol=1e-4, atol=1e-4)
        assert torch.equal(again(token_ids), model(token_ids))
    assert again.config == SMALL and not again.training


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
def test_a_folder_with_a_missing_or_damaged_file_is_told(name, tokenizer, tmp_path):
    save_pretrained(random_gpt(), tokenizer, tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is damaged"):
        load_pretrained(tmp_path, GPT)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=f"{name} not there"):
        load_pretrained(tmp_path, GPT)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model_type": "llama"}, "type 'llama'"),
        ({"activation_function": "relu"}, "activation_function='relu'"),
        ({"n_layer": 3}, "do not fit"),
        ({"n_positions": 99}, "do not fit"),
    ],
)
def test_a_folder_of_another_architecture_is_told(change, told, tokenizer, tmp_path):
    save_pretrained(random_gpt(), tokenizer, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=told):
        load_pretrained(tmp_path, GPT)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="the model only 99"):
        save_pretrained(random_gpt(replace(SMALL, vocab_size=99)), tokenizer, tmp_path)
