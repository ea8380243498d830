"""Nearest passages, ours against faiss: `python -m benchmarks.retrieval` (by hand, never a test).

5,000 passages of week 6 as MiniLM's vectors, and 50,000: to embed so many takes a quarter of an hour, so 45,000 of them
are vectors between two passages'. 300 questions, by `top_k_chunks`, faiss `IndexFlatIP`, and HNSW (M 32), an index that
approximates. Prints markdown: questions per second in one batch and one at a time, the share of the true ten nearest,
the memory of the index and the seconds to build it. The runs are interleaved; `--quick` takes 5,000 only.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import time
from collections.abc import Callable

import faiss
import numpy as np
import torch

from shared.models import minilm
from shared.runtime import machine
from week6_rlhf.passages import questions, stored_embeddings
from week6_rlhf.solutions.applications import embed, top_k_chunks

K, N_ALONE = 10, 50
Search = Callable[[torch.Tensor], np.ndarray]


def large_corpus(vectors: torch.Tensor, count: int) -> torch.Tensor:
    """So many vectors: the given ones, and others that lie between two of them, with a little noise."""
    generator = torch.Generator().manual_seed(0)
    n_more = count - len(vectors)
    first, second = (vectors[torch.randint(len(vectors), (n_more,), generator=generator)] for _ in range(2))
    share = torch.rand(n_more, 1, generator=generator)
    noise = 0.1 * torch.randn(n_more, vectors.shape[1], generator=generator) / vectors.shape[1] ** 0.5
    between = share * first + (1 - share) * second + noise
    return torch.cat([vectors, torch.nn.functional.normalize(between, dim=1)])


def built(vectors: torch.Tensor) -> dict[str, tuple[Search, float, float]]:
    """name -> (search, MiB of the index, seconds to build it)."""
    flat = faiss.IndexFlatIP(vectors.shape[1])
    graph = faiss.IndexHNSWFlat(vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    ours = (lambda queries: top_k_chunks(queries, vectors, K)[1].numpy()), vectors.nbytes / 2**20, 0.0
    found: dict[str, tuple[Search, float, float]] = {"ours, `top_k_chunks`": ours}
    for name, index in (("faiss, IndexFlatIP", flat), ("faiss, HNSW", graph)):
        start = time.perf_counter()
        index.add(vectors.numpy())
        seconds = time.perf_counter() - start
        size = faiss.serialize_index(index).nbytes / 2**20
        if index is flat:
            found[name] = (lambda queries: flat.search(queries.numpy(), K)[1]), size, seconds
            continue
        for width in (64, 256):
            options = faiss.SearchParametersHNSW(efSearch=width)
            search = lambda queries, options=options: graph.search(queries.numpy(), K, params=options)[1]  # noqa: E731
            found[f"{name}, efSearch {width}"] = search, size, seconds
    return found


def per_second(search: Search, queries: torch.Tensor, alone: bool) -> float:
    parts = queries[:N_ALONE].split(1) if alone else (queries,)
    start = time.perf_counter()
    for part in parts:
        search(part)
    return sum(map(len, parts)) / (time.perf_counter() - start)


def table(vectors: torch.Tensor, queries: torch.Tensor, rounds: int) -> None:
    searches = built(vectors)
    exact = [set(row) for row in next(iter(searches.values()))[0](queries).tolist()]
    speeds: dict[tuple[str, bool], list[float]] = {(name, alone): [] for name in searches for alone in (False, True)}
    for _ in range(rounds):
        for (name, alone), found in speeds.items():
            found.append(per_second(searches[name][0], queries, alone))
    print(f"\n{len(vectors):,} passages, {len(queries)} questions; median of {rounds} interleaved rounds (range)\n")
    print(f"| | questions/s, one batch | questions/s, one at a time | recall@{K} | index, MiB | build, s |")
    print("|---" * 6 + "|")
    for name, (search, size, seconds) in searches.items():
        cells = [
            f"{statistics.median(found):,.0f} ({min(found):,.0f}–{max(found):,.0f})"
            for found in (speeds[name, False], speeds[name, True])
        ]
        recall = statistics.fmean(
            len(set(row) & true) / K for row, true in zip(search(queries).tolist(), exact, strict=True)
        )
        print(f"| {name} | {cells[0]} | {cells[1]} | {recall:.3f} | {size:.1f} | {seconds:.1f} |", flush=True)
    for alone in (False, True):
        ours, flat = (speeds[name, alone] for name in list(searches)[:2])
        ratios = [a / b for a, b in zip(ours, flat, strict=True)]
        print(
            f"\nours against IndexFlatIP, {'one at a time' if alone else 'one batch'}: "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) times the questions per second"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="5,000 passages only, two rounds")
    quick = parser.parse_args().quick
    faiss.omp_set_num_threads(torch.get_num_threads())
    load = f"; load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{', '.join(machine().values())}, faiss {faiss.__version__}{load}")
    print(f"{datetime.date.today()}, {torch.get_num_threads()} threads")
    queries = embed([question.text for question in questions(300)], *minilm())
    vectors = stored_embeddings()
    table(vectors, queries, rounds=2 if quick else 7)
    if not quick:
        table(large_corpus(vectors, 50_000), queries, rounds=5)


if __name__ == "__main__":
    main()
