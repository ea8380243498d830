"""Week 5's 02_kv_cache against transformers' caches, SDPA and the full forward pass; known sizes; refusals."""

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache
from transformers.cache_utils import DynamicSlidingWindowLayer
from transformers.masking_utils import sliding_window_causal_mask_function

from shared.models import course_folder, smollm2_folder
from tests.variants import kv_cache as variants
from week1_decoder.solutions.attention import MultiHeadAttention
from week1_decoder.solutions.decoder import GPT, GPTConfig
from week2_pretraining.solutions.pretraining import load_pretrained
from week2_pretraining.solutions.sampling import generate
from week5_inference.fused import FusedForward
from week5_inference.solutions.kv_cache import (
    KVCache,
    cached_forward,
    empty_cache,
    generate_cached,
    grouped_query_attention,
    kv_cache_bytes,
)

CACHES = [KVCache, variants.KVCache__lists, variants.KVCache__positions_beside]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def model() -> GPT:
    return load_pretrained(course_folder("base"), GPT)[0].eval()


@pytest.fixture(scope="module")
def library():
    return AutoModelForCausalLM.from_pretrained(course_folder("base")).eval()


def token_ids(batch: int, seq: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 2000, (batch, seq), generator=seeded(seed))


def cache_of(kind, model: GPT, batch: int, window: int | None = None):
    config = model.config
    return kind(config.n_layers, batch, config.n_heads, config.d_head, config.context_length, window)


@pytest.mark.parametrize("n_kv_heads", [1, 2, 8])
def test_attention_equals_sdpa_with_enable_gqa(n_kv_heads):
    q = torch.randn(2, 8, 5, 16, generator=seeded(0))
    k, v = torch.randn(2, 2, n_kv_heads, 7, 16, generator=seeded(1))
    visible = torch.rand(2, 5, 7, generator=seeded(2)) < 0.7
    visible[:, :, 3] = True
    theirs = F.scaled_dot_product_attention(q, k, v, attn_mask=visible[:, None], enable_gqa=True)
    torch.testing.assert_close(grouped_query_attention(q, k, v, visible), theirs, rtol=1e-5, atol=1e-6)


def test_heads_that_cannot_be_shared_out_are_refused():
    with pytest.raises(ValueError, match="the 6 query heads cannot be shared out evenly among 4"):
        grouped_query_attention(torch.zeros(1, 6, 1, 2), torch.zeros(1, 4, 1, 2), torch.zeros(1, 4, 1, 2))
    with pytest.raises(ValueError, match="same heads and keys"):
        grouped_query_attention(torch.zeros(1, 6, 1, 2), torch.zeros(1, 3, 1, 2), torch.zeros(1, 3, 2, 2))


@pytest.mark.parametrize("kind", CACHES)
@torch.no_grad()
def test_the_cached_pass_equals_the_full_one_at_every_position(model, kind):
    ids = token_ids(3, 40)
    cache, found = cache_of(kind, model, 3), []
    for start, end in ((0, 9), (9, 10), (10, 11), (11, 25), (25, 40)):
        found.append(cached_forward(model, ids[:, start:end], cache))
    torch.testing.assert_close(torch.cat(found, dim=1), model(ids), rtol=1e-4, atol=1e-4)
    cache.reset()
    torch.testing.assert_close(cached_forward(model, ids[:, 5:9], cache), model(ids[:, 5:9]), rtol=1e-4, atol=1e-4)


