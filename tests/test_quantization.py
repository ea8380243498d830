"""Week 5, lesson 04: against torch, bitsandbytes, torchao and llmcompressor, and what must hold of any quantization."""

import copy
import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)  # it notes which of its kernels a CPU lacks

import bitsandbytes.functional as BF  # noqa: E402
from bitsandbytes.autograd._functions import MatMul8bitLt, MatmulLtState  # noqa: E402

from shared.models import course_folder  # noqa: E402
from week1_decoder.solutions.decoder import GPT  # noqa: E402
from week2_pretraining.solutions.pretraining import load_pretrained  # noqa: E402
from week5_inference.quantization_study import STORED, calibration, story_nats  # noqa: E402
from week5_inference.quantized import (  # noqa: E402
    GroupedLinear,
    Int8Linear,
    blocks_of,
    linears_of,
    pack_bits,
    quantize_model,
    stored_bytes,
    unpack_bits,
)
from week5_inference.solutions.quantization import (  # noqa: E402
    awq_scale_search,
    gptq_quantize,
    int8_dequantize,
    int8_product,
    int8_quantize,
    llm_int8_matmul,
    stochastic_round,
    zero_point_dequantize,
    zero_point_quantize,
)

FIXTURES = Path(__file__).parent / "fixtures" / "gptq"
GPTQ, AFFINE = load_file(FIXTURES / "gptq.safetensors"), load_file(FIXTURES / "affine.safetensors")
GPTQ_CASES = sorted(key.removesuffix(".scale") for key in GPTQ if key.endswith(".scale"))
AFFINE_CASES = sorted(key.removesuffix(".codes") for key in AFFINE if key.endswith(".codes"))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def output_error(x: torch.Tensor, w: torch.Tensor, rounded: torch.Tensor) -> float:
    return (x @ (rounded - w).T).square().mean().item()


# int8


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (40, 64), (129, 33)])
def test_int8_codes_and_scales_equal_bitsandbytes(shape):
    w = normal(*shape).half()
    codes, scale = int8_quantize(w)
    theirs, absmax, _ = BF.int8_vectorwise_quant(w)
    assert torch.equal(codes, theirs)
    assert torch.allclose(scale.flatten() * 127, absmax, rtol=1e-6, atol=0)


@pytest.mark.filterwarnings("ignore:torch.quantize_per")
def test_int8_codes_equal_torchs_quantize_per_channel():
    w = normal(12, 50, seed=1)
    codes, scale = int8_quantize(w)
    zeros = torch.zeros(12, dtype=torch.long)
    theirs = torch.quantize_per_channel(w, scale.flatten().double(), zeros, 0, torch.qint8)
    assert torch.equal(codes, theirs.int_repr())
    assert torch.allclose(int8_dequantize(codes, scale), theirs.dequantize(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e4, 1e30])
def test_int8_comes_back_within_half_a_step_at_any_size(size):
    w = normal(9, 31, seed=2) * size
    codes, scale = int8_quantize(w)
    assert ((int8_dequantize(codes, scale) - w).abs() <= scale * (0.5 + 1e-4)).all()
    assert codes.abs().amax(dim=1).eq(127).all()


def test_a_row_of_zeros_comes_back_as_exact_zeros_and_the_others_do_not_notice():
    w = normal(4, 6)
    w[2] = 0
    codes, scale = int8_quantize(w)
    assert int8_dequantize(codes, scale)[2].eq(0).all() and scale[2] == 0
    others = [0, 1, 3]
    assert torch.equal(codes[others], int8_quantize(w[others])[0])


