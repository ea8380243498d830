"""What right answers of lesson 03 show, and the known mistakes."""

import torch
from torch import nn

from shared.checking import observes, raised


def _scored(rng, batch=3, seq=6, vocab=7):
    """Logits, and labels with a prompt of its own length and padding in each row; no row has as many as another."""
    logits = 2 * torch.randn(batch, seq, vocab, generator=rng)
    labels = torch.randint(1, vocab, (batch, seq), generator=rng)
    for row, (start, end) in enumerate(((3, 4), (2, 6), (1, 4))):
        labels[row, :start] = labels[row, end:] = -100
    return logits, labels


@observes(
    "sequence_log_probs",
    difficulty=2,
    minutes=15,
    hints=(
        "Three steps: put each label beside the logits that predict it, take the log-probability of that one token, add up "
        "what counts.",
        "`logits[:, :-1]` and `labels[:, 1:]` belong together. `log_softmax` over the vocabulary, then `gather` with the "
        "labels as indices. -100 is no index: replace it before you gather, and leave its place out of the sum afterwards.",
        "`gather` wants the labels with one axis more, and gives one number for each label, (batch, seq - 1). Set "
        "what is not counted to 0 with `masked_fill`, for -inf · 0 is nan, and add up each row. Begin with float32: "
        "16 bits hold three digits.",
    ),
    mistakes={
        "The logits at t are taken for the token at t itself: they are about the next one.": [
            ("targets = labels[:, 1:]", "targets = labels"),
            ("logits[:, :-1]", "logits"),
        ],
        "The shift goes the wrong way: the logits at t + 1 have already seen the token at t + 1.": [
            ("targets = labels[:, 1:]", "targets = labels[:, :-1]"),
            ("logits[:, :-1]", "logits[:, 1:]"),
        ],
        "It is the mean over the tokens, not the sum: log p of a sequence is the sum of its tokens' log-probabilities.": (
            ".masked_fill(~counted, 0.0).sum(dim=1)",
            ".masked_fill(~counted, 0.0).sum(dim=1) / counted.sum(dim=1)",
        ),
        "The logits themselves are added up. They are log-probabilities only after log_softmax.": (
            ".float().log_softmax(dim=-1)",
            ".float()",
        ),
        "The softmax goes over the positions, not over the vocabulary.": ("log_softmax(dim=-1)", "log_softmax(dim=1)"),
        "Prompt and padding count too, as if their tokens were number 0: a label of -100 says that nothing is scored there.": (
            "chosen.masked_fill(~counted, 0.0).sum(dim=1)",
            "chosen.sum(dim=1)",
        ),
        "What does not count is multiplied by 0: where a prompt's token has probability 0, -inf · 0 makes the sum nan.": (
            "chosen.masked_fill(~counted, 0.0).sum(dim=1)",
            "(chosen * counted).sum(dim=1)",
        ),
        "It is the log of a softmax: far below the largest logit the probability is rounded to 0, and its log is -inf.": (
            "log_softmax(dim=-1)",
            "softmax(dim=-1).log()",
        ),
        "The sign is that of a loss: a log-probability is below 0.": ("return chosen", "return -chosen"),
        "There is one number for the batch; each row needs its own.": (".sum(dim=1)", ".sum()"),
        "The labels of the caller are changed: -100 is overwritten in a view of them.": (
            "masked_fill(~counted, 0)[",
            "masked_fill_(~counted, 0)[",
        ),
        "Logits of 16 bits are added up in 16 bits, which hold three digits of a sum.": (
            ".float()",
            "",
        ),
    },
)
def check_sequence_log_probs(sequence_log_probs, rng):
    logits = torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.7, 0.2], [0.2, 0.2, 0.6], [0.3, 0.3, 0.4]]]).log()
    yield "prompt of two tokens, then 1 and 2", sequence_log_probs(logits, torch.tensor([[-100, -100, 1, 2]]))
    yield "prompt of one token, then 0, then padding", sequence_log_probs(logits, torch.tensor([[-100, 0, -100, -100]]))
    logits, labels = _scored(rng)
    yield "three rows, each with its own prompt and padding", sequence_log_probs(logits, labels.clone())
    yield "logits of thousands", sequence_log_probs(1000 * logits, labels.clone())
    excluded = logits.clone()
    excluded[0, :2, 0] = -torch.inf
    yield "a prompt with a token of probability 0", sequence_log_probs(excluded, labels.clone())
    yield "logits of 16 bits", sequence_log_probs(logits.bfloat16(), labels.clone())
    leaf = logits.clone().requires_grad_(True)
    found = sequence_log_probs(leaf, labels.clone())
    yield "logits that ask for a gradient: the sums", found
    (found * torch.tensor([1.0, -2.0, 3.0])).sum().backward()
    yield "logits that ask for a gradient: the gradient", leaf.grad
    yield "a row without labels is refused", raised(sequence_log_probs, logits, labels.masked_fill(labels > 0, -100))
    yield "labels of another shape are refused", raised(sequence_log_probs, logits, labels[:, 1:])


