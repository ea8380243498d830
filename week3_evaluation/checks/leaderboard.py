"""What a right answer of lesson 06 shows, and the known mistakes."""

import math

import torch

from shared.checking import alike, observes, raised
from week3_evaluation.solutions.leaderboard import check_resampling, check_same_items

N_RESAMPLES = 20_000


def _seeded(rng):
    """A generator of its own, so that an answer's draws cannot move the inputs that come after."""
    return torch.Generator().manual_seed(int(torch.randint(0, 2**31, (), generator=rng)))


def _scaled(values, center=0.0):
    """The values moved and stretched: their mean is `center`, the standard error of the mean is 1."""
    values = values.double()
    values = (values - values.mean()) / values.std(correction=0)
    return values * math.sqrt(len(values)) + center


def _normal_approximation(
    values, other=None, paired=True, statistic=None, level=0.95, n_resamples=2000, generator=None
):
    """Mean ± z standard errors."""
    check_resampling(values, other, paired, level, n_resamples)
    torch.rand(1, generator=generator)
    z = math.sqrt(2) * torch.erfinv(torch.tensor(level)).item()
    values = values.double()
    center, variance = values.mean(), values.var(correction=0) / len(values)
    if other is not None:
        difference = values - other.double() if paired else None
        variance = (
            difference.var(correction=0) / len(values)
            if paired
            else variance + other.double().var(correction=0) / len(other)
        )
        center = center - other.double().mean()
    half = z * variance.sqrt()
    return (center - half).item(), (center + half).item()


QUANTILES = "torch.quantile(results, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()"


