"""Every exact method gives the diagonal of `torch.autograd.functional.hessian`, on the whole corpus."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gradgraph import hessian_diagonal
from gradgraph.curvature.diagonal import Method
from tests.curvature.cases import CASES, NO_GRADIENT
from tests.curvature.losses import diagonal_of, full_hessian, leaves

METHODS: list[Method] = ["batched", "graph", "auto"]

#: Of a parameter's largest entry.
TOLERANCE = 1e-12
#: What rounding may leave of a parameter that has no curvature, of the largest entry of the Hessian.
ROUNDING = 1e-14


def oracle(name: str) -> tuple[dict[str, Tensor], float]:
    """The diagonal, and the largest entry of the whole Hessian."""
    loss, params = CASES[name]()
    blocks = full_hessian(loss, params)
    largest = max(block.abs().max().item() for row in blocks.values() for block in row.values())
    if name not in NO_GRADIENT:
        for i in params:
            for j in params:
                turned = blocks[j][i].reshape(params[j].numel(), -1).t()
                torch.testing.assert_close(
                    blocks[i][j].reshape(params[i].numel(), -1), turned, rtol=0, atol=ROUNDING * largest
                )
    return {key: diagonal_of(blocks[key][key], tensor.shape) for key, tensor in params.items()}, largest


@pytest.mark.parametrize("name", CASES)
def test_equals_torchs_own_hessian(name: str) -> None:
    if name == "gpt2":
        pytest.importorskip("transformers")
    expected, largest = oracle(name)
    loss, params = CASES[name]()
    for method in METHODS:
        tensors = leaves(params)
        found = hessian_diagonal(loss(tensors), tensors, method=method, progress=False)
        for key, reference in expected.items():
            assert found.report[key].exact
            assert found[key].shape == reference.shape
            difference = (found[key] - reference).abs().max().item()
            allowed = max(TOLERANCE * reference.abs().max().item(), ROUNDING * largest)
            assert difference <= allowed, f"{method}, {key}: {difference:.1e} > {allowed:.1e}; {found.report[key]}"
