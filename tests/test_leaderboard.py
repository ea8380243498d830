"""The reference of week 3's 06_leaderboard against scipy and its invariants."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from shared import leaderboard as boards
from shared.data import stories
from week3_evaluation import leaderboard
from week3_evaluation.solutions.leaderboard import bootstrap_interval, mcnemar, pairwise_judge


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Replayed(np.random.Generator):
    """NumPy's generator, but its integers are those that torch draws from this seed."""

    def __new__(cls, seed):
        return super().__new__(cls)

    def __init__(self, seed):
        super().__init__(np.random.PCG64(0))
        self.torch = seeded(seed)

    def integers(self, low, high=None, size=None, **options):
        low, high = (0, low) if high is None else (low, high)
        return torch.randint(low, high, size, generator=self.torch).numpy()


def scipys_interval(seed, data, statistic, **options):
    found = stats.bootstrap(
        data, statistic, method="percentile", rng=Replayed(seed), vectorized=True, n_resamples=200, **options
    )
    return tuple(found.confidence_interval)


@given(st.integers(0, 2**20), st.integers(2, 40), st.integers(2, 40), st.floats(0.5, 0.99))
@settings(deadline=None, max_examples=1000, derandomize=True)
def test_bootstrap_interval_equals_scipys_on_the_same_draws(seed, n, m, level):
    values, other = (torch.rand(k, generator=seeded(seed + k)).exp() for k in (n, m))
    a, b = values.double().numpy(), other.double().numpy()
    expected = scipys_interval(seed, (a,), np.mean, confidence_level=level)
    got = bootstrap_interval(values, level=level, n_resamples=200, generator=seeded(seed))
    assert got == pytest.approx(expected, rel=1e-12)
    difference = lambda x, y, axis: x.mean(axis=axis) - y.mean(axis=axis)  # noqa: E731
    expected = scipys_interval(seed, (a, b), difference, confidence_level=level)
    got = bootstrap_interval(values, other, False, level=level, n_resamples=200, generator=seeded(seed))
    assert got == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(st.integers(0, 2**20), st.integers(2, 40))
@settings(deadline=None, max_examples=200, derandomize=True)
def test_the_paired_interval_is_that_of_the_differences(seed, n):
    values, other = torch.randn(2, n, generator=seeded(seed), dtype=torch.float64)
    paired = bootstrap_interval(values, other, n_resamples=200, generator=seeded(seed))
    assert paired == pytest.approx(
        bootstrap_interval(values - other, n_resamples=200, generator=seeded(seed)), abs=1e-12
    )
    mirrored = bootstrap_interval(other, values, n_resamples=200, generator=seeded(seed))
    assert paired == pytest.approx((-mirrored[1], -mirrored[0]), abs=1e-12)


def test_ninety_five_of_a_hundred_intervals_hold_the_truth():
    generator, n_times = seeded(0), 1000
    held = 0
    for _ in range(n_times):
        low, high = bootstrap_interval(
            (torch.rand(100, generator=generator) < 0.3).float(), n_resamples=500, generator=generator
        )
        held += low <= 0.3 <= high
    assert 0.92 < held / n_times < 0.97


def test_the_interval_of_a_mean_is_the_normal_one_where_items_are_many():
    values = torch.randn(400, generator=seeded(1), dtype=torch.float64)
    center, error = values.mean().item(), values.std(correction=0).item() / math.sqrt(400)
    low, high = bootstrap_interval(values, n_resamples=20_000, generator=seeded(2))
    assert low == pytest.approx(center - 1.96 * error, abs=0.06 * error)
    assert high == pytest.approx(center + 1.96 * error, abs=0.06 * error)


def test_a_statistic_may_look_at_several_columns():
    rows = torch.rand(50, 2, generator=seeded(3), dtype=torch.float64) + 0.5

    def ratio(resampled):
        return resampled[..., 0].sum(dim=1) / resampled[..., 1].sum(dim=1)

    expected = scipys_interval(
        4, tuple(rows.T.numpy()), lambda x, y, axis: x.sum(axis=axis) / y.sum(axis=axis), paired=True
    )
    got = bootstrap_interval(rows, statistic=ratio, n_resamples=200, generator=seeded(4))
    assert got == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((torch.zeros(0),), {}, "no items"),
        ((torch.zeros(3), torch.zeros(0)), {"paired": False}, "no items"),
        ((torch.zeros(3), torch.zeros(4)), {}, "3 and 4"),
        ((torch.zeros(3),), {"level": 95}, "got 95"),
        ((torch.zeros(3),), {"level": 0.0}, "got 0.0"),
        ((torch.zeros(3),), {"level": math.nan}, "got nan"),
        ((torch.zeros(3),), {"n_resamples": 0}, "got 0"),
    ],
)
def test_bad_settings_are_refused_with_what_came(arguments, options, words):
    with pytest.raises(ValueError, match=words):
        bootstrap_interval(*arguments, **options)