@observes(
    "bootstrap_interval",
    difficulty=3,
    minutes=25,
    rtol=0.0,
    # All data are scaled to a standard error of 1. The 2.5 % quantile of 20,000 resamples then has a standard deviation of
    # about 0.02, and the difference of two such quantiles one of 0.03.
    atol=0.16,
    hints=(
        "Your items stand for all the items that could have been asked. Play the sampling again: draw as many items, from "
        "yours, with replacement, and compute the statistic. Do that `n_resamples` times. How far do the results spread?",
        "One call of `torch.randint` draws the items of all resamples, a row for each, and `values[index]` is then "
        "(resample, item, ...): just what `statistic` takes. Paired: use the same index for `other`. Unpaired: draw "
        "a new one of its own length. Hand the generator on.",
        "The ends are the quantiles (1 - level) / 2 and 1 - (1 - level) / 2 of the results (`torch.quantile`); for two sides, of "
        "the difference of the two results, resample by resample. Return two floats.",
    ),
    mistakes={
        "Items are drawn without replacement: each resample holds all items once, so nothing varies.": [
            (
                "index = torch.randint(len(values), (n_resamples, len(values)), generator=generator)",
                "index = torch.rand(n_resamples, len(values), generator=generator).argsort(dim=1)",
            ),
            (
                "index = torch.randint(len(other), (n_resamples, len(other)), generator=generator)",
                "index = torch.rand(n_resamples, len(other), generator=generator).argsort(dim=1)",
            ),
        ],
        "The ends are quantiles of the items, not of the statistic: they tell how the items spread, and do not "
        "come closer with more items.": (
            "statistic(values.double()[index])",
            "statistic(values.double()[index[:, :1]])",
        ),
        "The whole error is put on each side: the ends are the quantiles 1 - level and level, which hold less than level "
        "between them.": ("(1 - level) / 2", "(1 - level)"),
        "The interval is mirrored, as 2 · estimate - quantile: that is the basic bootstrap, not the percentile one.": (
            "    low, high = ",
            "    center = statistic(values.double()[None]) - (0 if other is None else statistic(other.double()[None]))\n"
            "    results = 2 * center - results\n"
            "    low, high = ",
        ),
        "What comes out is the estimate ± z standard errors, always symmetric, and of the mean only: no resampling "
        "is in it.": (_normal_approximation),
        "The last item is never drawn: randint's upper end is exclusive already.": (
            "index = torch.randint(len(values), ",
            "index = torch.randint(max(len(values) - 1, 1), ",
        ),
        "Paired scores are resampled apart: what makes an item hard for both sides no longer cancels, and the interval is far "
        "too wide.": ("if not paired:", "if True:"),
        "Unpaired sides share one draw of items: their errors have nothing to do with each other, and now rise and "
        "fall together.": ("if not paired:", "if not paired and len(values) != len(other):"),
        "The difference has the wrong sign: it is statistic(values) - statistic(other).": (
            "results - statistic(other.double()[index])",
            "statistic(other.double()[index]) - results",
        ),
        "`other` is not used: this is the interval of the first side alone.": ("if other is not None:", "if False:"),
        "The statistic is not used: this is always the interval of a mean.": [
            ("results = statistic(values.double()[index])", "results = values.double()[index].flatten(1).mean(dim=1)"),
            ("results - statistic(other.double()[index])", "results - other.double()[index].flatten(1).mean(dim=1)"),
        ],
        "The level is not used: this is always the 95 % interval.": ("(1 - level) / 2", "0.025"),
        "The generator is not used: nobody can repeat this interval, and the global one is moved on.": [
            ("(n_resamples, len(values)), generator=generator)", "(n_resamples, len(values)))"),
            ("(n_resamples, len(other)), generator=generator)", "(n_resamples, len(other)))"),
        ],
        "The number of resamples is not used: this always makes 2,000.": [
            ("torch.randint(len(values), (n_resamples,", "torch.randint(len(values), (2000,"),
            ("torch.randint(len(other), (n_resamples,", "torch.randint(len(other), (2000,"),
        ],
        "The estimate and the interval's half width are returned: asked for are the two ends.": (
            QUANTILES,
            f"{QUANTILES}\n    center = results.mean().item()\n    low, high = center, (high - low) / 2",
        ),
    },
)
def check_bootstrap_interval(bootstrap_interval, rng):
    def interval(*args, **settings):
        return bootstrap_interval(*args, n_resamples=N_RESAMPLES, generator=_seeded(rng), **settings)

    grid = (torch.arange(25, dtype=torch.float64) + 0.5) / 25
    even = _scaled(torch.erfinv(2 * grid - 1)[torch.randperm(25, generator=rng)], center=50)
    skewed = _scaled(grid.log().neg().pow(3).sort().values)  # a few large ones, the largest last
    yield "25 scores, mean 50, standard error 1", interval(even)
    yield "25 skewed scores, the largest last", interval(skewed.flip(0).roll(-1))
    yield "the same at level 0.6", interval(skewed, level=0.6)
    hard = 8 * torch.randn(40, generator=rng, dtype=torch.float64)  # what both sides share
    difference = _scaled(torch.randn(40, generator=rng), center=3)
    yield "40 pairs that differ by 3 ± 1 on average", interval(hard + difference / 2, hard - difference / 2)
    yield "the same, unpaired", interval(hard + difference / 2, hard - difference / 2, paired=False)
    yield "25 and 40 scores, unpaired", interval(skewed, difference.flip(0), paired=False, level=0.9)
    lengths = torch.linspace(1, 9, 30, dtype=torch.float64)[torch.randperm(30, generator=rng)]
    sums = lengths * 20 + 10 * torch.randn(30, generator=rng, dtype=torch.float64)
    columns = torch.stack([sums, lengths], dim=1)
    sd = (sums - sums.sum() / lengths.sum() * lengths).square().sum().sqrt() / lengths.sum()  # delta method
    columns[:, 0] /= sd

    def ratio(rows):
        return rows.sum(dim=1)[:, 0] / rows.sum(dim=1)[:, 1]

    yield "a ratio of two sums, over 30 items of two columns", interval(columns, statistic=ratio)
    yield "two such ratios, paired", interval(columns, columns.flip(0), statistic=ratio)
    yield "one item", interval(torch.tensor([7.0]))
    shapes = []
    bootstrap_interval(
        even,
        statistic=lambda rows: shapes.append(rows.shape) or rows.mean(dim=1),
        n_resamples=30,
        generator=_seeded(rng),
    )
    yield "30 resamples were asked for: resamples made", sum(shape[0] for shape in shapes)
    yield "items in each of them", sorted({shape[1] for shape in shapes})
    dtypes = []
    bootstrap_interval(
        even.float(),
        even.float(),
        statistic=lambda rows: dtypes.append(str(rows.dtype)) or rows.mean(dim=1),
        n_resamples=3,
        generator=_seeded(rng),
    )
    yield "what the statistic is given, of scores in float32", sorted(set(dtypes))
    seed = int(torch.randint(0, 2**31, (), generator=rng))
    three = [
        bootstrap_interval(even, n_resamples=200, generator=torch.Generator().manual_seed(s))
        for s in (seed, seed, seed + 1)
    ]
    yield "the same seed gives the same interval", alike(*three[:2])
    yield "another seed gives another", not alike(*three[1:])
    before = torch.get_rng_state()
    bootstrap_interval(even, even.flip(0), False, n_resamples=50, generator=_seeded(rng))
    yield "the global generator is left alone", torch.equal(before, torch.get_rng_state())
    yield (
        "no items, and unequal pairs, are refused",
        [raised(bootstrap_interval, a, b) for a, b in ((even[:0], None), (even, skewed[:9]))],
    )
    yield "levels 0, 1 and 95 are refused", [raised(bootstrap_interval, even, level=level) for level in (0.0, 1.0, 95)]
    yield "no resamples are refused", raised(bootstrap_interval, even, n_resamples=0)