def test_int8_refuses_what_it_cannot_quantize():
    for bad in (torch.nan, torch.inf, -torch.inf):
        w = normal(3, 4)
        w[1, 1] = bad
        with pytest.raises(ValueError, match="1 of 12 entries .* nan or inf"):
            int8_quantize(w)
    with pytest.raises(TypeError, match="int64"):
        int8_quantize(torch.ones(2, 2, dtype=torch.long))
    for shape in ((3,), (2, 3, 4), (0, 4)):
        with pytest.raises(ValueError, match="matrix"):
            int8_quantize(torch.ones(shape))
    with pytest.raises(ValueError, match="int8 codes"):
        int8_dequantize(torch.zeros(2, 3, dtype=torch.int8), torch.ones(2))


# zero points and groups


@pytest.mark.parametrize("case", AFFINE_CASES)
def test_codes_scales_and_zero_points_equal_torchao(case):
    bits, size = map(int, case.split("_"))
    codes, scale, zero = zero_point_quantize(AFFINE["weight"], bits, size)
    assert torch.equal(codes, AFFINE[f"{case}.codes"])
    assert torch.allclose(scale, AFFINE[f"{case}.scale"], rtol=1e-6, atol=0) and torch.equal(
        zero, AFFINE[f"{case}.zero"]
    )


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_weights_come_back_as_from_torchs_fake_quantization(bits):
    w = normal(10, 48, seed=3) + 0.3
    codes, scale, zero = zero_point_quantize(w, bits)
    theirs = torch.fake_quantize_per_channel_affine(w, scale.flatten(), zero.flatten().int(), 0, 0, 2**bits - 1)
    assert torch.allclose(zero_point_dequantize(codes, scale, zero), theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shift", [-5.0, 0.0, 5.0])
def test_zero_is_exact_and_all_else_within_a_step(shift):
    w = normal(8, 60, seed=4) + shift
    w[:, ::7] = 0
    for bits, size in ((2, 20), (4, 60), (8, 10)):
        codes, scale, zero = zero_point_quantize(w, bits, size)
        back = zero_point_dequantize(codes, scale, zero)
        assert back[w == 0].eq(0).all()
        # half a step by rounding, and at the ends half a step more, by the rounded zero point
        assert ((back - w).abs() <= scale.repeat_interleave(size, dim=1) * 1.001).all()


def test_bits_and_groups_that_do_not_fit_are_refused():
    w = normal(4, 12)
    for bits in (1, 9, 0, -4, 4.0, True, "4"):
        with pytest.raises(ValueError, match="bits must be"):
            zero_point_quantize(w, bits)
    for size in (5, 0, -3, 24, 2.0):
        with pytest.raises(ValueError, match="group size must divide the 12 columns"):
            zero_point_quantize(w, 4, size)
    with pytest.raises(ValueError, match="nan or inf"):
        zero_point_quantize(w * torch.inf, 4)


# rounding


def test_stochastic_rounding_is_right_on_average_and_of_the_variance_of_a_coin():
    x = torch.linspace(-2, 2, 17)
    drawn = stochastic_round(x.expand(20_000, 17), torch.Generator().manual_seed(0))
    p = x - x.floor()
    assert torch.allclose(drawn.mean(dim=0), x, atol=5 * 0.5 / 20_000**0.5)
    assert torch.allclose(drawn.var(dim=0), p * (1 - p), atol=0.02)
    assert torch.equal(drawn[:, p == 0], x[p == 0].expand(20_000, -1))


# LLM.int8()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("outliers", [[], [3, 50]])
def test_llm_int8_equals_bitsandbytes(dtype, outliers):
    # Weights that float16 and int8 hold exactly, since bitsandbytes goes through both for the outlier columns too.
    codes = torch.randint(-127, 128, (40, 64), generator=torch.Generator().manual_seed(0))
    codes[:, 0] = 127
    w = (codes * 2.0**-7).to(dtype)
    x = normal(7, 64, seed=5).half().to(dtype)
    x[:, outliers] = x[:, outliers].sign() * 8
    state = MatmulLtState()
    state.threshold = 6.0
    theirs = MatMul8bitLt.apply(x, w, None, None, state)
    ours = llm_int8_matmul(x, w)
    # In float16 both sums are rounded at 2^-11 of their size, at different places. And bitsandbytes' own code for a CPU
    # has 6.200124e-05 for 1 / 127² = 6.200012e-05: 2e-5 of the int8 part, which is at most 40 here.
    rtol, atol = (2e-3, 4e-2) if dtype == torch.float16 else (2e-5, 1e-3)
    assert torch.allclose(ours, theirs, rtol=rtol, atol=atol)
    assert not torch.allclose(ours.float(), x.float() @ w.float().T, rtol=1e-5, atol=1e-2)  # int8 it is


def test_the_int8_product_is_exact_where_float32_is_not():
    a = torch.full((1, 4096), 127, dtype=torch.int8)
    b = a.clone()
    b[0, 0] = 126
    assert int8_product(a, b).item() == 127 * 127 * 4096 - 127


def test_taking_out_outliers_repairs_the_product():
    w, x = normal(32, 64), normal(16, 64, seed=1)
    x[:, 9] *= 60
    exact = x @ w.T
    plain, mixed = ((llm_int8_matmul(x, w, t) - exact).square().mean().sqrt() for t in (0.0, 6.0))
    assert mixed < plain / 10


def test_rows_of_a_product_without_outliers_do_not_depend_on_each_other():
    w, x = normal(8, 16), normal(5, 16, seed=1).clamp(-3, 3)
    together = llm_int8_matmul(x, w)
    assert torch.allclose(together, torch.stack([llm_int8_matmul(row, w) for row in x]), atol=1e-6)


def test_llm_int8_refuses_bad_input():
    w = normal(4, 6)
    with pytest.raises(ValueError, match="last sizes"):
        llm_int8_matmul(normal(3, 5), w)
    with pytest.raises(ValueError, match="nan or inf"):
        llm_int8_matmul(normal(3, 6) / 0, w)
    for threshold in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="threshold"):
            llm_int8_matmul(normal(3, 6), w, threshold)


