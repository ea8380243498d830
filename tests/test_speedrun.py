"""The reference of 06_speedrun against PyTorch and its invariants; the race and the table of times."""

import json
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from week1_decoder.solutions.decoder import GPT, GPTConfig
from week2_pretraining.solutions.optimization import warmup_cosine_lr
from week2_pretraining.solutions.speedrun import (
    BEST,
    Run,
    SpeedrunGPT,
    hashed_ngrams,
    muon_step,
    orthogonalize,
    rms_norm,
    trapezoid_lr,
)
from week2_pretraining.speedrun_times import (
    CharacterText,
    Result,
    leaderboard,
    learning_rate,
    race,
    read_times,
    record_time,
)

SMALL = Run(n_layers=2, n_heads=2, d_model=16, context_length=8, batch_size=4, iterations=6, warmup=2)
SMALL_BEST = replace(BEST, n_layers=2, n_heads=2, d_model=16, context_length=8, batch_size=4, iterations=6, decay=4)
TEXT = CharacterText.of("the cat sat on the mat, and the dog ran after it. " * 300, "cats")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(5,), (3, 8), (2, 3, 4, 32)])
@pytest.mark.parametrize("eps", [1e-6, 0.1])
def test_rms_norm_and_its_gradient_equal_torch(shape, eps):
    x = torch.randn(shape, generator=seeded(0)).requires_grad_()
    ours, theirs = rms_norm(x, eps), F.rms_norm(x, (shape[-1],), eps=eps)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    sides = torch.randn(shape, generator=seeded(1))
    gradients = [torch.autograd.grad((sides * y).sum(), x)[0] for y in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(128, 128), (512, 128), (128, 512), (3, 64, 32)])
def test_orthogonalize_keeps_the_singular_vectors_and_brings_the_values_into_their_band(shape):
    matrix = torch.randn(shape, generator=seeded(2), dtype=torch.float64)
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    ours = orthogonalize(matrix)
    inner = u.mT @ ours @ vt.mT  # diagonal where the directions are the same
    values = inner.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(inner, torch.diag_embed(values), rtol=0, atol=1e-9)
    reached = s / torch.linalg.matrix_norm(matrix)[..., None] > 0.01  # smaller ones need more than five rounds
    assert values[reached].min() > 0.65 and values.max() < 1.25


def test_orthogonalize_equals_torchs_own_to_the_precision_of_bfloat16():
    from torch.optim._muon import _zeropower_via_newtonschulz as theirs

    for shape in ((24, 24), (48, 12), (12, 48)):
        matrix = torch.randn(shape, generator=seeded(3))
        expected = theirs(matrix, (3.4445, -4.7750, 2.0315), 5, 1e-7).float()
        assert (orthogonalize(matrix) - expected).norm() / expected.norm() < 0.05


def test_each_matrix_of_a_batch_is_orthogonalized_alone():
    batch = torch.randn(2, 3, 5, 4, generator=seeded(4))
    one_by_one = torch.stack([torch.stack([orthogonalize(m) for m in row]) for row in batch])
    torch.testing.assert_close(orthogonalize(batch), one_by_one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(12, 12), (24, 6), (6, 24)])
def test_muon_equals_torchs_muon_over_20_steps(shape, monkeypatch):
    # torch orthogonalizes in bfloat16, which alone makes a difference of a hundredth: give it ours, compare the rest.
    monkeypatch.setattr("torch.optim._muon._zeropower_via_newtonschulz", lambda g, *rest: orthogonalize(g))
    weights = torch.randn(shape, generator=seeded(5))
    theirs = torch.nn.Parameter(weights.clone())
    muon = torch.optim.Muon([theirs], lr=0.05, momentum=0.9, weight_decay=0.2)
    buffer = torch.zeros(shape)
    for step in range(20):
        gradient = torch.randn(shape, generator=seeded(100 + step))
        theirs.grad = gradient.clone()
        muon.step()
        weights, buffer = muon_step(weights, gradient, buffer, 0.05, 0.9, 0.2)
        torch.testing.assert_close(weights, theirs.detach(), rtol=1e-4, atol=1e-5)