def _answers(rng, batch=5, spread=4.0):
    """Log-probabilities of answers: policy's chosen and rejected, reference's chosen and rejected."""
    return [-60 + spread * torch.randn(batch, generator=rng) for _ in range(4)]


def _gradients(loss, log_probs, **settings):
    """The gradients of a loss with respect to all four log-probabilities; where there is none, 0."""
    leaves = [one.clone().requires_grad_(True) for one in log_probs]
    found = loss(*leaves, **settings)
    if not isinstance(found, torch.Tensor) or not found.requires_grad:
        return "no gradient at all"
    found.sum().backward()
    return [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]


MARGIN = "policy_chosen - policy_rejected - (reference_chosen - reference_rejected).detach()"
BOTH = "F.logsigmoid(beta * margin), F.logsigmoid(-beta * margin)"
SMOOTHED = "((1 - label_smoothing) * right + label_smoothing * wrong)"
NO_GRADIENT = "A gradient reaches the reference where it asks for one: what holds the policy would then move itself."


@observes(
    "dpo_loss",
    difficulty=2,
    minutes=20,
    hints=(
        "It is the loss of a logistic regression with one number as its input: by how much more the policy prefers the chosen "
        "answer than the reference does.",
        "h = (policy_chosen - policy_rejected) - (reference_chosen - reference_rejected), the second bracket detached. "
        "`F.logsigmoid` is finite where `log(sigmoid(...))` is not.",
        "β scales h inside both logarithms, with a minus sign in the second. The right label weighs 1 - ε and the "
        "wrong one ε; then the mean over the batch, and a minus sign in front.",
    ),
    mistakes={
        "The reference is left out: then the loss asks only which answer is likelier, and a short one mostly is.": (
            MARGIN,
            "policy_chosen - policy_rejected",
        ),
        "The reference is added instead of subtracted: what it preferred already counts twice, where it should count for nothing.": (
            "policy_rejected - (reference",
            "policy_rejected + (reference",
        ),
        "Chosen and rejected are exchanged (or 1 - ε and ε): the policy learns to give the answer that nobody wanted.": (
            BOTH,
            "F.logsigmoid(-beta * margin), F.logsigmoid(beta * margin)",
        ),
        "The logarithm is taken of a sigmoid that is rounded to 0: a pair that is far wrong makes the loss infinite.": (
            BOTH,
            "(beta * margin).sigmoid().log(), (-beta * margin).sigmoid().log()",
        ),
        "The margin is clamped to keep it finite: then the pairs that are most wrong give no gradient.": (
            MARGIN,
            f"({MARGIN}).clamp(-100, 100)",
        ),
        "beta multiplies the loss, not the margin: then it is part of the learning rate, and holds nothing back.": (
            BOTH,
            "beta * F.logsigmoid(margin), beta * F.logsigmoid(-margin)",
        ),
        "The margin is divided by beta: a large beta should hold the policy closer to the reference.": (
            BOTH,
            "F.logsigmoid(margin / beta), F.logsigmoid(-margin / beta)",
        ),
        "It is the sum over the batch, not the mean.": (").mean()", ").sum()"),
        "The margins are averaged before the sigmoid: one pair that is very right then hides the wrong ones.": (
            MARGIN,
            f"({MARGIN}).mean()",
        ),
        "Ratios of probabilities are compared, not their logarithms.": (
            MARGIN,
            "(policy_chosen - reference_chosen.detach()).exp() - (policy_rejected - reference_rejected.detach()).exp()",
        ),
        NO_GRADIENT: (".detach()", ""),
        "No gradient reaches the policy either: the whole margin is detached, and nothing is learnt.": (
            MARGIN,
            f"({MARGIN}).detach()",
        ),
        "label_smoothing is not used: every label counts as certain.": (SMOOTHED, "right"),
        "ε is split over both labels, as in a classifier's label smoothing: here ε itself is the chance of a wrong one.": (
            SMOOTHED,
            "((1 - label_smoothing / 2) * right + label_smoothing / 2 * wrong)",
        ),
        "The wrong label's term is subtracted: that is robust DPO (TRL's `robust`), and the conservative loss adds it.": (
            SMOOTHED,
            "((1 - label_smoothing) * right - label_smoothing * wrong).div(1 - 2 * label_smoothing)",
        ),
    },
)
def check_dpo_loss(dpo_loss, rng):
    zero = torch.zeros(2)
    yield "policy and reference agree: ln 2", dpo_loss(zero - 40, zero - 50, zero - 40, zero - 50)
    one = [torch.tensor([value]) for value in (-20.0, -30.0, -24.0, -28.0)]
    yield "one pair: the policy prefers by 10 nats, the reference by 4", dpo_loss(*one)
    log_probs = _answers(rng)
    yield "five pairs", dpo_loss(*log_probs)
    yield "five pairs, beta=0.7", dpo_loss(*log_probs, beta=0.7)
    yield "five pairs, beta=0.7, label_smoothing=0.2", dpo_loss(*log_probs, beta=0.7, label_smoothing=0.2)
    yield "the gradients", _gradients(dpo_loss, log_probs, beta=0.4, label_smoothing=0.1)
    far = [torch.tensor([-9000.0, -20.0]), torch.tensor([-20.0, -9000.0]), zero - 50, zero - 50]
    yield "a pair that is far wrong, one that is far right", dpo_loss(*far, beta=0.5)
    yield "a pair that is far wrong, one that is far right: the gradients", _gradients(dpo_loss, far, beta=0.5)
    yield "beta=0 is refused", raised(dpo_loss, *log_probs, beta=0.0)
    yield "beta=-0.1 is refused", raised(dpo_loss, *log_probs, beta=-0.1)
    yield "label_smoothing=0.5 is refused", raised(dpo_loss, *log_probs, label_smoothing=0.5)
    yield "different numbers of answers are refused", raised(dpo_loss, *log_probs[:3], log_probs[3][:1])
    yield "a batch without pairs is refused", raised(dpo_loss, *(one[:0] for one in log_probs))


