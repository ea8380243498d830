"""Lesson 05 of week 4: prefixes, prefix attention and biases against PEFT, transformers, PyTorch and invariants."""

import copy
import warnings

import peft
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from shared.models import course_folder
from tests.variants import other_peft as variants
from week1_decoder.solutions.attention import attention
from week1_decoder.solutions.decoder import GPT, GPTConfig
from week4_finetuning.solutions.other_peft import PrefixTuning, as_cache, bitfit_parameters, prefix_attention

PREFIXES = [PrefixTuning, *(value for name, value in vars(variants).items() if name.startswith("PrefixTuning__"))]
ATTENTIONS = [prefix_attention, *(v for name, v in vars(variants).items() if name.startswith("prefix_attention__"))]
SIZES = {"n_prefix": 5, "n_layers": 4, "n_heads": 4, "d_head": 32, "d_hidden": 16}  # of the course model


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def course_model() -> nn.Module:
    return AutoModelForCausalLM.from_pretrained(course_folder("base")).eval()


def token_ids(seq: int = 12, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, 2000, (2, seq), generator=seeded(seed))


def padded_mask() -> torch.Tensor:
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[1, 8:] = 0
    return mask


def peft_prefix(projection: bool) -> tuple[nn.Module, nn.Module]:
    """The course model with PEFT's prefix, and the module that makes the prefix."""
    config = peft.PrefixTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=SIZES["n_prefix"],
        prefix_projection=projection,
        encoder_hidden_size=SIZES["d_hidden"],
    )
    model = peft.get_peft_model(course_model(), config).eval()
    return model, next(m for m in model.modules() if type(m).__name__ == "PrefixEncoder")


def run(model: nn.Module, prefix: nn.Module, ids: torch.Tensor, mask: torch.Tensor, **options) -> torch.Tensor:
    pairs = prefix(len(ids))
    covered = torch.cat([torch.ones(len(ids), pairs[0][0].shape[2], dtype=torch.long), mask], dim=1)
    return model(ids, attention_mask=covered, past_key_values=as_cache(pairs), **options).logits


def rows_of(prefix: nn.Module) -> torch.Tensor:
    """(n_prefix, n_layers · 2 · d_model), as PEFT lays out a plain prefix."""
    pairs = torch.stack([torch.stack(tuple(pair))[:, 0] for pair in prefix(1)])
    return pairs.permute(3, 0, 1, 2, 4).flatten(1)


@torch.no_grad()
@pytest.mark.parametrize("Prefix", PREFIXES, ids=lambda c: c.__name__)
def test_any_right_prefix_gives_pefts_logits(Prefix):
    torch.manual_seed(0)
    prefix, (theirs, encoder), base = Prefix(**SIZES), peft_prefix(projection=False), course_model()
    encoder.embedding.weight.copy_(rows_of(prefix))
    mask = padded_mask()
    real = mask.bool()
    expected = theirs(input_ids=token_ids(), attention_mask=mask).logits
    for folded in (False, True):
        if folded:
            prefix.fold()
        ours = run(base, prefix, token_ids(), mask)
        torch.testing.assert_close(ours[real], expected[real], rtol=1e-4, atol=1e-4)
    assert (expected - base(token_ids(), attention_mask=mask).logits)[real].abs().max() > 0.01
    assert sum(p.numel() for p in prefix.parameters()) == theirs.get_nb_trainable_parameters()[0]


