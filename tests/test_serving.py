"""Lesson 05 of week 5, the exercises: against contiguous caches, the target's exact distribution, and transformers."""

import copy
import json
import math

import pytest
import torch
from scipy import stats
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

from shared.models import course_folder
from week1_decoder.solutions.decoder import GPT, GPTConfig
from week2_pretraining.pretrain import PretrainConfig, held_out_batches
from week2_pretraining.solutions.pretraining import evaluate_loss, load_pretrained
from week2_pretraining.solutions.sampling import generate, next_token_probs
from week5_inference.larger import FOLDER, from_8_bits, grow, load_larger, to_8_bits
from week5_inference.remembering import Remembering
from week5_inference.solutions.serving import (
    OutOfBlocks,
    PagedKVCache,
    Request,
    acceptance_probability,
    blocks_for,
    continuous_batching,
    expected_tokens,
    speculative_decode,
    static_batching,
    stop_at,
)


def kv(n, seed=0, heads=2, d_head=3, layers=2):
    return torch.randn(2, layers, heads, n, d_head, generator=torch.Generator().manual_seed(seed))


# --- the cache ----------------------------------------------------------------------------------------------------


def test_a_random_life_of_many_sequences_equals_contiguous_caches():
    generator = torch.Generator().manual_seed(3)
    cache, contiguous, refused, n_blocks = PagedKVCache(2, 13, 4, 2, 3), {}, 0, 13
    for step in range(600):
        action = int(torch.randint(5, (), generator=generator))
        names = sorted(contiguous)
        if action == 0 or not names:
            cache.add(step)
            contiguous[step] = kv(0)
        elif action in (1, 2):
            name = names[int(torch.randint(len(names), (), generator=generator))]
            new = kv(int(torch.randint(7, (), generator=generator)), seed=step)
            try:
                cache.append(name, *new)
                contiguous[name] = torch.cat([contiguous[name], new], dim=3)
            except OutOfBlocks:
                refused += 1
                victim = max(names, key=lambda n: contiguous[n].shape[3])
                cache.free(victim)
                del contiguous[victim]
        elif action == 3:
            name = names[int(torch.randint(len(names), (), generator=generator))]
            length = int(torch.randint(contiguous[name].shape[3] + 1, (), generator=generator))
            cache.fork(name, step, length)
            contiguous[step] = contiguous[name][:, :, :, :length].clone()
        else:
            name = names[int(torch.randint(len(names), (), generator=generator))]
            cache.free(name)
            del contiguous[name]
        for name, expected in contiguous.items():
            assert torch.equal(torch.stack(cache(name)), expected)
        used = {block for table in cache.tables.values() for block in table}
        assert used.isdisjoint(cache.free_blocks) and len(used) + len(set(cache.free_blocks)) == n_blocks
    assert refused > 5


def test_gathered_pages_continue_a_text_in_transformers_as_its_own_cache_does():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_positions=64, n_embd=16, n_head=2, n_layer=3)
    model = GPT2LMHeadModel(config).eval()
    ids = torch.randint(50, (1, 21))
    with torch.no_grad():
        own = DynamicCache(config=config)
        model(ids[:, :20], past_key_values=own)
        paged = PagedKVCache(3, 8, 4, 2, 8)
        paged.add("text")
        keys, values = (torch.stack([getattr(layer, part)[0] for layer in own.layers]) for part in ("keys", "values"))
        for start, stop in ((0, 7), (7, 8), (8, 20)):
            paged.append("text", keys[:, :, start:stop], values[:, :, start:stop])
        rebuilt = DynamicCache(config=config)
        for layer, (k, v) in enumerate(zip(*paged("text"), strict=True)):
            rebuilt.update(k[None], v[None], layer)
        expected = model(ids[:, 20:], past_key_values=own).logits
        torch.testing.assert_close(model(ids[:, 20:], past_key_values=rebuilt).logits, expected, rtol=0, atol=0)


@pytest.mark.parametrize("size", ["n_layers", "n_blocks", "block_size", "n_kv_heads", "d_head"])
@pytest.mark.parametrize("value", [0, -1, 2.0])
def test_a_size_below_one_is_refused_by_name(size, value):
    sizes = dict.fromkeys(("n_layers", "n_blocks", "block_size", "n_kv_heads", "d_head"), 2) | {size: value}
    with pytest.raises(ValueError, match=f"{size} must be a whole number of 1 or more"):
        PagedKVCache(**sizes)


