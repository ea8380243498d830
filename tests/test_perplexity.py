"""The reference of week 3's 01_perplexity against lm-evaluation-harness, transformers and scipy, and its invariants."""

import logging
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import get_rolling_token_windows
from scipy import stats
from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

from shared.data import stories
from shared.models import course_folder
from week1_decoder.solutions.decoder import GPT
from week1_decoder.solutions.language_modeling import bits_per_byte, perplexity
from week2_pretraining.solutions.pretraining import load_pretrained
from week3_evaluation.solutions.perplexity import bits_per_byte_interval, rolling_windows, sliding_window_nll


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny_gpt2(seed: int, context_length: int = 64) -> GPT2LMHeadModel:
    """A small GPT-2 with large random weights: what it read long ago matters."""
    torch.manual_seed(seed)
    shape = {"n_positions": context_length, "n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.4}
    return GPT2LMHeadModel(GPT2Config(vocab_size=23, bos_token_id=0, eos_token_id=0, **shape)).eval()


def logits_of(model):
    return lambda token_ids: model(token_ids).logits


def told_ids(tokenizer: GPT2TokenizerFast, count: int) -> torch.Tensor:
    """Held-out stories in one row, the end-of-text token before each."""
    texts = [tokenizer.eos_token + story.text for story in stories(count, split="validation")]
    return torch.tensor(tokenizer("".join(texts)).input_ids)


@given(st.integers(2, 300), st.integers(1, 70), st.data())
@settings(deadline=None, max_examples=1000, derandomize=True)
def test_windows_are_those_of_lm_evaluation_harness(n_tokens, window, data):
    stride = data.draw(st.integers(1, window))
    token_ids = list(range(n_tokens))  # token 0 stands for the harness's prefix token
    theirs = list(get_rolling_token_windows(token_ids[1:], 0, window, window - stride + 1))
    ours = rolling_windows(n_tokens, window, stride)
    assert [(token_ids[begin:end], token_ids[end - n + 1 : end + 1]) for begin, end, n in ours] == theirs


@given(st.integers(2, 400), st.integers(1, 90), st.data())
@settings(deadline=None, max_examples=300, derandomize=True)
def test_each_token_is_scored_once_with_as_much_context_as_the_stride_promises(n_tokens, window, data):
    stride = data.draw(st.integers(1, window))
    windows = rolling_windows(n_tokens, window, stride)
    scored = [target for _, end, n in windows for target in range(end - n + 1, end + 1)]
    assert scored == list(range(1, n_tokens))
    assert {end - begin for begin, end, _ in windows} == {min(window, n_tokens - 1)}
    for begin, end, n in windows[1:]:
        assert end - n + 1 - begin >= window - stride + 1


@pytest.mark.parametrize("n_tokens", [2, 30, 64, 65, 150, 193])
def test_disjoint_windows_give_the_rolling_loglikelihood_of_lm_evaluation_harness(n_tokens, monkeypatch):
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    model, (_, tokenizer) = tiny_gpt2(0), load_pretrained(course_folder("base"), GPT)
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, device="cpu")
    token_ids = torch.randint(1, 23, (n_tokens,), generator=seeded(n_tokens))
    token_ids[0] = 0
    monkeypatch.setattr(HFLM, "prefix_token_id", 0)
    monkeypatch.setattr(harness, "tok_encode", lambda text: token_ids[1:].tolist())
    theirs = harness.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, ("text",), 0)], disable_tqdm=True)
    ours = sliding_window_nll(logits_of(model), token_ids, harness.max_length, harness.max_length)
    assert ours.sum().item() == pytest.approx(-theirs[0], rel=1e-4)  # a whole model