def test_muon_stays_near_torchs_muon_as_it_is():
    weights = torch.randn(16, 8, generator=seeded(6))
    theirs = torch.nn.Parameter(weights.clone())
    muon = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1)
    buffer = torch.zeros_like(weights)
    for step in range(10):
        gradient = torch.randn(16, 8, generator=seeded(200 + step))
        theirs.grad = gradient.clone()
        muon.step()
        weights, buffer = muon_step(weights, gradient, buffer, 0.02, weight_decay=0.1)
    assert (weights - theirs).abs().max() < 0.02  # ten steps of up to 0.02 each in an entry, rounded to 8 bits


def test_a_decay_over_all_steps_is_torchs_linear_schedule():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=20)
    for step in range(25):
        assert trapezoid_lr(step, 0.3, 0, 20, 20, 0.03) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        optimizer.step()
        schedule.step()


def test_trapezoid_and_cosine_share_the_warm_up():
    for step in range(10):
        assert trapezoid_lr(step, 1.0, 10, 50, 20) == warmup_cosine_lr(step, 1.0, 10, 50)


@pytest.mark.parametrize(
    "wrong", [{"step": -1}, {"warmup_steps": 90}, {"decay_steps": -1}, {"total_steps": 0}, {"min_lr": 2.0}]
)
def test_an_impossible_schedule_is_refused(wrong):
    arguments = {"step": 0, "max_lr": 1.0, "warmup_steps": 10, "total_steps": 100, "decay_steps": 20, "min_lr": 0.0}
    with pytest.raises(ValueError, match="got"):
        trapezoid_lr(**{**arguments, **wrong})


@pytest.mark.parametrize("wrong", [{"d_model": 6}, {"batch_size": 0}, {"n_layers": 1.5}])
def test_an_impossible_run_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(SMALL, **wrong)


def test_the_baseline_is_week_1s_gpt():
    run = replace(SMALL, squared_relu=False)
    fast = SpeedrunGPT(run, 11, seeded(7))
    gpt = GPT(GPTConfig(vocab_size=11, context_length=8, d_model=16, n_heads=2, n_layers=2, bias=False))
    with torch.no_grad():
        gpt.token_embedding.weight.copy_(fast.token_embedding)
        gpt.position_embedding.weight.copy_(fast.position_embedding)
        for i, block in enumerate(gpt.blocks):
            for name, w in zip(("w_q", "w_k", "w_v"), fast.w_qkv[i], strict=True):
                getattr(block.attention, name).weight.copy_(w)
            block.attention.w_o.weight.copy_(fast.w_o[i])
            block.feed_forward.w_in.weight.copy_(fast.w_in[i])
            block.feed_forward.w_out.weight.copy_(fast.w_out[i])
    token_ids = torch.randint(0, 11, (3, 8), generator=seeded(8))
    # the two forms of GELU differ by 5e-4 at most
    torch.testing.assert_close(fast(token_ids), gpt(token_ids), rtol=0, atol=1e-4)


@pytest.mark.parametrize("run", [SMALL, SMALL_BEST], ids=["baseline", "best"])
def test_no_position_sees_a_later_character(run):
    model = SpeedrunGPT(run, 11, seeded(9))
    with torch.no_grad():
        for p in model.parameters():  # also those that begin at zero
            p.add_(0.1 * torch.randn(p.shape, generator=seeded(10)))
    token_ids = torch.randint(0, 11, (2, 8), generator=seeded(11))
    changed = token_ids.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 11
    before, after = model(token_ids), model(changed)
    torch.testing.assert_close(before[:, :5], after[:, :5], rtol=0, atol=1e-6)
    assert (before[:, 5:] - after[:, 5:]).abs().amin(dim=-1).max() > 1e-4


def test_rotated_scores_depend_on_the_distance_only():
    model = SpeedrunGPT(SMALL_BEST, 11, seeded(12))
    q, k = (torch.randn(8, generator=seeded(s)).expand(1, 1, 8, 8) for s in (13, 14))
    scores = model.rotate(q) @ model.rotate(k).mT
    for distance in range(1, 8):
        diagonal = scores[0, 0].diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-5)


