"""What right answers of lesson 05 show, and the known mistakes. No name or layout of a parameter is looked at."""

import copy
import math

import torch
from torch import nn

from shared.checking import alike, observes, raised
from week4_finetuning.solutions.other_peft import check_prefix

SIZES = {"n_prefix": 2, "n_layers": 3, "n_heads": 4, "d_head": 5, "d_hidden": 7}  # all different


def described(pairs) -> object:
    """The shapes of the keys and values; of anything else, what it is."""
    if not isinstance(pairs, (tuple, list)):
        return type(pairs).__name__
    return [tuple(x.shape) if isinstance(x, torch.Tensor) else described(x) for x in pairs]


def stacked(module: nn.Module, batch: int = 1) -> torch.Tensor:
    """(layer, k or v, batch, head, virtual token, d_head)"""
    return torch.stack([torch.stack(tuple(pair)) for pair in module(batch)])


def filled(module: nn.Module, value: float) -> nn.Module:
    """All that learns is this number: then all that comes out is one number, in whatever order it stands."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(value)
    return module


def randomized(module: nn.Module, rng: torch.Generator) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng) / 2)
    return module


def numbers(module: nn.Module) -> dict[str, int]:
    """How many numbers learn, and how many a saved module holds."""
    learning = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return {"learn": learning, "are saved": sum(x.numel() for x in module.state_dict().values())}


def reached(module: nn.Module, token: int) -> int:
    """How many of the numbers that learn get a gradient from one virtual token's keys and values."""
    module.zero_grad()
    stacked(module)[..., token, :].square().sum().backward()
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    return sum(int((gradient != 0).sum()) for gradient in gradients)


def different(module: nn.Module, axis: str) -> int:
    """How many of the keys' and values' slices along an axis differ from each other."""
    found = stacked(module).detach().squeeze(2)  # layer, k or v, head, virtual token, d_head
    rows = found.flatten(0, 2) if axis == "layer, k or v, head" else found.movedim(3, 0)
    return len({tuple(row.flatten().tolist()) for row in rows})


def apart_after_training(module: nn.Module, rng: torch.Generator) -> bool:
    """Whether a loss that treats all virtual tokens alike, as attention does, leaves them different from each other."""
    target = torch.randn(*stacked(module).shape[:4], 1, SIZES["d_head"], generator=rng)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        (stacked(module) - target).square().sum().backward()
        optimizer.step()
    first, second = stacked(module).detach().unbind(dim=4)  # of SIZES["n_prefix"] tokens
    return bool((first - second).abs().max() > 1e-3)  # more than rounding


