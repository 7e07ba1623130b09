"""Losses made at random: layers, views, reductions and everything that mixes samples, in any order.

A program is a list of steps. Each takes some of the values so far and parameters, and adds a value; what it needs to be
repeated (indices, constants) is drawn once. Sizes are small, and so are values: every step ends bounded.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tests.curvature.corpus.build import Params

__all__ = ["Program", "random_program"]

Step = Callable[[list[Tensor], Params], Tensor]
#: Draws a step for a value of some shape, or says that none fits.
Maker = Callable[["Draw", int], "Step | None"]

#: No value has more entries.
LARGEST = 72


class Draw:
    """One program while it is drawn."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.numbers = torch.Generator().manual_seed(seed)
        self.params: Params = {}
        self.steps: list[Step] = []
        self.values: list[Tensor] = []
        self.trail: list[str] = []

    def randn(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.numbers, dtype=torch.float64)

    def randint(self, high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=self.numbers)

    def param(self, *shape: int) -> str:
        """A parameter of the shape: a new one, or one that is there already."""
        same = [name for name, tensor in self.params.items() if tensor.shape == shape]
        if same and self.random.random() < 0.3:
            return self.random.choice(same)
        name = f"p{len(self.params)}"
        self.params[name] = self.randn(*shape) / max(1, shape[-1]) ** 0.5 if shape else self.randn()
        return name

    def shape(self, at: int) -> tuple[int, ...]:
        return tuple(self.values[at].shape)

    def axis(self, at: int) -> int:
        return self.random.randrange(self.values[at].dim())

    def add(self, name: str, step: Step) -> bool:
        """Take the step, if what it gives is neither empty nor large."""
        value = step(self.values, self.params)
        if not 0 < value.numel() <= LARGEST:
            return False
        self.steps.append(step)
        self.values.append(value)
        self.trail.append(f"{name} {list(value.shape)}")
        return True


@dataclass
class Program:
    """A loss of some parameters.

    Attributes:
        params: what it was drawn with.
        trail: the steps' names, each with what it was made from and its shape.
    """

    params: Params
    trail: str
    start: Tensor
    steps: list[Step]
    ends: list[Step]

    def values(self, params: Params) -> list[Tensor]:
        """The input and what every step gives."""
        values = [self.start]
        for step in self.steps:
            values.append(step(values, params))
        return values

    def loss(self, values: list[Tensor], params: Params) -> Tensor:
        """The sum of what comes of the values at the program's ends."""
        return torch.stack([end(values, params) for end in self.ends]).sum()

    def __call__(self, params: Params) -> Tensor:
        return self.loss(self.values(params), params)


def random_program(seed: int, length: int = 9, kinds: tuple[int, ...] = (3, 3, 3, 2, 2)) -> Program:
    """The same program for the same seed, of `length` steps; how likely which kind of step is."""
    draw = Draw(seed)
    start = draw.randn(*draw.random.choice([(4, 3), (3, 2, 3), (2, 3, 4), (6, 2), (3, 2, 2, 2), (1, 4), (2, 2)]))
    draw.values.append(start)
    draw.add("input", lambda v, p: v[0])
    draw.trail[-1] = f"input {list(start.shape)}"
    _take(draw, LAYERS, 0)
    while len(draw.steps) < length:
        recent = draw.random.random() < 0.7
        at = len(draw.values) - 1 if recent else draw.random.randrange(1, len(draw.values))
        _take(draw, draw.random.choices([LAYERS, CURVES, SHAPES, MIXERS, JOINS], kinds)[0], at)
    ends = [_end(draw, at) for at in {len(draw.values) - 1, draw.random.randrange(2, len(draw.values))}]
    return Program(draw.params, ", ".join(draw.trail), start, draw.steps, ends)


def _take(draw: Draw, makers: dict[str, Maker], at: int) -> None:
    name = draw.random.choice(list(makers))
    step = makers[name](draw, at)
    if step is not None:
        draw.add(f"{name}({at})", step)


def _end(draw: Draw, at: int) -> Step:
    """From a value to a number."""
    weights = draw.randn(*draw.shape(at))
    name, end = draw.random.choice(list(ENDS.items()))
    draw.trail.append(f"{name}({at})")
    return lambda v, p: end(v[at], weights)


def _matrix(value: Tensor) -> Tensor:
    return value.reshape(-1, value.shape[-1] if value.dim() else 1)


ENDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "exp mean": lambda v, w: v.tanh().exp().mean(),
    "squares": lambda v, w: (v - w).square().sum(),
    "mse": functional.mse_loss,
    "mse of all": lambda v, w: functional.mse_loss(v, w, reduction="sum") * 0.3,
    "huber": functional.huber_loss,
    "weighted": lambda v, w: (w * v.sin()).sum(),
    "root": lambda v, w: (v - w).square().mean().sqrt(),
    "logsumexp": lambda v, w: v.flatten().logsumexp(0),
    "entropy": lambda v, w: -(v.softmax(-1) * w.softmax(-1)).sum(-1).log().mean(),
    "cross entropy": lambda v, w: functional.cross_entropy(_matrix(v), _matrix(w).softmax(-1)),
    "square of mean": lambda v, w: v.mean() ** 2 + v.cos().mean(),
    "linear": lambda v, w: (w * v).sum(),
}


def _linear(draw: Draw, at: int) -> Step | None:
    if not draw.values[at].dim():
        return None
    width = draw.random.choice([1, 2, 3])
    weight = draw.param(width, draw.shape(at)[-1])
    bias = draw.param(width) if draw.random.random() < 0.5 else None
    return lambda v, p: functional.linear(v[at], p[weight], None if bias is None else p[bias])


def _matmul(draw: Draw, at: int) -> Step | None:
    """The parameter on the left: rows are mixed."""
    if draw.values[at].dim() < 2:
        return None
    weight = draw.param(draw.random.choice([2, 3]), draw.shape(at)[-2])
    return lambda v, p: p[weight] @ v[at]


def _batched(draw: Draw, at: int) -> Step | None:
    """A matrix for each index of the first axis."""
    if draw.values[at].dim() != 3:
        return None
    batch, _, inner = draw.shape(at)
    weight = draw.param(batch, inner, 2)
    return lambda v, p: torch.bmm(v[at], p[weight])


