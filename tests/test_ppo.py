"""Week 6's lesson 02: the estimators, rewards, advantages and losses against definitions and TRL, and the loop."""

import copy
import itertools
import math
from dataclasses import replace
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from trl.experimental.ppo.ppo_trainer import masked_mean, masked_whiten
from trl.trainer.utils import nanstd

from shared.models import course_folder
from week1_decoder.solutions.decoder import GPT, GPTConfig
from week2_pretraining.solutions.pretraining import load_pretrained
from week6_rlhf import ppo_study, ppo_training
from week6_rlhf.policy import encode
from week6_rlhf.ppo_training import PolicyWithValue, PPOConfig, train, whiten
from week6_rlhf.preferences import prompts
from week6_rlhf.solutions.ppo import (
    gae,
    group_advantages,
    kl_penalty,
    ppo_policy_loss,
    ppo_value_loss,
    token_rewards,
)
from week6_rlhf.trl_steps import grpo_trainer, ppo_step


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


# --- the KL estimators --------------------------------------------------------------------------------------------


def two_distributions(seed, n=7):
    generator = drawn(seed)
    return (torch.randn(n, generator=generator, dtype=torch.float64).log_softmax(0) for _ in range(2))


@pytest.mark.parametrize("seed", range(5))
def test_k1_and_k3_have_the_kl_as_their_mean_and_k2_does_not(seed):
    log_p, log_q = two_distributions(seed)
    p, kl = log_p.exp(), (log_p.exp() * (log_p - log_q)).sum()
    means = {kind: (p * kl_penalty(log_p, log_q, kind)).sum() for kind in ("k1", "k2", "k3")}
    torch.testing.assert_close(means["k1"], kl)
    torch.testing.assert_close(means["k3"], kl)
    assert abs(means["k2"] - kl) > 1e-4 and (kl_penalty(log_p, log_q, "k3") >= 0).all()


def test_near_the_reference_k2_and_k3_are_half_the_square_and_vary_less_than_k1():
    log_q = torch.randn(50, generator=drawn(), dtype=torch.float64).log_softmax(0)
    log_p = (log_q + 0.05 * torch.randn(50, generator=drawn(1), dtype=torch.float64)).log_softmax(0)
    p = log_p.exp()
    values = {kind: kl_penalty(log_p, log_q, kind) for kind in ("k1", "k2", "k3")}
    std = {kind: (p * (v - (p * v).sum()).square()).sum().sqrt().item() for kind, v in values.items()}
    assert std["k2"] < std["k1"] / 10 and std["k3"] < std["k1"] / 10
    torch.testing.assert_close((p * values["k2"]).sum(), (p * values["k3"]).sum(), rtol=0.05, atol=0)


def test_as_a_loss_k1_has_no_gradient_on_average_and_k2_has_that_of_the_kl():
    scores, log_q = torch.randn(6, generator=drawn(2), dtype=torch.float64), next(two_distributions(3, 6))
    scores.requires_grad_()

    def gradient(make):
        log_p = scores.log_softmax(0)
        return torch.autograd.grad(make(log_p), scores)[0]

    def mean_gradient(kind):  # the draws do not depend on the scores: what a loss of samples sees
        return gradient(lambda log_p: (log_p.exp().detach() * kl_penalty(log_p, log_q, kind)).sum())

    torch.testing.assert_close(mean_gradient("k1"), torch.zeros(6, dtype=torch.float64))
    torch.testing.assert_close(mean_gradient("k2"), gradient(lambda log_p: (log_p.exp() * (log_p - log_q)).sum()))
    torch.testing.assert_close(mean_gradient("k3"), gradient(lambda log_p: (log_q.exp() * (log_q - log_p)).sum()))

    def corrected(log_p):  # TRL's GRPO: the ratio in front, whose value is 1
        ratio = (log_p - log_p.detach()).exp()
        return (log_p.exp().detach() * ratio * kl_penalty(log_p, log_q, "k3")).sum()

    torch.testing.assert_close(gradient(corrected), gradient(lambda log_p: (log_p.exp() * (log_p - log_q)).sum()))


# --- advantages ---------------------------------------------------------------------------------------------------