def test_hashed_pairs_are_the_same_row_for_the_same_pair_and_mostly_different_else():
    token_ids = torch.randint(0, 65, (40, 64), generator=seeded(15))
    rows = hashed_ngrams(token_ids, 2, 2**14)
    assert rows.min() >= 0 and rows.max() < 2**14
    seen = {}
    columns = (t.flatten().tolist() for t in (token_ids[:, :-1], token_ids[:, 1:], rows[:, 1:]))
    for previous, current, row in zip(*columns, strict=True):
        assert seen.setdefault((previous, current), row) == row
    assert len(set(seen.values())) > 0.85 * len(seen)


def test_the_learning_rate_of_a_run_ends_where_its_recipe_says():
    assert learning_rate(Run(), 1999, 1e-3) == pytest.approx(1e-4, rel=0.01)
    assert learning_rate(Run(), 99, 1e-3) == 1e-3
    assert learning_rate(replace(Run(), decay=500), 1400, 0.02) == 0.02


@pytest.mark.parametrize("run", [SMALL, SMALL_BEST], ids=["baseline", "best"])
def test_a_race_can_be_run_again_to_the_same_losses(run):
    first, again = (race(run, TEXT, evaluate_every=3) for _ in range(2))
    assert first.iterations == [3, 6]
    assert first.losses == again.losses
    assert first.losses[-1] < math.log(len(TEXT.characters)) + 0.1
    assert first.seconds_to_target is None
    assert race(run, TEXT, evaluate_every=3, seed=1).losses != first.losses


def test_a_race_ends_at_its_target():
    result = race(replace(SMALL, iterations=500), TEXT, target=3.1, evaluate_every=5)
    assert result.losses[-1] <= 3.1 < min(result.losses[:-1], default=9)
    assert result.seconds_to_target == result.seconds[-1]


def test_a_text_that_is_too_short_is_refused():
    with pytest.raises(ValueError, match="10,000 characters"):
        CharacterText.of("abc", "three letters")


@pytest.fixture
def reached() -> Result:
    return Result(replace(SMALL, name="mine"), 2.0, [5, 10], [1.5, 3.0], [2.4, 1.9])


def test_times_are_kept_and_ordered(tmp_path, reached):
    path = tmp_path / "new folder" / "times.json"
    record_time(reached, TEXT, path=path)
    record_time(replace(reached, seconds=[0.5, 1.25]), TEXT, who="course", path=path)
    record_time(replace(reached, seconds=[0.5, 9.0]), TEXT, path=path)  # a worse one of yours
    lines = leaderboard(TEXT, 2.0, path).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["1.2", "3.0"]
    assert "course: mine" in lines[2] and "you: mine" in lines[3]
    assert len(read_times(path)) == 3
    assert [p.name for p in path.parent.iterdir()] == ["times.json"]


def test_only_like_is_compared_with_like(tmp_path, reached):
    path = tmp_path / "times.json"
    record_time(reached, TEXT, path=path)
    other_text = CharacterText.of("another text " * 1000, "cats")
    record_time(reached, other_text, path=path)
    record_time(replace(reached, target=1.95), TEXT, path=path)
    times = read_times(path)
    path.write_text(json.dumps([*times, {**times[0], "machine": "a faster one"}]))
    text = leaderboard(TEXT, 2.0, path)
    assert text.count("you: mine") == 1
    assert "left out: 3" in text


def test_a_race_that_did_not_arrive_is_not_recorded(tmp_path, reached):
    with pytest.raises(ValueError, match="did not reach"):
        record_time(replace(reached, target=1.0), TEXT, path=tmp_path / "times.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"[{", b"\xff\xfe", b'{"a": 1}', b'[{"seconds": 1.0}]', b"[3]"])
def test_a_damaged_table_is_kept_aside_and_told(tmp_path, reached, content, capsys):
    path = tmp_path / "times.json"
    path.write_bytes(content)
    record_time(reached, TEXT, path=path)
    assert "kept as times.damaged1.json" in capsys.readouterr().out
    assert (tmp_path / "times.damaged1.json").read_bytes() == content
    assert len(read_times(path)) == 1


def test_a_crash_while_writing_leaves_the_old_table_whole(tmp_path, reached, monkeypatch):
    path = tmp_path / "times.json"
    record_time(reached, TEXT, path=path)
    before = path.read_bytes()

    def crash(*args):
        raise OSError("the disk is full")

    monkeypatch.setattr("os.replace", crash)
    with pytest.raises(OSError):
        record_time(reached, TEXT, path=path)
    assert path.read_bytes() == before
