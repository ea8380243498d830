"""What right answers of lesson 03 show, and the known mistakes. Factors are told by their shapes, not by their names."""

from types import CodeType

import torch
from torch import nn

from shared.checking import alike, observes, raised
from week4_finetuning.solutions.lora import LoRALinear as ReferenceLoRALinear

IN, OUT, RANK, ALPHA = 5, 4, 2, 3.0  # all different, so that no two can be confused


def linear(d_in: int, d_out: int, rng: torch.Generator, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(d_in, d_out, bias=bias)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng))
    return layer


def learning(module: nn.Module) -> list[list[int]]:
    """The shapes of what learns, in an order and orientation that are nobody's choice."""
    return sorted(sorted(parameter.shape) for parameter in module.parameters() if parameter.requires_grad)


def factor(layer: nn.Module, width: int, rank: int) -> nn.Parameter:
    """The factor that has this width, by its shape; the layers here have in, out and rank all different."""
    found = [p for p in layer.parameters() if sorted(p.shape) == sorted((rank, width))]
    if not found:
        raise ValueError(f"no parameter of the layer has the shape ({rank}, {width}) or ({width}, {rank})")
    return found[-1]  # behind the base's, should that be as large


def turned(value: torch.Tensor, rows: int) -> torch.Tensor:
    """A factor, or its gradient, with this many rows."""
    return value if value.shape[0] == rows else value.T


def fill(layer: nn.Module, rng: torch.Generator, d_in: int = IN, d_out: int = OUT, rank: int = RANK) -> None:
    """Random numbers in both factors, the same ones whatever the orientation."""
    with torch.no_grad():
        for width, rows in ((d_in, rank), (d_out, d_out)):
            parameter = factor(layer, width, rank)
            columns = parameter.numel() // rows
            turned(parameter, rows).copy_(torch.randn(rows, columns, generator=rng))


def weight(layer: nn.Module, d_in: int = IN, d_out: int = OUT) -> torch.Tensor:
    """The base's weight, wherever the layer keeps it."""
    return next(p.detach().clone() for p in layer.parameters() if p.shape == (d_out, d_in))


def start(LoRALinear, d_in: int, d_out: int, rank: int) -> dict[str, str]:
    """How A and B start, in words. A is judged by its distribution: its mean, and its standard deviation times √in."""
    layer = LoRALinear(nn.Linear(d_in, d_out), rank, alpha=1.0)
    a, b = (factor(layer, width, rank).detach() for width in (d_in, d_out))
    std, mean = float(a.std()) * d_in**0.5, float(a.mean()) * d_in**0.5
    size = (
        "all 0"
        if std == mean == 0
        else "too small"
        if std < 0.25
        else "of the size of 1/√in"
        if std < 2.5
        else "too large"
    )
    around = "around 0" if abs(mean) <= 0.15 * std else "not around 0"
    return {"A": f"{size}, {around}", "B": "not 0" if b.any() else "all 0"}


def dropped_values(LoRALinear) -> list[list[float]]:
    """What one row can become with a dropout of one half: of its 1, 2 and 4 each stays (doubled) or not, and two equal
    outputs add up the rest."""
    layer = LoRALinear(nn.Linear(3, 2, bias=False), rank=1, alpha=1.0, dropout=0.5)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(0.0 if parameter.shape == (2, 3) else 1.0)
    rows = layer.train()(torch.tensor([1.0, 2.0, 4.0]).expand(2000, 3))
    return [list(row) for row in sorted({tuple(round(value, 3) for value in row) for row in rows.tolist()})]


def dropout_spares(LoRALinear, rng) -> bool:
    """Whether the base's part of the output is as it was, in training, with a dropout of one half."""
    base = linear(IN, OUT, rng)
    x = torch.randn(50, IN, generator=rng)
    expected = base(x)
    return alike(LoRALinear(base, RANK, ALPHA, dropout=0.5).train()(x), expected)


