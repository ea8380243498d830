"""Week 4's 03_lora against PEFT: outputs, merged weights, training steps, adapter files; invariants and refusals."""

import copy
import json

import peft
import pytest
import torch
import torch.nn.functional as F
from peft.tuners.lora.layer import Linear as PeftLinear
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from shared.checking import run_check
from shared.models import course_folder, smollm2
from tests.variants import lora as variants
from week1_decoder.solutions.decoder import GPT, GPTConfig
from week2_pretraining.solutions.pretraining import load_pretrained
from week4_finetuning.solutions.lora import (
    LoRALinear,
    find_factors,
    inject_lora,
    linear_names,
    load_adapter,
    lora_layers,
    lora_state_dict,
    merge_all,
    save_adapter,
)

CLASSES = [LoRALinear, *(value for name, value in vars(variants).items() if name.startswith("LoRALinear__"))]
EVERYTHING = ["w_q", "w_k", "w_v", "w_o", "w_in", "w_out"]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def course_model() -> nn.Module:
    return load_pretrained(course_folder("base"), GPT)[0]


def tiny(seed: int = 0) -> nn.Module:
    return GPT(GPTConfig(vocab_size=11, context_length=8, d_model=6, n_heads=2, n_layers=2), seeded(seed)).eval()


def token_ids(vocab_size: int = 2000, seq: int = 24, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, vocab_size, (2, seq), generator=seeded(seed))


def randomize(model: nn.Module, size: float = 0.05, seed: int = 2) -> nn.Module:
    """Random numbers in all factors."""
    generator = seeded(seed)
    with torch.no_grad():
        for layer in lora_layers(model).values():
            for factor in find_factors(layer):
                factor.copy_(size * torch.randn(factor.shape, generator=generator))
    return model


def logits(output) -> torch.Tensor:
    return getattr(output, "logits", output)


