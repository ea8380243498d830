"""Right answers to lesson 03, each written quite differently from the course's own."""

import math
import re

import torch
import torch.nn.functional as F
from torch import nn

from week1_decoder.solutions.attention import MultiHeadAttention
from week1_decoder.solutions.decoder import Block, FeedForward, make_norm, sinusoidal_positions


def sinusoidal_positions__complex_rotation(context_length, d_model):
    if d_model % 2 == 1:
        raise ValueError("pairs need an even width")
    frequency = torch.exp(-math.log(10000.0) * torch.arange(0, d_model, 2).double() / d_model)
    angles = torch.outer(torch.arange(context_length).double(), frequency)
    turned = torch.polar(torch.ones_like(angles), angles)
    return torch.stack((turned.imag, turned.real), dim=-1).flatten(1).float()


def sinusoidal_positions__loops(context_length, d_model):
    if d_model % 2:
        raise ValueError(d_model)
    rows = []
    for t in range(context_length):
        row = []
        for i in range(d_model // 2):
            angle = t / 10000 ** (2 * i / d_model)
            row += [math.sin(angle), math.cos(angle)]
        rows.append(row)
    return torch.tensor(rows)


class LayerNorm__functional(nn.Module):
    def __init__(self, d_model, bias=True, eps=1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.register_parameter("bias", nn.Parameter(torch.zeros(d_model)) if bias else None)
        self.eps = eps

    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)


class LayerNorm__subclass(nn.LayerNorm):
    def __init__(self, d_model, bias=True, eps=1e-5):
        super().__init__(d_model, eps=eps, bias=bias)


class LayerNorm__var_mean(nn.Module):
    def __init__(self, d_model, bias=True, eps=1e-5):
        super().__init__()
        self.d_model, self.eps, self.has_bias = d_model, eps, bias
        if bias:
            self.bias = nn.Parameter(torch.zeros(d_model))
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x):
        variance, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
        x = (x - mean) * torch.rsqrt(variance + self.eps) * self.weight
        if self.has_bias:
            x = x + self.bias
        return x


class FeedForward__functional_gelu(nn.Module):
    def __init__(self, d_model, d_ff, bias=True):
        super().__init__()
        self.w_out = nn.Linear(d_ff, d_model, bias)
        self.w_in = nn.Linear(d_model, d_ff, bias)

    def forward(self, x):
        return self.w_out(F.gelu(self.w_in(x), approximate="tanh"))


class FeedForward__sigmoid_form(nn.Module):
    """(1 + tanh z) / 2 is sigmoid(2 z)."""

    def __init__(self, d_model, d_ff, bias=True):
        super().__init__()
        self.w_in = nn.Linear(d_model, d_ff, bias=bias)
        self.w_out = nn.Linear(d_ff, d_model, bias=bias)

    def forward(self, x):
        h = F.linear(x, self.w_in.weight, self.w_in.bias)
        z = (2 / torch.pi) ** 0.5 * h * (1 + 0.044715 * h.square())
        return F.linear(h * torch.sigmoid(2 * z), self.w_out.weight, self.w_out.bias)


class Block__one_loop(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.attention = MultiHeadAttention(config.d_model, config.n_heads, config.bias)
        self.feed_forward = FeedForward(config.d_model, config.d_ff, config.bias)
        self.norm_1, self.norm_2 = make_norm(config), make_norm(config)
        self.pre = config.norm_placement == "pre"

    def forward(self, x, key_mask=None):
        attend = lambda x: self.attention(x, key_mask=key_mask)  # noqa: E731
        for norm, sublayer in ((self.norm_1, attend), (self.norm_2, self.feed_forward)):
            x = x + sublayer(norm(x)) if self.pre else norm(x + sublayer(x))
        return x


class Block__torch_layer_norm(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        for name in ("norm_1", "norm_2"):
            plain = nn.LayerNorm(config.d_model, bias=config.bias)
            self.add_module(name, plain if config.norm == "layernorm" else nn.Identity())
        self.attention = MultiHeadAttention(config.d_model, config.n_heads, bias=config.bias)
        self.feed_forward = FeedForward(config.d_model, config.d_ff, bias=config.bias)

    def update(self, x, key_mask, which):
        return self.attention(x, key_mask) if which == 1 else self.feed_forward(x)

    def forward(self, x, key_mask=None):
        stream = x.clone()
        for which, norm in enumerate((self.norm_1, self.norm_2), 1):
            if self.config.norm_placement == "post":
                stream = norm(torch.add(stream, self.update(stream, key_mask, which)))
            else:
                stream = torch.add(stream, self.update(norm(stream), key_mask, which))
        return stream


def init_weights__by_module(model, n_layers, generator=None):
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            std = 0.02 * (2 * n_layers) ** -0.5 if name.split(".")[-1] in {"w_o", "w_out"} else 0.02
            module.weight.data.normal_(0.0, std, generator=generator)
        elif hasattr(module, "weight"):
            module.weight.data.fill_(1.0)
        if getattr(module, "bias", None) is not None:
            module.bias.data.zero_()


@torch.no_grad()
def init_weights__by_pattern(model, n_layers, generator=None):
    for name, parameter in model.named_parameters():
        if re.search(r"norm.*\.weight$", name):
            parameter.copy_(torch.ones_like(parameter))
        elif name.endswith(".bias"):
            parameter.mul_(0)
        else:
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
        if re.search(r"\.(w_o|w_out)\.weight$", name):
            parameter.div_(math.sqrt(2 * n_layers))


class GPT__matrix_product(nn.Module):
    def __init__(self, config, generator=None):
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.n_layers)])
        self.token_embedding = nn.Embedding(config.vocab_size, config.d_model)
        if config.positions == "learned":
            self.position_embedding = nn.Embedding(config.context_length, config.d_model)
        if config.norm_placement == "pre":
            self.final_norm = make_norm(config)
        init_weights__by_pattern(self, config.n_layers, generator)

    def hidden_states(self, token_ids, key_mask=None):
        batch, seq = token_ids.shape
        if seq > self.config.context_length:
            raise ValueError("too long")
        real = torch.ones(batch, seq, dtype=torch.bool) if key_mask is None else key_mask
        places = real.long().cumsum(-1).sub(1).masked_fill(~real, 0)
        x = F.embedding(token_ids, self.token_embedding.weight)
        if self.config.positions == "learned":
            x = x + F.embedding(places, self.position_embedding.weight)
        if self.config.positions == "sinusoidal":
            x = x * self.config.d_model**0.5 + sinusoidal_positions(seq, self.config.d_model).to(x)[places]
        for block in self.blocks:
            x = block(x, key_mask=key_mask)
        return self.final_norm(x) if self.config.norm_placement == "pre" else x

    def forward(self, token_ids, key_mask=None):
        return self.hidden_states(token_ids, key_mask) @ self.token_embedding.weight.T


