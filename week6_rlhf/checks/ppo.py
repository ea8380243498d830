"""What right answers of lesson 02 show, and the known mistakes."""

import torch

from shared.checking import observes, raised


def normal(rng, *shape):
    return torch.randn(*shape, generator=rng)


@observes(
    "kl_penalty",
    difficulty=1,
    minutes=10,
    hints=(
        "All three are functions of one number per token, log r = log q(x) - log p(x). The policy p drew the token.",
        "KL(p ‖ q) is the mean of log p - log q over tokens drawn from p: that is k1, and it is -log r.",
        "k1: `-log_r`. k2: half its square. k3: `log_r.exp() - 1 - log_r`, which is never negative.",
    ),
    mistakes={
        "The sign of k1 is turned: log q - log p rewards the policy for leaving the reference.": (
            "return -log_r",
            "return log_r",
        ),
        "The size of k1 is taken. A single estimate may be negative; only so is its mean right.": (
            "return -log_r",
            "return log_r.abs()",
        ),
        "k2 lacks its ½: near the reference it is twice the KL.": ("log_r.square() / 2", "log_r.square()"),
        "k3 is built on p / q instead of q / p. Its mean over draws of p is not the KL then.": (
            "(log_r.exp() - 1) - log_r",
            "((-log_r).exp() - 1) + log_r",
        ),
        "k3 lacks the term r - 1, so it is k1 again: right on average, and as noisy as before.": (
            "(log_r.exp() - 1) - log_r",
            "-log_r",
        ),
        "k3 lacks the - log r: the mean of r - 1 over draws of p is 0, so nothing of the KL is left.": (
            "(log_r.exp() - 1) - log_r",
            "log_r.exp() - 1",
        ),
        "k3 lacks the - 1: where policy and reference agree it is 1, and should be 0.": (
            "(log_r.exp() - 1) - log_r",
            "log_r.exp() - log_r",
        ),
    },
)
def check_kl_penalty(kl_penalty, rng):
    log_probs, reference = -2 + 0.7 * normal(rng, 2, 3), -2 + 0.7 * normal(rng, 2, 3)
    for kind in ("k1", "k2", "k3"):
        yield kind, kl_penalty(log_probs, reference, kind)
    for kind in ("k1", "k2", "k3"):
        yield f"{kind} where policy and reference agree", kl_penalty(log_probs, log_probs.clone(), kind)
    yield "k1 is the default", kl_penalty(log_probs[0], reference[0])
    far = torch.tensor([-0.1, -12.0, -3.0]), torch.tensor([-9.0, -0.5, -3.0])
    for kind in ("k1", "k2", "k3"):
        yield f"{kind} far apart", kl_penalty(*far, kind)
    policy = log_probs.clone().requires_grad_()
    yield "k3's gradient", torch.autograd.grad(kl_penalty(policy, reference, "k3").sum(), policy)[0]
    yield "a kind that does not exist is refused", raised(kl_penalty, log_probs, reference, "k4")
    yield "different shapes are refused", raised(kl_penalty, log_probs, reference[:1], "k1")


