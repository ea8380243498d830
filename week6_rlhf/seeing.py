"""Training the eyes of the course model, and asking it what it sees: what lesson 07 uses and does not teach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from week2_pretraining.solutions.optimization import warmup_cosine_lr
from week4_finetuning.chat import START, STOP
from week4_finetuning.solutions.instruction_data import collate_sft, format_chatml
from week6_rlhf.pictures import PAIRS, PATCH, SIZE, Picture, Question, Thing, pixels_of
from week6_rlhf.solutions.multimodal import (
    IMAGE_ID,
    VisionEncoder,
    contrastive_loss,
    patchify,
    splice_image_tokens,
)

D_IMAGE, D_SHARED = 64, 64
KINDS = ("colour", "shape")


# --- the encoder, trained with captions -------------------------------------------------------------------------


class CLIP(nn.Module):
    """Two towers. The one for texts is the plainest there is: the mean of its tokens' embeddings, in any order."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, cut: Callable = patchify) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.encoder = VisionEncoder(SIZE, PATCH, D_IMAGE, n_heads=4, n_layers=3, cut=cut)
        self.to_shared = nn.Linear(D_IMAGE, D_SHARED, bias=False)
        self.words = nn.EmbeddingBag(len(tokenizer), D_SHARED)
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())  # CLIP's start, §2.5

    def embed_images(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch d_shared"]:
        return self.to_shared(self.encoder(pixels).mean(dim=1))

    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "batch d_shared"]:
        ids = [self.tokenizer(f" {text}", add_special_tokens=False).input_ids for text in texts]
        starts = torch.tensor([0, *map(len, ids[:-1])]).cumsum(0)
        return self.words(torch.tensor([i for row in ids for i in row]), starts)


