"""Right answers of week 3's lesson 06, written in other ways: the checks must accept them."""

import math
from fractions import Fraction

import numpy as np
import torch


def _mean(values):
    return values.mean(dim=1)


def _refuse(values, other, paired, level, n_resamples):
    sizes = {len(values)} if other is None else {len(values), len(other)}
    if 0 in sizes or (paired and len(sizes) > 1) or level <= 0 or level >= 1 or n_resamples <= 0:
        raise ValueError("nothing to resample")


def bootstrap_interval__numpy(
    values, other=None, paired=True, statistic=_mean, level=0.95, n_resamples=2000, generator=None
):
    _refuse(values, other, paired, level, n_resamples)
    seed = torch.randint(0, 2**31, (), generator=generator).item()
    dice = np.random.default_rng(seed)

    def resampled(items, index=None):
        index = dice.integers(0, len(items), (n_resamples, len(items))) if index is None else index
        return statistic(torch.from_numpy(items.double().numpy()[index])).numpy(), index

    results, index = resampled(values)
    if other is not None:
        results = results - resampled(other, index if paired else None)[0]
    low, high = np.percentile(results, [50 - 50 * level, 50 + 50 * level])
    return float(low), float(high)


def bootstrap_interval__in_parts_and_sorted(
    values, other=None, paired=True, statistic=_mean, level=0.95, n_resamples=2000, generator=None
):
    """Uniform numbers for indices, at most 5,000 resamples at a time, the ends picked from the sorted results."""
    _refuse(values, other, paired, level, n_resamples)
    results = []
    for start in range(0, n_resamples, 5000):
        n = min(5000, n_resamples - start)
        uniform = torch.rand(n, len(values), generator=generator)
        index = (uniform * len(values)).long().clamp(max=len(values) - 1)
        part = statistic(values[index].double())
        if other is not None:
            if not paired:
                index = (torch.rand(n, len(other), generator=generator) * len(other)).long().clamp(max=len(other) - 1)
            part = part - statistic(other[index].double())
        results += part.tolist()
    results.sort()
    cut = (1 - level) / 2 * (n_resamples - 1)
    return results[math.floor(cut)], results[n_resamples - 1 - math.floor(cut)]


def _counts(first, second):
    if first.dtype != torch.bool or second.dtype != torch.bool:
        raise TypeError("right or wrong")
    if first.shape != second.shape or first.numel() == 0:
        raise ValueError("other items")
    pairs = list(zip(first.tolist(), second.tolist(), strict=True))
    return pairs.count((True, False)), pairs.count((False, True))


def mcnemar__fractions(first, second, exact=True):
    b, c = _counts(first, second)
    if b == c:
        return b, c, 1.0
    if not exact:
        z = (abs(b - c) - 1) / math.sqrt(b + c)
        return b, c, 2 * (1 - 0.5 * (1 + math.erf(z / math.sqrt(2))))
    term, tail = 1, 0
    for k in range(min(b, c) + 1):
        tail += term
        term = term * (b + c - k) // (k + 1)
    return b, c, float(Fraction(2 * tail, 2 ** (b + c)))


def mcnemar__log_gamma(first, second, exact=True):
    b, c = _counts(first, second)
    n = torch.tensor(float(b + c), dtype=torch.float64)
    if n == 0:
        return b, c, 1.0
    if exact:
        k = torch.arange(min(b, c) + 1, dtype=torch.float64)
        logs = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1) - n * math.log(2)
        return b, c, min(1.0, 2 * torch.logsumexp(logs, dim=0).exp().item())
    x = max(abs(b - c) - 1, 0) ** 2 / n
    return b, c, torch.special.gammaincc(torch.tensor(0.5, dtype=torch.float64), x / 2).item()


def _refuse_lists(*lists):
    if len({len(items) for items in lists}) != 1 or not lists[0]:
        raise ValueError("unequal lists")


def pairwise_judge__counters(judge, questions, answers_a, answers_b):
    _refuse_lists(questions, answers_a, answers_b)
    verdicts, points, consistent, first, second = [], 0.0, 0, 0, 0
    for question, a, b in zip(questions, answers_a, answers_b, strict=True):
        one, two = judge(question, a, b), judge(question, b, a)
        if one not in ("first", "second", "tie") or two not in ("first", "second", "tie"):
            verdicts.append("error")
            continue
        if one == two:
            verdicts.append("tie")
            first += one == "first"
            second += one == "second"
            consistent += one == "tie"
        elif "tie" in (one, two):
            verdicts.append("tie")
        else:
            verdicts.append("a" if one == "first" else "b")
            consistent += 1
        points += {"a": 1.0, "b": 0.0, "tie": 0.5}[verdicts[-1]]
    n, errors = len(questions), verdicts.count("error")
    return {
        "verdicts": verdicts,
        "win_rate": points / (n - errors) if n > errors else float("nan"),
        "consistent": consistent / n,
        "first": first / n,
        "second": second / n,
        "error": errors / n,
    }


def pairwise_judge__signs(judge, questions, answers_a, answers_b):
    """Replies as signs from a's side, all of the first order before all of the second."""
    _refuse_lists(questions, answers_a, answers_b)
    sign = {"first": 1.0, "second": -1.0, "tie": 0.0}
    one = torch.tensor([sign.get(judge(*item), math.nan) for item in zip(questions, answers_a, answers_b, strict=True)])
    two = -torch.tensor(
        [sign.get(judge(*item), math.nan) for item in zip(questions, answers_b, answers_a, strict=True)]
    )
    judged = ~(one + two).isnan()
    total = torch.where(judged, one + two, 0.0)
    names = {2.0: "a", -2.0: "b"}
    verdicts = [names.get(t, "tie") if ok else "error" for t, ok in zip(total.tolist(), judged.tolist(), strict=True)]
    score = torch.where(total == 2, 1.0, torch.where(total == -2, 0.0, 0.5))
    return {
        "verdicts": verdicts,
        "win_rate": score[judged].mean(),
        "consistent": (one == two).float().mean(),
        "first": ((one == 1) & (two == -1)).float().mean(),
        "second": ((one == -1) & (two == 1)).float().mean(),
        "error": (~judged).float().mean(),
    }
