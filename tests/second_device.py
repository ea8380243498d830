"""A second device for machines that have none: its tensors hold their numbers on the CPU, and mixing the two raises.

`with pretended(): ...` runs code with `torch.device("meta")` in the place of a GPU. It refuses what CUDA refuses: an
operation on tensors of both devices (but a CPU scalar, or CPU positions that index), a CPU generator that draws on the
GPU, and NumPy's view of a tensor there. It says nothing on number formats, kernels, memory or speed.
"""

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE, CPU = torch.device("meta"), torch.device("cpu")
aten = torch.ops.aten
COPIES = {aten.copy_.default, aten._foreach_copy_.default}
INDEXES = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}


class OnDevice(torch.Tensor):
    """A tensor that says it is on the device; `inner` holds its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "layout": inner.layout}
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=DEVICE, **layout)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _call(function, args, kwargs or {})

    def tolist(self):
        return self.inner.tolist()

    def item(self):
        return self.inner.item()

    def numpy(self, *args, **kwargs):
        raise TypeError("a tensor on the GPU has no NumPy view: .cpu() first")

    __array__ = numpy
    __bool__ = lambda self: bool(self.inner)  # noqa: E731
    __int__ = __index__ = lambda self: int(self.inner)  # noqa: E731
    __float__ = lambda self: float(self.inner)  # noqa: E731
    __format__ = lambda self, spec: format(self.inner, spec)  # noqa: E731
    __repr__ = lambda self, **_: f"OnDevice({self.inner})"  # noqa: E731

    def __deepcopy__(self, memo):
        made = self.detach().clone().requires_grad_(self.requires_grad)
        if getattr(self, "_is_param", False):
            made._is_param = True
        memo[id(self)] = made
        return made


def _call(function, args, kwargs):
    leaves = tree_leaves((args, kwargs))
    there = [x for x in leaves if isinstance(x, OnDevice)]
    here = [x for x in leaves if isinstance(x, torch.Tensor) and not isinstance(x, OnDevice)]
    moves = kwargs.get("device") is not None
    to_device = torch.device(kwargs["device"]) == DEVICE if moves else bool(there)
    if to_device and any(isinstance(x, torch.Generator) for x in leaves):
        raise RuntimeError(f"a CPU generator for {function} on the GPU")
    mixes = there and not moves and function not in COPIES and any(x.dim() for x in here)
    if mixes and not (function in INDEXES and isinstance(args[0], OnDevice)):
        raise RuntimeError(f"{function} on tensors of both devices, on the CPU {[tuple(x.shape) for x in here]}")
    if moves:
        kwargs = {**kwargs, "device": CPU}
    known = {id(x.inner): x for x in there} | {id(x): x for x in here}
    args, kwargs = tree_map(lambda x: x.inner if isinstance(x, OnDevice) else x, (args, kwargs))
    out = function(*args, **kwargs)
    if not to_device:
        return out
    return tree_map(lambda x: _back(x, known) if isinstance(x, torch.Tensor) else x, out)


def _back(tensor, known):
    """The tensor that went in, where an operation in place gives it back; else a new one on the device."""
    return known[id(tensor)] if id(tensor) in known else OnDevice(tensor)


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _call(function, args, kwargs or {})


@contextlib.contextmanager
def pretended():
    """`torch.device("meta")` is a GPU in here. (torch.tensor and autocast ask no mode, so they are replaced.)"""
    tensor, autocast = torch.tensor, torch.autocast

    def made(data, *args, device=None, **kwargs):
        found = tensor(data, *args, **kwargs)
        return found if device is None else found.to(device)

    def cast(device_type, *args, **kwargs):
        return contextlib.nullcontext() if device_type == DEVICE.type else autocast(device_type, *args, **kwargs)

    torch.tensor, torch.autocast = made, cast
    try:
        with _Mode():
            yield DEVICE
    finally:
        torch.tensor, torch.autocast = tensor, autocast
