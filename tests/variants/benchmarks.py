"""Right answers of week 3's lesson 05, written in other ways: the checks must accept them."""

import math

import torch


def _refuse_prompt(shots, question):
    if question in [shown for shown, _ in shots] or question[-1:].isspace():
        raise ValueError("not a question for this prompt")


def few_shot_prompt__parts(shots, question, description=""):
    _refuse_prompt(shots, question)
    parts = [" ".join(shot) for shot in shots] + [question]
    return description + "\n\n".join(parts)


def few_shot_prompt__loop(shots, question, description=""):
    _refuse_prompt(shots, question)
    text = description
    for shown, answer in shots:
        text += shown
        text += " "
        text += answer
        text += "\n\n"
    text += question
    return text


def encode_pair__spaces_counted(tokenizer, prompt, choice):
    n_spaces = len(prompt) - len(prompt.rstrip())
    head, tail = prompt[: len(prompt) - n_spaces], prompt[len(prompt) - n_spaces :] + choice
    if head == "":
        first = tokenizer.bos_token_id
        before, after = (
            [tokenizer.eos_token_id if first is None else first],
            tokenizer(tail, add_special_tokens=False).input_ids,
        )
    else:
        before = tokenizer(head, add_special_tokens=False).input_ids
        whole = tokenizer(head + tail, add_special_tokens=False).input_ids
        after = whole[len(before) :]
    if len(after) == 0:
        raise ValueError("nothing to score")
    return before, after


def encode_pair__recursive(tokenizer, prompt, choice):
    if prompt and prompt[-1].isspace():
        return encode_pair__recursive(tokenizer, prompt[:-1], prompt[-1] + choice)

    def ids_of(text):
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    if prompt:
        n = len(ids_of(prompt))
        before, after = ids_of(prompt), ids_of(prompt + choice)[n:]
    else:
        ends = (tokenizer.bos_token_id, tokenizer.eos_token_id)
        before, after = [next(i for i in ends if i is not None)], ids_of(choice)
    if not after:
        raise ValueError("an empty choice")
    return before, after


def _context_for(model, pairs):
    """How many tokens the model reads, a function any number of them; a longer choice is refused."""
    context = model.config.context_length if hasattr(model, "config") else 1000
    for question in pairs:
        for _, choice_ids in question:
            if len(choice_ids) > context:
                raise ValueError("a choice is longer than the context")
    return context


def multiple_choice_loglikelihood__one_row_at_a_time(model, pairs, batch_size=16):
    """No padding at all; the rows that were read are kept, and a beginning is looked up in the longer one."""
    context = _context_for(model, pairs)
    modes = {module: module.training for module in model.modules()} if hasattr(model, "modules") else {}
    for module in modes:
        module.training = False
    rows = [[(p + c)[-(context + 1) :][:-1] for p, c in question] for question in pairs]
    read = []
    out = []
    with torch.no_grad():
        for row in sorted((row for question in rows for row in question), key=len, reverse=True):
            if not any(other[: len(row)] == row for other, _ in read):
                output = model(torch.tensor([row]))
                read.append((row, getattr(output, "logits", output)[0].float().log_softmax(dim=-1)))
        for question, asked in zip(pairs, rows, strict=True):
            totals = []
            for (_, choice_ids), row in zip(question, asked, strict=True):
                log_probs = next(scores for other, scores in read if other[: len(row)] == row)
                places = range(len(row) - len(choice_ids), len(row))
                totals.append(sum(log_probs[t, token].item() for t, token in zip(places, choice_ids, strict=True)))
            out.append(torch.tensor(totals))
    for module, mode in modes.items():
        module.training = mode
    return out


def multiple_choice_loglikelihood__cross_entropy(model, pairs, batch_size=16):
    """Batches in the order of arrival, cross-entropy with the prompt's targets ignored."""
    context = _context_for(model, pairs)
    unique = []
    texts = [(prompt + choice)[-(context + 1) :] for question in pairs for prompt, choice in question]
    for text in sorted(texts, key=len, reverse=True):
        if all(other[: len(text) - 1] != text[:-1] for other in unique):
            unique.append(text[:-1])
    is_module = isinstance(model, torch.nn.Module)
    was_training = is_module and model.training
    if is_module:
        model.eval()
    logits = []
    with torch.no_grad():
        for start in range(0, len(unique), batch_size):
            batch = [torch.tensor(row) for row in unique[start : start + batch_size]]
            output = model(torch.nn.utils.rnn.pad_sequence(batch, batch_first=True))
            logits += list(getattr(output, "logits", output))
    if is_module:
        model.train(was_training)
    out = []
    for question in pairs:
        totals = []
        for prompt, choice in question:
            text = (prompt + choice)[-(context + 1) :]
            row = next(i for i, other in enumerate(unique) if other[: len(text) - 1] == text[:-1])
            targets = torch.tensor([-100] * (len(text) - 1 - len(choice)) + choice)
            loss = torch.nn.functional.cross_entropy(logits[row][: len(targets)].float(), targets, reduction="sum")
            totals.append(-loss)
        out.append(torch.stack(totals))
    return out