def test_wrong_uses_of_the_cache_are_told():
    cache = PagedKVCache(2, 2, 4, 2, 3)
    cache.add("a")
    cache.append("a", *kv(5))
    with pytest.raises(ValueError, match="in the cache already"):
        cache.add("a")
    with pytest.raises(ValueError, match="has 5 tokens"):
        cache.fork("a", "b", 6)
    assert "b" not in cache.tables
    with pytest.raises(OutOfBlocks, match="1 blocks, and 0 are free"):
        cache.append("a", *kv(4))
    with pytest.raises(KeyError):
        cache.append("nobody", *kv(1))
    assert blocks_for(0, 4) == 0 and blocks_for(4, 4) == 1 and blocks_for(5, 4) == 2


# --- scheduling ---------------------------------------------------------------------------------------------------


def random_requests(seed, n=40, span=30.0):
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(n, 3, generator=generator).tolist()
    return [Request(span * x, 5 + int(40 * y), 1 + int(60 * z * z)) for x, y, z in draws]


COSTS = (lambda n: 0.002 * n, lambda n: 0.05 + 0.004 * n)


@pytest.mark.parametrize("seed", range(4))
def test_continuous_batching_never_breaks_its_promises(seed):
    requests = random_requests(seed)
    results = continuous_batching(requests, 4, *COSTS, n_blocks=20, block_size=8)
    tokens = sum(request.n_new for request in requests)
    assert max(finished for _, finished in results) <= 30 + tokens * COSTS[1](1) + 40
    for request, (first_token, finished) in zip(requests, results, strict=True):
        assert request.arrival + COSTS[0](request.n_prompt) <= first_token <= finished
        least = (request.n_new - 1) * COSTS[1](1)
        assert finished - first_token >= least - 1e-9
    order = sorted(range(len(requests)), key=lambda i: requests[i].arrival)
    first = [results[i][0] for i in order]
    assert first == sorted(first)  # nobody overtakes
    for moment in first:  # never more at once than there are slots and blocks
        inside = [r for r, s in zip(requests, results, strict=True) if s[0] - 1e-9 <= moment < s[1] - 1e-9]
        assert len(inside) <= 4
        assert sum(blocks_for(r.n_prompt + r.n_new, 8) for r in inside) <= 20


@pytest.mark.parametrize("seed", range(4))
def test_continuous_batching_finishes_a_crowd_before_static_batching(seed):
    requests = random_requests(seed, span=1.0)
    mean = {
        schedule.__name__: sum(finished for _, finished in schedule(requests, 4, *COSTS)) / len(requests)
        for schedule in (continuous_batching, static_batching)
    }
    assert mean["continuous_batching"] < 0.85 * mean["static_batching"]


def test_with_one_slot_both_schedules_are_a_queue():
    requests = random_requests(7, n=15)
    continuous, static = (schedule(requests, 1, *COSTS) for schedule in (continuous_batching, static_batching))
    for one, other in zip(continuous, static, strict=True):
        assert math.isclose(one[0], other[0]) and math.isclose(one[1], other[1])


@pytest.mark.parametrize(
    ("request_", "options", "message"),
    [
        (Request(0, 0, 1), {}, "at least one each"),
        (Request(0, 1, 0), {}, "at least one each"),
        (Request(0, 30, 30), {"n_blocks": 3, "block_size": 16}, "needs 4 blocks of 16, and there are 3"),
        (Request(0, 1, 1), {"block_size": 0}, "must be 1 or more"),
    ],
)
def test_a_request_that_could_never_run_is_refused(request_, options, message):
    with pytest.raises(ValueError, match=message):
        continuous_batching([request_], 2, *COSTS, **options)
    with pytest.raises(ValueError, match="n_slots"):
        continuous_batching([Request(0, 1, 1)], 0, *COSTS)


# --- speculative decoding -----------------------------------------------------------------------------------------