def tune(parameters: Sequence[nn.Parameter], loss_of: Callable[[], Tensor], steps: int, max_lr: float, name: str):
    """AdamW on what `loss_of()` gives, with warm-up, cosine and clipping; yields each step's loss."""
    optimizer = torch.optim.AdamW(parameters, lr=max_lr, betas=(0.9, 0.98), weight_decay=0.05)
    for step in tqdm(range(steps), desc=name, leave=False):
        for group in optimizer.param_groups:
            group["lr"] = warmup_cosine_lr(step, max_lr, steps // 10, steps)
        loss = loss_of()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        yield loss.item()


def train_clip(
    tokenizer: PreTrainedTokenizerBase,
    shown: Sequence[Picture],
    seed: int = 0,
    steps: int = 400,
    batch_size: int = 96,
    loss: Callable = contrastive_loss,
    cut: Callable = patchify,
) -> tuple[CLIP, list[float]]:
    """Both towers and the temperature, on pictures and their captions; the encoder comes back frozen."""
    torch.manual_seed(seed)
    clip, pixels = CLIP(tokenizer, cut), pixels_of(shown)
    generator = torch.Generator().manual_seed(seed)

    def loss_of() -> Tensor:
        rows = torch.randint(len(shown), (batch_size,), generator=generator)
        texts = clip.embed_texts([shown[i].caption for i in rows.tolist()])
        return loss(clip.embed_images(pixels[rows]), texts, clip.log_scale)

    losses = list(tune(list(clip.parameters()), loss_of, steps, 3e-3, "CLIP"))
    return clip.requires_grad_(False).eval(), losses


@torch.no_grad()
def zero_shot(clip: CLIP, shown: Sequence[Picture]) -> list[dict[str, bool]]:
    """For pictures of one thing: whether the nearest of the 40 captions has the right colour, and the right shape."""
    captions = clip.embed_texts([Thing(*pair, 0, 0, 0).name for pair in PAIRS])
    nearest = F.normalize(clip.embed_images(pixels_of(shown)), dim=-1) @ F.normalize(captions, dim=-1).T
    chosen = [PAIRS[i] for i in nearest.argmax(dim=1).tolist()]
    firsts = [picture.things[0] for picture in shown]
    return [
        {"colour": pair[0] == thing.colour, "shape": pair[1] == thing.shape}
        for pair, thing in zip(chosen, firsts, strict=True)
    ]


@torch.no_grad()
def patch_features(
    encoder: VisionEncoder, pixels: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, "batch patch d"]:
    """What a projector gets: the encoder's vector for each patch."""
    return torch.cat([encoder(part) for part in pixels.split(256)])


# --- the language model with eyes -------------------------------------------------------------------------------


def forward_from_embeddings(
    model: nn.Module, embeddings: Float[Tensor, "batch seq d_model"], attention_mask: Bool[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq d_model"]:
    """What `model.hidden_states` computes, begun after the look-up of the tokens; positions as there."""
    x = embeddings + model.position_embedding((attention_mask.cumsum(dim=1) - 1).clamp(min=0))
    for block in model.blocks:
        x = block(x, attention_mask)
    return model.final_norm(x)


def encode_question(tokenizer: PreTrainedTokenizerBase, question: Question) -> tuple[list[int], list[int]]:
    """(prompt ids, reply ids): a conversation in which the user shows a picture, then asks."""
    text = START + format_chatml([{"role": "user", "content": question.text}], add_generation_prompt=True)
    before, after = (tokenizer(part, add_special_tokens=False).input_ids for part in text.split(question.text))
    asked = tokenizer(question.text, add_special_tokens=False).input_ids
    reply = tokenizer(question.reply + STOP, add_special_tokens=False).input_ids
    return [*before, IMAGE_ID, *asked, *after], reply


@dataclass
class Seer:
    """A language model, its tokenizer and a projector."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    projector: nn.Module
    splice: Callable = splice_image_tokens

    def logits(self, features: Tensor, questions: Sequence[Question]) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (counted, vocab) and labels (counted,) of the replies' tokens, and the row that each belongs to."""
        rows = [encode_question(self.tokenizer, question) for question in questions]
        batch = collate_sft(rows, self.tokenizer.pad_token_id, self.model.config.context_length)
        images = self.projector(features)[:, None]  # one picture a row
        parts = batch["token_ids"], batch["labels"], batch["attention_mask"]
        merged = self.splice(*parts, list(images), self.model.token_embedding)
        hidden = forward_from_embeddings(self.model, merged["embeddings"], merged["attention_mask"])[:, :-1]
        labels = merged["labels"][:, 1:]
        counted = labels != -100
        return F.linear(hidden[counted], self.model.token_embedding.weight), labels[counted], counted.nonzero()[:, 0]

    def trained(self) -> list[nn.Parameter]:
        return [p for module in (self.projector, self.model) for p in module.parameters() if p.requires_grad]


def train_seer(
    seer: Seer, features: Tensor, shown: Sequence[Picture], seed: int = 0, steps: int = 300, batch_size: int = 32
) -> list[float]:
    """Train what is not frozen on one question a picture; the loss counts the reply. Returns each step's loss."""
    generator = torch.Generator().manual_seed(seed)

    def loss_of() -> Tensor:
        rows = torch.randint(len(shown), (batch_size,), generator=generator)
        kinds = torch.randint(len(KINDS), (batch_size,), generator=generator).tolist()
        asked = [shown[i].question(KINDS[kind]) for i, kind in zip(rows.tolist(), kinds, strict=True)]
        logits, labels, _ = seer.logits(features[rows], asked)
        return F.cross_entropy(logits, labels)

    return list(tune(seer.trained(), loss_of, steps, 1e-2, "eyes"))


@torch.no_grad()
def right(seer: Seer, features: Tensor, questions: Sequence[Question]) -> list[bool]:
    """Whether the greedy reply to each question is the right one, to the token.

    It is just where every token of the right reply is the likeliest after those before it, so one pass tells.
    """
    found = torch.ones(len(questions), dtype=torch.bool)
    for part in torch.arange(len(questions)).split(100):
        logits, labels, rows = seer.logits(features[part], [questions[i] for i in part.tolist()])
        found[part[rows[logits.argmax(dim=-1) != labels]]] = False
    return found.tolist()


@torch.no_grad()
def answer(seer: Seer, features: Float[Tensor, "patch d"], text: str, max_new_tokens: int = 8) -> str:
    """What the model says about one picture, greedily, token by token."""
    ids, _ = encode_question(seer.tokenizer, Question("", text, "none"))
    stop, start = seer.tokenizer.convert_tokens_to_ids(STOP), len(ids)
    images = [seer.projector(features[None])]
    while len(ids) - start < max_new_tokens and ids[-1] != stop:
        row = torch.tensor([ids])
        merged = seer.splice(row, row, row.bool(), images, seer.model.token_embedding)
        hidden = forward_from_embeddings(seer.model, merged["embeddings"], merged["attention_mask"])
        ids.append(int((hidden[0, -1] @ seer.model.token_embedding.weight.T).argmax()))
    return seer.tokenizer.decode([i for i in ids[start:] if i != stop]).strip()
