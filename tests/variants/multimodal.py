"""Right answers to lesson 07 of week 6, written otherwise: they must pass."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from week6_rlhf.solutions.multimodal import IMAGE_ID, check_grid, check_images_fit, check_merge, check_pairs


def patchify__unfold(pixels, patch_size):
    check_grid(*pixels.shape[-2:], patch_size)
    return F.unfold(pixels, kernel_size=patch_size, stride=patch_size).transpose(1, 2)


def patchify__loops(pixels, patch_size):
    height, width = pixels.shape[2:]
    if height % patch_size != 0 or width % patch_size != 0:
        raise ValueError("does not fit")
    patches = []
    for top in range(0, height, patch_size):
        for left in range(0, width, patch_size):
            square = pixels[:, :, top : top + patch_size, left : left + patch_size]
            patches.append(square.flatten(start_dim=1))
    return torch.stack(patches, dim=1)


def patchify__permute(pixels, patch_size):
    check_grid(*pixels.shape[-2:], patch_size)
    b, c, h, w = pixels.shape
    p = patch_size
    six = pixels.view(b, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5)
    return six.reshape(b, (h // p) * (w // p), c * p * p)


def contrastive_loss__log_softmax(images, texts, log_scale):
    check_pairs(images, texts)
    images = images / images.norm(dim=1, keepdim=True)
    texts = texts / texts.norm(dim=1, keepdim=True)
    logits = torch.einsum("id,td->it", images, texts) * torch.exp(log_scale)
    by_image = logits.log_softmax(dim=1).diagonal()
    by_text = logits.log_softmax(dim=0).diagonal()
    return -torch.cat([by_image, by_text]).mean()


def contrastive_loss__logsumexp(images, texts, log_scale):
    if len(images) != len(texts) or len(images) < 2:
        raise ValueError("pairs")
    cosine = F.cosine_similarity(images[:, None], texts[None], dim=-1)
    logits = cosine * math.e**log_scale
    right = logits.diagonal().mean()
    return (logits.logsumexp(dim=0).mean() + logits.logsumexp(dim=1).mean()) / 2 - right


class ImageProjector__unfold(nn.Module):
    """Neighbours by unfolding the picture of features."""

    def __init__(self, d_image, d_model, merge=1):
        super().__init__()
        self.merge = merge
        self.w_out = nn.Linear(d_model, d_model)
        self.w_in = nn.Linear(merge * merge * d_image, d_model)

    def forward(self, features):
        side, merge = check_merge(features.shape[1], self.merge), self.merge
        picture = features.transpose(1, 2).unflatten(2, (side, side))
        squares = F.unfold(picture, merge, stride=merge).transpose(1, 2)  # (batch, token, d_image * merge²)
        squares = squares.unflatten(2, (-1, merge * merge)).transpose(2, 3).flatten(2)
        return self.w_out(F.gelu(self.w_in(squares)))


class ImageProjector__index(nn.Module):
    """The places of each square's patches, looked up."""

    def __init__(self, d_image, d_model, merge=1):
        super().__init__()
        self.merge, self.act = merge, nn.GELU()
        self.w_in = nn.Linear(d_image * merge**2, d_model)
        self.w_out = nn.Linear(d_model, d_model)

    def forward(self, features):
        batch, n_patches, _ = features.shape
        side = math.isqrt(n_patches)
        if side * side != n_patches or side % self.merge:
            raise ValueError("no such squares")
        tokens = []
        for top in range(0, side, self.merge):
            for left in range(0, side, self.merge):
                rows, columns = range(top, top + self.merge), range(left, left + self.merge)
                places = [row * side + column for row in rows for column in columns]
                tokens.append(features[:, places].reshape(batch, -1))
        hidden = self.w_in(torch.stack(tokens, dim=1))
        return self.w_out(self.act(hidden))