@observes(
    "token_rewards",
    difficulty=2,
    minutes=15,
    hints=(
        "Two things are added up: something small on every token of the reply, and the judgement at one place in each row.",
        "The last token of the reply is the last place where mask is True, not the last column. `torch.where` chooses "
        "numbers, where multiplying by a mask keeps nan.",
        "`places = torch.arange(time)`; the largest place where mask is True is the last one in each row; comparing `places` "
        "with it gives a mask with one True in each row.",
    ),
    mistakes={
        "The score is given at the last column: in a shorter row that is padding, which no token led to.": (
            "is_last = places == torch.where(mask, places, -1).amax(dim=1, keepdim=True)",
            "is_last = (places == mask.shape[1] - 1).expand_as(mask)",
        ),
        "The place of the last token is taken from the number of tokens: that is wrong where a prompt stands in front.": (
            "torch.where(mask, places, -1).amax(dim=1, keepdim=True)",
            "mask.sum(dim=1, keepdim=True) - 1",
        ),
        "The score is given at the reply's first token: the reward model has read the whole reply, so it comes at the end.": (
            "places == torch.where(mask, places, -1).amax(dim=1, keepdim=True)",
            "places == torch.where(mask, places, mask.shape[1]).amin(dim=1, keepdim=True)",
        ),
        "The score is given on every token: a long reply gets it many times over.": (
            "return rewards + is_last * judged[:, None]",
            "return rewards + mask * judged[:, None]",
        ),
        "The last token gets the score, and no KL penalty: it is a token like the others.": (
            "return rewards + is_last * judged[:, None]",
            "return torch.where(is_last, judged[:, None], rewards)",
        ),
        "The KL is added, not subtracted: the policy is paid for running away.": ("-beta * kl", "beta * kl"),
        "All of the KL is charged at the last token: the sum is right, but no token learns what it cost.": (
            "return rewards + is_last * judged[:, None]",
            "return is_last * (judged + rewards.sum(dim=1))[:, None]",
        ),
        "The KL of prompt and padding is charged too: where mask is False the reward is 0, even if kl is nan there.": (
            "torch.where(mask, -beta * kl, 0.0)",
            "-beta * kl",
        ),
        "The mask is multiplied in, which keeps what is nan on padding: nan times 0 is nan.": (
            "torch.where(mask, -beta * kl, 0.0)",
            "-beta * kl * mask",
        ),
        "β goes on the score instead of on the KL.": [
            ("-beta * kl", "-kl"),
            ("return rewards + is_last * judged[:, None]", "return rewards + beta * is_last * judged[:, None]"),
        ],
        "The penalty falls on replies that ended, not on those that were cut.": (
            "torch.where(ended, scores, scores - cut_penalty)",
            "torch.where(ended, scores - cut_penalty, scores)",
        ),
        "A reply that was cut gets no penalty: then it pays to go on until the limit.": (
            "torch.where(ended, scores, scores - cut_penalty)",
            "scores",
        ),
        "A cut reply gets the penalty instead of its score: it was to be judged as it stands, less the penalty.": (
            "torch.where(ended, scores, scores - cut_penalty)",
            "torch.where(ended, scores, -cut_penalty)",
        ),
    },
)
def check_token_rewards(token_rewards, rng):
    scores, ended = torch.tensor([2.0, -0.5, 1.25]), torch.tensor([True, False, True])
    kl = normal(rng, 3, 5).abs() + 0.1
    # a prompt in front, padding behind; a row that is full; a single token
    mask = torch.tensor([[0, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]]).bool()
    yield "one short row", token_rewards(scores[:1], kl[:1], mask[:1], ended[:1], 0.1)
    yield "three rows, one of them cut", token_rewards(scores, kl, mask, ended, 0.1)
    drawn = normal(rng, 3)
    yield "another penalty and β", token_rewards(drawn, kl, mask, ~ended, 0.7, 2.5)
    yield "the sum of each row", token_rewards(drawn, kl, mask, ended, 0.3).sum(dim=1)
    yield "without KL", token_rewards(scores, kl, mask, ended, 0.0)
    hole = torch.where(mask, kl, torch.nan)
    yield "nan where mask is False", token_rewards(scores, hole, mask, ended, 0.1)
    yield "a KL estimate that is negative", token_rewards(scores[1:], -kl[1:], mask[1:], ended[1:], 0.2)
    yield "a score that is nan is refused", raised(token_rewards, scores.log(), kl, mask, ended, 0.1)
    yield "a reply without tokens is refused", raised(token_rewards, scores, kl, mask & mask[:1], ended, 0.1)
    yield "different shapes are refused", raised(token_rewards, scores, kl[:, :4], mask, ended, 0.1)


