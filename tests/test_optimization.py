"""Week 2, lesson 02: the answers against torch.optim, torch's schedulers, transformers, GradScaler and checkpoint."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from torch.utils.checkpoint import checkpoint
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, get_cosine_schedule_with_warmup

from week1_decoder.solutions.decoder import GPT, Block, GPTConfig
from week2_pretraining.solutions.optimization import (
    LossScaler,
    accumulate_gradients,
    adamw_step,
    checkpointed_forward,
    clip_grad_norm,
    parameter_groups,
    warmup_cosine_lr,
)

CONFIG = GPTConfig(vocab_size=61, context_length=16, d_model=24, n_heads=3, n_layers=2)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gpt(seed: int = 0) -> GPT:
    return GPT(CONFIG, generator=seeded(seed))


def batch(generator: torch.Generator, rows: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(0, 61, (rows, 17), generator=generator)
    return ids[:, :-1], ids[:, 1:]


def loss_of(model: nn.Module, token_ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(token_ids).flatten(0, 1), targets.flatten())


def largest_difference(a: nn.Module, b: nn.Module) -> float:
    return max((p - q).abs().max().item() for p, q in zip(a.parameters(), b.parameters(), strict=True))


# AdamW


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adamw_equals_torch_over_100_steps_on_a_gpt(weight_decay):
    ours, theirs = gpt().double(), gpt().double()
    hyper = {"lr": 3e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": weight_decay}
    optimizer = torch.optim.AdamW(theirs.parameters(), **hyper)
    parameters = list(ours.parameters())
    state = [{} for _ in parameters]
    generator = seeded(1)
    for _ in range(100):
        token_ids, targets = batch(generator)
        for model in (ours, theirs):
            model.zero_grad()
            loss_of(model, token_ids, targets).backward()
        adamw_step(parameters, state, **hyper)
        optimizer.step()
    assert largest_difference(ours, theirs) < 1e-7
    assert largest_difference(ours, gpt().double()) > 1e-2  # it has moved
    assert [own["step"] for own in state] == [100] * len(parameters)


def test_adamw_equals_torch_where_gradients_come_and_go():
    generator = seeded(2)
    ours = nn.ParameterList(torch.randn(4, generator=generator) for _ in range(3))
    theirs = copy.deepcopy(ours)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=0.1, weight_decay=0.3)
    state = [{} for _ in ours]
    for step in range(12):
        for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            p.grad = None if (step + i) % 3 == 0 else torch.randn(4, generator=generator)
            q.grad = None if p.grad is None else p.grad.clone()
        adamw_step(list(ours), state, lr=0.1, weight_decay=0.3)
        optimizer.step()
        assert largest_difference(ours, theirs) < 1e-6
    assert [own["step"] for own in state] == [int(optimizer.state[q]["step"]) for q in theirs]


def test_the_first_step_is_the_sign_of_the_gradient():
    p = nn.Parameter(torch.zeros(3))
    p.grad = torch.tensor([1e-3, -40.0, 7e5])
    adamw_step([p], [{}], lr=0.5, weight_decay=0.0)
    torch.testing.assert_close(p.detach(), torch.tensor([-0.5, 0.5, -0.5]), rtol=1e-4, atol=0)


def test_decoupled_decay_does_not_depend_on_the_gradient():
    p = nn.Parameter(torch.tensor([2.0, 2.0]))
    q = nn.Parameter(p.detach().clone())
    p.grad, q.grad = torch.tensor([1.0, 1000.0]), torch.tensor([1.0, 1000.0])
    adamw_step([p], [{}], lr=0.1, weight_decay=0.5)
    adamw_step([q], [{}], lr=0.1, weight_decay=0.0)
    torch.testing.assert_close(q.detach() - p.detach(), torch.full((2,), 0.1 * 0.5 * 2), rtol=1e-4, atol=1e-6)


def test_adamw_refuses_a_state_of_another_length():
    with pytest.raises(ValueError, match="1 parameters and 2 states"):
        adamw_step([nn.Parameter(torch.zeros(1))], [{}, {}], lr=0.1)


# The schedule


def rates_of(make, n_steps: int, max_lr: float) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=max_lr)
    scheduler, rates = make(optimizer), []
    for _ in range(n_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(("warmup", "total", "min_lr"), [(4, 20, 0.0), (2, 9, 1e-4), (7, 8, 3e-4)])
def test_schedule_equals_torchs_linear_and_cosine_in_sequence(warmup, total, min_lr):
    def in_sequence(optimizer):
        rise = LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup - 1)
        fall = CosineAnnealingLR(optimizer, T_max=total - warmup, eta_min=min_lr)
        return SequentialLR(optimizer, [rise, fall], milestones=[warmup])

    ours = [warmup_cosine_lr(step, 1e-3, warmup, total, min_lr) for step in range(total + 1)]
    assert ours == pytest.approx(rates_of(in_sequence, total + 1, 1e-3), rel=1e-9, abs=1e-15)


def test_schedule_equals_transformers_but_for_its_warmup_which_is_one_step_late():
    theirs = rates_of(lambda optimizer: get_cosine_schedule_with_warmup(optimizer, 5, 30), 31, 1e-3)
    ours = [warmup_cosine_lr(step, 1e-3, 5, 30) for step in range(31)]
    assert theirs[0] == 0 and ours[:4] == pytest.approx(theirs[1:5])
    assert ours[5:] == pytest.approx(theirs[5:], abs=1e-15)


@given(st.integers(0, 50), st.integers(1, 100), st.floats(0, 1), st.integers(0, 300))
@settings(deadline=None, max_examples=100, derandomize=True)
def test_schedule_stays_between_its_bounds_and_never_rises_after_the_warmup(warmup, more, share, step):
    rate = lambda s: warmup_cosine_lr(s, 2.0, warmup, warmup + more, 2.0 * share)  # noqa: E731
    assert 0 < rate(step) <= 2.0 or share == 0
    assert rate(warmup) == pytest.approx(2.0)
    assert rate(warmup + more) == 2.0 * share
    if step >= warmup:
        assert rate(step + 1) <= rate(step) + 1e-12


@pytest.mark.parametrize(
    "wrong", [(-1, 1.0, 2, 4), (0, 1.0, 5, 4), (0, 1.0, 0, 0), (0, 1.0, 2, 4, 1.5), (0, 1.0, -1, 4)]
)
def test_schedule_refuses_what_makes_no_sense(wrong):
    with pytest.raises(ValueError, match="<="):
        warmup_cosine_lr(*wrong)


# Clipping


@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 1e6])
def test_clipping_equals_torch_in_both_regimes_and_takes_a_generator(max_norm):
    ours, theirs = gpt(), gpt()
    for model in (ours, theirs):
        loss_of(model, *batch(seeded(3))).backward()
    next(ours.parameters()).grad = next(theirs.parameters()).grad = None
    a = clip_grad_norm(ours.parameters(), max_norm)
    b = torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm)
    torch.testing.assert_close(a, b, rtol=1e-6, atol=0)
    for p, q in zip(list(ours.parameters())[1:], list(theirs.parameters())[1:], strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_clipping_a_norm_that_is_not_finite_does_what_torch_does(bad):
    def spoilt():
        parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
        parameters[0].grad, parameters[1].grad = torch.tensor([bad, 1.0]), torch.tensor([2.0])
        return parameters

    ours, theirs = spoilt(), spoilt()
    a, b = clip_grad_norm(ours, 1.0), torch.nn.utils.clip_grad_norm_(theirs, 1.0)
    torch.testing.assert_close(a, b, equal_nan=True)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p.grad, q.grad, equal_nan=True)


def test_clipping_nothing_gives_zero_and_a_bound_of_zero_is_refused():
    assert clip_grad_norm(gpt().parameters(), 1.0) == 0
    with pytest.raises(ValueError, match="max_norm"):
        clip_grad_norm([], 0.0)


# Parameter groups


def test_groups_equal_the_trainers_on_gpt2():
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=61, n_positions=16, n_embd=24, n_layer=2, n_head=3))
    decayed, spared = parameter_groups(gpt2, 0.1)
    names = {id(p): name for name, p in gpt2.named_parameters()}
    theirs = set(Trainer.get_decay_parameter_names(None, gpt2))
    assert {names[id(p)] for p in decayed["params"]} == theirs & set(names.values())
    assert {names[id(p)] for p in spared["params"]} == set(names.values()) - theirs


def test_groups_hold_each_trained_parameter_once_and_torch_takes_them():
    model = gpt()
    model.head = nn.Linear(24, 61, bias=False)
    model.head.weight = model.token_embedding.weight
    model.blocks[0].requires_grad_(False)
    groups = parameter_groups(model, 0.1)
    members = [id(p) for group in groups for p in group["params"]]
    assert len(members) == len(set(members))
    assert set(members) == {id(p) for p in model.parameters() if p.requires_grad}
    torch.optim.AdamW(groups, lr=1e-3)
    with pytest.raises(ValueError, match="weight_decay"):
        parameter_groups(model, -1.0)


# Accumulation


@pytest.mark.parametrize("counted", [[16, 16, 16, 16, 16, 16], [16, 1, 3, 2, 0, 9]])
@pytest.mark.parametrize("rows", [1, 2, 6])
def test_accumulated_gradients_equal_those_of_the_large_batch(counted, rows):
    large, parts = gpt(), gpt()
    token_ids, targets = batch(seeded(4), rows=6)
    targets = targets.masked_fill(torch.arange(16) >= torch.tensor(counted)[:, None], -100)
    loss = loss_of(large, token_ids, targets)
    loss.backward()
    ours = accumulate_gradients(parts, list(zip(token_ids.split(rows), targets.split(rows), strict=True)))
    assert ours == pytest.approx(loss.item(), rel=1e-6)
    for p, q in zip(large.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=1e-6)


def test_accumulation_refuses_a_batch_with_nothing_to_learn():
    token_ids, targets = batch(seeded(5))
    with pytest.raises(ValueError, match="no target counts"):
        accumulate_gradients(gpt(), [(token_ids, torch.full_like(targets, -100))])
    with pytest.raises(ValueError, match="no target counts"):
        accumulate_gradients(gpt(), [])


# The loss scaler


def test_loss_scaler_equals_torchs_in_real_float16_with_overflows():
    hyper = {"init_scale": 2.0**30, "growth_interval": 3}
    ours, theirs = gpt(), gpt()
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-3) for model in (ours, theirs)]
    scaler, torchs = LossScaler(**hyper), torch.amp.GradScaler("cpu", **hyper)
    generator, scales = seeded(6), []
    for step in range(20):
        token_ids, targets = batch(generator)
        for model, optimizer, scale in zip((ours, theirs), optimizers, (scaler, torchs.scale), strict=True):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.float16):
                loss = loss_of(model, token_ids, targets)
            scale(loss).backward()
        if step % 2:  # with and without a division of the caller's own
            scaler.unscale(optimizers[0])
            torchs.unscale_(optimizers[1])
        scaler.step(optimizers[0])
        torchs.step(optimizers[1])
        scaler.update()
        torchs.update()
        assert scaler.scale.item() == torchs.get_scale()
        scales.append(scaler.scale.item())
    assert min(scales) < 2.0**29  # it has met overflows
    assert any(b > a for a, b in zip(scales, scales[1:], strict=False))  # and has grown
    assert largest_difference(ours, theirs) < 1e-6
    assert largest_difference(ours, gpt()) > 1e-4


def test_a_skipped_step_leaves_weights_and_moments_alone():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    before = copy.deepcopy(model.state_dict())
    scaler = LossScaler(init_scale=4.0)
    model.weight.grad, model.bias.grad = torch.tensor([[1.0, math.inf]]), torch.tensor([1.0])
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not optimizer.state and scaler.scale == 2.0


def test_a_resumed_scaler_grows_when_the_first_would_have_grown():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.weight.grad = torch.ones(1, 2)
    first = LossScaler(init_scale=8.0, growth_interval=3)
    for _ in range(2):
        first.step(optimizer)
        first.update()
    resumed = LossScaler(growth_interval=3)
    resumed.load_state_dict(first.state_dict())
    for scaler in (first, resumed):
        scaler.step(optimizer)
        scaler.update()
        assert scaler.scale == 16.0 and scaler.good_steps == 0


@pytest.mark.parametrize(
    "wrong", [{"init_scale": 0.0}, {"growth_factor": 1.0}, {"backoff_factor": 1.0}, {"growth_interval": 0}]
)
def test_loss_scaler_refuses_factors_that_cannot_work(wrong):
    with pytest.raises(ValueError, match="backoff_factor < 1"):
        LossScaler(**wrong)


# Recomputation


def gradients_through(way, blocks: nn.ModuleList, x: torch.Tensor) -> list[torch.Tensor]:
    h = x
    for block in blocks:
        h = way(block, h)
    wanted = [t for t in (x, *blocks.parameters()) if t.requires_grad]
    return list(torch.autograd.grad(h.square().sum(), wanted))


@pytest.mark.parametrize("x_needs_gradient", [True, False])
def test_checkpointed_blocks_give_the_gradients_of_plain_ones_and_of_torchs(x_needs_gradient):
    torch.manual_seed(0)
    blocks = nn.ModuleList(Block(CONFIG) for _ in range(3))
    blocks[1].attention.requires_grad_(False)
    x = torch.randn(2, 7, 24, generator=seeded(7), requires_grad=x_needs_gradient)
    plain = gradients_through(lambda block, x: block(x), blocks, x)
    for way in (checkpointed_forward, lambda block, x: checkpoint(block, x, use_reentrant=False)):
        for a, b in zip(plain, gradients_through(way, blocks, x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_checkpointing_repeats_dropout_as_torch_does():
    torch.manual_seed(1)
    block = nn.Sequential(nn.Linear(5, 40), nn.Dropout(0.5), nn.Linear(40, 5))
    x = torch.randn(3, 4, 5, requires_grad=True)
    results = []
    for way in (lambda block, x: block(x), checkpointed_forward, lambda b, x: checkpoint(b, x, use_reentrant=False)):
        torch.manual_seed(2)
        results.append([*gradients_through(way, nn.ModuleList([block]), x), torch.rand(3)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b)


def test_a_checkpointed_block_keeps_its_input_only():
    block = Block(CONFIG)
    own = {p.data_ptr() for p in block.parameters()}
    x = torch.randn(4, 16, 24, requires_grad=True)

    def kept(way) -> int:
        numbers = []
        note = lambda t: numbers.append(0 if t.data_ptr() in own else t.numel()) or t  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            way(block, x)
        return sum(numbers)

    assert kept(checkpointed_forward) == x.numel()
    assert kept(lambda block, x: block(x)) > 15 * x.numel()