def _unpaired_test(first, second, exact=True):
    check_same_items(first, second)
    n = len(first)
    b, c = int((first & ~second).sum()), int((second & ~first).sum())
    pooled = (first.sum() + second.sum()).item() / (2 * n)
    variance = 2 * pooled * (1 - pooled) / n
    z = abs(first.double().mean() - second.double().mean()).item() / math.sqrt(variance) if variance else 0.0
    return b, c, math.erfc(z / math.sqrt(2))


@observes(
    "mcnemar",
    difficulty=2,
    minutes=15,
    rtol=1e-5,
    atol=1e-9,
    hints=(
        "Items that both have right, or both wrong, say nothing about which is better. Count the others: b and c. If the models "
        "were equally good, each of these b + c items would fall to either side like a coin.",
        "b counts the items where `first` is True and `second` is not: & and ~ work on whole tensors of True and "
        "False. The chance of min(b, c) heads or fewer in n = b + c throws is Σ comb(n, k) / 2^n for k = 0 … min(b, "
        "c); two-sided is twice that, and never above 1.",
        "Sum the binomials (`math.comb`) as whole numbers and divide by 2^n once: floats overflow from n = 1,030 "
        "on. The other way is the docstring's formula with `math.erfc`. Mind n = 0 in both.",
    ),
    mistakes={
        "The test is one-sided: before the measurement either model could have been the better one.": (
            "2 * tail / 2**n",
            "tail / 2**n",
        ),
        "With b = c, twice the tail counts the middle twice: p is above 1.": (
            "min(1.0, 2 * tail / 2**n)",
            "2 * tail / 2**n",
        ),
        "Items on which both agree are counted as throws of the coin: they say nothing about the difference.": (
            "n = b + c",
            "n = len(first)",
        ),
        "Two proportions are compared as if two different sets of items had been asked: the pairing is lost.": _unpaired_test,
        "The binomial tail is a single term: P(X = min(b, c)), not P(X <= min(b, c)).": (
            "sum(math.comb(n, k) for k in range(min(b, c) + 1))",
            "math.comb(n, min(b, c))",
        ),
        "The tail ends one term too early: the outcome that was seen belongs to it.": (
            "range(min(b, c) + 1)",
            "range(min(b, c))",
        ),
        "The tail is taken at the larger of b and c: p is then large just where the models differ.": (
            "range(min(b, c) + 1)",
            "range(max(b, c) + 1)",
        ),
        "Each term is made in floats: comb(n, k) does not fit into one when n is above 1,029.": (
            "sum(math.comb(n, k) for k in range(min(b, c) + 1))",
            "sum(float(math.comb(n, k)) for k in range(min(b, c) + 1))",
        ),
        "The correction is missing: chi-squared is smooth and counts are not, so p comes out too small.": (
            "max(abs(b - c) - 1, 0)",
            "abs(b - c)",
        ),
        "The correction is ½: that is Yates's for a table of two independent groups. McNemar's test takes 1.": (
            "max(abs(b - c) - 1, 0)",
            "max(abs(b - c) - 0.5, 0)",
        ),
        "With b = c the corrected difference is -1, and its square counts as evidence: it must not go below 0.": (
            "max(abs(b - c) - 1, 0)",
            "(abs(b - c) - 1)",
        ),
        "Chi-squared is taken with 2 degrees of freedom: exp(-x / 2). One difference is one degree.": (
            "math.erfc(math.sqrt(x / 2))",
            "math.exp(-x / 2)",
        ),
        "Models that never differ end in a division by zero: nothing is seen, so p = 1.": ("if n == 0:", "if False:"),
        "b and c are swapped: b counts what only the first has right.": [
            ("b = int((first & ~second).sum())", "b = int((second & ~first).sum())"),
            ("c = int((second & ~first).sum())", "c = int((first & ~second).sum())"),
        ],
        "`exact` is not used: this is always the exact test.": ("if exact:", "if True:"),
        "`exact` is not used: this is always chi-squared, which is rough for few items.": ("if exact:", "if False:"),
    },
)
def check_mcnemar(mcnemar, rng):
    def answers(both, only_first, only_second, neither):
        order = torch.randperm(both + only_first + only_second + neither, generator=rng)
        first = torch.tensor([True] * (both + only_first) + [False] * (only_second + neither))
        second = torch.tensor([True] * both + [False] * only_first + [True] * only_second + [False] * neither)
        return first[order], second[order]

    yield "only the first has 1, only the second 5 of 9 items", mcnemar(*answers(2, 1, 5, 1))
    yield "the same by chi-squared", mcnemar(*answers(2, 1, 5, 1), exact=False)
    yield "3 and 3", mcnemar(*answers(4, 3, 3, 2))
    yield "3 and 3 by chi-squared", mcnemar(*answers(4, 3, 3, 2), exact=False)
    yield "0 and 7", mcnemar(*answers(0, 0, 7, 0))
    b, c = (int(torch.randint(low, low + 9, (), generator=rng)) for low in (31, 12))
    yield "many of both", mcnemar(*answers(60, b, c, 45))
    yield "many of both by chi-squared", mcnemar(*answers(60, b, c, 45), exact=False)
    same = answers(5, 0, 0, 4)
    yield "no difference at all", mcnemar(*same)
    yield "no difference at all by chi-squared", mcnemar(*same, exact=False)
    yield "2,100 items differ", mcnemar(*answers(10, 1015, 1085, 10))
    first, second = answers(2, 1, 5, 1)
    yield (
        "other lengths, and no items, are refused",
        [raised(mcnemar, first, second[:4]), raised(mcnemar, first[:0], second[:0])],
    )
    yield "scores that are not True or False are refused", raised(mcnemar, first.double(), second.double())


