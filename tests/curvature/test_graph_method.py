"""Method "graph" where it is tempting to read off what is not there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from gradgraph import hessian_diagonal
from tests.curvature.losses import Loss, Params, diagonal_of, full_hessian, leaves

#: Builds a loss and its parameters.
Build = Callable[[], tuple[Loss, Params]]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_exact(loss: Loss, params: Params) -> dict[str, str]:
    """Compare each way to cut the work with torch's own Hessian; the method by name."""
    blocks = full_hessian(loss, params)
    options: list[Mapping[str, Any]] = [{}, {"chunk_size": 1}, {"chunk_size": 3}, {"memory": 1}]
    for given in options:
        tensors = leaves(params)
        found = hessian_diagonal(loss(tensors), tensors, method="graph", progress=False, **given)
        for name, tensor in params.items():
            reference = diagonal_of(blocks[name][name], tensor.shape)
            scale = max(1.0, reference.abs().max().item())
            torch.testing.assert_close(found[name], reference, rtol=0, atol=1e-12 * scale, msg=f"{name} {given}")
    return {name: found.report[name].method for name in params}


def times(factor: Tensor) -> Build:
    return lambda: (lambda p: (factor * p["w"]).sin().sum(), {"w": numbers(3)})


MASKS: dict[str, Build] = {
    "integers": times(torch.tensor([[1, 0, 2], [3, 1, -1]])),
    "truth": times(torch.tensor([[True, False, True], [True, True, False]])),
    "single precision": times(numbers(2, 3).float()),
}


@pytest.mark.parametrize("build", MASKS.values(), ids=MASKS)
def test_scales_of_masks_are_read(build: Build) -> None:
    assert assert_exact(*build()) == {"w": "graph"}


COMPLEX = torch.complex(numbers(2, 3), numbers(2, 3, seed=1))
SPARSE = numbers(4, 3).relu()

OTHER_TYPES: dict[str, Build] = {
    "scale of complex numbers": lambda: (lambda p: (COMPLEX * p["w"]).abs().pow(2).sin().sum(), {"w": numbers(3)}),
    "shift of complex numbers": lambda: (lambda p: (COMPLEX + p["w"]).sin().real.sum(), {"w": numbers(3)}),
    "complex power": lambda: (lambda p: torch.pow(p["w"], 2j).real.sum(), {"w": numbers(3).exp()}),
    "sparse data": lambda: (lambda p: (SPARSE.to_sparse() @ p["w"]).tanh().sum(), {"w": numbers(3, 2)}),
    "sparse data, bias": lambda: (
        lambda p: torch.addmm(p["b"], SPARSE.to_sparse(), p["w"]).tanh().sum(),
        {"w": numbers(3, 2), "b": numbers(4, 2)},
    ),
}


@pytest.mark.parametrize("build", OTHER_TYPES.values(), ids=OTHER_TYPES)
def test_other_types_are_left_to_rows(build: Build) -> None:
    assert set(assert_exact(*build()).values()) == {"batched"}


#: What hooks may make of a gradient `[4, 5]`: its numbers mostly stay, what they depend on does not.
HOOKS: dict[str, Callable[[Tensor], Tensor | None]] = {
    "looks": lambda g: None,
    "the same": lambda g: g,
    "copy": lambda g: g.clone(),
    "detached": lambda g: g.detach(),
    "scaled": lambda g: g * (1 + 1e-9),
    "scale detached": lambda g: g / g.detach().norm() * g.norm(),
    "samples mixed": lambda g: g + g.flip(0) - g.flip(0).detach(),
    "samples of one unit mixed": lambda g: torch.cat([g[:, :4], g[:, 4:] + 1e-3 * g[:, 4:].roll(1, 0)], 1),
    "doubled in place": lambda g: g.mul_(2),
}


def hooked(place: str, hook: Callable[[Tensor], Tensor | None]) -> Loss:
    data, target = numbers(4, 3), numbers(4, 5, seed=1)

    def loss(p: Params) -> Tensor:
        def seen(tensor: Tensor, name: str) -> Tensor:
            if name == place and tensor.requires_grad:
                tensor.register_hook(hook)
            return tensor

        weight = seen(p["v"].t(), "selection") if place == "selection" else p["v"].t()
        hidden = seen(seen(torch.addmm(p["a"], data, p["w"]), "z").tanh(), "hidden")
        output = seen(seen(hidden @ weight, "output").sin().view(2, 2, 5), "view").view(4, 5)
        return torch.nn.functional.mse_loss(output, target)

    return loss