@observes(
    "gae",
    difficulty=3,
    minutes=25,
    hints=(
        "Go from the last step to the first. Each advantage needs two things of the step after it: its value and its advantage.",
        "Keep `following_value` (next_value at first) and `following_advantage` (0 at first). Where dones[:, t] is True, "
        "neither of them counts at t.",
        "Let a number be 1 where the episode goes on and 0 where it is done. Both things of the step after are "
        "multiplied by it: the value inside δ, and the advantage behind γλ. Then both move one step back.",
    ),
    mistakes={
        "δ looks over the end of an episode: the value of the next episode's first state is counted for this one.": (
            "gamma * goes_on * following_value",
            "gamma * following_value",
        ),
        "The sum runs over the end of an episode: advantages of the next one leak into this one.": (
            "gamma * lam * goes_on * following_advantage",
            "gamma * lam * following_advantage",
        ),
        "dones is read one step late: dones[t] says that the episode ends *with* step t, so it cuts between t and t + 1.": (
            "goes_on = (~dones[:, t])",
            "goes_on = (~dones[:, (t + 1) % rewards.shape[1]])",
        ),
        "next_value is not used: a row that was cut in the middle of an episode counts as ended there.": (
            "following_value, following_advantage = next_value,",
            "following_value, following_advantage = torch.zeros_like(next_value),",
        ),
        "λ is missing: every advantage is the full return less the value, with all its noise.": (
            "gamma * lam * goes_on * following_advantage",
            "gamma * goes_on * following_advantage",
        ),
        "The sum is discounted by λ alone: each step back costs γλ.": (
            "gamma * lam * goes_on * following_advantage",
            "lam * goes_on * following_advantage",
        ),
        "λ also discounts the next value in δ: there it is γ alone.": (
            "gamma * goes_on * following_value",
            "gamma * lam * goes_on * following_value",
        ),
        "Only δ is returned: that is GAE with λ = 0, one step ahead.": (
            " + gamma * lam * goes_on * following_advantage",
            "",
        ),
        "The value of the state itself is not subtracted: that is a return, no advantage.": (
            "following_value - values[:, t]",
            "following_value",
        ),
        "The returns are the advantages, without the value: the value head is then trained on what it got wrong, not on what it should say.": (
            "return advantages, advantages + values",
            "return advantages, advantages.clone()",
        ),
        "The returns subtract the value a second time: they are advantage + value.": (
            "advantages + values",
            "advantages - values",
        ),
        "The loop runs forwards, so each step sees the advantage of the step before it, not of the one after.": (
            "in reversed(range(rewards.shape[1]))",
            "in range(rewards.shape[1])",
        ),
    },
)
def check_gae(gae, rng):
    rewards, values, next_value = normal(rng, 2, 5), normal(rng, 2, 5), 1 + normal(rng, 2).abs()
    running = torch.zeros(2, 5, dtype=torch.bool)
    middle = torch.tensor([[0, 1, 0, 0, 0], [0, 0, 0, 1, 1]]).bool()  # ends in the middle; one episode of a single step
    yield "three steps that were cut", gae(rewards[:1, :3], values[:1, :3], running[:1, :3], 0.9, 0.8, next_value[:1])
    ended = torch.tensor([[False, False, True]])
    yield "three steps that ended", gae(rewards[:1, :3], values[:1, :3], ended, 0.9, 0.8, next_value[:1])
    yield "episodes that end in the middle", gae(rewards, values, middle, 0.95, 0.6, next_value)
    yield "γ = λ = 1: the return less the value", gae(rewards, values, running, 1.0, 1.0, next_value)
    yield "λ = 0: one step ahead", gae(rewards, values, middle, 0.9, 0.0, next_value)
    yield "γ = 0: the reward less the value", gae(rewards, values, middle, 0.0, 0.9, next_value)
    sparse = torch.zeros(2, 5)
    sparse[:, -1] = torch.tensor([3.0, -2.0])
    yield "a reward at the end only", gae(sparse, values, running, 1.0, 0.95, torch.zeros(2))
    yield "one step", gae(rewards[:, :1], values[:, :1], middle[:, :1], 0.9, 0.5, next_value)
    yield "the second row alone", gae(rewards[1:], values[1:], middle[1:], 0.95, 0.6, next_value[1:])
    bad = rewards.clone()
    bad[1, 2] = torch.nan
    yield "a reward that is nan is refused", raised(gae, bad, values, middle, 0.9, 0.8, next_value)
    yield "a γ above 1 is refused", raised(gae, rewards, values, middle, 1.1, 0.8, next_value)
    yield "different shapes are refused", raised(gae, rewards, values[:, :4], middle, 0.9, 0.8, next_value)