def _refuse_lengths(loglikelihoods, choices, n_tokens):
    if len({len(loglikelihoods), len(choices), len(n_tokens)}) != 1 or "" in choices or min(n_tokens) < 1:
        raise ValueError("each choice needs text, tokens and a log-likelihood")


def normalized_scores__python(loglikelihoods, choices, n_tokens):
    _refuse_lengths(loglikelihoods, choices, n_tokens)
    out = {"acc": [], "acc_norm": [], "acc_bytes": [], "acc_tokens": []}
    for score, choice, n in zip(loglikelihoods.tolist(), choices, n_tokens, strict=True):
        out["acc"].append(score)
        out["acc_norm"].append(score / len(choice))
        out["acc_bytes"].append(score / len(bytes(choice, "utf-8")))
        out["acc_tokens"].append(score / n)
    return {name: torch.tensor(values) for name, values in out.items()}


def normalized_scores__matrix(loglikelihoods, choices, n_tokens):
    _refuse_lengths(loglikelihoods, choices, n_tokens)
    lengths = torch.tensor([[1, len(c), len(c.encode()), n] for c, n in zip(choices, n_tokens, strict=True)])
    return dict(zip(("acc", "acc_norm", "acc_bytes", "acc_tokens"), (loglikelihoods[:, None] / lengths).T, strict=True))


def _refuse_labels(loglikelihoods, labels):
    if len(loglikelihoods) != len(labels) or sorted(set(labels)) != [0, 1]:
        raise ValueError("each choice needs a label, 0 or 1")


def truthfulqa_mc2__python(loglikelihoods, labels):
    _refuse_labels(loglikelihoods, labels)
    values = loglikelihoods.tolist()
    weights = [math.exp(value - max(values)) for value in values]
    return sum(w for w, label in zip(weights, labels, strict=True) if label) / sum(weights)


def truthfulqa_mc2__sigmoid(loglikelihoods, labels):
    _refuse_labels(loglikelihoods, labels)
    true = torch.tensor(labels).bool()
    odds = loglikelihoods[true].logsumexp(dim=0) - loglikelihoods[~true].logsumexp(dim=0)
    return torch.sigmoid(odds).item()


def extract_number__scanner(text, strict=False):
    """Reads the text character by character."""

    def read(at):
        """(value, end) of a number that begins exactly at `at`, or None."""
        i, sign = at, 1.0
        if text[i : i + 1] in ("-", "−") and text[i : i + 1]:
            i, sign = i + 1, -1.0
        i += text[i : i + 1] == "$"
        start = i
        while text[i : i + 1].isdigit():
            i += 1
        digits = text[start:i]
        if digits and len(digits) <= 3:
            while text[i : i + 1] == "," and text[i + 1 : i + 4].isdigit() and len(text[i + 1 : i + 4]) == 3:
                if text[i + 4 : i + 5].isdigit():
                    break
                digits, i = digits + text[i + 1 : i + 4], i + 4
        if text[i : i + 1] == "." and text[i + 1 : i + 2].isdigit():
            end = i + 1
            while text[end : end + 1].isdigit():
                end += 1
            digits, i = digits + text[i:end], end
        return (sign * float(digits), i) if digits else None

    at = text.find("####")
    while at >= 0:
        i = at + 4
        while text[i : i + 1] and (text[i].isspace() or text[i] in "$#"):
            i += 1
        number = read(i)
        if number:
            return number[0]
        at = text.find("####", at + 1)
    if strict:
        return None
    last, i = None, 0
    while i < len(text):
        number = None if i and text[i - 1].isdigit() else read(i)
        if number:
            last, i = number
        else:
            i += 1
    return last


def extract_number__words(text, strict=False):
    """Splits the text into words first."""
    import re

    def value(word):
        word = word.replace("−", "-")
        match = re.search(r"(-?)\$?((?:\d+,)*\d*\.?\d+)", word)
        if not match:
            return None
        sign, digits = match.groups()
        whole = digits.split(".")[0]
        if "," in whole and not re.fullmatch(r"\d{1,3}(,\d{3})+", whole):
            return value(word.split(",")[-1])
        rest = word[match.end() :]
        later = value(rest) if re.search(r"\d", rest) else None
        number = float(digits.replace(",", ""))
        return later if later is not None else -number if sign else number

    for after in text.split("####")[1:]:
        word = (after.replace("$", " ", 1) if after.strip().startswith("$") else after).split()
        if word and re.match(r"[-−]?\$?\.?\d", word[0]):
            return value(word[0])
    if strict:
        return None
    numbers = [
        value(part.lstrip("-") if i else part) for w in text.split() for i, part in enumerate(re.split(r"(?<=\d)-", w))
    ]
    return next((n for n in reversed(numbers) if n is not None), None)