# GPTQ


@pytest.mark.parametrize("case", GPTQ_CASES)
def test_gptq_equals_llmcompressor(case):
    bits, size, order = case.split("_")
    weight, x = GPTQ["weight"], GPTQ["x"]
    codes, scale, zero = gptq_quantize(weight, x.T @ x / len(x), int(bits), int(size), act_order=order != "none")
    assert torch.allclose(scale, GPTQ[f"{case}.scale"], rtol=1e-6, atol=0) and torch.equal(zero, GPTQ[f"{case}.zero"])
    ours, theirs = zero_point_dequantize(codes, scale, zero), GPTQ[f"{case}.weight"]
    # On another CPU a sum may end in another last bit, and an entry just between two codes fall to the other side.
    assert (ours - theirs).abs().gt(1e-5).float().mean() < 0.01
    nearest = zero_point_dequantize(*zero_point_quantize(weight, int(bits), int(size)))
    assert torch.allclose(nearest, GPTQ[f"{case}.nearest"], rtol=1e-6, atol=1e-6)
    assert output_error(x, weight, ours) < 0.25 * output_error(x, weight, nearest)


def test_gptq_with_uncorrelated_inputs_is_rounding_to_the_nearest():
    w = normal(6, 20)
    assert torch.equal(gptq_quantize(w, torch.eye(20), 3, 10)[0], zero_point_quantize(w, 3, 10)[0])


def test_gptq_does_not_change_its_inputs_and_is_the_same_for_a_hessian_of_another_size():
    w, x = normal(5, 16), normal(50, 16, seed=1) @ normal(16, 16, seed=2)
    h = x.T @ x / 50
    kept = w.clone(), h.clone()
    first = gptq_quantize(w, h, 3)
    assert torch.equal(w, kept[0]) and torch.equal(h, kept[1])
    assert torch.equal(first[0], gptq_quantize(w, 256 * h, 3)[0])