class Banded(torch.nn.Module):
    """Week 1's attention with a mask that hides what lies `window` tokens back, and farther."""

    def __init__(self, attention: MultiHeadAttention, window: int):
        super().__init__()
        self.attention, self.window = attention, window

    def forward(self, x, key_mask=None):
        a, positions = self.attention, torch.arange(x.shape[1])
        q, k, v = (w(x).unflatten(-1, (a.n_heads, -1)).transpose(1, 2) for w in (a.w_q, a.w_k, a.w_v))
        distance = positions[:, None] - positions
        visible = (distance >= 0) & (distance < self.window)
        return a.w_o(F.scaled_dot_product_attention(q, k, v, attn_mask=visible).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("kind", CACHES)
@torch.no_grad()
def test_beyond_the_window_the_cached_pass_equals_a_full_one_with_a_banded_mask(kind):
    config = GPTConfig(vocab_size=17, context_length=64, d_model=24, n_heads=3, n_layers=3)
    model, banded = (GPT(config, seeded(0)).eval() for _ in range(2))
    for block in banded.blocks:
        block.attention = Banded(block.attention, window=6)
    ids = torch.randint(0, 17, (2, 40), generator=seeded(1))
    cache, found = cache_of(kind, model, 2, window=6), []
    for start, end in ((0, 3), (3, 12), (12, 13), (13, 14), (14, 36), (36, 40)):
        found.append(cached_forward(model, ids[:, start:end], cache))
    torch.testing.assert_close(torch.cat(found, dim=1), banded(ids), rtol=1e-4, atol=1e-4)


def their_window_mask(queries: range, keys: range, window: int) -> torch.Tensor:
    """What transformers lets the queries at these positions see of the keys at those: (query, key)."""
    rule = sliding_window_causal_mask_function(window)
    zero = torch.zeros((), dtype=torch.long)
    return rule(zero, zero, torch.tensor(queries)[:, None], torch.tensor(keys)[None, :])


@torch.no_grad()
def test_beyond_the_window_logits_equal_those_of_transformers_with_its_window_mask(model, library):
    ids, window = token_ids(2, 60), 7
    mask = their_window_mask(range(60), range(60), window).expand(2, 1, 60, 60)
    cache, found = empty_cache(model, 2, window=window), []
    for start, end in ((0, 5), (5, 6), (6, 30), (30, 31), (31, 60)):
        found.append(cached_forward(model, ids[:, start:end], cache))
    expected = library(ids, attention_mask=mask, use_cache=False).logits
    torch.testing.assert_close(torch.cat(found, dim=1), expected, rtol=1e-4, atol=1e-4)
    assert (expected - library(ids).logits).abs().max() > 0.1  # the window matters here


@pytest.mark.parametrize("window", [2, 5, 40])
def test_a_window_reads_what_transformers_sliding_layer_reads(window):
    cache, layer, start = KVCache(1, 2, 2, 8, 40, window), DynamicSlidingWindowLayer(sliding_window=window), 0
    for new in (3, 1, 1, 9, 1, 4, 2, 6, 1):
        q = torch.randn(2, 4, new, 8, generator=seeded(start))
        k, v = torch.randn(2, 2, 2, new, 8, generator=seeded(100 + start))
        keys, values = layer.update(k, v)
        end = start + new
        mask = their_window_mask(range(start, end), range(end - keys.shape[2], end), window)
        theirs = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, enable_gqa=True)
        torch.testing.assert_close(grouped_query_attention(q, *cache.append(0, k, v)), theirs, rtol=1e-5, atol=1e-5)
        start = end