@observes(
    "implicit_rewards",
    difficulty=1,
    minutes=5,
    hints=(
        "Equation 5 of the paper, without its last term.",
        "A log of a ratio is a difference of logarithms.",
        "Policy less reference, and beta scales the difference. The result is there to be watched: nothing flows "
        "back through it.",
    ),
    mistakes={
        "beta is left out: that is the log-ratio, not the reward.": ("beta * (policy", "(policy"),
        "The sign is turned: an answer that the policy has come to like gets a low reward.": (
            "(policy - reference)",
            "(reference - policy)",
        ),
        "The log-probabilities are divided. The log of a ratio is their difference.": (
            "(policy - reference)",
            "(policy / reference)",
        ),
        "The ratio of the probabilities is returned, not its logarithm.": (
            "(policy - reference)",
            "(policy - reference).exp()",
        ),
        "It is divided by beta, though the same change of the policy means a larger reward where beta is larger.": (
            "beta * (policy - reference)",
            "(policy - reference).div(beta)",
        ),
        "The reference is left out: that is the log-probability, and says mostly how long the answer is.": (
            "(policy - reference)",
            "policy",
        ),
        "The gradient still flows: these rewards are watched, not trained on.": (".detach()", ""),
        "The batch's mean is subtracted: an answer's reward must not depend on the other answers.": (
            "(policy - reference)",
            "(policy - reference - (policy - reference).mean())",
        ),
    },
)
def check_implicit_rewards(implicit_rewards, rng):
    policy, reference, _, _ = _answers(rng)
    yield "two answers", implicit_rewards(torch.tensor([-20.0, -30.0]), torch.tensor([-24.0, -28.0]))
    yield "five answers, beta=0.7", implicit_rewards(policy, reference, beta=0.7)
    found = implicit_rewards(policy.clone().requires_grad_(True), reference)
    yield "does a gradient flow?", getattr(found, "requires_grad", "no tensor")
    yield "beta=0 is refused", raised(implicit_rewards, policy, reference, beta=0.0)
    yield "different numbers of answers are refused", raised(implicit_rewards, policy, reference[:2])