@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS)
@pytest.mark.parametrize("place", ["selection", "z", "hidden", "output"])
def test_hooks_have_their_say(place: str, hook: Callable[[Tensor], Tensor | None]) -> None:
    params = {"w": numbers(3, 5), "a": numbers(5), "v": numbers(5, 5, seed=2) / 2}
    loss = hooked(place, hook)
    expected = hessian_diagonal(loss(tensors := leaves(params)), tensors, method="accumulate", progress=False)
    for chunk in (None, 1, 3):
        tensors = leaves(params)
        found = hessian_diagonal(loss(tensors), tensors, method="graph", chunk_size=chunk, progress=False)
        for name, reference in expected.items():
            torch.testing.assert_close(found[name], reference, rtol=0, atol=1e-12)


class Tagged(torch.Tensor):
    """A subclass whose operations, views too, go through torch's own protocol."""


@pytest.mark.parametrize("method", ["auto", "batched"])
def test_parameters_of_a_subclass(method: Any) -> None:
    data, values = numbers(4, 3), numbers(3, 2)
    plain = values.clone().requires_grad_()
    tagged = torch.nn.Parameter(values.clone().as_subclass(Tagged))
    expected = hessian_diagonal((data @ plain).tanh().sum(), {"w": plain}, method="batched")
    found = hessian_diagonal((data @ tagged).tanh().sum(), {"w": tagged}, method=method)
    torch.testing.assert_close(found["w"].as_subclass(Tensor), expected["w"], rtol=0, atol=1e-12)


class Loop(torch.nn.Module):
    """A layer that is used twice, and a table that is head as well."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(5, 4)
        self.layer = torch.nn.Linear(4, 4)

    def forward(self, words: Tensor) -> Tensor:
        hidden = self.layer(self.layer(self.words(words)).tanh()).tanh()
        scores: Tensor = hidden @ self.words.weight.t()
        return scores


@pytest.mark.parametrize("method", ["graph", "batched", "hutchinson", "xdiag"])
def test_the_default_device_does_not_matter(method: Any) -> None:
    """As after torch.set_default_device("cuda"), on a model that is elsewhere."""
    torch.manual_seed(0)
    net = Loop().double()
    loss = net(torch.tensor([1, 2, 1])).square().mean()
    expected = hessian_diagonal(loss, net, method=method)
    with torch.device("meta"):
        found = hessian_diagonal(loss, net, method=method)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor)


def fed_by_itself(place: str, hook: Callable[[Tensor], Tensor | None]) -> Loss:
    """A table that is head as well, and a layer in between that is used twice."""
    words, layer_input = torch.tensor([[0, 1], [4, 1]]), numbers(1, 8)

    def loss(p: Params) -> Tensor:
        def seen(tensor: Tensor, name: str) -> Tensor:
            if name == place and tensor.requires_grad:
                tensor.register_hook(hook)
            return tensor

        hidden = seen(torch.nn.functional.embedding(words, p["table"]), "embedded").tanh()
        scores = seen(seen(hidden, "hidden") @ p["table"].t(), "scores")
        inner = seen((layer_input @ p["layer"]).tanh(), "inner")
        outer = seen(inner @ p["layer"], "outer")
        return scores.logsumexp(2).sum() + outer.sin().square().sum()

    return loss


@pytest.mark.parametrize("hook", [HOOKS[name] for name in ("looks", "detached", "scale detached")])
@pytest.mark.parametrize("place", ["embedded", "hidden", "scores", "inner", "outer"])
def test_hooks_have_their_say_where_a_parameter_feeds_itself(
    place: str, hook: Callable[[Tensor], Tensor | None]
) -> None:
    params = {"table": numbers(9, 3), "layer": numbers(8, 8, seed=1) / 3}
    loss = fed_by_itself(place, hook)
    expected = hessian_diagonal(loss(tensors := leaves(params)), tensors, method="accumulate", progress=False)
    found = hessian_diagonal(loss(tensors := leaves(params)), tensors, method="graph", progress=False)
    for name, reference in expected.items():
        torch.testing.assert_close(found[name], reference, rtol=0, atol=1e-12)
    if hook is HOOKS["looks"]:
        assert {one.method for one in found.report.values()} == {"graph"}