def mixed_advantage(rewards, values, dones, gamma, lam, next_value, t):
    """Eq. 14 to 16 the long way, in Python: the average of all n-step advantages, with weights (1 - λ) λ^(n - 1).

    Where the episode or the row ends after n steps, all the weight that is left goes there.
    """
    found, total, weight, after = 0.0, 0.0, 1.0, 0.0
    for n in itertools.count(1):
        s = t + n - 1
        total += gamma ** (n - 1) * rewards[s]
        last = dones[s] or s == len(rewards) - 1
        after = 0.0 if dones[s] else (next_value if s == len(rewards) - 1 else values[s + 1])
        share = weight if last else weight * (1 - lam)
        found += share * (total + gamma**n * after - values[t])
        weight -= share
        if last:
            return found
    return None


@pytest.mark.parametrize(("gamma", "lam"), [(1, 1), (1, 0.95), (0.9, 0.7), (0.5, 0), (0, 0.5), (1, 0)])
def test_gae_is_the_average_of_all_n_step_advantages(gamma, lam):
    generator = drawn(4)
    rewards, values = (torch.randn(6, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    dones, next_value = torch.rand(6, 9, generator=generator) < 0.25, torch.randn(6, generator=generator).double()
    advantages, returns = gae(rewards, values, dones, gamma, lam, next_value)
    rows = zip(*(tensor.tolist() for tensor in (rewards, values, dones, next_value)), strict=True)
    expected = [[mixed_advantage(r, v, d, gamma, lam, nv, t) for t in range(9)] for r, v, d, nv in rows]
    torch.testing.assert_close(advantages, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(returns, advantages + values)


def test_without_discount_the_advantage_is_return_minus_value_and_right_values_leave_none():
    generator = drawn(5)
    rewards, dones = torch.randn(3, 8, generator=generator), torch.zeros(3, 8, dtype=torch.bool)
    dones[:, [3, 7]] = True
    to_come = torch.cat([part.flip(1).cumsum(1).flip(1) for part in rewards.split(4, dim=1)], dim=1)
    values, next_value = torch.randn(3, 8, generator=generator), torch.full((3,), 1e6)
    advantages, returns = gae(rewards, values, dones, 1.0, 1.0, next_value)
    torch.testing.assert_close(returns, to_come)
    torch.testing.assert_close(advantages, to_come - values)
    assert gae(rewards, to_come, dones, 1.0, 0.6, next_value)[0].abs().max() < 1e-5


def test_a_row_of_two_episodes_equals_two_rows_and_a_row_cut_in_two_equals_one():
    generator = drawn(6)
    rewards, values = (torch.randn(4, 10, generator=generator) for _ in range(2))
    dones, end = torch.zeros(4, 10, dtype=torch.bool), torch.zeros(4)
    dones[:, 5] = dones[:, 9] = True
    together = gae(rewards, values, dones, 0.9, 0.8, end)[0]
    apart = [gae(rewards[:, s], values[:, s], dones[:, s], 0.9, 0.8, end)[0] for s in (slice(6), slice(6, 10))]
    torch.testing.assert_close(together, torch.cat(apart, dim=1))
    one_step = gae(rewards, values, dones, 0.9, 0.0, end)[0]  # with λ = 0 a cut that bootstraps loses nothing
    first = gae(rewards[:, :3], values[:, :3], dones[:, :3], 0.9, 0.0, values[:, 3])[0]
    torch.testing.assert_close(first, one_step[:, :3])


@pytest.mark.parametrize("name", ["rewards", "values", "next_value"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_refused_with_its_place(name, bad):
    given = {"rewards": torch.zeros(2, 3), "values": torch.zeros(2, 3), "next_value": torch.zeros(2)}
    given[name][1] = bad
    with pytest.raises(ValueError, match=rf"{name}\[1.*\] is (nan|inf)"):
        gae(dones=torch.zeros(2, 3, dtype=torch.bool), gamma=1, lam=1, **given)


# --- rewards ------------------------------------------------------------------------------------------------------


def test_the_rewards_of_a_reply_add_up_to_its_score_less_beta_kl():
    generator = drawn(7)
    mask = torch.arange(9) < torch.tensor([[9], [4], [1]])
    mask[:, :2] &= torch.tensor([[False], [True], [True]])
    kl, scores = torch.randn(3, 9, generator=generator), torch.randn(3, generator=generator)
    rewards = token_rewards(scores, kl, mask, torch.tensor([True, True, False]), 0.3, 2.0)
    torch.testing.assert_close(rewards.sum(dim=1), scores - 0.3 * (kl * mask).sum(dim=1) - torch.tensor([0, 0, 2.0]))
    assert not rewards[~mask].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": torch.tensor([0.0, math.nan])}, r"scores\[1\] is nan"),
        ({"mask": torch.tensor([[True] * 3, [False] * 3])}, "reply 1 has no token"),
        ({"kl": torch.zeros(2, 4)}, "shapes must be the same"),
        ({"ended": torch.ones(3, dtype=torch.bool)}, "shapes must be the same"),
    ],
)
def test_what_token_rewards_refuses(change, message):
    given = {"scores": torch.zeros(2), "kl": torch.zeros(2, 3), "mask": torch.ones(2, 3, dtype=torch.bool)}
    with pytest.raises(ValueError, match=message):
        token_rewards(**{**given, "ended": torch.ones(2, dtype=torch.bool), **change}, beta=0.1)


# --- losses -------------------------------------------------------------------------------------------------------


def test_where_the_clip_holds_there_is_no_gradient_and_elsewhere_it_is_the_policy_gradient():
    ratio = torch.tensor([0.5, 0.79, 0.81, 1.0, 1.19, 1.21, 2.0])
    everywhere = torch.ones(1, 7, dtype=torch.bool)
    for advantage, held in ((1.0, ratio > 1.2), (-1.0, ratio < 0.8)):
        log_probs = ratio.log()[None].requires_grad_()
        ppo_policy_loss(log_probs, torch.zeros(1, 7), torch.full((1, 7), advantage), everywhere).backward()
        expected = torch.where(held, 0.0, -advantage * ratio / 7)
        torch.testing.assert_close(log_probs.grad[0], expected)


def test_at_the_first_step_the_loss_is_minus_the_mean_advantage():
    log_probs, advantages = -torch.rand(3, 4, generator=drawn()), torch.randn(3, 4, generator=drawn(1))
    mask = torch.rand(3, 4, generator=drawn(2)) < 0.7
    loss = ppo_policy_loss(log_probs, log_probs, advantages, mask)
    torch.testing.assert_close(loss, -masked_mean(advantages, mask))


@pytest.mark.parametrize("loss", [ppo_policy_loss, ppo_value_loss])
def test_what_the_losses_refuse(loss):
    zeros, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    for arguments, message in (
        ((zeros, zeros, zeros, mask, 0.0), "clip must be positive"),
        ((zeros, zeros, zeros, mask, math.nan), "clip must be positive"),
        ((zeros, zeros, zeros, mask & False), "no token"),
        ((zeros, zeros[:1], zeros, mask), "shapes must be the same"),
    ):
        with pytest.raises(ValueError, match=message):
            loss(*arguments)


def test_group_advantages_equal_trls_formula_and_equal_rewards_give_zeros():
    rewards = torch.randn(24, generator=drawn(3))
    rewards[8:12] = 0.3
    grouped = rewards.view(-1, 4)
    theirs = (rewards - torch.nanmean(grouped, dim=1).repeat_interleave(4)) / (
        nanstd(grouped, dim=1).repeat_interleave(4) + 1e-4
    )
    torch.testing.assert_close(group_advantages(rewards, 4), theirs)
    assert group_advantages(rewards, 4)[8:12].abs().max() < 1e-3
    torch.testing.assert_close(group_advantages(rewards + 7, 4, scale=False).view(-1, 4).sum(1), torch.zeros(6))
    with pytest.raises(ValueError, match="no whole number of groups of 5"):
        group_advantages(rewards, 5)


# --- TRL ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def course():
    model, tokenizer = load_pretrained(course_folder("instruct"), GPT)
    return model.eval(), tokenizer, AutoModelForCausalLM.from_pretrained(course_folder("instruct"))


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_a_whole_step_of_trls_ppo_has_our_kl_rewards_advantages_and_losses(course, kind):
    _, tokenizer, model = course
    asked = encode(tokenizer, prompts(6, seed=2))
    rollout, updates = ppo_step(
        model, tokenizer, asked, 16, 2, kl_estimator=kind, kl_coef=0.3, lam=0.9, gamma=0.98, num_mini_batches=2
    )
    real, states = ~rollout["padding_mask"], ~rollout["padding_mask_p1"]
    kl = kl_penalty(rollout["logprobs"], rollout["ref_logprobs"], kind)
    torch.testing.assert_close(kl, rollout["kl"])
    assert kl[real].abs().max() > 0.01
    rewards = token_rewards(rollout["scores"], kl, states, torch.ones(6, dtype=torch.bool), beta=0.3)
    torch.testing.assert_close(rewards, rollout["rewards"])
    nothing = torch.zeros_like(states)
    advantages, returns = gae(rewards, rollout["values"], nothing, 0.98, 0.9, torch.zeros(6))
    torch.testing.assert_close(returns, rollout["returns"])
    assert len(updates) == 4
    for update in updates:
        rows = torch.from_numpy(update_rows(update, returns))
        given = update["new_logprobs"], update["mb_logprobs"], update["mb_advantage"]
        torch.testing.assert_close(ppo_policy_loss(*given, real[rows]), update["pg_loss"])
        torch.testing.assert_close(update["mb_advantage"], masked_whiten(advantages, real)[rows] * real[rows])
        given = update["vpred"], update["mb_values"], update["mb_return"]
        torch.testing.assert_close(ppo_value_loss(*given, states[rows]), update["vf_loss"])


def update_rows(update, returns):
    """Which rows of the batch a minibatch has: those with these returns."""
    same = (update["mb_return"][:, None] == returns[None]).all(dim=-1)
    return same.int().argmax(dim=1).numpy()


def test_whitening_equals_trls():
    advantages, mask = torch.randn(3, 5, generator=drawn()), torch.rand(3, 5, generator=drawn(1)) < 0.6
    ours, theirs = whiten(advantages, mask), masked_whiten(advantages, mask)
    torch.testing.assert_close(ours[mask], theirs[mask])


def test_trls_grpo_has_our_advantages_and_loss(course):
    _, tokenizer, model = course
    asked = encode(tokenizer, prompts(4, seed=3))

    def reward(given, replies):
        assert all(prompt in asked for prompt in given)
        return torch.tensor([float(len(set(reply))) for reply in replies])

    with TemporaryDirectory() as folder:
        settings = {"per_device_train_batch_size": 8, "num_iterations": 2, "beta": 0.1, "max_completion_length": 12}
        trainer = grpo_trainer(model, tokenizer, asked, reward, 4, folder, max_steps=2, **settings)
        batch = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
        with torch.no_grad():
            for parameter in trainer.model.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=drawn()))
        theirs = trainer._compute_loss(trainer.model, batch)
        token_ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        seen = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        length = batch["completion_ids"].shape[1]
        log_probs = trainer._get_per_token_logps_and_entropies(trainer.model, token_ids, seen, length)[0]
    mask = batch["completion_mask"].bool()
    scores = [float(len(set(row[real].tolist()))) for row, real in zip(batch["completion_ids"], mask, strict=True)]
    advantages = group_advantages(torch.tensor(scores), 4)
    torch.testing.assert_close(advantages, batch["advantages"])
    ours = ppo_policy_loss(log_probs, batch["old_per_token_logps"], advantages[:, None].expand(mask.shape), mask)
    kl = kl_penalty(log_probs, batch["ref_per_token_logps"], "k3")
    ratio = (log_probs - batch["old_per_token_logps"]).exp()
    ours = ours + 0.1 * (ratio * kl)[mask].mean()  # TRL: use_bias_correction_kl
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


# --- the loop -----------------------------------------------------------------------------------------------------


def test_the_policy_gives_the_models_log_probs_at_the_replys_tokens_and_zeros_elsewhere(course):
    model, _, _ = course
    token_ids = torch.randint(0, 2000, (3, 12), generator=drawn())
    mask = torch.arange(11) < torch.tensor([[11], [7], [3]])
    mask[:, :2] = False
    log_probs, values = PolicyWithValue(model)(token_ids, mask)
    with torch.no_grad():
        full = model(token_ids).log_softmax(dim=-1)[:, :-1].gather(2, token_ids[:, 1:, None])[..., 0]
    torch.testing.assert_close(log_probs.detach(), full * mask)
    assert not values.any() and values.shape == mask.shape


TINY = PPOConfig(iterations=4, replies=8, max_new_tokens=8, minibatch=4, lr=3e-3, lam=1.0)


def count_of_a_word(given, replies):
    """A reward that is quickly learnt: how often a frequent token stands in the reply."""
    return torch.tensor([float(sum(token == replies[0][0] for token in reply)) for reply in replies])


@pytest.mark.parametrize("group_size", [0, 4])
def test_the_loop_runs_leaves_the_reference_alone_and_gives_the_same_again(course, group_size):
    gpt, tokenizer, _ = course
    found = []
    for _ in range(2):
        model = PolicyWithValue(copy.deepcopy(gpt))
        reference = copy.deepcopy(model)
        before = {name: tensor.clone() for name, tensor in reference.state_dict().items()}
        config = replace(TINY, group_size=group_size)
        found.append(list(train(model, reference, count_of_a_word, tokenizer, config)))
        assert all(torch.equal(before[name], tensor) for name, tensor in reference.state_dict().items())
    assert found[0] == found[1] and len(found[0]) == TINY.iterations
    assert found[0][0]["kl"] == pytest.approx(0, abs=1e-3) and abs(found[0][-1]["kl"]) > 0.01


def test_a_policy_writes_more_of_the_tokens_that_it_is_paid_for(course):
    """A small model of random weights; paid are the tokens whose embedding begins above 0, about half of them."""
    torch.manual_seed(0)
    config = GPTConfig(vocab_size=len(course[1]), context_length=256, d_model=32, n_layers=1, n_heads=2)
    gpt = GPT(config).eval()
    with torch.no_grad():
        gpt.token_embedding.weight.mul_(10)  # so that its logits differ
    paid = gpt.token_embedding.weight[:, 0].detach().clone() > 0

    def share_paid(given, replies):
        return torch.stack([paid[torch.tensor(reply)].float().mean() for reply in replies])

    for seed in range(2):
        model = PolicyWithValue(copy.deepcopy(gpt))
        config = replace(TINY, iterations=8, replies=16, max_new_tokens=12, minibatch=8, lr=3e-2, beta=0.0, seed=seed)
        shares = [row["proxy"] for row in train(model, copy.deepcopy(model), share_paid, course[1], config)]
        assert sum(shares[-3:]) / 3 > sum(shares[:2]) / 2 + 0.1, shares


def test_the_loop_runs_the_learners_parts(monkeypatch):
    monkeypatch.setattr(ppo_training, "mine", lambda name: f"mine: {name}")
    for name in ppo_training.PARTS:
        monkeypatch.setattr(ppo_training, name, getattr(ppo_training, name))
    ppo_training.use_mine()
    assert ppo_training.gae == "mine: gae"


def test_no_dropout_or_other_state_stands_between_policy_and_reference(course):
    assert not any(isinstance(module, nn.Dropout) and module.p for module in course[0].modules())


# --- the stored study -----------------------------------------------------------------------------------------------


def test_the_stored_study_shows_that_the_proxy_gains_what_the_true_score_does_not():
    study = ppo_study.load()
    before = study["before"]

    def gain(run, part):  # in standard deviations of the instruct model's stories, on the same prompts
        change = torch.tensor(run["held_out"][part], dtype=torch.float32).mean() - torch.tensor(before[part]).mean()
        return (change / torch.tensor(before[part]).std()).item()

    assert study["runs"]["free"] and study["runs"].keys() <= ppo_study.PARTS.keys()
    for run in study["runs"]["free"]:
        assert run["config"]["beta"] == 0 and len(run["curve"]["proxy"]) == ppo_study.LONG.iterations
        assert gain(run, "proxy") > 0.7 and gain(run, "proxy") > gain(run, "total") + 0.5
        assert gain(run, "short") > 0.5 and gain(run, "faithful") < 0
    for part in study["runs"].keys() - {"free"}:
        for run in study["runs"][part]:
            assert run["curve"]["kl"][-1] < study["runs"]["free"][0]["curve"]["kl"][-1]


def test_a_run_that_is_stored_is_not_run_again(tmp_path, monkeypatch):
    path, ran = tmp_path / "study.json", []
    path.write_text('{"before": {}, "runs": {"free": [{"seed": 0}]}}')
    monkeypatch.setattr(ppo_study, "run", lambda config, part: ran.append((part, config.seed)) or {"seed": config.seed})
    ppo_study.main(["free", "leash"], path)
    assert ran == [("leash", 0), ("free", 1), ("leash", 1), ("free", 2), ("leash", 2)]
    assert [run["seed"] for run in ppo_study.load(path)["runs"]["free"]] == [0, 1, 2]
    with pytest.raises(SystemExit, match="no part is called x"):
        ppo_study.main(["x"], path)
