"""From instructions to batches: templates, labels, padding and packing, the loss, and Self-Instruct's filter."""

import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from week3_evaluation.solutions.ngram_metrics import rouge_l

# --- templates -------------------------------------------------------------------------------------------------

# Alpaca's two opening sentences (Taori et al. 2023, stanford_alpaca/train.py).
ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)
ALPACA_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)


def format_alpaca(instruction: str, input: str = "") -> str:
    """Alpaca's prompt, up to and with "### Response:\\n"; the response follows. Taori et al. 2023.

    The opening sentence, "### Instruction:", "### Input:" (left out, with another opening, where the input is "") and
    "### Response:". A title is followed by "\\n" and its text; one empty line stands between two parts. What the user
    wrote is put in as it is, braces and blanks included. Raises TypeError for what is no string.
    """
    for name, text in (("instruction", instruction), ("input", input)):
        if not isinstance(text, str):
            raise TypeError(f"the {name} must be a string (no input: an empty one), got {type(text).__name__}")
    # BEGIN SOLUTION
    if input == "":
        return f"{ALPACA_WITHOUT_INPUT}\n\n### Instruction:\n{instruction}\n\n### Response:\n"
    return f"{ALPACA_WITH_INPUT}\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
    # END SOLUTION


ROLES = ("system", "user", "assistant")
MARKERS = ("<|im_start|>", "<|im_end|>")


