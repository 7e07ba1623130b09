"""What the corpus is built from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

Params: TypeAlias = "dict[str, Tensor]"
Loss: TypeAlias = "Callable[[Params], Tensor]"
Built: TypeAlias = "tuple[Loss, Params]"
Build: TypeAlias = "Callable[[], Built]"


def of_module(module: nn.Module, forward: Callable[[Callable[..., Any]], Any]) -> Built:
    """A loss of the module's parameters, computed on whatever tensors stand for them."""
    module.double()
    params = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}

    def loss(tensors: Params) -> Tensor:
        result: Tensor = forward(lambda *args, **options: torch.func.functional_call(module, tensors, args, options))
        return result

    return loss, params


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def seeded(build: Build) -> Build:
    """The same numbers at every call, and the global generator as before."""

    def again() -> Built:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return build()

    return again


def named(*builds: Build) -> Mapping[str, Build]:
    return {build.__name__: build for build in builds}