def one_step(model: nn.Module, ids: torch.Tensor, optimizer_class) -> float:
    """A training step on what learns; the loss before it."""
    optimizer = optimizer_class([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    loss = F.cross_entropy(logits(model(ids))[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    optimizer.step()
    return loss.item()


def compare_with_peft(model, targets, ids, folder, atol):
    """Outputs, adapter files, one step of each optimizer, and merged weights of ours against PEFT's."""
    ours = randomize(inject_lora(copy.deepcopy(model), targets, 4, 10))
    save_adapter(ours, folder / "ours")
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(model), folder / "ours", is_trainable=True)
    assert theirs.get_nb_trainable_parameters()[0] == sum(p.numel() for p in ours.parameters() if p.requires_grad)
    with torch.no_grad():
        before, expected = logits(model(ids)), logits(theirs(ids))
        torch.testing.assert_close(logits(ours(ids)), expected, rtol=0, atol=atol)
        assert (expected - before).abs().max() > 100 * atol

        theirs.save_pretrained(folder / "theirs")
        back = load_adapter(copy.deepcopy(model), folder / "theirs")
        torch.testing.assert_close(logits(back(ids)), expected, rtol=0, atol=atol)

    for optimizer_class in (torch.optim.SGD, torch.optim.AdamW):
        losses = [one_step(stepped, ids, optimizer_class) for stepped in (ours, theirs)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)
        save_adapter(ours, folder / "ours")
        theirs.save_pretrained(folder / "theirs")
        files = [load_file(folder / name / "adapter_model.safetensors") for name in ("ours", "theirs")]
        assert files[0].keys() == files[1].keys()
        for key, value in files[0].items():
            torch.testing.assert_close(value, files[1][key], rtol=1e-5, atol=1e-6, msg=key)

    merged, wanted = merge_all(ours).state_dict(), theirs.merge_and_unload().state_dict()
    assert merged.keys() == wanted.keys() == model.state_dict().keys()
    for key, value in merged.items():
        torch.testing.assert_close(value, wanted[key], rtol=1e-5, atol=1e-6, msg=key)


@pytest.mark.parametrize("targets", [["w_q", "w_v"], EVERYTHING], ids=["q, v", "all"])
def test_the_course_model_with_lora_equals_peft(targets, tmp_path):
    compare_with_peft(course_model(), targets, token_ids(), tmp_path, atol=1e-5)


def test_smollm2_with_lora_equals_peft(tmp_path):
    model, _ = smollm2()
    compare_with_peft(model, ["q_proj", "v_proj"], token_ids(seq=12), tmp_path, atol=1e-4)


class FromPeft(nn.Module):
    """PEFT's own layer, called as ours."""

    def __init__(self, base, rank, alpha, dropout=0.0):
        super().__init__()
        if not isinstance(base, nn.Linear):
            raise TypeError
        if not 1 <= rank <= min(base.weight.shape):  # PEFT allows more
            raise ValueError
        self.base, self.rank, self.alpha = base.requires_grad_(False), rank, alpha
        config = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout)
        inner = PeftLinear(base, "default", config=config, r=rank, lora_alpha=alpha)
        self.inner = [inner]  # in a list: its base is ours, and is registered once
        self.lora_A, self.lora_B, self.drop = (getattr(inner, n) for n in ("lora_A", "lora_B", "lora_dropout"))
        self.to(base.weight)

    merged = property(lambda self: self.inner[0].merged)

    def forward(self, x):
        return self.inner[0](x)

    def merge(self):
        if not self.merged:
            self.inner[0].merge()

    def unmerge(self):
        if self.merged:
            self.inner[0].unmerge()


def test_pefts_own_layer_passes_the_check():
    for seed in (None, 1, 2):
        result = run_check("LoRALinear", FromPeft, seed=seed)
        assert result.passed, str(result.card)


def test_pefts_rule_for_targets_is_ours():
    model = tiny()
    for targets in (["w_q"], ["attention.w_q", "w_out"], ["blocks.1.attention.w_k"], EVERYTHING):
        theirs = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(r=2, target_modules=targets))
        adapted = {name.removeprefix("base_model.model.") for name, m in theirs.named_modules() if hasattr(m, "lora_A")}
        assert set(lora_layers(inject_lora(copy.deepcopy(model), targets, 2, 8))) == adapted


@pytest.mark.parametrize("Layer", CLASSES, ids=lambda c: c.__name__)
@pytest.mark.parametrize(("d_in", "d_out", "rank"), [(7, 5, 2), (5, 5, 2), (5, 5, 5), (4, 9, 4), (3, 3, 1), (1, 6, 1)])
def test_factors_are_found_whatever_their_names_and_orientation(Layer, d_in, d_out, rank):
    layer = Layer(nn.Linear(d_in, d_out), rank, alpha=3.0, dropout=0.5).train()
    a, b = (torch.randn(shape, generator=seeded(i)) for i, shape in enumerate([(rank, d_in), (d_out, rank)]))
    with torch.no_grad():
        for factor, value in zip(find_factors(layer), (a, b), strict=True):
            assert factor.shape == value.shape
            factor.copy_(value)
    assert layer.training
    x = torch.randn(4, d_in, generator=seeded(5))
    torch.testing.assert_close(layer.eval()(x), layer.base(x) + 3.0 / rank * x @ a.T @ b.T)
    again = find_factors(layer)
    torch.testing.assert_close(again[1] @ again[0], b @ a)  # the trial left no trace


@pytest.mark.parametrize("Layer", CLASSES, ids=lambda c: c.__name__)
def test_adapters_of_any_right_layer_go_to_peft_and_back(Layer, tmp_path, monkeypatch):
    monkeypatch.setitem(inject_lora.__globals__, "LoRALinear", Layer)
    base, ids = tiny(), token_ids(11, 8)
    ours = randomize(inject_lora(copy.deepcopy(base), EVERYTHING, 2, 6), size=0.5)
    assert all(type(layer) is Layer for layer in lora_layers(ours).values())
    save_adapter(ours, tmp_path)
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path)
    back = load_adapter(copy.deepcopy(base), tmp_path, inject_lora)
    factors = lora_state_dict(ours)
    assert len(factors) == 24 and all(value.dim() == 2 and not value.requires_grad for value in factors.values())
    with torch.no_grad():
        expected = ours(ids)
        for other in (theirs, back, merge_all(ours)):
            torch.testing.assert_close(other(ids), expected, rtol=1e-4, atol=1e-5)
        assert (expected - base(ids)).abs().max() > 1e-2
    for merge in (variants.merge_all__new_layers, merge_all):
        assert not lora_layers(merge(back))


