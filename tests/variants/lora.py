"""Right answers to lesson 03 of week 4, written otherwise: they must pass."""

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn

from week4_finetuning.solutions.lora import LoRALinear, check_base, linear_names, lora_layers


class LoRALinear__two_linears(nn.Module):
    """As PEFT has it: the factors are linear layers without a bias."""

    def __init__(self, base, rank, alpha, dropout=0.0):
        super().__init__()
        check_base(base, rank)
        self.base, self.rank, self.alpha, self.merged = base, rank, alpha, False
        options = {"bias": False, "dtype": base.weight.dtype, "device": base.weight.device}
        self.down = nn.Linear(base.in_features, rank, **options)
        self.up = nn.Linear(rank, base.out_features, **options)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up.weight)
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()
        for parameter in base.parameters():
            parameter.requires_grad = False

    def forward(self, x):
        out = self.base(x)
        if not self.merged:
            out = out + self.up(self.down(self.drop(x))) * (self.alpha / self.rank)
        return out

    def add(self, sign):
        with torch.no_grad():
            self.base.weight.add_(self.up.weight @ self.down.weight, alpha=sign * self.alpha / self.rank)

    def merge(self):
        if self.merged is False:
            self.add(1)
            self.merged = True

    def unmerge(self):
        if self.merged is True:
            self.add(-1)
            self.merged = False


class LoRALinear__other_way_round(nn.Module):
    """Both factors transposed, B registered first, drawn from a normal distribution, and the old weight kept."""

    def __init__(self, base, rank, alpha, dropout=0.0):
        super().__init__()
        if type(base) is not nn.Linear:
            raise TypeError("not linear")
        if rank < 1 or rank > base.in_features or rank > base.out_features:
            raise ValueError("rank")
        out, d_in = base.weight.shape
        self.rank, self.alpha, self.p, self.merged = rank, alpha, dropout, False
        self.right = nn.Parameter(torch.zeros(rank, out).to(base.weight))
        self.left = nn.Parameter(torch.randn(d_in, rank).to(base.weight) / d_in**0.5)
        self.base = base
        base.weight.requires_grad = False
        if base.bias is not None:
            base.bias.requires_grad = False

    def forward(self, x):
        if self.merged:
            return F.linear(x, self.base.weight, self.base.bias)
        kept = F.dropout(x, self.p, training=self.training)
        hidden = torch.einsum("...i,ir->...r", kept, self.left) * self.alpha
        return (
            F.linear(x, self.base.weight, self.base.bias)
            + torch.einsum("...r,ro->...o", hidden, self.right) / self.rank
        )

    def merge(self):
        if self.merged:
            return
        self.before = self.base.weight.data.clone()
        self.base.weight.data = self.before + (self.left @ self.right).T.detach() * self.alpha / self.rank
        self.merged = True

    def unmerge(self):
        if not self.merged:
            return
        self.base.weight.data = self.before
        self.merged = False


class LoRALinear__parameter_dict(nn.Module):
    def __init__(self, base, rank, alpha, dropout=0.0):
        super().__init__()
        check_base(base, rank)
        self.base, self.rank, self.alpha, self.merged = base.requires_grad_(False), rank, alpha, False
        a = torch.empty_like(base.weight[:rank])  # (rank, in)
        nn.init.kaiming_normal_(a, nonlinearity="linear")
        self.factors = nn.ParameterDict({"b": torch.zeros_like(base.weight[:, :1]).repeat(1, rank), "a": a})
        self.dropout = nn.Dropout(dropout)

    @property
    def scale(self):
        return self.alpha / self.rank * (not self.merged)

    def update(self):
        return torch.linalg.multi_dot((self.factors["b"], torch.eye(self.rank).to(self.base.weight), self.factors["a"]))

    def forward(self, x):
        return (
            self.base(x)
            if self.merged
            else torch.add(self.base(x), F.linear(self.dropout(x), self.update()), alpha=self.scale)
        )

    @torch.no_grad()
    def merge(self):
        self.base.weight.copy_(self.base.weight + self.scale * self.update())
        self.merged = True

    @torch.no_grad()
    def unmerge(self):
        if self.merged:
            self.merged = False
            self.base.weight.copy_(self.base.weight - self.scale * self.update())


def inject_lora__recursive(model, targets, rank, alpha, dropout=0.0):
    if isinstance(targets, str):
        raise TypeError("a list")
    paths = [tuple(target.split(".")) for target in targets]
    unused, places = set(paths), []

    def visit(parent, path):
        for child, module in parent.named_children():
            here = (*path, child)
            hits = [p for p in paths if here[-len(p) :] == p]
            unused.difference_update(hits)
            if hits:
                check_base(module, rank)
                places.append((parent, child, module))
            visit(module, here)

    visit(model, ())
    if unused:
        raise ValueError(f"nothing is called {unused}; there are {linear_names(model)}")
    for parameter in model.parameters():
        parameter.requires_grad = False
    for parent, child, module in places:
        parent.add_module(child, LoRALinear(module, rank=rank, alpha=alpha, dropout=dropout))
    return model


def inject_lora__set_submodule(model, targets, rank, alpha, dropout=0.0):
    if isinstance(targets, str):
        raise TypeError("a list")
    by_name = OrderedDict(model.named_modules())
    chosen = [name for name in by_name for t in targets if name == t or name.endswith("." + t)]
    for t in targets:
        if not any(name == t or name.endswith("." + t) for name in by_name):
            raise ValueError(f"{t}: not among {linear_names(model)}")
    for name in chosen:
        if not isinstance(by_name[name], nn.Linear):
            raise TypeError(name)
        if not 0 < rank <= min(by_name[name].weight.shape):
            raise ValueError(rank)
    for p in model.parameters():
        p.requires_grad_(False)
    for name in dict.fromkeys(chosen):
        model.set_submodule(name, LoRALinear(by_name[name], rank, alpha, dropout))
    return model


def lora_state_dict__by_class(model):
    found = {}
    for path, module in model.named_modules():
        if isinstance(module, LoRALinear):
            for name, value in module.state_dict().items():
                if name.split(".")[0] != "base":
                    found[path + "." + name] = value.clone()
    return found


def lora_state_dict__by_identity(model):
    of_base = {id(p) for layer in lora_layers(model).values() for p in layer.base.parameters()}
    in_layers = {id(p) for layer in lora_layers(model).values() for p in layer.parameters()}
    return {
        name: torch.tensor(parameter.tolist(), dtype=parameter.dtype)
        for name, parameter in model.named_parameters()
        if id(parameter) in in_layers - of_base
    }


def merge_all__new_layers(model):
    for name, layer in lora_layers(model).items():
        layer.merge()
        old = layer.base
        new = nn.Linear(old.in_features, old.out_features, bias=old.bias is not None).to(old.weight)
        new.load_state_dict(old.state_dict())
        model.set_submodule(name, new)
    return model


def merge_all__recursive(model):
    for child, module in list(model.named_children()):
        if isinstance(module, LoRALinear):
            if not module.merged:
                module.merge()
            setattr(model, child, module.base)
        else:
            merge_all__recursive(module)
    return model
