"""Week 6's lesson 01: pairs, the Bradley-Terry loss, the reward model, calibration, length, and the stored models."""

import copy
import itertools
import json
import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LinearRegression, LogisticRegression
from trl import RewardConfig as TRLConfig
from trl import RewardTrainer

from shared.models import course_folder
from week1_decoder.solutions.decoder import GPT, GPTConfig
from week2_pretraining.solutions.pretraining import load_pretrained
from week6_rlhf import reward_study, reward_training
from week6_rlhf.preferences import true_score
from week6_rlhf.samples import told
from week6_rlhf.solutions.reward_model import (
    Pair,
    RewardModel,
    bradley_terry_loss,
    expected_calibration_error,
    length_controlled_reward,
    make_preference_pairs,
)


@pytest.fixture(scope="module")
def course():
    """(trunk, tokenizer) of the instruct model."""
    return load_pretrained(course_folder("instruct"), GPT)


@pytest.fixture
def model(course):
    torch.manual_seed(0)
    return RewardModel(copy.deepcopy(course[0])).eval()


@pytest.fixture(scope="module")
def rows(course):
    """Three prompts' stories as token ids."""
    return reward_training.token_rows(course[1], told("validation")[:3])


# --- pairs ------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.lists(st.tuples(st.sampled_from(["", " ", "a", "b", "a "]), st.integers(0, 3)), max_size=5), max_size=4)
)
def test_without_noise_the_pairs_are_all_comparisons_that_have_a_winner(asked):
    replies, scores = ([[item[k] for item in row] for row in asked] for k in (0, 1))
    expected = [
        (prompt, i, j)
        for prompt, row in enumerate(asked)
        for i, j in itertools.permutations(range(len(row)), 2)
        if row[i][1] > row[j][1] and row[i][0].strip() and row[j][0].strip() and row[i][0].strip() != row[j][0].strip()
    ]
    assert sorted(make_preference_pairs(replies, scores)) == sorted(expected)


def test_labels_are_wrong_as_often_as_the_noise_says_and_one_independently_of_another():
    replies = [[f"{p} {i}" for i in range(4)] for p in range(3000)]
    scores = torch.rand(3000, 4, generator=torch.Generator().manual_seed(1))
    pairs = make_preference_pairs(replies, scores.tolist(), 0.2, torch.Generator().manual_seed(0))
    wrong = torch.tensor([float(scores[p, i] < scores[p, j]) for p, i, j in pairs]).view(3000, 6)
    assert abs(wrong.mean() - 0.2) < 4 * math.sqrt(0.16 / 18000)
    assert abs(torch.corrcoef(wrong.T) - torch.eye(6)).max() < 4.5 / math.sqrt(3000)


def test_the_same_generator_gives_the_same_pairs_and_the_global_one_is_left_alone():
    replies, scores = [["a", "b", "c"]] * 20, [[1.0, 2.0, 3.0]] * 20
    before = torch.get_rng_state()
    one, other = (make_preference_pairs(replies, scores, 0.5, torch.Generator().manual_seed(3)) for _ in range(2))
    assert one == other and torch.equal(before, torch.get_rng_state())
    assert isinstance(one[0], Pair)


@pytest.mark.parametrize(
    ("replies", "scores", "noise", "message"),
    [
        ([["a", "b"]], [[1.0]], 0.0, "one score"),
        ([["a"], ["b"]], [[1.0]], 0.0, "one score"),
        ([["a", "b"]], [[1.0, math.nan]], 0.0, "prompt 0 are not all finite"),
        ([["a", "b"]], [[1.0, 2.0]], 0.6, "from 0 to 0.5"),
        ([["a", "b"]], [[1.0, 2.0]], -0.1, "from 0 to 0.5"),
    ],
)
def test_pairs_refuse_what_gives_no_labels(replies, scores, noise, message):
    with pytest.raises(ValueError, match=message):
        make_preference_pairs(replies, scores, noise)


# --- the loss ---------------------------------------------------------------------------------------------------


def test_the_loss_is_pytorchs_binary_cross_entropy_of_the_difference_and_its_gradient_is_minus_one_minus_p():
    generator = torch.Generator().manual_seed(0)
    chosen, rejected = (4 * torch.randn(2, 50, generator=generator)).requires_grad_()
    loss = bradley_terry_loss(chosen, rejected)
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(chosen - rejected, torch.ones(50)))
    (gradient,) = torch.autograd.grad(loss, chosen)
    torch.testing.assert_close(gradient, -(1 - (chosen - rejected).sigmoid()) / 50)


def test_the_loss_and_its_gradient_are_finite_for_any_reward():
    rewards = torch.tensor([1e4, -1e4, 0.0], requires_grad=True)
    loss = bradley_terry_loss(rewards, rewards.detach().flip(0))
    loss.backward()
    assert loss.isfinite() and rewards.grad.isfinite().all()
    assert bradley_terry_loss(torch.zeros(4), torch.zeros(4)).item() == pytest.approx(math.log(2))