def _gradient(loss_of, leaf):
    """The gradient of a loss with respect to its first argument."""
    leaf = leaf.clone().requires_grad_()
    return torch.autograd.grad(loss_of(leaf), leaf)[0]


MASK = torch.tensor([[1, 1, 1, 1, 0], [0, 1, 0, 0, 0], [1, 1, 0, 0, 0]]).bool()


@observes(
    "ppo_policy_loss",
    difficulty=2,
    minutes=20,
    hints=(
        "Take out the real tokens first; then there is no padding to think of. The ratio of two probabilities is exp of the "
        "difference of their logarithms.",
        "Two candidates: ratio times advantage, and clamped ratio times advantage. The paper maximises the smaller one; a loss "
        "is minimised.",
        "A tensor indexed with the mask is a vector of the real tokens. Of two such vectors `torch.min` takes the "
        "smaller number in each place; then one mean, and a minus sign.",
    ),
    mistakes={
        "The larger of the two is maximised: then the policy is paid most for just what the clip should stop.": (
            "-torch.min(",
            "-torch.max(",
        ),
        "Only the clipped objective is there, without the minimum: a ratio that went wrong gets no gradient to come back.": (
            "torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)",
            "(ratio.clamp(1 - clip, 1 + clip) * advantage)",
        ),
        "Nothing is clipped: that is a plain policy gradient, and no leash.": (
            "torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)",
            "(ratio * advantage)",
        ),
        "The ratio is only held from above: for a negative advantage the lower bound 1 - clip is the one that counts.": (
            "ratio.clamp(1 - clip, 1 + clip)",
            "ratio.clamp(max=1 + clip)",
        ),
        "The ratio is clamped to ± clip around 0, not around 1.": (
            "ratio.clamp(1 - clip, 1 + clip)",
            "ratio.clamp(-clip, clip)",
        ),
        "The ratio is upside down: the old probability stands over the new one.": (
            "log_probs[mask] - old_log_probs[mask]",
            "old_log_probs[mask] - log_probs[mask]",
        ),
        "exp is missing: the difference of the logarithms is not the ratio.": (".exp()", ""),
        "The sign is missing: the optimizer would make rewarded tokens less likely.": ("-torch.min(", "torch.min("),
        "The mean counts prompt and padding too, so the loss shrinks as they grow.": [
            ("(log_probs[mask] - old_log_probs[mask])", "torch.where(mask, log_probs - old_log_probs, 0.0)"),
            ("advantage = advantages[mask]", "advantage = torch.where(mask, advantages, 0.0)"),
        ],
        "Each row has its own mean first, so a token of a short reply counts more: one mean over all tokens was asked for.": [
            ("(log_probs[mask] - old_log_probs[mask])", "torch.where(mask, log_probs - old_log_probs, 0.0)"),
            ("advantage = advantages[mask]", "advantage = torch.where(mask, advantages, 0.0)"),
            (" * advantage).mean()", " * advantage).sum(dim=1).div(mask.sum(dim=1)).mean()"),
        ],
        "The mask is multiplied in at the end, when padding has been reckoned with already: nan times 0 is nan.": [
            ("(log_probs[mask] - old_log_probs[mask])", "(log_probs - old_log_probs)"),
            ("advantage = advantages[mask]", "advantage = advantages"),
            (" * advantage).mean()", " * advantage).mul(mask).sum() / mask.sum()"),
        ],
    },
)
def check_ppo_policy_loss(ppo_policy_loss, rng):
    old = torch.full((1, 2), -1.0)
    both = torch.ones(1, 2, dtype=torch.bool)
    up, down = old + torch.tensor([[0.05, 0.6]]), old - torch.tensor([[0.05, 0.6]])  # within the clip, and outside
    good, bad = torch.tensor([[2.0, 3.0]]), torch.tensor([[-1.0, -4.0]])
    for name, new in (("above", up), ("below", down)):
        for sign, advantages in (("good", good), ("bad", bad)):
            label = f"{sign} tokens, ratios {name} 1"
            yield label, ppo_policy_loss(new, old, advantages, both)
            yield (
                f"{label}: the gradient",
                _gradient(lambda leaf, a=advantages: ppo_policy_loss(leaf, old, a, both), new),
            )
    log_probs = -1.5 + 0.3 * normal(rng, 3, 5)
    old_log_probs, advantages = log_probs + 0.4 * normal(rng, 3, 5), 2 * normal(rng, 3, 5)
    yield "three replies of different lengths", ppo_policy_loss(log_probs, old_log_probs, advantages, MASK)
    yield "clip 0.05", ppo_policy_loss(log_probs, old_log_probs, advantages, MASK, 0.05)
    holes = [torch.where(MASK, tensor, hole) for tensor, hole in
             ((log_probs, -torch.inf), (old_log_probs, -torch.inf), (advantages, torch.nan))]  # fmt: skip
    yield "-inf and nan where mask is False", ppo_policy_loss(*holes, MASK)
    yield (
        "-inf and nan where mask is False: the gradient",
        _gradient(lambda leaf: ppo_policy_loss(leaf, *holes[1:], MASK), holes[0]),
    )
    yield "a clip of 0 is refused", raised(ppo_policy_loss, log_probs, old_log_probs, advantages, MASK, 0.0)
    yield (
        "a mask that hides everything is refused",
        raised(ppo_policy_loss, log_probs, old_log_probs, advantages, MASK & False),
    )
    yield "different shapes are refused", raised(ppo_policy_loss, log_probs, old_log_probs, advantages[:, :4], MASK)


