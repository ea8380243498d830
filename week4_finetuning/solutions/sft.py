"""Tuning on instructions: the gradient of a batch in pieces, and the replies of a tuned model."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from week4_finetuning.chat import STOP, encode_prompt


def check_micro_batches(micro_batches: Sequence[dict[str, Tensor]]) -> None:
    """Raise ValueError where there is nothing to learn: no micro-batch, or labels that are all -100."""
    if not micro_batches:
        raise ValueError("there must be at least one micro-batch, got none")
    if not any((batch["labels"][:, 1:] != -100).any() for batch in micro_batches):
        raise ValueError("no label of any micro-batch counts: they are all -100 (or stand first in their row)")


def accumulate_sft(model: Callable, micro_batches: Sequence[dict[str, Tensor]]) -> float:
    """Add to the gradients those of the mean loss over all counted labels of all micro-batches; returns that mean.

    Each micro-batch has "token_ids" and "labels", both (batch, seq), labels at the same places, -100 not counted;
    `model(token_ids)` gives (batch, seq, vocab) logits, and those at t predict the label at t + 1. Only one
    micro-batch's graph is held at a time; one may count nothing. Raises ValueError if none counts anything.
    """
    check_micro_batches(micro_batches)
    # BEGIN SOLUTION
    n_counted = sum((batch["labels"][:, 1:] != -100).sum().item() for batch in micro_batches)
    total = 0.0
    for batch in micro_batches:
        logits = model(batch["token_ids"])[:, :-1]
        loss = F.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum") / n_counted
        loss.backward()
        total += loss.item()
    return total
    # END SOLUTION


def replies(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[list[dict[str, str]]],
    max_new_tokens: int = 64,
    batch_size: int = 32,
) -> list[str]:
    """What a transformers model answers, greedily, to each conversation: its text up to <|im_end|>, without markers.

    Prompts by `encode_prompt`, in batches padded on the left with an attention mask, so that an answer does not depend
    on its neighbours; in the order of the conversations. A reply that never ends is cut after `max_new_tokens`.
    The tokenizer is left as it was. Raises ValueError for a prompt and reply that do not fit the model's positions.
    """
    prompts = [encode_prompt(tokenizer, messages) for messages in conversations]
    longest = max(map(len, prompts), default=0)
    allowed = model.config.max_position_embeddings
    if longest + max_new_tokens > allowed:
        raise ValueError(
            f"a prompt of {longest} tokens and {max_new_tokens} new ones do not fit: the model has {allowed} positions"
        )
    # BEGIN SOLUTION
    stop, found = tokenizer.convert_tokens_to_ids(STOP), {}
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(prompts), batch_size):
        rows = by_length[start : start + batch_size]
        width = len(prompts[rows[-1]])
        token_ids = [[stop] * (width - len(prompts[i])) + prompts[i] for i in rows]
        mask = [[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in rows]
        with torch.no_grad():
            written = model.generate(
                input_ids=torch.tensor(token_ids, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=stop,
                pad_token_id=stop,
            )
        texts = tokenizer.batch_decode(written[:, width:], skip_special_tokens=True)
        found |= {i: text.strip() for i, text in zip(rows, texts, strict=True)}
    return [found[i] for i in range(len(prompts))]
    # END SOLUTION