def test_minimising_it_gives_the_strengths_of_sklearns_logistic_regression():
    """Bradley and Terry's own use: players, not texts."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.tensor([1.0, 0.3, -0.2, -1.1])
    i, j = torch.randint(0, 4, (2, 600), generator=generator)
    i, j = i[i != j], j[i != j]
    won = torch.rand(len(i), generator=generator) < (truth[i] - truth[j]).sigmoid()
    winner, loser = torch.where(won, i, j), torch.where(won, j, i)
    strengths = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([strengths], max_iter=100, tolerance_grad=1e-10)

    def closure():
        optimizer.zero_grad()
        loss = bradley_terry_loss(strengths[winner], strengths[loser])
        loss.backward()
        return loss

    optimizer.step(closure)
    design = (F.one_hot(i, 4) - F.one_hot(j, 4)).numpy()
    fitted = (
        LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=1000).fit(design, won.numpy()).coef_[0]
    )
    np.testing.assert_allclose(strengths.detach().numpy() - strengths.mean().item(), fitted - fitted.mean(), atol=2e-3)


@pytest.mark.parametrize(
    ("chosen", "rejected", "margin"),
    [
        (torch.zeros(0), torch.zeros(0), None),
        (torch.zeros(3), torch.zeros(3, 1), None),
        (torch.zeros(3, 1), torch.zeros(3, 1), None),
        (torch.zeros(3), torch.zeros(3), torch.zeros(1)),
        (torch.tensor([math.nan]), torch.zeros(1), None),
        (torch.zeros(1), torch.tensor([math.inf]), None),
    ],
)
def test_the_loss_refuses_shapes_that_broadcast_and_rewards_that_are_not_finite(chosen, rejected, margin):
    with pytest.raises(ValueError, match=r"shape|nan or infinite"):
        bradley_terry_loss(chosen, rejected, margin)


# --- the model --------------------------------------------------------------------------------------------------


def test_the_rewards_are_those_of_transformers_classifier(model, course, rows):
    theirs = reward_training.as_classifier(model, course[1])
    token_ids, mask = reward_training.padded(sum(rows, []), course[1].pad_token_id)
    assert not mask.all()
    with torch.no_grad():
        library = theirs(input_ids=token_ids, attention_mask=mask).logits[:, 0]
        torch.testing.assert_close(model(token_ids, mask), library, atol=1e-5, rtol=1e-5)


def test_transformers_classifier_passes_over_an_end_in_its_padding_token_and_ours_does_not(model, course, rows):
    theirs = reward_training.as_classifier(model, course[1])
    stop = course[1].convert_tokens_to_ids("<|im_end|>")
    ids = next(ids for ids in sum(rows, []) if ids[-1] == stop)
    theirs.config.pad_token_id = stop
    whole, cut = (
        model(torch.tensor([part]), torch.ones(1, len(part), dtype=torch.bool)).item() for part in (ids, ids[:-1])
    )
    found = theirs(input_ids=torch.tensor([ids])).logits.item()
    assert found == pytest.approx(cut, abs=1e-5) and abs(found - whole) > 1e-3


def test_padding_on_either_side_with_any_token_changes_no_reward(model, rows):
    ids = rows[0][1]
    alone = model(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.bool))
    for filler in (0, 5, ids[-1]):
        for left, right in ((0, 9), (9, 0), (4, 5)):
            row = torch.tensor([[filler] * left + ids + [filler] * right])
            mask = torch.tensor([[False] * left + [True] * len(ids) + [False] * right])
            torch.testing.assert_close(model(row, mask), alone, atol=1e-5, rtol=1e-5)


def test_a_bias_in_the_head_gets_no_gradient_from_pairs(rows, course):
    model = RewardModel(copy.deepcopy(course[0]))
    model.head = torch.nn.Linear(128, 1)
    rewards = model(*reward_training.padded(rows[0], course[1].pad_token_id))
    bradley_terry_loss(rewards[:2], rewards[2:]).backward()
    assert abs(model.head.bias.grad.item()) < 1e-7 and model.head.weight.grad.abs().max() > 1e-3


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(2, 3), "bool"),
        (torch.ones(2, 4, dtype=torch.bool), r"shape \(2, 3\)"),
        (torch.tensor([[True, True, False], [False] * 3]), "row 1 has no real token"),
    ],
)
def test_a_mask_that_says_nothing_is_refused(mask, message):
    model = RewardModel(GPT(GPTConfig(vocab_size=5, context_length=4, d_model=4, n_heads=1, n_layers=1)))
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(2, 3, dtype=torch.long), mask)


# --- against TRL ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_margin", [False, True])
def test_the_loss_of_a_batch_is_trls(model, course, rows, tmp_path, with_margin):
    pairs = [(p, i, j) for p in range(3) for i, j in ((0, 1), (3, 2))]
    data = {
        "chosen_ids": [rows[p][i] for p, i, _ in pairs],
        "rejected_ids": [rows[p][j] for p, _, j in pairs],
    }
    margin = torch.linspace(0, 2, len(pairs)) if with_margin else None
    if with_margin:
        data["margin"] = margin.tolist()
    warnings.simplefilter("ignore")
    options = TRLConfig(
        str(tmp_path), per_device_train_batch_size=6, report_to="none", bf16=False, use_cpu=True,
        gradient_checkpointing=False, dataloader_num_workers=0, disable_tqdm=True,
    )  # fmt: skip
    theirs = reward_training.as_classifier(model, course[1])
    trainer = RewardTrainer(theirs, options, train_dataset=Dataset.from_dict(data), processing_class=course[1])
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(pairs))])
    loss = trainer.compute_loss(theirs, batch)
    rewards = model(batch["input_ids"], batch["attention_mask"].bool())
    torch.testing.assert_close(bradley_terry_loss(*rewards.chunk(2), margin), loss, atol=1e-6, rtol=1e-5)


# --- calibration ------------------------------------------------------------------------------------------------


def test_the_error_is_made_of_sklearns_calibration_curve():
    generator = torch.Generator().manual_seed(0)
    for n_bins in (1, 5, 10):
        p = torch.rand(500, generator=generator)
        outcomes = torch.rand(500, generator=generator) < p.sqrt()
        share, mean = calibration_curve(outcomes.numpy(), p.numpy(), n_bins=n_bins)
        counts = np.histogram(p.numpy(), bins=np.linspace(0, 1, n_bins + 1))[0]
        expected = (counts[counts > 0] * np.abs(share - mean)).sum() / 500
        assert expected_calibration_error(p, outcomes, n_bins) == pytest.approx(expected, abs=1e-6)


def test_a_calibrated_forecast_has_an_error_that_vanishes_with_the_number_of_pairs():
    generator = torch.Generator().manual_seed(0)
    errors = []
    for n in (200, 20_000):
        p = torch.rand(n, generator=generator)
        errors.append(expected_calibration_error(p, torch.rand(n, generator=generator) < p))
    assert errors[1] < 0.01 < errors[0] < 0.15
    assert expected_calibration_error(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([True, False, True])) == 0


@pytest.mark.parametrize(
    ("p", "outcomes", "n_bins"),
    [
        (torch.zeros(0), torch.zeros(0, dtype=torch.bool), 10),
        (torch.zeros(2), torch.zeros(3, dtype=torch.bool), 10),
        (torch.tensor([1.1]), torch.tensor([True]), 10),
        (torch.tensor([math.nan]), torch.tensor([True]), 10),
        (torch.tensor([0.5]), torch.tensor([True]), 0),
    ],
)
def test_calibration_refuses_what_is_no_forecast(p, outcomes, n_bins):
    with pytest.raises(ValueError, match=r"pair needs|outside 0 to 1|n_bins"):
        expected_calibration_error(p, outcomes, n_bins)


# --- length -----------------------------------------------------------------------------------------------------


def test_the_slope_is_that_of_sklearns_regression_with_a_constant_for_each_prompt():
    generator = torch.Generator().manual_seed(0)
    lengths = 90 + 20 * torch.randn(30, 4, generator=generator) + 30 * torch.randn(30, 1, generator=generator)
    rewards = 0.03 * lengths + torch.randn(30, 4, generator=generator) + torch.randn(30, 1, generator=generator)
    dummies = np.repeat(np.eye(30), 4, axis=0)
    design = np.column_stack([lengths.reshape(-1).numpy(), dummies])
    slope = LinearRegression(fit_intercept=False).fit(design, rewards.reshape(-1).numpy()).coef_[0]
    found = length_controlled_reward(rewards, lengths)
    expected = rewards - slope * (lengths - lengths.mean(dim=1, keepdim=True))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.mean(dim=1), rewards.mean(dim=1))
    torch.testing.assert_close(length_controlled_reward(found, lengths), found, atol=1e-4, rtol=1e-4)


def test_length_control_refuses_what_it_cannot_use():
    for rewards, lengths in ((torch.zeros(3), torch.zeros(3)), (torch.zeros(2, 2), torch.zeros(2, 1))):
        with pytest.raises(ValueError, match="prompt, reply"):
            length_controlled_reward(rewards, lengths)
    with pytest.raises(ValueError, match="finite"):
        length_controlled_reward(torch.full((2, 2), math.nan), torch.zeros(2, 2))


# --- the training, the study, and the stored model ---------------------------------------------------------------


def test_looked_up_and_fused_blocks_give_the_rewards_and_gradients_of_the_whole_model(model, course, rows):
    pad_id = course[1].pad_token_id
    frozen = reward_training.FrozenStart(reward_training.fuse_right_padded(copy.deepcopy(course[0])), rows, pad_id)
    fast = RewardModel(frozen)
    fast.head.load_state_dict(model.head.state_dict())
    assert [list(map(len, row)) for row in frozen.rows] == [list(map(len, row)) for row in rows]
    found = []
    for one, its_rows in ((model, rows), (fast, frozen.rows)):
        reward_training.freeze_first_blocks(one)
        rewards = one(*reward_training.padded(sum(its_rows, []), pad_id if one is model else 0))
        rewards.square().sum().backward()
        gradients = {name: p.grad for name, p in one.named_parameters() if p.requires_grad}
        found.append({"rewards": rewards.detach()} | gradients)
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, atol=1e-5, rtol=1e-3, msg=name)


def test_training_moves_only_what_is_not_frozen_and_lowers_the_loss(model, course, rows):
    pad_id = course[1].pad_token_id
    frozen = reward_training.FrozenStart(reward_training.fuse_right_padded(copy.deepcopy(course[0])), rows, pad_id)
    small = RewardModel(frozen)
    reward_training.freeze_first_blocks(small)
    before = {name: p.detach().clone() for name, p in small.named_parameters()}
    pairs = [Pair(p, i, j) for p in range(3) for i, j in ((0, 1), (1, 2), (2, 3))]
    config = reward_training.RewardConfig(epochs=12, batch_size=2)
    losses = list(reward_training.train_reward(small, frozen.rows, pairs, config, pad_id=0))
    assert len(losses) == 24 and sum(losses[-4:]) < 0.5 * sum(losses[:4])
    moved = {name for name, p in small.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name, p in small.named_parameters() if p.requires_grad}
    assert all(name.startswith(("trunk.blocks.2.", "trunk.blocks.3.", "trunk.final_norm.", "head.")) for name in moved)


def test_the_stored_model_is_small_and_orders_held_out_stories_better_than_chance():
    assert reward_training.STORED.stat().st_size < 900_000
    model, tokenizer = reward_training.load_reward_model()
    reward_training.fuse_right_padded(model.trunk)
    asked = told("validation")[:60]
    rewards = reward_training.rewards_of(model, reward_training.token_rows(tokenizer, asked), tokenizer.pad_token_id)
    scores = reward_study.scores_of(asked)
    pairs = make_preference_pairs([row.texts for row in asked], scores.tolist())
    right = sum(float(rewards[p, i] > rewards[p, j]) for p, i, j in pairs) / len(pairs)
    assert not model.training and right > 0.58


def test_a_file_that_is_no_reward_model_is_refused(monkeypatch, tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "other.safetensors"
    save_file({"trunk.final_norm.weight": torch.ones(128)}, path)
    monkeypatch.setattr(reward_training, "STORED", path)
    with pytest.raises(ValueError, match="no head"):
        reward_training.load_reward_model()


def test_the_stored_study_is_of_the_settings_that_it_names():
    study = reward_study.load()
    for part, settings_ in reward_study.PARTS.items():
        results = study["parts"][part]["results"]
        assert len(results) == len(settings_) * len(reward_study.SEEDS)
        for (name, prompts, noise, bias, _), result in zip(
            [setting for setting in settings_ for _ in reward_study.SEEDS], results, strict=True
        ):
            assert (result["setting"], result["prompts"], result["noise"], result["length_bias"]) == (
                name, prompts, noise, bias,
            )  # fmt: skip
            assert np.shape(result["rewards"]) == (300, 4) and np.isfinite(result["rewards"]).all()
    assert len(json.dumps(study)) < 300_000


def test_balanced_pairs_are_about_equally_long():
    asked = told("validation")[:30]
    lengths = reward_study.lengths_of(asked)
    pairs = make_preference_pairs([row.texts for row in asked], reward_study.scores_of(asked).tolist())
    kept = reward_study.balanced(pairs, lengths)
    assert 0 < len(kept) < len(pairs) and set(kept) <= set(pairs)
    assert all(abs(lengths[p, i] - lengths[p, j]) <= reward_study.BALANCED for p, i, j in kept)
    assert lengths[0, 0] == len(asked[0].texts[0].split())
    assert reward_study.scores_of(asked)[0, 0] == pytest.approx(true_score(asked[0].prompt, asked[0].texts[0]).total)


def test_the_stored_weights_are_those_that_are_trained(course):
    model = RewardModel(copy.deepcopy(course[0]))
    reward_training.freeze_first_blocks(model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    stored = load_file(reward_training.STORED)
    assert stored.keys() == trained.keys()
    assert all(stored[name].shape == p.shape and stored[name].dtype == torch.float16 for name, p in trained.items())
