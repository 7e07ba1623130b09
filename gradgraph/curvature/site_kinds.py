"""At which nodes, and by which slots, a parameter enters linearly."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from gradgraph.curvature.apart_rules import Shape

__all__ = ["KINDS"]

#: Kind, role, and the sizes of z.
_Known = tuple[str, str, tuple[int, int, int]] | None
_Saved = Mapping[str, Tensor]


def _addmm(node: Any, slot: int, shape: Shape, operand: Shape, saved: _Saved) -> _Known:
    if node._saved_alpha != 1 or node._saved_beta != 1:
        return None
    rows, units = shape
    if slot == 0:
        return ("matrix", "bias", (rows, units, 1)) if operand in ((units,), (1, units)) else None
    return _product_of_matrices("mat1", "mat2", slot - 1, shape, saved)


def _mm(node: Any, slot: int, shape: Shape, operand: Shape, saved: _Saved) -> _Known:  # noqa: ARG001
    return _product_of_matrices("self", "mat2", slot, shape, saved)


def _product_of_matrices(left: str, right: str, slot: int, shape: Shape, saved: _Saved) -> _Known:
    rows, columns = shape
    if slot == 1:
        return ("matrix", "weight", (rows, columns, 1)) if left in saved else None
    return ("matrix of rows", "weight", (1, rows, columns)) if right in saved else None


def _convolution(node: Any, slot: int, shape: Shape, operand: Shape, saved: _Saved) -> _Known:  # noqa: ARG001
    sizes = shape[0], shape[1], math.prod(shape[2:])
    if slot == 2:
        return "convolution", "bias", sizes
    return ("convolution", "weight", sizes) if slot == 1 and "input" in saved else None


def _layer_norm(node: Any, slot: int, shape: Shape, operand: Shape, saved: _Saved) -> _Known:
    units = math.prod(operand)
    return _norm(slot, (math.prod(shape) // units, units, 1), saved) if list(node._saved_normalized_shape) else None


def _channel_norm(node: Any, slot: int, shape: Shape, operand: Shape, saved: _Saved) -> _Known:  # noqa: ARG001
    return _norm(slot, (shape[0], shape[1], math.prod(shape[2:])), saved)


def _norm(slot: int, sizes: tuple[int, int, int], saved: _Saved) -> _Known:
    if slot == 2:
        return "norm", "bias", sizes
    return ("norm", "weight", sizes) if slot == 1 and "input" in saved else None


def _sum(node: Any, slot: int, shape: Shape, operand: Shape, saved: _Saved) -> _Known:  # noqa: ARG001
    if getattr(node, "_saved_alpha", 1) != 1:
        return None
    sizes = _along_one_axis(shape, operand)
    return None if sizes is None else ("sum", "bias", sizes)


def _product(node: Any, slot: int, shape: Shape, operand: Shape, saved: _Saved) -> _Known:  # noqa: ARG001
    sizes = _along_one_axis(shape, operand)
    if sizes is None or ("other", "self")[slot] not in saved:
        return None
    return f"product {slot}", "weight", sizes


def _along_one_axis(shape: Shape, operand: Shape) -> tuple[int, int, int] | None:
    """L, O and P, where `operand` is broadcast to `shape` along all axes but one; None where it is not."""
    missing = len(shape) - len(operand)
    long = [axis + missing for axis, size in enumerate(operand) if size != 1]
    if len(long) > 1 or missing < 0 or math.prod(operand) == math.prod(shape):
        return None
    if not long:
        return 1, 1, math.prod(shape)
    axis = long[0]
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])


def _embedding(node: Any, slot: int, shape: Shape, operand: Shape, saved: _Saved) -> _Known:  # noqa: ARG001
    if node._saved_scale_grad_by_freq or "indices" not in saved:
        return None
    return "embedding", "weight", (math.prod(shape[:-1]), shape[-1], 1)


#: By operation: what is known of a node, the slot, the shapes of z and of what enters, and what was saved.
KINDS: Mapping[str, Callable[[Any, int, Shape, Shape, _Saved], _Known]] = {
    "Addmm": _addmm,
    "Mm": _mm,
    "Convolution": _convolution,
    "NativeLayerNorm": _layer_norm,
    "NativeGroupNorm": _channel_norm,
    "NativeBatchNorm": _channel_norm,
    "CudnnBatchNorm": _channel_norm,
    "Add": _sum,
    "Mul": _product,
    "Embedding": _embedding,
}