@observes(
    "ppo_value_loss",
    difficulty=2,
    minutes=15,
    hints=(
        "The same idea as for the policy: two candidates, and the worse one counts. Here both are squared errors.",
        "The clipped value moves at most `clip` away from the *old value*, whatever the return is.",
        "Clamp how far the value has moved, and add that to the old value. Of the two squared errors the larger "
        "counts, token by token (`torch.max`): half its mean over the real tokens.",
    ),
    mistakes={
        "The smaller error counts: a value that moved too far is not held back, but let off.": (
            "torch.max(",
            "torch.min(",
        ),
        "The ½ is missing, so the loss of the values weighs twice as much.": ("0.5 * torch.max", "torch.max"),
        "Nothing is clipped: only the plain squared error is left.": (
            "torch.max((value - target).square(), (clipped - target).square())",
            "(value - target).square()",
        ),
        "Only the clipped error counts: a value outside the range never gets a gradient to come back.": (
            "torch.max((value - target).square(), (clipped - target).square())",
            "(clipped - target).square()",
        ),
        "The value itself is clamped to ± clip around 0, not around the old value.": (
            "old + (value - old).clamp(-clip, clip)",
            "value.clamp(-clip, clip)",
        ),
        "The range is a share of the old value, as for the ratio: but values are no ratios, and may be 0 or negative.": (
            "old + (value - old).clamp(-clip, clip)",
            "torch.min(torch.max(value, old * (1 - clip)), old * (1 + clip))",
        ),
        "The error is the absolute one: squares were asked for.": [
            ("(value - target).square()", "(value - target).abs()"),
            ("(clipped - target).square()", "(clipped - target).abs()"),
        ],
        "The mean counts prompt and padding too, so the loss shrinks as they grow.": (
            "value, old, target = values[mask], old_values[mask], returns[mask]",
            "value, old, target = (torch.where(mask, tensor, 0.0) for tensor in (values, old_values, returns))",
        ),
    },
)
def check_ppo_value_loss(ppo_value_loss, rng):
    old, one = torch.tensor([[1.0, 1.0, 1.0, 1.0]]), torch.ones(1, 4, dtype=torch.bool)
    # too far up, too far down, within, too far; the returns lie beyond, on the other side, near, and beyond
    new, returns = torch.tensor([[1.5, 0.4, 1.1, -0.3]]), torch.tensor([[3.0, 2.0, 1.3, -2.0]])
    yield "values in and out of the range", ppo_value_loss(new, old, returns, one)
    yield (
        "values in and out of the range: the gradient",
        _gradient(lambda leaf: ppo_value_loss(leaf, old, returns, one), new),
    )
    past = torch.tensor([[1.25, 0.75, 1.0, 0.5]])
    yield "returns between the old value and the new", ppo_value_loss(new, old, past, one)
    values, old_values, returns = normal(rng, 3, 5), normal(rng, 3, 5), 2 * normal(rng, 3, 5)
    yield "three replies of different lengths", ppo_value_loss(values, old_values, returns, MASK)
    yield "clip 1", ppo_value_loss(values, old_values, returns, MASK, 1.0)
    yield "values far from 0", ppo_value_loss(values + 50, old_values + 50, returns + 50, MASK)
    holes = [torch.where(MASK, tensor, torch.nan) for tensor in (values, old_values, returns)]
    yield "nan where mask is False", ppo_value_loss(*holes, MASK)
    yield (
        "nan where mask is False: the gradient",
        _gradient(lambda leaf: ppo_value_loss(leaf, *holes[1:], MASK), holes[0]),
    )
    yield "a clip of -1 is refused", raised(ppo_value_loss, values, old_values, returns, MASK, -1.0)
    yield "a mask that hides everything is refused", raised(ppo_value_loss, values, old_values, returns, MASK & False)