@observes(
    "LoRALinear",
    difficulty=3,
    minutes=30,
    hints=(
        "Three decisions in `__init__`: the base stops learning (`requires_grad_`), and two `nn.Parameter`s come: "
        "one of random numbers, one of zeros. (`base.weight.new_zeros(...)` takes dtype and device from the base.)",
        "forward: the base's output plus (alpha / rank) · (dropout(x) @ A.T @ B.T). Two thin products: never make B A here. "
        "`nn.Dropout` knows by itself whether the layer trains. Where the layer is merged, return the base's output alone.",
        "alpha / rank · B A has the shape of base.weight, (out, in). merge adds it there in place, unmerge takes "
        "it out. Each acts only where `merged` says that there is something to do, and then sets it.",
    ),
    mistakes={
        "The base still learns: its weight and bias should be frozen, else nothing is saved, and the adapter alone is not "
        "what was learnt.": ("base.requires_grad_(False)", "pass"),
        "Only the base's weight is frozen, and its bias still learns.": (
            "base.requires_grad_(False)",
            "base.weight.requires_grad_(False)",
        ),
        "B starts at random numbers, so the model is disturbed before the first step. With B = 0 it starts as the base.": (
            "base.weight.new_zeros(base.out_features, rank)",
            "base.weight.new_empty(base.out_features, rank).normal_(std=0.1)",
        ),
        "Both factors start at 0. Then the gradient of each, which the other multiplies, is 0 for ever.": (
            "base.weight.new_empty(rank, base.in_features).uniform_(-bound, bound)",
            "base.weight.new_zeros(rank, base.in_features)",
        ),
        "Factor A starts at 0 and B at random numbers: the update starts at 0 too, but here A is the one at random.": [
            (
                "base.weight.new_empty(rank, base.in_features).uniform_(-bound, bound)",
                "base.weight.new_zeros(rank, base.in_features)",
            ),
            (
                "base.weight.new_zeros(base.out_features, rank)",
                "base.weight.new_empty(base.out_features, rank).uniform_(-bound, bound)",
            ),
        ],
        "Factor A starts with standard deviation 1: for an x of d_in numbers, x Aᵀ is about √d_in times too large.": (
            ".uniform_(-bound, bound)",
            ".normal_()",
        ),
        "Factor A starts at the size of 1/√rank, not 1/√in. (`nn.init.kaiming_uniform_` looks at the second axis: "
        "it should be the input's.)": ("base.in_features**-0.5", "rank**-0.5"),
        "Factor A starts at a fixed size such as 0.02, whatever the input's width: it should go with 1/√in.": (
            ".uniform_(-bound, bound)",
            ".normal_(std=0.02)",
        ),
        "The update is multiplied by alpha, and not divided by the rank: with a larger rank it would grow.": [
            ("return self.base(x) + self.alpha / self.rank", "return self.base(x) + self.alpha"),
            ("self.base.weight += self.alpha / self.rank", "self.base.weight += self.alpha"),
            ("self.base.weight -= self.alpha / self.rank", "self.base.weight -= self.alpha"),
        ],
        "The update is not scaled: alpha / rank, which sets its strength, is missing.": [
            ("return self.base(x) + self.alpha / self.rank *", "return self.base(x) +"),
            ("self.base.weight += self.alpha / self.rank *", "self.base.weight +="),
            ("self.base.weight -= self.alpha / self.rank *", "self.base.weight -="),
        ],
        "The scale is upside down, rank / alpha: a larger alpha would make the update weaker.": [
            ("return self.base(x) + self.alpha / self.rank", "return self.base(x) + self.rank / self.alpha"),
            ("self.base.weight += self.alpha / self.rank", "self.base.weight += self.rank / self.alpha"),
            ("self.base.weight -= self.alpha / self.rank", "self.base.weight -= self.rank / self.alpha"),
        ],
        "The scale is alpha / √rank. (That is rsLoRA, Kalajdzievski 2023; LoRA divides by the rank.)": [
            ("return self.base(x) + self.alpha / self.rank", "return self.base(x) + self.alpha / self.rank**0.5"),
            ("self.base.weight += self.alpha / self.rank", "self.base.weight += self.alpha / self.rank**0.5"),
            ("self.base.weight -= self.alpha / self.rank", "self.base.weight -= self.alpha / self.rank**0.5"),
        ],
        "Only the update comes out, without the output of the base that it is to be added to.": (
            "return self.base(x) + self.alpha / self.rank",
            "return self.alpha / self.rank",
        ),
        "The base reads x after the dropout too: only the update's input is dropped.": (
            "return self.base(x) + self.alpha / self.rank * (self.dropout(x) @ self.A.T @ self.B.T)",
            "x = self.dropout(x)\n        return self.base(x) + self.alpha / self.rank * (x @ self.A.T @ self.B.T)",
        ),
        "The dropout falls on x Aᵀ, between the factors: it belongs on x, before A.": (
            "self.dropout(x) @ self.A.T",
            "self.dropout(x @ self.A.T)",
        ),
        "The dropout falls on the update's output: it belongs on x, before A.": (
            "(self.dropout(x) @ self.A.T @ self.B.T)",
            "self.dropout(x @ self.A.T @ self.B.T)",
        ),
        "There is no dropout: the argument is taken, and nothing is ever dropped.": ("self.dropout(x)", "x"),
        "The dropout works in evaluation mode too: the same question then gets another answer each time.": (
            "self.dropout(x)",
            "torch.nn.functional.dropout(x, self.dropout.p)",
        ),
        "A merged layer adds its update once more: after merge() forward is the base alone.": (
            "        if self.merged:\n            return self.base(x)\n",
            "",
        ),
        "merge() changes nothing in the base's weight: a merged layer, which is the base alone, has then lost its "
        "update.": (
            "self.base.weight += self.alpha / self.rank * (self.B @ self.A)",
            "pass",
        ),
        "merge() forgets the scale alpha / rank: the output changes as the layer is merged.": (
            "self.base.weight += self.alpha / self.rank * (self.B @ self.A)",
            "self.base.weight += self.B @ self.A",
        ),
        "merge() does not ask whether the layer is merged already, and a second call adds the update again.": (
            "        if not self.merged:\n            self.base.weight += self",
            "        if True:\n            self.base.weight += self",
        ),
        "unmerge() does not ask whether the layer is merged, and takes out what was never put in.": (
            "        if self.merged:\n            self.base.weight -= self",
            "        if True:\n            self.base.weight -= self",
        ),
        "unmerge() does not take the update out of the weight again, and forward adds it once more.": (
            "self.base.weight -= self.alpha / self.rank * (self.B @ self.A)",
            "pass",
        ),
        "unmerge() leaves `merged` True, so that the layer goes on without its update.": (
            "            self.base.weight -= self.alpha / self.rank * (self.B @ self.A)\n        self.merged = False",
            "            self.base.weight -= self.alpha / self.rank * (self.B @ self.A)",
        ),
        "The factors are float32 whatever the base is: they should have its dtype (and device).": [
            ("base.weight.new_empty(rank, base.in_features)", "torch.empty(rank, base.in_features)"),
            ("base.weight.new_zeros(base.out_features, rank)", "torch.zeros(base.out_features, rank)"),
        ],
        "No gradient goes through the update to x, so the layers before this one learn less than they should.": (
            "self.dropout(x) @",
            "self.dropout(x.detach()) @",
        ),
    },
)
def check_LoRALinear(LoRALinear, rng):
    about = {"in": IN, "out": OUT, "rank": RANK, "alpha": ALPHA}
    base = linear(IN, OUT, rng)
    x = torch.randn(3, IN, generator=rng)
    expected = base(x)
    layer = LoRALinear(base, RANK, ALPHA)
    yield "the shapes of what learns", learning(layer), about
    yield "at the start the output is the base's", alike(layer(x), expected), about
    yield "how the factors start", start(LoRALinear, 64, 96, 48), about | {"in": 64, "out": 96, "rank": 48}
    yield "how they start with a wide input", start(LoRALinear, 4096, 3, 2), about | {"in": 4096, "out": 3, "rank": 2}

    fill(layer, rng)
    yield "one vector", layer(x[0]), {**about, "x": x[0]}
    yield "three rows", layer(x), {**about, "x": x}
    x = torch.randn(2, 3, IN, generator=rng)
    yield "two rows of three tokens", layer(x), {**about, "x": x}
    plain = LoRALinear(linear(3, 6, rng, bias=False), 1, 0.5)
    yield "without a bias: the shapes of what learns", learning(plain), {"in": 3, "out": 6, "rank": 1, "alpha": 0.5}
    fill(plain, rng, 3, 6, 1)
    yield "without a bias, rank 1, alpha below the rank", plain(x[..., :3]), {"x": x[..., :3], "rank": 1, "alpha": 0.5}

    leaf = x.clone().requires_grad_()
    (layer(leaf) * torch.randn(2, 3, OUT, generator=rng)).sum().backward()
    yield "the gradient for x", leaf.grad, {**about, "x": x}
    yield "the gradient for A", turned(factor(layer, IN, RANK).grad, RANK), {**about, "x": x}
    yield "the gradient for B", turned(factor(layer, OUT, RANK).grad, OUT), {**about, "x": x}

    yield "dropout 0.5: what may become of a row (1, 2, 4)", dropped_values(LoRALinear), {"dropout": 0.5}
    yield "dropout leaves the base's part alone", dropout_spares(LoRALinear, rng), {"dropout": 0.5}
    noisy = LoRALinear(linear(IN, OUT, rng), RANK, ALPHA, dropout=0.5).eval()
    fill(noisy, rng)
    yield "dropout 0.5 in evaluation mode", noisy(x), {**about, "x": x, "dropout": 0.5}

    states = [layer.merged]
    yield "the base's weight before merge()", weight(layer), about
    layer.merge()
    states.append(layer.merged)
    yield "the base's weight after merge()", weight(layer), about
    yield "the output after merge()", layer(x), {**about, "x": x}
    layer.merge()
    yield "the base's weight after a second merge()", weight(layer), about
    layer.unmerge()
    states.append(layer.merged)
    yield "the base's weight after unmerge()", weight(layer), about
    yield "the output after unmerge()", layer(x), {**about, "x": x}
    layer.unmerge()
    yield "the base's weight after a second unmerge()", weight(layer), about
    yield "`merged` before merge(), after it, after unmerge()", states, about
    noisy.train().merge()
    yield "merged, in training mode, with dropout", noisy(x), {**about, "x": x, "dropout": 0.5}

    double = LoRALinear(linear(IN, OUT, rng).double(), RANK, ALPHA)
    yield "the dtypes with a base of float64", sorted({str(p.dtype) for p in double.parameters()}), about
    yield "a base that is not linear is refused", raised(LoRALinear, nn.Embedding(6, 3), 2, 1.0)
    yield (
        "ranks of 0 and above min(in, out) are refused",
        [raised(LoRALinear, nn.Linear(IN, OUT), rank, 1.0) for rank in (0, -1, OUT + 1, IN + 1)],
    )
    yield "a rank of min(in, out) is fine", raised(LoRALinear, nn.Linear(IN, OUT), OUT, 1.0)


