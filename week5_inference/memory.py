"""What attention needs: the bytes of live tensors while code runs, and the bytes that the paper's algorithms move.

with LiveBytes() as memory:    memory.peak is the most bytes that tensors made inside held at one time
standard_traffic(n, d)         numbers moved between slow and fast memory by attention that stores its scores
flash_traffic(n, d, fast)      the same for tiles that fit into a fast memory of that many numbers
"""

from __future__ import annotations

import math
import weakref

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the storages of tensors that are made inside: `live` now, `peak` at most, `largest` tensor, `operations`.

    The process's resident memory would do too, but the allocator keeps and reuses pages, so that a second run shows
    nothing. This count is exact and the same on every machine. It misses what a kernel takes for itself and gives back
    before it returns, such as the tiles inside scaled_dot_product_attention.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self.largest = self.operations = 0
        self._known: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        self.operations += 1
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                key = id(storage)
                if key not in before and key not in self._known:  # a view shares a storage that is known
                    self._add(storage, key)
        return result

    def _add(self, storage, key: int) -> None:
        size = storage.nbytes()
        self._known[key] = weakref.ref(storage, lambda _: self._remove(key, size))
        self.live += size
        self.peak = max(self.peak, self.live)
        self.largest = max(self.largest, size)

    def _remove(self, key: int, size: int) -> None:
        if self._known.pop(key, None) is not None:
            self.live -= size


def standard_traffic(n: int, d: int) -> int:
    """Numbers that algorithm 0 of Dao et al. 2022 reads and writes: q, k -> S; S -> P; P, v -> O."""
    return (2 * n * d + n * n) + (2 * n * n) + (n * n + n * d + n * d)


def tile_sizes(d: int, fast: int) -> tuple[int, int]:
    """(rows of a tile of keys, rows of a tile of queries) of algorithm 1, for a fast memory of `fast` numbers."""
    if fast < 4 * d:
        raise ValueError(f"a fast memory of {fast} numbers does not hold a row each of q, k, v and o: {4 * d}")
    return math.ceil(fast / (4 * d)), min(math.ceil(fast / (4 * d)), d)


def flash_traffic(n: int, d: int, fast: int) -> int:
    """Numbers that algorithm 1 reads and writes: k, v once; for each tile of keys q, o, m, l in and o, m, l out."""
    keys, queries = tile_sizes(d, fast)
    moved = 0
    for j in range(0, n, keys):
        moved += 2 * min(keys, n - j) * d
        for i in range(0, n, queries):
            rows = min(queries, n - i)
            moved += rows * d + 2 * rows * (d + 2)  # q in; o, m, l in and out
    return moved
