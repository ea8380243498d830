"""The reference of lesson 04 of week 2 against PyTorch, in simulated ranks and on two real processes."""

import contextlib
import math
import threading

import psutil
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shared.guard import TimedOut, time_limit
from week2_pretraining import ranks
from week2_pretraining.ranks import launch, simulate
from week2_pretraining.solutions.parallelism import (
    average_gradients,
    column_parallel_linear,
    row_parallel_linear,
    shard_optimizer_state,
    training_memory,
)

WAYS = {  # of training on several processes: ZeRO's stage, and what a rank sends in (n - 1) / n of the gradients
    "average_gradients": (0, 2),
    "DistributedDataParallel": (0, 2),
    "shard_optimizer_state": (1, 3),
    "ZeroRedundancyOptimizer": (1, 3),
    "fully_shard": (3, 3),
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Memory


@pytest.mark.parametrize(("stage", "gigabytes"), [(0, 120), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_training_memory_gives_figure_1_of_the_zero_paper(stage, gigabytes):
    assert round(training_memory(7.5e9, stage, 64)["total"] / 1e9, 1) == gigabytes


@pytest.mark.parametrize(
    ("params", "n_devices", "stages"),  # table 1 of the paper, in GB
    [(7.5e9, 4, (52.5, 41.3, 30)), (128e9, 64, (536, 284, 32)), (1e12, 1024, (4011, 2013, 15.6))],
)
def test_training_memory_gives_table_1_of_the_zero_paper(params, n_devices, stages):
    for stage, gigabytes in enumerate(stages, 1):
        assert training_memory(params, stage, n_devices)["total"] / 1e9 == pytest.approx(gigabytes, rel=5e-3)


@given(st.integers(0, 10**12), st.integers(1, 4096))
@settings(deadline=None, max_examples=50, derandomize=True)
def test_each_stage_needs_no_more_than_the_one_before_and_all_the_same_on_one_device(params, n_devices):
    totals = [training_memory(params, stage, n_devices)["total"] for stage in range(4)]
    assert totals == sorted(totals, reverse=True)
    assert totals[3] == pytest.approx(totals[0] / n_devices)
    assert len({training_memory(params, stage, 1)["total"] for stage in range(4)}) == 1


@pytest.mark.parametrize(
    ("arguments", "message"), [((1, 4, 1), "stages 0, 1, 2 and 3"), ((1, 0, 0), "n_devices"), ((-1, 0, 1), "params")]
)
def test_training_memory_says_what_is_allowed(arguments, message):
    with pytest.raises(ValueError, match=message):
        training_memory(*arguments)


# Simulated ranks


def test_simulated_collectives_give_every_rank_the_same_and_leave_the_argument_alone():
    def program(group):
        own = torch.tensor([1.0, group.rank])
        results = group.all_reduce(own), group.all_gather(own), group.broadcast(own, 2)
        assert own.tolist() == [1, group.rank]
        return results, group.sent_bytes

    for (total, gathered, copied), sent in simulate(program, 4):
        assert total.tolist() == [4, 6]
        assert [t.tolist() for t in gathered] == [[1, 0], [1, 1], [1, 2], [1, 3]]
        assert copied.tolist() == [1, 2]
        assert sent == 8 * (2 * 3 / 4 + 3 + 3 / 4)


@pytest.mark.parametrize(
    "program",
    [
        lambda group: group.rank or group.all_reduce(torch.ones(2)),
        lambda group: [group.all_reduce(torch.ones(2)) for _ in range(2 + group.rank)],
        lambda group: group.all_reduce(torch.ones(2 + group.rank)),
        lambda group: group.broadcast(torch.ones(2), group.rank),
        lambda group: (group.all_gather if group.rank else group.all_reduce)(torch.ones(2)),
    ],
    ids=["left out", "once too often", "other shape", "other source", "other collective"],
)
def test_calls_that_real_ranks_would_wait_for_without_end_are_an_error_at_once(program):
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="do not make the same calls"):
        simulate(program, 3)
    assert threading.active_count() == before


def test_the_error_of_one_rank_is_raised_and_the_others_end():
    def program(group):
        group.all_reduce(torch.ones(1))
        if group.rank == 1:
            raise KeyError("rank 1's own")
        group.all_reduce(torch.ones(1))

    before = threading.active_count()
    with pytest.raises(KeyError, match="rank 1's own"):
        simulate(program, 3)
    assert threading.active_count() == before


def test_an_endless_loop_in_one_rank_ends_with_the_time_limit():
    def program(group):
        while group.rank == 1:
            pass
        group.all_reduce(torch.ones(1))

    before = threading.active_count()
    with pytest.raises(TimedOut), time_limit(0.3):
        simulate(program, 2)
    assert threading.active_count() == before


def test_a_rank_that_does_not_want_to_end_ends_though_the_time_limit_comes_again():
    def program(group):
        for _ in range(10):  # each is sent after 50 ms; the time limit comes again after 300 ms, then faster
            with contextlib.suppress(BaseException):
                while True:
                    pass

    before = threading.active_count()
    with pytest.raises(TimedOut), time_limit(0.1):
        simulate(program, 1)
    assert threading.active_count() == before


def test_collectives_refuse_what_is_no_tensor_and_no_rank():
    with pytest.raises(TypeError, match="needs a tensor, got NoneType"):
        simulate(lambda group: group.all_reduce(None), 2)
    with pytest.raises(ValueError, match="rank 2, but the ranks are 0 to 1"):
        simulate(lambda group: group.broadcast(torch.ones(1), 2), 2)


# Data parallel and ZeRO-1


@pytest.mark.parametrize("sizes", [(8,), (4, 4), (6, 2), (1, 5, 2), (2, 2, 2, 2)])
def test_averaged_gradients_equal_those_of_the_whole_batch(sizes):
    inputs, labels = torch.randn(8, 5, generator=seeded(0)), torch.randint(0, 3, (8,), generator=seeded(1))
    start = torch.randn(3, 5, generator=seeded(2))
    whole = start.clone().requires_grad_()
    F.cross_entropy(F.linear(inputs, whole), labels).backward()

    def program(group):
        x, y = inputs.split(sizes)[group.rank], labels.split(sizes)[group.rank]
        weight = nn.Parameter(start.clone())
        F.cross_entropy(F.linear(x, weight), y).backward()
        average_gradients(iter([weight]), group, n_targets=len(y))
        return weight.grad

    for gradient in simulate(program, len(sizes)):
        torch.testing.assert_close(gradient, whole.grad, rtol=1e-5, atol=1e-6)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=12), st.integers(1, 5))
