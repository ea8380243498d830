"""Week 4, lesson 04: against bitsandbytes and PEFT, and what must hold of any quantization."""

import copy
import io
import logging
import math

import pytest
import torch
from torch import nn

logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)  # it notes which of its kernels a CPU lacks

import bitsandbytes as bnb  # noqa: E402
import bitsandbytes.functional as BF  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402

from shared.checking import run_check  # noqa: E402
from week4_finetuning.solutions.qlora import (  # noqa: E402
    FrozenProduct,
    QLoRALinear,
    bits_per_parameter,
    dequantize_packed,
    double_dequantize,
    double_quantize,
    dynamic_codebook,
    nf4_codebook,
    nf4_dequantize,
    nf4_quantize,
    pack_codes,
    unpack_codes,
)

TABLE = BF.get_4bit_type("nf4", device="cpu")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# NF4


def test_the_code_book_is_the_published_one_to_the_last_bit():
    assert torch.equal(nf4_codebook(), TABLE)


def test_the_offset_is_half_a_step_of_15_and_of_16_values_on_average():
    assert round(1 - (1 / 30 + 1 / 32) / 2, 7) == 0.9677083


@pytest.mark.parametrize("block", [32, 64, 256, 4096])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1,), (64,), (7, 9), (3, 5, 11), (129, 64), (40, 300)])
def test_codes_and_scales_equal_bitsandbytes(shape, dtype, block):
    w = normal(*shape).to(dtype)
    codes, absmax = nf4_quantize(w, block)
    packed, state = BF.quantize_4bit(w, blocksize=block, quant_type="nf4")
    assert torch.equal(codes, unpack_codes(packed.flatten(), w.numel())) and torch.equal(absmax, state.absmax)
    if w.numel() % 2 == 0:  # the empty half of a last byte may be anything
        assert torch.equal(pack_codes(codes), packed.flatten())
    assert codes.dtype == torch.uint8 and absmax.dtype == torch.float32


@pytest.mark.parametrize("shape", [(64, 64), (7, 30), (10, 100), (33, 21), (576, 192)])
def test_weights_come_back_as_from_bitsandbytes(shape):
    w = normal(*shape, seed=1)
    packed, state = BF.quantize_4bit(w, blocksize=64, quant_type="nf4")
    back = nf4_dequantize(unpack_codes(packed.flatten(), w.numel()), state.absmax, shape)
    assert torch.allclose(back, BF.dequantize_4bit(packed, state), rtol=1e-6, atol=1e-7)


def test_each_code_is_the_nearest_of_the_sixteen_values():
    w = normal(999, seed=2)
    codes, absmax = nf4_quantize(w, 50)
    scale = absmax.repeat_interleave(50)[:999, None]
    errors = (w[:, None] - scale * nf4_codebook()).abs()
    assert torch.allclose(errors.gather(1, codes.long()[:, None])[:, 0], errors.amin(dim=1), atol=1e-6)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_no_weight_is_off_by_more_than_half_the_widest_step_of_its_block(size):
    w = size * normal(500, seed=3)
    codes, absmax = nf4_quantize(w)
    error = (nf4_dequantize(codes, absmax, w.shape) - w).abs()
    half_a_step = nf4_codebook().diff().max() / 2
    assert (error <= (half_a_step + 1e-6) * absmax.repeat_interleave(64)[:500]).all()


def test_values_of_the_code_book_and_zeros_come_back_exactly():
    w = torch.cat([nf4_codebook() * 3, torch.zeros(16), -torch.zeros(16)])
    codes, absmax = nf4_quantize(w, 16)
    assert torch.allclose(nf4_dequantize(codes, absmax, w.shape, 16), w, rtol=1e-6, atol=0)
    assert codes[16:].unique().tolist() == [7] and absmax.tolist() == [3, 0, 0]