def tiny(seed, vocab=5, scale=8.0):
    model = GPT(GPTConfig(vocab, 16, 8, 2, 1), torch.Generator().manual_seed(seed)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    return model


def exact(model, prompt, length, temperature):
    """The probability of every continuation of this length."""
    texts = {tuple(prompt.tolist()): 1.0}
    with torch.no_grad():
        for _ in range(length):
            longer = {}
            for text, probability in texts.items():
                probs = next_token_probs(model(torch.tensor([text]))[:, -1], temperature)[0]
                longer |= {(*text, token): probability * p for token, p in enumerate(probs.tolist())}
            texts = longer
    return texts


@pytest.mark.parametrize(("n_draft", "temperature"), [(1, 1.5), (3, 1.0)])
def test_whole_continuations_have_exactly_the_targets_distribution(n_draft, temperature):
    target, draft = tiny(0, vocab=3, scale=4), tiny(1, vocab=3, scale=4)
    prompt = torch.tensor([1, 0])
    expected = exact(target, prompt, 2, temperature)
    generator = torch.Generator().manual_seed(n_draft)
    counts = dict.fromkeys(expected, 0)
    n = 500
    for _ in range(n):
        ids, _ = speculative_decode(target, draft, prompt, n_draft, 2, temperature, generator=generator)
        counts[tuple(ids.tolist())] += 1
    likely = [text for text, p in expected.items() if n * p >= 5]
    rare = [text for text in expected if text not in likely]
    observed = [counts[text] for text in likely] + [sum(counts[text] for text in rare)]
    wanted = [n * expected[text] for text in likely] + [n * sum(expected[text] for text in rare)]
    if wanted[-1] < 5:
        observed[-2:], wanted[-2:] = [sum(observed[-2:])], [sum(wanted[-2:])]
    scale = n / sum(wanted)  # float32 probabilities, summed
    assert stats.chisquare(observed, [w * scale for w in wanted]).pvalue > 1e-3
    draft_expected = exact(draft, prompt, 2, temperature)  # and the test could tell: the draft's is far from it
    assert sum(abs(expected[t] - draft_expected[t]) for t in expected) / 2 > 0.2


@pytest.mark.parametrize("n_draft", [1, 2, 3, 7])
def test_greedy_speculation_equals_the_targets_greedy_text(n_draft):
    target, draft = tiny(0), tiny(1)
    prompt = torch.tensor([2, 4, 1])
    expected = generate(target, prompt[None], 12, temperature=0)[0]
    ids, accepted = speculative_decode(target, draft, prompt, n_draft, 12, temperature=0)
    assert torch.equal(ids, expected) and 0 <= accepted <= 12
    ids, accepted = speculative_decode(target, target, prompt, n_draft, 12, temperature=0)
    assert torch.equal(ids, expected)
    assert accepted == 12 - math.ceil(12 / (n_draft + 1))  # one token of each round is the target's own


def test_greedy_speculation_equals_transformers_assisted_generation():
    models = []
    for seed, layers in ((0, 2), (1, 1)):
        torch.manual_seed(seed)
        config = GPT2Config(vocab_size=40, n_positions=64, n_embd=16, n_head=2, n_layer=layers, initializer_range=0.6)
        config.bos_token_id = config.eos_token_id = config.pad_token_id = 0
        models.append(GPT2LMHeadModel(config).eval())
    target, draft = models
    prompt = torch.tensor([5, 9, 2])
    settings = {"max_new_tokens": 20, "do_sample": False, "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    theirs = target.generate(prompt[None], assistant_model=copy.deepcopy(draft), **settings)[0]
    ours, _ = speculative_decode(
        lambda ids: target(ids).logits, lambda ids: draft(ids).logits, prompt, 4, 20, temperature=0, eos_id=0
    )
    assert torch.equal(ours, theirs)


def test_the_acceptance_rate_is_the_overlap_and_tokens_a_round_follow_the_formula():
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.3, 0.5])
    calls = []

    def flat(probs, note=None):
        def model(ids):
            if note is not None:
                note.append(ids.shape[1])
            return probs.log().expand(1, ids.shape[1], 3)

        return model

    a = acceptance_probability(p, q).item()
    assert math.isclose(a, 0.7, rel_tol=1e-6)
    ids, accepted = speculative_decode(
        flat(p, calls), flat(q), torch.tensor([0]), 3, 3000, generator=torch.Generator().manual_seed(0)
    )
    per_round = 3000 / len(calls)
    assert abs(per_round - expected_tokens(a, 3)) < 0.1  # standard error 0.03
    assert accepted == 3000 - len(calls)
    assert math.isclose(expected_tokens(0.7, 3), (1 - 0.7**4) / (1 - 0.7))
    assert expected_tokens(1.0, 4) == 5


def test_acceptance_probability_is_one_minus_total_variation():
    p, q = torch.softmax(torch.randn(2, 4, 6, 50, generator=torch.Generator().manual_seed(0)), dim=-1)
    torch.testing.assert_close(acceptance_probability(p, q), 1 - (p - q).abs().sum(-1) / 2)