@observes(
    "pairwise_judge",
    difficulty=3,
    minutes=20,
    hints=(
        'Ask twice for each item. The second time the answers stand in the other order, so "first" then means b. Which pairs of '
        "replies mean that a was preferred both times?",
        'Keep the two raw replies of each item as a pair. ("first", "second") is a win of a, ("second", "first") a win of b; '
        'all other pairs of known words are ties. ("first", "first") is a judge who likes the first place.',
        'Errors come before all else: a reply that is none of the three words makes the item an "error", which counts neither '
        "as a win nor as a tie, and leaves the win rate's denominator. All other shares are of all items.",
    ),
    mistakes={
        "The judge is asked in one order only: its liking for a place is taken for a liking of the answer.": (
            "(judge(question, a, b), judge(question, b, a))",
            '(lambda said: (said, {"first": "second", "second": "first"}.get(said, said)))(judge(question, a, b))',
        ),
        "The judge is asked twice in the same order: the second time b must stand first.": (
            "judge(question, b, a)",
            "judge(question, a, b)",
        ),
        'The second reply is not translated back: with the order swapped, "first" means b.': (
            'verdict_of = {("first", "second"): "a", ("second", "first"): "b"}',
            'verdict_of = {("first", "first"): "a", ("second", "second"): "b"}',
        ),
        "One win and one tie count as a win: it takes a preference in both orders.": (
            '("second", "first"): "b"}',
            '("second", "first"): "b", ("first", "tie"): "a", ("tie", "second"): "a", ("second", "tie"): "b", ("tie", "first"): "b"}',
        ),
        "Where the two orders disagree, the first one decides: that keeps just the bias that was to be removed.": (
            'verdict_of.get(both, "tie")',
            '{"first": "a", "second": "b", "tie": "tie"}[both[0]]',
        ),
        "A tie counts as a loss of a: it is half a win for either side.": (
            'verdicts.count("a") + verdicts.count("tie") / 2',
            'verdicts.count("a")',
        ),
        "Ties are left out of the win rate: a judge that rarely decides then seems to be sure.": [
            ('verdicts.count("a") + verdicts.count("tie") / 2', 'verdicts.count("a")'),
            (
                "points / judged if judged",
                'points / (judged - verdicts.count("tie")) if judged - verdicts.count("tie")',
            ),
        ],
        "A reply that cannot be read counts as a tie: half a win for a model that nobody judged.": [
            ('"error" if wrong else verdict_of', "verdict_of"),
            ("points / judged if judged", "points / n if n"),
        ],
        "Items with an unreadable reply stay in the denominator of the win rate: each counts as a loss of a.": (
            "points / judged if judged",
            "points / n if n",
        ),
        'Shares of one place are counted over single replies: a judge who is right also says "first" half of the '
        "time. A liking shows where it is said both times.": [
            ('said.count(("first", "first")) / n', 'sum(both.count("first") for both in said) / (2 * n)'),
            ('said.count(("second", "second")) / n', 'sum(both.count("second") for both in said) / (2 * n)'),
        ],
        "Two ties do not count as consistent: the judge said the same both times.": (
            'both in verdict_of or both == ("tie", "tie")',
            "both in verdict_of",
        ),
        "Consistent is taken as the same word twice: with the order swapped, that is the opposite answer.": (
            'both in verdict_of or both == ("tie", "tie")',
            "both[0] == both[1]",
        ),
        "The win rate is that of b.": ('points = verdicts.count("a")', 'points = verdicts.count("b")'),
        "Where no item could be judged, the win rate is 0: that says that a lost all, and nothing was measured.": (
            "else math.nan",
            "else 0.0",
        ),
    },
)
def check_pairwise_judge(pairwise_judge, rng):
    def longer(question, first, second):
        if len(first) == len(second):
            return "tie"
        return "first" if len(first) > len(second) else "second"

    answers = ["aaa", "a", "aa", "aaaa", "aaa"], ["b", "bb", "bb", "bb", "bb"]
    yield "a judge that prefers the longer answer", pairwise_judge(longer, [f"q{i}" for i in range(5)], *answers)
    script = {  # replies with a first, and with b first
        "agrees on a": ("first", "second"), "again on a": ("first", "second"), "agrees on b": ("second", "first"),
        "likes the first place": ("first", "first"), "again": ("first", "first"), "and again": ("first", "first"),
        "likes the second place": ("second", "second"), "ties": ("tie", "tie"), "half a win of a": ("first", "tie"),
        "half a win of b": ("tie", "first"), "other half of a": ("tie", "second"),
    }  # fmt: skip
    broken = {"cannot be read": ("first", "A is better"), "is silent": ("", "second"), "is broken": ("both", "tie")}
    calls = []

    def scripted(question, first, second):
        calls.append((question, first, second))
        return {**script, **broken}[question][first.startswith("b")]

    def run(names):
        order = torch.randperm(len(names), generator=rng).tolist()
        questions = [names[i] for i in order]
        calls.clear()
        return pairwise_judge(scripted, questions, [f"a{i}" for i in order], [f"b{i}" for i in order])

    for name in ("agrees on a", "agrees on b", "likes the first place", "ties", "half a win of a"):
        yield f"one item, '{name}': the replies are {script[name]}", run([name])
    yield "eleven items in random order", run(list(script))
    yield "how often the judge was asked", len(calls)
    yield "what the judge was asked, sorted", sorted(calls)
    yield "with three replies that cannot be read", run([*script, *broken])
    yield "only replies that cannot be read", run(["is silent"])
    yield "lists of unequal length are refused", raised(pairwise_judge, longer, ["q"], ["a", "aa"], ["b"])
    yield "empty lists are refused", raised(pairwise_judge, longer, [], [], [])
