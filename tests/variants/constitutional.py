"""Right answers to lesson 04 of week 6, written otherwise: they must pass."""

import itertools
import math

import torch
import torch.nn.functional as F

from week6_rlhf.solutions.constitutional import critique_prompt, revision_prompt


def critique_and_revise__cycle(generate, prompt, reply, principles, rounds):
    if rounds < 1 or len(principles) == 0 or reply.strip() == "":
        raise ValueError("nothing to do")
    said, now = [], reply.strip()
    for principle in itertools.islice(itertools.cycle(principles), rounds):
        critique = generate(critique_prompt(principle, prompt, now)).strip()
        new = generate(revision_prompt(principle, prompt, now, critique)).strip()
        said.append(dict(principle=principle.name, reply=now, critique=critique, revision=new))
        if not new or new == now:
            return said
        now = new
    return said


def critique_and_revise__recursive(generate, prompt, reply, principles, rounds):
    if not reply.strip():
        raise ValueError("empty")
    if not principles or rounds <= 0:
        raise ValueError("no principles or rounds")
    now, (principle, *rest) = reply.strip(), principles
    critique = generate(critique_prompt(principle, prompt, now)).strip()
    revision = generate(revision_prompt(principle, prompt, now, critique)).strip()
    this = {"revision": revision, "critique": critique, "reply": now, "principle": principle.name}
    this = {key: this[key] for key in ("principle", "reply", "critique", "revision")}
    if rounds == 1 or revision in {"", now}:
        return [this]
    return [this, *critique_and_revise__recursive(generate, prompt, revision, [*rest, principle], rounds - 1)]


def critique_and_revise__while(generate, prompt, reply, principles, rounds):
    if len(reply.split()) < 1 or len(principles) < 1 or rounds < 1:
        raise ValueError("bad")
    replies, transcript = [reply.strip()], []
    while len(transcript) < rounds and replies[-1] and replies[-1] not in replies[-2:-1]:
        principle = principles[len(transcript) % len(principles)]
        critique = generate(critique_prompt(principle, prompt, replies[-1])).strip()
        replies.append(generate(revision_prompt(principle, prompt, replies[-1], critique)).strip())
        names = ("principle", "reply", "critique", "revision")
        transcript.append(dict(zip(names, (principle.name, replies[-2], critique, replies[-1]), strict=True)))
    return transcript


def _refuse_letters(ab, ba, clamp):
    if ab.shape != ba.shape or ab.dim() != 2 or ab.shape[1] != 2:
        raise ValueError("shape")
    if (ab == -torch.inf).all(dim=1).any() or (ba == -torch.inf).all(dim=1).any():
        raise ValueError("no letter")
    if clamp[0] > clamp[1] or clamp[0] < 0 or clamp[1] > 1:
        raise ValueError("clamp")


def ai_preference__sigmoids(log_probs_ab, log_probs_ba, clamp=(0.0, 1.0)):
    """The two letters' share is the sigmoid of their log-odds."""
    _refuse_letters(log_probs_ab, log_probs_ba, clamp)
    odds = torch.stack([log_probs_ab[:, 0] - log_probs_ab[:, 1], log_probs_ba[:, 1] - log_probs_ba[:, 0]])
    return odds.sigmoid().mean(dim=0).clamp(min=clamp[0], max=clamp[1])


def ai_preference__row_by_row(log_probs_ab, log_probs_ba, clamp=(0.0, 1.0)):
    _refuse_letters(log_probs_ab, log_probs_ba, clamp)
    low, high = clamp
    found = []
    for (a, b), (c, d) in zip(log_probs_ab.double().tolist(), log_probs_ba.double().tolist(), strict=True):
        first = math.exp(a - max(a, b)) / (math.exp(a - max(a, b)) + math.exp(b - max(a, b)))
        second = math.exp(d - max(c, d)) / (math.exp(c - max(c, d)) + math.exp(d - max(c, d)))
        found.append(min(high, max(low, (first + second) / 2)))
    return torch.tensor(found)


def constitutional_pairs__steps(prompts, first, second, preferences, threshold=0.5):
    if not len(prompts) == len(first) == len(second) == len(preferences):
        raise ValueError("lengths")
    if len(preferences) and (preferences.min() < 0 or preferences.max() > 1 or preferences.isnan().any()):
        raise ValueError("no probabilities")
    if threshold < 0.5 or threshold > 1:
        raise ValueError("threshold")
    found = []
    for i in range(len(prompts)):
        p, replies = float(preferences[i]), [second[i], first[i]]
        best = int(p > 0.5)
        sure = (1 - p, p)[best]
        if "" in [reply.strip() for reply in replies] or len({reply.strip() for reply in replies}) == 1:
            continue
        if p == 0.5 or sure < threshold:
            continue
        found.append(dict(prompt=prompts[i], chosen=replies[best], rejected=replies[1 - best], preference=sure))
    return found


def constitutional_pairs__filtered(prompts, first, second, preferences, threshold=0.5):
    rows = list(zip(prompts, first, second, [float(p) for p in preferences], strict=True))  # ValueError by itself
    if any(not 0 <= row[3] <= 1 for row in rows) or not 0.5 <= threshold <= 1:
        raise ValueError("probabilities")
    rows = [row if row[3] >= 0.5 else (row[0], row[2], row[1], 1 - row[3]) for row in rows]
    keep = lambda one, two, p: p != 0.5 and p >= threshold and bool(one.split()) and bool(two.split())  # noqa: E731
    return [
        {"prompt": prompt, "chosen": one, "rejected": two, "preference": p}
        for prompt, one, two, p in rows
        if keep(one, two, p) and one.strip() != two.strip()
    ]


def _refuse_labels(tensors, preferences, beta):
    if any(one.shape != preferences.shape for one in tensors) or preferences.dim() != 1 or not len(preferences):
        raise ValueError("shapes")
    if not torch.all((preferences >= 0) & (preferences <= 1)) or not beta > 0:
        raise ValueError("values")


def soft_preference_loss__bce(
    policy_chosen, policy_rejected, reference_chosen, reference_rejected, preferences, beta=0.1
):
    """torch's own cross-entropy with soft targets, on the log-odds β h."""
    _refuse_labels((policy_chosen, policy_rejected, reference_chosen, reference_rejected), preferences, beta)
    with torch.no_grad():
        reference = reference_chosen - reference_rejected
    return F.binary_cross_entropy_with_logits(
        beta * (policy_chosen - policy_rejected - reference), preferences.detach()
    )


def soft_preference_loss__softplus(
    policy_chosen, policy_rejected, reference_chosen, reference_rejected, preferences, beta=0.1
):
    """log(1 + exp(β h)) - p β h, which is the same."""
    _refuse_labels((policy_chosen, policy_rejected, reference_chosen, reference_rejected), preferences, beta)
    rewards = [beta * policy_chosen - beta * reference_chosen.detach()]
    rewards.append(beta * policy_rejected - beta * reference_rejected.detach())
    x = rewards[0] - rewards[1]
    return (F.softplus(x) - preferences.data * x).sum() / len(x)
