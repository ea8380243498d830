"""What right answers of lesson 03 show, and the known mistakes."""

import torch
from torch import Tensor, nn

from shared.checking import observes, raised
from week1_decoder.solutions.decoder import GPT as ReferenceGPT
from week1_decoder.solutions.decoder import GPTConfig


def tiny(**changes) -> GPTConfig:
    """A config whose sizes all differ, so that no two can be confused."""
    sizes = dict(vocab_size=7, context_length=6, d_model=4, n_heads=2, n_layers=2, d_ff=10)
    return GPTConfig(**{**sizes, **changes})


def shapes(module: nn.Module) -> dict[str, list[int]]:
    return {name: list(parameter.shape) for name, parameter in sorted(module.named_parameters())}


def filled(module: nn.Module, rng: torch.Generator, std: float = 0.7) -> nn.Module:
    """Give every parameter its own random values, whatever the order of registration."""
    with torch.no_grad():
        for _, parameter in sorted(module.named_parameters()):
            parameter.copy_(std * torch.randn(parameter.shape, generator=rng))
    return module


@observes(
    "sinusoidal_positions",
    difficulty=2,
    minutes=10,
    hints=(
        "Begin with the angles alone: a matrix with one row for each position t and one column for each pair i.",
        "A column of positions of shape (context_length, 1) divided by a row of d_model / 2 wavelengths "
        "10000^(2i / d_model) broadcasts to all the angles. `torch.arange(0, d_model, 2)` is the row of 2i.",
        "Make an empty table; fill the columns 0, 2, 4, … (`table[:, 0::2]`) with the sines of the angles and "
        "1, 3, 5, … (`table[:, 1::2]`) with the cosines. Before that, refuse an odd d_model.",
    ),
    mistakes={
        "All sines come first and all cosines after them; the formula puts them in turn: sin, cos, sin, cos.": [
            ("table[:, 0::2]", "table[:, : d_model // 2]"),
            ("table[:, 1::2]", "table[:, d_model // 2 :]"),
        ],
        "The exponent is i / d_model, and the formula has 2i / d_model: the wavelengths end near 100, not near "
        "10000.": (
            "torch.arange(0, d_model, 2) / d_model",
            "torch.arange(d_model // 2) / d_model",
        ),
        "A sine and its cosine have different wavelengths. In a pair both take the same 2i, else no rotation "
        "moves one position to the next.": lambda context_length, d_model: one_wavelength_a_column(
            context_length, d_model
        ),
        "Sine and cosine are swapped: position 0 should be 0, 1, 0, 1, …": (
            "table[:, 0::2] = torch.sin(t / wavelength)\n    table[:, 1::2] = torch.cos(t / wavelength)",
            "table[:, 1::2] = torch.sin(t / wavelength)\n    table[:, 0::2] = torch.cos(t / wavelength)",
        ),
        "Positions start at 1; the first token is at position 0.": (
            "torch.arange(context_length, dtype=torch.float32)",
            "torch.arange(1, context_length + 1, dtype=torch.float32)",
        ),
        "The position is multiplied by 10000^(2i / d_model) in place of divided: the angles race, and "
        "neighbours look unrelated.": ("10000 ** (torch", "10000 ** -(torch"),
        "An odd d_model is not refused with a ValueError: its last sine has no cosine.": (
            "if d_model % 2:",
            "if False:",
        ),
    },
    atol=1e-4,  # float32 angles up to 60 radians
)
def check_sinusoidal_positions(sinusoidal_positions, rng):
    yield "two positions, one pair", sinusoidal_positions(2, 2)
    yield "three positions, two pairs", sinusoidal_positions(3, 4)
    yield "one position", sinusoidal_positions(1, 6)
    yield "sixty positions, five pairs", sinusoidal_positions(60, 10)
    n_positions, n_pairs = torch.randint(2, 40, (2,), generator=rng).tolist()
    yield "random sizes", sinusoidal_positions(n_positions, 2 * n_pairs)
    yield "an odd d_model is refused", raised(sinusoidal_positions, 4, 2 * n_pairs + 1)


def one_wavelength_a_column(context_length, d_model):
    if d_model % 2:
        raise ValueError("odd")
    angles = torch.arange(context_length)[:, None] / 10000 ** (torch.arange(d_model) / d_model)
    return torch.where(torch.arange(d_model) % 2 == 0, angles.sin(), angles.cos())


