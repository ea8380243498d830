"""Right answers to lesson 05's exercises, written otherwise: they must pass."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from week4_finetuning.solutions.other_peft import check_prefix, check_sizes


class PrefixTuning__sequential(nn.Module):
    """An embedding and an nn.Sequential, as PEFT has it; values before keys; folded in place of all three."""

    def __init__(self, n_prefix, n_layers, n_heads, d_head, d_hidden):
        super().__init__()
        check_sizes(a=n_prefix, b=n_layers, c=n_heads, d=d_head, e=d_hidden)
        width = n_heads * d_head
        self.shape = (n_layers, 2, n_heads, n_prefix, d_head)
        self.embedding = nn.Embedding(n_prefix, width)
        self.transform = nn.Sequential(nn.Linear(width, d_hidden), nn.Tanh(), nn.Linear(d_hidden, 2 * n_layers * width))

    def rows(self):
        layers, _, heads, _, d_head = self.shape
        out = self.transform(self.embedding.weight)
        return rearrange(out, "p (two l h d) -> l two h p d", two=2, l=layers, h=heads, d=d_head)

    def forward(self, batch):
        if batch < 1:
            raise ValueError("no batch")
        found = self.prefix if hasattr(self, "prefix") else self.rows()
        return [(v_k[1].repeat(batch, 1, 1, 1), v_k[0].repeat(batch, 1, 1, 1)) for v_k in found]

    def fold(self):
        if hasattr(self, "prefix"):
            return
        self.prefix = nn.Parameter(self.rows().detach().clone())
        del self.embedding, self.transform


class PrefixTuning__a_map_for_each_layer(nn.Module):
    """Plain matrices; one last matrix for each layer and for keys and values; folded into 2 · n_layers parameters."""

    def __init__(self, n_prefix, n_layers, n_heads, d_head, d_hidden):
        super().__init__()
        if min(n_prefix, n_layers, n_heads, d_head, d_hidden) < 1:
            raise ValueError("too small")
        self.heads, self.layers, width = n_heads, n_layers, n_heads * d_head
        new = lambda *shape: nn.Parameter(torch.randn(*shape) * 0.1)  # noqa: E731
        self.prompt = new(width, n_prefix)
        self.down, self.down_bias = new(d_hidden, width), new(d_hidden, 1)
        self.up = nn.ParameterList(new(width, d_hidden) for _ in range(2 * n_layers))
        self.up_bias = nn.ParameterList(new(width, 1) for _ in range(2 * n_layers))
        self.kept = None

    def made(self):
        if self.kept is not None:
            return list(self.kept)
        hidden = (self.down @ self.prompt + self.down_bias).tanh()
        return [w @ hidden + b for w, b in zip(self.up, self.up_bias, strict=True)]

    def forward(self, batch):
        if batch < 1:
            raise ValueError("no batch")
        parts = [rearrange(x, "(h d) p -> 1 h p d", h=self.heads) for x in self.made()]
        parts = [torch.cat([x] * batch) for x in parts]
        return tuple((parts[2 * i], parts[2 * i + 1]) for i in range(self.layers))

    def fold(self):
        if self.kept is None:
            kept = nn.ParameterList(x.detach() for x in self.made())
            for name in ("prompt", "down", "down_bias", "up", "up_bias"):
                delattr(self, name)
            self.kept = kept


def prefix_attention__sdpa(q, k, v, prefix_k, prefix_v):
    check_prefix(q, k, v, prefix_k, prefix_v)
    seq, n_prefix = q.shape[2], prefix_k.shape[2]
    bias = torch.zeros(seq, n_prefix + seq, dtype=q.dtype)
    bias[:, n_prefix:] = torch.full((seq, seq), -math.inf, dtype=q.dtype).triu(1)
    return F.scaled_dot_product_attention(q, torch.cat([prefix_k, k], 2), torch.cat([prefix_v, v], 2), attn_mask=bias)


def prefix_attention__a_mixture(q, k, v, prefix_k, prefix_v):
    """(1 - λ) attention over the sequence + λ attention over the prefix, λ the prefix's share: He et al. 2022, §3.1."""
    check_prefix(q, k, v, prefix_k, prefix_v)
    scale = q.shape[-1] ** -0.5
    hidden = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).triu(1)
    own = (torch.einsum("bhqd,bhkd->bhqk", q, k) * scale).masked_fill(hidden, -math.inf)
    if not prefix_k.shape[2]:
        return own.softmax(-1) @ v
    far = torch.einsum("bhqd,bhkd->bhqk", q, prefix_k) * scale
    share = torch.sigmoid(far.logsumexp(-1, keepdim=True) - own.logsumexp(-1, keepdim=True))
    return (1 - share) * (own.softmax(-1) @ v) + share * (far.softmax(-1) @ prefix_v)


def prefix_attention__one_query_after_another(q, k, v, prefix_k, prefix_v):
    check_prefix(q, k, v, prefix_k, prefix_v)
    rows = []
    for i in range(q.shape[2]):
        keys, values = torch.cat([prefix_k, k[:, :, : i + 1]], 2), torch.cat([prefix_v, v[:, :, : i + 1]], 2)
        scores = (q[:, :, i : i + 1] * keys).sum(-1) / math.sqrt(q.shape[3])
        rows.append((scores.softmax(-1)[..., None] * values).sum(2))
    return torch.stack(rows, dim=2)


def bitfit_parameters__one_pass(model, norms_too=False):
    def kind(name, p):
        word = name.split(".")[-1]
        return "bias" if word[-4:] == "bias" else "gain" if (word, p.ndim) == ("weight", 1) else "other"

    kinds = {name: kind(name, p) for name, p in model.named_parameters()}
    wanted = {"bias", "gain"} if norms_too else {"bias"}
    if not wanted & set(kinds.values()):
        if "gain" in kinds.values():
            raise ValueError("there is no bias here; call it with norms_too=True")
        raise ValueError("there is nothing here to train")
    for name, p in model.named_parameters():
        p.requires_grad = kinds[name] in wanted
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def bitfit_parameters__by_modules(model, norms_too=False):
    found, gains, seen = [], [], set()
    for path, module in model.named_modules():
        for name, p in module.named_parameters(recurse=False):
            if id(p) in seen:
                continue
            seen.add(id(p))
            entry = (f"{path}.{name}" if path else name, p)
            if name.endswith("bias"):
                found.append(entry)
            elif name == "weight" and len(p.shape) == 1:
                gains.append(entry)
    if norms_too:
        found = gains + found
    if not found:
        raise ValueError("no biases" + (": try norms_too=True" if gains else " and no gains"))
    for p in model.parameters():
        p.requires_grad_(False)
    for _, p in found:
        p.requires_grad_(True)
    return found