@settings(deadline=None, max_examples=40, derandomize=True)
def test_every_parameter_has_one_owner_and_the_parts_are_balanced(sizes, n_ranks):
    def program(group):
        parameters = [nn.Parameter(torch.zeros(size)) for size in sizes]
        optimizer, owners = shard_optimizer_state(parameters, group, lr=0.1)
        own = {id(p) for part in optimizer.param_groups for p in part["params"]}
        return owners, [id(p) in own for p in parameters]

    results = simulate(program, n_ranks)
    owners = results[0][0]
    assert all(own == owners for own, _ in results)
    assert all(owned == [owner == rank for owner in owners] for rank, (_, owned) in enumerate(results))
    elements = [sum(n for n, owner in zip(sizes, owners, strict=True) if owner == r) for r in range(n_ranks)]
    assert max(elements) - min(elements) <= max(sizes)


@pytest.mark.parametrize("n_ranks", [1, 2, 3, 8])
def test_the_sharded_optimizer_equals_adamw_exactly(n_ranks):
    shapes, options = [(4, 3), (7,), (2, 5), (1,), (6, 6)], {"lr": 0.1, "weight_decay": 0.3, "betas": (0.8, 0.95)}
    start = [torch.randn(shape, generator=seeded(i)) for i, shape in enumerate(shapes)]
    gradients = [[torch.randn(shape, generator=seeded(10 * i + 7)) for shape in shapes] for i in range(5)]

    def train(make_optimizer):
        parameters = [nn.Parameter(value.clone()) for value in start]
        optimizer = make_optimizer(parameters)
        for of_step in gradients:
            for p, gradient in zip(parameters, of_step, strict=True):
                p.grad = gradient.clone()
            optimizer.step()
        return parameters

    expected = train(lambda parameters: torch.optim.AdamW(parameters, **options))
    for result in simulate(lambda group: train(lambda ps: shard_optimizer_state(ps, group, **options)[0]), n_ranks):
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(result, expected, strict=True))


# Megatron's layers


