"""Week 6's lesson 03: the losses against TRL and the papers, the training loop, the stored study, the aligned model."""

import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from benchmarks.dpo import finished, trl_trainer
from shared.models import course_folder
from week1_decoder.solutions.decoder import GPT, GPTConfig
from week2_pretraining.solutions.optimization import warmup_cosine_lr
from week2_pretraining.solutions.pretraining import load_pretrained
from week4_finetuning.chat import STOP
from week4_finetuning.sft import as_transformers
from week6_rlhf import dpo_study, dpo_training
from week6_rlhf.dpo_training import DPOConfig, Preference, batches_of, course_pairs, pair_log_probs, train
from week6_rlhf.policy import reply_log_probs
from week6_rlhf.preferences import true_score
from week6_rlhf.samples import told
from week6_rlhf.solutions.dpo import (
    dpo_loss,
    frozen_reference,
    implicit_rewards,
    ipo_loss,
    sequence_log_probs,
)


@pytest.fixture(scope="module")
def instruct():
    return load_pretrained(course_folder("instruct"), GPT)


@pytest.fixture(scope="module")
def pairs(instruct):
    return course_pairs(instruct[1], replace(DPOConfig(), noise=0.0))


@pytest.fixture(scope="module")
def finished_pairs(instruct, pairs):
    return finished(pairs, instruct[1].convert_tokens_to_ids(STOP))


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return GPT(GPTConfig(vocab_size=11, context_length=16, d_model=8, n_heads=2, n_layers=1))


TINY_PAIRS = [Preference([1, 2], [3, 4, 5], [6]), Preference([1], [7, 8], [9, 3, 2, 4]), Preference([5], [2], [3, 3])]


def log_probs(batch=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [-50 + 5 * torch.randn(batch, generator=generator) for _ in range(4)]


# --- the library -------------------------------------------------------------------------------------------------


def test_log_probs_equal_the_loss_of_transformers_times_its_tokens(instruct, pairs):
    model, tokenizer = instruct
    theirs = as_transformers(model, tokenizer)
    for pair in pairs[:2]:
        token_ids = torch.tensor([pair.prompt + pair.chosen])
        labels = token_ids.clone()
        labels[:, : len(pair.prompt)] = -100
        with torch.no_grad():
            ours = sequence_log_probs(model(token_ids), labels)
            loss = theirs(token_ids, labels=labels).loss
        torch.testing.assert_close(ours[0], -loss * len(pair.chosen), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("loss_type", "settings", "ours"),
    [
        ("sigmoid", {"beta": 0.3}, lambda *p: dpo_loss(*p, beta=0.3)),
        # TRL's `aot` sorts the batch's margins before the conservative loss: with one pair there is nothing to sort
        ("aot", {"beta": 0.3, "label_smoothing": 0.2}, lambda *p: dpo_loss(*p, beta=0.3, label_smoothing=0.2)),
    ],
)
def test_the_losses_equal_trls_on_the_same_batch(instruct, finished_pairs, tmp_path, loss_type, settings, ours):
    model, tokenizer = instruct
    batch = finished_pairs[: 1 if loss_type == "aot" else 3]
    trainer = trl_trainer(
        as_transformers(model, tokenizer),
        tokenizer,
        batch,
        tmp_path,
        loss_type=[loss_type],
        per_device_train_batch_size=3,
        **settings,
    )
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for theirs, parameter in ((trainer.model.transformer.wte.weight, moved.token_embedding.weight),):
            noise = 0.01 * torch.randn(theirs.shape, generator=torch.Generator().manual_seed(0))
            theirs += noise
            parameter += noise
        expected = trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader())))
        found = ours(*pair_log_probs(moved, batch, 0), *pair_log_probs(model, batch, 0))
    assert abs(found.item() - math.log(2)) > 1e-3  # the policy has moved, so the test says something
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_ipo_equals_trls_once_the_log_probabilities_are_averaged_over_tokens(instruct, finished_pairs, tmp_path):
    model, tokenizer = instruct
    batch = finished_pairs[:3]
    trainer = trl_trainer(
        as_transformers(model, tokenizer),
        tokenizer,
        batch,
        tmp_path,
        loss_type=["ipo"],
        beta=0.5,
        per_device_train_batch_size=3,
    )
    with torch.no_grad():
        trainer.model.transformer.wte.weight *= 1.05
        moved = copy.deepcopy(model)
        moved.token_embedding.weight *= 1.05
        expected = trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader())))
        lengths = [torch.tensor([len(getattr(pair, side)) for pair in batch]) for side in ("chosen", "rejected")] * 2
        found = [*pair_log_probs(moved, batch, 0), *pair_log_probs(model, batch, 0)]
        averaged = [one / length for one, length in zip(found, lengths, strict=True)]
    torch.testing.assert_close(ipo_loss(*averaged, tau=0.5), expected, rtol=1e-5, atol=1e-5)
    assert abs(ipo_loss(*found, tau=0.5) - expected) > 0.1  # the paper's sums are another loss