def answers(both, only_first, only_second, neither):
    first = [True] * (both + only_first) + [False] * (only_second + neither)
    second = [True] * both + [False] * only_first + [True] * only_second + [False] * neither
    return torch.tensor(first), torch.tensor(second)


@given(st.integers(0, 30), st.integers(0, 300), st.integers(0, 300), st.integers(1, 30))
@settings(deadline=None, max_examples=1000, derandomize=True)
def test_mcnemar_equals_scipys_binomial_test_and_chi_squared(both, b, c, neither):
    first, second = answers(both, b, c, neither)
    expected = stats.binomtest(b, b + c).pvalue if b + c else 1.0
    assert mcnemar(first, second) == (b, c, pytest.approx(expected, rel=1e-10))
    x = (abs(b - c) - 1) ** 2 / (b + c) if b != c else 0.0
    assert mcnemar(first, second, exact=False) == (b, c, pytest.approx(stats.chi2.sf(x, 1), rel=1e-10))


def test_both_forms_of_mcnemar_agree_where_items_are_many():
    first, second = answers(500, 2100, 2000, 500)
    exact, rough = mcnemar(first, second)[2], mcnemar(first, second, exact=False)[2]
    assert exact == pytest.approx(rough, rel=1e-3)


def test_under_no_difference_small_p_values_are_rare():
    generator = seeded(5)
    p_values = []
    for _ in range(1000):
        first, second = torch.rand(2, 80, generator=generator) < 0.6
        p_values.append(mcnemar(first, second)[2])
    for level in (0.01, 0.05, 0.2):
        assert sum(p <= level for p in p_values) / 1000 <= level + 0.015


def test_mcnemar_refuses_what_is_not_right_or_wrong_on_the_same_items():
    right = torch.tensor([True, False, True])
    for bad in (right.float(), right.long(), right.tolist()):
        with pytest.raises(TypeError, match="True and False"):
            mcnemar(right, bad)
    with pytest.raises(ValueError, match=r"\(3,\), \(2,\)"):
        mcnemar(right, right[:2])
    with pytest.raises(ValueError, match="same items"):
        mcnemar(right[:0], right[:0])


def test_a_judge_that_only_likes_a_place_decides_nothing():
    questions, a, b = ["q"] * 10, [f"a{i}" for i in range(10)], [f"b{i}" for i in range(10)]
    for place in ("first", "second"):
        found = pairwise_judge(lambda question, x, y, place=place: place, questions, a, b)
        assert found["verdicts"] == ["tie"] * 10 and found["win_rate"] == 0.5
        assert found[place] == 1 and found["consistent"] == 0 and found["error"] == 0


def test_swapping_the_sides_swaps_the_verdicts():
    generator = seeded(6)
    a, b = torch.randint(0, 4, (2, 60), generator=generator).tolist()

    def judge(question, first, second):
        if first == second:
            return "tie"
        return "first" if first + int(question) >= second else "second"  # a bias of 1 on some questions

    questions = [str(i % 2) for i in range(60)]
    one, two = pairwise_judge(judge, questions, a, b), pairwise_judge(judge, questions, b, a)
    assert one["win_rate"] == pytest.approx(1 - two["win_rate"])
    assert [{"a": "b", "b": "a"}.get(v, v) for v in one["verdicts"]] == two["verdicts"]
    for share in ("consistent", "first", "second", "error"):
        assert one[share] == two[share]
    assert one["first"] > 0 and one["second"] == 0


def test_the_shares_of_a_judge_sum_to_one_unless_a_tie_meets_a_preference():
    said = iter(["first", "first", "tie", "second", "second", "second", "first", "second", "?", "tie"])
    found = pairwise_judge(lambda *item: next(said), ["q"] * 5, ["a"] * 5, ["b"] * 5)
    assert found["verdicts"] == ["tie", "tie", "tie", "a", "error"]
    assert found["win_rate"] == pytest.approx((1 + 3 / 2) / 4)
    shares = [found[name] for name in ("consistent", "first", "second", "error")]
    assert shares == [0.2, 0.2, 0.2, 0.2]


def test_a_judge_needs_two_answers_to_each_question():
    for lists in ((["q"], ["a"], []), ([], [], []), (["q", "q"], ["a"], ["b"])):
        with pytest.raises(ValueError, match="each question needs"):
            pairwise_judge(lambda *item: "tie", *lists)


# --- the leaderboard itself ----------------------------------------------------------------------------------


class Fixed(torch.nn.Module):
    """The same logits after any token: reads, and knows nothing."""

    def __init__(self, vocab_size):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.linspace(0, 3, vocab_size))

    def forward(self, token_ids, key_mask=None):
        return self.logits.expand(*token_ids.shape, -1)