def test_quantizing_what_was_quantized_changes_nothing():
    w = normal(20, 30, seed=4)
    once = nf4_dequantize(*nf4_quantize(w), w.shape)
    assert torch.equal(nf4_dequantize(*nf4_quantize(once), w.shape), once)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_inf_are_refused_with_their_number(bad):
    w = torch.tensor([1.0, bad, 2.0, bad])
    for quantize in (nf4_quantize, double_quantize):
        with pytest.raises(ValueError, match="2 of 4 values are nan or inf"):
            quantize(w)


def test_what_is_no_tensor_of_floats_is_refused():
    for bad, words in ((torch.arange(4), "torch.int64"), ([1.0], "list"), (None, "NoneType")):
        with pytest.raises(TypeError, match=words):
            nf4_quantize(bad)
    with pytest.raises(ValueError, match="nothing to quantize"):
        nf4_quantize(torch.empty(0, 3))
    for block in (0, -64, 6.5):
        with pytest.raises(ValueError, match="at least 1"):
            nf4_quantize(torch.ones(4), block)


def test_codes_scales_and_shape_must_belong_together():
    codes, absmax = nf4_quantize(normal(4, 40))
    with pytest.raises(ValueError, match=r"\(4, 41\) in blocks of 64 takes 164 codes and 3 scales, got 160 and 3"):
        nf4_dequantize(codes, absmax, (4, 41))
    with pytest.raises(ValueError, match="takes 160 codes and 5 scales, got 160 and 3"):
        nf4_dequantize(codes, absmax, (4, 40), 32)


@pytest.mark.parametrize("numel", [1, 2, 7, 64])
def test_packing_and_unpacking_is_the_identity(numel):
    codes = torch.randint(16, (numel,), generator=torch.Generator().manual_seed(numel)).to(torch.uint8)
    packed = pack_codes(codes)
    assert packed.numel() == (numel + 1) // 2 and torch.equal(unpack_codes(packed, numel), codes)


@pytest.mark.parametrize(("shape", "block"), [((64, 48), 64), ((7, 9), 64), ((5, 3), 4), ((1,), 2), ((3, 4), 3)])
def test_the_quick_way_back_gives_the_same_numbers(shape, block):
    codes, absmax = nf4_quantize(torch.randn(shape, generator=torch.Generator().manual_seed(0)), block)
    quick = dequantize_packed(pack_codes(codes), absmax, shape, block)
    assert torch.equal(quick, nf4_dequantize(codes, absmax, shape, block))


# Double quantization


def test_the_dynamic_type_equals_bitsandbytes():
    assert torch.allclose(dynamic_codebook(), BF.create_dynamic_map(), rtol=1e-6, atol=0)
    assert (dynamic_codebook().diff() > 0).all()


@pytest.mark.parametrize("numel", [1, 5, 256, 257, 20_000])
def test_second_scales_equal_bitsandbytes_and_codes_do_away_from_borders(numel):
    w = normal(numel, 64, seed=numel) * normal(numel, 1, seed=1).exp()
    _, absmax = nf4_quantize(w)
    codes, second_absmax, offset = double_quantize(absmax)
    _, state = BF.quantize_4bit(w, blocksize=64, quant_type="nf4", compress_statistics=True)
    assert torch.equal(offset, state.offset) and torch.equal(second_absmax, state.state2.absmax)
    scale = second_absmax.repeat_interleave(256)[:numel]
    differ = ((codes != state.absmax) & (scale > 0)).nonzero().flatten()  # times 0 all codes are the same
    middle = (dynamic_codebook()[codes[differ].long()] + dynamic_codebook()[state.absmax[differ].long()]) / 2
    ratio = ((absmax - offset) / scale)[differ]
    assert len(differ) <= 0.01 * numel and (ratio - middle).abs().le(3e-5).all()
    same = double_dequantize(state.absmax, state.state2.absmax, state.offset)
    theirs = BF.dequantize_blockwise(state.absmax, state.state2) + state.offset
    assert torch.allclose(same, theirs, rtol=1e-6, atol=1e-7)


