"""What each operation makes of the labels of its output: those of its inputs.

Operations that are not here mix everything. Entries are named by the class of the node, numbers and `Backward` apart.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, Protocol

import torch

__all__ = [
    "ELEMENTWISE", "LOSSES", "MIXED", "PARTS", "RULES", "VIEWS", "Call", "Factor", "Labels", "Shape", "dim_of",
    "fitting", "linear_slots", "mixed", "operation", "shape_of",
]  # fmt: skip

#: The label of an axis, or part of one, along which entries are mixed.
MIXED = 0


class Factor(NamedTuple):
    """A part of an axis: the axis is the row-major product of its factors."""

    size: int
    label: int


#: Per axis of a tensor its factors, slowest first.
Labels = tuple[tuple[Factor, ...], ...]


Shape = tuple[int, ...]


class Reshaper(Protocol):
    """Carries labels over to another shape of the same entries."""

    def reshaped(self, labels: Labels, shape: Shape) -> Labels:
        """The labels of a tensor of `shape` with the same entries in the same order."""


class Call(NamedTuple):
    """One node whose first output's labels are known."""

    proof: Reshaper
    node: Any
    shape: Shape
    labels: Labels


_Rule = Callable[[Call, int, Shape], Labels | None]


def _elementwise(call: Call, slot: int, shape: Shape) -> Labels:  # noqa: ARG001 - every rule takes the slot
    """Each entry of the output from those at its place, broadcast from the right."""
    missing = len(call.shape) - len(shape)
    return tuple(
        call.labels[missing + axis] if size == call.shape[missing + axis] else (Factor(size, MIXED),)
        for axis, size in enumerate(shape)
    )


def _along(call: Call, slot: int, shape: Shape) -> Labels | None:  # noqa: ARG001
    """Mixes one axis, `dim`, and keeps the others: softmax, slices, parts and concatenations."""
    if len(shape) != len(call.shape):
        return None
    dim = dim_of(call.node._saved_dim, len(shape))
    return tuple(
        (Factor(size, MIXED),) if axis == dim or size != call.shape[axis] else call.labels[axis]
        for axis, size in enumerate(shape)
    )


def _reduced(call: Call, slot: int, shape: Shape) -> Labels | None:  # noqa: ARG001
    """Mixes the axes `dim`, which the output has lost or has at size 1; all of them where it names none."""
    dims = _dims(call.node, len(shape))
    kept = [axis for axis in range(len(shape)) if axis not in dims]
    if len(call.shape) == len(shape):
        return tuple((Factor(size, MIXED),) if a in dims else call.labels[a] for a, size in enumerate(shape))
    if len(call.shape) != len(kept):
        return None
    labels = dict(zip(kept, call.labels, strict=True))
    return tuple(labels.get(axis, (Factor(size, MIXED),)) for axis, size in enumerate(shape))


def _matrices(first: int) -> _Rule:
    """`out[b, n, m] = sum_k left[b, n, k] right[b, k, m]`, the left one in slot `first`, before it what is added."""

    def rule(call: Call, slot: int, shape: Shape) -> Labels | None:
        if slot < first:
            return _elementwise(call, slot, shape)
        if len(shape) != len(call.shape):
            return None
        *batch, rows, columns = call.labels
        if slot == first:
            return (*batch, rows, (Factor(shape[-1], MIXED),))
        return (*batch, (Factor(shape[-2], MIXED),), columns)

    return rule


def _leading(axes: int, rank: int | None = None) -> _Rule:
    """Keeps the first `axes` axes of the first input, of `rank` axes, and mixes the others and all other inputs."""

    def rule(call: Call, slot: int, shape: Shape) -> Labels | None:
        if slot != 0 or len(shape) != len(call.shape) or rank not in (None, len(shape)):
            return None
        return tuple(
            call.labels[axis] if axis < axes and size == call.shape[axis] else (Factor(size, MIXED),)
            for axis, size in enumerate(shape)
        )

    return rule


