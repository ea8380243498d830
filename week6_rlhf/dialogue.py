"""Talk to a model in a notebook: a conversation that fits its context, shown as bubbles, with a field to type in."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from week4_finetuning.chat import STOP, encode_prompt
from week5_inference.solutions.kv_cache import generate_cached
from week6_rlhf.policy import text_of

BUBBLE = "display:inline-block;max-width:85%;padding:6px 10px;margin:3px 0;border:1px solid #8888;border-radius:10px"


@dataclass
class Dialogue:
    """A conversation; `fit` drops the oldest turns that the context has no room for, with the reply still to come."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    fit: Callable
    max_new_tokens: int = 144
    temperature: float = 0.7
    seed: int = 0
    messages: list[dict[str, str]] = field(default_factory=list)
    seen: int = 0  # messages that the model saw for its newest reply

    def __post_init__(self):
        self.generator = torch.Generator().manual_seed(self.seed)

    def say(self, text: str) -> str:
        """Add the user's message and the model's reply to it; ValueError where even this message does not fit."""
        if not text.strip():
            raise ValueError("there is nothing to answer: write something")
        budget = self.model.config.context_length - self.max_new_tokens
        asked = [*self.messages, {"role": "user", "content": text.strip()}]
        shown = self.fit(asked, lambda messages: len(encode_prompt(self.tokenizer, messages)), budget)
        prompt, stop = encode_prompt(self.tokenizer, shown), self.tokenizer.convert_tokens_to_ids(STOP)
        (written,) = generate_cached(
            self.model, [prompt], self.max_new_tokens, self.temperature, eos_id=stop, generator=self.generator
        )
        reply = text_of(self.tokenizer, written)
        self.messages, self.seen = [*asked, {"role": "assistant", "content": reply}], len(shown)
        return reply

    def _repr_html_(self) -> str:
        sides = {"user": "right", "assistant": "left"}
        rows = "".join(
            f'<div style="text-align:{sides[message["role"]]}"><span style="{BUBBLE};text-align:left">'
            f"{html.escape(message['content'])}</span></div>"
            for message in self.messages
        )
        return f'<div style="max-width:44em">{rows}</div>'


def window(dialogue: Dialogue):
    """The dialogue with a field to type in, as a widget; where there are no widgets, use `dialogue.say(...)`."""
    import ipywidgets as widgets

    shown = widgets.HTML(dialogue._repr_html_())
    typed = widgets.Text(placeholder="Write a story about Pip and Nell.", layout=widgets.Layout(width="36em"))
    send = widgets.Button(description="Send")
    note = widgets.Label()

    def answer(_) -> None:
        send.disabled, note.value = True, "writing ..."
        try:
            dialogue.say(typed.value)
            typed.value, note.value = "", f"the model saw the last {dialogue.seen} messages"
        except ValueError as error:
            note.value = str(error)
        shown.value, send.disabled = dialogue._repr_html_(), False

    send.on_click(answer)
    return widgets.VBox([shown, widgets.HBox([typed, send]), note])
