"""What is proven apart: axes of a tensor, by a table of small programs, and none that the Hessian couples."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis
import pytest
import torch
from hypothesis import strategies
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.nn import functional

from gradgraph.curvature.apart import labels_of
from gradgraph.walk import Walk

#: From a tensor that requires grad to a loss.
Program = Callable[[Tensor], Tensor]


def separated(loss: Tensor, tensor: Tensor) -> list[list[int]]:
    """Per axis of `tensor`, the sizes of its factors; those that are not told apart negative."""
    walk = Walk()
    walk.follow([get_gradient_edge(loss)])
    edge = get_gradient_edge(tensor)
    place = walk.key_of[edge.node], edge.output_nr
    return [[one.size if one.label else -one.size for one in axis] for axis in labels_of(walk, [place])[place]]


def axes(program: Program, *shape: int) -> str:
    """One letter for each axis: "a" where its indices are told apart, "." where not, "/" where a part of them is."""
    tensor = value(*shape)
    letters = []
    for sizes in separated(program(tensor), tensor):
        told = [size > 0 for size in sizes if abs(size) > 1]
        letters.append("a" if told and all(told) else "." if not any(told) else "/")
    return "".join(letters)


def value(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() * 1


def targets(*shape: int) -> Tensor:
    return torch.arange(torch.Size(shape).numel()).view(shape) % 3


def raw_mse(one: Tensor, other: Tensor) -> Tensor:
    """Torch's own operation, which broadcasts inside."""
    found: Tensor = torch.ops.aten.mse_loss(one, other, 1)
    return found


W = torch.linspace(-1, 1, 9, dtype=torch.float64).view(3, 3)
K = torch.linspace(-1, 1, 18, dtype=torch.float64).view(2, 3, 3)

PROVEN: dict[str, tuple[Program, tuple[int, ...], str]] = {
    "squares": (lambda z: z.square().sum(), (3, 3), "aa"),
    "mean of losses": (lambda z: z.square().mean(1).mean(), (3, 3), "aa"),
    "mse": (lambda z: functional.mse_loss(z, torch.ones_like(z)), (3, 3), "aa"),
    "mse along rows": (lambda z: functional.mse_loss(z @ W, torch.ones_like(z)), (3, 3), "a."),
    "matrix on the left": (lambda z: (W @ z).tanh().sum(), (3, 3), ".a"),
    "softmax": (lambda z: z.softmax(1).square().sum(), (3, 3), "a."),
    "softmax over samples": (lambda z: z.softmax(-2).square().sum(), (3, 3), ".a"),
    "cross entropy": (lambda z: functional.cross_entropy(z, targets(3)), (3, 3), "a."),
    "cross entropy of positions": (lambda z: functional.cross_entropy(z, targets(3, 3)), (3, 3, 3), "a.a"),
    "weighted cross entropy": (lambda z: functional.cross_entropy(z, targets(3), weight=W[0] + 2), (3, 3), "a."),
    "two losses, one axis": (lambda z: z.square().sum() + functional.cross_entropy(z, targets(3)), (3, 3), "a."),
    "two losses, turned": (
        lambda z: functional.cross_entropy(z, targets(3)) + functional.cross_entropy(z.t(), targets(3)),
        (3, 3),
        "..",
    ),
    "times its transpose": (lambda z: (z * z.t()).square().sum(), (3, 3), ".."),
    "with itself flipped": (lambda z: torch.cat([z, z.flip(0)], 1).square().sum(), (3, 3), ".."),
    "cumulated": (lambda z: z.cumsum(-2).square().sum(), (3, 3), ".a"),
    "shifted by a pad": (lambda z: (z * functional.pad(z, (0, 0, 1, -1))).square().sum(), (3, 3), ".a"),
    "broadcast both ways": (lambda z: (z[:, None] * z).square().sum(), (3,), "."),
    "centred": (lambda z: (z - z.mean(0, keepdim=True)).square().sum(), (3, 3), ".a"),
    "centred by all": (lambda z: (z - z.mean(dim=[], keepdim=True)).square().sum(), (3, 3), ".."),
    "root": (lambda z: z.square().mean().sqrt(), (3, 3), ".."),
    "root of each": (lambda z: z.square().mean(-1).sqrt().sum(), (3, 3), "a."),
    "largest": (lambda z: z.square().mean(1).max(), (3, 3), ".."),
    "weighted by a softmax": (lambda z: (z.square().mean(1) * z.mean(1).softmax(0)).sum(), (3, 3), ".."),
    "norm in training": (lambda z: functional.batch_norm(z, None, None, training=True).tanh().sum(), (3, 3), ".a"),
    "norm in use": (lambda z: functional.batch_norm(z, W[0], W[0] + 2).tanh().sum(), (3, 3), "aa"),
    "norm of instances": (lambda z: functional.instance_norm(z).tanh().sum(), (2, 3, 3), "aa."),
    "norm of groups": (lambda z: functional.group_norm(z, 1).tanh().sum(), (2, 3, 3), "a.."),
    "norm of two axes": (lambda z: functional.layer_norm(z, (3, 3)).tanh().sum(), (2, 3, 3), "a.."),
    "convolution": (lambda z: functional.conv1d(z, K).tanh().sum(), (2, 3, 3), "a.."),
    "convolution without a batch": (lambda z: functional.conv1d(z, K).tanh().sum(), (3, 3), ".."),
    "pool": (lambda z: functional.max_pool2d(z, 3, 1, 1).tanh().sum(), (2, 2, 3, 3), "aa.."),
    "pool without a batch": (lambda z: functional.avg_pool2d(z, 3, 1, 1).tanh().sum(), (3, 3, 3), "..."),
    "rows merged and back": (lambda z: z.reshape(9, 2).softmax(1).view(3, 3, 2).square().sum(), (3, 3, 2), "aa."),
    "merged and mixed": (lambda z: z.reshape(3, 6).softmax(1).sum(0).exp().sum(), (3, 3, 2), "..."),
    "torn": (lambda z: z.reshape(2, 9).softmax(1).square().sum(), (6, 3), "/."),
    "batches of products": (lambda z: torch.bmm(z, z).square().sum(), (2, 3, 3), "a.."),
    "batches turned": (lambda z: torch.bmm(z, z.transpose(0, 1)).square().sum(), (3, 3, 3), "..."),
    "parts": (lambda z: (z.chunk(3, 1)[0] * z.chunk(3, 1)[2]).square().sum(), (3, 3), "a."),
    "unbound": (lambda z: (z.unbind(1)[0] * z.unbind(1)[2]).square().sum(), (3, 3), "a."),
    "stacked": (lambda z: torch.stack([z, z.t()], 2).prod(2).sum(), (3, 3), ".."),
    "mse with its transpose": (lambda z: functional.mse_loss(z, z.t() * 2), (3, 3), ".."),
}


