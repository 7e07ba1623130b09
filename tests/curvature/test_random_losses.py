"""Programs made at random: the methods agree, and what the proof says is apart, is."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from gradgraph import hessian_diagonal
from gradgraph.curvature.apart import labels_of
from gradgraph.curvature.apart_rules import Labels
from gradgraph.walk import Walk
from tests.curvature.losses import leaves
from tests.curvature.random_losses import Program, random_program

#: How many programs; more take minutes and are for the one who changes the methods.
PROGRAMS = 60
#: Layers, curves, shapes, mixers, joins: few mixers leave more to be proven.
KINDS = [(3, 3, 3, 2, 2), (3, 3, 3, 0, 2), (1, 4, 4, 0, 3), (4, 2, 6, 1, 3)]


def program(seed: int) -> Program:
    """The first that depends on parameters at all."""
    draw = random.Random(seed)
    while True:
        drawn = random_program(draw.randrange(2**31), draw.choice([3, 5, 7, 9, 12]), draw.choice(KINDS))
        if drawn(leaves(drawn.params)).requires_grad:
            return drawn


@pytest.mark.parametrize("seed", range(PROGRAMS))
def test_methods_agree(seed: int) -> None:
    drawn = program(seed)
    expected = hessian_diagonal(drawn(tensors := leaves(drawn.params)), tensors, method="batched", progress=False)
    found = hessian_diagonal(drawn(tensors := leaves(drawn.params)), tensors, progress=False)
    largest = max(one.abs().max().item() for one in expected.values())
    for name, reference in expected.items():
        # Values are about 1: what is smaller than rounding of them is zero.
        allowed = max(1e-12 * reference.abs().max().item(), 1e-14 * largest, 1e-15)
        difference = (found[name] - reference).abs().max().item()
        assert difference <= allowed, f"{name}: {difference:.1e} > {allowed:.1e}; {found.report[name]}; {drawn.trail}"


@pytest.mark.parametrize("seed", range(PROGRAMS))
def test_what_is_proven_apart_is_apart(seed: int) -> None:
    drawn = program(seed)
    loss = drawn(leaves(drawn.params))
    walk = Walk()
    walk.follow([get_gradient_edge(loss)])
    found = labels_of(walk, sorted(set(zip(walk.target, walk.output_nr, strict=True))))
    labels = {place: one for place, one in found.items() if indices(one)}
    edges = [GradientEdge(walk.nodes[key], nr) for key, nr in labels]
    index = [indices(one) for one in labels.values()]
    gradients = torch.autograd.grad(loss, edges, create_graph=True, allow_unused=True) if edges else ()
    for at, gradient in enumerate(gradients):
        if gradient is None or not gradient.requires_grad:
            continue
        for entry in range(0, gradient.numel(), max(1, gradient.numel() // 6)):
            rows = torch.autograd.grad(gradient.reshape(-1)[entry], edges, retain_graph=True, allow_unused=True)
            for other, row in enumerate(rows):
                for label in index[at].keys() & index[other].keys() if row is not None else ():
                    elsewhere = index[other][label] != index[at][label][entry]
                    rest = row.reshape(-1)[elsewhere].abs()
                    assert (rest <= 1e-13 * max(1.0, row.abs().max().item())).all(), f"{edges[at]}; {drawn.trail}"


def indices(labels: Labels) -> dict[int, Tensor]:
    """For each label the index along it of every entry of the tensor, in order."""
    sizes = [factor.size for axis in labels for factor in axis]
    names = [factor.label for axis in labels for factor in axis]
    grid = torch.unravel_index(torch.arange(torch.Size(sizes).numel()), sizes)
    return {name: place for name, place, size in zip(names, grid, sizes, strict=True) if name and size > 1}