def test_the_course_models_stories_cost_the_same_in_our_gpt_and_in_lm_evaluation_harness():
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    model, tokenizer = load_pretrained(course_folder("base"), GPT)
    harness = HFLM(pretrained=str(course_folder("base")), batch_size=8, device="cpu")
    texts = [story.text for story in stories(6, split="validation")] + [" ".join(s.text for s in stories(4))]
    asked = [Instance("loglikelihood_rolling", {}, (text,), i) for i, text in enumerate(texts)]
    theirs = harness.loglikelihood_rolling(asked, disable_tqdm=True)
    for text, log_p in zip(texts, theirs, strict=True):
        token_ids = torch.tensor(tokenizer(tokenizer.eos_token + text).input_ids)
        ours = sliding_window_nll(model, token_ids, model.config.context_length, model.config.context_length)
        assert ours.sum().item() == pytest.approx(-log_p, rel=1e-4)


@pytest.mark.parametrize(("window", "stride"), [(10, 10), (10, 4), (10, 1), (63, 20)])
def test_windows_cost_what_transformers_loss_says_with_the_rest_of_the_labels_masked(window, stride):
    model = tiny_gpt2(1)
    token_ids = torch.randint(0, 23, (90,), generator=seeded(2))
    theirs = []
    for begin, end, n_scored in rolling_windows(len(token_ids), window, stride):
        read = token_ids[None, begin : end + 1]  # transformers shifts the labels, so the last target is read too
        labels = read.clone()
        labels[:, :-n_scored] = -100
        with torch.no_grad():
            theirs.append(n_scored * model(read, labels=labels).loss)
    nats = sliding_window_nll(logits_of(model), token_ids, window, stride)
    torch.testing.assert_close(nats.sum(), torch.stack(theirs).sum(), rtol=1e-4, atol=1e-5)


def test_a_text_within_the_window_costs_transformers_loss_for_any_stride():
    model = tiny_gpt2(3)
    token_ids = torch.randint(0, 23, (40,), generator=seeded(4))
    with torch.no_grad():
        loss = model(token_ids[None], labels=token_ids[None]).loss
    for stride in (1, 7, 64):
        nats = sliding_window_nll(logits_of(model), token_ids, 64, stride)
        torch.testing.assert_close(nats.mean(), loss, rtol=1e-4, atol=1e-5)
        assert perplexity(nats, torch.ones(len(nats), dtype=torch.long)) == pytest.approx(loss.exp().item(), rel=1e-4)