def _layer_norm(call: Call, slot: int, shape: Shape) -> Labels | None:
    return _leading(len(shape) - len(call.node._saved_normalized_shape))(call, slot, shape)


def _batch_norm(call: Call, slot: int, shape: Shape) -> Labels | None:
    if slot != 0:
        return None
    if not call.node._saved_training:
        return call.labels  # fixed scales and shifts
    return tuple(call.labels[a] if a == 1 else (Factor(size, MIXED),) for a, size in enumerate(shape))


def _view(call: Call, slot: int, shape: Shape) -> Labels | None:  # noqa: ARG001
    return call.proof.reshaped(call.labels, shape) if math.prod(shape) == math.prod(call.shape) else None


def _transposed(call: Call, slot: int, shape: Shape) -> Labels:  # noqa: ARG001
    order = list(range(len(shape)))
    a, b = (0, 1)
    if hasattr(call.node, "_saved_dim0"):
        a, b = dim_of(call.node._saved_dim0, len(shape)), dim_of(call.node._saved_dim1, len(shape))
    if len(shape) > 1:
        order[a], order[b] = order[b], order[a]
    return tuple(call.labels[axis] for axis in order)


def _permuted(call: Call, slot: int, shape: Shape) -> Labels:  # noqa: ARG001
    places = [dim_of(dim, len(shape)) for dim in call.node._saved_dims]
    return tuple(call.labels[places.index(axis)] for axis in range(len(shape)))


def _selected(call: Call, slot: int, shape: Shape) -> Labels:  # noqa: ARG001
    """One index of the axis `dim` is all that is used, and the axis is gone."""
    labels = list(call.labels)
    dim = dim_of(call.node._saved_dim, len(shape))
    labels.insert(dim, (Factor(shape[dim], MIXED),))
    return tuple(labels)


def _stacked(call: Call, slot: int, shape: Shape) -> Labels:  # noqa: ARG001
    labels = list(call.labels)
    del labels[dim_of(call.node._saved_dim, len(labels))]
    return tuple(labels)