def fixed() -> tuple[torch.nn.Module, object]:
    _, tokenizer = leaderboard.course_model()
    return Fixed(len(tokenizer)), tokenizer


def test_the_stored_rows_are_of_the_current_items_and_hold_a_score_for_each():
    board = boards.read(leaderboard.REFERENCE)
    assert board["tasks"] == leaderboard.about_tasks()
    assert {row["name"] for row in board["rows"]} >= {entry.name for entry in leaderboard.ENTRIES}
    for row in board["rows"]:
        assert list(row["items"]) == list(row["scores"]) == list(board["tasks"])
        for name, task in board["tasks"].items():
            assert len(row["items"][name]) == task["items"]
            score = row["scores"][name]
            assert score["score"] == pytest.approx(sum(row["items"][name]) / task["items"], abs=1e-3)
            assert score["low"] <= score["score"] <= score["high"]
        assert row["average"]["low"] <= row["average"]["score"] <= row["average"]["high"]


@pytest.mark.parametrize("entry", leaderboard.ENTRIES[:1] + leaderboard.ENTRIES[2:], ids=lambda entry: entry.name)
def test_a_stored_row_comes_out_again(entry):
    """Those of the small models, on the first items: a row that is out of date is found here."""
    stored = next(row for row in boards.read(leaderboard.REFERENCE)["rows"] if row["name"] == entry.name)
    fresh = leaderboard.score_entry(entry, n_items=6)
    assert fresh["parameters"] == stored["parameters"]
    assert fresh["bits_per_byte"] == {k: pytest.approx(v, abs=2e-3) for k, v in stored["bits_per_byte"].items()}
    for name, scores in fresh["items"].items():
        if entry.name != "guessing":  # its dice go on from task to task
            assert scores == pytest.approx(stored["items"][name][:6], abs=2e-3)


def test_one_entry_scored_twice_gives_one_row_and_the_same_numbers(work):
    one, two = (leaderboard.score_entry(leaderboard.Entry("fixed", fixed), n_items=3) for _ in range(2))
    assert {**one, "seconds": 0} == {**two, "seconds": 0}
    assert one["tokens"] > 0 and one["parameters"] == len(fixed()[1])


def test_add_keeps_and_replaces_rows_by_name(work, monkeypatch):
    monkeypatch.setattr(leaderboard, "score_entry", lambda entry, n_items: entry.load())
    row = {"name": "mine", "average": {"score": 0.1}}
    path = boards.own_file()
    leaderboard.add([leaderboard.Entry("mine", lambda: row)])
    leaderboard.add([leaderboard.Entry("other", lambda: {**row, "name": "other", "average": {"score": 0.2}})])
    assert [row["name"] for row in boards.read(path)["rows"]] == ["other", "mine"]
    leaderboard.add([leaderboard.Entry("mine", lambda: {**row, "average": {"score": 0.3}})])
    assert [(row["name"], row["average"]["score"]) for row in boards.read(path)["rows"]] == [
        ("mine", 0.3),
        ("other", 0.2),
    ]


def test_the_average_is_0_for_guessing_and_1_for_all_right():
    about = {"x": {"chance": 0.25}, "y": {"chance": 0.5}, "z": {"chance": 0.0}}
    average = leaderboard.task_average(about)
    for share in (0.0, 0.5, 1.0):  # of the way from guessing to all right
        scores = [task["chance"] + share * (1 - task["chance"]) for task in about.values()]
        items = {name: [score] * n for name, score, n in zip(about, scores, (3, 9, 5), strict=True)}
        assert average(leaderboard.labelled(items)[None]).item() == pytest.approx(share)


def test_guesses_are_right_as_often_as_expected():
    about, found = leaderboard.about_tasks(), leaderboard.guesses(leaderboard.N_ITEMS)
    for name, task in about.items():
        error = 0.5 / math.sqrt(task["items"])
        assert abs(sum(found[name]) / task["items"] - task["chance"]) < 3 * error


def test_bits_per_byte_of_a_uniform_model_is_its_tokens_times_the_bits_of_one():
    model, tokenizer = fixed()
    torch.nn.init.zeros_(model.logits)
    rows = leaderboard.story_rows(model, tokenizer)
    texts = [story.text for story in stories(leaderboard.N_STORIES, seed=5, split="validation")]
    expected = [len(tokenizer(text).input_ids) * math.log(len(tokenizer)) for text in texts]
    assert rows[:, 0].tolist() == pytest.approx(expected, rel=1e-5)
    assert rows[:, 1].tolist() == [len(text) for text in texts]
    assert leaderboard.bits_per_byte(leaderboard.story_rows(None, None)[None]).item() == pytest.approx(8)