def _convolution(draw: Draw, at: int) -> Step | None:
    if draw.values[at].dim() not in (2, 3) or draw.shape(at)[-1] < 2:
        return None
    inner = draw.shape(at)[-2]
    groups = inner if draw.random.random() < 0.3 else 1
    outer = groups * draw.random.choice([1, 2])
    kernel, stride, padding = draw.random.choice([1, 2]), draw.random.choice([1, 2]), draw.random.choice([0, 1])
    if draw.random.random() < 0.3:
        weight = draw.param(inner, 2, kernel)
        return lambda v, p: functional.conv_transpose1d(v[at], p[weight], stride=stride)
    weight = draw.param(outer, inner // groups, kernel)
    return lambda v, p: functional.conv1d(v[at], p[weight], stride=stride, padding=padding, groups=groups)


def _scale(draw: Draw, at: int) -> Step | None:
    shape = [size if draw.random.random() < 0.6 else 1 for size in draw.shape(at)]
    shape = shape[draw.random.randrange(len(shape) + 1) :]
    scale = draw.param(*shape)
    how = draw.random.choice(["mul", "add", "div", "sin"])
    if how == "mul":
        return lambda v, p: v[at] * p[scale]
    if how == "add":
        return lambda v, p: v[at] + p[scale]
    if how == "div":
        return lambda v, p: v[at] / (1 + p[scale].square())
    return lambda v, p: (v[at] * p[scale]).sin()


def _norm(draw: Draw, at: int) -> Step | None:
    if not draw.values[at].dim() or draw.shape(at)[-1] < 2:
        return None
    width = draw.shape(at)[-1]
    scale, shift = draw.param(width), draw.param(width)
    return lambda v, p: functional.layer_norm(v[at], (width,), p[scale], p[shift], eps=0.1)


def _lookup(draw: Draw, at: int) -> Step | None:
    """Rows of a table, as many as the value has on its first axis."""
    if draw.values[at].dim() < 1:
        return None
    tail = draw.shape(at)[1:]
    table = draw.param(3, *tail[-1:])
    index = draw.randint(3, draw.shape(at)[0], *tail[:-1])
    return lambda v, p: v[at].sin() + functional.embedding(index, p[table]) if tail else v[at] + p[table][index]


LAYERS: dict[str, Maker] = {
    "linear": _linear,
    "linear again": _linear,
    "matmul": _matmul,
    "bmm": _batched,
    "convolution": _convolution,
    "scale": _scale,
    "layer norm": _norm,
    "lookup": _lookup,
}


def _of(function: Callable[[Tensor], Tensor]) -> Maker:
    return lambda draw, at: lambda v, p: function(v[at])


def _along(function: Callable[[Tensor, int], Tensor]) -> Maker:
    def make(draw: Draw, at: int) -> Step | None:
        if not draw.values[at].dim():
            return None
        axis = draw.axis(at)
        return lambda v, p: function(v[at], axis)

    return make


CURVES: dict[str, Maker] = {
    "tanh": _of(torch.tanh),
    "sin": _of(torch.sin),
    "gelu": _of(functional.gelu),
    "silu": _of(functional.silu),
    "softplus": _of(functional.softplus),
    "exp": _of(lambda v: v.tanh().exp()),
    "square": _of(lambda v: v.tanh().square()),
    "sqrt": _of(lambda v: (1 + v.square()).sqrt()),
    "relu": _of(torch.relu),
}


def _reshape(draw: Draw, at: int) -> Step | None:
    rest = draw.values[at].numel()
    shape: list[int] = []
    while rest > 1 and len(shape) < 3:
        factor = draw.random.choice([one for one in range(1, rest + 1) if rest % one == 0])
        shape.append(factor)
        rest //= factor
    shape.append(rest)
    return lambda v, p: v[at].reshape(shape)


def _permute(draw: Draw, at: int) -> Step | None:
    order = list(range(draw.values[at].dim()))
    draw.random.shuffle(order)
    return lambda v, p: v[at].permute(order)


def _expand(draw: Draw, at: int) -> Step | None:
    """Repeats by a new axis, which may be joined with one that is there."""
    axis, times = draw.random.randrange(draw.values[at].dim() + 1), draw.random.choice([2, 3])
    joined = draw.random.random() < 0.6 and axis < draw.values[at].dim()

    def step(v: list[Tensor], p: Params) -> Tensor:
        wide = v[at].unsqueeze(axis)
        wide = wide.expand(*wide.shape[:axis], times, *wide.shape[axis + 1 :])
        return wide.flatten(axis, axis + 1) if joined else wide

    return step


def _part(draw: Draw, at: int) -> Step | None:
    if not draw.values[at].dim():
        return None
    axis = draw.axis(at)
    size = draw.shape(at)[axis]
    start = draw.random.randrange(size)
    stop, by = draw.random.randrange(start, size) + 1, draw.random.choice([1, 1, 2])
    index = (slice(None),) * axis + (slice(start, stop, by),)
    return lambda v, p: v[at][index]


def _select(draw: Draw, at: int) -> Step | None:
    if draw.values[at].dim() < 2:
        return None
    axis = draw.axis(at)
    which = draw.random.randrange(draw.shape(at)[axis])
    return lambda v, p: v[at].select(axis, which)


def _pad(draw: Draw, at: int) -> Step | None:
    if not draw.values[at].dim():
        return None
    pad = [draw.random.choice([0, 1, -1]) for _ in range(2 * draw.random.choice([1, draw.values[at].dim()]))]
    if any(size + sum(pad[2 * i : 2 * i + 2]) < 1 for i, size in enumerate(reversed(draw.shape(at)))):
        return None
    return lambda v, p: functional.pad(v[at], pad, value=0.5)


def _triangle(draw: Draw, at: int) -> Step | None:
    mask = draw.randn(*draw.shape(at)) > -0.5
    return lambda v, p: v[at].masked_fill(~mask, 0.3)


SHAPES: dict[str, Maker] = {
    "reshape": _reshape,
    "reshape again": _reshape,
    "permute": _permute,
    "expand": _expand,
    "part": _part,
    "select": _select,
    "pad": _pad,
    "masked": _triangle,
    "flip": _along(lambda v, axis: v.flip(axis)),
    "swap": _along(lambda v, axis: v.transpose(axis, -1)),
    "in one": _along(lambda v, axis: torch.cat(v.unbind(axis), dim=0) if v.dim() > 1 else v),
    "halves": _along(lambda v, axis: v.chunk(2, axis)[0] * 2 - v.chunk(2, axis)[-1].sum(axis, keepdim=True)),
    "squeezed": _of(torch.squeeze),
    "contiguous": _of(lambda v: v.contiguous() + 0.1),
}


def _rows(draw: Draw, at: int) -> Step | None:
    if not draw.values[at].dim():
        return None
    axis = draw.axis(at)
    index = draw.randint(draw.shape(at)[axis], draw.shape(at)[axis])
    return lambda v, p: v[at].index_select(axis, index)


def _gather(draw: Draw, at: int) -> Step | None:
    if not draw.values[at].dim():
        return None
    axis = draw.axis(at)
    index = draw.randint(draw.shape(at)[axis], *draw.shape(at))
    return lambda v, p: v[at].gather(axis, index)


def _batch_norm(draw: Draw, at: int) -> Step | None:
    shape = draw.shape(at)
    if not 2 <= len(shape) <= 4 or draw.values[at].numel() // shape[1] < 2:
        return None
    training = draw.random.random() < 0.6
    mean, variance = draw.randn(shape[1]), draw.randn(shape[1]).square() + 0.5
    return lambda v, p: functional.batch_norm(v[at], mean.clone(), variance.clone(), training=training, eps=0.1)


def _group_norm(draw: Draw, at: int) -> Step | None:
    shape = draw.shape(at)
    if len(shape) < 2 or draw.values[at].numel() // shape[0] < 2:
        return None
    return lambda v, p: functional.group_norm(v[at], 1, eps=0.1)


def _pool(draw: Draw, at: int) -> Step | None:
    if draw.values[at].dim() not in (2, 3) or draw.shape(at)[-1] < 2:
        return None
    pools: list[Callable[..., Tensor]] = [torch.max_pool1d, torch.avg_pool1d]
    pool = draw.random.choice(pools)
    return lambda v, p: pool(v[at], 2, 1)


def _gram(draw: Draw, at: int) -> Step | None:
    if draw.values[at].dim() < 2:
        return None
    return lambda v, p: (v[at] @ v[at].transpose(-1, -2)).tanh()


MIXERS: dict[str, Maker] = {
    "rows": _rows,
    "gather": _gather,
    "batch norm": _batch_norm,
    "group norm": _group_norm,
    "pool": _pool,
    "gram": _gram,
    "roll": _along(lambda v, axis: v.roll(1, axis)),
    "cumsum": _along(lambda v, axis: v.cumsum(axis).tanh()),
    "sort": _along(lambda v, axis: v.sort(axis).values),
    "softmax": _along(lambda v, axis: v.softmax(axis)),
    "log softmax": _along(lambda v, axis: v.log_softmax(axis)),
    "sum": _along(lambda v, axis: v.sum(axis)),
    "mean kept": _along(lambda v, axis: v.mean(axis, keepdim=True)),
    "amax": _along(lambda v, axis: v.amax(axis)),
    "logsumexp": _along(lambda v, axis: v.logsumexp(axis)),
    "variance": _along(lambda v, axis: v.var(axis, unbiased=False, keepdim=True)),
    "norm": _along(lambda v, axis: (v + 3).norm(dim=axis, keepdim=True)),
    "centered": _along(lambda v, axis: v - v.mean(axis, keepdim=True)),
    "scan": _along(lambda v, axis: (v.tanh() + 2).cumprod(axis).log()),
    "difference": _along(lambda v, axis: v - v.roll(1, axis).detach() * v),
}


def _both(join: Callable[[Tensor, Tensor], Tensor]) -> Maker:
    """Two values, broadcast against each other where that is possible."""

    def make(draw: Draw, at: int) -> Step | None:
        others = list(range(1, len(draw.values)))
        draw.random.shuffle(others)
        for other in others:
            try:
                torch.broadcast_shapes(draw.shape(at), draw.shape(other))
            except RuntimeError:
                continue
            return lambda v, p, other=other: join(v[at], v[other])  # type: ignore[misc]
        return None

    return make


def _joined(draw: Draw, at: int) -> Step | None:
    others = [i for i in range(1, len(draw.values)) if draw.shape(i) == draw.shape(at)]
    other, axis = draw.random.choice(others or [at]), draw.random.randrange(max(1, draw.values[at].dim()))
    if draw.random.random() < 0.5 and draw.values[at].dim():
        return lambda v, p: torch.cat([v[at], v[other]], axis)
    return lambda v, p: torch.stack([v[at], v[other]], axis)


def _outer(draw: Draw, at: int) -> Step | None:
    """Every entry of the last axis with every other."""
    if not draw.values[at].dim():
        return None
    return lambda v, p: (v[at].unsqueeze(-1) - v[at].unsqueeze(-2)).sin()


JOINS: dict[str, Maker] = {
    "add": _both(torch.add),
    "mul": _both(lambda a, b: a.tanh() * b),
    "where": _both(lambda a, b: torch.where(torch.linspace(-1, 1, a.shape[-1] if a.dim() else 1) > 0, a, b)),
    "max": _both(torch.maximum),
    "joined": _joined,
    "outer": _outer,
}
