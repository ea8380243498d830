"""What right answers to the tokenization exercises show, and the mistakes that people make in them."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import regex
import torch

from shared.checking import observes, raised
from week1_decoder.solutions import tokenization as reference

BYTES = {b: bytes([b]) for b in range(256)}


def with_merges(*merges: tuple[bytes, bytes]) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    """A vocabulary of the bytes and these merges, numbered as train_bpe does."""
    return BYTES | {256 + rank: left + right for rank, (left, right) in enumerate(merges)}, list(merges)


def some_text(letters: str, length: int, rng: torch.Generator) -> str:
    return "".join(letters[i] for i in torch.randint(len(letters), (length,), generator=rng))


# ------------------------------------------------------------------------------------------ count_pairs, merge_pair


def counts_without_overlap(ids):
    counts, i = Counter(), 0
    while i + 1 < len(ids):
        counts[ids[i], ids[i + 1]] += 1
        i += 2 if ids[i : i + 3] == [ids[i]] * 3 else 1
    return dict(counts)


@observes(
    "count_pairs",
    difficulty=1,
    minutes=5,
    hints=(
        "A list of n ids has n - 1 pairs of neighbours. Which ids does the last of them join?",
        "`zip(ids, ids[1:])` walks over the neighbours; a dict can count them.",
        "Start with an empty dict; for each pair of neighbours set counts[pair] to counts.get(pair, 0) plus one.",
    ),
    mistakes={
        "The walk stops one pair early, so the last pair is never counted.": ("pairwise(ids)", "pairwise(ids[:-1])"),
        "(1, 2) and (2, 1) are counted as one pair, but their order matters: they merge to different tokens.": (
            "pairwise(ids)",
            "(tuple(sorted(pair)) for pair in pairwise(ids))",
        ),
        "The last id is paired with the first one, as if the list were a ring.": (
            "pairwise(ids)",
            "pairwise([*ids, *ids[:1]])",
        ),
        "Every pair counts once, however often it occurs, so no pair is ever the commonest.": (
            "pairwise(ids)",
            "set(pairwise(ids))",
        ),
        "In a run such as 1, 1, 1 the second pair is left out because it overlaps the first: every position counts.": (
            counts_without_overlap
        ),
    },
)
def check_count_pairs(count_pairs, rng):
    yield "two pairs", count_pairs([1, 2, 3])
    yield "a run: pairs overlap", count_pairs([1, 1, 1])
    yield "order matters", count_pairs([1, 2, 1, 3])
    yield "a pair again and again", count_pairs([1, 2, 1, 2, 1, 2, 2, 2])
    yield "one id has no neighbour", count_pairs([7])
    yield "no ids", count_pairs([])
    yield "ids beyond the bytes", count_pairs([300, 50256, 300, 50256])
    yield "sixty ids", count_pairs(torch.randint(4, (60,), generator=rng).tolist())


def merges_from_the_right(ids, pair, new_id):
    turned = reference.merge_pair(ids[::-1], (pair[1], pair[0]), new_id)
    return turned[::-1]


def merges_the_first_only(ids, pair, new_id):
    for i, found in enumerate(pairwise(ids)):
        if found == tuple(pair):
            return [*ids[:i], new_id, *ids[i + 2 :]]
    return list(ids)


@observes(
    "merge_pair",
    difficulty=2,
    minutes=10,
    hints=(
        "Build a new list. After a merge, which id do you look at next?",
        "Walk with an index i: it moves on by two after a merge and by one otherwise. A `for` loop cannot do that.",
        "While i is inside the list: if ids[i] and ids[i + 1] (if there is one) are the pair, append new_id and "
        "add 2 to i; else append ids[i] and add 1.",
    ),
    mistakes={
        "An id is used twice: in 1, 1, 1 the middle one goes into two merges, so the ids stand for a longer text "
        "than before.": (
            "i += 2",
            "i += 1",
        ),
        "The last id is lost when no merge ends there.": ("while i < len(ids):", "while i < len(ids) - 1:"),
        "Only the first id of the pair is compared, so it swallows whatever follows.": (
            " and ids[i + 1] == right",
            "",
        ),
        "The pair is merged in either order, but (1, 2) and (2, 1) are different pairs.": (
            "ids[i] == left and i + 1 < len(ids) and ids[i + 1] == right",
            "i + 1 < len(ids) and {ids[i], ids[i + 1]} == {left, right}",
        ),
        "Only the first occurrence is merged.": merges_the_first_only,
        "Runs are merged from the right: 1, 1, 1 should become new, 1 and not 1, new. Encoder and trainer must agree.": (
            merges_from_the_right
        ),
        "The pair is taken out, but new_id is not put in its place.": ("merged.append(new_id)", "pass"),
    },
)
def check_merge_pair(merge_pair, rng):
    yield "one merge", merge_pair([1, 2, 3], (1, 2), 9)
    yield "a merge at the end", merge_pair([3, 1, 2], (1, 2), 9)
    yield "the other order stays", merge_pair([2, 1, 3], (1, 2), 9)
    yield "a run of three", merge_pair([1, 1, 1], (1, 1), 9)
    yield "a run of four", merge_pair([1, 1, 1, 1], (1, 1), 9)
    yield "two merges with something between", merge_pair([1, 2, 5, 1, 2, 1], (1, 2), 9)
    yield "no such pair", merge_pair([1, 3, 2, 3], (1, 2), 9)
    yield "one id", merge_pair([1], (1, 1), 9)
    yield "no ids", merge_pair([], (1, 2), 9)
    yield "sixty ids", merge_pair(torch.randint(3, (60,), generator=rng).tolist(), (1, 2), 300)
    yield "long runs", merge_pair(torch.randint(2, (60,), generator=rng).tolist(), (1, 1), 300)


# -------------------------------------------------------------------------------------------------- train_bpe


def train_slowly(
    text,
    vocab_size,
    special_tokens=(),
    pattern=reference.GPT2_PATTERN,
    least=1,
    first_of_equals=False,
    count=reference.count_pairs,
):
    """Counts everything anew for each merge: as slow as it is plain, and easy to get wrong in the ways of people."""
    parts = reference.split_special(text, special_tokens)
    words = [list(w.encode()) for part in parts if part not in special_tokens for w in regex.findall(pattern, part)]
    vocab, merges = dict(BYTES), []
    while len(merges) < vocab_size - 256 - len(special_tokens):
        counts = Counter()
        for word in words:
            counts.update(count(word))
        if not counts or max(counts.values()) < least:
            break
        pair = max(counts, key=lambda p: (counts[p], () if first_of_equals else (vocab[p[0]], vocab[p[1]])))
        new_id = 256 + len(merges)
        merges.append((vocab[pair[0]], vocab[pair[1]]))
        vocab[new_id] = vocab[pair[0]] + vocab[pair[1]]
        words = [reference.merge_pair(word, pair, new_id) for word in words]
    return vocab | dict(enumerate((token.encode() for token in special_tokens), start=len(vocab))), merges


@observes(
    "train_bpe",
    difficulty=5,
    minutes=45,
    hints=(
        "First write the slow version: count the pairs of all pre-tokens, merge the commonest, and again. Each distinct "
        "pre-token needs to be held only once, with the number of times it occurs.",
        "A merge changes only the words that hold its pair. Remember for each pair which words those are; take their "
        "old pairs out of the counts, merge, and put their new pairs in.",
        "Find the commonest pair with a heap of (-count, tie-break, pair). Counts of pairs in the heap only fall: when "
        "a popped count is out of date, push the pair back with its present count and pop again.",
    ),
    mistakes={
        "Of equally common pairs the smallest is taken; the lexicographically greatest should be.": (
            "return (*(-byte for byte in token), 1)",
            "return tuple(token)",
        ),
        "Of equally common pairs the one with the greatest ids is taken; ids say when a token was learnt, not how "
        "its bytes compare.": (
            "order[pair[0]], order[pair[1]]",
            "-pair[0], -pair[1]",
        ),
        "Of equally common pairs the one that was seen first is taken, so the result depends on the order of the text.": (
            lambda *args, **kwargs: train_slowly(*args, **kwargs, first_of_equals=True)
        ),
        "Merges cross from one pre-token into the next: the text is not cut by GPT2_PATTERN.": (
            "pretokens.update(regex.findall(GPT2_PATTERN, part))",
            "pretokens[part] += 1",
        ),
        "The text is split at white space, which is lost: a space should begin the word after it.": (
            lambda *args, **kwargs: train_slowly(*args, **kwargs, pattern=r"\S+")
        ),
        "Each distinct pre-token counts once, so a rare word weighs as much as a common one.": (
            "repeats = list(pretokens.values())",
            "repeats = [1] * len(words)",
        ),
        "After a merge the counts of the pairs that it destroyed are not lowered: pairs that are gone still look "
        "common.": (
            "counts[old] -= n * repeats[w]",
            "pass",
        ),
        "In a run such as zzz overlapping pairs are counted once, though `count_pairs` counts at every position.": (
            lambda *args, **kwargs: train_slowly(*args, **kwargs, count=counts_without_overlap)
        ),
        "Training stops when the commonest pair occurs only once; it should stop when no pair is left.": (
            lambda *args, **kwargs: train_slowly(*args, **kwargs, least=2)
        ),
        "Special tokens in the text are learnt as if they were text, and merges are spent on them.": (
            "split_special(text, special_tokens)",
            "[text]",
        ),
        "The special tokens come on top of vocab_size; it should count everything.": (
            "n_merges = vocab_size - 256 - len(special_tokens)",
            "n_merges = vocab_size - 256",
        ),
        "The special tokens stand before the merges; they should take the last ids.": [
            ("new_id = 256 + len(merges)", "new_id = 256 + len(special_tokens) + len(merges)"),
            ("start=len(vocab)", "start=256"),
        ],
        "Characters are used in place of the bytes of UTF-8, so a text needs more symbols than the 256 there are.": (
            "list(pretoken.encode())",
            'list(pretoken.encode("latin-1", "replace"))',
        ),
    },
)
def check_train_bpe(train_bpe, rng):
    yield "three pairs that occur once", train_bpe("ab cd", 257)[1]
    yield "the second merge builds on the first", train_bpe("abc\nabc\nab", 258)[1]
    yield "no merge crosses pre-tokens, and then none is left", train_bpe("ab ab ab ab", 300)[1]
    yield "a pre-token counts as often as it occurs", train_bpe("ab\nab\nab\ncdx\ncdy", 257)[1]
    yield "a tie with a merged token", train_bpe("abc\nabc\nab\nzy\nzy", 258)[1]
    yield "b, c is rarer once a, b is merged", train_bpe("abc\nabc\nabc\nab\nxy\nxy", 259)[1]
    yield "a tie with the same token and a zero byte after it", train_bpe("!\0\n!\0\n!\0+\n!+", 258)[1]
    yield "a run of equal bytes", train_bpe("zzz\nbc\nbc", 257)[1]
    yield "characters of two bytes", train_bpe("né été né", 260)[1]
    yield "numbers, signs and contractions", train_bpe("I'll pay 22 or 222!! We'll pay 22!!", 275)[1]
    with_special = train_bpe("abc<|end|>ab<|pad|>x", 259, ["<|end|>", "<|pad|>"])
    yield "merges beside special tokens", with_special[1]
    yield "the ids from 256 on", {i: token for i, token in with_special[0].items() if i >= 256}
    vocab = train_bpe("abab<|end|> abab<|end|>", 290, ["<|end|>"])[0]
    yield "few merges, then the special token", {i: token for i, token in vocab.items() if i >= 256}
    yield "the first 256 ids", [vocab[b] for b in range(256)]
    yield "no room for a merge", train_bpe("ab ab", 256)
    yield "an empty text", train_bpe("", 300)[1]
    yield "vocab_size 255 is too small", raised(train_bpe, "ab", 255)
    yield "vocab_size 256 is too small for a special token", raised(train_bpe, "ab", 256, ["<|end|>"])
    yield "a random text of few letters", train_bpe(some_text("aab b\n", 300, rng), 300)[1]
    yield "a random text of more letters", train_bpe(some_text("abcdé    ", 600, rng), 330)


# -------------------------------------------------------------------------------------------------- encode, decode


def encodes_left_to_right(text, vocab, merges, special_tokens=()):
    id_of = {token: token_id for token_id, token in vocab.items()}

    def merge_leftmost(word):
        parts = [bytes([byte]) for byte in word.encode()]
        while fitting := [i for i, pair in enumerate(pairwise(parts)) if pair in set(merges)]:
            i = fitting[0]
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        return [id_of[part] for part in parts]

    return encodes_with(merge_leftmost, text, special_tokens, id_of)


def encodes_the_longest(text, vocab, merges, special_tokens=()):
    id_of = {token: token_id for token_id, token in vocab.items()}

    def longest_match(word):
        ids, rest = [], word.encode()
        while rest:
            token = next(rest[:n] for n in range(len(rest), 0, -1) if rest[:n] in id_of)
            ids.append(id_of[token])
            rest = rest[len(token) :]
        return ids

    return encodes_with(longest_match, text, special_tokens, id_of)


def encodes_with(encode_word, text, special_tokens, id_of):
    if any(token.encode() not in id_of for token in special_tokens):
        raise ValueError
    ids = []
    for part in reference.split_special(text, special_tokens):
        if part in special_tokens:
            ids.append(id_of[part.encode()])
        else:
            ids.extend(i for word in regex.findall(reference.GPT2_PATTERN, part) for i in encode_word(word))
    return ids


def encodes_with_computed_ids(text, vocab, merges, special_tokens=()):
    if any(token.encode() not in vocab.values() for token in special_tokens):
        raise ValueError
    numbered = with_merges(*merges)[0]
    numbered |= dict(enumerate((token.encode() for token in special_tokens), start=len(numbered)))
    return reference.encode_bpe(text, numbered, merges, special_tokens)


def encodes_special_unasked(text, vocab, merges, special_tokens=()):
    ordinary = {*BYTES.values(), *(left + right for left, right in merges)}
    special = {token.decode() for token in vocab.values() if token not in ordinary}
    return reference.encode_bpe(text, vocab, merges, [*special.union(special_tokens)])


@observes(
    "encode_bpe",
    difficulty=4,
    minutes=25,
    hints=(
        "One pre-token at a time: start from its bytes, and ask which pair of neighbours was learnt first.",
        "Give each merge its rank, its place in `merges`. As long as some pair of neighbours has a rank, merge the one "
        "of the lowest rank everywhere in the pre-token.",
        "Turn vocab round, from bytes to id, and give each pair of ids the rank of its merge. In each round look "
        "for the pair of least rank, a pair without one counting as infinite. Stop where none has a rank, else "
        "`merge_pair`.",
    ),
    mistakes={
        "The leftmost pair that can be merged is merged first; the pair that was learnt first should be.": (
            encodes_left_to_right
        ),
        "The longest token that fits is cut off from the left. That is WordPiece's way; BPE replays its merges in the "
        "order of their learning.": encodes_the_longest,
        "The merge learnt last is applied first: the trainer made its merges in the other order.": (
            "min(pairwise(ids), key=lambda pair: ranks.get(pair, math.inf))",
            "max(pairwise(ids), key=lambda pair: ranks.get(pair, -1))",
        ),
        "Each pre-token gets one merge only, though others still fit.": (
            "while len(ids) > 1:",
            "for _ in range(len(ids) > 1):",
        ),
        "Merges cross from one pre-token into the next: the text is not cut by GPT2_PATTERN.": (
            "regex.findall(GPT2_PATTERN, part)",
            "[part]",
        ),
        "White space is lost: the text is split at spaces, so it cannot be decoded again.": (
            "regex.findall(GPT2_PATTERN, part)",
            "part.split()",
        ),
        "Ids are computed as byte, or 256 + rank, and not looked up in vocab, which may number its tokens otherwise.": (
            encodes_with_computed_ids
        ),
        "Characters are used in place of the bytes of UTF-8: most characters of the world are none of the 256.": (
            "pretoken.encode()",
            'pretoken.encode("latin-1", "replace")',
        ),
        "Special tokens are taken apart like any text; each should be one id.": (
            "split_special(text, special_tokens)",
            "[text]",
        ),
        "Special tokens are recognised though they were not asked for: any user could then type an end of text.": (
            encodes_special_unasked
        ),
        "The special tokens are used as a regular expression as they are: the | in <|end|> then means 'or'.": (
            "map(regex.escape, longest_first)",
            "longest_first",
        ),
        "Where one special token begins another, the shorter one is found first.": (
            "sorted(special_tokens, key=len, reverse=True)",
            "sorted(special_tokens, key=len)",
        ),
    },
)
def check_encode_bpe(encode_bpe, rng):
    def encoded(text, vocab, merges, special_tokens=()):
        shown = {"text": text, "merges": merges}
        if special_tokens:
            shown["special_tokens"] = special_tokens
        return encode_bpe(text, vocab, merges, special_tokens), shown

    vocab, merges = with_merges((b"b", b"c"), (b"a", b"b"))
    yield "no merge fits", *encoded("ba", vocab, merges)
    yield "b, c was learnt before a, b", *encoded("abc", vocab, merges)
    yield "a, b was learnt before b, c", *encoded("abc", *with_merges((b"a", b"b"), (b"b", b"c")))
    yield "a merge of a merge", *encoded("abc", *with_merges((b"b", b"c"), (b"a", b"bc"), (b"a", b"b")))
    yield "a run of equal letters", *encoded("aaaaa", *with_merges((b"a", b"a"), (b"aa", b"aa")))
    vocab, merges = with_merges((b"a", b"b"), (b"b", b" "), (b" ", b"ab"))
    yield "pre-tokens stay apart", *encoded("b ab", vocab, merges)
    yield "spaces and line ends are kept", *encoded("ab   b\n\n a", vocab, merges)
    yield (
        "characters of two, three and four bytes",
        *encoded("é你🙂", *with_merges((b"\xc3", b"\xa9"), (b"\xe4", b"\xbd"))),
    )
    turned = {300 - token_id: token for token_id, token in vocab.items()}
    yield "a vocab that numbers its tokens otherwise", *encoded("ab ab", turned, merges)
    yield "no text", *encoded("", vocab, merges)
    yield "no merges", *encoded("ab", BYTES, [])
    vocab, merges = with_merges((b"<", b"|"), (b"a", b"b"))
    vocab |= {300: b"<|end|>", 301: b"<|end|>ab", 302: b"<|pad|>"}
    yield "a special token", *encoded("ab<|end|>b", vocab, merges, ["<|end|>"])
    yield "a special token that nobody asked for", *encoded("ab<|end|>", vocab, merges)
    yield "only one of two was asked for", *encoded("<|pad|><|end|>", vocab, merges, ["<|end|>"])
    yield "one special token begins another", *encoded("<|end|>ab<|end|>b", vocab, merges, ["<|end|>", "<|end|>ab"])
    missing = raised(encode_bpe, "ab", vocab, merges, ["<|cls|>"])
    yield "a special token that vocab lacks", missing, {"special_tokens": ["<|cls|>"]}
    vocab, merges = reference.train_bpe(some_text("abc é ", 400, rng), 300)
    yield "a random text", *encoded(some_text("abc é 'd1\n", 200, rng), vocab, merges)


@observes(
    "decode_bpe",
    difficulty=1,
    minutes=5,
    hints=(
        "A token is a string of bytes, not of characters. Where can a character's bytes be cut?",
        "Join the bytes of all tokens before you decode anything.",
        '`some_bytes.decode("utf-8", errors=...)`: one of the values of `errors` puts U+FFFD where bytes are invalid.',
    ),
    mistakes={
        "Each token is decoded on its own, so a character whose bytes lie in two tokens is lost.": (
            'b"".join(vocab[int(token_id)] for token_id in ids).decode("utf-8", errors="replace")',
            '"".join(vocab[int(token_id)].decode("utf-8", errors="replace") for token_id in ids)',
        ),
        "Invalid bytes raise an exception. A model can produce any ids in any order: decoding has to survive that.": (
            'errors="replace"',
            'errors="strict"',
        ),
        "Invalid bytes are dropped without a trace; they should be shown as U+FFFD.": (
            'errors="replace"',
            'errors="ignore"',
        ),
        "Each byte becomes a character of its own (Latin-1), so everything beyond ASCII is garbled.": (
            '"utf-8"',
            '"latin-1"',
        ),
        "Tokens are joined with spaces between them; spaces are already part of the tokens.": (
            'b"".join(',
            'b" ".join(',
        ),
    },
)
def check_decode_bpe(decode_bpe, rng):
    def decoded(ids, more=None):
        return decode_bpe(ids, BYTES | (more or {})), {"ids": ids, "vocab": f"the 256 bytes, and {more or 'no more'}"}

    yield "two letters", *decoded([104, 105])
    yield "tokens of several bytes", *decoded([256, 257, 33], {256: b"ab", 257: b" ab"})
    yield "a character cut into three tokens", *decoded([226, 130, 172])
    yield "a character cut into two tokens", *decoded([256, 172], {256: b"\xe2\x82"})
    yield "a character that is not finished", *decoded([97, 226, 130])
    yield "a byte that never occurs in UTF-8", *decoded([97, 255, 98])
    yield "a continuation without a start", *decoded([172, 97])
    yield "an emoji and a special token", *decoded([240, 159, 153, 130, 300], {300: b"<|end|>"})
    yield "no ids", *decoded([])
    yield "an id that is not in vocab is refused", raised(decode_bpe, [999], BYTES) != "nothing"
    yield "random bytes", *decoded(torch.randint(256, (40,), generator=rng).tolist())


# -------------------------------------------------------------------------------------------------- WordPiece, unigram


def wordpiece_with_backtracking(word, vocab):
    def pieces_from(start):
        if start == len(word):
            return []
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocab and (rest := pieces_from(end)) is not None:
                return [piece, *rest]
        return None

    found = pieces_from(0)
    return ["[UNK]"] if found is None else found


def wordpiece_skipping(word, vocab):
    pieces, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        ends = [end for end in range(len(word), start, -1) if prefix + word[start:end] in vocab]
        pieces.append(prefix + word[start : ends[0]] if ends else "[UNK]")
        start = ends[0] if ends else start + 1
    return pieces


@observes(
    "wordpiece_tokenize",
    difficulty=2,
    minutes=12,
    hints=(
        "Try the whole word first, then leave off its last letter, and so on, until a piece is in the vocabulary.",
        'What comes after the first piece is looked up, and returned, with "##" before it.',
        "start = 0; while there is a rest: for end from len(word) down to start + 1, look up prefix + word[start:end]; "
        'take the first that is found and set start = end. If none is found return ["[UNK]"].',
    ),
    mistakes={
        "The shortest piece that fits is taken; the longest should be.": (
            "range(len(word), start, -1)",
            "range(start + 1, len(word) + 1)",
        ),
        'Pieces inside a word are looked up without "##": those are different entries of the vocabulary.': (
            'prefix = "##" if start else ""',
            'prefix = ""',
        ),
        '"##" is missing from the result, so nobody can tell where a word begins.': (
            "pieces.append(prefix + word[start:end])",
            "pieces.append(word[start:end])",
        ),
        'The first piece is looked up with "##" too, as if the word went on from another piece.': (
            '"##" if start else ""',
            '"##"',
        ),
        "The pieces before the gap are kept; one unknown place makes the whole word [UNK].": (
            'return ["[UNK]"]',
            'return [*pieces, "[UNK]"]',
        ),
        "An unknown letter is skipped with an [UNK] of its own; one unknown place makes the whole word [UNK].": (
            wordpiece_skipping
        ),
        "Another way through the word is searched for when the longest piece leads nowhere; greedy never goes back.": (
            wordpiece_with_backtracking
        ),
    },
)
def check_wordpiece_tokenize(wordpiece_tokenize, rng):
    vocab = {"play", "p", "##lay", "##e", "##d", "##ed", "ed"}
    yield "two pieces", wordpiece_tokenize("played", vocab)
    yield "the whole word", wordpiece_tokenize("play", vocab)
    yield "a piece only for the start of a word", wordpiece_tokenize("ply", {"p", "ly", "##l"})
    yield "the end does not fit", wordpiece_tokenize("plays", vocab)
    yield "the start does not fit", wordpiece_tokenize("splay", vocab)
    yield "nothing fits", wordpiece_tokenize("xy", vocab)
    yield "greedy runs into a dead end", wordpiece_tokenize("abc", {"ab", "a", "##bc", "##b"})
    yield "a piece exists only inside words", wordpiece_tokenize("ed", {"##ed", "##e", "##d"})
    yield "letters beyond ASCII", wordpiece_tokenize("naïve", {"na", "##ï", "##ïv", "##ve", "##e"})
    yield "an empty word", wordpiece_tokenize("", vocab)
    letters = {"a", "b", "##a", "##b", "ab", "##ba", "bb", "##aab", "##bb"}
    yield "a random word", wordpiece_tokenize(some_text("ab", 30, rng), letters)


def longest_pieces(text, log_probs):
    pieces, start = [], 0
    while start < len(text):
        ends = range(len(text), start, -1)
        end = next((end for end in ends if text[start:end] in log_probs), start + 1)
        pieces.append(text[start:end])
        start = end
    return pieces


def least_cost(text, log_probs, cost):
    """The cut whose list of log-probabilities has the greatest `cost`; of equals, the longer last piece."""
    if not log_probs:
        raise ValueError
    unknown = min(log_probs.values()) - reference.UNKNOWN_PENALTY
    ways = [[([], [])]]
    for end in range(1, len(text) + 1):
        found = []
        for start in range(end):
            piece = text[start:end]
            if piece in log_probs or len(piece) == 1:
                found += [([*p, piece], [*s, log_probs.get(piece, unknown)]) for p, s in ways[start]]
        ways.append(sorted(found, key=lambda way: cost(way[1]), reverse=True)[:8])
    return ways[-1][0][0]


def fused_unknowns(text, log_probs):
    fused = []
    for piece in reference.unigram_tokenize(text, log_probs):
        if fused and piece not in log_probs and fused[-1][-1] not in log_probs and fused[-1] not in log_probs:
            fused[-1] += piece
        else:
            fused.append(piece)
    return fused


@observes(
    "unigram_tokenize",
    difficulty=4,
    minutes=25,
    hints=(
        "Suppose you knew the best way to cut every shorter beginning of the text. How would you get the next one?",
        "Keep best[end], the greatest sum for text[:end], and where its last piece starts. The last piece is "
        "text[start:end] for some start: try them all.",
        "best = [0.0]; for each end, over start from 0 up: score = best[start] + log-probability of text[start:end]; "
        "keep it if it is greater (not equal). Then walk back from the end of the text, and turn the pieces round.",
    ),
    mistakes={
        "The longest piece that fits is cut off from the left; the likeliest cut of the whole text is wanted.": (
            longest_pieces
        ),
        "The cut with the fewest pieces is taken; two likely pieces may beat a rare long one.": (
            lambda text, log_probs: least_cost(text, log_probs, lambda s: (-len(s), sum(s)))
        ),
        "The mean log-probability of the pieces is made greatest; probabilities multiply, so their logs add up.": (
            lambda text, log_probs: least_cost(text, log_probs, lambda s: sum(s) / max(len(s), 1))
        ),
        "Of equal sums the one with the shorter last piece is kept; the longer one should win.": (
            "if score > best[end]:",
            "if score >= best[end]:",
        ),
        "A character that is no piece costs no penalty, so it wins against rare but known pieces.": (
            "min(log_probs.values()) - UNKNOWN_PENALTY",
            "min(log_probs.values())",
        ),
        "A character that is no piece is used only where nothing else fits; its penalty is finite.": (
            "UNKNOWN_PENALTY = 10.0",
            "UNKNOWN_PENALTY = 1e9",
        ),
        "A character that is no piece comes back as <unk>; it should come back as it is.": (
            "pieces.append(text[last_start[end] : end])",
            'pieces.append(text[last_start[end] : end] if text[last_start[end] : end] in log_probs else "<unk>")',
        ),
        "Unknown characters that stand together are fused into one piece; each is a piece of its own.": fused_unknowns,
        "The pieces come out backwards, in the order in which the walk from the end meets them.": (
            "pieces[::-1]",
            "pieces",
        ),
    },
)
def check_unigram_tokenize(unigram_tokenize, rng):
    known = {"a": -1.0, "b": -1.0, "ab": -1.5}
    yield "one piece is likelier than two", unigram_tokenize("aab", known)
    yield "two pieces are likelier than one", unigram_tokenize("ab", {"ab": -3.0, "a": -1.0, "b": -1.0})
    yield (
        "one piece: worse than each of two, better than both together",
        unigram_tokenize("ab", {"ab": -3.0, "a": -2.0, "b": -2.0}),
    )
    yield "the longest first piece is a trap", unigram_tokenize("abc", {"ab": -1.0, "c": -8.0, "a": -2.0, "bc": -2.0})
    yield "equal sums, one piece or two", unigram_tokenize("ab", {"ab": -2.0, "a": -1.0, "b": -1.0})
    yield "equal sums, cut early or late", unigram_tokenize("abc", {"ab": -1.0, "c": -1.0, "a": -1.0, "bc": -1.0})
    yield "an unknown character", unigram_tokenize("a?b", known)
    yield "three unknown characters", unigram_tokenize("ab???", known)
    costly = {"?b": -6.0, "c": -6.0, "d": -6.0, "bc": -1.0, "bcd": -1.0}
    yield "a penalty of 10 is just not worth paying", unigram_tokenize("?bc", costly)
    yield "a penalty of 10 is just worth paying", unigram_tokenize("?bcd", costly)
    yield "only long pieces", unigram_tokenize("abab", {"abab": -40.0, "ab": -21.0})
    yield "an empty text", unigram_tokenize("", known)
    yield "no pieces at all are refused", raised(unigram_tokenize, "a", {})
    pieces = ["a", "b", "c", "ab", "bc", "ca", "aa", "abc", "bca", "cc"]
    log_probs = dict(zip(pieces, (-1 - 4 * torch.rand(len(pieces), generator=rng)).tolist(), strict=True))
    yield "random log-probabilities", unigram_tokenize(some_text("abc", 30, rng), log_probs)


# -------------------------------------------------------------------------------------------------- pad_batch


def pads_by_truncating(sequences, pad_id, side="right"):
    token_ids, attention_mask = reference.pad_batch(sequences, pad_id, side)
    shortest = min(map(len, sequences))
    cut = slice(0, shortest) if side == "right" else slice(token_ids.shape[1] - shortest, None)
    return token_ids[:, cut], attention_mask[:, cut]


@observes(
    "pad_batch",
    difficulty=2,
    minutes=10,
    hints=(
        "How long is a row? Make two tensors of that shape first: one full of pad_id, one full of zeros.",
        "Row by row, copy the ids in and set the mask to one in just the same places.",
        'A row\'s first place is 0 for side="right" and length - len(sequence) for side="left". The mask follows from '
        "the lengths; the ids cannot tell you, because a sequence may hold pad_id itself.",
    ),
    mistakes={
        "The mask is made by comparing with pad_id, so a real token that happens to be pad_id is hidden.": (
            "return token_ids, attention_mask",
            "return token_ids, (token_ids != pad_id).long()",
        ),
        "The sides are swapped: the side names where the padding goes, not the text.": (
            'if side == "left" else 0',
            'if side == "right" else 0',
        ),
        "The side makes no difference: the padding always goes to the right.": (
            'length - len(sequence) if side == "left" else 0',
            "0",
        ),
        "The mask marks the padding; 1 should stand for a real token.": [
            (
                "torch.zeros(len(sequences), length, dtype=torch.long)",
                "torch.ones(len(sequences), length, dtype=torch.long)",
            ),
            ("len(sequence)] = 1", "len(sequence)] = 0"),
        ],
        "The padding is always 0, whatever pad_id is.": (
            "torch.full((len(sequences), length), pad_id, dtype=torch.long)",
            "torch.zeros(len(sequences), length, dtype=torch.long)",
        ),
        "The mask ignores the side: with left padding it hides real tokens and shows padding.": (
            "attention_mask[row, start : start + len(sequence)] = 1",
            "attention_mask[row, : len(sequence)] = 1",
        ),
        "Rows are cut to the shortest sequence; they should be filled up to the longest.": pads_by_truncating,
    },
)
def check_pad_batch(pad_batch, rng):
    yield "padding on the right", pad_batch([[5, 6], [7]], 0)
    yield "padding on the left", pad_batch([[5, 6], [7]], 0, "left")
    yield "another pad_id", pad_batch([[5], [6, 7, 8]], 9)
    yield "pad_id is also a real token", pad_batch([[5, 9], [9, 6, 9]], 9, side="left")
    yield "equal lengths", pad_batch([[1, 2, 3], [4, 5, 6]], 9)
    yield "one sequence", pad_batch([[3, 1]], 9, side="left")
    yield "an empty sequence among others", pad_batch([[], [4, 5]], 9)
    yield "no sequences are refused", raised(pad_batch, [], 0)
    yield "an unknown side is refused", raised(pad_batch, [[1], [2, 3]], 0, "middle")
    lengths = [1, 4, 2, 6, 3]
    ragged = [torch.randint(50, (n,), generator=rng).tolist() for n in lengths]
    yield "ragged rows, right", pad_batch(ragged, 50)
    yield "ragged rows, left", pad_batch(ragged, 50, "left")
