"""Right answers to the tokenization exercises, written in other ways than the reference. All must pass."""

import codecs
import heapq
import re
from collections import Counter, defaultdict
from functools import lru_cache

import regex
import tiktoken
import tokenizers
import torch
from torch.nn.utils.rnn import pad_sequence

from week1_decoder.solutions.tokenization import GPT2_PATTERN


def count_pairs__by_index(ids):
    counts = {}
    for i in range(len(ids) - 1):
        pair = (ids[i], ids[i + 1])
        counts[pair] = counts.get(pair, 0) + 1
    return counts


def count_pairs__counter_of_zip(ids):
    return Counter(zip(ids, ids[1:], strict=False))


def merge_pair__stack(ids, pair, new_id):
    merged = []
    free = False  # whether the last id of `merged` may still begin a pair
    for one in ids:
        if free and (merged[-1], one) == tuple(pair):
            merged[-1], free = new_id, False
        else:
            merged.append(one)
            free = True
    return merged


def merge_pair__regular_expression(ids, pair, new_id):
    text = "".join(map(chr, ids))
    return list(map(ord, re.sub(re.escape(chr(pair[0]) + chr(pair[1])), lambda _: chr(new_id), text)))


def _parts(text, special_tokens):
    """(part, is it special) from left to right, by looking for the nearest special token, the longest first."""
    while text:
        found = [(text.find(token), -len(token), token) for token in special_tokens if token in text]
        if not found:
            yield text, False
            return
        at, _, token = min(found)
        if at:
            yield text[:at], False
        yield token, True
        text = text[at + len(token) :]


def train_bpe__recount_everything(text, vocab_size, special_tokens=()):
    if vocab_size < 256 + len(special_tokens):
        raise ValueError("vocab_size is too small")
    words = Counter(
        tuple(bytes([b]) for b in word.encode())
        for part, special in _parts(text, special_tokens)
        if not special
        for word in regex.findall(GPT2_PATTERN, part)
    )
    merges = []
    for _ in range(vocab_size - 256 - len(special_tokens)):
        counts = Counter()
        for word, n in words.items():
            for pair in zip(word, word[1:], strict=False):
                counts[pair] += n
        if not counts:
            break
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        merged_words = Counter()
        for word, n in words.items():
            new, i = [], 0
            while i < len(word):
                step = 2 if word[i : i + 2] == best else 1
                new.append(b"".join(word[i : i + step]))
                i += step
            merged_words[tuple(new)] += n
        words = merged_words
    tokens = [bytes([b]) for b in range(256)] + [a + b for a, b in merges] + [t.encode() for t in special_tokens]
    return dict(enumerate(tokens)), merges


def train_bpe__linked_positions(text, vocab_size, special_tokens=()):
    """All positions of all pairs in linked lists over the whole text: no words, no pre-token counts."""
    if vocab_size < 256 + len(special_tokens):
        raise ValueError("vocab_size is too small")
    symbol, after, before, where, counts = [], {}, {}, defaultdict(list), Counter()
    for part, special in _parts(text, special_tokens):
        for word in [] if special else regex.findall(GPT2_PATTERN, part):
            data = word.encode()
            for j, byte in enumerate(data):
                i = len(symbol)
                symbol.append(bytes([byte]))
                if j:
                    before[i], after[i - 1] = i - 1, i
                    pair = symbol[i - 1], symbol[i]
                    where[pair].append(i - 1)
                    counts[pair] += 1
    merges = []
    while len(merges) < vocab_size - 256 - len(special_tokens):
        counts = +counts
        if not counts:
            break
        best = max(counts.items(), key=lambda item: item[::-1])[0]
        merges.append(best)
        for i in sorted(where.pop(best)):
            j = after.get(i)
            if j is None or (symbol[i], symbol[j]) != best:
                continue
            left, right = before.get(i), after.get(j)
            counts[best] -= 1
            if left is not None:
                counts[symbol[left], symbol[i]] -= 1
            if right is not None:
                counts[symbol[j], symbol[right]] -= 1
            symbol[i], symbol[j] = best[0] + best[1], None
            after.pop(j, None)
            if right is None:
                after.pop(i)
            else:
                after[i], before[right] = right, i
                counts[symbol[i], symbol[right]] += 1
                where[symbol[i], symbol[right]].append(i)
            if left is not None:
                counts[symbol[left], symbol[i]] += 1
                where[symbol[left], symbol[i]].append(left)
    tokens = [bytes([b]) for b in range(256)] + [a + b for a, b in merges] + [t.encode() for t in special_tokens]
    return dict(enumerate(tokens)), merges


