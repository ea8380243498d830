"""LoRA: a frozen linear layer with a trained update of low rank beside it, and adapters that PEFT reads and writes."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def check_base(base: nn.Module, rank: int) -> None:
    """Raise TypeError unless base is a plain nn.Linear, ValueError unless 1 <= rank <= min(in, out)."""
    if not isinstance(base, nn.Linear):
        raise TypeError(f"LoRA here adapts nn.Linear layers, and this is {type(base).__name__}")
    limit = min(base.in_features, base.out_features)
    if not isinstance(rank, int) or not 1 <= rank <= limit:
        raise ValueError(
            f"the rank must be a whole number from 1 to {limit}, for a layer from {base.in_features} to "
            f"{base.out_features}; got {rank!r}"
        )


class LoRALinear(nn.Module):
    """base(x) + alpha / rank · dropout(x) Aᵀ Bᵀ with A (rank, in) and B (out, rank), the only parameters that learn.

    A starts at random, with mean 0 and values of the size of 1/√in; B starts at 0; both in base's dtype, on its device.
    `merge()` adds alpha / rank · B A to base.weight, and forward is base alone; `unmerge()` takes it out again. Calling
    either twice changes nothing more; `merged` tells the state. Hu et al. 2021, eq. 3.
    Raises TypeError unless base is an nn.Linear, and ValueError unless 1 <= rank <= min(in, out).
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        check_base(base, rank)
        self.base, self.rank, self.alpha, self.merged = base, rank, alpha, False
        # BEGIN SOLUTION
        base.requires_grad_(False)
        bound = base.in_features**-0.5  # as a new nn.Linear draws its weight, and as PEFT draws A
        self.A = nn.Parameter(base.weight.new_empty(rank, base.in_features).uniform_(-bound, bound))
        self.B = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        self.dropout = nn.Dropout(dropout)
        # END SOLUTION

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        # BEGIN SOLUTION
        if self.merged:
            return self.base(x)
        return self.base(x) + self.alpha / self.rank * (self.dropout(x) @ self.A.T @ self.B.T)
        # END SOLUTION

    @torch.no_grad()
    def merge(self) -> None:
        # BEGIN SOLUTION
        if not self.merged:
            self.base.weight += self.alpha / self.rank * (self.B @ self.A)
        self.merged = True
        # END SOLUTION

    @torch.no_grad()
    def unmerge(self) -> None:
        # BEGIN SOLUTION
        if self.merged:
            self.base.weight -= self.alpha / self.rank * (self.B @ self.A)
        self.merged = False
        # END SOLUTION