# --- models with adapters -------------------------------------------------------------------------------------


class Head(nn.Module):
    """Names that are easily confused: w_q and new_w_q, and modules that are no linear layers."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.w_q = nn.Linear(4, 6)
        self.new_w_q = nn.Linear(6, 4, bias=False)
        self.w_q_norm = nn.LayerNorm(4)

    def forward(self, x):
        return x + self.w_q_norm(self.new_w_q(torch.tanh(self.w_q(self.norm(x)))))


class Net(nn.Module):
    """Layers within layers, and one at the top."""

    def __init__(self):
        super().__init__()
        self.token_embedding = nn.Embedding(7, 4)
        self.blocks = nn.ModuleList(nn.ModuleDict({"attention": Head()}) for _ in range(2))
        self.head = nn.Linear(4, 5)

    def forward(self, token_ids):
        x = self.token_embedding(token_ids)
        for block in self.blocks:
            x = block["attention"](x)
        return self.head(x)


LINEARS = [name for name, module in Net().named_modules() if isinstance(module, nn.Linear)]


def net(rng: torch.Generator) -> Net:
    model = Net()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng))
    return model.eval()


def replaced(model: nn.Module) -> list[str]:
    """The linear layers of Net in whose place is something else."""
    return [name for name in LINEARS if type(model.get_submodule(name)) is not nn.Linear]


def fill_all(model: nn.Module, rng: torch.Generator, rank: int, layers: list[str] | None = None) -> None:
    shapes = {
        name: (module.in_features, module.out_features) for name, module in Net().named_modules() if name in LINEARS
    }
    for name in replaced(model) if layers is None else layers:
        fill(model.get_submodule(name), rng, *shapes[name], rank)


def own_class(answer):
    """The LoRALinear that an answer asks for by name (the learner's, in a notebook), else the reference's."""
    function = getattr(answer, "function", answer)

    def names(code):
        return {
            *code.co_names,
            *(name for inner in code.co_consts if isinstance(inner, CodeType) for name in names(inner)),
        }

    if hasattr(function, "__code__") and "LoRALinear" in names(function.__code__):
        return function.__globals__.get("LoRALinear", ReferenceLoRALinear)
    return ReferenceLoRALinear


def adapted(LoRALinear, rng: torch.Generator, rank: int = 3, dropout: float = 0.0) -> Net:
    """A Net with random adapters on w_q and at the top, made by hand; all else frozen."""
    model = net(rng).requires_grad_(False)
    for block in model.blocks:
        block["attention"].w_q = LoRALinear(block["attention"].w_q, rank, 2.0, dropout)
    model.head = LoRALinear(model.head, rank, 2.0, dropout)
    model.eval()
    fill_all(model, rng, rank)
    return model


TOKEN_IDS = torch.tensor([[0, 3, 6, 1], [2, 2, 5, 4]])
ENDS_WITH = 'f".{name}".endswith(f".{target}")'
FREEZE = "    model.requires_grad_(False)\n"
PUT = "        setattr(model.get_submodule(parent), child, LoRALinear(module, rank, alpha, dropout))\n"


@observes(
    "inject_lora",
    difficulty=3,
    minutes=25,
    hints=(
        "Three passes: find all modules that the targets name, refuse what cannot be, and only then change the model. "
        "`model.named_modules()` gives every module with its qualified name.",
        "A name matches when it equals the target or ends with '.' + target. For the replacement split the name at the last dot: "
        "`model.get_submodule(parent)` is the module that holds the layer (an empty parent is the model itself), and setattr "
        "puts the new one there.",
        "The order matters. First refuse: a target that finds nothing, a layer that `check_base` does not take. "
        "Then freeze the whole model. The new layers come last: their factors are made after the freezing, so they "
        "learn.",
    ),
    mistakes={
        "The targets match the ends of names without regard to the dots: 'w_q' then names 'new_w_q' too.": (
            ENDS_WITH,
            "name.endswith(target)",
        ),
        "A target matches anywhere in the name of a linear layer: 'w_q' then names 'new_w_q' too.": [
            (ENDS_WITH, "target in name and isinstance(module, nn.Linear)"),
        ],
        "Only the last part of a name is compared, so a longer target such as 'attention.w_q' or a whole name finds nothing.": (
            ENDS_WITH,
            'name.rpartition(".")[2] == target',
        ),
        "The rest of the model still learns, embeddings and norms too: only the factors should.": (
            FREEZE,
            "",
        ),
        "All is frozen after the layers were put in, so the factors are frozen too, and nothing learns.": [
            (FREEZE, ""),
            (PUT + "    return model", PUT + "    model.requires_grad_(False)\n    return model"),
        ],
        "Only the linear layers are frozen: embeddings and norms still learn.": (
            FREEZE,
            "    for module in model.modules():\n        if isinstance(module, nn.Linear):\n            module.requires_grad_(False)\n",
        ),
        "Only the first layer of each target is adapted: a target names a layer in every block.": (
            "        chosen |= found\n",
            "        chosen |= dict([next(iter(found.items()))])\n",
        ),
        "Only the first target is used.": ("for target in targets:", "for target in targets[:1]:"),
        "Every linear layer of the model is adapted, whatever the targets are.": (
            "    for module in chosen.values():\n",
            "    chosen = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}\n    for module in chosen.values():\n",
        ),
        "The layers are made, but not put into the model, which runs on without them.": (
            "setattr(model.get_submodule(parent), child, LoRALinear(module, rank, alpha, dropout))",
            "LoRALinear(module, rank, alpha, dropout)",
        ),
        "A target that names nothing is passed over: a misspelt name would train nothing, and nobody would notice.": (
            "        if not found:\n",
            "        if False:\n",
        ),
        "The error for a wrong rank comes after the model was frozen or changed: who catches it has a model that "
        "is neither old nor new.": [
            ("    for module in chosen.values():\n        check_base(module, rank)\n", ""),
        ],
        "A copy of the model is changed and returned; the model itself should be.": (
            FREEZE,
            "    import copy\n\n    model = copy.deepcopy(model)\n    model.requires_grad_(False)\n    chosen = {name: model.get_submodule(name) for name in chosen}\n",
        ),
        "alpha is not passed on: the rank is taken for it.": (
            "LoRALinear(module, rank, alpha, dropout)",
            "LoRALinear(module, rank, rank, dropout)",
        ),
        "dropout is not passed on: the new layers drop nothing.": (
            "LoRALinear(module, rank, alpha, dropout)",
            "LoRALinear(module, rank, alpha)",
        ),
        "The new layers have bases of their own with new random weights: the layer that was there should be the base.": (
            "LoRALinear(module, rank, alpha, dropout)",
            "LoRALinear(nn.Linear(module.in_features, module.out_features, module.bias is not None), rank, alpha, dropout)",
        ),
    },
)
def check_inject_lora(inject_lora, rng):
    model = net(rng)
    before = model(TOKEN_IDS)
    own = list(model.parameters())
    result = inject_lora(model, ["w_q"], 3, 2.0)
    yield (
        "targets ['w_q']: the layers that were replaced",
        replaced(model),
        {"targets": ["w_q"], "linear layers": LINEARS},
    )
    yield "the same model comes back", result is model
    yield (
        "how many parameters learn, and how many of those were there before",
        [
            sum(p.requires_grad for p in model.parameters()),
            sum(p.requires_grad for p in own),
        ],
    )
    yield "the output at the start is the model's", alike(model(TOKEN_IDS), before)
    fill_all(model, rng, 3)
    yield "rank 3, alpha 2, random factors: the output", model(TOKEN_IDS), {"token_ids": TOKEN_IDS}
    model.train()
    yield "without dropout, training gives the same output twice", alike(model(TOKEN_IDS), model(TOKEN_IDS))

    for targets in (["attention.w_q"], ["blocks.1.attention.new_w_q"], ["head", "w_q"], LINEARS):
        model = inject_lora(net(rng), targets, 1, 4.0)
        yield (
            "other targets: the layers that were replaced",
            replaced(model),
            {"targets": targets, "linear layers": LINEARS},
        )
        yield "other targets: the shapes of what learns", learning(model), {"targets": targets}
        fill_all(model, rng, 1)
        yield (
            "other targets, random factors: the output",
            model(TOKEN_IDS),
            {"targets": targets, "token_ids": TOKEN_IDS},
        )
    model = inject_lora(net(rng), ["w_q"], 2, 2.0, dropout=0.5)
    fill_all(model, rng, 2)
    yield "dropout 0.5: the output in evaluation mode", model.eval()(TOKEN_IDS), {"dropout": 0.5}
    model.train()
    outputs = [model(TOKEN_IDS) for _ in range(20)]
    yield (
        "dropout 0.5: whether twenty outputs in training are all the same",
        all(alike(outputs[0], o) for o in outputs),
    )

    wrong = {
        "targets that name nothing are refused": (["w_x"], 2),
        "one of two targets that names nothing is refused": (["w_q", "blocks.2.w_q"], 2),
        "a target that is no linear layer is refused": (["token_embedding"], 2),
        "a rank of 0 is refused": (["w_q"], 0),
        "a rank that fits one layer and not the other is refused": (["w_q", "head"], 5),
        "a string instead of a list is refused": ("w_q", 2),
    }
    for label, (targets, rank) in wrong.items():
        model = net(rng)
        yield label, raised(inject_lora, model, targets, rank, 2.0), {"targets": targets, "rank": rank}
        unchanged = not replaced(model) and all(p.requires_grad for p in model.parameters())
        yield "after that error the model is as it was", unchanged, {"targets": targets, "rank": rank}
    model = inject_lora(net(rng), ["w_q"], 2, 2.0)
    yield "a layer that has an adapter already is refused", raised(inject_lora, model, ["w_q"], 2, 2.0)


@observes(
    "lora_state_dict",
    difficulty=2,
    minutes=10,
    hints=(
        "`lora_layers(model)` gives each LoRA layer with its qualified name. What in it is not of its `base`?",
        "`layer.named_parameters(prefix=name)` gives a layer's parameters with their qualified names; those of the base begin "
        "with name + '.base.'. The rest are the factors.",
        "Two things make a copy that can be kept: it is cut off from the graph, and it has its own memory. Tensors "
        "have a method for each. The keys are the qualified names.",
    ),
    mistakes={
        "All parameters of the model are there. Only the factors belong to an adapter; that is why its file is small.": lambda model: {
            name: parameter.detach().clone() for name, parameter in model.named_parameters()
        },
        "The base's weights of the adapted layers are there too: only the factors belong to an adapter.": (
            'if not name.startswith(f"{layer_name}.base."):',
            "if True:",
        ),
        "All that learns is taken, factor or not: here a norm learns as well.": lambda model: {
            name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.requires_grad
        },
        "The names lack the path to the layer, so the layers overwrite one another.": (
            'layer.named_parameters(prefix=layer_name):\n            if not name.startswith(f"{layer_name}.base."):',
            'layer.named_parameters():\n            if not name.startswith("base."):',
        ),
        "The values are no copies: they change as training goes on.": (
            "parameter.detach().clone()",
            "parameter.detach()",
        ),
        "The copies hang on the graph and want a gradient: what is kept should need neither.": (
            "parameter.detach().clone()",
            "parameter.clone()",
        ),
        "Only the first LoRA layer is there: what the others have learnt is lost.": (
            "in lora_layers(model).items():\n        for name, parameter",
            "in list(lora_layers(model).items())[:1]:\n        for name, parameter",
        ),
    },
)
def check_lora_state_dict(lora_state_dict, rng):
    LoRALinear = own_class(lora_state_dict)
    model = adapted(LoRALinear, rng)
    model.blocks[0]["attention"].norm.requires_grad_(True)
    names = [name for name, _ in model.named_parameters()]
    factors = lora_state_dict(model)
    yield "how many entries", len(factors), {"LoRA layers": replaced(model)}
    yield "every name is the qualified name of a parameter", all(name in names for name in factors)
    yield "the shapes", sorted(sorted(value.shape) for value in factors.values()), {"LoRA layers": replaced(model)}
    yield "whether any entry wants a gradient", any(value.requires_grad for value in factors.values())
    expected = model(TOKEN_IDS)
    with torch.no_grad():
        for name in replaced(model):
            for parameter in model.get_submodule(name).parameters():
                if parameter.requires_grad:
                    parameter.mul_(-2)
    changed = model(TOKEN_IDS)
    yield "the model's output after its factors were changed", changed, {"token_ids": TOKEN_IDS}
    yield (
        "names that load_state_dict(factors, strict=False) does not find in the model",
        model.load_state_dict(factors, strict=False).unexpected_keys,
    )
    yield "with the factors put back, the output is the earlier one", alike(model(TOKEN_IDS), expected)
    yield "a model without LoRA layers", lora_state_dict(net(rng))


@observes(
    "merge_all",
    difficulty=2,
    minutes=10,
    hints=(
        "`lora_layers(model)` is a dict, made before you change anything. Each layer can merge itself.",
        "After layer.merge() the layer's `base` is a plain nn.Linear with the merged weight. It only has to take the layer's place.",
        "A name up to its last dot is the path to the module that holds the layer (`model.get_submodule`), the "
        "rest is the attribute to set. A layer that is merged already has to be replaced too. The same model comes "
        "back.",
    ),
    mistakes={
        "The layers are replaced by their bases, but not merged before: what was learnt is lost.": (
            "        layer.merge()\n",
            "",
        ),
        "The layers are merged, but are still LoRA layers: a merged model should need none of them.": (
            "        setattr(model.get_submodule(parent), child, layer.base)\n    return model",
            "        model.get_submodule(parent)\n    return model",
        ),
        "unmerge() is called, not merge(): what was learnt does not get into the weight.": (
            "        layer.merge()\n",
            "        layer.unmerge()\n",
        ),
        "Only layers at the top of the model are found: most are deep inside.": lambda model: at_the_top(model),
        "Layers that were merged before are passed over, and stay LoRA layers.": (
            "        layer.merge()\n",
            "        if layer.merged:\n            continue\n        layer.merge()\n",
        ),
        "New linear layers are made, without the bias of the old ones.": (
            "child, layer.base)\n    return model",
            "child, without_bias(layer.base))\n    return model\n\n\n"
            "def without_bias(base):\n    new = nn.Linear(base.in_features, base.out_features, bias=False)\n"
            "    new.weight = base.weight\n    return new\n",
        ),
        "A copy of the model is merged, and the model itself stays as it was.": (
            "    for name, layer in lora_layers(model).items():\n        layer.merge()",
            "    import copy\n\n    model = copy.deepcopy(model)\n    for name, layer in lora_layers(model).items():\n        layer.merge()",
        ),
    },
)
def check_merge_all(merge_all, rng):
    LoRALinear = own_class(merge_all)
    model = adapted(LoRALinear, rng)
    shown = {"LoRA layers": replaced(model), "token_ids": TOKEN_IDS}
    expected = model(TOKEN_IDS)
    result = merge_all(model)
    yield "the output of what comes back", result(TOKEN_IDS), shown
    yield "that equals the output before", alike(result(TOKEN_IDS), expected, rtol=1e-4, atol=1e-4), shown
    yield "layers that are no plain nn.Linear", replaced(result), shown
    yield "names and values of the weights", dict(result.state_dict()), shown
    yield "the same model comes back", result is model
    yield "merging all twice changes nothing", merge_all(result)(TOKEN_IDS), shown
    model = adapted(LoRALinear, rng)
    model.head.merge()
    yield "one layer was merged before: the output", merge_all(model)(TOKEN_IDS), shown
    yield "one layer was merged before: layers that are no plain nn.Linear", replaced(model), shown
    plain = net(rng)
    yield "a model without LoRA layers", merge_all(plain)(TOKEN_IDS), {"token_ids": TOKEN_IDS}


def at_the_top(model):
    for name, layer in list(model.named_children()):
        if hasattr(layer, "merge"):
            layer.merge()
            setattr(model, name, layer.base)
    return model