@pytest.mark.parametrize("kind", CACHES)
@torch.no_grad()
def test_ragged_rows_get_what_they_get_alone(model, kind):
    rows = [token_ids(1, n, seed=n)[0] for n in (3, 17, 9)]
    real = torch.zeros(3, 17, dtype=torch.bool)
    padded = torch.zeros(3, 17, dtype=torch.long)
    for i, row in enumerate(rows):
        real[i, : len(row)], padded[i, : len(row)] = True, row
    cache = cache_of(kind, model, 3)
    logits = cached_forward(model, padded, cache, real)
    more = token_ids(3, 4, seed=5)
    after = cached_forward(model, more, cache)
    for i, row in enumerate(rows):
        alone = model(torch.cat([row, more[i]])[None])[0]
        torch.testing.assert_close(logits[i, : len(row)], alone[: len(row)], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(after[i], alone[len(row) :], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_keys_values_and_logits_equal_those_of_transformers_caches(model, library):
    ids = token_ids(2, 20)
    for theirs in (DynamicCache(config=library.config), StaticCache(config=library.config, max_cache_len=32)):
        cache = empty_cache(model, 2)
        for start, end in ((0, 12), (12, 13), (13, 20)):
            ours = cached_forward(model, ids[:, start:end], cache)
            expected = library(ids[:, start:end], past_key_values=theirs).logits
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
        for layer in range(model.config.n_layers):
            for mine, other in (
                (cache.keys[layer], theirs.layers[layer].keys),
                (cache.values[layer], theirs.layers[layer].values),
            ):
                torch.testing.assert_close(mine[:, :, :20], other[:, :, :20], rtol=1e-4, atol=1e-4)


def test_cached_generation_writes_what_week_2_and_transformers_write(model, library):
    prompts = [token_ids(1, n, seed=n)[0].tolist() for n in (5, 30, 17)]
    for prompt, row in zip(prompts, generate_cached(model, prompts, 24), strict=True):
        ids = torch.tensor([prompt])
        assert generate(model, ids, 24, temperature=0.0)[0, len(prompt) :].tolist() == row
        options = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        assert library.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, len(prompt) :].tolist() == row


def test_with_one_row_and_one_seed_the_draws_are_those_of_week_2(model):
    prompt = token_ids(1, 12)
    settings = {"temperature": 0.9, "top_k": 40, "top_p": 0.95}
    ours = generate_cached(model, prompt.tolist(), 20, **settings, generator=seeded(3))[0]
    assert generate(model, prompt, 20, **settings, generator=seeded(3))[0, 12:].tolist() == ours


@torch.no_grad()
def test_the_fused_pass_gives_the_same_logits_with_any_rows_and_windows(model):
    fused = FusedForward(model)
    real = torch.tensor([[True] * 6, [False, False, True, True, True, False]])
    for window in (None, 5):
        caches = [empty_cache(model, 2, window) for _ in range(2)]
        for step in range(4):
            ids = token_ids(2, 6, seed=step)
            ours = cached_forward(model, ids, caches[0], real if step % 2 else None)
            theirs = fused(model, ids, caches[1], real if step % 2 else None)
            kept = real if step % 2 else torch.ones_like(real)
            torch.testing.assert_close(ours[kept], theirs[kept], rtol=1e-4, atol=1e-4)
    prompts = [[5, 6, 7], [8], [9, 10]]
    assert generate_cached(model, prompts, 12, forward=fused) == generate_cached(model, prompts, 12)
    with pytest.raises(ValueError, match="another model"):
        fused(GPT(model.config), ids, caches[0])


def test_bytes_by_formula_equal_those_of_the_tensors_and_the_papers_figures():
    assert kv_cache_bytes(32, 32, 128, 1) == 2**19  # Llama 2 7B: half a mebibyte a token in float16
    assert kv_cache_bytes(32, 8, 128, 1) == 2**17  # Llama 3 8B: 8 of 32 heads
    assert kv_cache_bytes(32, 8, 128, 32_768, window=4096) == 2**29  # Mistral 7B
    assert kv_cache_bytes(32, 1, 64, 1) == 8192  # Falcon 7B: one key head
    for window in (None, 10):
        cache = KVCache(3, 4, 2, 8, 50, window)
        assert cache.bytes == cache.keys.nbytes + cache.values.nbytes
        assert cache.bytes == kv_cache_bytes(3, 2, 8, 50, batch=4, window=window, bytes_per_number=4)


def test_the_formula_gives_the_size_of_smollm2s_cache():
    config = AutoModelForCausalLM.from_pretrained(smollm2_folder()).config
    cache = DynamicCache(config=config)
    for layer in range(config.num_hidden_layers):
        k = torch.zeros(1, config.num_key_value_heads, 7, config.hidden_size // config.num_attention_heads)
        cache.update(k, k.clone(), layer)
    size = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert size == kv_cache_bytes(30, 3, 64, 7, bytes_per_number=4)


def test_bad_sizes_and_full_caches_are_refused_with_numbers(model):
    with pytest.raises(ValueError, match="capacity must be a positive whole number, got 0"):
        KVCache(1, 1, 1, 1, 0)
    with pytest.raises(ValueError, match="window must be a positive whole number, got 0"):
        KVCache(1, 1, 1, 1, 4, window=0)
    cache = empty_cache(model, 2, capacity=8)
    cached_forward(model, token_ids(2, 6), cache)
    with pytest.raises(ValueError, match="the cache is full: a row would have 9 tokens, and holds 8"):
        cached_forward(model, token_ids(2, 3), cache)
    with pytest.raises(ValueError, match="3 rows of tokens do not fit a cache for 2"):
        cached_forward(model, token_ids(3, 1), empty_cache(model, 2))
    with pytest.raises(ValueError, match=r"takes k and v of shape \(2, 4, 1, 32\), got \(3, 4, 1, 32\)"):
        empty_cache(model, 2).append(0, *torch.zeros(2, 3, 4, 1, 32))
    with pytest.raises(ValueError, match="cannot be cut to"):
        cache.truncate(torch.tensor([7, 2]))
    windowed = empty_cache(model, 1, window=4)
    cached_forward(model, token_ids(1, 6), windowed)
    with pytest.raises(ValueError, match="has overwritten"):
        windowed.truncate(torch.tensor([5]))
    with pytest.raises(ValueError, match="do not fit in a context of 256"):
        cached_forward(model, token_ids(1, 257), empty_cache(model, 1, capacity=300))
    post = GPT(GPTConfig(vocab_size=5, context_length=4, d_model=4, n_heads=1, n_layers=1, norm_placement="post"))
    with pytest.raises(ValueError, match="no cached pass for norm_placement='post'"):
        cached_forward(post, torch.zeros(1, 1, dtype=torch.long), empty_cache(post, 1))


def test_real_and_lengths_of_another_shape_are_refused(model):
    cache = empty_cache(model, 2)
    with pytest.raises(ValueError, match=r"real must be of shape \(2, 3\), got \(2, 5\)"):
        cached_forward(model, token_ids(2, 3), cache, torch.ones(2, 5, dtype=torch.bool))
    assert cache.lengths.tolist() == [0, 0]
    with pytest.raises(ValueError, match="one length for each of 2 rows"):
        cache.truncate(torch.tensor([0]))


@pytest.mark.parametrize("window", [None, 8])
@torch.no_grad()
def test_a_half_precision_cache_serves_a_float32_model(model, window):
    config, ids = model.config, token_ids(2, 20)
    shape = config.n_layers, 2, config.n_heads, config.d_head, 32, window
    for forward in (cached_forward, FusedForward(model)):
        half, exact = KVCache(*shape, dtype=torch.float16), KVCache(*shape)
        assert half.bytes == exact.bytes // 2
        for start, end in ((0, 12), (12, 13), (13, 20)):
            ours, expected = (forward(model, ids[:, start:end], cache) for cache in (half, exact))
            torch.testing.assert_close(ours, expected, rtol=1e-2, atol=2e-2)  # float16 keeps three digits
            assert ours.dtype == torch.float32


@torch.no_grad()
def test_nan_that_a_row_has_left_behind_does_not_reach_its_next_text(model):
    ids, cache = token_ids(2, 9), empty_cache(model, 2)
    for layer in range(model.config.n_layers):
        k = torch.full((2, 4, 6, 32), torch.nan)
        k[1] = 0.5
        cache.append(layer, k, k)
    cache.reset([0])
    torch.testing.assert_close(cached_forward(model, ids, cache)[0], model(ids[:1])[0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_row_cut_back_goes_on_as_if_the_rest_had_never_been_there(model):
    ids, cache = token_ids(2, 20), empty_cache(model, 2)
    cached_forward(model, ids[:, :12], cache)
    cache.truncate(torch.tensor([12, 5]))
    logits = cached_forward(model, ids[:, 12:], cache)
    for row, kept in enumerate((12, 5)):
        alone = model(torch.cat([ids[row, :kept], ids[row, 12:]])[None])[0, kept:]
        torch.testing.assert_close(logits[row], alone, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_model_without_positions_norms_and_biases_has_a_cached_pass_too():
    options = {"positions": "none", "norm": "none", "bias": False}
    model = GPT(GPTConfig(vocab_size=17, context_length=16, d_model=24, n_heads=3, n_layers=2, **options), seeded(0))
    ids, cache = torch.randint(0, 17, (2, 9), generator=seeded(1)), empty_cache(model, 2)
    found = torch.cat([cached_forward(model, ids[:, i : i + 3], cache) for i in (0, 3, 6)], dim=1)
    torch.testing.assert_close(found, model(ids), rtol=1e-4, atol=1e-4)


def test_prompts_may_be_one_tensor(model):
    prompts = token_ids(3, 6)
    assert generate_cached(model, prompts, 4) == generate_cached(model, prompts.tolist(), 4)


@pytest.mark.parametrize(
    ("prompts", "n", "message"),
    [
        ([], 1, "a prompt is empty"),
        ([[1], []], 1, "a prompt is empty"),
        ([[1] * 250], 7, "more than the context of 256"),
        ([[1]], -1, "max_new_tokens must be 0 or more"),
    ],
)
def test_prompts_that_cannot_be_continued_are_refused(model, prompts, n, message):
    with pytest.raises(ValueError, match=message):
        generate_cached(model, prompts, n)


def test_a_cache_follows_the_dtype_of_the_model_and_its_device():
    with torch.device("meta"):
        model = GPT(GPTConfig(vocab_size=5, context_length=4, d_model=4, n_heads=1, n_layers=1)).bfloat16()
    cache = empty_cache(model, 3)
    assert cache.keys.dtype == torch.bfloat16 and cache.keys.device.type == "meta"
