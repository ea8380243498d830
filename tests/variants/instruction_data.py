"""Right answers to week 4's lesson 01, written otherwise: they must pass."""

import string

import torch
from torch.nn.utils.rnn import pad_sequence

from week3_evaluation.solutions.ngram_metrics import rouge_l
from week4_finetuning.solutions.instruction_data import ALPACA_WITH_INPUT, ALPACA_WITHOUT_INPUT, KEYWORDS


def format_alpaca__parts(instruction, input=""):
    if type(instruction) is not str or type(input) is not str:
        raise TypeError("strings")
    parts = [("Instruction", instruction)]
    if input:
        parts.append(("Input", input))
    parts.append(("Response", ""))
    opening = ALPACA_WITH_INPUT if input else ALPACA_WITHOUT_INPUT
    return "\n\n".join([opening, *(f"### {title}:\n{text}" for title, text in parts)])


def format_alpaca__templates(instruction, input=""):
    if not isinstance(instruction, str) or not isinstance(input, str):
        raise TypeError("strings")
    with_input = ALPACA_WITH_INPUT + "\n\n### Instruction:\n%s\n\n### Input:\n%s\n\n### Response:\n"
    without = ALPACA_WITHOUT_INPUT + "\n\n### Instruction:\n%s\n\n### Response:\n"
    return with_input % (instruction, input) if len(input) else without % instruction


def _refuse_messages(messages):
    expected = {"system": {"user"}, "user": {"assistant"}, "assistant": {"user"}}
    allowed = {"system", "user"}
    for message in messages:
        text = message["content"]
        if message["role"] not in allowed or "<|im_start|>" in text or "<|im_end|>" in text:
            raise ValueError(f"not in its place: {message}")
        allowed = expected[message["role"]]
    if not messages or messages[-1]["role"] == "system":
        raise ValueError("nobody asks")


def format_chatml__loop(messages, add_generation_prompt=False):
    _refuse_messages(messages)
    lines = []
    for message in messages:
        lines.append("<|im_start|>" + message["role"])
        lines.append(message["content"] + "<|im_end|>")
    lines.append("<|im_start|>assistant" if add_generation_prompt else "")
    return "\n".join(lines) + ("\n" if add_generation_prompt else "")


def format_chatml__jinja(messages, add_generation_prompt=False):
    from jinja2 import Environment

    _refuse_messages(messages)
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}{{ '\\n' }}{{ m.content }}<|im_end|>{{ '\\n' }}{% endfor %}"
        "{% if opened %}<|im_start|>assistant{{ '\\n' }}{% endif %}"
    )
    return Environment().from_string(template).render(messages=messages, opened=add_generation_prompt)


def _refuse_lengths(token_ids, prompt_lengths, lengths):
    for prompt, length in zip(prompt_lengths.tolist(), lengths.tolist(), strict=True):
        if not 0 <= prompt <= length <= token_ids.size(1):
            raise ValueError((prompt, length))


def mask_prompt_labels__rows(token_ids, prompt_lengths, lengths, ignore_index=-100):
    _refuse_lengths(token_ids, prompt_lengths, lengths)
    labels = torch.full_like(token_ids, ignore_index)
    for row, (prompt, length) in enumerate(zip(prompt_lengths.tolist(), lengths.tolist(), strict=True)):
        labels[row, prompt:length] = token_ids[row, prompt:length]
    return labels


def mask_prompt_labels__cumulative(token_ids, prompt_lengths, lengths, ignore_index=-100):
    _refuse_lengths(token_ids, prompt_lengths, lengths)
    marks = torch.zeros(token_ids.size(0), token_ids.size(1) + 1, dtype=torch.int32)
    one = torch.ones_like(marks[:, :1])
    marks.scatter_add_(1, prompt_lengths[:, None], one).scatter_add_(1, lengths[:, None], -one)
    return torch.where(marks.cumsum(1)[:, :-1].bool(), token_ids, ignore_index)


def _refuse_examples(examples, max_length):
    sizes = [len(prompt + response) for prompt, response in examples]
    if not sizes or min(sizes) == 0 or max(sizes) > max_length:
        raise ValueError(sizes)