def _padded(call: Call, slot: int, shape: Shape) -> Labels | None:  # noqa: ARG001
    """Mixes the axes that are padded; a pad of (1, -1) keeps the size and moves the entries."""
    pad = call.node._saved_pad
    moved = {len(shape) - 1 - place // 2 for place, by in enumerate(pad) if by}
    return tuple((Factor(size, MIXED),) if a in moved else call.labels[a] for a, size in enumerate(shape))


def _dims(node: Any, rank: int) -> set[int]:
    dim = getattr(node, "_saved_dim", None)
    if dim is None:
        return set(range(rank))
    if isinstance(dim, int):
        return {dim_of(dim, rank)}
    return {dim_of(one, rank) for one in dim} or set(range(rank))


def dim_of(dim: int, rank: int) -> int:
    """Which axis `dim` is; torch shows a saved -1 as 2^64 - 1."""
    return (dim - 2**64 if dim >= 2**63 else dim) % max(1, rank)


def shape_of(node: Any, nr: int) -> Shape | None:
    """Of output `nr` of a node; None where it is ragged."""
    metadata = node._input_metadata
    if nr >= len(metadata) or metadata[nr].is_nested_tensor:
        return None
    return tuple(metadata[nr].shape)


def mixed(shape: Shape | None) -> Labels:
    """No labels at all."""
    return tuple((Factor(size, MIXED),) for size in shape or ())


def fitting(labels: Labels | None, shape: Shape | None) -> Labels:
    """`labels`, if they are those of a tensor of `shape`."""
    sizes = None if labels is None else tuple(math.prod(factor.size for factor in axis) for axis in labels)
    return labels if labels is not None and sizes == shape else mixed(shape)


def operation(node: Any) -> str:
    """`Tanh` of a TanhBackward0, `TanhBackward` of a TanhBackwardBackward0; "" of a Function of the user's."""
    kind: type = type(node)
    return _operation(kind)


@cache
def _operation(kind: type) -> str:
    if issubclass(kind, torch._C._FunctionBase):
        return ""  # a user's Function may bear the name of an operation
    return re.sub(r"Backward\d*$", "", kind.__name__)


def linear_slots(name: str, slots: Sequence[int]) -> Sequence[int]:
    """Which of the `slots` the first output of the operation is linear in, all at once; only those have edges."""
    if name in _LINEAR or (name == "Mul" and len(slots) == 1) or (name == "Div" and list(slots) == [0]):
        return slots
    return ()


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Shape alone changes; entries keep their row-major order.
VIEWS = _names("View UnsafeView ReshapeAlias Unsqueeze Squeeze Clone Alias ToCopy")

#: One input along one axis gives several outputs.
PARTS = _names("Unbind Split SplitWithSizes UnsafeSplit")

#: Of two tensors entry by entry, then summed or averaged where `_saved_reduction` says so.
LOSSES = _names("MseLoss HuberLoss SmoothL1Loss BinaryCrossEntropy BinaryCrossEntropyWithLogits SoftMarginLoss KlDiv")

_LINEAR = VIEWS | _names(
    """Add Sub Rsub Neg Sum Mean Expand Where MaskedFill Transpose T Permute Select Slice Cat Stack ConstantPadNd
    NllLoss NllLoss2D"""
)

#: Each entry of the output from the inputs' entries at the same place.
ELEMENTWISE = _names(
    """Abs Acos Acosh Add Addcdiv Addcmul Asin Asinh Atan2 Atan Atanh Ceil Celu Clamp ClampMax ClampMin Copysign Cos
    Cosh Digamma Div Elu EluBackward Erf Erfc Erfinv Exp Exp2 Expand Expm1 Floor Fmax Fmin Frac Gelu GeluBackward
    Hardshrink Hardsigmoid Hardswish Hardtanh HardtanhBackward Hypot LeakyRelu LeakyReluBackward Lerp Lgamma Log10 Log1P
    Log2 LogSigmoid LogSigmoidBackward Log Logaddexp Logaddexp2 Logit MaskedFill Maximum Minimum Mish MishBackward Mul
    NanToNum NativeDropout Neg Pow PreluKernel Reciprocal Relu Relu6 Round Rsqrt Rsub Selu Sgn Sigmoid SigmoidBackward
    Sign Silu SiluBackward Sin Sinc Sinh Softplus SoftplusBackward Softshrink SpecialErfcx SpecialXlog1Py Sqrt Sub Tan
    Tanh TanhBackward Threshold ThresholdBackward Trunc Where Xlogy"""
)

RULES: Mapping[str, _Rule] = {
    **dict.fromkeys(ELEMENTWISE | LOSSES, _elementwise),
    **dict.fromkeys(VIEWS, _view),
    **dict.fromkeys(_names("Sum Mean Var Std Logsumexp Amax Amin LinalgVectorNorm"), _reduced),
    **dict.fromkeys(_names("Softmax LogSoftmax Cumsum Cat Slice Split SplitWithSizes UnsafeSplit"), _along),
    **dict.fromkeys(_names("NllLoss NllLoss2D"), _leading(0)),
    **dict.fromkeys(_names("Addmm Baddbmm"), _matrices(1)),
    **dict.fromkeys(_names("Mm Bmm"), _matrices(0)),
    **dict.fromkeys(_names("Convolution NativeGroupNorm"), _leading(1)),
    **dict.fromkeys(_names("NativeLayerNorm FusedRmsNorm"), _layer_norm),
    **dict.fromkeys(_names("NativeBatchNorm CudnnBatchNorm"), _batch_norm),
    **dict.fromkeys(_names("AvgPool2D AdaptiveAvgPool2D MaxPool2DWithIndices"), _leading(2, 4)),
    **dict.fromkeys(_names("AvgPool3D AdaptiveAvgPool3D MaxPool3DWithIndices"), _leading(2, 5)),
    **dict.fromkeys(_names("Transpose T"), _transposed),
    **dict.fromkeys(_names("Select Unbind"), _selected),
    "Permute": _permuted,
    "Stack": _stacked,
    "ConstantPadNd": _padded,
}
