"""Lesson 03's answers against PyTorch, transformers and invariants."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model

from week1_decoder.solutions.decoder import (
    GPT,
    Block,
    FeedForward,
    GPTConfig,
    LayerNorm,
    count_parameters,
    from_gpt2_state_dict,
    init_weights,
    sinusoidal_positions,
    transformer_flops,
)

SMALL = dict(vocab_size=97, context_length=40, d_model=48, n_heads=4, n_layers=3)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shaken(module: nn.Module, size: float = 0.2) -> nn.Module:
    """Random values everywhere, so that a weight of 1 or a bias of 0 hides nothing."""
    rng = generator(9)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=rng))
    return module.eval()


def small_gpt2(**changes) -> GPT2LMHeadModel:
    sizes = dict(vocab_size=97, n_positions=40, n_embd=48, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0)
    return shaken(GPT2LMHeadModel(GPT2Config(**{**sizes, **changes})))


def loaded(state_dict: dict, config: GPTConfig) -> GPT:
    model = GPT(config)
    model.load_state_dict(from_gpt2_state_dict(state_dict, config))
    return model.eval()


# Positions


def test_first_sinusoids_are_those_of_the_paper():
    table = sinusoidal_positions(51, 512)
    assert table[0].tolist() == [0.0, 1.0] * 256
    assert table[50, 0].item() == pytest.approx(math.sin(50), abs=1e-5)
    assert table[50, 257].item() == pytest.approx(math.cos(50 / 10000 ** (256 / 512)), abs=1e-5)


def test_dot_products_of_sinusoids_depend_on_the_distance_alone():
    table = sinusoidal_positions(200, 64).double()
    products = table @ table.T
    for distance in (1, 17, 100):
        diagonal = products.diagonal(distance)
        assert torch.allclose(diagonal, diagonal[0].expand_as(diagonal), atol=1e-3)


# Parts against PyTorch: one float32 operation, 1e-5


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_layer_norm_equals_pytorch_with_gradients(bias, scale):
    ours, theirs = LayerNorm(24, bias=bias), nn.LayerNorm(24, bias=bias)
    shaken(ours)
    theirs.load_state_dict(ours.state_dict())
    x = scale * torch.randn(3, 5, 24, generator=generator())
    leaves = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    outputs = [norm(leaf) for norm, leaf in zip((ours, theirs), leaves, strict=True)]
    for output in outputs:
        output.square().sum().backward()
    assert torch.allclose(*outputs, rtol=1e-5, atol=1e-5)
    assert torch.allclose(leaves[0].grad * scale, leaves[1].grad * scale, rtol=1e-4, atol=1e-4)


def test_feed_forward_equals_pytorch_and_has_the_tanh_gelu():
    net = shaken(FeedForward(16, 40))
    x = 3 * torch.randn(4, 6, 16, generator=generator())
    assert torch.allclose(net(x), net.w_out(F.gelu(net.w_in(x), approximate="tanh")), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(net(x), net.w_out(F.gelu(net.w_in(x))), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("bias", [True, False])
def test_block_equals_transformer_encoder_layer(placement, bias):
    block = shaken(Block(GPTConfig(d_model=24, n_heads=3, d_ff=56, norm_placement=placement, bias=bias)))
    theirs = nn.TransformerEncoderLayer(
        24, 3, 56, dropout=0.0, batch_first=True, norm_first=placement == "pre", bias=bias,
        activation=lambda h: F.gelu(h, approximate="tanh"),
    )
    projections = (block.attention.w_q, block.attention.w_k, block.attention.w_v)
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(torch.cat([w.weight for w in projections]))
        if bias:
            theirs.self_attn.in_proj_bias.copy_(torch.cat([w.bias for w in projections]))
    pairs = (
        (theirs.self_attn.out_proj, block.attention.w_o), (theirs.norm1, block.norm_1), (theirs.norm2, block.norm_2),
        (theirs.linear1, block.feed_forward.w_in), (theirs.linear2, block.feed_forward.w_out),
    )
    for library, ours in pairs:
        library.load_state_dict(ours.state_dict())
    x = torch.randn(2, 9, 24, generator=generator())
    key_mask = torch.arange(9) < torch.tensor([[9], [6]])  # padding on the right
    hidden = ~torch.ones(9, 9, dtype=torch.bool).tril()
    expected = theirs(x, src_mask=hidden, src_key_padding_mask=~key_mask)
    assert torch.allclose(block(x, key_mask)[key_mask], expected[key_mask], rtol=1e-5, atol=1e-5)


# The model


def test_small_gpt2_of_transformers_gives_the_same_logits_and_gradients():
    theirs, config = small_gpt2(), GPTConfig(**SMALL)
    ours = loaded(theirs.state_dict(), config)
    token_ids = torch.randint(97, (3, 40), generator=generator())
    expected = theirs(token_ids).logits
    assert expected.std() > 0.5
    assert torch.allclose(ours(token_ids), expected, atol=1e-4)
    for model in (ours, theirs):
        logits = model(token_ids) if model is ours else model(token_ids).logits
        F.cross_entropy(logits[:, :-1].flatten(0, 1), token_ids[:, 1:].flatten()).backward()
    assert torch.allclose(ours.token_embedding.weight.grad, theirs.transformer.wte.weight.grad, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_gives_the_logits_of_transformers_with_its_position_ids(side):
    theirs, config = small_gpt2(), GPTConfig(**SMALL)
    ours = loaded(theirs.state_dict(), config)
    token_ids = torch.randint(97, (2, 12), generator=generator())
    mask = torch.arange(12) >= torch.tensor([[0], [5]])
    mask = mask if side == "left" else mask.flip(1)
    position_ids = (mask.long().cumsum(1) - 1).clamp(min=0)
    expected = theirs(token_ids, attention_mask=mask.long(), position_ids=position_ids).logits
    assert torch.allclose(ours(token_ids, mask)[mask], expected[mask], atol=1e-4)
    alone = ours(token_ids[1:][mask[1:]][None])
    assert torch.allclose(ours(token_ids, mask)[1][mask[1]], alone[0], atol=1e-4)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "none"])
@pytest.mark.parametrize("norm", ["layernorm", "none"])
@pytest.mark.parametrize("placement", ["pre", "post"])
def test_a_token_never_changes_logits_before_it(positions, norm, placement):
    model = shaken(GPT(GPTConfig(**SMALL, positions=positions, norm=norm, norm_placement=placement)), 0.05)
    token_ids = torch.randint(97, (1, 12), generator=generator())
    changed = token_ids.clone()
    changed[0, 7] = (changed[0, 7] + 1) % 97
    before, after = model(token_ids), model(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert (before[:, 7:] - after[:, 7:]).abs().amax(-1).min() > 0


def test_without_positions_order_among_earlier_tokens_is_lost_in_one_layer():
    model = shaken(GPT(GPTConfig(**{**SMALL, "n_layers": 1}, positions="none")))
    assert torch.allclose(model(torch.tensor([[3, 5, 8]]))[0, -1], model(torch.tensor([[5, 3, 8]]))[0, -1], atol=1e-5)


def test_a_new_model_predicts_nothing():
    model = GPT(GPTConfig(**SMALL), generator())
    token_ids = torch.randint(97, (8, 41), generator=generator())
    loss = F.cross_entropy(model(token_ids[:, :-1]).flatten(0, 1), token_ids[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(97), abs=0.05)


def test_same_generator_same_model_and_the_state_dict_holds_each_matrix_once():
    first, second = (GPT(GPTConfig(**SMALL), generator(3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert len({value.data_ptr() for value in first.state_dict().values()}) == len(first.state_dict())
    assert first.state_dict().keys() == dict(first.named_parameters()).keys()


def test_more_tokens_than_the_context_are_refused_in_words():
    with pytest.raises(ValueError, match="41 tokens do not fit in a context of 40"):
        GPT(GPTConfig(**SMALL))(torch.zeros(1, 41, dtype=torch.long))


def test_initial_spread_equals_that_of_transformers():
    torch.manual_seed(0)
    theirs = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_positions=64, n_embd=64, n_layer=8, n_head=4,
                                        bos_token_id=0, eos_token_id=0))
    config = GPTConfig(vocab_size=300, context_length=64, d_model=64, n_heads=4, n_layers=8)
    ours, theirs = GPT(config, generator()).state_dict(), from_gpt2_state_dict(theirs.state_dict(), config)
    for name in ours:
        if ours[name].dim() == 2:
            assert ours[name].std().item() == pytest.approx(theirs[name].std().item(), rel=0.1), name
        else:
            assert torch.equal(ours[name], theirs[name]), name


def test_scaled_initialisation_follows_the_number_of_layers_given():
    model = GPT(GPTConfig(**SMALL))
    init_weights(model, 50, generator())
    assert model.blocks[1].attention.w_o.weight.std().item() == pytest.approx(0.002, rel=0.1)


# The config


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(d_model=100, n_heads=12), "divisible by n_heads"),
        (dict(n_layers=0), "n_layers must be a positive whole number"),
        (dict(vocab_size=50257.0), "vocab_size must be a positive whole number"),
        (dict(norm="batchnorm"), "norm must be one of"),
        (dict(norm_placement="before"), "norm_placement must be one of"),
        (dict(positions="rotary"), "positions must be one of"),
    ],
)
def test_a_wrong_config_is_refused_in_words(wrong, message):
    with pytest.raises(ValueError, match=message):
        GPTConfig(**wrong)


def test_the_config_derives_head_and_hidden_width_and_is_frozen():
    config = GPTConfig(d_model=64, n_heads=4)
    assert (config.d_head, config.d_ff, GPTConfig(d_ff=5).d_ff) == (16, 256, 5)
    with pytest.raises(AttributeError):
        config.d_model = 32


# Counts


def test_gpt2_sizes_have_their_exact_parameter_counts():
    known = {(768, 12, 12): 124_439_808, (1024, 16, 24): 354_823_168,
             (1280, 20, 36): 774_030_080, (1600, 25, 48): 1_557_611_200}
    for (d_model, n_heads, n_layers), count in known.items():
        assert count_parameters(GPTConfig(d_model=d_model, n_heads=n_heads, n_layers=n_layers)) == count


def test_gpt2_small_counts_the_same_on_the_meta_device_and_in_transformers():
    with torch.device("meta"):
        model, theirs = GPT(GPTConfig()), GPT2LMHeadModel(GPT2Config())
    assert sum(p.numel() for p in model.parameters()) == theirs.num_parameters() == 124_439_808


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "none"])
@pytest.mark.parametrize("norm", ["layernorm", "none"])
@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("bias", [True, False])
def test_formula_counts_what_the_module_has(positions, norm, placement, bias):
    config = GPTConfig(**SMALL, d_ff=100, positions=positions, norm=norm, norm_placement=placement, bias=bias)
    with torch.device("meta"):
        assert count_parameters(config) == sum(p.numel() for p in GPT(config).parameters())


@pytest.mark.parametrize("n_tokens", [1024, 16_384])
def test_flops_of_gpt2_small_equal_pytorchs_own_count(n_tokens):
    config = GPTConfig(context_length=n_tokens)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        GPT(config)(torch.zeros(1, n_tokens, dtype=torch.long))
    assert sum(transformer_flops(config, n_tokens).values()) == counter.get_total_flops()


# Published weights. The two layouts are written down here independently of the answer.

TRANSPOSED = {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}


def as_linear(state_dict: dict) -> dict:
    """nanoGPT's layout: the same names, the matrices of nn.Linear."""
    module = {name: ".".join(name.split(".")[-3:-1]) for name in state_dict}
    return {
        name: value.transpose(0, 1).contiguous() if module[name] in TRANSPOSED and name.endswith("weight") else value
        for name, value in state_dict.items()
    }