@observes(
    "PrefixTuning",
    difficulty=3,
    minutes=30,
    hints=(
        "Three parts: a table of random numbers that learns (an nn.Parameter or an nn.Embedding), and two linear "
        "layers, whose widths the docstring tells. tanh stands between the linear layers only.",
        "What comes out is (n_prefix, n_layers · 2 · d_model). Split its last axis with `view` into layers, k and "
        "v, heads, d_head, and only then move the axes with `permute`: a `view` alone would deal the numbers of one "
        "virtual token out to several. `expand` gives the batch its axis without copies.",
        "fold(): under torch.no_grad compute the rows once more, keep them as an nn.Parameter, delete the table and both layers. "
        "`forward` uses the kept rows where there are some. If there are some already, fold does nothing.",
    ),
    mistakes={
        "There is no tanh: two linear layers in a row are one linear layer.": [
            ("self.w_2(torch.tanh(self.w_1(self.table))) if", "self.w_2(self.w_1(self.table)) if"),
            (
                "nn.Parameter(self.w_2(torch.tanh(self.w_1(self.table))))",
                "nn.Parameter(self.w_2(self.w_1(self.table)))",
            ),
        ],
        "The non-linearity is ReLU: the paper's code, and PEFT, have tanh.": [
            ("self.w_2(torch.tanh(self.w_1(self.table))) if", "self.w_2(torch.relu(self.w_1(self.table))) if"),
            (
                "nn.Parameter(self.w_2(torch.tanh(self.w_1(self.table))))",
                "nn.Parameter(self.w_2(torch.relu(self.w_1(self.table))))",
            ),
        ],
        "tanh stands behind the second layer too: keys and values are then never outside -1 to 1.": [
            ("self.w_2(torch.tanh(self.w_1(self.table))) if", "self.w_2(torch.tanh(self.w_1(self.table))).tanh() if"),
            (
                "nn.Parameter(self.w_2(torch.tanh(self.w_1(self.table))))",
                "nn.Parameter(self.w_2(torch.tanh(self.w_1(self.table))).tanh())",
            ),
        ],
        "The layers have no biases: the MLP has b₁ and b₂.": [
            ("nn.Linear(d_model, d_hidden)", "nn.Linear(d_model, d_hidden, bias=False)"),
            (
                "nn.Linear(d_hidden, n_layers * 2 * d_model)",
                "nn.Linear(d_hidden, n_layers * 2 * d_model, bias=False)",
            ),
        ],
        "The numbers are put in another shape without moving the axes: the row of one virtual token is dealt out "
        "to several.": [
            (
                "rows = rows.view(-1, self.n_layers, 2, self.n_heads, self.d_head)",
                "rows = rows.view(self.n_layers, 2, self.n_heads, -1, self.d_head)",
            ),
            ("rows = rows.permute(1, 2, 3, 0, 4)", "rows = rows"),
        ],
        "The keys are used as values too: v should be numbers of its own.": ("v.expand(batch", "k.expand(batch"),
        "All layers get the same prefix: each layer has its own keys and values.": (
            "for k, v in rows)",
            "for k, v in rows[:1].expand_as(rows))",
        ),
        "All heads get the same prefix: each head has its own keys and values.": (
            "# layer, k or v, head, virtual token, d_head",
            "\n        rows = rows[:, :, :1].expand_as(rows)",
        ),
        "All rows of the table start at 0. Then all virtual tokens are one and the same, get the same gradient, and stay so.": (
            "torch.randn(n_prefix, d_model)",
            "torch.zeros(n_prefix, d_model)",
        ),
        "The table does not learn: the virtual tokens stay where chance has put them.": (
            "self.table = nn.Parameter(torch.randn(n_prefix, d_model))",
            'self.register_buffer("table", torch.randn(n_prefix, d_model))',
        ),
        "No gradient comes through: the MLP and the table stay as they start.": (
            "rows = rows.permute(1, 2, 3, 0, 4)",
            "rows = rows.detach().requires_grad_().permute(1, 2, 3, 0, 4)",
        ),
        "The batch has one row only: the model's queries have `batch` of them.": [
            ("k.expand(batch, -1, -1, -1)", "k[None]"),
            ("v.expand(batch, -1, -1, -1)", "v[None]"),
        ],
        "The axes of heads and virtual tokens are exchanged: attention wants (batch, n_heads, n_prefix, d_head).": (
            "rows.permute(1, 2, 3, 0, 4)",
            "rows.permute(1, 2, 0, 3, 4)",
        ),
        "fold() does nothing: the table and the MLP are still there.": ("if self.folded is None:\n", "if False:\n"),
        "fold() keeps the result, and the table and the MLP too: they should be gone.": (
            "del self.table, self.w_1, self.w_2",
            "pass",
        ),
        "fold() leaves the MLP behind, which nothing uses any more.": (
            "del self.table, self.w_1, self.w_2",
            "del self.table",
        ),
        "fold() keeps the result as a plain tensor: it is not in the state_dict, so it is not saved, and it does not learn.": [
            (
                "self.folded = nn.Parameter(self.w_2(torch.tanh(self.w_1(self.table))))",
                "self.folded = self.w_2(torch.tanh(self.w_1(self.table)))",
            ),
        ],
        "fold() freezes the result: it is a parameter like others, and may be trained on.": (
            "nn.Parameter(self.w_2(torch.tanh(self.w_1(self.table))))",
            "nn.Parameter(self.w_2(torch.tanh(self.w_1(self.table))), requires_grad=False)",
        ),
        "A second fold() fails, or changes something: where it is done already there is nothing to do.": (
            "if self.folded is None:\n",
            "if True:\n",
        ),
        "fold() keeps new random numbers: it should keep what the MLP makes of the table.": (
            "nn.Parameter(self.w_2(torch.tanh(self.w_1(self.table))))",
            "nn.Parameter(torch.randn_like(self.w_2(self.w_1(self.table))))",
        ),
    },
)
def check_PrefixTuning(PrefixTuning, rng):
    # Drawn first: how much is drawn later depends on the answer's parameters.
    sizes = dict(zip(SIZES, torch.randint(2, 7, (5,), generator=rng).tolist(), strict=True))
    about_drawn = sizes | {"every parameter": (torch.randint(10, 90, (), generator=rng) / 100).item()}
    module = PrefixTuning(**SIZES)
    yield "the shapes for a batch of 6", described(module(6)), SIZES
    yield "how many numbers learn, and are saved", numbers(module), SIZES
    yield "after training the virtual tokens differ", apart_after_training(PrefixTuning(**SIZES), rng), SIZES
    for value in (0.1, 0.5, -0.3):
        about = SIZES | {"every parameter": value}
        yield "all parameters the same number: k and v", stacked(filled(PrefixTuning(**SIZES), value), 2), about
    module = randomized(module, rng)
    rows = stacked(module, 4).detach()
    yield "the rows of a batch are equal", [alike(rows[:, :, 0], rows[:, :, i]) for i in range(4)], SIZES
    yield "different keys and values, by layer and head", different(module, "layer, k or v, head"), SIZES
    yield "different keys and values, by virtual token", different(module, "virtual token"), SIZES
    module.zero_grad()
    stacked(module).square().sum().backward()
    missing = [sorted(p.shape) for p in module.parameters() if p.grad is None or not p.grad.any()]
    yield "parameters that get no gradient", missing, SIZES
    yield "numbers that get a gradient from the first virtual token", reached(module, 0), SIZES
    yield "numbers that get a gradient from the last virtual token", reached(module, SIZES["n_prefix"] - 1), SIZES

    module.fold()
    yield "fold(): how many numbers learn, and are saved", numbers(module), SIZES
    yield "fold(): the output is what it was", alike(stacked(module, 4), rows, 0, 1e-6), SIZES
    yield "fold(): a new batch size", described(module(2)), SIZES
    state = copy.deepcopy(module.state_dict())
    yield "fold() a second time", raised(module.fold), SIZES
    yield "after a second fold(): the output is what it was", alike(stacked(module, 4), rows, 0, 1e-6), SIZES
    yield "folded: numbers that get a gradient from a virtual token", reached(module, 1), SIZES
    other = PrefixTuning(**SIZES)
    other.fold()
    other.load_state_dict(state)
    yield "saved and loaded into another one that is folded", alike(stacked(other, 4), rows, 0, 1e-6), SIZES
    yield "folded, all parameters the same number", stacked(filled(module, 2.5)), SIZES

    drawn = PrefixTuning(**sizes)
    yield "other sizes: the shapes for a batch of 3", described(drawn(3)), sizes
    yield "other sizes: how many numbers learn, and are saved", numbers(drawn), sizes
    yield (
        "other sizes, all parameters the same number",
        stacked(filled(drawn, about_drawn["every parameter"])),
        about_drawn,
    )
    smallest = filled(PrefixTuning(1, 1, 1, 1, 1), 0.7)
    yield "all sizes 1", stacked(smallest), dict.fromkeys(SIZES, 1)
    double = PrefixTuning(**SIZES).double()
    yield "the dtype of a module in float64", str(stacked(double).dtype), SIZES
    zeros = [raised(PrefixTuning, **(SIZES | {name: 0})) for name in SIZES]
    yield "sizes of 0 are refused", zeros
    yield "a batch of 0 is refused", raised(double, 0)