def check_messages(messages: list[dict[str, str]]) -> None:
    """Raise ValueError unless user and assistant take turns, from the user on, after at most one system message.

    A content that holds a marker of the template is refused too: it could end its own message and begin another's.
    """
    if not messages:
        raise ValueError("a conversation needs at least one message, got none")
    for i, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise ValueError(f"message {i} has the role {role!r}; there are {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise ValueError(f"the content of message {i} must be a string, got {type(content).__name__}")
        found = [marker for marker in MARKERS if marker in content]
        if found:
            raise ValueError(f"message {i} ({role}) holds {found[0]}, which belongs to the template: take it out first")
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[0] == "system" else roles
    if not turns or turns != [("user", "assistant")[i % 2] for i in range(len(turns))]:
        raise ValueError(f"after an optional system message, user and assistant take turns; got {', '.join(roles)}")


def format_chatml(messages: list[dict[str, str]], add_generation_prompt: bool = False) -> str:
    """Each message as "<|im_start|>{role}\\n{content}<|im_end|>\\n", one after another.

    With `add_generation_prompt` the opening of an assistant's message follows, "<|im_start|>assistant\\n": there the
    model goes on. Nothing is added or stripped. OpenAI 2023, Chat Markup Language.
    Raises ValueError for messages that `check_messages` refuses.
    """
    check_messages(messages)
    # BEGIN SOLUTION
    text = "".join(f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages)
    return text + "<|im_start|>assistant\n" if add_generation_prompt else text
    # END SOLUTION


VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def format_vicuna(messages: list[dict[str, str]], add_generation_prompt: bool = False) -> str:
    """FastChat's style "vicuna_v1.1": a system sentence, then "USER: … ASSISTANT: …</s>"; all on one line.

    Two separators take turns: a blank after the system sentence and after the user, the EOS after the assistant.
    An open turn is "ASSISTANT:" without a blank. Zheng et al. 2023, FastChat's conversation.py (ADD_COLON_TWO).
    """
    check_messages(messages)
    system = messages[0]["content"] if messages[0]["role"] == "system" else VICUNA_SYSTEM
    text = system + " "
    for message in messages[messages[0]["role"] == "system" :]:
        separator = " " if message["role"] == "user" else "</s>"
        text += f"{message['role'].upper()}: {message['content']}{separator}"
    return text + "ASSISTANT:" if add_generation_prompt else text


# --- labels ----------------------------------------------------------------------------------------------------


def mask_prompt_labels(
    token_ids: Int[Tensor, "batch seq"],
    prompt_lengths: Int[Tensor, "batch"],
    lengths: Int[Tensor, "batch"],
    ignore_index: int = -100,
) -> Int[Tensor, "batch seq"]:
    """The token ids as labels, at the same places (not shifted); `ignore_index` on prompts and on padding.

    Rows are padded on the right; `lengths` counts prompt and response. The EOS that ends a response is kept, also where
    padding is made of the same token. Example: [5, 6, 7, 0, 0], prompt 2, length 4 -> [-100, -100, 7, 0, -100].
    Raises ValueError unless 0 <= prompt length <= length <= seq in each row.
    """
    if ((prompt_lengths < 0) | (prompt_lengths > lengths) | (lengths > token_ids.shape[1])).any():
        raise ValueError(
            f"0 <= prompt length <= length <= {token_ids.shape[1]} must hold in each row; got prompts "
            f"{prompt_lengths.tolist()}, lengths {lengths.tolist()}"
        )
    # BEGIN SOLUTION
    places = torch.arange(token_ids.shape[1], device=token_ids.device)
    learned = (places >= prompt_lengths[:, None]) & (places < lengths[:, None])  # (batch, seq)
    return token_ids.masked_fill(~learned, ignore_index)
    # END SOLUTION


# --- batches ---------------------------------------------------------------------------------------------------

Pair = tuple[list[int], list[int]]  # (prompt ids, response ids with EOS)


def check_pairs_fit(examples: Sequence[Pair], max_length: int) -> None:
    """Raise ValueError for no examples, one without tokens, or one longer than max_length."""
    if not examples:
        raise ValueError("a batch needs at least one example, got none")
    for i, (prompt, response) in enumerate(examples):
        length = len(prompt) + len(response)
        if not 1 <= length <= max_length:
            raise ValueError(f"example {i} has {length} tokens, allowed are 1 to {max_length}: see fit()")


def fit(examples: Sequence[Pair], max_length: int) -> tuple[list[Pair], int]:
    """The examples that have at most max_length tokens, and how many were left out. (A cut response has no EOS.)"""
    kept = [pair for pair in examples if 1 <= len(pair[0]) + len(pair[1]) <= max_length]
    return kept, len(examples) - len(kept)


def collate_sft(examples: Sequence[Pair], pad_id: int, max_length: int, pack: bool = False) -> dict[str, Tensor]:
    """(prompt ids, response ids with EOS) as right-padded rows; with `pack` several examples a row, whole, in order.

    All are (batch, seq), seq that of the longest row. "labels": -100 on prompts, padding and the first token of each
    example. "positions": from 0 in each example, 0 on padding. Not packed, "attention_mask": True on real tokens.
    Packed, "document_ids": index in `examples`, -1 on padding; a new row begins where the next would pass max_length.
    Raises ValueError for no examples, one without tokens, or one longer than max_length.
    """
    check_pairs_fit(examples, max_length)
    # BEGIN SOLUTION
    rows, room = [], 0
    for i, (prompt, response) in enumerate(examples):
        length = len(prompt) + len(response)
        if not pack or length > room:
            rows.append([])
            room = max_length
        rows[-1].append(i)
        room -= length

    shape = (len(rows), max(sum(len(part) for i in row for part in examples[i]) for row in rows))
    token_ids = torch.full(shape, pad_id)
    labels = torch.full(shape, -100)
    positions = torch.zeros(shape, dtype=torch.long)
    document_ids = torch.full(shape, -1)
    for r, row in enumerate(rows):
        start = 0
        for i in row:
            prompt, response = examples[i]
            middle = start + len(prompt)
            end = middle + len(response)
            token_ids[r, start:end] = torch.tensor([*prompt, *response])
            labels[r, middle:end] = torch.tensor(response, dtype=torch.long)
            positions[r, start:end] = torch.arange(end - start)
            document_ids[r, start:end] = i
            start = end
    labels[positions == 0] = -100  # in a packed row the example before would predict it

    batch = {"token_ids": token_ids, "labels": labels, "positions": positions}
    return batch | ({"document_ids": document_ids} if pack else {"attention_mask": document_ids >= 0})
    # END SOLUTION


def document_mask(document_ids: Int[Tensor, "batch seq"]) -> Bool[Tensor, "batch 1 query key"]:
    """True where a query may look: at keys of its own document that are not after it (week 2, `pack_documents`).

    Padding sees the padding before it and itself, so that no row of the softmax is empty.
    """
    places = torch.arange(document_ids.shape[1], device=document_ids.device)
    same = document_ids[:, None, :, None] == document_ids[:, None, None, :]
    return same & (places[:, None] >= places)


# --- the loss --------------------------------------------------------------------------------------------------


def sft_loss(logits: Float[Tensor, "batch seq vocab"], labels: Int[Tensor, "batch seq"]) -> Float[Tensor, ""]:
    """Mean of -log p(label t | tokens before t) over all places t that count, in nats; 0 (and gradient 0) if none does.

    The logits at place t are about the token at t + 1, so the function shifts. Labels of -100 do not count. It is one
    mean over the counted tokens of the whole batch, whatever row they are in.
    Raises ValueError if the shapes do not agree.
    """
    if logits.dim() != 3 or logits.shape[:2] != labels.shape:
        raise ValueError(
            f"logits must be (batch, seq, vocab) and labels (batch, seq) of the same batch and seq; got "
            f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    # BEGIN SOLUTION
    targets = labels[:, 1:]
    total = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum")
    return total / (targets != -100).sum().clamp(min=1)
    # END SOLUTION


# --- Self-Instruct ---------------------------------------------------------------------------------------------

# What a model of text alone cannot serve: the words of Self-Instruct's own script.
KEYWORDS = (
    *("image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps"),
    *("draw", "plot", "go to"),
)


def keep_instruction(
    new: str,
    pool: list[str],
    threshold: float = 0.7,
    min_words: int = 4,
    max_words: int = 150,
    keywords: Sequence[str] = KEYWORDS,
) -> bool:
    """Whether a generated instruction may join the pool. Wang et al. 2022, step 4 ("Filtering").

    It has min_words to max_words words (both allowed; words: new.split()). None of the keywords is in it as a whole
    word, in any case: "file" is not in "profile", "go to" is two words in a row. And its ROUGE-L F1 (`rouge_l`) is
    below the threshold against every instruction of the pool; an empty pool refuses nothing.
    """
    # BEGIN SOLUTION
    if not min_words <= len(new.split()) <= max_words:
        return False
    if any(re.search(rf"\b{re.escape(word)}\b", new, flags=re.IGNORECASE) for word in keywords):
        return False
    return all(rouge_l(new, old)[2] < threshold for old in pool)
    # END SOLUTION