def test_twenty_steps_equal_twenty_of_trl(instruct, finished_pairs, tmp_path):
    """Losses to 1e-4; the weights differ by less than 1 % of the way that they went.

    Both are float32 and add up in another order. A bias of the keys has a gradient of 0 but for rounding, which Adam
    scales up: so weights cannot be compared one by one.
    """
    model, tokenizer = instruct
    config = replace(DPOConfig(), steps=20, batch_size=2, max_lr=1e-4)
    shorter = sorted(finished_pairs, key=lambda pair: len(pair.chosen) + len(pair.rejected))[:24]
    order = [shorter[i] for batch in batches_of(len(shorter), config) for i in batch]
    theirs = as_transformers(model, tokenizer).train()
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=config.max_lr, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = LambdaLR(optimizer, lambda step: warmup_cosine_lr(step, 1.0, int(config.warmup * 20), 20))
    trainer = trl_trainer(
        theirs,
        tokenizer,
        order,
        tmp_path,
        per_device_train_batch_size=config.batch_size,
        max_steps=20,
        beta=config.beta,
        max_grad_norm=config.max_norm,
    )
    trainer.optimizer, trainer.lr_scheduler = optimizer, schedule
    trainer.train()
    expected = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    policy = copy.deepcopy(model)
    found = [step["loss"] for step in train(policy, model, shorter, config, tokenizer.pad_token_id)]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=0, atol=1e-4)
    assert found[-1] < 0.69
    before, ours = (as_transformers(one, tokenizer).state_dict() for one in (model, policy))
    apart = sum((ours[name] - weight).square().sum() for name, weight in trainer.model.state_dict().items()).sqrt()
    moved = sum((ours[name] - weight).square().sum() for name, weight in before.items()).sqrt()
    assert apart < 0.01 * moved


# --- what the paper says -----------------------------------------------------------------------------------------


def test_the_implicit_reward_of_the_best_policy_is_the_reward_up_to_a_constant():
    generator = torch.Generator().manual_seed(1)
    reference, reward, beta = (
        torch.rand(7, generator=generator).log_softmax(0),
        torch.randn(7, generator=generator),
        0.3,
    )
    best = (reference + reward / beta).log_softmax(0)  # eq. 4
    found = implicit_rewards(best, reference, beta)
    torch.testing.assert_close(found - found[0], reward - reward[0], rtol=1e-4, atol=1e-5)


def test_the_gradient_is_the_papers_with_its_weight():
    policy = [one.requires_grad_(True) for one in log_probs()[:2]]
    reference, beta = log_probs(seed=1)[:2], 0.3
    dpo_loss(*policy, *reference, beta=beta).backward()
    wrong = torch.sigmoid(
        implicit_rewards(policy[1], reference[1], beta) - implicit_rewards(policy[0], reference[0], beta)
    )
    torch.testing.assert_close(policy[0].grad, -beta * wrong / 6)
    torch.testing.assert_close(policy[1].grad, beta * wrong / 6)


def test_the_conservative_loss_is_least_where_the_model_believes_in_one_minus_epsilon():
    margins = torch.linspace(-10, 10, 2001)
    zero = torch.zeros(1)
    losses = torch.stack([dpo_loss(zero + m, zero, zero, zero, beta=1.0, label_smoothing=0.2) for m in margins])
    best = margins[losses.argmin()]
    assert torch.sigmoid(best).item() == pytest.approx(0.8, abs=2e-3)


