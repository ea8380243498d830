"""The model as a policy: prompts in, several replies out; replies in, their log-probabilities out."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from week4_finetuning.chat import STOP, encode_prompt
from week4_finetuning.solutions.instruction_data import collate_sft
from week5_inference.fused import FusedForward
from week5_inference.solutions.kv_cache import generate_cached
from week6_rlhf.preferences import Prompt
from week6_rlhf.solutions.dpo import sequence_log_probs

MAX_NEW_TOKENS = 144
Ids = list[int]


def encode(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[Ids]:
    """Each prompt as a conversation up to where the assistant begins."""
    return [encode_prompt(tokenizer, [{"role": "user", "content": prompt.text}]) for prompt in prompts]


def sample_replies(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Ids],
    per_prompt: int = 1,
    max_new_tokens: int = MAX_NEW_TOKENS,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    batch_size: int = 64,
    progress: str = "",
) -> list[list[Ids]]:
    """`per_prompt` replies of each prompt, as token ids; one that ended within the limit ends in <|im_end|>."""
    rows = [prompt for prompt in prompts for _ in range(per_prompt)]
    stop, forward, written = tokenizer.convert_tokens_to_ids(STOP), FusedForward(model), []
    starts = range(0, len(rows), batch_size)
    for start in tqdm(starts, desc=progress, leave=False, disable=not progress):
        batch = rows[start : start + batch_size]
        written += generate_cached(
            model, batch, max_new_tokens, temperature, eos_id=stop, generator=generator, forward=forward
        )
    return [written[i : i + per_prompt] for i in range(0, len(rows), per_prompt)]


def text_of(tokenizer: PreTrainedTokenizerBase, reply: Ids) -> str:
    return tokenizer.decode(reply, skip_special_tokens=True).strip()


def reply_log_probs(
    model: nn.Module, pairs: Sequence[tuple[Ids, Ids]], pad_id: int, batch_size: int = 32
) -> Float[Tensor, "reply"]:
    """log p(reply | prompt) of each (prompt, reply), without gradients."""
    found = []
    with torch.no_grad():
        for start in range(0, len(pairs), batch_size):
            batch = collate_sft(pairs[start : start + batch_size], pad_id, max_length=model.config.context_length)
            found.append(sequence_log_probs(model(batch["token_ids"]), batch["labels"]))
    return torch.cat(found)