def collate_sft__pad_sequence(examples, pad_id, max_length, pack=False):
    _refuse_examples(examples, max_length)
    rows = [[]]
    for i, (prompt, response) in enumerate(examples):
        n = len(prompt + response)
        if rows[-1] and (not pack or sum(map(len, rows[-1])) + n > max_length):
            rows.append([])
        labels = [-100] * len(prompt) + response
        labels[0] = -100
        piece = zip(prompt + response, labels, range(n), [i] * n, strict=True)
        rows[-1].append(list(piece))
    joined = [torch.tensor(sum(row, [])) for row in rows]  # (seq, 4)
    ids, labels, positions, owners = (
        pad_sequence([row[:, column] for row in joined], batch_first=True, padding_value=value)
        for column, value in enumerate((pad_id, -100, 0, -1))
    )
    batch = dict(token_ids=ids, labels=labels, positions=positions)
    if pack:
        batch["document_ids"] = owners
    else:
        batch["attention_mask"] = owners != -1
    return batch


def collate_sft__lists(examples, pad_id, max_length, pack=False):
    _refuse_examples(examples, max_length)
    columns = {"token_ids": [], "labels": [], "positions": [], "document_ids": []}
    padding = {"token_ids": pad_id, "labels": -100, "positions": 0, "document_ids": -1}
    for number, (prompt, response) in enumerate(examples):
        n = len(prompt) + len(response)
        own = {
            "token_ids": [*prompt, *response],
            "labels": [-100, *([-100] * len(prompt) + list(response))[1:]],
            "positions": list(range(n)),
            "document_ids": [number] * n,
        }
        fits = pack and number > 0 and len(columns["token_ids"][-1]) + n <= max_length
        for name, rows in columns.items():
            if fits:
                rows[-1] += own[name]
            else:
                rows.append(own[name])
    width = max(map(len, columns["token_ids"]))
    batch = {
        name: torch.tensor([row + [padding[name]] * (width - len(row)) for row in rows])
        for name, rows in columns.items()
    }
    owners = batch.pop("document_ids")
    batch["document_ids" if pack else "attention_mask"] = owners if pack else owners.ge(0)
    return batch


def sft_loss__log_softmax(logits, labels):
    if logits.shape[:-1] != labels.shape:
        raise ValueError("shapes")
    targets = labels[:, 1:]
    counted = targets.ne(-100)
    log_p = logits[:, :-1].log_softmax(-1).gather(2, targets.clamp(min=0).unsqueeze(2)).squeeze(2)
    return -(log_p * counted).sum() / max(int(counted.sum()), 1)


def sft_loss__counted_only(logits, labels):
    if tuple(logits.shape[:2]) != tuple(labels.shape):
        raise ValueError("shapes")
    rows, places = torch.nonzero(labels[:, 1:] != -100, as_tuple=True)
    if len(rows) == 0:
        return logits.sum() * 0.0
    chosen = logits[rows, places]
    return (chosen.logsumexp(-1) - chosen[torch.arange(len(rows)), labels[rows, places + 1]]).mean()


def keep_instruction__one_call(new, pool, threshold=0.7, min_words=4, max_words=150, keywords=KEYWORDS):
    import re

    words = re.findall(r"\S+", new)
    asked = re.compile(r"\b(?:" + "|".join(map(re.escape, keywords)) + r")\b", re.I) if keywords else None
    if len(words) < min_words or len(words) > max_words or (asked and asked.search(new)):
        return False
    return not pool or rouge_l(new, pool)[2] < threshold


def keep_instruction__word_runs(new, pool, threshold=0.7, min_words=4, max_words=150, keywords=KEYWORDS):
    bare = [word.strip(string.punctuation).lower() for word in new.split()]
    for keyword in keywords:
        wanted = keyword.split()
        if any(bare[i : i + len(wanted)] == wanted for i in range(len(bare))):
            return False
    for old in pool:
        _, _, f1 = rouge_l(new, old)
        if f1 >= threshold:
            return False
    return min_words <= len(bare) <= max_words