@pytest.mark.parametrize("n_ranks", [1, 2, 4])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("cut_columns", [True, False])
def test_a_parallel_layer_equals_the_whole_one_forward_and_backward(n_ranks, bias, cut_columns):
    layer = nn.Linear(12, 8, bias=bias, dtype=torch.float64)
    x = torch.randn(2, 3, 12, generator=seeded(0), dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(2, 3, 8, generator=seeded(1), dtype=torch.float64)
    y = layer(x)
    y.backward(upstream)

    def own(tensor, dim, group):
        return tensor.detach().chunk(group.size, dim)[group.rank].clone().requires_grad_()

    def columns(group):
        own_x, w = x.detach().clone().requires_grad_(), own(layer.weight, 0, group)
        b = own(layer.bias, 0, group) if bias else None
        out = column_parallel_linear(own_x, w, b, group)
        out.backward(upstream.chunk(group.size, -1)[group.rank])
        return out, own_x.grad, w.grad, b.grad if bias else None

    def rows(group):
        own_x, w = own(x, -1, group), own(layer.weight, 1, group)
        b = layer.bias.detach().clone().requires_grad_() if bias else None
        out = row_parallel_linear(own_x, w, b, group)
        out.backward(upstream)
        return out, own_x.grad, w.grad, b.grad if bias else None

    outs, x_grads, w_grads, b_grads = zip(*simulate(columns if cut_columns else rows, n_ranks), strict=True)
    same = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(torch.cat(w_grads, 0 if cut_columns else 1), layer.weight.grad, **same)
    if cut_columns:
        torch.testing.assert_close(torch.cat(outs, -1), y.detach(), **same)
        assert all(torch.allclose(g, x.grad, **same) for g in x_grads)
        assert not bias or torch.allclose(torch.cat(b_grads), layer.bias.grad, **same)
    else:
        assert all(torch.allclose(out, y, **same) for out in outs)
        torch.testing.assert_close(torch.cat(x_grads, -1), x.grad, **same)
        assert not bias or all(torch.allclose(g, layer.bias.grad, **same) for g in b_grads)


@pytest.mark.parametrize("n_ranks", [1, 2, 4])
def test_column_then_row_needs_one_all_reduce_forward_and_one_backward(n_ranks):
    def program(group):
        x = torch.ones(3, 8, requires_grad=True)
        w_in, w_out = torch.ones(16 // group.size, 8, requires_grad=True), torch.ones(4, 16 // group.size)
        hidden = F.gelu(column_parallel_linear(x, w_in, None, group))
        assert group.calls == []
        y = row_parallel_linear(hidden, w_out, None, group)
        assert group.calls == ["all_reduce"]
        y.sum().backward()
        return group.calls, group.sent_bytes

    for calls, sent in simulate(program, n_ranks):
        assert calls == ["all_reduce", "all_reduce"]
        assert sent == 2 * (n_ranks - 1) / n_ranks * (3 * 4 + 3 * 8) * 4


# Two real processes


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """What each of two processes found; one torchrun for all of these tests."""
    folder = tmp_path_factory.mktemp("ranks")
    launch("week2_pretraining.ranks", folder, n_ranks=2, seconds=240)
    return [torch.load(folder / f"rank_{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def one_process():
    model = ranks.small_model()
    optimizer = torch.optim.AdamW(model.parameters(), **ranks.ADAMW)
    for step in range(ranks.STEPS):
        model.zero_grad()
        ranks.loss_of(model, ranks.rows_of_step(step)).backward()
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("way", WAYS)
def test_training_on_two_processes_equals_one(processes, one_process, way):
    for rank in processes:
        # Adam divides by √v: where a gradient is nearly 0, float32's rounding is a visible part of it.
        torch.testing.assert_close(rank["training"][way]["parameters"], one_process, rtol=0, atol=3e-6)


@pytest.mark.parametrize("way", WAYS)
def test_a_process_holds_what_training_memory_says(processes, way):
    stage, _ = WAYS[way]
    n_params = len(processes[0]["training"][way]["parameters"])
    expected = training_memory(n_params, stage, 2, parameter_bytes=4, gradient_bytes=4, optimizer_bytes=8)
    for rank in processes:
        for name, held in rank["training"][way]["held"].items():
            assert held == pytest.approx(expected[name], rel=0.01)  # whole tensors cannot be dealt out exactly


def test_our_partition_is_as_balanced_as_that_of_torchs_zero_optimizer(processes):
    for rank in processes:
        ours, theirs = (rank["training"][way]["held"] for way in ("shard_optimizer_state", "ZeroRedundancyOptimizer"))
        assert ours["optimizer"] == theirs["optimizer"]


@pytest.mark.parametrize("way", WAYS)
def test_the_kernel_counts_at_least_the_bytes_of_the_formula(processes, way):
    run = processes[0]["training"][way]
    if math.isnan(run["wire"]):
        pytest.skip("this system does not count the bytes of the loopback device")
    # Other programs on the device, headers and gloo's reduce-scatter only add to it.
    assert run["wire"] >= 0.99 * WAYS[way][1] * (2 - 1) / 2 * 4 * len(run["parameters"])


def test_parallel_layers_on_two_processes_equal_torchs_own_and_the_whole_ones(processes):
    model, x = ranks.mlp()
    y = model(x)
    y.square().sum().backward()
    whole = {"y": y.detach(), "x": x.grad, "w_in": model[0].weight.grad, "w_out": model[2].weight.grad}
    both = [rank["tensor parallel"] for rank in processes]
    for who in ("yours", "torch"):
        for name, dim in (("y", None), ("x", None), ("w_in", 0), ("w_out", 1)):
            parts = [rank[who][name] for rank in both]
            for together in parts if dim is None else [torch.cat(parts, dim)]:
                difference = (together - whole[name]).abs().max() / whole[name].abs().max()
                assert difference < 3e-6
        assert all(torch.allclose(rank[who]["b_out"], model[2].bias.grad, rtol=1e-5) for rank in both)
    assert both[0]["calls"] == ["all_reduce", "all_reduce"]
    assert list(both[0]["torch calls"].values()) == [2]


def test_a_program_that_fails_is_an_error_with_its_output():
    with pytest.raises(RuntimeError, match="exit code 1"):
        launch("json.tool", "/no/such/file", n_ranks=1, seconds=60)


def test_a_program_that_does_not_end_is_ended_with_all_its_processes():
    with pytest.raises(RuntimeError, match="not finished after 4 seconds"):
        launch("timeit", "-n", str(10**12), "pass", n_ranks=1, seconds=4)
    left = [p for p in psutil.process_iter(["cmdline"]) if str(10**12) in (p.info["cmdline"] or [])]
    assert not [p for p in left if p.status() != psutil.STATUS_ZOMBIE]
