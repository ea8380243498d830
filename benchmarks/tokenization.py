"""How fast the tokenizer of week 1 is: `python -m benchmarks.tokenization` (about five minutes; by hand, never a test).

Prints markdown: training against recounting everything, training time against text size and vocabulary, and encoding
against tiktoken and tokenizers with the same merges. `--quick` takes a tenth of the text.
"""

from __future__ import annotations

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAYON_NUM_THREADS", "1")

import argparse
import datetime
import platform
import statistics
import sysconfig
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import regex

from shared.data import corpus
from week1_decoder.solutions.tokenization import (
    GPT2_PATTERN,
    count_pairs,
    encode_bpe,
    merge_pair,
    to_tiktoken,
    to_tokenizers,
    train_bpe,
)


def standard_library(n_bytes: int) -> str:
    """Source of Python's standard library: real text with many different words, on every machine."""
    texts, size = [], 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text = path.read_text(encoding="utf-8")
        texts.append(text)
        size += len(text.encode())
        if size >= n_bytes:
            break
    return "".join(texts).encode()[:n_bytes].decode(errors="ignore")


def timed(function: Callable, *args, repeat: int = 3) -> tuple[float, Any]:
    """Median processor seconds over `repeat` calls with these arguments, and the last result."""
    seconds = []
    for _ in range(repeat):
        start = time.process_time()
        result = function(*args)
        seconds.append(time.process_time() - start)
    return statistics.median(seconds), result


def recount_steps(words: list[list[int]], repeats: list[int], vocab: dict[int, bytes], n_merges: int) -> list:
    """`n_merges` steps of the naive trainer: count all pairs of all words, merge the commonest in all words."""
    merges = []
    for _ in range(n_merges):
        counts: Counter = Counter()
        for word, n in zip(words, repeats, strict=True):
            for pair, times in count_pairs(word).items():
                counts[pair] += times * n
        pair = max(counts, key=lambda pair: (counts[pair], vocab[pair[0]], vocab[pair[1]]))
        new_id = len(vocab)
        merges.append((vocab[pair[0]], vocab[pair[1]]))
        vocab[new_id] = vocab[pair[0]] + vocab[pair[1]]
        words[:] = [merge_pair(word, pair, new_id) for word in words]
    return merges


def naive_over_distinct_words(text: str, vocab_size: int) -> list:
    """The naive trainer with one concession: each distinct pre-token is held once, with its count."""
    pretokens = Counter(regex.findall(GPT2_PATTERN, text))
    words = [list(word.encode()) for word in pretokens]
    return recount_steps(words, list(pretokens.values()), {b: bytes([b]) for b in range(256)}, vocab_size - 256)


def naive_over_the_text(text: str, merges: list, stops: int = 4, steps: int = 2) -> float:
    """Estimated seconds of the naive trainer on every pre-token of the text.

    A full run takes most of an hour. So a few steps are timed at several points, from no merge to all merges, and the
    time of a step is interpolated in a straight line between the points.
    """
    pretokens = regex.findall(GPT2_PATTERN, text)
    seconds = []
    points = [round(i * (len(merges) - steps) / (stops - 1)) for i in range(stops)]
    for point in points:
        vocab = {b: bytes([b]) for b in range(256)}
        vocab |= {256 + i: left + right for i, (left, right) in enumerate(merges[:point])}
        encoded = {word: encode_bpe(word, vocab, merges[:point]) for word in set(pretokens)}
        words = [list(encoded[word]) for word in pretokens]
        start = time.process_time()
        found = recount_steps(words, [1] * len(words), vocab, steps)
        seconds.append((time.process_time() - start) / steps)
        assert found == merges[point : point + steps]
    parts = zip(points, points[1:], seconds, seconds[1:], strict=False)
    return sum((b - a) * (at_a + at_b) / 2 for a, b, at_a, at_b in parts)


def table(head: list[str], rows: list[list[object]]) -> None:
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |", flush=True)
    print()


def machine() -> str:
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = regex.findall(r"model name\s*:\s*(.+)", info.read_text())
        name = f"{models[0]} × {os.cpu_count()}" if models else name
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{name}, {platform.system()}, Python {platform.python_version()}{load}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the text")
    n_bytes = 100_000 if parser.parse_args().quick else 1_000_000
    print(
        f"{machine()}\n{datetime.date.today()}, one thread; processor time, which other programs disturb least; "
        "median of 3 runs\n"
    )
    texts = {"stories": corpus(n_bytes), "Python source": standard_library(n_bytes)}

    print(f"### train_bpe, {n_bytes:,} bytes, vocabulary 1,000\n")
    rows = []
    for name, text in texts.items():
        ours, (_, merges) = timed(train_bpe, text, 1000)
        words, slow = timed(naive_over_distinct_words, text, 256 + len(merges), repeat=1)
        assert slow == merges
        whole = naive_over_the_text(text, merges)
        distinct = len(set(regex.findall(GPT2_PATTERN, text)))
        rows.append(
            [
                name,
                f"{distinct:,}",
                f"{ours:.2f} s",
                f"{words:.1f} s ({words / ours:.0f} ×)",
                f"{whole:,.0f} s ({whole / ours:,.0f} ×)",
            ]
        )
    table(
        [
            "text",
            "distinct pre-tokens",
            "ours",
            "recounting all distinct pre-tokens (one full run)",
            "recounting the whole text (estimated from 8 steps)",
        ],
        rows,
    )

    print("### train_bpe, seconds against text size and vocabulary\n")
    sizes = [n_bytes // 8, n_bytes // 4, n_bytes // 2, n_bytes]
    for name, text in texts.items():
        rows = []
        for vocab_size in (256, 512, 1000, 2000, 4000, 8000):
            row = [f"{vocab_size:,}"]
            for size in sizes:
                part = text.encode()[:size].decode(errors="ignore")
                seconds, (vocab, _) = timed(train_bpe, part, vocab_size)
                row.append(f"{seconds:.2f}" + (f" (ends at {len(vocab):,})" if len(vocab) < vocab_size else ""))
            rows.append(row)
        table([f"{name}: vocabulary", *(f"{size:,} bytes" for size in sizes)], rows)

    print(f"### encode_bpe, {n_bytes:,} bytes, the same merges (vocabulary 4,000)\n")
    rows = []
    for name, text in texts.items():
        vocab, merges = train_bpe(text, 4000)
        fast_tiktoken, fast_tokenizers = to_tiktoken(vocab), to_tokenizers(vocab, merges)
        ours, ids = timed(encode_bpe, text, vocab, merges)
        tiktoken, theirs = timed(fast_tiktoken.encode_ordinary, text)
        tokenizers, encoding = timed(fast_tokenizers.encode, text)
        assert ids == theirs == encoding.ids
        megabytes = len(text.encode()) / 1e6
        rows.append(
            [
                name,
                f"{len(ids):,}",
                *(f"{seconds:.2f} s ({megabytes / seconds:.1f} MB/s)" for seconds in (ours, tiktoken, tokenizers)),
            ]
        )
    table(["text", "tokens (all three equal)", "ours", "tiktoken", "tokenizers"], rows)


if __name__ == "__main__":
    main()
