"""Text to numbers and back: byte-level BPE, WordPiece, unigram pieces, padded batches."""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise

import regex
import tiktoken
import tokenizers
import torch
from jaxtyping import Int
from torch import Tensor

# Cuts text into pre-tokens: an English contraction, a word, a number or a run of other signs (each with at most
# one space before it), or white space. White space before a word leaves its last space to that word.
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def count_pairs(ids: list[int]) -> dict[tuple[int, int], int]:
    """How often each pair of neighbours occurs, counting at every position, also where pairs overlap.

    Sennrich et al. 2016, section 3.2 (the statistics that byte pair encoding learns from).
    Example: [1, 2, 1, 2, 2, 2] -> {(1, 2): 2, (2, 1): 1, (2, 2): 2}; fewer than two ids -> {}.
    """
    # BEGIN SOLUTION
    return dict(Counter(pairwise(ids)))
    # END SOLUTION


def merge_pair(ids: list[int], pair: tuple[int, int], new_id: int) -> list[int]:
    """A new list with every `pair` replaced by `new_id`, from left to right; no id is used twice.

    Sennrich et al. 2016, section 3.2 (one merge operation).
    Example: ids=[1, 1, 1, 2], pair=(1, 1), new_id=9 -> [9, 1, 2].
    """
    # BEGIN SOLUTION
    left, right = pair
    merged, i = [], 0
    while i < len(ids):
        if ids[i] == left and i + 1 < len(ids) and ids[i + 1] == right:
            merged.append(new_id)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged
    # END SOLUTION


def split_special(text: str, special_tokens: Sequence[str]) -> list[str]:
    """Cut `text` around its special tokens, which become parts of their own; where two fit, the longer wins.

    Example: "a<|end|>b", ["<|end|>"] -> ["a", "<|end|>", "b"].
    """
    if isinstance(special_tokens, str) or "" in special_tokens:
        raise ValueError(f'special_tokens must be a list of non-empty texts, such as ["<|end|>"]: {special_tokens!r}')
    longest_first = sorted(special_tokens, key=len, reverse=True)
    any_special = "|".join(map(regex.escape, longest_first))
    return regex.split(f"({any_special})", text) if special_tokens else [text]