def test_dead_columns_become_zero_and_a_rank_deficient_hessian_is_damped():
    w, x = normal(5, 16), normal(6, 16, seed=1)  # six inputs for sixteen columns
    x[:, [2, 11]] = 0
    h = x.T @ x / 6
    for act_order in (False, True):
        back = zero_point_dequantize(*gptq_quantize(w, h, 4, 8, act_order=act_order))
        assert back[:, [2, 11]].eq(0).all() and back.isfinite().all()
    with pytest.raises(ValueError, match="not positive definite; more damping"):
        gptq_quantize(w, h - 1e-3 * torch.eye(16), 4, damping=0.0)


def test_gptq_refuses_hessians_that_are_none():
    w = normal(3, 4)
    for bad, message in (
        (torch.eye(5), r"Hessian \(4, 4\)"),
        (torch.zeros(4, 4), "all zeros"),
        (torch.eye(4) * torch.nan, "nan or inf"),
        (torch.eye(4) + torch.triu(torch.ones(4, 4), 1), "symmetric"),
    ):
        with pytest.raises(ValueError, match=message):
            gptq_quantize(w, bad)
    with pytest.raises(ValueError, match="damping"):
        gptq_quantize(w, torch.eye(4), damping=-1.0)
    with pytest.raises(ValueError, match="bits"):
        gptq_quantize(w, torch.eye(4), bits=1)


# AWQ


def test_awq_finds_alpha_0_where_features_are_alike_and_more_where_some_are_large():
    w, x = normal(64, 64), normal(200, 64, seed=1)
    even = x.sign()
    assert awq_scale_search(w, even, 3, 32)[1] == 0
    x[:, ::16] *= 30
    s, alpha, errors = awq_scale_search(w, x, 3, 32)
    assert alpha > 0 and errors.min() < 0.7 * errors[0]
    assert s[::16].min() > s[1]


def test_awqs_errors_are_the_output_errors_of_its_scales():
    w, x = normal(8, 12), normal(30, 12, seed=1) * torch.linspace(0.1, 5, 12)
    s, alpha, errors = awq_scale_search(w, x, 4, 6, n_steps=10)
    back = zero_point_dequantize(*zero_point_quantize(w * s, 4, 6)) / s
    assert errors.min().item() == pytest.approx(output_error(x, w, back), rel=1e-4)
    assert round(alpha * 10) == int(errors.argmin())
    plain = zero_point_dequantize(*zero_point_quantize(w, 4, 6))
    assert errors[0].item() == pytest.approx(output_error(x, w, plain), rel=1e-4)


# whole models


@pytest.fixture(scope="module")
def course_model():
    return load_pretrained(course_folder(), GPT)


