"""The reference of 04_language_modeling against PyTorch and transformers, and its invariants."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from week1_decoder.solutions.language_modeling import (
    bigram_cross_entropy,
    bits_per_byte,
    completion_log_prob,
    cross_entropy,
    next_token_targets,
    perplexity,
)

CLOSE = {"rtol": 1e-5, "atol": 1e-6}  # one float32 operation


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def gpt2() -> GPT2LMHeadModel:
    """A small GPT-2 with large random weights, so that its losses are far from uniform."""
    torch.manual_seed(0)
    small = {"vocab_size": 97, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3}
    return GPT2LMHeadModel(GPT2Config(**small)).eval()


@pytest.mark.parametrize("ignore_index", [-100, -1, 3])
def test_cross_entropy_and_its_gradient_equal_torch(ignore_index):
    logits = (5 * torch.randn(3, 8, 11, generator=seeded(0))).requires_grad_()
    targets = torch.randint(0, 11, (3, 8), generator=seeded(1))
    targets[torch.rand(3, 8, generator=seeded(2)) < 0.4] = ignore_index
    ours = cross_entropy(logits, targets, ignore_index)
    theirs = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=ignore_index)
    torch.testing.assert_close(ours, theirs, **CLOSE)
    torch.testing.assert_close(
        torch.autograd.grad(ours, logits)[0], torch.autograd.grad(theirs, logits)[0], rtol=1e-5, atol=1e-7
    )


def test_cross_entropy_equals_torch_where_nothing_counts():
    logits, targets = torch.randn(4, 5, generator=seeded(0)), torch.full((4,), -100)
    assert cross_entropy(logits, targets).isnan()
    assert F.cross_entropy(logits, targets).isnan()


@given(st.integers(0, 2**20), st.sampled_from([-1e4, 0.0, 1e4]), st.sampled_from([1e-3, 1.0, 1e3]))
@settings(deadline=None, max_examples=40, derandomize=True)
def test_cross_entropy_equals_torch_for_logits_of_any_size(seed, shift, scale):
    logits = shift + scale * torch.randn(2, 3, 7, generator=seeded(seed))
    targets = torch.randint(0, 7, (2, 3), generator=seeded(seed + 1))
    theirs = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    # At 10,000 two neighbouring float32 numbers are 0.001 apart.
    torch.testing.assert_close(cross_entropy(logits, targets), theirs, rtol=1e-5, atol=2e-3 if shift else 1e-5)


@pytest.mark.parametrize("vocab_size", [2, 256, 50257])
def test_cross_entropy_of_equal_logits_is_the_logarithm_of_the_vocabulary(vocab_size):
    loss = cross_entropy(torch.zeros(2, 3, vocab_size), torch.ones(2, 3, dtype=torch.long))
    assert loss.item() == pytest.approx(math.log(vocab_size), rel=1e-6)


def test_the_gradient_is_the_softmax_minus_the_target_over_the_counted_tokens():
    logits = torch.randn(2, 4, 6, generator=seeded(0), requires_grad=True)
    targets = torch.tensor([[1, 2, -100, 0], [5, -100, -100, 3]])
    (gradient,) = torch.autograd.grad(cross_entropy(logits, targets), logits)
    counts = (targets != -100)[..., None]
    expected = (logits.softmax(-1) - F.one_hot(targets.clamp(min=0), 6)) * counts / counts.sum()
    torch.testing.assert_close(gradient, expected.detach(), rtol=1e-5, atol=1e-7)
    assert (gradient[targets == -100] == 0).all()


def test_the_loss_of_a_padded_batch_equals_that_of_transformers(gpt2):
    token_ids = torch.randint(1, 97, (3, 12), generator=seeded(3))
    attention_mask = (torch.arange(12) < torch.tensor([[12], [7], [2]])).long()
    token_ids = token_ids * attention_mask
    labels = token_ids.masked_fill(attention_mask == 0, -100)  # transformers shifts them inside
    with torch.no_grad():
        theirs = gpt2(input_ids=token_ids, attention_mask=attention_mask, labels=labels)
        ours = cross_entropy(theirs.logits, next_token_targets(token_ids, attention_mask))
    torch.testing.assert_close(ours, theirs.loss, **CLOSE)


def test_padding_on_the_left_gives_the_loss_of_the_text_alone(gpt2):
    text = torch.randint(1, 97, (1, 9), generator=seeded(4))
    padded = F.pad(text, (4, 0))
    attention_mask = F.pad(torch.ones_like(text), (4, 0))
    position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        alone = cross_entropy(gpt2(text).logits, next_token_targets(text))
        logits = gpt2(padded, attention_mask=attention_mask, position_ids=position_ids).logits
        in_batch = cross_entropy(logits, next_token_targets(padded, attention_mask))
    torch.testing.assert_close(in_batch, alone, rtol=1e-4, atol=1e-5)  # a whole model


def test_targets_give_each_pair_of_neighbours_once_and_leave_the_input_alone():
    token_ids = torch.randint(0, 9, (4, 10), generator=seeded(5))
    before = token_ids.clone()
    targets = next_token_targets(token_ids)
    assert torch.equal(token_ids, before)
    assert torch.equal(targets[:, :-1], token_ids[:, 1:])
    assert (targets[:, -1] == -100).all()
    assert torch.equal(next_token_targets(token_ids, torch.ones_like(token_ids)), targets)


@given(st.lists(st.tuples(st.floats(0, 12), st.integers(0, 60)), min_size=1, max_size=12))
@settings(deadline=None, max_examples=60, derandomize=True)
def test_perplexity_does_not_depend_on_how_the_corpus_is_cut(parts):
    losses = torch.tensor([loss for loss, _ in parts])
    counts = torch.tensor([count for _, count in parts])
    if counts.sum() == 0:
        with pytest.raises(ValueError, match="counted token"):
            perplexity(losses, counts)
        return
    token_by_token = losses.repeat_interleave(counts)
    assert perplexity(losses, counts) == pytest.approx(
        perplexity(token_by_token, torch.ones(len(token_by_token), dtype=torch.long)), rel=1e-4
    )


def test_perplexity_of_a_corpus_equals_exp_of_torchs_loss_on_all_of_it():
    logits = 2 * torch.randn(40, 13, generator=seeded(6))
    targets = torch.randint(0, 13, (40,), generator=seeded(7))
    counts = torch.tensor([1, 25, 14])
    losses = torch.stack(
        [cross_entropy(z, y) for z, y in zip(logits.split([1, 25, 14]), targets.split([1, 25, 14]), strict=True)]
    )
    assert perplexity(losses, counts) == pytest.approx(F.cross_entropy(logits, targets).exp().item(), rel=1e-5)


def test_perplexity_of_a_uniform_model_is_the_size_of_its_vocabulary():
    assert perplexity(torch.full((5,), math.log(512)), torch.arange(5)) == pytest.approx(512, rel=1e-5)


@pytest.mark.parametrize("bytes_per_token", [1, 2, 4])
def test_bits_per_byte_of_uniform_bytes_are_eight_with_any_tokenizer(bytes_per_token):
    text = "The same sixteen"  # 16 bytes
    nats_per_token = math.log(256**bytes_per_token)
    assert bits_per_byte(len(text) // bytes_per_token * nats_per_token, text) == pytest.approx(8)


@pytest.mark.parametrize(("text", "n_bytes"), [("a", 1), ("é", 2), ("语言", 6), ("𝄞", 4), ("a\n", 2)])
def test_bits_per_byte_counts_utf8_bytes(text, n_bytes):
    assert bits_per_byte(math.log(2), text) == pytest.approx(1 / n_bytes)


def test_bits_per_byte_refuses_an_empty_text():
    with pytest.raises(ValueError, match="empty text"):
        bits_per_byte(1.0, "")


def test_bigram_cross_entropy_equals_torchs_loss_of_the_smoothed_table():
    token_ids = torch.randint(0, 6, (300,), generator=seeded(8))
    train_ids, test_ids = token_ids[:200], token_ids[200:]
    table = torch.full((6, 6), 0.3)
    for a, b in zip(train_ids[:-1], train_ids[1:], strict=True):
        table[a, b] += 1
    # F.cross_entropy normalizes each row itself.
    theirs = F.cross_entropy(table.log()[test_ids[:-1]], test_ids[1:])
    assert bigram_cross_entropy(train_ids, test_ids, 6, smoothing=0.3) == pytest.approx(theirs.item(), rel=1e-5)


def test_bigram_probabilities_sum_to_one_for_seen_and_unseen_contexts():
    train_ids = torch.tensor([0, 1, 1, 2, 0, 1])
    for a in range(5):  # 3 and 4 were never seen
        p = [math.exp(-bigram_cross_entropy(train_ids, torch.tensor([a, b]), 5)) for b in range(5)]
        assert sum(p) == pytest.approx(1, rel=1e-5)


def test_much_smoothing_makes_the_bigram_model_uniform():
    token_ids = torch.randint(0, 7, (50,), generator=seeded(9))
    assert bigram_cross_entropy(token_ids, token_ids, 7, smoothing=1e9) == pytest.approx(math.log(7), rel=1e-5)


def test_a_bigram_model_needs_two_test_tokens():
    with pytest.raises(ValueError, match="two test tokens"):
        bigram_cross_entropy(torch.tensor([0, 1]), torch.tensor([1]), 2)


def test_completion_log_prob_equals_the_loss_of_transformers_times_the_tokens(gpt2):
    token_ids = torch.randint(0, 97, (3, 10), generator=seeded(10))
    starts, ends = torch.tensor([[3], [8], [1]]), torch.tensor([[10], [9], [6]])
    mask = (torch.arange(10) >= starts) & (torch.arange(10) < ends)
    with torch.no_grad():
        ours = completion_log_prob(gpt2(token_ids).logits, token_ids, mask)
        for row in range(3):
            labels = token_ids.masked_fill(~mask, -100)[row : row + 1]
            theirs = gpt2(token_ids[row : row + 1], labels=labels).loss
            torch.testing.assert_close(ours[row], -theirs * mask[row].sum(), rtol=1e-4, atol=1e-5)


def test_the_log_probs_of_all_completions_of_one_token_sum_to_one():
    vocab_size = 7
    logits = torch.randn(1, 4, vocab_size, generator=seeded(11)).expand(vocab_size, -1, -1)
    token_ids = torch.tensor([[3, 1, 4, 0]]).repeat(vocab_size, 1)
    token_ids[:, 3] = torch.arange(vocab_size)
    mask = torch.tensor([[False, False, False, True]]).expand(vocab_size, -1)
    total = completion_log_prob(logits, token_ids, mask).exp().sum()
    torch.testing.assert_close(total, torch.tensor(1.0), **CLOSE)


def test_a_completion_must_follow_a_prompt():
    with pytest.raises(ValueError, match="prompt"):
        completion_log_prob(torch.zeros(1, 2, 3), torch.zeros(1, 2, dtype=torch.long), torch.tensor([[True, True]]))
