"""The reference of week 2's 05_sampling against transformers, exhaustive search, and its invariants."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from shared.checking import run_check
from week1_decoder.solutions.decoder import GPT, GPTConfig
from week2_pretraining.solutions.sampling import (
    beam_search,
    contrastive_decode,
    generate,
    greedy,
    next_token_probs,
    repetition_penalty,
    sample_next_token,
)

EOS = 0


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny_gpt2(seed: int, vocab_size: int = 23) -> GPT2LMHeadModel:
    """A small GPT-2 with large random weights, so that its probabilities are far from uniform; it ends now and then."""
    torch.manual_seed(seed)
    shape = {"n_positions": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.4}
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocab_size, bos_token_id=EOS, eos_token_id=EOS, **shape)).eval()


def logits_of(model):
    return lambda token_ids, key_mask=None: model(token_ids).logits


@given(
    st.integers(0, 2**20), st.floats(0.1, 3), st.integers(1, 60), st.floats(0.02, 0.999), st.sampled_from([0.3, 9.0])
)
@settings(deadline=None, max_examples=120, derandomize=True)
def test_next_token_probs_equal_transformers_processors(seed, temperature, top_k, top_p, scale):
    logits = scale * torch.randn(4, 50, generator=seeded(seed))
    scores = TemperatureLogitsWarper(temperature)(None, logits)
    scores = TopPLogitsWarper(top_p)(None, TopKLogitsWarper(top_k)(None, scores))
    ours = next_token_probs(logits, temperature, top_k, top_p)
    torch.testing.assert_close(ours, scores.softmax(dim=-1), rtol=1e-5, atol=1e-6)


@given(st.integers(0, 2**20), st.floats(0, 5), st.integers(0, 30), st.floats(1e-6, 1), st.floats(1, 1e38))
@settings(deadline=None, max_examples=60, derandomize=True)
def test_probabilities_are_finite_and_sum_to_one_for_any_settings(seed, temperature, top_k, top_p, scale):
    logits = scale * torch.rand(3, 20, generator=seeded(seed)) - scale / 2
    logits[:, ::4] = -math.inf
    probs = next_token_probs(logits, temperature, top_k, top_p)
    assert probs.isfinite().all() and (probs >= 0).all() and (probs[:, ::4] == 0).all()
    torch.testing.assert_close(probs.sum(dim=-1), torch.ones(3), rtol=1e-5, atol=1e-6)
    assert (probs.gather(1, greedy(logits)[:, None]) > 0).all()


def test_the_settings_have_the_limits_that_they_promise():
    logits = torch.randn(6, 30, generator=seeded(0))
    one_hot = torch.nn.functional.one_hot(logits.argmax(dim=-1), 30).float()
    assert torch.equal(next_token_probs(logits, temperature=0), one_hot)
    torch.testing.assert_close(next_token_probs(logits, temperature=1e-4), one_hot)
    assert torch.equal(next_token_probs(logits, top_k=1), one_hot)
    assert torch.equal(next_token_probs(logits, top_p=1e-9), one_hot)
    torch.testing.assert_close(next_token_probs(logits, top_k=30), logits.softmax(dim=-1))
    assert torch.equal(next_token_probs(logits, top_k=10**6), next_token_probs(logits))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_give_float32_probabilities(dtype):
    logits = (4 * torch.randn(5, 40, generator=seeded(1))).to(dtype)
    probs = next_token_probs(logits, 0.7, 0, 0.9)
    assert probs.dtype == torch.float32
    assert torch.equal(probs, next_token_probs(logits.float(), 0.7, 0, 0.9))


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ({"temperature": -0.1}, "temperature"), ({"temperature": math.nan}, "temperature"),
        ({"temperature": math.inf}, "temperature"), ({"top_k": -1}, "top_k"), ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.01}, "top_p"), ({"top_p": math.nan}, "top_p"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused_with_what_came(bad, word):
    for function in (next_token_probs, sample_next_token):
        with pytest.raises(ValueError, match=f"{word} must .* got {next(iter(bad.values()))}"):
            function(torch.zeros(1, 3), **bad)


@pytest.mark.parametrize("row", [[math.nan, 0, 1], [math.inf, 0, 1], [-math.inf] * 3])
def test_logits_that_are_no_distribution_are_refused(row):
    with pytest.raises(ValueError, match=r"nan|forbids every token"):
        next_token_probs(torch.tensor([[0.0, 1.0, 2.0], row]))


def test_draws_follow_the_probabilities():
    logits = torch.randn(1, 8, generator=seeded(2))
    n = 50_000
    draws = sample_next_token(logits.expand(n, -1), 0.8, 6, 0.95, seeded(3))
    probs = next_token_probs(logits, 0.8, 6, 0.95)[0]
    counts = torch.bincount(draws, minlength=8)
    assert (counts[probs == 0] == 0).all()
    kept = probs > 0
    chi_square = ((counts - n * probs).square() / (n * probs))[kept].sum()
    assert chi_square < 40  # six degrees of freedom at most: the chance of 40 is below 1e-6


@given(st.integers(0, 2**20), st.floats(0.2, 5))
@settings(deadline=None, max_examples=40, derandomize=True)
def test_repetition_penalty_equals_transformers(seed, penalty):
    logits = 5 * torch.randn(4, 20, generator=seeded(seed))
    token_ids = torch.randint(0, 20, (4, 12), generator=seeded(seed + 1))
    library = RepetitionPenaltyLogitsProcessor(penalty)(token_ids, logits.clone())
    torch.testing.assert_close(repetition_penalty(logits, token_ids, penalty), library, rtol=1e-6, atol=1e-6)


def test_the_penalty_of_a_padded_row_is_that_of_the_row_alone():
    logits = torch.randn(2, 9, generator=seeded(4))
    token_ids, key_mask = torch.tensor([[0, 0, 3, 5], [1, 2, 3, 4]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]).bool()
    ours = repetition_penalty(logits, token_ids, 1.3, key_mask)
    assert torch.equal(ours[:1], repetition_penalty(logits[:1], torch.tensor([[3, 5]]), 1.3))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_generation_equals_transformers_with_ends_of_text(seed, penalty):
    model = tiny_gpt2(seed)
    prompts = torch.randint(1, 23, (5, 4), generator=seeded(seed))
    library = model.generate(
        prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=20, do_sample=False,
        repetition_penalty=penalty, eos_token_id=EOS, pad_token_id=EOS,
    )  # fmt: skip
    ours = generate(logits_of(model), prompts, 20, temperature=0, penalty=penalty, eos_id=EOS)
    assert torch.equal(ours, library)


def test_a_ragged_batch_writes_what_each_row_writes_alone():
    model = GPT(GPTConfig(vocab_size=31, context_length=16, d_model=16, n_heads=2, n_layers=2), generator=seeded(5))
    for parameter in model.parameters():
        parameter.data *= 8
    prompts = [torch.randint(1, 31, (n,), generator=seeded(n)) for n in (9, 1, 4)]
    padded = torch.stack([torch.nn.functional.pad(p, (9 - len(p), 0)) for p in prompts])
    key_mask = torch.arange(9) >= torch.tensor([[9 - len(p)] for p in prompts])
    together = generate(model, padded, 25, temperature=0, key_mask=key_mask)  # far beyond the context
    for row, p in zip(together, prompts, strict=True):
        alone = generate(model, p[None], 25, temperature=0)[0]
        assert torch.equal(row[9:], alone[len(p) :])


def test_sampled_text_has_the_distribution_of_the_model():
    table = torch.randn(4, 4, generator=seeded(6))
    model = lambda token_ids, key_mask=None: table[token_ids]  # noqa: E731
    n = 20_000
    texts = generate(model, torch.zeros(n, 1, dtype=torch.long), 2, generator=seeded(7))
    p = table.softmax(dim=-1)
    pairs = torch.bincount(texts[:, 1] * 4 + texts[:, 2], minlength=16) / n
    torch.testing.assert_close(pairs, (p[0][:, None] * p).flatten(), rtol=0, atol=0.02)


def test_generation_does_not_go_on_when_all_rows_have_ended():
    calls = []

    def model(token_ids, key_mask=None):
        calls.append(token_ids.shape[1])
        return torch.nn.functional.one_hot((token_ids + 1) % 6, 6).float()

    out = generate(model, torch.tensor([[1], [3]]), 100, temperature=0, eos_id=5)
    assert out.tolist() == [[1, 2, 3, 4, 5], [3, 4, 5, 5, 5]]
    assert len(calls) == 4


@pytest.mark.parametrize(
    ("shape", "mask", "words"),
    [
        ((2, 0), None, "empty"),
        ((2, 17), None, "17 tokens.* holds 16"),
        ((2, 3), [[0, 0, 0], [1, 1, 1]], "empty"),
        ((2, 3), [[1, 1, 0], [1, 1, 1]], "left"),
    ],
)
def test_prompts_that_cannot_be_continued_are_refused(shape, mask, words):
    model = GPT(GPTConfig(vocab_size=31, context_length=16, d_model=16, n_heads=2, n_layers=1))
    key_mask = None if mask is None else torch.tensor(mask).bool()
    with pytest.raises(ValueError, match=words):
        generate(model, torch.zeros(shape, dtype=torch.long), 3, key_mask=key_mask)
    if mask is None:
        with pytest.raises(ValueError, match=words):
            beam_search(model, torch.zeros(shape[1], dtype=torch.long), 2, 3)


def test_a_model_in_training_comes_back_as_it_was_even_after_an_error():
    model = GPT(GPTConfig(vocab_size=31, context_length=16, d_model=16, n_heads=2, n_layers=2))
    model.train()
    model.blocks[0].eval()
    modes = [module.training for module in model.modules()]
    generate(model, torch.tensor([[1]]), 2)
    beam_search(model, torch.tensor([1]), 2, 2)
    with pytest.raises(IndexError):
        generate(model, torch.tensor([[99]]), 2)
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("n_beams", "length_penalty"), [(2, 1.0), (3, 0.0), (4, 1.0), (5, 2.0), (3, -0.7)])
def test_beam_search_equals_transformers(seed, n_beams, length_penalty):
    model = tiny_gpt2(seed)
    prompt = torch.randint(1, 23, (3,), generator=seeded(seed))
    library = model.generate(
        prompt[None], attention_mask=torch.ones(1, 3), max_new_tokens=14, do_sample=False, num_beams=n_beams,
        length_penalty=length_penalty, early_stopping=False, eos_token_id=EOS, pad_token_id=EOS,
        return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    sequence, score = beam_search(logits_of(model), prompt, n_beams, 14, EOS, length_penalty)
    assert torch.equal(sequence, library.sequences[0])
    assert score == pytest.approx(library.sequences_scores[0].item(), rel=1e-4, abs=1e-4)  # float32 sums


@pytest.mark.parametrize("seed", range(5))
def test_one_beam_is_greedy(seed):
    model = tiny_gpt2(seed)
    prompt = torch.randint(1, 23, (3,), generator=seeded(seed))
    for length_penalty in (0.0, 1.0):
        sequence, _ = beam_search(logits_of(model), prompt, 1, 14, EOS, length_penalty)
        assert torch.equal(sequence, generate(logits_of(model), prompt[None], 14, temperature=0, eos_id=EOS)[0])


@pytest.mark.parametrize("seed", range(5))
def test_enough_beams_find_what_exhaustive_search_finds(seed):
    model, prompt, n = logits_of(tiny_gpt2(seed, vocab_size=4)), torch.tensor([1, 2]), 4
    texts = [t for m in range(1, n + 1) for t in itertools.product(range(4), repeat=m)]
    texts = [t for t in texts if EOS not in t[:-1] and (t[-1] == EOS or len(t) == n)]
    best = -math.inf
    for text in texts:
        token_ids = torch.cat([prompt, torch.tensor(text)])
        with torch.no_grad():
            log_probs = model(token_ids[None])[0].log_softmax(dim=-1)
        total = log_probs[1:-1].gather(1, token_ids[2:, None]).sum().item()
        if total > best:
            best, winner = total, token_ids
    sequence, score = beam_search(model, prompt, 300, n, EOS, length_penalty=0.0)
    assert torch.equal(sequence, winner)
    assert score == pytest.approx(best, rel=1e-4)


def test_beam_search_finds_a_likelier_text_than_greedy():
    table = torch.tensor([[0.55, 0.44, 0.01], [0.04, 0.95, 0.01], [0.6, 0.39, 0.01]]).log()
    model = lambda token_ids, key_mask=None: table[token_ids]  # noqa: E731
    one, two = (beam_search(model, torch.tensor([2]), n, 2, length_penalty=0.0) for n in (1, 2))
    assert one[0].tolist() == [2, 0, 0] and one[1] == pytest.approx(math.log(0.6 * 0.55))
    assert two[0].tolist() == [2, 1, 1] and two[1] == pytest.approx(math.log(0.39 * 0.95))


def test_contrastive_scores_are_the_papers_definition_by_hand():
    expert, amateur = torch.tensor([[0.6, 0.38, 0.02]]), torch.tensor([[0.7, 0.2, 0.1]])
    scores = contrastive_decode(expert.log(), amateur.log(), 0.1)[0].tolist()
    assert scores == pytest.approx([math.log(0.6 / 0.7), math.log(0.38 / 0.2), -math.inf], rel=1e-5)
    squared = amateur.square() / amateur.square().sum()  # temperature 0.5
    scores = contrastive_decode(expert.log(), amateur.log(), 0.02, 0.5)[0]
    torch.testing.assert_close(scores, (expert / squared).log()[0], rtol=1e-4, atol=1e-5)


def test_contrastive_generation_equals_a_logits_processor_of_transformers():
    expert, amateur = tiny_gpt2(1), tiny_gpt2(2)

    class Contrast(LogitsProcessor):
        def __call__(self, token_ids, scores):
            p = scores.softmax(dim=-1)
            ratio = p / amateur(token_ids).logits[:, -1].softmax(dim=-1)
            return torch.where(p < 0.1 * p.amax(dim=-1, keepdim=True), -math.inf, ratio.log())

    prompts = torch.randint(1, 23, (4, 3), generator=seeded(8))
    library = expert.generate(
        prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=15, do_sample=False, eos_token_id=EOS,
        pad_token_id=EOS, logits_processor=[Contrast()],
    )  # fmt: skip
    scores = lambda token_ids: contrastive_decode(expert(token_ids).logits, amateur(token_ids).logits)  # noqa: E731
    assert torch.equal(generate(scores, prompts, 15, temperature=0, eos_id=EOS), library)


def test_transformers_own_processors_pass_the_check_of_next_token_probs():
    def library(logits, temperature=1.0, top_k=0, top_p=1.0):
        logits = logits.float()
        if top_k < 0 or logits.isnan().any() or (logits == -math.inf).all(dim=-1).any() or top_p == 0:
            raise ValueError  # transformers is silent here
        if temperature == 0:
            return TopKLogitsWarper(1)(None, logits).softmax(dim=-1)
        scores = TemperatureLogitsWarper(float(temperature))(None, logits)
        scores = TopKLogitsWarper(top_k)(None, scores) if top_k else scores
        return TopPLogitsWarper(top_p)(None, scores).softmax(dim=-1)

    assert run_check("next_token_probs", library).passed