@observes(
    "LayerNorm",
    difficulty=2,
    minutes=10,
    hints=(
        "Everything happens along the last axis; `keepdim=True` lets the mean be subtracted without a reshape.",
        "Subtract the mean, square the rest and take its mean: that is the variance that the formula wants "
        "(`x.var()` divides by n - 1 by default).",
        "In __init__ two `nn.Parameter`s, ones and zeros (or `self.bias = None`), and eps. In forward: the "
        "centred x, times weight, divided by the square root of (variance + eps), plus bias where there is one.",
    ),
    mistakes={
        "eps is added after the square root. Inside it, it also keeps the gradient finite where all values are "
        "equal.": ("torch.sqrt(variance + self.eps)", "(torch.sqrt(variance) + self.eps)"),
        "The variance divides by n - 1: LayerNorm's is the plain mean of the squares, and with few numbers the two "
        "differ much.": (
            "centred.square().mean(dim=-1, keepdim=True)",
            "x.var(dim=-1, keepdim=True)",
        ),
        "The variance is mean(x²) - mean(x)². That is right on paper; in float32 two large, nearly equal numbers "
        "lose their digits where the mean is large.": (
            "centred.square().mean(dim=-1, keepdim=True)",
            "x.square().mean(dim=-1, keepdim=True) - x.mean(dim=-1, keepdim=True).square()",
        ),
        "The mean is not subtracted. (That would be RMSNorm, which comes in week 2.)": (
            "x - x.mean(dim=-1, keepdim=True)",
            "x",
        ),
        "The statistics are taken along the first axis, over other tokens. Each token's own vector is normalised: "
        "the last axis.": [
            ("x.mean(dim=-1", "x.mean(dim=0"),
            ("centred.square().mean(dim=-1", "centred.square().mean(dim=0"),
        ],
        "There is one mean and one variance for the whole tensor, so that a token's output depends on all the "
        "others.": [
            ("x.mean(dim=-1, keepdim=True)", "x.mean()"),
            ("centred.square().mean(dim=-1, keepdim=True)", "centred.square().mean()"),
        ],
        "The argument eps is not used: 1e-5 is built in.": ("self.eps = eps", "self.eps = 1e-5"),
        "`weight` is not applied: the norm cannot learn how large its output should be.": (
            "self.weight * centred",
            "centred",
        ),
        "The bias is added before the weight multiplies, so it is scaled too.": (
            "normed if self.bias is None else normed + self.bias",
            "normed if self.bias is None else normed + self.weight * self.bias",
        ),
        "It divides by the variance, not by its square root: the output has standard deviation 1/σ, not 1.": (
            "torch.sqrt(variance + self.eps)",
            "(variance + self.eps)",
        ),
        "There is a bias though bias=False asked for none.": (" if bias else None", ""),
        "No gradient flows through the variance: the backward pass then treats the scale as a constant.": (
            "variance = centred.square()",
            "variance = centred.detach().square()",
        ),
    },
    atol=1e-4,  # means of 200 in float32
)
def check_LayerNorm(LayerNorm, rng):
    norm = LayerNorm(4)
    yield "parameters", shapes(norm), {"d_model": 4}
    yield "a new norm's weight and bias", dict(norm.named_parameters()), {"d_model": 4}
    x = torch.tensor([[1.0, 2.0, 3.0, 6.0]])
    yield "one vector", norm(x), {"x": x}
    x = torch.tensor([[0.001, -0.001, 0.002, 0.0]])
    yield "a vector as small as √eps", norm(x), {"x": x}
    x = torch.full((1, 4), 3.0, requires_grad=True)
    yield "all values equal", norm(x), {"x": x}
    norm(x)[0, 0].backward()
    yield "all values equal: the gradient", x.grad, {"x": x}

    norm = filled(LayerNorm(5, eps=0.3), rng)
    x = torch.randn(2, 3, 5, generator=rng, requires_grad=True)
    yield "random weight and bias, eps = 0.3", norm(x), {"x": x, "eps": 0.3}
    (norm(x) * torch.randn(2, 3, 5, generator=rng)).sum().backward()
    yield "the gradient for x", x.grad, {"x": x, "eps": 0.3}
    yield "the gradient for the weight", norm.weight.grad, {"x": x, "eps": 0.3}

    norm = LayerNorm(8, bias=False)
    yield "parameters with bias=False", shapes(norm), {"d_model": 8, "bias": False}
    x = 200 + torch.randn(16, 8, generator=rng)
    yield "values around 200", filled(norm, rng)(x), {"x": x, "bias": False}
    yield "float64 stays float64", norm.double()(x[:2].double()), {"x": x[:2].double(), "bias": False}


@observes(
    "FeedForward",
    difficulty=2,
    minutes=10,
    hints=(
        "Two `nn.Linear`s with GELU between them. The names `w_in` and `w_out` matter: weights are loaded by name.",
        "The formula of GELU can be typed as it stands, with torch.tanh and h**3. √(2/π) is about 0.7979.",
        "forward: hand x to w_in, put the result through the formula (it works on all entries at once), hand that "
        "to w_out. Both maps get their bias, or none, from the argument.",
    ),
    mistakes={
        "The activation is the exact GELU, h Φ(h). GPT-2 was trained with the tanh form; the two differ by up to "
        "0.0005, enough to see in the logits.": (
            "0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))",
            "F.gelu(h)",
        ),
        "The activation is ReLU, which cuts off at 0. GELU lets small negative values through.": (
            "0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))",
            "torch.relu(h)",
        ),
        "The activation is h · sigmoid(1.702 h), the other approximation of the GELU paper. GPT-2 uses the tanh "
        "form.": (
            "0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))",
            "h * torch.sigmoid(1.702 * h)",
        ),
        "The cubic term 0.044715 h³ is missing: the curve is off by up to 0.03, near h = ±2.": (
            "h + 0.044715 * h**3",
            "h",
        ),
        "The square root is missing: the factor is 2/π, about 0.637, where the formula has √(2/π), about 0.798.": (
            "math.sqrt(2 / math.pi)",
            "2 / math.pi",
        ),
        "The factor 0.5 is missing: for large h, GELU(h) should be h.": ("0.5 * h * (1", "h * (1"),
        "There is no activation, so the two linear maps are together just one linear map.": (
            "h = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))",
            "pass",
        ),
        "The activation comes after w_out. It belongs between the two maps.": [
            ("h = self.w_in(x)", "h = self.w_out(self.w_in(x))"),
            ("return self.w_out(h)", "return h"),
        ],
        "The hidden width is fixed at 4 d_model; the argument d_ff should decide.": [
            ("nn.Linear(d_model, d_ff", "nn.Linear(d_model, 4 * d_model"),
            ("nn.Linear(d_ff, d_model", "nn.Linear(4 * d_model, d_model"),
        ],
        "w_out has a bias though bias=False asked for none.": (
            "nn.Linear(d_ff, d_model, bias=bias)",
            "nn.Linear(d_ff, d_model)",
        ),
    },
)
def check_FeedForward(FeedForward, rng):
    net = FeedForward(1, 1)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    x = torch.tensor([[-2.0], [-1.0], [0.0], [1.0], [2.0]])
    yield "GELU itself: both weights 1, both biases 0", net(x), {"x": x}
    yield "parameters", shapes(FeedForward(3, 5)), {"d_model": 3, "d_ff": 5}
    net = filled(FeedForward(3, 5), rng)
    x = torch.randn(2, 4, 3, generator=rng, requires_grad=True)
    yield "random weights", net(x), {"x": x}
    yield "large values", net(20 * x), {"x": 20 * x}
    (net(x) * torch.randn(2, 4, 3, generator=rng)).sum().backward()
    yield "the gradient for x", x.grad, {"x": x}
    net = filled(FeedForward(3, 5, bias=False), rng)
    yield "parameters with bias=False", shapes(net), {"d_model": 3, "d_ff": 5, "bias": False}
    yield "values with bias=False", net(x), {"x": x}