def _by(weights):
    """A wrong attention: weights(scores, n_prefix) from the scores over prefix and sequence, (…, seq, n_prefix + seq)."""

    def wrong(q, k, v, prefix_k, prefix_v):
        check_prefix(q, k, v, prefix_k, prefix_v)
        scores = q @ torch.cat([prefix_k, k], dim=2).transpose(2, 3) / math.sqrt(q.shape[3])
        return weights(scores, prefix_k.shape[2]) @ torch.cat([prefix_v, v], dim=2)

    return wrong


def _causal(scores, n_prefix):
    return scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(n_prefix), -math.inf)


def _two_softmaxes(share):
    def weights(scores, n_prefix):
        scores = _causal(scores, n_prefix)
        parts = scores[..., :n_prefix].softmax(-1), scores[..., n_prefix:].softmax(-1)
        return share * torch.cat(parts, dim=-1)

    return weights


@observes(
    "prefix_attention",
    difficulty=2,
    minutes=15,
    hints=(
        "Put the prefix in front: `torch.cat([prefix_k, k], dim=-2)`, and the same for the values. Then it is ordinary attention "
        "with n_prefix + seq keys and seq queries.",
        "The mask is (seq, n_prefix + seq): the first n_prefix columns are all visible, and the rest is the usual triangle. Draw it "
        "for seq = 3 and n_prefix = 2.",
        "One triangle is enough, if its diagonal begins n_prefix columns further to the right: `tril` can do that. "
        "(Week 1's `causal_mask` for seq queries and n_prefix + seq keys is the same: its last query sees the last "
        "key.)",
    ),
    mistakes={
        "The triangle starts at the left edge, over the prefix: query 0 sees one virtual token, and the queries never see their "
        "own keys. The prefix is visible to all.": ("tril(diagonal=n_prefix)", "tril()"),
        "The mask hides the diagonal: a query does not see its own key.": (
            "tril(diagonal=n_prefix)",
            "tril(diagonal=n_prefix - 1)",
        ),
        "The triangle lies one column too far to the right: a query sees the next token.": (
            "tril(diagonal=n_prefix)",
            "tril(diagonal=n_prefix + 1)",
        ),
        "There is no causal mask: a query sees the tokens that come after it.": (
            "scores.masked_fill(~visible, -math.inf)",
            "scores",
        ),
        "Only the prefix is seen: the keys of the sequence are all hidden.": _by(
            lambda scores, n: (
                scores[..., :n].softmax(-1) @ torch.eye(n, scores.shape[-1], dtype=scores.dtype)
                if n
                else _causal(scores, n).softmax(-1)
            )
        ),
        "The prefix is left out: this is attention over the sequence alone.": [
            ("torch.cat([prefix_k, k], dim=-2)", "k"),
            ("torch.cat([prefix_v, v], dim=-2)", "v"),
            ("torch.ones(seq, n_prefix + seq,", "torch.ones(seq, seq,"),
            ("tril(diagonal=n_prefix)", "tril()"),
        ],
        "The prefix is put behind the sequence, and the mask is for a prefix in front: the first keys count as the prefix.": [
            ("torch.cat([prefix_k, k], dim=-2)", "torch.cat([k, prefix_k], dim=-2)"),
            ("torch.cat([prefix_v, v], dim=-2)", "torch.cat([v, prefix_v], dim=-2)"),
        ],
        "The keys of the prefix are used as its values.": (
            "torch.cat([prefix_v, v], dim=-2)",
            "torch.cat([prefix_k, v], dim=-2)",
        ),
        "Keys and values of the prefix are exchanged.": [
            ("torch.cat([prefix_k, k], dim=-2)", "torch.cat([prefix_v, k], dim=-2)"),
            ("torch.cat([prefix_v, v], dim=-2)", "torch.cat([prefix_k, v], dim=-2)"),
        ],
        "The scores are not divided by √d_head, so the softmax saturates as heads get wider.": (
            " / math.sqrt(q.shape[-1])",
            "",
        ),
        "Prefix and sequence have a softmax each, and the outputs are added up: a query's weights then sum to 2.": _by(
            _two_softmaxes(1.0)
        ),
        "Prefix and sequence have a softmax each, and the mean is taken: the prefix then counts for half, whatever "
        "the scores are.": _by(_two_softmaxes(0.5)),
        "What is hidden gets a score of 0, not -∞: a score of 0 is a good one.": (
            "masked_fill(~visible, -math.inf)",
            "masked_fill(~visible, 0.0)",
        ),
        "The softmax runs over the queries: it should run over the keys, the last axis.": (
            "softmax(dim=-1)",
            "softmax(dim=-2)",
        ),
        "No gradient reaches the prefix, so it can't learn.": [
            ("torch.cat([prefix_k, k], dim=-2)", "torch.cat([prefix_k.detach(), k], dim=-2)"),
            ("torch.cat([prefix_v, v], dim=-2)", "torch.cat([prefix_v.detach(), v], dim=-2)"),
        ],
        "The weights of the virtual tokens are divided by n_prefix before all weights are made to sum to 1: a "
        "token should count by its score alone.": _by(
            lambda scores, n: _causal(
                torch.cat([scores[..., :n] - math.log(max(n, 1)), scores[..., n:]], dim=-1), n
            ).softmax(-1)
        ),
    },
)
def check_prefix_attention(prefix_attention, rng):
    def tensors(batch, n_heads, seq, d_head, n_prefix):
        lengths = (seq, seq, seq, n_prefix, n_prefix)
        return [torch.randn(batch, n_heads, length, d_head, generator=rng) for length in lengths]

    one = [torch.tensor(x).view(1, 1, -1, 1) for x in ([1.0, 2.0], [1.0, -1.0], [10.0, 20.0], [0.5], [3.0])]
    yield "two tokens, one virtual token, one number each", prefix_attention(*one)
    yield "a prefix longer than the sequence", prefix_attention(*tensors(1, 1, 3, 4, 5))
    yield "a sequence longer than the prefix, two heads", prefix_attention(*tensors(1, 2, 5, 3, 2))
    yield "a batch of two", prefix_attention(*tensors(2, 3, 4, 6, 2))
    yield "one token", prefix_attention(*tensors(1, 1, 1, 2, 3))
    yield "no prefix", prefix_attention(*tensors(1, 2, 4, 3, 0))
    q, k, v, prefix_k, prefix_v = tensors(2, 2, 3, 4, 2)
    yield "scores far apart", prefix_attention(30 * q, 30 * k, v, 30 * prefix_k, prefix_v)
    leaves = [x.clone().requires_grad_() for x in (q, k, v, prefix_k, prefix_v)]
    out = prefix_attention(*leaves)
    (out * torch.randn(q.shape, generator=rng)).sum().backward()
    for name, leaf in zip(("q", "k", "v", "prefix_k", "prefix_v"), leaves, strict=True):
        yield f"the gradient for {name}", None if leaf.grad is None else leaf.grad
    yield "the dtype with float64", str(prefix_attention(*(x.double() for x in (q, k, v, prefix_k, prefix_v))).dtype)
    yield "a prefix for one row of two is refused", raised(prefix_attention, q, k, v, prefix_k[:1], prefix_v[:1])
    yield (
        "prefix_k and prefix_v of unequal length are refused",
        raised(prefix_attention, q, k, v, prefix_k, prefix_v[:, :, :1]),
    )
    yield (
        "a prefix of another width is refused",
        raised(prefix_attention, q, k, v, prefix_k[..., :3], prefix_v[..., :3]),
    )