def test_wrong_settings_of_speculation_are_told():
    model = tiny(0)
    with pytest.raises(ValueError, match="at least one token id"):
        speculative_decode(model, model, torch.tensor([], dtype=torch.long), 2, 3)
    with pytest.raises(ValueError, match="n_draft must be 1 or more"):
        speculative_decode(model, model, torch.tensor([1]), 0, 3)
    with pytest.raises(ValueError, match="do not fit in a context of 16"):
        speculative_decode(model, model, torch.tensor([1]), 2, 16)
    before = torch.tensor([1, 2])
    assert torch.equal(speculative_decode(model, model, before, 2, 0)[0], before)


# --- streaming ----------------------------------------------------------------------------------------------------


def test_text_streamed_through_stop_at_is_the_text_cut_once():
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        letters = torch.randint(3, (30,), generator=generator).tolist()
        text = "".join("abc"[i] for i in letters)
        stop = ["abca", "cc"] if letters[0] else ["bab"]
        sent, n, stopped = "", 0, False
        while n < len(text) and not stopped:
            n += 1 + int(torch.randint(4, (), generator=generator))
            safe, stopped = stop_at(text[:n], stop)
            assert safe.startswith(sent)  # nothing is ever taken back
            sent = safe
        first = min((text.find(word) for word in stop if word in text), default=None)
        assert stopped == (first is not None)
        assert sent == text[:first] if stopped else text.startswith(sent)


def test_stop_strings_that_are_none_are_refused():
    for stop in ("text", [""], ["a", ""]):
        with pytest.raises(ValueError, match="list of strings"):
            stop_at("some text", stop)


# --- the larger model, and models that remember --------------------------------------------------------------------


def test_a_model_that_remembers_gives_the_logits_of_the_whole_row():
    model, generator = tiny(2, scale=3.0), torch.Generator().manual_seed(0)
    remembering, row = Remembering(model), torch.randint(5, (1, 6), generator=generator)
    for _ in range(30):  # rows that grow, and rows that turn off somewhere
        if row.shape[1] > 13 or torch.rand((), generator=generator) < 0.4:
            row = row[:, : int(torch.randint(1, row.shape[1] + 1, (), generator=generator))]
        row = torch.cat([row, torch.randint(5, (1, 2), generator=generator)], dim=1)
        with torch.no_grad():
            torch.testing.assert_close(remembering(row), model(row), rtol=1e-4, atol=1e-4)
    assert remembering.tokens < 30 * 8
    remembering.forget()
    assert remembering.calls == 0 and torch.allclose(remembering(row[:, :3]), model(row[:, :3]), atol=1e-4)


def test_speculation_over_caches_gives_the_same_text():
    target, draft = tiny(0), tiny(1)
    prompt = torch.tensor([2, 4, 1])
    expected, accepted = speculative_decode(target, draft, prompt, 3, 12, temperature=0)
    cached = Remembering(target), Remembering(draft)
    ids, n = speculative_decode(*cached, prompt, 3, 12, temperature=0)
    assert torch.equal(ids, expected) and n == accepted
    assert cached[0].calls == 12 - accepted  # one call of the target a round, and one token of each round is its own


def test_a_grown_model_says_what_the_small_one_says():
    model = tiny(3, scale=1.0)
    larger = grow(model, 2)
    ids = torch.randint(5, (2, 10), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(larger(ids), model(ids), rtol=1e-5, atol=1e-6)
    assert larger.config.n_layers == 3 * model.config.n_layers


def test_the_larger_model_in_8_bits_is_the_better_one_and_small():
    about = json.loads((FOLDER / "training.json").read_text())["held_out_nats_per_token"]
    model, tokenizer = load_larger()
    assert model.config.n_layers == 12 and not model.training and len(tokenizer) == model.config.vocab_size
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 4e6
    batch = held_out_batches(tokenizer, PretrainConfig(), n_batches=1)
    assert evaluate_loss(model, batch) < evaluate_loss(load_pretrained(course_folder("base"), GPT)[0], batch)
    assert about["larger, stored in 8 bits"] < about["course model"]
    state = tiny(4).state_dict()
    restored = from_8_bits(to_8_bits(state))
    for name, value in state.items():
        step = value.abs().amax(dim=-1, keepdim=True) / 127 if value.dim() == 2 else 0
        assert ((restored[name] - value).abs() <= step / 2 * 1.001 + 1e-9).all()


def test_a_missing_larger_model_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m week5_inference.larger"):
        load_larger(GPT, tmp_path)