@observes(
    "Block",
    difficulty=3,
    minutes=15,
    hints=(
        "Each sublayer computes an update, and the update is added to x. Nothing else touches the stream.",
        "`make_norm(config)` makes a norm. `MultiHeadAttention` and `FeedForward` are the two sublayers: give each "
        "its sizes, and whether it has biases, from the config.",
        'Write the two lines of the docstring for "pre" under an `if`, and those for "post" after it. Only '
        "attention takes key_mask. The sum is a new tensor: x itself still belongs to the caller.",
    ),
    mistakes={
        'The norm is always placed before the sublayer; with norm_placement "post" it comes after the sum.': (
            'if self.config.norm_placement == "pre":',
            "if True:",
        ),
        'The norm is always placed after the sum; with norm_placement "pre" only the sublayer\'s input is normalised, '
        "and the stream itself passes untouched.": ('if self.config.norm_placement == "pre":', "if False:"),
        "norm_1 is used before both sublayers, and norm_2 by none.": (
            "x + self.feed_forward(self.norm_2(x))\n        x =",
            "x + self.feed_forward(self.norm_1(x))\n        x =",
        ),
        "The feed-forward net reads the stream without a norm.": (
            "x + self.feed_forward(self.norm_2(x))\n        x =",
            "x + self.feed_forward(x)\n        x =",
        ),
        "Attention's output replaces the stream; it should be added to it.": (
            "x = x + self.attention(self.norm_1(x), key_mask)",
            "x = self.attention(self.norm_1(x), key_mask)",
        ),
        "The feed-forward net's output replaces the stream; it should be added to it.": (
            "return x + self.feed_forward(self.norm_2(x))",
            "return self.feed_forward(self.norm_2(x))",
        ),
        "The update is added to the normalised x. In a pre-norm block it is added to the x from before the norm, so "
        "that a plain path leads from the embeddings to the logits.": (
            "x = x + self.attention(self.norm_1(x), key_mask)",
            "x = self.norm_1(x)\n            x = x + self.attention(x, key_mask)",
        ),
        "Both sublayers read the same x, side by side. The feed-forward net should read what attention has "
        "already written.": [
            (
                "x = x + self.attention(self.norm_1(x), key_mask)",
                "return x + self.attention(self.norm_1(x), key_mask) + self.feed_forward(self.norm_2(x))",
            ),
            ("            return x + self.feed_forward(self.norm_2(x))\n        x =", "        x ="),
        ],
        "key_mask does not reach the attention, so padding is attended to.": [
            ("self.attention(self.norm_1(x), key_mask)", "self.attention(self.norm_1(x))"),
            ("self.attention(x, key_mask)", "self.attention(x)"),
        ],
        'With norm_placement "post" the norm is taken of the sublayer\'s output alone, not of the sum x + '
        "sublayer(x): the stream grows unchecked.": [
            ("self.norm_1(x + self.attention(x, key_mask))", "x + self.norm_1(self.attention(x, key_mask))"),
            ("self.norm_2(x + self.feed_forward(x))", "x + self.norm_2(self.feed_forward(x))"),
        ],
        "x += … writes into the caller's own tensor, which may still be needed as it was.": (
            "x = x + self.attention(self.norm_1(x), key_mask)",
            "x += self.attention(self.norm_1(x), key_mask)",
        ),
        "config.d_ff is not used: the feed-forward net is always 4 d_model wide.": (
            "FeedForward(config.d_model, config.d_ff,",
            "FeedForward(config.d_model, 4 * config.d_model,",
        ),
        "config.bias does not reach the attention or the feed-forward net: they have biases always.": [
            (
                "MultiHeadAttention(config.d_model, config.n_heads, bias=config.bias)",
                "MultiHeadAttention(config.d_model, config.n_heads)",
            ),
            ("FeedForward(config.d_model, config.d_ff, bias=config.bias)", "FeedForward(config.d_model, config.d_ff)"),
        ],
    },
)
def check_Block(Block, rng):
    block = Block(tiny())
    yield "parameters", shapes(block), {"config": tiny()}
    filled(block, rng)
    x = torch.randn(1, 1, 4, generator=rng)
    before = x.clone()
    yield "one token", block(x), {"x": before}
    yield "x is left as it was", torch.equal(x, before), {"x": before}
    x = torch.randn(2, 5, 4, generator=rng)
    weights = torch.randn(2, 5, 4, generator=rng)
    yield "two rows of five tokens", block(x), {"x": x}
    mask = torch.tensor([[True, True, True, False, False], [True, False, True, True, False]])
    yield "padding hidden by key_mask", block(x, mask), {"x": x, "key_mask": mask}
    leaf = x.clone().requires_grad_()
    (block(1.0 * leaf) * weights).sum().backward()
    yield "the gradient for x", leaf.grad, {"x": x}
    for label, changes in (
        ("post-norm", {"norm_placement": "post"}),
        ("no norm", {"norm": "none"}),
        ("no biases", {"bias": False}),
    ):
        block = filled(Block(tiny(**changes)), rng)
        yield f"{label}: parameters", shapes(block), {"config": tiny(**changes)}
        yield f"{label}: values", block(x, mask), {"x": x, "key_mask": mask, **changes}