def test_the_update_has_at_most_the_rank_and_merging_a_hundred_times_does_not_drift():
    layer = LoRALinear(nn.Linear(40, 30), 3, alpha=6.0)
    randomize(nn.Sequential(layer), size=1.0)
    weight = layer.base.weight.clone()
    layer.merge()
    assert torch.linalg.matrix_rank(layer.base.weight - weight, rtol=1e-4) == 3
    for _ in range(100):
        layer.unmerge()
        layer.merge()
    layer.unmerge()
    torch.testing.assert_close(layer.base.weight.detach(), weight, rtol=0, atol=1e-4)  # 200 roundings of about 1e-6


def test_dropout_keeps_the_mean_of_the_output():
    layer = LoRALinear(nn.Linear(6, 4), 2, alpha=3.0, dropout=0.25)
    randomize(nn.Sequential(layer), size=1.0)
    x = torch.randn(6, generator=seeded(3))
    outputs = layer.train()(x.expand(200_000, 6))
    error = outputs.std(dim=0) / 200_000**0.5
    assert ((outputs.mean(dim=0) - layer.eval()(x)).abs() < 5 * error).all()


def test_training_moves_the_factors_and_nothing_else():
    model = inject_lora(tiny(), ["w_q", "w_out"], 2, 8).train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)  # it gets the frozen ones too
    ids = token_ids(11, 8)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
        optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(lora_state_dict(model))


def test_the_first_gradient_reaches_b_only_and_the_second_both():
    layer = LoRALinear(nn.Linear(6, 4), 2, alpha=3.0)
    x = torch.randn(5, 6, generator=seeded(0))
    layer(x).square().sum().backward()
    assert (layer.A.grad == 0).all() and (layer.B.grad != 0).any()
    with torch.no_grad():
        layer.B -= 0.1 * layer.B.grad
    layer(x).square().sum().backward()
    assert (layer.A.grad != 0).any()


def test_gpt2_of_transformers_is_refused_because_its_layers_are_conv1d():
    model = AutoModelForCausalLM.from_pretrained(course_folder("base"))
    with pytest.raises(TypeError, match="Conv1D"):
        inject_lora(model, ["c_attn"], 2, 4)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("targets", "rank", "error", "words"),
    [
        (["q_proj"], 2, ValueError, r"'q_proj'.*\['w_in', 'w_k', 'w_o', 'w_out', 'w_q', 'w_v'\]"),
        (["w_q", "wv"], 2, ValueError, "'wv'"),
        (["blocks.7.attention.w_q"], 2, ValueError, "blocks.7"),
        (["token_embedding"], 2, TypeError, "this is Embedding"),
        (["attention"], 2, TypeError, "this is MultiHeadAttention"),
        (["w_q"], 0, ValueError, "from 1 to 6, .* got 0"),
        (["w_q"], 7, ValueError, "from 1 to 6, .* got 7"),
        (["w_q"], 2.0, ValueError, "whole number"),
        ("w_q", 2, TypeError, "must be a list"),
        ([], 2, TypeError, "must be a list of names, not empty"),
    ],
)
def test_bad_targets_and_ranks_are_refused_with_what_is_possible(targets, rank, error, words):
    model = tiny()
    with pytest.raises(error, match=words):
        inject_lora(model, targets, rank, 4)
    assert not lora_layers(model) and all(parameter.requires_grad for parameter in model.parameters())