def test_stride_one_gives_each_token_all_the_context_there_is():
    model, window = tiny_gpt2(5), 12
    token_ids = torch.randint(0, 23, (50,), generator=seeded(6))
    nats = sliding_window_nll(logits_of(model), token_ids, window, 1)
    for target in range(1, 50):
        with torch.no_grad():
            logits = model(token_ids[None, max(target - window, 0) : target]).logits[0, -1]
        expected = -logits.log_softmax(dim=-1)[token_ids[target]]
        torch.testing.assert_close(nats[target - 1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_batch_size_changes_nothing(batch_size):
    model, token_ids = tiny_gpt2(7), torch.randint(0, 23, (77,), generator=seeded(8))
    one, other = (sliding_window_nll(logits_of(model), token_ids, 16, 5, batch_size=b) for b in (8, batch_size))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_more_overlap_makes_a_stream_of_stories_cheaper():
    model, tokenizer = load_pretrained(course_folder("base"), GPT)
    token_ids = told_ids(tokenizer, 12)
    cost = [sliding_window_nll(model, token_ids, 128, stride).mean().item() for stride in (128, 64, 32)]
    assert cost == sorted(cost, reverse=True) and cost[0] > 1.02 * cost[-1]


@pytest.mark.parametrize(
    ("n_tokens", "window", "stride", "told"),
    [(1, 4, 2, "1 tokens leave nothing"), (0, 4, 2, "0 tokens"), (9, 4, 0, "got stride 0 and window 4"),
     (9, 4, 5, "got stride 5 and window 4"), (9, 0, 1, "window 0"), (9, 4, -1, "stride -1")],
)  # fmt: skip
def test_an_empty_text_and_a_stride_out_of_range_are_refused_with_what_came(n_tokens, window, stride, told):
    with pytest.raises(ValueError, match=told):
        rolling_windows(n_tokens, window, stride)
    with pytest.raises(ValueError, match=told):
        sliding_window_nll(logits_of(tiny_gpt2(0)), torch.zeros(n_tokens, dtype=torch.long), window, stride)


@given(st.integers(2, 40), st.integers(1, 10**6), st.integers(0, 2**20))
@settings(deadline=None, max_examples=100, derandomize=True)
def test_with_texts_of_one_size_it_is_scipys_t_interval_of_the_mean(n_texts, size, seed):
    bits = size * (1 + 0.3 * torch.randn(n_texts, generator=seeded(seed), dtype=torch.float64))
    r, low, high = bits_per_byte_interval(bits * math.log(2), torch.full((n_texts,), size))
    per_byte = (bits / size).numpy()
    expected = stats.t.interval(0.95, n_texts - 1, loc=per_byte.mean(), scale=stats.sem(per_byte))
    assert (r, low, high) == pytest.approx((per_byte.mean(), *expected), rel=1e-9)


def some_texts(seed: int, n_texts: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts of 100 to 2,000 bytes that cost about 1.5 nats a byte, each with a difficulty of its own."""
    generator = seeded(seed)
    n_bytes = torch.randint(100, 2000, (n_texts,), generator=generator)
    return n_bytes * (1.5 + 0.3 * torch.randn(n_texts, generator=generator)), n_bytes


def test_the_interval_agrees_with_scipys_bootstrap_over_texts():
    nats, n_bytes = some_texts(0, 200)

    def ratio(nats, n_bytes, axis):
        return nats.sum(axis=axis) / n_bytes.sum(axis=axis) / math.log(2)

    data = (nats.double().numpy(), n_bytes.double().numpy())
    found = stats.bootstrap(data, ratio, paired=True, vectorized=True, n_resamples=4000, method="percentile", rng=0)
    r, low, high = bits_per_byte_interval(nats, n_bytes)
    theirs = found.confidence_interval
    assert high - low == pytest.approx(theirs.high - theirs.low, rel=0.05)  # 4,000 resamples: about 2 % of noise
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.05 * (high - low))
    assert r == pytest.approx(ratio(*data, axis=0))


def test_95_of_100_intervals_hold_the_true_value():
    nats, n_bytes = some_texts(1, 12 * 1500)
    truth = 1.5 / math.log(2)
    held = 0
    for some_nats, some_bytes in zip(nats.split(12), n_bytes.split(12), strict=True):
        _, low, high = bits_per_byte_interval(some_nats, some_bytes)
        held += low <= truth <= high
    assert 0.93 < held / 1500 < 0.97  # a standard error is 0.006


def test_the_estimate_is_week_1s_bits_per_byte_of_all_texts_joined():
    texts = [story.text for story in stories(5)] + ["¿no?"]
    nats, n_bytes = torch.linspace(200, 900, 6), torch.tensor([len(text.encode()) for text in texts])
    expected = bits_per_byte(nats.double().sum().item(), "".join(texts))
    assert bits_per_byte_interval(nats, n_bytes)[0] == pytest.approx(expected, rel=1e-12)


def test_a_difference_on_the_same_texts_has_a_narrower_interval_than_either_model():
    nats, n_bytes = some_texts(2, 30)
    other = nats + 0.05 * n_bytes
    one, two = bits_per_byte_interval(nats, n_bytes), bits_per_byte_interval(other, n_bytes)
    r, low, high = bits_per_byte_interval(other.double() - nats.double(), n_bytes)
    assert r == pytest.approx(two[0] - one[0])
    assert high - low < 0.01 * (one[2] - one[1])
    assert low > 0 and one[2] > two[1]  # the difference is sure, though the two intervals overlap


@pytest.mark.parametrize(
    ("nats", "n_bytes", "told"),
    [([1.0], [3], "at least 2"), ([], [], "at least 2"), ([1.0, 2.0], [3], "2 and 1"), ([1.0, 0.0], [3, 0], "0 bytes")],
)
def test_too_few_texts_and_empty_ones_are_refused(nats, n_bytes, told):
    with pytest.raises(ValueError, match=told):
        bits_per_byte_interval(torch.tensor(nats), torch.tensor(n_bytes, dtype=torch.long))