@observes(
    "ipo_loss",
    difficulty=1,
    minutes=10,
    hints=(
        "The same margin as in `dpo_loss`. Only what is done with it differs.",
        "The margin has a goal, 1 / (2 τ): the loss is the squared distance from it, on either side.",
        "Subtract the goal from the margin, square, and average over the batch. The reference's part of the margin "
        "is detached, as in `dpo_loss`.",
    ),
    mistakes={
        "The goal is 1 / τ; equation 17 has half of that.": ("1 / (2 * tau)", "1 / tau"),
        "The goal is τ / 2: but a small τ means little regularization, so a goal far away.": (
            "1 / (2 * tau)",
            "tau / 2",
        ),
        "The margin is multiplied by τ as in DPO, and held against 1/2: that scales the loss by τ².": (
            "(margin - 1 / (2 * tau))",
            "(tau * margin - 0.5)",
        ),
        "Past its goal the margin costs nothing: that is a hinge. IPO pulls it back, and so keeps to the reference.": (
            "(margin - 1 / (2 * tau))",
            "(1 / (2 * tau) - margin).clamp(min=0)",
        ),
        "The reference is left out of the margin, so nothing holds the policy to it.": (
            MARGIN,
            "policy_chosen - policy_rejected",
        ),
        "Chosen and rejected are exchanged: the policy is drawn to the answer that nobody wanted.": (
            "(margin - 1",
            "(-margin - 1",
        ),
        "It is the absolute distance, not its square.": (".square()", ".abs()"),
        "It is the sum over the batch, not the mean.": (".mean()", ".sum()"),
        "The margins are averaged before the square: pairs on both sides of the goal cancel.": (
            ".square().mean()",
            ".mean().square()",
        ),
        NO_GRADIENT: (".detach()", ""),
    },
)
def check_ipo_loss(ipo_loss, rng):
    one = [torch.tensor([value]) for value in (-20.0, -30.0, -24.0, -28.0)]
    yield "one pair: the policy prefers by 10 nats, the reference by 4", ipo_loss(*one)
    yield "the same pair, its goal at 5 nats", ipo_loss(*one, tau=0.1)
    yield "the same pair, its goal at 2 nats", ipo_loss(*one, tau=0.25)
    log_probs = _answers(rng)
    yield "five pairs", ipo_loss(*log_probs)
    yield "five pairs, tau=0.5", ipo_loss(*log_probs, tau=0.5)
    yield "the gradients", _gradients(ipo_loss, log_probs, tau=0.3)
    yield "tau=0 is refused", raised(ipo_loss, *log_probs, tau=0.0)
    yield "different numbers of answers are refused", raised(ipo_loss, *log_probs[:3], log_probs[3][:1])


class _Policy(nn.Module):
    """A little model with what is easily forgotten: dropout, and a weight that does not learn."""

    def __init__(self, rng):
        super().__init__()
        self.inner, self.outer, self.dropout = nn.Linear(3, 4), nn.Linear(4, 2), nn.Dropout(0.5)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=rng))
        self.inner.bias.requires_grad_(False)

    def forward(self, x):
        return self.outer(self.dropout(self.inner(x)))


def _learning(model):
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


@observes(
    "frozen_reference",
    difficulty=1,
    minutes=10,
    hints=(
        "A second name for the same object is no second model. What makes one, weights and all?",
        "`copy.deepcopy` copies a module with its weights; `copy.copy` makes a new shell around the same ones.",
        "The deep copy, and it alone, needs two things more: evaluation mode, which ends dropout, and parameters "
        "that ask for no gradient. A module has a method for each, and both return the module.",
    ),
    mistakes={
        "The policy itself comes back, frozen: it can no longer learn, and is its own reference.": (
            "copy.deepcopy(policy)",
            "policy",
        ),
        "The policy itself comes back: a second name is no second model, and the reference moves with the policy.": (
            "copy.deepcopy(policy).eval().requires_grad_(False)",
            "policy",
        ),
        "The copy is shallow: a new object around the same weights, so the reference moves with the policy.": (
            "copy.deepcopy(policy).eval().requires_grad_(False)",
            "copy.copy(policy).eval().requires_grad_(False)",
        ),
        "The copy still has its dropout: the reference would give another log-probability each time.": (
            ".eval()",
            "",
        ),
        "The copy still asks for gradients: they cost memory, and an optimizer might take it along.": (
            ".requires_grad_(False)",
            "",
        ),
        "The policy is put into evaluation mode: it trains on without the dropout that it had.": (
            "copy.deepcopy(policy).eval()",
            "copy.deepcopy(policy.eval())",
        ),
        "The policy is frozen with the copy: it learns nothing any more.": (
            "copy.deepcopy(policy).eval().requires_grad_(False)",
            "copy.deepcopy(policy.requires_grad_(False)).eval()",
        ),
        "The policy's gradients are thrown away: it was to stay as it was.": (
            "    return copy",
            "    policy.zero_grad()\n    return copy",
        ),
    },
)
def check_frozen_reference(frozen_reference, rng):
    policy, x = _Policy(rng), torch.randn(5, 3, generator=rng)
    policy(x).sum().backward()
    gradient = policy.outer.bias.grad.clone()
    reference = frozen_reference(policy)
    yield "is it the policy itself?", reference is policy
    yield "is the reference in training mode?", [module.training for module in reference.modules()]
    yield "what of the reference learns", _learning(reference)
    yield "is the policy in training mode?", [module.training for module in policy.modules()]
    yield "what of the policy learns", _learning(policy)
    now = policy.outer.bias.grad
    yield "has the policy its gradient?", now is not None and bool(torch.equal(now, gradient))
    yield "the reference's output", reference.eval()(x).detach()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
    yield "its output after the policy's weights were set to 0", reference.eval()(x).detach()