def with_masks(state_dict: dict, n_layers: int, context_length: int) -> dict:
    """minGPT's layout: nanoGPT's, and in each layer the causal mask as a buffer called bias."""
    mask = torch.tril(torch.ones(context_length, context_length)).view(1, 1, context_length, context_length)
    return {**as_linear(state_dict), **{f"transformer.h.{i}.attn.bias": mask for i in range(n_layers)}}


@pytest.mark.parametrize("layout", ["nanoGPT", "minGPT", "compiled nanoGPT", "bare Hugging Face", "old Hugging Face"])
def test_other_layouts_give_the_logits_of_transformers(layout):
    theirs, config = small_gpt2(), GPTConfig(**SMALL)
    published = theirs.state_dict()
    if layout == "nanoGPT":
        published = as_linear(published)
    elif layout == "minGPT":
        published = with_masks(published, 3, 40)
    elif layout == "compiled nanoGPT":
        published = {f"_orig_mod.{name}": value for name, value in as_linear(published).items()}
    elif layout == "bare Hugging Face":
        published = theirs.transformer.state_dict()
        assert isinstance(theirs.transformer, GPT2Model) and "wte.weight" in published
    else:  # older versions of transformers saved their masks
        for i in range(3):
            published[f"transformer.h.{i}.attn.bias"] = torch.ones(1, 1, 40, 40, dtype=torch.bool).tril()
            published[f"transformer.h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    token_ids = torch.randint(97, (2, 40), generator=generator())
    with torch.no_grad():
        assert torch.allclose(loaded(published, config)(token_ids), theirs(token_ids).logits, atol=1e-4)


def test_nanogpt_without_biases_loads_into_a_config_without_biases():
    config = GPTConfig(**SMALL, bias=False)
    published = {n: v for n, v in as_linear(small_gpt2().state_dict()).items() if not n.endswith("bias")}
    assert loaded(published, config).state_dict().keys() == GPT(config).state_dict().keys()


def test_another_hidden_width_is_read_too():
    theirs, config = small_gpt2(n_inner=70), GPTConfig(**SMALL, d_ff=70)
    token_ids = torch.randint(97, (2, 9), generator=generator())
    assert torch.allclose(loaded(theirs.state_dict(), config)(token_ids), theirs(token_ids).logits, atol=1e-4)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda sd: sd.update({"lm_head.weight": sd["lm_head.weight"] + 1}), "head of its own"),
        (lambda sd: sd.pop("transformer.h.1.mlp.c_fc.bias"), "names missing"),
        (lambda sd: sd.update({"transformer.h.3.ln_1.weight": torch.ones(48)}), "left over"),
        (lambda sd: sd.update({"transformer.h.0.attn.c_attn.weight": torch.ones(48, 96)}), "c_attn.weight must be"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_words(spoil, message):
    state_dict = dict(small_gpt2().state_dict())
    spoil(state_dict)
    with pytest.raises(ValueError, match=message):
        from_gpt2_state_dict(state_dict, GPTConfig(**SMALL))


def test_the_real_gpt2_gives_the_same_logits_where_it_is_at_hand():
    try:
        theirs = GPT2LMHeadModel.from_pretrained("gpt2", local_files_only=True).eval()
    except OSError:
        pytest.skip("gpt2 is not in the cache of this machine")
    ours = loaded(theirs.state_dict(), GPTConfig())
    token_ids = torch.randint(50257, (1, 64), generator=generator())
    with torch.no_grad():
        expected = theirs(token_ids).logits
        assert (ours(token_ids) - expected).abs().max() < 1e-4 * expected.abs().max()
