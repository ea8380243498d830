"""A right answer stays right where sums round otherwise: on another processor, or with the terms in another order."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from shared import checking, course
from shared.checking import run_check
from tests.mistakes_report import variants

SUMS = {  # operations of PyTorch that add up many numbers: in which order is left to each processor
    *("mm", "bmm", "addmm", "baddbmm", "mv", "dot", "sum", "mean", "cumsum", "convolution", "embedding_dense_backward"),
    *("_softmax", "_log_softmax", "logsumexp", "_softmax_backward_data", "_log_softmax_backward_data"),
    *("linalg_vector_norm", "norm", "var", "std", "native_layer_norm", "native_layer_norm_backward"),
}
ANSWERS = [(name, name, course.reference(name)) for name in course.exercises()] + list(variants())
TIES = {"beam_search": "two texts that are as good as each other, by the same sum"}


class OtherRounding(TorchDispatchMode):
    """Each result of a sum moves by up to its dtype's eps (relative), at random; results that are exact stay."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)
        self.moved = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        if operation.overloadpacket.__name__ in SUMS:
            for tensor in result if isinstance(result, (tuple, list)) else [result]:
                self._move(tensor)
        return result

    def _move(self, tensor):
        if not isinstance(tensor, torch.Tensor) or tensor.is_meta or tensor.dtype not in (torch.float32, torch.float64):
            return
        noise = 2 * torch.rand(tensor.shape, generator=self.generator, dtype=torch.float64) - 1
        moved = (tensor.double() * (1 + torch.finfo(tensor.dtype).eps * noise)).to(tensor.dtype)
        exact = tensor == tensor.bfloat16()  # a sum of few bits was not rounded
        self.moved += int((moved != tensor)[~exact].sum())
        tensor.copy_(torch.where(exact, tensor, moved))


def test_the_other_rounding_is_one():
    a, b = torch.full((2, 3), 0.1), torch.eye(3)
    with OtherRounding() as rounding:
        product, whole = a @ a.T, b @ b
    assert rounding.moved and torch.equal(whole, b)
    assert torch.allclose(product, a @ a.T) and not torch.equal(product, a @ a.T)


@pytest.mark.parametrize(
    ("name", "answer"), [a[::2] for a in ANSWERS if a[0] not in TIES], ids=[a[1] for a in ANSWERS if a[0] not in TIES]
)
def test_a_right_answer_is_accepted_with_other_rounding(name, answer):
    checking._expected(name, checking.LESSON_SEED)  # as the reference rounds
    with OtherRounding():
        result = run_check(name, answer)
    assert result.passed, str(result.card)