class Gain(nn.Module):
    """As Llama's RMSNorm: a gain, no bias."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return self.weight * x


class Block(nn.Module):
    """Names that are easily confused, a buffer called bias, as old GPT-2 code has it, and one bias in two places."""

    def __init__(self, bias=True, gains=True):
        super().__init__()
        self.register_buffer("bias", torch.ones(3, 3).tril())
        self.relative_attention_bias = nn.Embedding(4, 2)  # T5 has one so called
        self.norm_map = nn.Linear(3, 3, bias=False)
        self.mix = nn.Linear(3, 3, bias=bias)
        self.out = nn.Linear(3, 3, bias=bias)
        self.scale = nn.Parameter(torch.ones(3))
        if gains:
            self.norm = nn.LayerNorm(3, bias=bias)
            self.rms = Gain(3)
        if bias:
            self.attention = nn.MultiheadAttention(4, 2)  # in_proj_bias
            self.out.bias = self.mix.bias


class Net(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.blocks = nn.ModuleList(Block(**options) for _ in range(2))
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight


def _state(model):
    return sorted(name for name, p in model.named_parameters() if p.requires_grad)


def _outcome(bitfit_parameters, model, **options):
    """What is returned, by name and order aside; whether these are the model's parameters; what learns afterwards."""
    found = bitfit_parameters(model, **options)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {
        "returned": sorted(name for name, _ in found),
        "the model's own": [parameters.get(name) is parameter for name, parameter in found],
        "what learns": _state(model),
    }