@observes(
    "init_weights",
    difficulty=2,
    minutes=10,
    hints=(
        "`model.named_parameters()` gives every name with its tensor. The number of axes tells matrices from vectors; "
        "the end of the name tells the rest.",
        "`nn.init.normal_(parameter, std=…, generator=generator)`, `nn.init.zeros_` and `nn.init.ones_` fill in place.",
        "Tensors with two axes: std 0.02, or 0.02 / math.sqrt(2 * n_layers) where the name ends with w_o.weight or "
        "w_out.weight. Vectors: zeros where the name ends with bias, else ones.",
    ),
    mistakes={
        "The matrices that write into the residual stream are not scaled down, so the stream grows with the number "
        "of layers.": (
            "if writes else 0.02",
            "if False else 0.02",
        ),
        "The scale is 1/√n_layers, as if a layer wrote into the stream once. It writes twice.": (
            "math.sqrt(2 * n_layers)",
            "math.sqrt(n_layers)",
        ),
        "The scale is 1/(2 n_layers), without the square root: variances add up, not standard deviations.": (
            "math.sqrt(2 * n_layers)",
            "(2 * n_layers)",
        ),
        "Only w_o is scaled down; w_out writes into the residual stream too.": (
            '("w_o.weight", "w_out.weight")',
            '("w_o.weight",)',
        ),
        "w_in is scaled down too. It reads from the stream; only w_o and w_out write into it.": (
            '("w_o.weight", "w_out.weight")',
            '("w_o.weight", "w_out.weight", "w_in.weight")',
        ),
        "0.02 is taken as the variance. It is the standard deviation, so the weights are 7 times too large.": [
            (
                "std = 0.02 / math.sqrt(2 * n_layers) if writes else 0.02",
                "std = 0.02**0.5 / math.sqrt(2 * n_layers) if writes else 0.02**0.5",
            ),
        ],
        "The embeddings are left as PyTorch made them, with standard deviation 1 in place of 0.02.": (
            "if parameter.dim() >= 2:",
            'if "embedding" in name:\n            pass\n        elif parameter.dim() >= 2:',
        ),
        "The biases are left as PyTorch made them; they should start at 0.": ("nn.init.zeros_(parameter)", "pass"),
        "The norms' weights start at 0: whatever goes through a norm comes out as zeros.": (
            "nn.init.ones_(parameter)",
            "nn.init.zeros_(parameter)",
        ),
        "The draws are uniform; they should come from a normal distribution.": (
            "nn.init.normal_(parameter, std=std, generator=generator)",
            "nn.init.uniform_(parameter, -std * 3**0.5, std * 3**0.5, generator=generator)",
        ),
        "The generator is not used, so the same seed does not give the same model.": (
            ", generator=generator)",
            ")",
        ),
    },
)
def check_init_weights(init_weights, rng):
    config = tiny(vocab_size=60, context_length=40, d_model=32, n_heads=4, n_layers=8, d_ff=96)

    def made(n_layers, seed, config=config):
        model = ReferenceGPT(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(7.0)
        init_weights(model, n_layers, torch.Generator().manual_seed(seed))
        return model

    def values(model, *ends) -> Tensor:
        return torch.cat([p.detach().flatten() for name, p in model.named_parameters() if name.endswith(ends)])

    seed = int(torch.randint(2**31, (1,), generator=rng))
    model, shown = made(8, seed), {"n_layers": 8}
    matrices = ("embedding.weight", "w_q.weight", "w_k.weight", "w_v.weight", "w_in.weight")
    for end in matrices:
        yield f"standard deviation of {end}, in units of 0.02", round(values(model, end).std().item() / 0.02, 1), shown
    residual = ("w_o.weight", "w_out.weight")
    for end in residual:
        unit = 0.02 / 16**0.5
        yield (
            f"standard deviation of {end}, in units of 0.02 / √16",
            round(values(model, end).std().item() / unit, 1),
            shown,
        )
    n_layers = int(torch.randint(1, 60, (), generator=rng))
    deeper = values(made(n_layers, seed), *residual).std().item() * (2 * n_layers) ** 0.5
    shown_too = {"n_layers": n_layers}
    yield "the same for another n_layers, in units of 0.02 / √(2 n_layers)", round(deeper / 0.02, 1), shown_too
    yield "the largest bias", values(model, "bias").abs().max().item(), shown
    norms = values(model, "norm_1.weight", "norm_2.weight", "final_norm.weight")
    yield "the norms' weights, least and largest", [norms.min().item(), norms.max().item()], shown
    drawn = values(model, *matrices)
    yield "the mean of the matrices, in units of 0.02", round((drawn.mean() / 0.02).item(), 1), shown
    beyond = (drawn.abs() > 2 * drawn.std()).float().mean().item()
    yield (
        "about 1 value in 22 is beyond two standard deviations, as in a normal distribution",
        0.03 < beyond < 0.06,
        shown,
    )
    again, other = values(made(8, seed), *matrices), values(made(8, seed + 1), *matrices)
    yield "the same seed gives the same weights", torch.equal(drawn, again), shown
    yield "another seed gives other weights", not torch.equal(drawn, other), shown
    n_layers, half, d_ff = (int(torch.randint(1, high, (), generator=rng)) for high in (20, 20, 200))
    sizes = tiny(d_model=2 * half, n_layers=n_layers, d_ff=d_ff)
    vectors = [p.flatten() for p in made(n_layers, seed, sizes).parameters() if p.dim() == 1]
    counts = {f"numbers that are {n}": int((torch.cat(vectors) == n).sum()) for n in (0, 1)}
    yield "all biases and norm weights of random sizes", counts, {"config": sizes, "n_layers": n_layers}


@observes(
    "GPT",
    difficulty=4,
    minutes=25,
    hints=(
        "Follow one token: its embedding, plus its position's, through the blocks in turn, the final norm, and then a "
        "dot product with every token's embedding.",
        "`nn.ModuleList` holds the blocks, each one made anew. The sinusoidal table is not learned: "
        "`register_buffer` with persistent=False keeps it with the model and out of the state dict. Call "
        "init_weights last.",
        "hidden_states: refuse what is too long; number the positions, with a key mask by counting its ones along "
        "the row (`cumsum`), never below 0; embed, add what config.positions says, run the blocks with the mask, "
        "norm. forward: what hidden_states gives, times the transposed embedding matrix (`F.linear`).",
    ),
    mistakes={
        "The learned positions are not added, so the model is told nothing about order.": (
            "x = x + self.position_embedding(positions)",
            "pass",
        ),
        "Padding takes up positions, so a row padded on the left gets other logits than the same row alone. A token's "
        "position is the number of real tokens before it.": ("if key_mask is not None:", "if False:"),
        "The length is read off the batch axis: token_ids is (batch, seq).": (
            "token_ids.shape[1]",
            "token_ids.shape[0]",
        ),
        "The head has a matrix of its own. The logits are products with the token embeddings: one matrix for both.": [
            (
                "        self.blocks = nn.ModuleList(",
                "        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)\n"
                "        self.blocks = nn.ModuleList(",
            ),
            (
                "F.linear(self.hidden_states(token_ids, key_mask), self.token_embedding.weight)",
                "self.head(self.hidden_states(token_ids, key_mask))",
            ),
        ],
        "The head is tied, but as a module of its own: the state dict then names one matrix twice, and checkpoints "
        "no longer fit.": (
            "        self.blocks = nn.ModuleList(",
            "        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)\n"
            "        self.head.weight = self.token_embedding.weight\n"
            "        self.blocks = nn.ModuleList(",
        ),
        "The final norm is missing: the stream's size, which grows with depth, goes straight into the logits.": (
            "return self.final_norm(x)",
            "return x",
        ),
        'There is a final norm with norm_placement "post" too, where the last block has already ended in one.': (
            'make_norm(config) if config.norm_placement == "pre" else nn.Identity()',
            "make_norm(config)",
        ),
        "All layers are one and the same block: `[Block(config)] * n` repeats the object, not the construction.": (
            "nn.ModuleList(Block(config) for _ in range(config.n_layers))",
            "nn.ModuleList([Block(config)] * config.n_layers)",
        ),
        "key_mask does not reach the blocks, so padding is attended to.": ("x = block(x, key_mask)", "x = block(x)"),
        "More tokens than context_length are not refused with a ValueError.": (
            "if seq > self.config.context_length:",
            "if False:",
        ),
        "A sequence of exactly context_length tokens is refused; it fits.": (
            "if seq > self.config.context_length:",
            "if seq >= self.config.context_length:",
        ),
        "With sinusoidal positions the token embeddings are not multiplied by √d_model: at a size of 0.02 they "
        "drown in sines of size 1.": ("math.sqrt(self.config.d_model) * x", "x"),
        "forward returns probabilities. Logits come before the softmax: the loss and the sampler take it themselves.": (
            "return F.linear(self.hidden_states(token_ids, key_mask), self.token_embedding.weight)",
            "return F.linear(self.hidden_states(token_ids, key_mask), self.token_embedding.weight).softmax(-1)",
        ),
        "forward gives the logits of the last position alone; training needs those of every position.": (
            "F.linear(self.hidden_states(token_ids, key_mask), self.token_embedding.weight)",
            "F.linear(self.hidden_states(token_ids, key_mask)[:, -1], self.token_embedding.weight)",
        ),
        "init_weights is not called: with PyTorch's embeddings of size 1 the first logits are far too confident.": (
            "init_weights(self, config.n_layers, generator)",
            "pass",
        ),
        "The generator is not handed on to init_weights: the same seed gives another model each time.": (
            "init_weights(self, config.n_layers, generator)",
            "init_weights(self, config.n_layers)",
        ),
    },
)
def check_GPT(GPT, rng):
    model = GPT(tiny())
    yield "parameters", shapes(model), {"config": tiny()}
    yield "names in the state dict", sorted(model.state_dict()), {"config": tiny()}
    filled(model, rng)
    token_ids = torch.tensor([[3]])
    yield "one token", model(token_ids), {"token_ids": token_ids}
    token_ids = torch.tensor([[0, 3, 3, 6, 1], [5, 2, 0, 4, 2]])
    yield "two rows of five tokens", model(token_ids), {"token_ids": token_ids}
    yield "the hidden states", model.hidden_states(token_ids), {"token_ids": token_ids}
    for side, rows in (("right", [[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]]), ("left", [[0, 0, 1, 1, 1], [0, 1, 1, 1, 1]])):
        mask = torch.tensor(rows).bool()
        label = f"padding on the {side}: the real tokens' logits"
        yield label, model(token_ids, mask)[mask], {"token_ids": token_ids, "key_mask": mask}
    token_ids = torch.randint(7, (1, 6), generator=rng)
    yield "a full context", model(token_ids), {"token_ids": token_ids}
    (model(token_ids) * torch.randn(1, 6, 7, generator=rng)).sum().backward()
    yield "the gradient for the token embeddings", model.token_embedding.weight.grad, {"token_ids": token_ids}
    too_long = torch.zeros(1, 7, dtype=torch.long)
    yield "seven tokens in a context of six are refused", raised(model, too_long), {"token_ids": too_long}
    token_ids, left = torch.randint(7, (3, 4), generator=rng), torch.ones(3, 3).tril().flip(1).bool()
    for label, changes in (
        ("sinusoidal positions", {"positions": "sinusoidal"}),
        ("no positions", {"positions": "none", "d_model": 5, "n_heads": 1}),  # a table of sinusoids would refuse 5
        ("post-norm", {"norm_placement": "post"}),
        ("no norm", {"norm": "none"}),
        ("no biases", {"bias": False}),
    ):
        model = filled(GPT(tiny(**changes)), rng, 0.4 if label == "no norm" else 0.7)  # else it amplifies rounding
        yield f"{label}: parameters", shapes(model), {"config": tiny(**changes)}
        yield f"{label}: logits", model(token_ids), {"token_ids": token_ids, **changes}
        padded = model(token_ids[:, :3], left)[left]
        yield (
            f"{label}: logits, padded on the left",
            padded,
            {"token_ids": token_ids[:, :3], "key_mask": left, **changes},
        )
        if label == "no positions":
            yield (
                "seven tokens without positions are refused too",
                raised(model, too_long),
                {"token_ids": too_long, **changes},
            )
    larger = tiny(vocab_size=60, d_model=32, n_layers=8)
    seed = int(torch.randint(2**31, (1,), generator=rng))
    model, again = (GPT(larger, torch.Generator().manual_seed(seed)) for _ in range(2))
    spread = round(model.token_embedding.weight.std().item() / 0.02, 1)
    yield "standard deviation of the token embeddings at the start, in units of 0.02", spread, {"config": larger}
    same = torch.equal(model.token_embedding.weight, again.token_embedding.weight)
    yield "the same seed gives the same weights", same, {"config": larger}


@observes(
    "count_parameters",
    difficulty=2,
    minutes=10,
    hints=(
        "Go through the modules in the order of GPT.__init__, and write the shape of each tensor.",
        "With d = d_model: attention has four (d, d) matrices, the feed-forward net two of d · d_ff, a norm d weights. "
        "Biases, where there are any: 4d, d_ff + d, and d for each norm.",
        "vocab_size · d + context_length · d (learned only) + n_layers · (attention + feed-forward + 2 norms) + one final "
        'norm ("pre" only). The head adds nothing.',
    ),
    mistakes={
        "The head is counted. It is the token embedding's matrix, which is there already.": (
            "return embeddings +",
            "return embeddings + config.vocab_size * d +",
        ),
        "The biases are counted although config.bias is False.": ("int(config.bias)", "1"),
        "The biases are left out.": ("int(config.bias)", "0"),
        "The final norm is left out: it has weights like the norms in the blocks.": (
            "+ 2 * norm) + final_norm",
            "+ 2 * norm)",
        ),
        'A final norm is counted with norm_placement "post", which has none.': (
            'norm if config.norm_placement == "pre" else 0',
            "norm",
        ),
        "Position embeddings are counted whatever config.positions says; sinusoids are computed, not trained.": (
            '(config.context_length * d if config.positions == "learned" else 0)',
            "config.context_length * d",
        ),
        'The position embeddings are left out: with "learned" there is a row of d_model numbers for each position.': (
            '(config.context_length * d if config.positions == "learned" else 0)',
            "0",
        ),
        "The output projection w_o is left out: attention has four matrices.": (
            "4 * (d * d + bias * d)",
            "3 * (d * d + bias * d)",
        ),
        "One norm is counted for each block: both of its sublayers have one.": ("2 * norm", "norm"),
        'Norms are counted although config.norm is "none".': (' if config.norm == "layernorm" else 0', ""),
        "The hidden width is taken as 4 d_model; config.d_ff decides.": [
            ("2 * d * config.d_ff", "2 * d * 4 * d"),
            ("(config.d_ff + d)", "5 * d"),
        ],
    },
)
def check_count_parameters(count_parameters, rng):
    yield "a tiny model", count_parameters(tiny())
    yield "without biases", count_parameters(tiny(bias=False))
    yield "sinusoidal positions", count_parameters(tiny(positions="sinusoidal"))
    yield "no positions", count_parameters(tiny(positions="none"))
    yield "post-norm", count_parameters(tiny(norm_placement="post"))
    yield "no norm", count_parameters(tiny(norm="none"))
    yield "one layer, one head", count_parameters(tiny(n_layers=1, n_heads=1, d_ff=3))
    yield "GPT-2 small", count_parameters(GPTConfig())
    sizes = torch.randint(1, 40, (5,), generator=rng).tolist()
    names = ("vocab_size", "context_length", "n_layers", "d_ff", "d_model")
    yield "random sizes", count_parameters(tiny(n_heads=1, **dict(zip(names, sizes, strict=True))))


@observes(
    "transformer_flops",
    difficulty=2,
    minutes=10,
    hints=(
        "For each matrix product in the model, write its shapes (m, k) @ (k, n), and count 2 m k n.",
        "For one layer: four products (n_tokens, d) @ (d, d); in the heads together q kᵀ takes 2 n_tokens² d, whatever "
        "n_heads is, and weights v as much again; then (n_tokens, d) @ (d, d_ff) and back.",
        "Every product of one layer comes n_layers times, and the logits once. With n tokens a projection costs 2 n "
        "d², each product of attention 2 n² d, each map of the feed-forward net 2 n d d_ff: how many of each are "
        "there?",
    ),
    mistakes={
        "A multiply and an add are counted as one; the convention is 2 FLOPs.": [
            ("4 * 2 * n * d * d", "4 * n * d * d"),
            ("2 * 2 * n * n * d", "2 * n * n * d"),
            ("2 * 2 * n * d * config.d_ff", "2 * n * d * config.d_ff"),
            ('"logits": 2 * n', '"logits": n'),
        ],
        "Only q, k and v are counted: w_o is a projection too.": ("4 * 2 * n * d * d", "3 * 2 * n * d * d"),
        "Only q kᵀ is counted: the weighted sum of the values costs as much again.": (
            "2 * 2 * n * n * d",
            "2 * n * n * d",
        ),
        "The attention is counted once for each head at the full width d_model. A head works on d_head numbers; all "
        "heads together cost as much as one of width d_model.": (
            "2 * 2 * n * n * d",
            "2 * 2 * n * n * d * config.n_heads",
        ),
        "Only one of the two linear maps of the feed-forward net is counted.": (
            "2 * 2 * n * d * config.d_ff",
            "2 * n * d * config.d_ff",
        ),
        "The hidden width is taken as 4 d_model; config.d_ff decides.": ("d * config.d_ff", "d * 4 * d"),
        "The logits are counted for one position; a forward pass computes them for every position.": (
            '"logits": 2 * n * d',
            '"logits": 2 * d',
        ),
        "The logits are counted in each layer; they are computed once.": (
            '"logits": 2',
            '"logits": config.n_layers * 2',
        ),
        "Only one layer is counted: every layer has projections, attention and a feed-forward net.": [
            ("config.n_layers * 4 * 2", "4 * 2"),
            ("config.n_layers * 2 * 2 * n * n", "2 * 2 * n * n"),
            ("config.n_layers * 2 * 2 * n * d * config.d_ff", "2 * 2 * n * d * config.d_ff"),
        ],
    },
)
def check_transformer_flops(transformer_flops, rng):
    yield "a tiny model, one token", transformer_flops(tiny(), 1)
    yield "a tiny model, three tokens", transformer_flops(tiny(), 3)
    yield "one head", transformer_flops(tiny(n_heads=1), 3)
    yield "GPT-2 small, 1,024 tokens", transformer_flops(GPTConfig(), 1024)
    n_tokens, layers, width = torch.randint(2, 50, (3,), generator=rng).tolist()
    yield "random sizes", transformer_flops(tiny(n_layers=layers, d_ff=width), n_tokens)


def published(
    rng: torch.Generator,
    config: GPTConfig,
    conv1d: bool,
    prefix: str = "transformer.",
    masks: bool = False,
    head: bool = True,
) -> dict[str, Tensor]:
    """Random weights under the names and in the layout of a published GPT-2."""
    d, weights = config.d_model, {}

    def add(name: str, n_out: int, n_in: int) -> None:
        weights[f"{name}.weight"] = torch.randn((n_in, n_out) if conv1d else (n_out, n_in), generator=rng)
        if config.bias:
            weights[f"{name}.bias"] = torch.randn(n_out, generator=rng)

    def add_norm(name: str) -> None:
        for kind in ("weight", "bias") if config.bias else ("weight",):
            weights[f"{name}.{kind}"] = torch.randn(d, generator=rng)

    weights["wte.weight"] = torch.randn(config.vocab_size, d, generator=rng)
    weights["wpe.weight"] = torch.randn(config.context_length, d, generator=rng)
    for i in range(config.n_layers):
        add_norm(f"h.{i}.ln_1")
        if masks:
            weights[f"h.{i}.attn.bias"] = torch.ones(6, 6).tril()[None, None]
            weights[f"h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
        add(f"h.{i}.attn.c_attn", 3 * d, d)
        add(f"h.{i}.attn.c_proj", d, d)
        add_norm(f"h.{i}.ln_2")
        add(f"h.{i}.mlp.c_fc", config.d_ff, d)
        add(f"h.{i}.mlp.c_proj", d, config.d_ff)
    add_norm("ln_f")
    weights = {prefix + name: value for name, value in weights.items()}
    if head:
        weights[prefix.removesuffix("transformer.") + "lm_head.weight"] = weights[f"{prefix}wte.weight"].clone()
    return weights


@observes(
    "from_gpt2_state_dict",
    difficulty=4,
    minutes=30,
    hints=(
        "First only rename: strip the prefixes, leave out the masks and the head, and print what is left beside "
        "`GPT(config).state_dict()`. Then care for the matrices.",
        "Look at one shape, that of `h.0.attn.c_attn.weight`: (d, 3d) means Conv1D, and then the weights of c_attn, "
        "c_proj (both of them) and c_fc are transposed, also where they are square and would fit as they are.",
        "With weights in nn.Linear's layout, `value.chunk(3)` splits c_attn's weight and bias into those of w_q, w_k, w_v. "
        "Compare the set of names with the set that you expect before you convert; torch.equal(lm_head, wte) tells "
        "whether the head is tied.",
    ),
    mistakes={
        "Nothing is transposed: Hugging Face's Conv1D keeps its matrices as (in, out), nn.Linear as (out, in).": [
            ("value = value.T", "pass"),
            ("value.chunk(3)", "value.chunk(3, dim=list(value.shape).index(3 * config.d_model))"),
        ],
        "Everything is transposed, also nanoGPT's and minGPT's matrices, which are nn.Linear's already.": (
            "if fused == conv1d and kind",
            "if kind",
        ),
        "The square c_proj of the attention is not transposed. It fits either way, so nothing complains, and only "
        "the logits are wrong.": (
            '".c_" in module',
            '".c_" in module and value.shape[0] != value.shape[1]',
        ),
        "The causal masks of older files (`*.attn.bias`, `*.attn.masked_bias`) are taken for weights, and the file "
        "is refused for names left over.": (
            'if not name.endswith((".attn.bias", ".attn.masked_bias")):',
            "if True:",
        ),
        '`c_attn.bias` is dropped with the masks, because its name ends in "attn.bias" too: queries, keys and '
        "values lose their biases.": [
            ('".attn.bias", ".attn.masked_bias"', '"attn.bias", "attn.masked_bias"'),
            ("if source.keys() != wanted:", "if source.keys() - wanted:"),
        ],
        "The parts of c_attn are taken in the order k, q, v; they are q, k, v.": (
            '("w_q", "w_k", "w_v")',
            '("w_k", "w_q", "w_v")',
        ),
        "c_attn is split head by head, q, k, v of the first head and so on (the layout of GPT-NeoX). In GPT-2 all of q "
        "comes first, then all of k, then all of v.": (
            "value.chunk(3)",
            "value.unflatten(0, (config.n_heads, 3, -1)).transpose(0, 1).flatten(1, 2)",
        ),
        "A head of its own (lm_head.weight unlike wte.weight) is dropped without a word: our GPT has no place for "
        "it, and computes other logits.": (
            'if head is not None and not torch.equal(head, source["wte.weight"]):',
            "if False:",
        ),
        "Names that are left over, like the layers of a deeper model, are ignored: what is loaded is not the model "
        "of the file.": [
            ("if source.keys() != wanted:", "if wanted - source.keys():"),
            ("for name, value in source.items():", "for name, value in ((n, source[n]) for n in wanted):"),
        ],
        "The two norms of a block are swapped: ln_1 comes before attention, ln_2 before the feed-forward net.": [
            ('f"blocks.{i}.norm_1"', 'f"blocks.{i}.norm_0"'),
            ('f"blocks.{i}.norm_2"', 'f"blocks.{i}.norm_1"'),
            ('f"blocks.{i}.norm_0"', 'f"blocks.{i}.norm_2"'),
        ],
    },
)
def check_from_gpt2_state_dict(from_gpt2_state_dict, rng):
    one, two = tiny(n_layers=1), tiny()
    yield "Hugging Face, one layer: the names", sorted(from_gpt2_state_dict(published(rng, one, True), one))
    yield "Hugging Face, one layer: the weights", from_gpt2_state_dict(published(rng, one, True), one)
    yield "Hugging Face, two layers", from_gpt2_state_dict(published(rng, two, True), two)
    old = published(rng, two, True, prefix="", masks=True, head=False)
    yield "Hugging Face's base model, no prefix, with masks", from_gpt2_state_dict(old, two)
    yield "nanoGPT", from_gpt2_state_dict(published(rng, two, False), two)
    yield "minGPT, with masks", from_gpt2_state_dict(published(rng, two, False, masks=True), two)
    bare = tiny(bias=False)
    compiled = published(rng, bare, False, prefix="_orig_mod.transformer.")
    yield "nanoGPT, compiled and without biases", from_gpt2_state_dict(compiled, bare)
    untied = published(rng, one, False)
    untied["lm_head.weight"] = untied["lm_head.weight"] + 1
    yield "a head of its own is refused", raised(from_gpt2_state_dict, untied, one)
    yield "a deeper model is refused", raised(from_gpt2_state_dict, published(rng, two, True), one)
    short = published(rng, one, True)
    del short["transformer.h.0.ln_2.bias"]
    yield "a missing name is refused", raised(from_gpt2_state_dict, short, one)
    wide = published(rng, tiny(n_layers=1, d_model=6), True)
    yield "a wider model is refused", raised(from_gpt2_state_dict, wide, one)
