"""Right answers to week 2's lesson 01, written otherwise than the reference."""

import random
import re
from collections import Counter

import torch

from week2_pretraining.solutions.data import BULLETS, STOP_WORDS, count_sentences, hash32

POLICY_LINE = re.compile(
    r"javascript|terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies", re.IGNORECASE
)


def c4_clean__regular_expressions(text, blocked=()):
    if re.search(r"\{|lorem ipsum", text, re.IGNORECASE):
        return None
    if any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in blocked):
        return None
    text = re.sub(r"\[(?:\d*|edit|citation needed)\]", "", text)
    lines = (line.strip() for line in text.split("\n"))
    kept = [
        x for x in lines if re.search(r"[.!?\"”]$", x) and re.match(r"(\S+\s+){4}\S", x) and not POLICY_LINE.search(x)
    ]
    return "\n".join(kept) if sum(map(count_sentences, kept)) > 2 else None


def c4_clean__one_line_after_another(text, blocked=()):
    def tidy(line):
        for marker in ["[edit]", "[citation needed]", "[]", *(f"[{n}]" for n in range(1000))]:
            line = line.replace(marker, "")
        return line.strip()

    out = ""
    for line in text.splitlines():
        small = line.lower()
        in_words = "".join(c if c.isalnum() or c == "_" else " " for c in small).split()
        if "{" in line or "lorem ipsum" in small or any(word in blocked for word in in_words):
            return None
        line = tidy(line)
        ends = line[-1:] in {".", "!", "?", '"', "”"}
        if ends and line.count(" ") >= 4 and len(line.split()) >= 5 and not POLICY_LINE.search(line):
            out += line + "\n"
    return None if count_sentences(out) < 3 else out[:-1]


def gopher_quality__appending(text):
    words, broken = text.split(), []
    if len(words) == 0:
        return ["word count"]
    lines = [x for x in map(str.strip, text.split("\n")) if x]
    if len(words) < 50 or len(words) > 100_000:
        broken.append("word count")
    length = len("".join(words))
    if length < 3 * len(words) or length > 10 * len(words):
        broken.append("mean word length")
    if max(text.count("#"), text.count("...") + text.count("…")) * 10 > len(words):
        broken.append("symbols")
    if len([x for x in lines if x[0] in BULLETS]) * 10 > 9 * len(lines):
        broken.append("bullet lines")
    if len([x for x in lines if x[-1] == "…" or x[-3:] == "..."]) * 10 > 3 * len(lines):
        broken.append("ellipsis lines")
    if len([w for w in words if not re.search(r"[^\W\d_]", w)]) * 5 > len(words):
        broken.append("alphabetic words")
    if sum(re.search(rf"(?<!\S)\W*{w}\W*(?!\S)", text, re.IGNORECASE) is not None for w in STOP_WORDS) < 2:
        broken.append("stop words")
    if sum(n - 1 for n in Counter(lines).values()) * 10 > 3 * len(lines):
        broken.append("duplicate lines")
    return broken


def gopher_quality__table_of_rules(text):
    words = re.findall(r"\S+", text)
    lines = re.findall(r"\S.*\S|\S", text)
    n = len(words)

    def share(hits, of):
        return sum(map(bool, hits)) / len(of)

    seen, again = set(), []
    for line in lines:
        again.append(line in seen)
        seen.add(line)
    found = {word.strip(".,:;!?\"'()-“”…").lower() for word in words}
    rules = [
        ("word count", lambda: n < 50 or n > 10**5),
        ("mean word length", lambda: not 3 <= sum(len(w) for w in words) / n <= 10),
        ("symbols", lambda: text.count("#") > 0.1 * n or len(re.findall(r"\.\.\.|…", text)) > 0.1 * n),
        ("bullet lines", lambda: share((x.startswith(("•", "-", "*")) for x in lines), lines) > 0.9),
        ("ellipsis lines", lambda: share((x.endswith(("...", "…")) for x in lines), lines) > 0.3),
        ("alphabetic words", lambda: share((w.upper() != w.lower() for w in words), words) < 0.8),
        ("stop words", lambda: sum(w in found for w in STOP_WORDS) <= 1),
        ("duplicate lines", lambda: share(again, lines) > 0.3),
    ]
    return [name for name, is_broken in rules if is_broken()] if n else ["word count"]


def minhash_signature__python_integers(items, a, b):
    if len(items) == 0:
        raise ValueError("no items")
    hashes = [hash32(item) for item in items]
    pairs = zip(a.tolist(), b.tolist(), strict=True)
    return torch.tensor([min((x * h + y) & 0xFFFFFFFF for h in hashes) for x, y in pairs])


