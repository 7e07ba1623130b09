"""Figures that sum up one tensor, whatever its layout, dtype or device, in double precision."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["FIGURES", "figures", "norm"]

#: What `figures` gives, in its order.
FIGURES = ("norm", "mean", "mean_imag", "max_abs", "zeros", "nan", "inf")


@torch.no_grad()
def figures(tensor: Tensor) -> Tensor | None:
    """Norm, mean, imaginary mean, largest modulus over the finite entries; how many are zero, NaN, infinite.

    The norm is scaled by the largest modulus, so that neither half precision nor 1e200 overflows. A number is
    infinite where a part of it is and none is NaN. What a sparse tensor does not store counts as zero. Nothing waits
    for the device: read the result with `tolist()` when it is wanted.

    Returns:
        A tensor of `len(FIGURES)` numbers on the tensor's device, float64 (float32 where the device has no float64);
        None where there are no values to read (meta tensors, functorch's wrappers).
    """
    if _unreadable(tensor):
        return None
    values = _stored(tensor.detach()).reshape(-1)
    implied = tensor.numel() - values.numel()
    dtype = torch.float32 if values.device.type == "mps" else torch.float64
    real = torch.view_as_real(values.resolve_conj()) if values.is_complex() else values.unsqueeze(-1)
    real = real.to(dtype)
    nan = torch.isnan(real).any(-1)
    infinite = torch.isinf(real).any(-1) & ~nan
    finite = ~(nan | infinite)
    real = torch.where(finite.unsqueeze(-1), real, 0.0)
    count = finite.sum() + implied
    if values.numel() == 0:
        largest = scale = total = real.new_zeros(())
        sums = real.new_zeros(2)
    else:
        largest = real.abs().amax()
        scale = torch.where(largest > 0, largest, 1.0)
        scaled = real / scale
        squares = scaled.square().sum(-1)
        total = scale * squares.sum().sqrt()
        largest = largest if real.shape[-1] == 1 else scale * squares.amax().sqrt()
        sums = scale * (scaled.sum(0) / count)  # NaN where nothing is finite
    zeros = ((real == 0).all(-1) & finite).sum() + implied
    mean_imag = sums[1] if values.is_complex() else real.new_zeros(())
    return torch.stack(
        [figure.to(dtype) for figure in (total, sums[0], mean_imag, largest, zeros, nan.sum(), infinite.sum())]
    )


@torch.no_grad()
def norm(tensor: Tensor) -> float:
    """The 2-norm of all entries; NaN or infinite where an entry is, or where there are no values to read."""
    if _unreadable(tensor):
        return float("nan")
    values = _stored(tensor.detach())
    if values.numel() == 0:
        return 0.0
    wide = torch.complex128 if values.is_complex() else torch.float64
    dtype = None if values.device.type == "mps" else wide
    plain = float(torch.linalg.vector_norm(values, dtype=dtype))
    if 1e-140 < plain < 1e140:
        return plain
    # Too large or too small to square, or not finite, or zero: scale by the largest modulus.
    largest = float(values.abs().max())
    if largest == 0 or not math.isfinite(largest):
        return largest
    return largest * float(torch.linalg.vector_norm(values / largest, dtype=dtype))


def _unreadable(tensor: Tensor) -> bool:
    """Whether the tensor has no values of its own: a meta tensor, or a wrapper that vmap or functorch made."""
    functorch = torch._C._functorch
    return (
        tensor.is_meta
        or functorch.is_functorch_wrapped_tensor(tensor)
        or functorch.is_legacy_batchedtensor(tensor)
        or isinstance(tensor, torch._subclasses.fake_tensor.FakeTensor)
    )


def _stored(tensor: Tensor) -> Tensor:
    """The entries that the tensor stores, each once, dense."""
    if tensor.layout is torch.sparse_coo:
        return tensor.coalesce().values()
    if tensor.is_nested:
        return torch.cat([part.flatten() for part in tensor.unbind()])
    if tensor.layout is torch.strided:
        return tensor
    if tensor.layout in (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc):
        return tensor.values()
    return tensor.to_dense()