def encode_bpe__replay_all_merges(text, vocab, merges, special_tokens=()):
    """Apply the merges one after the other, each to every pre-token of the text."""
    number = {token: token_id for token_id, token in vocab.items()}
    if any(token.encode() not in number for token in special_tokens):
        raise ValueError("a special token is not in the vocabulary")
    words = []
    for part, special in _parts(text, special_tokens):
        if special:
            words.append([part.encode()])
        else:
            words.extend([bytes([b]) for b in word.encode()] for word in regex.findall(GPT2_PATTERN, part))
    for left, right in merges:
        for word in words:
            i = 0
            while i < len(word) - 1:
                if word[i] == left and word[i + 1] == right:
                    word[i : i + 2] = [left + right]
                i += 1
    return [number[token] for word in words for token in word]


def encode_bpe__heap_of_joined_bytes(text, vocab, merges, special_tokens=()):
    """The rank of a pair is that of its joined bytes, as in tiktoken; one merge at a time, the least off a heap."""
    number = {token: token_id for token_id, token in vocab.items()}
    rank = {a + b: r for r, (a, b) in enumerate(merges)}
    if {token.encode() for token in special_tokens} - set(number):
        raise ValueError("a special token is not in the vocabulary")
    ids = []
    for part, special in _parts(text, special_tokens):
        if special:
            ids.append(number[part.encode()])
            continue
        for word in regex.findall(GPT2_PATTERN, part):
            data = word.encode()
            ends = {i: i + 1 for i in range(len(data))}  # start -> end of each token
            starts = {end: start for start, end in ends.items()}
            heap = [(rank[data[i : i + 2]], i, i + 2) for i in range(len(data)) if data[i : i + 2] in rank]
            heapq.heapify(heap)
            while heap:
                _, start, end = heapq.heappop(heap)
                middle = ends.get(start)
                if middle is None or middle == end or ends.get(middle) != end:
                    continue
                del ends[middle], starts[middle]
                ends[start], starts[end] = end, start
                for a, b in ((starts.get(start), end), (start, ends.get(end))):
                    if a is not None and b is not None and data[a:b] in rank:
                        heapq.heappush(heap, (rank[data[a:b]], a, b))
            ids += [number[data[start:end]] for start, end in sorted(ends.items())]
    return ids


def encode_bpe__tiktoken(text, vocab, merges, special_tokens=()):
    """The library itself: ranks first, then the vocabulary's own ids."""
    number = {token: token_id for token_id, token in vocab.items()}
    if any(token.encode() not in number for token in special_tokens):
        raise ValueError("a special token is not in the vocabulary")
    tokens = [bytes([b]) for b in range(256)] + [a + b for a, b in merges]
    special = {token: len(tokens) + i for i, token in enumerate(sorted(special_tokens, key=len, reverse=True))}
    encoding = tiktoken.Encoding(
        "variant", pat_str=GPT2_PATTERN, mergeable_ranks={t: i for i, t in enumerate(tokens)}, special_tokens={}
    )
    tokens += [token.encode() for token in special]
    ids = []
    for part, is_special in _parts(text, special_tokens):
        ids += [special[part]] if is_special else encoding.encode_ordinary(part)
    return [number[tokens[i]] for i in ids]


def decode_bpe__bytearray(ids, vocab):
    data = bytearray()
    for token_id in ids:
        data.extend(vocab[token_id])
    return str(data, "utf-8", "replace")


