"""Seeing: patches, a vision encoder, CLIP's loss, LLaVA's projector and splice, Flamingo's gated cross-attention."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

IMAGE_ID = -200  # stands for a picture among the token ids; no tokenizer has it. The number is LLaVA's.


def check_grid(height: int, width: int, patch_size: int) -> None:
    """Raise ValueError unless patches of this size fill the picture."""
    if patch_size < 1 or height % patch_size or width % patch_size:
        raise ValueError(f"patches of {patch_size} pixels do not fill a picture of {height} x {width}")


def patchify(
    pixels: Float[Tensor, "batch channel height width"], patch_size: int
) -> Float[Tensor, "batch patch pixel_values"]:
    """The picture cut into squares, each as one vector: (height / p) (width / p) patches of channel · p · p numbers.

    Patches go from left to right, then down. In a patch: all of channel 0, row by row, then channel 1, …; the order in
    which a Conv2d with stride p has its weights. Dosovitskiy et al. 2021, §3.1.
    Raises ValueError where p does not divide both height and width.
    """
    check_grid(*pixels.shape[-2:], patch_size)
    # BEGIN SOLUTION
    cut = "batch channel (down p) (across q) -> batch (down across) (channel p q)"
    return rearrange(pixels, cut, p=patch_size, q=patch_size)
    # END SOLUTION


class VisionBlock(nn.Module):
    """A pre-norm block of week 1 without the causal mask, every patch sees every other; by torch's own fast parts."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm_1, self.norm_2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.w_qkv, self.w_o = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.feed_forward = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x: Float[Tensor, "batch place d_model"]) -> Float[Tensor, "batch place d_model"]:
        split = "batch place (three head d_head) -> three batch head place d_head"
        q, k, v = rearrange(self.w_qkv(self.norm_1(x)), split, three=3, head=self.n_heads)
        heads = F.scaled_dot_product_attention(q, k, v)
        x = x + self.w_o(rearrange(heads, "batch head place d_head -> batch place (head d_head)"))
        return x + self.feed_forward(self.norm_2(x))


