"""What a parameter is multiplied with at a site: the features x of `z[l, o, p] = sum_f w[o, f] x[f, l, o, p]`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gradgraph.curvature.sites import Site

__all__ = ["count_of", "features", "placed"]


def count_of(site: Site) -> int:
    """F, the weights of one unit; 0 where the site has a bias alone."""
    if site.weight is None:
        return 0
    return math.prod(site.weight.shape) // site.sizes[1]


def features(site: Site) -> Tensor:
    """X as `[F, L, G, P]`: unit o of the O units takes group `o * G // O`. Sizes that it does not depend on are 1.

    The memory of it is that of the saved input, times the kernel's size of a convolution.
    """
    lead, units, trail = site.sizes
    node: Any = site.node
    with torch.no_grad():
        match site.kind:
            case "matrix":
                left = site.saved["mat1"] if "mat1" in site.saved else site.saved["self"]
                return left.t().reshape(-1, lead, 1, 1)
            case "matrix of rows":
                return site.saved["mat2"].reshape(-1, 1, 1, trail)
            case "convolution":
                return _patches(node, site.saved["input"]).reshape(lead, node._saved_groups, -1, trail).movedim(2, 0)
            case "norm":
                return _normalized(site).reshape(1, lead, units, trail)
            case "product 0" | "product 1":
                other = site.saved["other" if site.kind == "product 0" else "self"]
                # A mask of integers or truth values, or a constant in another precision, is as good.
                return other.to(node._input_metadata[0].dtype).expand(site.shape).reshape(1, lead, units, trail)
    raise AssertionError(site.kind)


def placed(site: Site, diagonal: Tensor) -> Tensor:
    """Entries `[O, F]` of the weight in the shape of what enters there."""
    assert site.weight is not None
    shape = site.weight.shape
    node: Any = site.node
    if site.kind == "matrix":
        return diagonal.t().reshape(shape)
    if site.kind == "convolution" and node._saved_transposed:
        groups = node._saved_groups
        units = site.sizes[1] // groups
        return diagonal.reshape(groups, units, shape[0] // groups, -1).transpose(1, 2).reshape(shape)
    return diagonal.reshape(shape)


def _patches(node: Any, data: Tensor) -> Tensor:
    """What each weight of a convolution's kernel meets at each position: `[N, groups * F, *positions]`.

    A convolution with one output channel for each place in the kernel, whose weight is 1 there and 0 elsewhere.
    """
    weight = node._saved_weight
    groups, kernel = node._saved_groups, weight.shape[2:]
    each = weight.shape[0] // groups if node._saved_transposed else weight.shape[1]  # input channels of a group
    count = each * math.prod(kernel)
    unit = torch.eye(count, dtype=data.dtype, device=data.device).view(count, each, *kernel)
    if node._saved_transposed:
        unit = unit.transpose(0, 1)
    found: Tensor = torch.ops.aten.convolution(
        data,
        unit.repeat(groups, *[1] * (unit.dim() - 1)),
        None,
        list(node._saved_stride),
        list(node._saved_padding),
        list(node._saved_dilation),
        node._saved_transposed,
        list(node._saved_output_padding),
        groups,
    )
    return found


def _normalized(site: Site) -> Tensor:
    """The input of a norm, shifted and scaled as the norm does before its own scale and shift."""
    node: Any = site.node
    data = site.saved["input"]
    name = type(node).__name__
    if "LayerNorm" in name:
        return (data - site.saved["result1"]) * site.saved["result2"]
    if "GroupNorm" in name:
        groups = data.reshape(data.shape[0], node._saved_group, -1)
        shift, scale = site.saved["result1"].unsqueeze(-1), site.saved["result2"].unsqueeze(-1)
        return ((groups - shift) * scale).view(data.shape)
    if node._saved_training:
        shift, scale = site.saved["result1"], site.saved["result2"]
    else:
        shift, scale = site.saved["running_mean"], (site.saved["running_var"] + _epsilon(node)).rsqrt()
    sizes = [1, -1, *[1] * (data.dim() - 2)]
    return (data - shift.view(sizes)) * scale.view(sizes)


def _epsilon(node: Any) -> float:
    found: float = node._saved_eps if hasattr(node, "_saved_eps") else node._saved_epsilon
    return found