@pytest.mark.parametrize("loss", [dpo_loss, ipo_loss])
def test_an_answers_prompt_and_a_shift_of_both_change_nothing(loss):
    policy_chosen, policy_rejected, reference_chosen, reference_rejected = log_probs()
    torch.testing.assert_close(
        loss(policy_chosen - 7, policy_rejected - 7, reference_chosen + 3, reference_rejected + 3),
        loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected),
    )


@pytest.mark.parametrize("margin", [1e4, -1e4, 1e30, -1e30])
def test_the_loss_and_its_gradient_are_finite_for_any_margin(margin):
    policy = torch.tensor([margin], requires_grad=True)
    loss = dpo_loss(policy, torch.zeros(1), torch.zeros(1), torch.zeros(1))
    loss.backward()
    assert loss.isfinite() and policy.grad.isfinite().all()


def test_bad_input_says_what_was_expected():
    with pytest.raises(ValueError, match="row 1 has no label"):
        sequence_log_probs(torch.zeros(2, 3, 4), torch.tensor([[-100, 1, 2], [3, -100, -100]]))
    with pytest.raises(ValueError, match="need labels"):
        sequence_log_probs(torch.zeros(2, 3, 4), torch.zeros(2, 2, dtype=torch.long))
    for beta in (0.0, -1.0, math.nan):
        for loss in (dpo_loss, ipo_loss):
            with pytest.raises(ValueError, match="above 0"):
                loss(*log_probs(), beta)
    with pytest.raises(ValueError, match="label_smoothing"):
        dpo_loss(*log_probs(), label_smoothing=0.5)
    with pytest.raises(ValueError, match="one for each answer"):
        dpo_loss(*(one[:, None] for one in log_probs()))


# --- the loop ----------------------------------------------------------------------------------------------------


def test_the_first_step_sees_ln_2_and_the_loss_falls(tiny):
    config = replace(DPOConfig(), steps=30, batch_size=3, max_lr=1e-2)
    reference = frozen_reference(tiny)
    before = copy.deepcopy(reference.state_dict())
    steps = list(train(tiny, reference, TINY_PAIRS, config, 0))
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert steps[-1]["loss"] < 0.5 and steps[-1]["accuracy"] == 1.0
    assert not tiny.training
    assert all(torch.equal(before[name], weight) for name, weight in reference.state_dict().items())
    assert steps[-1]["margin"] == pytest.approx(0.1 * (steps[-1]["chosen"] - steps[-1]["rejected"]), abs=1e-5)


@pytest.mark.parametrize("changed", [{"loss": "ipo", "beta": 0.5}, {"sft_weight": 1.0}, {"label_smoothing": 0.1}])
def test_the_other_losses_train_too(tiny, changed):
    config = replace(DPOConfig(), steps=20, batch_size=3, max_lr=1e-2, **changed)
    steps = list(train(tiny, frozen_reference(tiny), TINY_PAIRS, config, 0))
    assert steps[-1]["loss"] < steps[0]["loss"] and steps[-1]["margin"] > 0


def test_policy_and_reference_as_one_object_are_refused(tiny):
    shell = GPT(tiny.config)
    shell.token_embedding = tiny.token_embedding  # another object that shares one weight
    for reference in (tiny, copy.copy(tiny), shell):
        with pytest.raises(ValueError, match="share their weights"):
            next(train(tiny, reference, TINY_PAIRS, DPOConfig(), 0))