class VisionEncoder(nn.Module):
    """A vision transformer as SigLIP has it: patches, learned positions, pre-norm blocks, a last norm; no class token.

    Returns a vector for each patch. Dosovitskiy et al. 2021, eq. 1 to 3; Zhai et al. 2023, "Sigmoid Loss".
    """

    def __init__(
        self, image_size: int, patch_size: int, d_model: int, n_heads: int, n_layers: int, cut: Callable = patchify
    ) -> None:
        super().__init__()
        check_grid(image_size, image_size, patch_size)
        self.patch_size, self.cut = patch_size, cut
        self.patch_embedding = nn.Linear(3 * patch_size**2, d_model)
        self.position_embedding = nn.Parameter(0.02 * torch.randn((image_size // patch_size) ** 2, d_model))
        self.blocks = nn.Sequential(*(VisionBlock(d_model, n_heads) for _ in range(n_layers)))
        self.final_norm = nn.LayerNorm(d_model)

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch patch d_model"]:
        x = self.patch_embedding(self.cut(pixels, self.patch_size)) + self.position_embedding
        return self.final_norm(self.blocks(x))


def check_pairs(images: Tensor, texts: Tensor) -> None:
    """Raise ValueError unless there are as many images as texts, of one width, and at least two."""
    if images.shape != texts.shape or images.dim() != 2 or len(images) < 2:
        raise ValueError(
            "images and texts must be (batch, d_embed) alike, with a batch of 2 or more to tell apart; "
            f"got {tuple(images.shape)} and {tuple(texts.shape)}"
        )


def contrastive_loss(
    images: Float[Tensor, "batch d_embed"], texts: Float[Tensor, "batch d_embed"], log_scale: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """CLIP's loss: which text belongs to each image, and which image to each text; row i of both is one pair.

    logits = exp(log_scale) · cos(image i, text j); the mean of two cross-entropies, over texts and over images (nats).
    The temperature 1 / exp(log_scale) is learnt too. Radford et al. 2021, figure 3.
    Raises ValueError for other shapes, or fewer than two pairs.
    """
    check_pairs(images, texts)
    # BEGIN SOLUTION
    images, texts = F.normalize(images, dim=-1), F.normalize(texts, dim=-1)
    logits = log_scale.exp() * images @ texts.T  # (image, text)
    own = torch.arange(len(images), device=images.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    # END SOLUTION


def check_merge(n_patches: int, merge: int) -> int:
    """Patches a side; ValueError unless they form a square that merge divides."""
    side = round(n_patches**0.5)
    if merge < 1 or side * side != n_patches or side % merge:
        raise ValueError(f"{n_patches} patches are no square whose side {merge} divides")
    return side


class ImageProjector(nn.Module):
    """Patch features to embeddings of the language model: w_out(GELU(w_in(·))), as LLaVA-1.5 has it (§3.3).

    merge > 1: each merge x merge square of patches becomes one token; its features stand one after another, row by row,
    before w_in. Squares go from left to right, then down. Linear maps `w_in`: d_image · merge² -> d_model and
    `w_out`: d_model -> d_model, with biases; GELU is the exact one. ValueError where the patches form no such squares.
    """

    def __init__(self, d_image: int, d_model: int, merge: int = 1) -> None:
        super().__init__()
        self.merge = merge
        # BEGIN SOLUTION
        self.w_in = nn.Linear(d_image * merge**2, d_model)
        self.w_out = nn.Linear(d_model, d_model)
        # END SOLUTION

    def forward(self, features: Float[Tensor, "batch patch d_image"]) -> Float[Tensor, "batch token d_model"]:
        side = check_merge(features.shape[1], self.merge)
        # BEGIN SOLUTION
        down = side // self.merge
        squares = "batch (down r across c) d -> batch (down across) (r c d)"
        merged = rearrange(features, squares, down=down, across=down, r=self.merge, c=self.merge)
        return self.w_out(F.gelu(self.w_in(merged)))
        # END SOLUTION


def check_images_fit(token_ids: Tensor, attention_mask: Tensor, images: Sequence[Tensor]) -> None:
    """Raise ValueError unless each row has as many placeholders as pictures."""
    if len(images) != len(token_ids):
        raise ValueError(f"there must be one tensor of pictures for each row, got {len(images)} for {len(token_ids)}")
    for i, (row, mask, own) in enumerate(zip(token_ids, attention_mask, images, strict=True)):
        places = int((row[mask] == IMAGE_ID).sum())
        if places != len(own):
            raise ValueError(f"row {i} has {places} places for pictures and {len(own)} pictures")


def splice_image_tokens(
    token_ids: Int[Tensor, "batch seq"],
    labels: Int[Tensor, "batch seq"],
    attention_mask: Bool[Tensor, "batch seq"],
    images: Sequence[Float[Tensor, "image token d_model"]],
    embed: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """Put the projected tokens of each picture in the place of its IMAGE_ID. Liu et al. 2023, §4.1.

    images[i] are those of row i, in order; a row may have none. `embed` gives the embeddings of token ids (not of
    IMAGE_ID). Rows are padded on the right, before and after: "embeddings" with zeros, "labels" with -100 (also the
    labels of image tokens), "attention_mask" with False; each (batch, longest, …). What the mask hides is left out.
    Raises ValueError unless each row has as many places as pictures.
    """
    check_images_fit(token_ids, attention_mask, images)
    # BEGIN SOLUTION
    rows, goals = [], []
    for ids, goal, mask, own in zip(token_ids, labels, attention_mask, images, strict=True):
        ids, goal = ids[mask], goal[mask]
        parts, wanted, start = [], [], 0
        for place, image in zip((ids == IMAGE_ID).nonzero().flatten().tolist(), own, strict=True):
            parts += [embed(ids[start:place]), image]
            wanted += [goal[start:place], goal.new_full((len(image),), -100)]
            start = place + 1
        rows.append(torch.cat([*parts, embed(ids[start:])]))
        goals.append(torch.cat([*wanted, goal[start:]]))
    lengths = torch.tensor([len(row) for row in rows], device=token_ids.device)
    return {
        "embeddings": nn.utils.rnn.pad_sequence(rows, batch_first=True),
        "labels": nn.utils.rnn.pad_sequence(goals, batch_first=True, padding_value=-100),
        "attention_mask": torch.arange(int(lengths.max()), device=token_ids.device) < lengths[:, None],
    }
    # END SOLUTION


class GatedCrossAttention(nn.Module):
    """x + tanh(gate) · attention(queries from x, keys and values from a picture): Flamingo, figure 4.

    Linear maps without bias `w_q`, `w_o`: d_model -> d_model; `w_k`, `w_v`: d_image -> d_model; parameter `gate`, a
    number that starts at 0. `image_index` (batch, seq): the one picture that a token looks at, all its patches and no
    other's (Alayrac et al. 2022, §2.3: the last before it); -1: none, and x stays as it is there.
    """

    def __init__(self, d_model: int, d_image: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.w_q = nn.Linear(d_model, d_model, bias=False)
        self.w_k = nn.Linear(d_image, d_model, bias=False)
        self.w_v = nn.Linear(d_image, d_model, bias=False)
        self.w_o = nn.Linear(d_model, d_model, bias=False)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(
        self,
        x: Float[Tensor, "batch seq d_model"],
        images: Float[Tensor, "batch image patch d_image"],
        image_index: Int[Tensor, "batch seq"],
    ) -> Float[Tensor, "batch seq d_model"]:
        # BEGIN SOLUTION
        n_images, n_patches = images.shape[1:3]
        flat = rearrange(images, "batch image patch d -> batch (image patch) d")
        split = "batch place (head d_head) -> batch head place d_head"
        q, k, v = (rearrange(part, split, head=self.n_heads) for part in (self.w_q(x), self.w_k(flat), self.w_v(flat)))
        owner = torch.arange(n_images, device=x.device).repeat_interleave(n_patches)
        visible = image_index[:, None, :, None] == owner  # (batch, 1, seq, image * patch)
        scores = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).masked_fill(~visible, torch.finfo(q.dtype).min)
        heads = scores.softmax(dim=-1) @ v
        seen = self.w_o(rearrange(heads, "batch head seq d_head -> batch seq (head d_head)"))
        return x + self.gate.tanh() * seen * (image_index >= 0)[..., None]
        # END SOLUTION
