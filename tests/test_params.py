"""What may be given as params, and which names are sure."""

from __future__ import annotations

import sys
import weakref
from typing import Any

import pytest
import torch
from torch import nn

from gradgraph import InputError
from gradgraph.params import caller_namespace, named_tensors, names_in


def names(params: Any, namespace: dict[str, Any] | None = None) -> list[tuple[str | None, str | None]]:
    return [(item.name, item.module) for item in named_tensors(params, namespace)]


def test_every_kind_of_params() -> None:
    net = nn.Sequential(nn.Linear(1, 1))
    w = torch.ones(1, requires_grad=True)
    whole = [("0.weight", "0"), ("0.bias", "0")]
    assert names(None) == []
    assert names(net) == whole
    assert names([net]) == whole
    assert names([net, nn.Linear(1, 1, bias=False)]) == [("0.0.weight", "0.0"), ("0.0.bias", "0.0"), ("1.weight", "1")]
    assert names({"net": net, "w": w}) == [("net.0.weight", "net.0"), ("net.0.bias", "net.0"), ("w", None)]
    assert names(dict(net.named_parameters())) == whole
    assert names(net.named_parameters()) == whole
    assert names(net.parameters()) == [(None, None)] * 2
    assert names(net.parameters(), {"net": net}) == [("net.0.weight", None), ("net.0.bias", None)]
    assert names(w) == [(None, None)]
    assert names([w, w]) == [(None, None)]
    assert names(torch.optim.SGD(net.parameters(), 0.1)) == [(None, None)] * 2
    assert names(torch.optim.SGD(net.named_parameters(), 0.1)) == [("0.weight", None), ("0.bias", None)]


def test_a_tied_weight_belongs_to_no_module() -> None:
    net = nn.ModuleDict({"a": nn.Linear(1, 1), "b": nn.Linear(1, 1)})
    net["b"].weight = net["a"].weight
    assert names(net) == [("a.weight", None), ("a.bias", "a"), ("b.bias", "b")]


def test_an_overridden_named_parameters_is_not_run() -> None:
    class Odd(nn.Linear):
        def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError("user code")

    assert names(Odd(1, 1)) == [("weight", None), ("bias", None)] or names(Odd(1, 1)) == [("weight", ""), ("bias", "")]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (3, "params expected a Module, an optimizer, a mapping from name to tensor, or an iterable .* got int"),
        ([3], "got int at position 0"),
        ({"w": 3}, "got int under the name 'w'"),
        ([("w", torch.ones(1)), ("w", torch.ones(1))], "gives the name 'w' to two different tensors"),
    ],
)
def test_other_things_are_refused(params: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        named_tensors(params)


def test_names_are_taken_only_where_sure() -> None:
    net = nn.Linear(1, 1)
    whole = nn.Sequential(net)
    w, v = torch.ones(1), torch.ones(1)
    space = {
        "net": net,
        "whole": whole,
        "w": w,
        "also_w": w,
        "v": v,
        "all": [w, v],
        "p": net.weight,
        "_x": torch.ones(1),
    }
    assert names_in(space) == {
        id(net.weight): "whole.0.weight",  # a module wins over a loop's leftover, the outer module over its part
        id(net.bias): "whole.0.bias",
        id(w): "all[0]",  # two variables: not sure; one list holds it
        id(v): "v",
    }


def test_the_callers_variables() -> None:
    inner = 1

    def called() -> dict[str, Any]:
        return caller_namespace()

    found = called()
    assert found["inner"] == inner
    assert found["pytest"] is pytest


def test_asking_for_names_keeps_no_variable_alive() -> None:
    local = torch.ones(1)
    alive = weakref.ref(local)
    assert caller_namespace(0)["local"] is local
    del local
    assert alive() is None


def test_a_functions_own_locals_dict_is_not_emptied() -> None:
    mine = locals()
    kept = torch.ones(1)
    assert caller_namespace(0)["kept"] is kept
    if sys.version_info < (3, 13):  # since then a dict of its own at each call
        assert mine["kept"] is kept
