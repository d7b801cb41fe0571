"""Products of a few rows with large weights on a CPU: the same numbers, laid out for them.

A step of sampling multiplies every weight of the model by one row a sequence. That takes at least as long as the
weights take to come from memory, but `x @ W.T`, whose kernels are made for many rows, takes up to three times as long.
Which layout is fast depends on the number of rows; docs/benchmarks.md has the measurements.
"""

import copy
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_ROWS = 32
"""With more rows the plain product is about as fast."""

_MOST_ROWS_FROM_THE_LEFT = 4
_PANEL = 16  # outputs computed together; of 8, 16, 24, 32, 48, 96 the fastest for 5 to 32 rows

_Model = TypeVar("_Model", bound=nn.Module)


class PackedLinear(nn.Module):
    """A linear layer with another one's weights, fast for `rows` rows and right for any number of them."""

    weight: Tensor

    def __init__(self, linear: nn.Linear, rows: int) -> None:
        super().__init__()
        self.out_features, self.bias = linear.out_features, linear.bias
        weight = linear.weight.detach()
        if rows == 1 and linear.out_features > linear.in_features:
            self._product, weight = _from_the_right, weight.t().contiguous()
        elif rows <= _MOST_ROWS_FROM_THE_LEFT:
            self._product = _from_the_left
        else:
            padded = F.pad(weight, (0, 0, 0, -self.out_features % _PANEL))
            self._product, weight = _by_panels, padded.unflatten(0, (-1, _PANEL)).transpose(1, 2).contiguous()
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)"""
        y = self._product(x.flatten(0, -2), self.weight)
        if y.shape[1] != self.out_features:
            y = y[:, : self.out_features]
        if self.bias is not None:
            y = y + self.bias
        return y.view(*x.shape[:-1], -1)


def _from_the_right(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight  # (n, in) (in, out)


def _from_the_left(x: Tensor, weight: Tensor) -> Tensor:
    return (weight @ x.t()).t().contiguous()  # (out, in) (in, n); slow where x, the last layer's result, is transposed


def _by_panels(x: Tensor, weight: Tensor) -> Tensor:
    y = torch.bmm(x.expand(len(weight), *x.shape), weight)  # (p, n, in) (p, in, 16)
    return y.transpose(0, 1).flatten(1)


def pack_linears(model: _Model, rows: int) -> _Model:
    """The model for inputs of `rows` rows (tokens of all sequences).

    On a CPU with MKL, in float32 and for at most `MOST_ROWS` rows, it is a copy whose linear layers are
    `PackedLinear`. The copy shares all other parameters, and for 2 to 4 rows the linear weights too; for other numbers
    of rows it holds these, or most of them, once more. Elsewhere it is the model itself.
    """
    tensors = [*model.parameters(), *model.buffers()]
    on_cpu = torch.backends.mkl.is_available() and all(tensor.device.type == "cpu" for tensor in tensors)
    single = all(p.dtype == torch.float32 for p in model.parameters()) and not torch.is_autocast_enabled("cpu")
    if not (on_cpu and single and 1 <= rows <= MOST_ROWS):
        return model
    laid_out = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    for module in list(laid_out.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, PackedLinear(child, rows))
    return laid_out