def test_the_mlp_equals_pefts_in_keys_values_logits_and_gradients():
    torch.manual_seed(0)
    prefix, (theirs, encoder) = PrefixTuning(**SIZES), peft_prefix(projection=True)
    assert sum(p.numel() for p in prefix.parameters()) == theirs.get_nb_trainable_parameters()[0]
    with torch.no_grad():
        encoder.embedding.weight.copy_(prefix.table)
    encoder.transform[0].load_state_dict(prefix.w_1.state_dict())
    encoder.transform[2].load_state_dict(prefix.w_2.state_dict())
    for layer, (k, v) in zip(theirs.get_prompt(3).layers, prefix(3), strict=True):
        torch.testing.assert_close(k, layer.keys, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(v, layer.values, rtol=1e-5, atol=1e-6)
    mask = torch.ones(2, 12, dtype=torch.long)
    ours = run(course_model().requires_grad_(False), prefix, token_ids(), mask)
    expected = theirs(input_ids=token_ids(), attention_mask=mask).logits
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    for logits in (ours, expected):
        F.cross_entropy(logits[:, :-1].flatten(0, 1), token_ids()[:, 1:].flatten()).backward()
    gradients = [(prefix.table, encoder.embedding.weight)]
    gradients += zip(prefix.w_1.parameters(), encoder.transform[0].parameters(), strict=True)
    gradients += zip(prefix.w_2.parameters(), encoder.transform[2].parameters(), strict=True)
    for one, other in gradients:
        assert one.grad.any()
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_positions_go_on_behind_the_prefix_and_peft_moves_those_that_are_given():
    torch.manual_seed(0)
    prefix, (theirs, encoder), base = PrefixTuning(**SIZES), peft_prefix(projection=False), course_model()
    encoder.embedding.weight.copy_(rows_of(prefix))
    ids, mask, positions = token_ids(), torch.ones(2, 12, dtype=torch.long), torch.arange(12)[None]
    ours = run(base, prefix, ids, mask)
    torch.testing.assert_close(run(base, prefix, ids, mask, position_ids=positions + 5), ours, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        theirs(input_ids=ids, attention_mask=mask, position_ids=positions).logits, ours, rtol=0, atol=1e-4
    )
    assert (run(base, prefix, ids, mask, position_ids=positions) - ours).abs().max() > 0.1


@torch.no_grad()
def test_the_keys_and_values_of_real_tokens_as_a_prefix_are_those_tokens():
    base, ids = course_model(), token_ids(20)
    first = base(ids[:, :7], use_cache=True).past_key_values
    pairs = [(layer.keys, layer.values) for layer in first.layers]
    cached = base(ids[:, 7:], past_key_values=as_cache(pairs)).logits
    torch.testing.assert_close(cached, base(ids).logits[:, 7:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("Prefix", PREFIXES, ids=lambda c: c.__name__)
def test_training_lowers_the_loss_leaves_the_model_alone_and_survives_folding_and_saving(Prefix):
    torch.manual_seed(0)
    base, prefix, ids = course_model().requires_grad_(False), Prefix(**SIZES), token_ids()
    before, mask = copy.deepcopy(base.state_dict()), torch.ones(2, 12, dtype=torch.long)
    optimizer, losses = torch.optim.AdamW(prefix.parameters(), lr=3e-2), []
    for _ in range(12):
        loss = F.cross_entropy(run(base, prefix, ids, mask)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    expected = run(base, prefix, ids, mask)
    prefix.fold()
    again = Prefix(**SIZES)
    again.fold()
    again.load_state_dict(prefix.state_dict())
    for module in (prefix, again):
        torch.testing.assert_close(run(base, module, ids, mask), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("attend", ATTENTIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize(("seq", "n_prefix"), [(1, 1), (1, 4), (6, 1), (3, 9), (7, 7), (5, 0)])
def test_prefix_attention_equals_sdpa_and_week_1(attend, seq, n_prefix):
    generator = seeded(seq + 10 * n_prefix)
    q, k, v = (torch.randn(2, 3, seq, 8, generator=generator) for _ in range(3))
    prefix_k, prefix_v = (torch.randn(2, 3, n_prefix, 8, generator=generator) for _ in range(2))
    keys, values = torch.cat([prefix_k, k], dim=2), torch.cat([prefix_v, v], dim=2)
    mask = torch.cat([torch.ones(seq, n_prefix), torch.ones(seq, seq).tril()], dim=1).bool()
    found = attend(q, k, v, prefix_k, prefix_v)
    expected = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found, attention(q, keys, values), rtol=1e-5, atol=1e-6)


def test_a_token_of_the_sequence_changes_nothing_before_it_and_the_prefix_changes_all():
    q, k, v, prefix_k, prefix_v = (torch.randn(1, 2, 6, 4, generator=seeded(i)) for i in range(5))
    before = prefix_attention(q, k, v, prefix_k, prefix_v)
    k[:, :, 4] += 1
    after = prefix_attention(q, k, v, prefix_k, prefix_v)
    assert torch.equal(after[:, :, :4], before[:, :, :4])
    assert (after[:, :, 4:] != before[:, :, 4:]).any(dim=-1).all()
    prefix_v[:, :, 5] += 1
    assert (prefix_attention(q, k, v, prefix_k, prefix_v) != after).all()


def test_bitfit_on_gpt2_learns_what_peft_calls_biases_with_lora_of_bias_all():
    model = course_model()
    found = {name for name, _ in bitfit_parameters(model)}
    config = peft.LoraConfig(r=2, target_modules=["c_attn"], bias="all", fan_in_fan_out=True)
    theirs = peft.get_peft_model(course_model(), config)
    expected = {name for name, p in theirs.named_parameters() if p.requires_grad and "lora_" not in name}
    clean = {name.removeprefix("base_model.model.").replace(".base_layer", "") for name in expected}
    assert found == clean
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 5760


def test_bitfit_trains_the_biases_of_our_gpt_and_nothing_else():
    config = GPTConfig(vocab_size=11, context_length=8, d_model=6, n_heads=2, n_layers=2)
    model = GPT(config, seeded(0))
    found = dict(bitfit_parameters(model))
    before, ids = copy.deepcopy(model.state_dict()), torch.randint(0, 11, (2, 8), generator=seeded(1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    F.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and changed <= set(found)
    assert all(name.endswith("bias") for name in found)


def llama(**options) -> nn.Module:
    sizes = {"hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 3, "vocab_size": 20}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=1, **options))


def test_llama_has_no_biases_and_the_error_says_what_to_do():
    model = llama()
    with pytest.raises(ValueError, match="LlamaForCausalLM has no biases: norms_too=True"):
        bitfit_parameters(model)
    assert all(p.requires_grad for p in model.parameters())
    gains = bitfit_parameters(model, norms_too=True)
    assert len(gains) == 2 * 3 + 1
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {name for name, _ in gains}


def test_llama_with_biases_of_zero_is_the_same_model_and_can_learn_them():
    plain, biased = llama().eval(), llama(attention_bias=True, mlp_bias=True).eval()
    missing = biased.load_state_dict(plain.state_dict(), strict=False)
    found = bitfit_parameters(biased)
    assert {name for name, _ in found} == set(missing.missing_keys)
    assert len(found) == 7 * 3
    with torch.no_grad():
        for _, bias in found:
            bias.zero_()
        ids = torch.arange(10)[None]
        torch.testing.assert_close(biased(ids).logits, plain(ids).logits)


def test_t5s_relative_attention_bias_is_an_embedding():
    config = T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=12, decoder_start_token_id=0)
    model = T5ForConditionalGeneration(config)
    assert any("bias" in name for name, _ in model.named_parameters())
    with pytest.raises(ValueError, match="has no biases: norms_too=True"):
        bitfit_parameters(model)
    assert all("relative" not in name for name, _ in bitfit_parameters(model, norms_too=True))


def test_an_optimizer_takes_the_parameters_of_a_model_that_shares_a_bias():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].bias = model[0].bias
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.optim.SGD([p for _, p in bitfit_parameters(model)], lr=0.1)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: PrefixTuning(**(SIZES | {"n_prefix": 0})), "n_prefix must be a whole number of at least 1, got 0"),
        (lambda: PrefixTuning(**(SIZES | {"d_hidden": 2.5})), "d_hidden .* got 2.5"),
        (lambda: PrefixTuning(**SIZES)(-1), "batch .* got -1"),
        (lambda: bitfit_parameters(nn.Linear(2, 2, bias=False)), "Linear has no biases, and no norms with gains"),
        (lambda: bitfit_parameters(nn.Linear(2, 2, bias=False), norms_too=True), "no norms with gains"),
        (
            lambda: prefix_attention(*[torch.zeros(2, 1, 3, 4)] * 3, *[torch.zeros(1, 1, 2, 4)] * 2),
            r"prefix must be \(2, 1, n_prefix, 4\), as q is; got \(1, 1, 2, 4\)",
        ),
        (lambda: prefix_attention(*[torch.zeros(3, 4)] * 5), "must be of one"),
        (
            lambda: prefix_attention(torch.zeros(1, 1, 2, 4), *[torch.zeros(1, 1, 3, 4)] * 4),
            "q, k and v must be of one",
        ),
    ],
)
def test_bad_input_gets_an_error_that_says_what_came(call, words):
    with pytest.raises(ValueError, match=words):
        call()