def _refusal(bitfit_parameters, model, **options):
    """The exception, whether it names the way out, and whether the model is as it was."""
    before, told = _state(model), ["nothing", False]
    try:
        bitfit_parameters(model, **options)
    except NotImplementedError:
        raise
    except Exception as error:
        told = [type(error).__name__, "norms_too=True" in str(error)]
    return [*told, "unchanged" if _state(model) == before else "changed"]


def _with_buffers(model, norms_too=False):
    parameters = dict(model.named_parameters())
    biases = [name for name in parameters if name.rpartition(".")[2].endswith("bias")]
    gains = [name for name, p in parameters.items() if name.endswith(".weight") and p.dim() == 1]
    chosen = biases + (gains if norms_too else [])
    if not chosen:
        raise ValueError("norms_too=True" if gains else "nothing")
    model.requires_grad_(False)
    for name in chosen:
        parameters[name].requires_grad_(True)
    buffers = [(name, b) for name, b in model.named_buffers() if name.endswith("bias")]
    return [(name, parameters[name]) for name in chosen] + buffers


@observes(
    "bitfit_parameters",
    difficulty=2,
    minutes=15,
    hints=(
        "`model.named_parameters()` gives each parameter once, with its qualified name; buffers, such as GPT-2's causal mask, are not "
        "in it. `name.rpartition('.')[2]` is the part after the last dot.",
        "First collect the biases and the gains, and look whether there is anything to train. Raise before you change the model. "
        "Then freeze all (`model.requires_grad_(False)`) and let what you chose learn.",
        "A gain is called weight and has one axis: a linear layer's weight has two, an embedding's too. Do not ask "
        "for nn.LayerNorm: Llama's norm is a class of its own.",
    ),
    mistakes={
        "Nothing is frozen: the biases learn, and all else too.": ("    model.requires_grad_(False)\n", ""),
        "The biases are left as they are, and those that were frozen before stay frozen: they should learn.": (
            "    model.requires_grad_(False)\n    for _, parameter in chosen:\n        parameter.requires_grad_(True)\n",
            "    for parameter in model.parameters():\n"
            "        if all(parameter is not one for _, one in chosen):\n"
            "            parameter.requires_grad_(False)\n",
        ),
        "All is frozen, and nothing is set free again: the biases are in the list, but do not learn.": (
            "parameter.requires_grad_(True)",
            "pass",
        ),
        "'bias' is looked for anywhere in the qualified name: T5's `relative_attention_bias.weight` is an "
        "embedding, not a bias.": ('last.endswith("bias")', '"bias" in name'),
        "Only parameters called exactly 'bias' are found: attention's `in_proj_bias` is one too.": (
            'last.endswith("bias")',
            'last == "bias"',
        ),
        "A parameter that two layers share is listed twice: an optimizer would refuse or step twice.": (
            "model.named_parameters()",
            "model.named_parameters(remove_duplicate=False)",
        ),
        "Buffers called bias are listed too: they are constants, such as GPT-2's causal mask, and nothing to train.": _with_buffers,
        "A model without biases is frozen whole without a word, and nothing learns.": (
            "if not chosen:",
            "if False:",
        ),
        "The error does not tell that norms_too=True would help.": (
            "norms_too=True trains the gains of its norms",
            "nothing can be done",
        ),
        "The error promises that norms_too=True helps, where the model has no norms with gains either.": (
            '" if gains else ", and no norms with gains"',
            '" if True else ""',
        ),
        "The model is frozen before the error comes: the caller catches it and trains nothing.": [
            ("    if not chosen:\n", "    model.requires_grad_(False)\n    if not chosen:\n"),
        ],
        "norms_too puts the gains in place of the biases: they come in addition.": (
            "chosen += gains",
            "chosen = gains",
        ),
        "The gains always learn, whether norms_too asks for them or not.": ("if norms_too:", "if True:"),
        "norms_too is not used: the gains never learn.": ("if norms_too:", "if False:"),
        "Gains are looked for by the word 'norm' in the name: `norm_map` is a linear layer, and other norms are called otherwise.": (
            'last == "weight" and parameter.dim() == 1',
            'last == "weight" and "norm" in name',
        ),
        "Every weight counts as a gain: that is full tuning. A gain has one axis.": (
            'last == "weight" and parameter.dim() == 1',
            'last == "weight"',
        ),
        "Every parameter with one axis counts as a gain, whatever its name: a gain is called weight.": (
            'last == "weight" and parameter.dim() == 1',
            "parameter.dim() == 1",
        ),
    },
)
def check_bitfit_parameters(bitfit_parameters, rng):
    two = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    yield "a linear layer and a LayerNorm", _outcome(bitfit_parameters, two)
    yield "the same, with norms_too", _outcome(bitfit_parameters, two, norms_too=True)
    frozen = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2)).requires_grad_(False)
    yield "a model that is frozen already", _outcome(bitfit_parameters, frozen)
    drawn = torch.randint(3, (6,), generator=rng).tolist()
    layers = [nn.Linear(2, 2, bias=kind > 0) if kind < 2 else nn.LayerNorm(2) for kind in drawn]
    layers = nn.Sequential(*layers, nn.Linear(2, 3))
    for parameter in layers.parameters():
        parameter.requires_grad_(bool(torch.rand((), generator=rng) < 0.5))
    yield "layers at random, some of them frozen", _outcome(bitfit_parameters, layers)
    yield "buffers, shared biases, names that mislead", _outcome(bitfit_parameters, Net())
    yield "the same, with norms_too", _outcome(bitfit_parameters, Net(), norms_too=True)
    yield "no biases, but norms", _refusal(bitfit_parameters, Net(bias=False))
    yield "no biases, with norms_too", _outcome(bitfit_parameters, Net(bias=False), norms_too=True)
    yield "neither biases nor norms", _refusal(bitfit_parameters, Net(bias=False, gains=False))
    yield "neither, with norms_too", _refusal(bitfit_parameters, Net(bias=False, gains=False), norms_too=True)
