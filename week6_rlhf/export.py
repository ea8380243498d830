"""A model as a folder that others can use: weights, tokenizer with its chat template, how to generate, and its card."""

from __future__ import annotations

import copy
from pathlib import Path

from torch import nn
from transformers import GenerationConfig, PreTrainedTokenizerFast

from week2_pretraining.solutions.pretraining import save_pretrained
from week4_finetuning.chat import START, STOP

# What `format_chatml` writes, in the language of templates that transformers, vLLM and the Hub read.
CHAT_TEMPLATE = (
    START
    + "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def export(model: nn.Module, tokenizer: PreTrainedTokenizerFast, folder: str | Path, card: str) -> None:
    """Write a Hugging Face folder: what `save_pretrained` writes, a chat template, when to stop, and README.md."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = CHAT_TEMPLATE
    save_pretrained(model, tokenizer, folder)
    ends = [tokenizer.convert_tokens_to_ids(STOP), tokenizer.eos_token_id]
    GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id).save_pretrained(folder)
    (Path(folder) / "README.md").write_text(card, encoding="utf-8")