def splice_image_tokens__scatter(token_ids, labels, attention_mask, images, embed):
    """The new place of every token first, by a running sum; then all is written there."""
    check_images_fit(token_ids, attention_mask, images)
    is_image = (token_ids == IMAGE_ID) & attention_mask
    width = attention_mask.long()
    for row, own in enumerate(images):
        for place, image in zip(is_image[row].nonzero().flatten().tolist(), own, strict=True):
            width[row, place] = image.shape[0]
    start = width.cumsum(dim=1) - width
    longest = int(width.sum(dim=1).max())
    text = embed(token_ids.masked_fill(token_ids == IMAGE_ID, 0))
    embeddings = text.new_zeros(len(token_ids), longest, text.shape[-1])
    new_labels = labels.new_full((len(token_ids), longest), -100)
    rows, places = (attention_mask & ~is_image).nonzero(as_tuple=True)
    embeddings = embeddings.index_put((rows, start[rows, places]), text[rows, places])
    new_labels[rows, start[rows, places]] = labels[rows, places]
    for row, own in enumerate(images):
        for place, image in zip(is_image[row].nonzero().flatten().tolist(), own, strict=True):
            at = torch.arange(len(image)) + start[row, place]
            embeddings = embeddings.index_put((torch.tensor(row), at), image)
    mask = torch.arange(longest).expand(len(token_ids), -1) < width.sum(dim=1, keepdim=True)
    return {"embeddings": embeddings, "labels": new_labels, "attention_mask": mask}


def splice_image_tokens__one_token_at_a_time(token_ids, labels, attention_mask, images, embed):
    rows = []
    if len(images) != len(token_ids):
        raise ValueError("rows")
    for i in range(len(token_ids)):
        pictures, vectors, goals = list(images[i]), [], []
        for j in range(token_ids.shape[1]):
            if not attention_mask[i, j]:
                continue
            if token_ids[i, j] != IMAGE_ID:
                vectors.append(embed(token_ids[i, j]))
                goals.append(int(labels[i, j]))
            elif pictures:
                picture = pictures.pop(0)
                vectors.extend(picture.unbind())
                goals.extend([-100] * len(picture))
            else:
                raise ValueError(f"row {i} has a place without a picture")
        if pictures:
            raise ValueError(f"row {i} has a picture without a place")
        rows.append((vectors, goals))
    longest = max(len(goals) for _, goals in rows)
    nothing = torch.zeros_like(embed(torch.tensor(0))).detach()
    return {
        "embeddings": torch.stack([torch.stack(v + [nothing] * (longest - len(v))) for v, _ in rows]),
        "labels": torch.tensor([g + [-100] * (longest - len(g)) for _, g in rows]),
        "attention_mask": torch.tensor([[True] * len(g) + [False] * (longest - len(g)) for _, g in rows]),
    }


class GatedCrossAttention__one_picture_at_a_time(nn.Module):
    """No mask at all: attend to each picture alone, and keep what belongs to it."""

    def __init__(self, d_model, d_image, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.w_q, self.w_o = (nn.Linear(d_model, d_model, bias=False) for _ in range(2))
        self.w_k, self.w_v = (nn.Linear(d_image, d_model, bias=False) for _ in range(2))
        self.gate = nn.Parameter(torch.tensor(0.0))

    def heads(self, x):
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)

    def forward(self, x, images, image_index):
        q, seen = self.heads(self.w_q(x)), torch.zeros_like(x)
        for i in range(images.shape[1]):
            k, v = self.heads(self.w_k(images[:, i])), self.heads(self.w_v(images[:, i]))
            looked = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            seen = torch.where((image_index == i)[..., None], self.w_o(looked), seen)
        return x + torch.tanh(self.gate) * seen


class GatedCrossAttention__gathered(nn.Module):
    """Each token is given the patches of its own picture: keys (batch, seq, patch, …)."""

    def __init__(self, d_model, d_image, n_heads):
        super().__init__()
        self.n_heads, self.d_head = n_heads, d_model // n_heads
        self.gate = nn.Parameter(torch.zeros([]))
        for name, width in (("w_q", d_model), ("w_k", d_image), ("w_v", d_image), ("w_o", d_model)):
            setattr(self, name, nn.Linear(width, d_model, bias=False))

    def forward(self, x, images, image_index):
        batch, seq, _ = x.shape
        rows = torch.arange(batch)[:, None]
        own = images[rows, image_index.clamp(min=0)]  # (batch, seq, patch, d_image)
        q = self.w_q(x).view(batch, seq, 1, self.n_heads, self.d_head)
        k = self.w_k(own).view(batch, seq, -1, self.n_heads, self.d_head)
        v = self.w_v(own).view(batch, seq, -1, self.n_heads, self.d_head)
        weights = ((q * k).sum(-1) / math.sqrt(self.d_head)).softmax(dim=2)
        looked = (weights[..., None] * v).sum(dim=2).reshape(batch, seq, -1)
        looked = self.w_o(looked).masked_fill((image_index < 0)[..., None], 0.0)
        return x + looked * self.gate.tanh()