def test_no_scale_is_off_by_more_than_half_the_widest_step():
    absmax = normal(1000, seed=5).abs() + 0.1
    codes, second_absmax, offset = double_quantize(absmax)
    error = (double_dequantize(codes, second_absmax, offset) - absmax).abs()
    half_a_step = dynamic_codebook().diff().max() / 2  # -1 is 0.007 from its nearest value, which is as much
    assert (error <= (half_a_step + 1e-6) * second_absmax.repeat_interleave(256)[:1000]).all()


@pytest.mark.parametrize("absmax", [torch.tensor([0.3]), torch.full((300,), 2.0), torch.zeros(4)])
def test_equal_scales_come_back_exactly(absmax):
    assert torch.allclose(double_dequantize(*double_quantize(absmax)), absmax, rtol=1e-6, atol=0)


def test_bits_are_those_of_the_paper_and_refuse_empty_blocks():
    assert bits_per_parameter() == 4.5 and round(bits_per_parameter(64, 256), 3) == 4.127
    for bad in ((0, None), (64, 0), (-1, 256)):
        with pytest.raises(ValueError, match="at least 1 entry"):
            bits_per_parameter(*bad)


# The layer


class Net(nn.Module):
    """Two layers with something bent between them; quantized by bitsandbytes or by us."""

    def __init__(self, first: nn.Module, second: nn.Module):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def four_bit(linear: nn.Linear) -> nn.Module:
    layer = bnb.nn.Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        compute_dtype=torch.float32,
        compress_statistics=True,
        quant_type="nf4",
    )
    layer.load_state_dict(linear.state_dict())
    return layer.to("cpu")


def test_outputs_and_gradients_equal_peft_on_bitsandbytes():
    torch.manual_seed(0)
    plain = Net(nn.Linear(128, 192), nn.Linear(192, 64, bias=False))
    ours = Net(QLoRALinear(plain.first, 4, 12.0), QLoRALinear(plain.second, 4, 12.0))
    theirs = Net(four_bit(plain.first), four_bit(plain.second))
    config = LoraConfig(r=4, lora_alpha=12, lora_dropout=0.0, target_modules=["first", "second"])
    theirs = get_peft_model(theirs, config).train()
    pairs = []
    for name in ("first", "second"):
        layer, twin = getattr(ours, name), theirs.get_submodule(f"base_model.model.{name}")
        state = twin.base_layer.weight.quant_state
        assert torch.equal(layer.codes, twin.base_layer.weight.data.flatten())
        layer.absmax_codes.copy_(state.absmax)  # where a scale lies on a border, the two may differ
        nn.init.normal_(layer.B)
        twin.lora_A["default"].weight.data.copy_(layer.A)
        twin.lora_B["default"].weight.data.copy_(layer.B)
        pairs += [(layer.A, twin.lora_A["default"].weight), (layer.B, twin.lora_B["default"].weight)]
    inputs = [normal(3, 5, 128, seed=6).requires_grad_() for _ in range(2)]
    outputs = [net(x) for net, x in zip((ours, theirs), inputs, strict=True)]
    assert torch.allclose(*outputs, rtol=1e-5, atol=1e-5)
    for output in outputs:
        (output * normal(3, 5, 64, seed=7)).sum().backward()
    for mine, peft in [*pairs, inputs]:
        assert torch.allclose(mine.grad, peft.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("d_in", "d_out"), [(5, 7), (64, 64), (100, 30), (1, 1)])
def test_a_new_layer_is_the_dequantized_base_layer(d_in, d_out):
    base = nn.Linear(d_in, d_out)
    weight = base.weight.detach().clone()
    layer = QLoRALinear(base, 2, 4.0)
    codes, absmax = nf4_quantize(weight)
    back = nf4_dequantize(codes, double_dequantize(*double_quantize(absmax)), weight.shape)
    x = normal(3, d_in)
    assert torch.allclose(layer(x), x @ back.T + base.bias, rtol=1e-5, atol=1e-5)
    assert torch.equal(base.weight, weight)


def test_frozen_product_passes_gradcheck_and_keeps_nothing():
    w = normal(3, 4).double()
    x = normal(2, 5, 4, seed=1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: FrozenProduct.apply(x, lambda: w), (x,))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t), lambda t: t):
        FrozenProduct.apply(x, lambda: w)
    assert kept == []