def train_bpe(
    text: str, vocab_size: int, special_tokens: Sequence[str] = ()
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    """Learn byte-level BPE: merge the commonest pair inside pre-tokens; of equals, the lexicographically greater.

    Sennrich et al. 2016, algorithm 1; Radford et al. 2019 (GPT-2), section 2.2 (bytes, pre-tokens by GPT2_PATTERN).
    `vocab`: ids 0..255 are the bytes, then one id for each merge, then the special tokens in their order. All these
    make up `vocab_size`; there are fewer only where no pair is left. Special tokens in the text are cut out first.
    Example: "ab ab", 258 -> merges [(b"a", b"b"), (b" ", b"ab")]. ValueError if vocab_size < 256 + special tokens.
    """
    if vocab_size < 256 + len(special_tokens):
        raise ValueError(
            f"vocab_size is {vocab_size}, but 256 bytes and {len(special_tokens)} special tokens need "
            f"at least {256 + len(special_tokens)}"
        )
    # BEGIN SOLUTION
    pretokens: Counter[str] = Counter()
    for part in split_special(text, special_tokens):
        if part not in special_tokens:
            pretokens.update(regex.findall(GPT2_PATTERN, part))
    words = [list(pretoken.encode()) for pretoken in pretokens]
    repeats = list(pretokens.values())

    counts: Counter[tuple[int, int]] = Counter()
    found_in: dict[tuple[int, int], set[int]] = defaultdict(set)  # the words that hold, or once held, a pair
    for w, word in enumerate(words):
        for pair, n in count_pairs(word).items():
            counts[pair] += n * repeats[w]
            found_in[pair].add(w)

    n_merges = vocab_size - 256 - len(special_tokens)
    vocab = {b: bytes([b]) for b in range(256)}
    merges: list[tuple[bytes, bytes]] = []

    def greatest_first(token: bytes) -> tuple[int, ...]:
        # heapq puts the smallest first: negated bytes turn the order round, the 1 puts b"ab" before b"a".
        return (*(-byte for byte in token), 1)

    order = {b: greatest_first(token) for b, token in vocab.items()}

    def entry(pair: tuple[int, int]) -> tuple:
        return -counts[pair], order[pair[0]], order[pair[1]], pair

    heap = [entry(pair) for pair in counts]
    heapq.heapify(heap)
    while heap and len(merges) < n_merges:
        negative_count, *_, pair = heapq.heappop(heap)
        if -negative_count != counts[pair]:  # it was lost to other merges since: put it back where it belongs
            if counts[pair]:
                heapq.heappush(heap, entry(pair))
            continue
        new_id = 256 + len(merges)
        merges.append((vocab[pair[0]], vocab[pair[1]]))
        vocab[new_id] = vocab[pair[0]] + vocab[pair[1]]
        order[new_id] = greatest_first(vocab[new_id])
        new_pairs = set()
        for w in found_in.pop(pair):
            for old, n in count_pairs(words[w]).items():
                counts[old] -= n * repeats[w]
            words[w] = merge_pair(words[w], pair, new_id)
            for new, n in count_pairs(words[w]).items():
                counts[new] += n * repeats[w]
                if new_id in new:
                    new_pairs.add(new)
                    found_in[new].add(w)
        for new in new_pairs:
            heapq.heappush(heap, entry(new))

    vocab.update(enumerate((token.encode() for token in special_tokens), start=len(vocab)))
    return vocab, merges
    # END SOLUTION


def encode_bpe(
    text: str,
    vocab: Mapping[int, bytes],
    merges: Sequence[tuple[bytes, bytes]],
    special_tokens: Sequence[str] = (),
) -> list[int]:
    """Token ids of `text`: in each pre-token, apply the earliest-learnt merge that fits, until none fits.

    Radford et al. 2019 (GPT-2), section 2.2. Ids are looked up in `vocab`, which may number its tokens in any way.
    Only the `special_tokens` named here are recognised, each as one id; others in the text are ordinary characters.
    Example: vocab and merges of train_bpe("ab ab", 258): "ab abc" -> [256, 257, 99]. ValueError if `vocab` lacks one.
    """
    # BEGIN SOLUTION
    id_of = {token: token_id for token_id, token in vocab.items()}
    missing = [token for token in special_tokens if token.encode() not in id_of]
    if missing:
        raise ValueError(f"these special tokens are not in vocab: {missing}")
    ranks = {(id_of[left], id_of[right]): rank for rank, (left, right) in enumerate(merges)}

    @cache
    def encode_pretoken(pretoken: str) -> list[int]:
        ids = [id_of[bytes([byte])] for byte in pretoken.encode()]
        while len(ids) > 1:
            pair = min(pairwise(ids), key=lambda pair: ranks.get(pair, math.inf))
            if pair not in ranks:
                break
            ids = merge_pair(ids, pair, id_of[vocab[pair[0]] + vocab[pair[1]]])
        return ids

    ids = []
    for part in split_special(text, special_tokens):
        if part in special_tokens:
            ids.append(id_of[part.encode()])
        else:
            for pretoken in regex.findall(GPT2_PATTERN, part):
                ids.extend(encode_pretoken(pretoken))
    return ids
    # END SOLUTION


def decode_bpe(ids: Sequence[int], vocab: Mapping[int, bytes]) -> str:
    """The text whose bytes the ids stand for; bytes that are no valid UTF-8 are shown as U+FFFD, never an error.

    Example: [226, 130, 172] with the 256 bytes as vocab -> "€"; its first two bytes alone -> "\ufffd".
    KeyError for an id that is not in `vocab`.
    """
    # BEGIN SOLUTION
    return b"".join(vocab[int(token_id)] for token_id in ids).decode("utf-8", errors="replace")
    # END SOLUTION


def wordpiece_tokenize(word: str, vocab: set[str]) -> list[str]:
    """Cut off the longest piece in `vocab` again and again; pieces after the first are looked up as "##piece".

    Schuster & Nakajima 2012; matched greedily, as in BERT (Devlin et al. 2019).
    Example: "played" with {"play", "##ed", "##e", "##d"} -> ["play", "##ed"]; where no piece fits at some point, the
    whole word is ["[UNK]"]; "" -> [].
    """
    # BEGIN SOLUTION
    pieces, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        for end in range(len(word), start, -1):
            if prefix + word[start:end] in vocab:
                break
        else:
            return ["[UNK]"]
        pieces.append(prefix + word[start:end])
        start = end
    return pieces
    # END SOLUTION


UNKNOWN_PENALTY = 10.0  # nats; the value in SentencePiece and in Hugging Face tokenizers


def unigram_tokenize(text: str, log_probs: Mapping[str, float]) -> list[str]:
    """The pieces x₁…xₘ that make up `text` with the greatest Σ log p(xᵢ), found by Viterbi's algorithm.

    Kudo 2018, section 3.2. A character that is no piece counts as one of log-probability min(log_probs) -
    UNKNOWN_PENALTY and comes back as it is. Of equal sums, the one whose last piece is longer wins (before it, again).
    Example: "aab" with {"a": -1.0, "b": -1.0, "ab": -1.5} -> ["a", "ab"]; "" -> []. ValueError: log_probs is empty.
    """
    if not log_probs:
        raise ValueError("log_probs is empty: it should give each piece its log-probability")
    # BEGIN SOLUTION
    unknown = min(log_probs.values()) - UNKNOWN_PENALTY
    longest = max(map(len, log_probs))
    best = [0.0]  # best[end]: log-probability of the best way to cut text[:end]
    last_start = [0]  # and where the last piece of that way starts
    for end in range(1, len(text) + 1):
        best.append(-math.inf)
        last_start.append(end - 1)
        for start in range(max(0, end - longest), end):
            piece = text[start:end]
            score = best[start] + log_probs.get(piece, unknown if len(piece) == 1 else -math.inf)
            if score > best[end]:
                best[end], last_start[end] = score, start

    pieces, end = [], len(text)
    while end > 0:
        pieces.append(text[last_start[end] : end])
        end = last_start[end]
    return pieces[::-1]
    # END SOLUTION


def pad_batch(
    sequences: Sequence[Sequence[int]], pad_id: int, side: str = "right"
) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]:
    """(token_ids, attention_mask): the sequences as rows, `pad_id` filling up the `side` to the longest; both int64.

    The mask is 1 for a token of a sequence, also one that happens to be `pad_id`, and 0 for padding.
    Example: [[5, 6], [7]], pad_id=0, side="left" -> [[5, 6], [0, 7]] and [[1, 1], [0, 1]].
    ValueError: no sequences, or a side other than "left" and "right".
    """
    # BEGIN SOLUTION
    if len(sequences) == 0:
        raise ValueError("there are no sequences to pad")
    if side not in ("left", "right"):
        raise ValueError(f'side must be "left" or "right", not {side!r}')
    length = max(len(sequence) for sequence in sequences)
    token_ids = torch.full((len(sequences), length), pad_id, dtype=torch.long)
    attention_mask = torch.zeros(len(sequences), length, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        start = length - len(sequence) if side == "left" else 0
        token_ids[row, start : start + len(sequence)] = torch.tensor(sequence, dtype=torch.long)
        attention_mask[row, start : start + len(sequence)] = 1
    return token_ids, attention_mask
    # END SOLUTION


def byte_characters() -> list[str]:
    """One printable character for each byte, the way GPT-2's files write tokens: a space is "Ġ", a line end "Ċ".

    Bytes that Latin-1 prints stand for themselves; the other 68 take the characters from U+0100 on.
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def to_tokenizers(
    vocab: Mapping[int, bytes], merges: Sequence[tuple[bytes, bytes]], special_tokens: Sequence[str] = ()
) -> tokenizers.Tokenizer:
    """The same byte-level BPE as a Hugging Face tokenizer: saved, it is a `tokenizer.json`."""
    characters = byte_characters()
    written = {token: "".join(characters[byte] for byte in token) for token in vocab.values()}
    written |= {token.encode(): token for token in special_tokens}
    model = tokenizers.models.BPE(
        vocab={written[token]: token_id for token_id, token in vocab.items()},
        merges=[(written[left], written[right]) for left, right in merges],
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens([tokenizers.AddedToken(token, normalized=False) for token in special_tokens])
    return tokenizer


def to_tiktoken(vocab: Mapping[int, bytes], special_tokens: Sequence[str] = ()) -> tiktoken.Encoding:
    """The same byte-level BPE as a tiktoken encoding, which takes a token's id for the rank of its merge."""
    special = {token.encode() for token in special_tokens}
    return tiktoken.Encoding(
        "ours",
        pat_str=GPT2_PATTERN,
        mergeable_ranks={token: token_id for token_id, token in vocab.items() if token not in special},
        special_tokens={token.decode(): token_id for token_id, token in vocab.items() if token in special},
    )