def test_pairs_that_prefer_nothing_are_refused(tiny):
    good = TINY_PAIRS[0]
    for bad, message in (
        ([], "no pairs"),
        ([good, Preference([1], [2, 3], [2, 3])], "pair 1: the two answers are the same"),
        ([Preference([1], [], [2])], "pair 0: the chosen answer is empty"),
        ([Preference([1], [2], [])], "pair 0: the rejected answer is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            next(train(tiny, frozen_reference(tiny), bad, DPOConfig(), 0))


def test_log_probs_of_pairs_do_not_depend_on_padding_and_equal_those_of_replies(tiny):
    with torch.no_grad():
        together = pair_log_probs(tiny, TINY_PAIRS, 0)
    for side, name in enumerate(("chosen", "rejected")):
        alone = [reply_log_probs(tiny, [(pair.prompt, getattr(pair, name))], 0)[0] for pair in TINY_PAIRS]
        torch.testing.assert_close(together[side], torch.stack(alone), rtol=1e-5, atol=1e-5)


def test_each_round_reads_each_pair_once():
    batches = batches_of(10, replace(DPOConfig(), steps=5, batch_size=4))
    order = [i for batch in batches for i in batch]
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert order[:10] != order[10:]


def test_the_pairs_prefer_what_is_truly_preferred_but_for_the_noise():
    stories = told("train")
    clean, noisy = (dpo_training.best_and_worst(stories, noise, seed=0) for noise in (0.0, 0.2))
    for one, chosen, rejected in clean[:200]:
        scores = [true_score(one.prompt, text).total for text in one.texts]
        assert scores[chosen] == max(scores) > min(scores) == scores[rejected]
    turned = sum(a[1:] == b[:0:-1] for a, b in zip(clean, noisy, strict=True)) / len(clean)
    assert turned == pytest.approx(0.2, abs=0.04)
    assert dpo_training.best_and_worst(stories, 0.2, seed=0) == noisy


def test_the_module_runs_and_what_it_stores_loads_in_transformers(tmp_path, monkeypatch):
    monkeypatch.setattr(dpo_training, "told", lambda split: told(split)[:8])
    dpo_training.main(["--steps", "2", "--batch-size", "2", "--out", str(tmp_path)])
    about = json.loads((tmp_path / "training.json").read_text())
    assert about["config"]["steps"] == 2 and len(about["loss"]) == 2
    assert about["loss"][0] == pytest.approx(math.log(2), abs=1e-4)
    model, tokenizer = load_pretrained(tmp_path, GPT)
    token_ids = torch.tensor([tokenizer("Once upon a time").input_ids])
    with torch.no_grad():
        theirs = as_transformers(model, tokenizer)(token_ids).logits
        torch.testing.assert_close(model(token_ids), theirs, rtol=1e-4, atol=1e-4)


# --- what is stored ----------------------------------------------------------------------------------------------


def test_repeated_counts_runs_that_stood_before():
    assert dpo_study.repeated(["a b c d", "a b c d"]) == 0
    assert dpo_study.repeated(["a b c d a b c d"]) == pytest.approx(1 / 5)
    assert dpo_study.repeated(["a"]) == 0


def test_the_study_has_what_the_lesson_reads():
    study = dpo_study.load()
    assert study.keys() == dpo_study.PARTS.keys()
    sweep = study["sweep"]
    assert {(one["config"]["beta"], one["config"]["seed"]) for one in sweep} == {
        (beta, seed) for beta in dpo_study.BETAS for seed in dpo_study.SEEDS
    }
    for one in [*sweep, *study["variants"], *study["aligned"]]:
        assert len(one["score"]) == len(one["log_ratio"]) >= dpo_study.N_ASKED
    (best_of_n,) = study["best_of_n"]
    assert {len(scores) for scores in best_of_n["scores"]} == {8}
    stored = [[true_score(one.prompt, text).total for text in one.texts] for one in told("validation")]
    torch.testing.assert_close(
        torch.tensor([scores[:4] for scores in best_of_n["scores"]]), torch.tensor(stored), rtol=0, atol=1e-3
    )


def test_the_aligned_model_is_the_one_that_was_measured_and_is_preferred():
    folder = course_folder("aligned")
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert size <= 2.45e6 and (folder / "model.safetensors").stat().st_size <= 2.3e6
    about = json.loads((folder / "training.json").read_text())
    assert about["config"] == dpo_study.asdict(DPOConfig())
    scores = {one["setting"]: torch.tensor(one["score"]) for one in dpo_study.load()["aligned"]}
    assert len(scores["aligned"]) >= 300
    intervals = {
        name: (s.mean() - 2 * s.std() / len(s) ** 0.5, s.mean() + 2 * s.std() / len(s) ** 0.5)
        for name, s in scores.items()
    }
    assert intervals["aligned"][0] > intervals["instruct"][1]