def test_the_bytes_kept_are_those_of_the_formula():
    base = nn.Linear(512, 512, bias=False)
    layer = QLoRALinear(base, 1, 1.0)
    bits = 8 * sum(b.numel() * b.element_size() for b in layer.buffers()) / base.weight.numel()
    assert bits == pytest.approx(bits_per_parameter(64, 256), abs=32 / base.weight.numel() + 1e-9)  # and the offset
    assert sum(p.numel() for p in layer.parameters()) == 1024


def test_three_steps_of_adamw_move_the_factors_only_and_lower_the_loss():
    base, target = nn.Linear(32, 16), normal(20, 16, seed=8)
    layer = QLoRALinear(base, 4, 8.0, generator=torch.Generator().manual_seed(0))
    before = copy.deepcopy(layer.state_dict())
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2)
    losses = []
    for _ in range(4):
        loss = (layer(normal(20, 32)) - target).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses == sorted(losses, reverse=True)
    moved = {name for name, value in layer.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"A", "B"}


def test_a_saved_layer_comes_back_and_a_copy_is_independent():
    layer = QLoRALinear(nn.Linear(30, 10), 2, 4.0)
    nn.init.normal_(layer.B)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = QLoRALinear(nn.Linear(30, 10), 2, 4.0)
    other.load_state_dict(torch.load(file))
    x = normal(3, 30)
    assert torch.equal(other(x), layer(x))
    twin = copy.deepcopy(layer)
    nn.init.zeros_(layer.B)
    assert torch.equal(twin(x), other(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_layer_works_in_the_dtype_of_its_base(dtype):
    base, x = nn.Linear(64, 8).to(dtype), normal(4, 64).to(dtype)
    layer, exact = QLoRALinear(base, 2, 4.0), QLoRALinear(copy.deepcopy(base).float(), 2, 4.0)
    assert layer(x).dtype == layer.A.dtype == layer.B.dtype == dtype
    assert torch.allclose(layer(x).float(), exact(x.float()), rtol=2e-2, atol=2e-2)


def test_wrong_layers_and_ranks_are_refused():
    with pytest.raises(TypeError, match="replaces an nn.Linear, got Embedding"):
        QLoRALinear(nn.Embedding(3, 4), 2, 1.0)
    for rank in (0, -1):
        with pytest.raises(ValueError, match="rank must be at least 1"):
            QLoRALinear(nn.Linear(4, 4), rank, 1.0)
    bad = nn.Linear(4, 4)
    bad.weight.data[0, 0] = math.nan
    with pytest.raises(ValueError, match="1 of 16 values"):
        QLoRALinear(bad, 2, 1.0)


# The checks


def test_bitsandbytes_own_functions_pass_the_checks():
    def library(w, block=64):
        if not torch.isfinite(w).all():
            raise ValueError
        if block not in (32, 64):  # sizes that it does not have
            return nf4_quantize(w, block)
        packed, state = BF.quantize_4bit(w, blocksize=block, quant_type="nf4")
        return unpack_codes(packed.flatten(), w.numel()), state.absmax

    assert run_check("nf4_quantize", library).passed
    assert run_check("nf4_codebook", lambda: TABLE.clone()).passed


def test_a_layer_with_zero_output_and_one_that_is_plain_lora_are_refused():
    class Zero(QLoRALinear):
        def forward(self, x):
            return super().forward(x) * 0

    class Plain(nn.Module):
        def __init__(self, base, rank, alpha, dropout=0.0, block=64, generator=None):
            super().__init__()
            self.base, self.scale = base.requires_grad_(False), alpha / rank
            self.A = nn.Parameter(torch.randn(rank, base.in_features))
            self.B = nn.Parameter(torch.zeros(base.out_features, rank))

        def forward(self, x):
            return self.base(x) + self.scale * (x @ self.A.T @ self.B.T)

    for answer in (Zero, Plain):
        result = run_check("QLoRALinear", answer)
        assert not result.passed and result.observation == "a new layer gives what the quantized layer gives"