def decode_bpe__incremental(ids, vocab):
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return "".join([decoder.decode(vocab[token_id]) for token_id in ids]) + decoder.decode(b"", final=True)


def wordpiece_tokenize__recursive(word, vocab):
    def rest(text, prefix):
        if not text:
            return []
        for n in range(len(text)):
            piece = prefix + text[: len(text) - n]
            if piece in vocab:
                more = rest(text[len(text) - n :], "##")
                return None if more is None else [piece] + more
        return None

    pieces = rest(word, "")
    return ["[UNK]"] if pieces is None else pieces


def wordpiece_tokenize__library(word, vocab):
    numbered = {piece: i for i, piece in enumerate(sorted(vocab | {"[UNK]"}))}
    model = tokenizers.models.WordPiece(numbered, unk_token="[UNK]", max_input_chars_per_word=10_000)
    return [token.value for token in model.tokenize(word)] if word else []


def unigram_tokenize__recursive(text, log_probs):
    if len(log_probs) == 0:
        raise ValueError("there are no pieces")
    unknown = min(log_probs.values()) - 10.0

    @lru_cache(None)
    def best(end):
        if end == 0:
            return 0.0, ()
        found = []
        for start in range(end):
            piece = text[start:end]
            if piece in log_probs or end - start == 1:
                score, pieces = best(start)
                found.append((score + log_probs.get(piece, unknown), -start, (*pieces, piece)))
        score, _, pieces = max(found)
        return score, pieces

    return list(best(len(text))[1])


def unigram_tokenize__forward_with_pieces(text, log_probs):
    """Pushes each reached place forward along the pieces that start there, as SentencePiece does with its trie."""
    if not log_probs:
        raise ValueError("there are no pieces")
    reached = {0: (0.0, None)}
    for start, character in enumerate(text):
        here = reached[start][0]
        steps = {piece: p for piece, p in log_probs.items() if text.startswith(piece, start)}
        steps.setdefault(character, min(log_probs.values()) - 10.0)
        for piece, p in steps.items():
            end = start + len(piece)
            if end not in reached or here + p > reached[end][0]:
                reached[end] = (here + p, start)
    pieces, end = [], len(text)
    while end:
        start = reached[end][1]
        pieces.insert(0, text[start:end])
        end = start
    return pieces


def pad_batch__pad_sequence(sequences, pad_id, side="right"):
    if not sequences or side not in {"left", "right"}:
        raise ValueError("sequences must not be empty, side is left or right")
    rows = [torch.tensor(sequence, dtype=torch.long) for sequence in sequences]
    token_ids = pad_sequence(rows, batch_first=True, padding_value=pad_id, padding_side=side)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side=side)
    return token_ids, mask


def pad_batch__lists(sequences, pad_id, side="right"):
    if len(sequences) == 0:
        raise ValueError("nothing to pad")
    if side != "left" and side != "right":
        raise ValueError(side)
    longest = len(max(sequences, key=len))
    ids, mask = [], []
    for sequence in sequences:
        gap = longest - len(sequence)
        row, real, padding = list(sequence), [1] * len(sequence), [pad_id] * gap
        ids.append(padding + row if side == "left" else row + padding)
        mask.append([0] * gap + real if side == "left" else real + [0] * gap)
    return torch.tensor(ids), torch.tensor(mask)


def pad_batch__arange(sequences, pad_id, side="right"):
    if not len(sequences):
        raise ValueError("empty")
    if side not in ("right", "left"):
        raise ValueError("side")
    lengths = torch.tensor([len(s) for s in sequences])
    places = torch.arange(int(lengths.max()))
    mask = places < lengths[:, None]
    if side == "left":
        mask = mask.flip(1)
    token_ids = torch.full(mask.shape, pad_id)
    token_ids[mask] = torch.tensor([i for s in sequences for i in s], dtype=torch.long)
    return token_ids, mask.int()