def linear_names(model: nn.Module) -> list[str]:
    """What the linear layers of a model are called, without the path to them: candidates for `targets`."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return sorted({name.rpartition(".")[2] for name in names})


def inject_lora(model: nn.Module, targets: Sequence[str], rank: int, alpha: float, dropout: float = 0.0) -> nn.Module:
    """Put a LoRALinear in place of every layer that a target names, freeze all else, and return the same model.

    A target names each module of that qualified name, and each whose name ends with a dot and the target, as PEFT's
    target_modules do: "w_q" names "blocks.0.attention.w_q", but not "blocks.0.attention.new_w_q".
    Raises ValueError for a target that names nothing (the message tells `linear_names`) or a rank that does not fit,
    TypeError for a module that is not an nn.Linear. The model is then as it was.
    """
    if isinstance(targets, str) or not targets:
        raise TypeError(f"targets must be a list of names, not empty, such as {linear_names(model)}; got {targets!r}")
    # BEGIN SOLUTION
    chosen = {}
    for target in targets:
        found = {name: module for name, module in model.named_modules() if f".{name}".endswith(f".{target}")}
        if not found:
            raise ValueError(f"no module is called {target!r}; the linear layers are called {linear_names(model)}")
        chosen |= found
    for module in chosen.values():
        check_base(module, rank)
    model.requires_grad_(False)
    for name, module in chosen.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, LoRALinear(module, rank, alpha, dropout))
    return model
    # END SOLUTION


def lora_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Qualified name -> LoRA layer: every module that has a `base` and can `merge` and `unmerge`, whoever wrote it."""
    wanted = ("base", "merge", "unmerge")
    return {name: module for name, module in model.named_modules() if all(hasattr(module, part) for part in wanted)}


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The factors of all LoRA layers, and nothing else: qualified name of the parameter -> a copy without gradient.

    The names are those of `model.state_dict()`, so model.load_state_dict(factors, strict=False) puts them back.
    Copies: what is trained on afterwards does not change them.
    """
    # BEGIN SOLUTION
    factors = {}
    for layer_name, layer in lora_layers(model).items():
        for name, parameter in layer.named_parameters(prefix=layer_name):
            if not name.startswith(f"{layer_name}.base."):
                factors[name] = parameter.detach().clone()
    return factors
    # END SOLUTION


def merge_all(model: nn.Module) -> nn.Module:
    """Merge every LoRA layer, put its base, now a plain nn.Linear with the merged weight, in its place; the same model.

    A layer that is merged already is not merged again; a model without LoRA layers comes back as it is.
    """
    # BEGIN SOLUTION
    for name, layer in lora_layers(model).items():
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.base)
    return model
    # END SOLUTION


# --- adapters: a folder of adapter_config.json and adapter_model.safetensors, as PEFT writes it -----------------

PREFIX = "base_model.model."  # PEFT's name of a layer is this and its name in the model


@torch.no_grad()
def find_factors(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """A (rank, in) and B (out, rank) of a LoRA layer: views of its parameters, whatever their names and orientation.

    Which is which is found by trial: random numbers are put in, and the output tells. They are taken out again.
    Raises ValueError for a layer with other than two factors, or one that does not compute alpha / rank · x Aᵀ Bᵀ.
    """
    if layer.merged:
        raise ValueError("the layer is merged, so that its factors do nothing: call unmerge() first")
    base, rank = layer.base, layer.rank
    parameters = [parameter for name, parameter in layer.named_parameters() if not name.startswith("base.")]
    if len(parameters) != 2 or any(parameter.dim() != 2 for parameter in parameters):
        raise ValueError(f"a LoRA layer has two matrices beside its base, this one has {len(parameters)} parameters")
    kept, was_training = [parameter.clone() for parameter in parameters], layer.training
    layer.eval()
    try:
        for seed, parameter in enumerate(parameters):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
        x = torch.eye(base.in_features, dtype=base.weight.dtype, device=base.weight.device)
        update = (layer(x) - base(x)).T * rank / layer.alpha  # (out, in): B A, if the layer is right
        p, q = (parameter.detach() for parameter in parameters)
        for first, second in ((p, q), (q, p)):
            for a in (first, first.T):
                for b in (second, second.T):
                    fits = a.shape == (rank, base.in_features) and b.shape == (base.out_features, rank)
                    if fits and torch.allclose(b @ a, update, rtol=1e-2, atol=1e-2 * rank**0.5):
                        return a, b
    finally:
        layer.train(was_training)
        for parameter, value in zip(parameters, kept, strict=True):
            parameter.copy_(value)
    raise ValueError("the layer's output is not base(x) + alpha / rank · x Aᵀ Bᵀ of its two factors")


def save_adapter(model: nn.Module, folder: str | Path) -> None:
    """Write the LoRA layers of a model as a folder that PeftModel.from_pretrained(model, folder) reads.

    Raises ValueError if there are none, if their ranks or alphas differ, or if they are merged.
    """
    layers = lora_layers(model)
    settings = {(layer.rank, layer.alpha) for layer in layers.values()}
    if len(settings) != 1:
        found = f"(rank, alpha) {sorted(settings)}" if settings else "no LoRA layer: was it merged, or not injected?"
        raise ValueError(f"an adapter has one rank and one alpha; the model has {found}")
    ((rank, alpha),) = settings
    weights = {}
    for name, layer in layers.items():
        for letter, factor in zip("AB", find_factors(layer), strict=True):
            weights[f"{PREFIX}{name}.lora_{letter}.weight"] = factor.detach().cpu().clone().contiguous()
    config = {"peft_type": "LORA", "task_type": None, "base_model_name_or_path": None, "inference_mode": True}
    config |= {"r": rank, "lora_alpha": alpha, "target_modules": sorted(layers), "bias": "none", "lora_dropout": 0.0}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


# What PEFT can add to LoRA and our layer does not have; the value is what PEFT writes where it is not used.
PLAIN = {"bias": "none", "use_dora": False, "use_rslora": False, "use_qalora": False, "lora_bias": False}
PLAIN |= {"fan_in_fan_out": False, "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {}}


def load_adapter(model: nn.Module, folder: str | Path, inject: Callable[..., nn.Module] = inject_lora) -> nn.Module:
    """Put the adapter of a folder, ours or PEFT's, into a model that has none yet; returns the model.

    `inject` is the learner's inject_lora. Raises ValueError, and leaves the model as it was, for a folder that is no
    adapter, an adapter for another model (the message names the layers), or one with what our LoRALinear has not.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "adapter_model.safetensors")
        kind, rank, alpha = config["peft_type"], config["r"], config["lora_alpha"]
    except Exception as error:
        raise ValueError(f"{folder} is no whole LoRA adapter: {error}") from error
    other = {name: config[name] for name, plain in PLAIN.items() if (config.get(name) or plain) != plain}
    if kind != "LORA" or other:
        raise ValueError(f"{folder} is not plain LoRA, and our LoRALinear is: peft_type={kind!r}, {other}")
    names = {key.removeprefix(PREFIX).rpartition(".lora_")[0] for key in weights}
    modules = dict(model.named_modules())
    for name in sorted(names):
        shapes = {}
        if isinstance(modules.get(name), nn.Linear):
            shapes = {"A": (rank, modules[name].in_features), "B": (modules[name].out_features, rank)}
        keys = {letter: f"{PREFIX}{name}.lora_{letter}.weight" for letter in "AB"}
        found = {letter: tuple(weights[key].shape) for letter, key in keys.items() if key in weights}
        if shapes != found:
            raise ValueError(
                f"the adapter in {folder} is for another model: its layer {name!r} has factors {found}, "
                f"and here {shapes or 'no linear layer has this name'}"
            )
    inject(model, sorted(names), rank, alpha, config.get("lora_dropout", 0.0))
    with torch.no_grad():
        for name in names:
            for letter, factor in zip("AB", find_factors(model.get_submodule(name)), strict=True):
                factor.copy_(weights[f"{PREFIX}{name}.lora_{letter}.weight"])
    return model