@pytest.mark.parametrize(("program", "shape", "expected"), PROVEN.values(), ids=PROVEN)
def test_what_is_proven(program: Program, shape: tuple[int, ...], expected: str) -> None:
    assert axes(program, *shape) == expected
    assert coupled(program, *shape) <= 1e-15


def test_losses_that_broadcast_inside_are_not_proven() -> None:
    assert axes(lambda z: raw_mse(z * 1, z[:, None] * 1), 3) == "."
    assert axes(lambda z: raw_mse(z[:, None] * 1, z * 1), 3) == "."


def coupled(program: Program, *shape: int) -> float:
    """The largest entry of the Hessian between indices that are said to be apart."""
    tensor = value(*shape)
    loss = program(tensor)
    factors = [size for axis in separated(loss, tensor) for size in axis]
    (gradient,) = torch.autograd.grad(loss, tensor, create_graph=True)
    if not gradient.requires_grad:
        return 0.0
    rows = [torch.autograd.grad(one, tensor, retain_graph=True)[0].reshape(-1) for one in gradient.reshape(-1)]
    places = torch.unravel_index(torch.arange(tensor.numel()), [abs(size) for size in factors])
    largest = 0.0
    for size, place in zip(factors, places, strict=True):
        if size > 0:
            largest = max(largest, (torch.stack(rows) * (place[:, None] != place)).abs().max().item())
    return largest


#: Of a tensor with three axes of one size, so that a mistaken axis or order does not show in the shape.
MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "turn": lambda z: z.transpose(0, 1),
    "turn back": lambda z: z.permute(-1, 0, 1),
    "merge": lambda z: z.reshape(9, 3).reshape(3, 9).reshape(3, 3, 3),
    "merge, turn": lambda z: z.reshape(9, 3).t().reshape(3, 3, 3),
    "softmax": lambda z: z.softmax(-3),
    "log softmax": lambda z: z.log_softmax(1),
    "matrix": lambda z: z @ W,
    "matrices": lambda z: torch.bmm(z, z.tanh()),
    "convolve": lambda z: functional.conv1d(z, K.new_ones(3, 3, 3) / 9, padding=1),
    "sum kept": lambda z: z + z.sum((0, -1), keepdim=True).tanh(),
    "sum": lambda z: z.tanh() + z.sum(1),
    "norm": lambda z: functional.layer_norm(z, (3, 3)),
    "tanh": torch.tanh,
    "times its turn": lambda z: z * z.transpose(0, 2),
    "flip": lambda z: z.flip(1) + z,
    "stride": lambda z: z[::2].repeat(2, 1, 1)[:3] * z,
    "select": lambda z: z[1] * z,
    "stack": lambda z: torch.stack(z.unbind(2), 0),
    "cat": lambda z: torch.cat(z.split([1, 2], 1)[::-1], 1),
    "pad": lambda z: functional.pad(z, (0, 0, 1, -1)) + z,
    "expand": lambda z: z[:, :, :1].expand(3, 3, 3).sin() + z,
    "pool": lambda z: functional.max_pool1d(z, 3, 1, 1),
    "where": lambda z: torch.where(z > z.mean(), z, z.transpose(1, 2)),
    "variance": lambda z: z * z.var(dim=(0,), keepdim=True),
}
ENDS: dict[str, Program] = {
    "squares": lambda z: (z - 1).square().mean(),
    "mse": lambda z: functional.mse_loss(z, torch.ones_like(z), reduction="sum"),
    "mse of halves": lambda z: functional.mse_loss(z, z.transpose(0, 1).sin()),
    "entropy": lambda z: functional.cross_entropy(z, targets(3, 3)),
    "per sample": lambda z: z.exp().mean((1, 2)).log().sum(),
    "both": lambda z: z.sin().sum() + z.transpose(0, 2).reshape(9, 3).exp().mean(0).log().sum(),
    "root": lambda z: z.square().sum(0).sqrt().sum(),
}


@hypothesis.given(
    moves=strategies.lists(strategies.sampled_from(sorted(MOVES)), max_size=5),
    ends=strategies.lists(strategies.sampled_from(sorted(ENDS)), min_size=1, max_size=2),
)
@hypothesis.settings(max_examples=150, deadline=None, derandomize=True)
def test_what_is_proven_apart_is_not_coupled(moves: list[str], ends: list[str]) -> None:
    def program(z: Tensor) -> Tensor:
        states = [z]
        for move in moves:
            states.append(MOVES[move](states[-1]))
        return torch.stack([ENDS[end](state) for end, state in zip(ends, reversed(states), strict=False)]).sum()

    assert coupled(program, 3, 3, 3) <= 1e-13