@pytest.mark.parametrize("bits", range(2, 9))
def test_packed_codes_come_back_and_leave_no_gap(bits):
    codes = torch.randint(0, 2**bits, (80,), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    packed = pack_bits(codes, bits)
    assert len(packed) == 10 * bits and torch.equal(unpack_bits(packed, bits, 80), codes)
    assert torch.equal(unpack_bits(pack_bits(codes[:13], bits), bits, 13), codes[:13])


def test_quantized_layers_compute_what_their_weight_says():
    linear, x = nn.Linear(24, 7), normal(2, 3, 24)
    layers = [Int8Linear(linear)]
    for bits in (3, 4):
        layers.append(GroupedLinear(*zero_point_quantize(linear.weight, bits, 8), bits, linear.bias))
    s = torch.linspace(0.5, 2, 24)
    layers.append(GroupedLinear(*zero_point_quantize(linear.weight * s, 4, 8), 4, linear.bias, s))
    for layer in layers:
        assert torch.allclose(layer(x), nn.functional.linear(x, layer.weight, linear.bias), rtol=1e-5, atol=1e-5)
        assert (layer.weight - linear.weight).abs().max() < 0.1


def test_a_quantized_model_really_holds_fewer_bytes(course_model):
    model = copy.deepcopy(course_model[0])
    whole = stored_bytes(model)["blocks"]
    linear = sum(l.weight.numel() for block in blocks_of(model) for l in linears_of(block).values())  # noqa: E741
    other = whole - 4 * linear
    assert stored_bytes(quantize_model(copy.deepcopy(model), 8))["blocks"] < other + 1.05 * linear
    assert stored_bytes(quantize_model(copy.deepcopy(model), 4))["blocks"] < other + 0.55 * linear
    assert not any(isinstance(m, nn.Linear) for m in blocks_of(quantize_model(model, 8)).modules())


@torch.no_grad()
def test_int8_hardly_changes_the_logits_and_three_bits_do(course_model):
    model, tokenizer = course_model
    token_ids = calibration(tokenizer, 4)[0]
    full = model(token_ids).log_softmax(-1)
    moved = {
        bits: (quantize_model(copy.deepcopy(model), bits)(token_ids).log_softmax(-1) - full).abs().mean().item()
        for bits in (8, 4, 3)
    }
    assert moved[8] < 0.05 < moved[4] < moved[3]


def test_gptq_loses_less_than_the_nearest_on_held_out_stories(course_model):
    model, tokenizer = course_model
    batches = calibration(tokenizer, 16)
    full, tokens = story_nats(model, tokenizer, 24)
    lost = {}
    for method in ("nearest", "gptq", "awq"):
        worse = quantize_model(copy.deepcopy(model), 3, method, 128, batches)
        lost[method] = ((story_nats(worse, tokenizer, 24)[0] - full).sum() / tokens.sum()).item()
    assert 0 < lost["gptq"] < 0.6 * lost["nearest"]
    assert lost["awq"] < 1.3 * lost["nearest"]


def test_quantize_model_says_what_is_missing(course_model):
    model = copy.deepcopy(course_model[0])
    with pytest.raises(ValueError, match="method must be one of"):
        quantize_model(model, 4, "gguf")
    with pytest.raises(ValueError, match="needs calibration"):
        quantize_model(model, 4, "gptq")
    for bits, group_size, message in ((9, None, "bits must be"), (4, 100, "group size must divide")):
        with pytest.raises(ValueError, match=message):
            quantize_model(model, bits, group_size=group_size)
    spoiled = copy.deepcopy(model)
    last = list(linears_of(blocks_of(spoiled)[-1]).values())[-1]
    last.weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match="nan or inf"):
        quantize_model(spoiled)
    assert all(linears_of(block) for block in blocks_of(spoiled))  # nothing was changed
    with pytest.raises(ValueError, match="no nn.ModuleList"):
        quantize_model(nn.Linear(4, 4))
    with pytest.raises(ValueError, match="quantized already"):
        quantize_model(quantize_model(model))


# the study


def test_the_stored_study_has_its_origin_and_pairs_its_stories():
    study = json.loads(STORED.read_text(encoding="utf-8"))
    assert study["command"].endswith("-m week5_inference.quantization_study") and study["threads"] == 1
    assert {"seed", "machine", "settings"} <= study.keys()
    for name in {run["model"] for run in study["runs"]}:
        runs = [run for run in study["runs"] if run["model"] == name]
        assert len({tuple(run["tokens"]) for run in runs}) == 1
        assert all(len(run["nats"]) == len(run["tokens"]) for run in runs)


def test_the_stored_study_of_the_course_model_can_be_made_again(course_model):
    model, tokenizer = course_model
    study = json.loads(STORED.read_text(encoding="utf-8"))
    (full,) = (run for run in study["runs"] if (run["model"], run["method"]) == ("course model", "full"))
    nats, _ = story_nats(model, tokenizer, 8)
    assert torch.allclose(nats, torch.tensor(full["nats"][:8]), rtol=1e-3, atol=1e-2)