def minhash_signature__running_minimum(items, a, b):
    if not items:
        raise ValueError("no items")
    smallest = torch.full_like(a, 2**32)
    for item in items:
        smallest = torch.minimum(smallest, torch.remainder(a * hash32(item) + b, 1 << 32))
    return smallest


def lsh_candidates__all_pairs(signatures, bands):
    if bands <= 0 or signatures.shape[1] % bands != 0:
        raise ValueError("bands")
    equal = (signatures[:, None] == signatures[None]).unflatten(2, (bands, -1)).all(dim=3).any(dim=2)
    return [(i, j) for i, j in equal.triu(diagonal=1).nonzero().tolist()]


def lsh_candidates__one_dictionary(signatures, bands):
    n, n_perm = signatures.shape
    if bands < 1 or n_perm % bands:
        raise ValueError("bands")
    rows, seen, pairs = n_perm // bands, {}, []
    for page, values in enumerate(signatures.tolist()):
        for band in range(bands):
            key = (band, *values[band * rows : (band + 1) * rows])
            pairs += [(other, page) for other in seen.get(key, [])]
            seen.setdefault(key, []).append(page)
    return sorted(set(pairs))


def chunk_tokens__range(token_ids, context_length, overlap=0):
    if context_length < 1 or overlap < 0 or overlap >= context_length:
        raise ValueError("overlap")
    beginnings = range(0, max(len(token_ids) - overlap, 1), context_length - overlap)
    return [token_ids[i : i + context_length] for i in beginnings] if token_ids else []


def chunk_tokens__recursion(token_ids, context_length, overlap=0):
    if context_length < 1 or not overlap in range(context_length):  # noqa: E713
        raise ValueError("overlap")
    if not token_ids:
        return []
    if len(token_ids) <= context_length:
        return [list(token_ids)]
    rest = token_ids[context_length - overlap :]
    return [token_ids[:context_length], *chunk_tokens__recursion(rest, context_length, overlap)]


def pack_documents__position_by_position(documents, context_length, eos_id):
    stream = [(t, i) for i, document in enumerate(documents) for t in list(document) + [eos_id]]
    if context_length < 1 or len(stream) < context_length:
        raise ValueError("too few tokens")
    rows = [stream[i : i + context_length] for i in range(0, len(stream) - context_length + 1, context_length)]
    positions = []
    for row in rows:
        counted = Counter()
        positions.append([])
        for _, owner in row:
            positions[-1].append(counted[owner])
            counted[owner] += 1
    mask = [
        [[[k <= q and row[k][1] == row[q][1] for k in range(context_length)] for q in range(context_length)]]
        for row in rows
    ]
    return {
        "token_ids": torch.tensor([[t for t, _ in row] for row in rows]),
        "document_ids": torch.tensor([[i for _, i in row] for row in rows]),
        "positions": torch.tensor(positions),
        "mask": torch.tensor(mask),
    }


def pack_documents__counting_eos(documents, context_length, eos_id):
    parts = [torch.tensor([*document, eos_id], dtype=torch.long) for document in documents]
    stream = torch.cat(parts)
    if context_length < 1 or len(stream) < context_length:
        raise ValueError("too few tokens")
    ends = torch.zeros(len(stream), dtype=torch.long)
    ends[torch.tensor([len(part) for part in parts]).cumsum(0) - 1] = 1
    owners = ends.cumsum(0) - ends  # how many documents have ended before
    n = len(stream) // context_length * context_length
    token_ids, document_ids = stream[:n].view(-1, context_length), owners[:n].view(-1, context_length)
    together = document_ids[:, :, None].eq(document_ids[:, None, :])
    mask = torch.tril(together)
    return {
        "mask": mask[:, None],
        "positions": mask.sum(dim=-1) - 1,  # as many keys as tokens of the document so far
        "document_ids": document_ids,
        "token_ids": token_ids,
    }


def get_batch__unfold(token_ids, batch_size, context_length, generator=None):
    if min(batch_size, context_length) < 1 or len(token_ids) < context_length + 1:
        raise ValueError("no window")
    windows = token_ids.unfold(0, context_length + 1, 1)
    rows = windows[torch.randint(len(windows), (batch_size,), generator=generator)]
    return rows[:, :-1], rows[:, 1:]


def get_batch__slices(token_ids, batch_size, context_length, generator=None):
    if batch_size < 1 or context_length < 1 or len(token_ids) <= context_length:
        raise ValueError("no window")
    dice = random.Random(torch.empty((), dtype=torch.long).random_(generator=generator).item())
    starts = [dice.randint(0, len(token_ids) - context_length - 1) for _ in range(batch_size)]
    inputs = torch.stack([token_ids[s : s + context_length] for s in starts])
    targets = torch.stack([token_ids[s + 1 : s + context_length + 1] for s in starts])
    return inputs, targets