def test_a_second_adapter_in_the_same_place_is_refused_and_elsewhere_welcome():
    model = inject_lora(tiny(), ["w_q"], 2, 4)
    with pytest.raises(TypeError, match="this is LoRALinear"):
        inject_lora(model, ["w_q"], 2, 4)
    with pytest.raises(TypeError, match="this is LoRALinear"):
        LoRALinear(model.blocks[0].attention.w_q, 2, 4)
    assert linear_names(merge_all(model)) == sorted(EVERYTHING)
    inject_lora(model, ["w_q"], 1, 4)
    assert len(lora_layers(model)) == 2


def test_merge_all_twice_and_without_adapters_changes_nothing():
    model, ids = randomize(inject_lora(tiny(), EVERYTHING, 2, 8), size=0.3), token_ids(11, 8)
    expected = model(ids)
    merged = merge_all(model)
    weights = copy.deepcopy(merged.state_dict())
    assert all(torch.equal(value, weights[name]) for name, value in merge_all(merged).state_dict().items())
    torch.testing.assert_close(merged(ids), expected, rtol=1e-4, atol=1e-5)


# adapters that do not fit


def saved(folder, model=None, rank=2):
    save_adapter(randomize(inject_lora(model or tiny(), ["w_q", "w_in"], rank, 4)), folder)
    return folder


def wider():
    return GPT(GPTConfig(vocab_size=11, context_length=8, d_model=8, n_heads=2, n_layers=2), seeded(0))


def deeper():
    return GPT(GPTConfig(vocab_size=11, context_length=8, d_model=6, n_heads=2, n_layers=3), seeded(0))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (wider, r"another model: its layer 'blocks.0.attention.w_q' has factors .*\(2, 8\)"),
        (deeper, "another model: its layer 'blocks.2.attention.w_q' .* no linear layer has this name"),
    ],
)
def test_an_adapter_for_another_model_is_refused(other, words, tmp_path):
    model = tiny()
    with pytest.raises(ValueError, match=words):
        load_adapter(model, saved(tmp_path, other()))
    assert not lora_layers(model) and all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("options", [{"use_dora": True}, {"use_rslora": True}, {"rank_pattern": {"w_q": 1}}])
def test_pefts_extensions_of_lora_are_refused_by_name(options, tmp_path):
    config = peft.LoraConfig(r=2, target_modules=["w_q"], **options)
    peft.get_peft_model(tiny(), config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"not plain LoRA.*{next(iter(options))}"):
        load_adapter(tiny(), tmp_path)


def test_a_folder_that_is_no_adapter_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no whole LoRA adapter"):
        load_adapter(tiny(), tmp_path)
    saved(tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])
    with pytest.raises(ValueError, match="no whole LoRA adapter"):
        load_adapter(tiny(), tmp_path)
    saved(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "IA3"}))
    with pytest.raises(ValueError, match="peft_type='IA3'"):
        load_adapter(tiny(), tmp_path)


def test_what_cannot_be_saved_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no LoRA layer"):
        save_adapter(tiny(), tmp_path)
    merged = inject_lora(tiny(), ["w_q"], 2, 4)
    merged.blocks[0].attention.w_q.merge()
    with pytest.raises(ValueError, match=r"call unmerge\(\) first"):
        save_adapter(merged, tmp_path)
    two = inject_lora(inject_lora(tiny(), ["w_q"], 2, 4), ["w_v"], 3, 4)
    with pytest.raises(ValueError, match="one rank and one alpha"):
        save_adapter(two, tmp_path)


def test_a_layer_that_does_not_compute_lora_is_not_saved_as_one(tmp_path):
    class Twice(LoRALinear):
        def forward(self, x):
            return 2 * super().forward(x) - self.base(x)

    model = nn.Sequential(Twice(nn.Linear(4, 3), 2, 4.0))
    with pytest.raises(ValueError, match="output is not base"):
        save_adapter(model, tmp_path)