class GPT__einsum_head(nn.Module):
    def __init__(self, config, generator=None):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.d_model)
        if config.positions == "learned":
            self.position_embedding = nn.Embedding(config.context_length, config.d_model)
            self.scale = 1.0
        elif config.positions == "sinusoidal":
            self.rows = nn.Buffer(sinusoidal_positions(config.context_length, config.d_model), persistent=False)
            self.scale = math.sqrt(config.d_model)
        else:
            self.rows = nn.Buffer(torch.zeros(config.context_length, config.d_model), persistent=False)
            self.scale = 1.0
        self.blocks = nn.Sequential(*(Block(config) for _ in range(config.n_layers)))
        self.final_norm = nn.Identity() if config.norm_placement == "post" else make_norm(config)
        init_weights__by_module(self, config.n_layers, generator=generator)

    def hidden_states(self, token_ids, key_mask=None):
        length = token_ids.size(-1)
        if not length <= self.config.context_length:
            raise ValueError(f"at most {self.config.context_length} tokens")
        table = self.position_embedding.weight if self.config.positions == "learned" else self.rows
        stream = self.token_embedding(token_ids) * self.scale
        if key_mask is None:
            stream = stream + table.narrow(0, 0, length)
        else:
            before = [[max(sum(row[: i + 1]) - 1, 0) for i in range(length)] for row in key_mask.tolist()]
            stream = stream + table[torch.tensor(before)]
        for block in self.blocks:
            stream = block(stream, key_mask)
        return self.final_norm(stream)

    def forward(self, token_ids, key_mask=None):
        return torch.einsum("bsd,vd->bsv", self.hidden_states(token_ids, key_mask), self.token_embedding.weight)


def count_parameters__shape_list(config):
    d, f = config.d_model, config.d_ff
    shapes = [(config.vocab_size, d)] + [(config.context_length, d)] * (config.positions == "learned")
    linear = [(d, d)] * 4 + [(d, f), (f, d)]
    norms = [(d,)] * 2 if config.norm == "layernorm" else []
    biases = [(d,)] * 4 + [(f,), (d,)] + norms if config.bias else []
    shapes += (linear + norms + biases) * config.n_layers
    if norms and config.norm_placement == "pre":
        shapes += [(d,)] * (1 + config.bias)
    return sum(math.prod(shape) for shape in shapes)


def count_parameters__meta_device(config):
    from week1_decoder.solutions.decoder import GPT

    with torch.device("meta"):
        model = GPT(config)
    return sum(parameter.numel() for parameter in model.parameters())


def transformer_flops__list_of_products(config, n_tokens):
    def product(m, k, n):
        return 2 * m * k * n

    n, d, f = n_tokens, config.d_model, config.d_ff
    flops = dict.fromkeys(("logits", "feed_forward", "attention", "projections"), 0)
    for _ in range(config.n_layers):
        for _ in ("q", "k", "v", "o"):
            flops["projections"] += product(n, d, d)
        for _ in range(config.n_heads):
            flops["attention"] += product(n, config.d_head, n) + product(n, n, config.d_head)
        flops["feed_forward"] += product(n, d, f) + product(n, f, d)
    flops["logits"] = product(n, d, config.vocab_size)
    return flops