@observes(
    "group_advantages",
    difficulty=1,
    minutes=10,
    hints=(
        "Make a table with one row for each group, and work along the rows.",
        "`rewards.view(-1, group_size)`; mean and std with dim=1 and keepdim=True; then flatten again.",
        "torch's std divides by n - 1 of itself. Add 1e-4 to it before you divide: equal rewards then give 0 / 1e-4.",
    ),
    mistakes={
        "The mean is taken over the whole batch: then an easy prompt's replies are all good, and a hard one's all bad.": (
            "groups.mean(dim=1, keepdim=True)",
            "groups.mean()",
        ),
        "The std is taken over the whole batch, not within each group.": (
            "groups.std(dim=1, keepdim=True)",
            "groups.std()",
        ),
        "The std divides by n. Here, as in TRL, it divides by n - 1.": (
            "groups.std(dim=1, keepdim=True)",
            "groups.std(dim=1, keepdim=True, correction=0)",
        ),
        "It is divided by the variance, not by the std, which is its square root.": (
            "groups.std(dim=1",
            "groups.var(dim=1",
        ),
        "Without 1e-4 a group of equal rewards gives 0 / 0, which is nan, and the whole step is lost.": (
            "keepdim=True) + 1e-4)",
            "keepdim=True))",
        ),
        "The table is read the other way, every n-th reward in one group: the replies to one prompt are neighbours.": [
            ("rewards.view(-1, group_size)", "rewards.view(group_size, -1).T"),
            ("advantages.flatten()", "advantages.T.flatten()"),
        ],
        "scale=False changes nothing: it was to leave the division out.": ("if scale:", "if True:"),
        "The mean is not subtracted: all replies of a good prompt would be strengthened, the worst one too.": (
            "groups - groups.mean(dim=1, keepdim=True)",
            "groups",
        ),
    },
)
def check_group_advantages(group_advantages, rng):
    yield "the docstring's example", group_advantages(torch.tensor([1.0, 3.0, 5.0, 5.0]), 2, scale=False)
    yield "two groups of two", group_advantages(torch.tensor([1.0, 3.0, 5.0, 9.0]), 2)
    drawn = 2 + normal(rng, 12)
    yield "four groups of three", group_advantages(drawn, 3)
    yield "two groups of six, not divided", group_advantages(drawn, 6, scale=False)
    equal = torch.tensor([2.0, 2.0, 2.0, 0.0, 1.0, 5.0])
    yield "a group of equal rewards", group_advantages(equal, 3)
    yield "rewards that hardly differ", group_advantages(torch.tensor([0.0, 0.0, 0.0, 0.001]), 4)
    yield "5 rewards in groups of 2 are refused", raised(group_advantages, drawn[:5], 2)
    yield "a group of one is refused", raised(group_advantages, drawn, 1)
    yield "a reward that is nan is refused", raised(group_advantages, torch.tensor([1.0, torch.nan]), 2)
