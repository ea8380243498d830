"""Is one model really better? Intervals by resampling, a test on paired answers, and a judge that is asked twice."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def mean(values: Float[Tensor, "resample item"]) -> Float[Tensor, "resample"]:
    """The mean of each row: the statistic of every score that is an average over items."""
    return values.mean(dim=1)


def check_resampling(values: Tensor, other: Tensor | None, paired: bool, level: float, n_resamples: int) -> None:
    """Raise ValueError where there is nothing to resample, or no interval to give."""
    if len(values) == 0 or (other is not None and len(other) == 0):
        raise ValueError("there are no items: an interval needs at least one")
    if other is not None and paired and len(values) != len(other):
        raise ValueError(f"paired scores are of the same items, but there are {len(values)} and {len(other)}")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, such as 0.95, got {level}")
    if n_resamples < 1:
        raise ValueError(f"n_resamples must be 1 or more, got {n_resamples}")


def bootstrap_interval(
    values: Float[Tensor, "item ..."],
    other: Float[Tensor, "other_item ..."] | None = None,
    paired: bool = True,
    statistic: Callable[[Tensor], Float[Tensor, "resample"]] = mean,
    level: float = 0.95,
    n_resamples: int = 2000,
    generator: torch.Generator | None = None,
) -> tuple[float, float]:
    """The percentile interval of statistic(values), or, with `other`, of statistic(values) - statistic(other).

    A resample draws as many items as there are, with replacement; the interval ends at the (1 ± level) / 2 quantiles of
    the statistic over `n_resamples` of them. Paired: one draw of items serves both sides; else each side draws its own.
    `statistic` maps (resample, item, ...) to (resample,). In float64; all chance is from `generator`.
    Efron and Tibshirani 1993, §13.3; paired: Koehn 2004. Raises ValueError for no items, unequal pairs, a bad level.
    """
    check_resampling(values, other, paired, level, n_resamples)
    # BEGIN SOLUTION
    index = torch.randint(len(values), (n_resamples, len(values)), generator=generator)
    results = statistic(values.double()[index])
    if other is not None:
        if not paired:
            index = torch.randint(len(other), (n_resamples, len(other)), generator=generator)
        results = results - statistic(other.double()[index])
    tail = (1 - level) / 2
    low, high = torch.quantile(results, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high
    # END SOLUTION


def check_same_items(first: Tensor, second: Tensor) -> None:
    """Raise TypeError for anything but right (True) and wrong (False), ValueError unless they are of the same items."""
    for right in (first, second):
        if not isinstance(right, Tensor) or right.dtype != torch.bool:
            raise TypeError("McNemar's test compares right with wrong: give two tensors of True and False")
    if first.shape != second.shape or first.dim() != 1 or len(first) == 0:
        raise ValueError(f"both must be of the same items; got shapes {tuple(first.shape)}, {tuple(second.shape)}")


def mcnemar(first: Bool[Tensor, "item"], second: Bool[Tensor, "item"], exact: bool = True) -> tuple[int, int, float]:
    """(b, c, p): how many items only the first, only the second model has right, and the two-sided p-value.

    Exact: p = min(1, 2 P(X <= min(b, c))) with X ~ Binomial(b + c, 1/2). Else x = max(|b - c| - 1, 0)² / (b + c) is
    held against chi-squared with 1 degree of freedom: p = erfc(√(x / 2)). With b + c = 0, p = 1. Example: b=1, c=5
    -> p = 14/64. McNemar 1947; the -1: Edwards 1948. Raises TypeError unless bool, ValueError unless of the same items.
    """
    check_same_items(first, second)
    # BEGIN SOLUTION
    b = int((first & ~second).sum())
    c = int((second & ~first).sum())
    n = b + c
    if n == 0:
        return b, c, 1.0
    if exact:
        tail = sum(math.comb(n, k) for k in range(min(b, c) + 1))  # whole numbers: nothing overflows
        return b, c, min(1.0, 2 * tail / 2**n)
    x = max(abs(b - c) - 1, 0) ** 2 / n
    return b, c, math.erfc(math.sqrt(x / 2))
    # END SOLUTION


def check_answer_pairs(questions: list[str], answers_a: list[str], answers_b: list[str]) -> None:
    """Raise ValueError unless each question has an answer of either side."""
    if not len(questions) == len(answers_a) == len(answers_b) or not questions:
        lengths = f"{len(questions)}, {len(answers_a)} and {len(answers_b)}"
        raise ValueError(f"each question needs an answer of a and one of b; there are {lengths}")


def pairwise_judge(
    judge: Callable[[str, str, str], str], questions: list[str], answers_a: list[str], answers_b: list[str]
) -> dict[str, list[str] | float]:
    """Ask judge(question, first, second), which says "first", "second" or "tie", twice an item: a first, then b first.

    "verdicts": "a" or "b" if that answer is preferred in both orders; "error" if even once the judge said something
    else; otherwise "tie". "win_rate": (wins of a + ties / 2) / items without error, nan if there are none.
    Shares of all items: "consistent" (the same answer in both orders, or "tie" both times), "first" and "second" (that
    place both times), "error". Zheng et al. 2023, §3.4 and table 2. Raises ValueError for unequal or empty lists.
    """
    check_answer_pairs(questions, answers_a, answers_b)
    # BEGIN SOLUTION
    verdict_of = {("first", "second"): "a", ("second", "first"): "b"}
    said = [
        (judge(question, a, b), judge(question, b, a))
        for question, a, b in zip(questions, answers_a, answers_b, strict=True)
    ]
    errors = [not set(both) <= {"first", "second", "tie"} for both in said]
    verdicts = ["error" if wrong else verdict_of.get(both, "tie") for both, wrong in zip(said, errors, strict=True)]
    n, judged = len(said), len(said) - sum(errors)
    points = verdicts.count("a") + verdicts.count("tie") / 2
    return {
        "verdicts": verdicts,
        "win_rate": points / judged if judged else math.nan,
        "consistent": sum(both in verdict_of or both == ("tie", "tie") for both in said) / n,
        "first": said.count(("first", "first")) / n,
        "second": said.count(("second", "second")) / n,
        "error": sum(errors) / n,
    }
    # END SOLUTION