def transformer_flops__measured(config, n_tokens):
    """Let PyTorch count, part by part."""
    from torch.utils.flop_counter import FlopCounterMode

    def measured(function):
        with FlopCounterMode(display=False) as counter:
            function()
        return counter.get_total_flops()

    def rand(*shape):
        return torch.empty(*shape, device="meta")

    n, d, f = n_tokens, config.d_model, config.d_ff
    q = rand(config.n_heads, n, config.d_head)
    return {
        "projections": config.n_layers * measured(lambda: rand(n, d) @ rand(d, 4 * d)),
        "attention": config.n_layers * measured(lambda: (q @ q.mT) @ q),
        "feed_forward": config.n_layers * measured(lambda: (rand(n, d) @ rand(d, f)) @ rand(f, d)),
        "logits": measured(lambda: rand(n, d) @ rand(d, config.vocab_size)),
    }


def from_gpt2_state_dict__regular_expressions(state_dict, config):
    rules = [
        (r"^(_orig_mod\.)?(transformer\.)?", ""),
        (r"^wte", "token_embedding"),
        (r"^wpe", "position_embedding"),
        (r"^ln_f", "final_norm"),
        (r"^h\.", "blocks."),
        (r"\.ln_([12])", r".norm_\1"),
        (r"\.attn\.", ".attention."),
        (r"attention\.c_proj", "attention.w_o"),
        (r"mlp\.c_fc", "feed_forward.w_in"),
        (r"mlp\.c_proj", "feed_forward.w_out"),
    ]
    result = {}
    for name, value in state_dict.items():
        if re.search(r"\.attn\.(masked_)?bias$", name):
            continue
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        result[name] = value
    d = config.d_model
    head = result.pop("lm_head.weight", result.get("token_embedding.weight"))
    if head is None or not torch.equal(head, result["token_embedding.weight"]):
        raise ValueError("a head of its own")
    fused_names = [name for name in result if "c_attn.weight" in name]
    fused_shapes = {tuple(result[name].shape) for name in fused_names}
    if fused_shapes not in ({(d, 3 * d)}, {(3 * d, d)}):
        raise ValueError(f"unexpected shapes {fused_shapes}")
    if fused_shapes == {(d, 3 * d)}:
        for name, value in result.items():
            if re.search(r"(c_attn|w_o|w_in|w_out)\.weight$", name):
                result[name] = value.t().contiguous()
    for name in [name for name in result if "c_attn" in name]:
        fused = result.pop(name)
        for start, ours in ((0, "w_q"), (d, "w_k"), (2 * d, "w_v")):
            result[name.replace("c_attn", ours)] = fused[start : start + d].clone()
    kinds = 2 if config.bias else 1
    if len(result) != 2 + kinds * (1 + 8 * config.n_layers) or f"blocks.{config.n_layers}.norm_1.weight" in result:
        raise ValueError("names are missing or left over")
    return result


def from_gpt2_state_dict__target_first(state_dict, config):
    """Go through the names that our model wants, and look each up."""
    given = {}
    for name, value in state_dict.items():
        given[name.split("_orig_mod.")[-1].split("transformer.")[-1]] = value
    kinds = ("weight", "bias") if config.bias else ("weight",)
    d, used = config.d_model, {"lm_head.weight"}
    used |= {f"h.{i}.attn.{mask}" for i in range(config.n_layers) for mask in ("bias", "masked_bias")}

    def take(name):
        used.add(name)
        if name not in given:
            raise ValueError(f"{name} is missing")
        return given[name]

    if take("h.0.attn.c_attn.weight").shape not in [(d, 3 * d), (3 * d, d)]:
        raise ValueError("c_attn has an unexpected shape")
    conv1d = take("h.0.attn.c_attn.weight").shape[0] == d

    def linear(name, kind):
        value = take(f"{name}.{kind}")
        return value.transpose(0, 1) if conv1d and kind == "weight" else value

    ours = {"token_embedding.weight": take("wte.weight"), "position_embedding.weight": take("wpe.weight")}
    for kind in kinds:
        ours[f"final_norm.{kind}"] = take(f"ln_f.{kind}")
        for i in range(config.n_layers):
            block, h = f"blocks.{i}", f"h.{i}"
            ours[f"{block}.norm_1.{kind}"] = take(f"{h}.ln_1.{kind}")
            ours[f"{block}.norm_2.{kind}"] = take(f"{h}.ln_2.{kind}")
            q, k, v = linear(f"{h}.attn.c_attn", kind).split(d)
            ours |= {f"{block}.attention.w_{x}.{kind}": part for x, part in (("q", q), ("k", k), ("v", v))}
            ours[f"{block}.attention.w_o.{kind}"] = linear(f"{h}.attn.c_proj", kind)
            ours[f"{block}.feed_forward.w_in.{kind}"] = linear(f"{h}.mlp.c_fc", kind)
            ours[f"{block}.feed_forward.w_out.{kind}"] = linear(f"{h}.mlp.c_proj", kind)
    if set(given) - used:
        raise ValueError(f"left over: {set(given) - used}")
    if "lm_head.weight" in given and (given["lm_head.weight"] != given["wte.weight"]).any():
        raise ValueError("the head is not tied")
    return ours
