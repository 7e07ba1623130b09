"""TARGETs: what each form runs and traces, what the program notices of it (nothing), and how each fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gradgraph.errors import GradGraphError, InputError, ReadError, TargetError
from gradgraph.readwrite import write_json
from gradgraph.target import Target, opened, parse_target
from gradgraph.tracer import trace

TRAIN = """\
import torch
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), 0.1)
data = torch.randn(8, 3)
for step in range(3):
    loss = model(data).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
fresh = model(data).square().mean()
plain = torch.ones(2)
number = 3
def make():
    weight = torch.tensor([2.0, 3.0], requires_grad=True)
    return {"a": [weight.prod()], "b": 1}
def needs(x):
    return x
def nothing():
    pass
class Holder:
    def method(self):
        return fresh * 2
holder = Holder()
"""


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def script(source: str, name: str = "train.py") -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(source)
    return name


def failure(text: str, *arguments: str, **options: bool) -> str:
    with pytest.raises(GradGraphError) as caught, opened(text, arguments, **options):
        pass
    message = str(caught.value)
    assert "\n" not in message
    return message


# ----------------------------------------------------------------------------------------------------- the text


def test_every_form_is_told_apart() -> None:
    script(TRAIN, "sub/train.py")
    Path("graph.json").write_text("{}")
    assert parse_target("sub/train.py") == Target("sub/train.py", "script", "sub/train.py")
    assert parse_target("sub/train.py:loss") == Target("sub/train.py:loss", "script", "sub/train.py", "loss")
    assert parse_target("sub.train:a.b") == Target("sub.train:a.b", "module", "sub.train", "a.b")
    assert parse_target("graph.json") == Target("graph.json", "saved", "graph.json")
    stems = {
        text: parse_target(text).stem for text in ("sub/train.py", "sub/train.py:a.b", "sub.train:f", "graph.json")
    }
    assert list(stems.values()) == ["train", "train-a.b", "sub.train-f", "graph"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trian.py", "there is no file trian.py; expected script.py, script.py:name, package.module:name or a saved "
         "graph.json. Did you mean train.py?"),
        ("trian.py:loss", "there is no file trian.py; expected script.py, script.py:name, package.module:name or a "
         "saved graph.json. Did you mean train.py?"),
        ("no/train.py", "there is no folder no, so no no/train.py; expected script.py, script.py:name, "
         "package.module:name or a saved graph.json."),
        (".", ". is a folder; expected script.py, script.py:name, package.module:name or a saved graph.json."),
        ("package.module", "there is no file package.module; expected script.py, script.py:name, package.module:name "
         "or a saved graph.json. For a module, name its tensor or function: package.module:loss"),
        ("graph.json:loss", "graph.json is a saved graph and holds no names; give it as graph.json alone."),
        ("a.graphml", "a.graphml is no target; expected script.py, script.py:name, package.module:name or a saved "
         "graph.json: GraphML is written for other programs; save the graph as .json instead."),
    ],
)  # fmt: skip
def test_a_text_that_is_no_target(text: str, message: str) -> None:
    script(TRAIN)
    Path("graph.json").write_text("{}")
    Path("a.graphml").write_text("")
    with pytest.raises(TargetError) as caught:
        parse_target(text)
    assert str(caught.value) == message


# ------------------------------------------------------------------------------------------------------- scripts


def test_a_script_runs_as_python_would_run_it(capfd: pytest.CaptureFixture[str]) -> None:
    script("value = 41", "sub/helper.py")
    script(
        "import json, os, sys, helper, torch\n"
        "facts = [sys.argv, sys.path[0], os.getcwd(), __name__, __file__, __spec__, __package__, __doc__, helper.value,"
        "         sys.modules['__main__'].__dict__ is globals(), f.__module__ if 'f' in globals() else None]\n"
        "print(json.dumps(facts))\n"
        "torch.ones(1, requires_grad=True).sum().backward()\n",
        "sub/facts.py",
    )
    alone = subprocess.run(
        [sys.executable, "sub/facts.py", "--epochs", "3"], capture_output=True, text=True, check=True
    ).stdout
    before = list(sys.argv), list(sys.path), sys.modules["__main__"], os.getcwd()
    with opened("sub/facts.py", ["--epochs", "3"]):
        assert "helper" in sys.modules
    assert (sys.argv, sys.path, sys.modules["__main__"], os.getcwd()) == before
    assert "helper" not in sys.modules
    out, err = capfd.readouterr()
    assert out == ""
    assert json.loads(err) == json.loads(alone)


def test_the_last_backward_pass_is_the_graph_as_it_was_before_the_pass() -> None:
    with opened(script(TRAIN)) as one:
        assert one.passes == 3
        assert not one.graph.is_live
        assert sorted(one.graph.leaves().values()) == [
            "model.0.bias",
            "model.0.weight",
            "model.2.bias",
            "model.2.weight",
        ]
        states = {saved["state"] for _, data in one.graph.nodes(data=True) for saved in data["saved"]}
    assert states == {"live"}


def test_leaves_take_the_names_of_locals_of_running_functions_and_of_self() -> None:
    source = """
import torch
class Trainer:
    def __init__(self):
        self.net = torch.nn.Linear(2, 1)
    def fit(self, scale):
        offset = torch.ones(1, requires_grad=True)
        self.step((self.net(torch.ones(1, 2)) * scale + offset).sum())
    def step(self, loss):
        loss.backward()
if __name__ == "__main__":
    gain = torch.ones(1, requires_grad=True)
    Trainer().fit(gain)
"""
    with opened(script(source)) as one:
        assert set(one.graph.leaves().values()) == {"self.net.weight", "self.net.bias", "offset", "gain"}


def test_the_program_does_not_notice_that_it_is_watched() -> None:
    source = """
import gc, torch, weakref
def step():
    x = torch.ones(3, requires_grad=True)
    y = (x * 2).exp()
    activation, node = weakref.ref(y), y.grad_fn
    y.sum().backward()
    assert node._raw_saved_result.data is None, "the pass frees its graph as ever"
    gone = torch.zeros(1)
    held = weakref.ref(gone)
    z = (x * 3).sum()
    z.backward()
    del gone, y
    assert held() is None and activation() is None
    assert x._backward_hooks is None and node.__class__ is type(node)
    return x
def inspecting():
    x = torch.ones(3, requires_grad=True)
    mine = locals()
    names = set(mine)
    x.sum().backward()
    assert set(mine) == names, set(mine)
inspecting()
state = torch.get_rng_state()
x = step()
assert torch.equal(state, torch.get_rng_state())
assert x.grad.shape == (3,) and x.requires_grad
"""
    with opened(script(source), gradients=True) as one:
        assert one.passes == 3
    with opened(script(source)) as one:
        assert one.passes == 3


def test_only_the_newest_graph_is_held() -> None:
    source = """
import torch
x = torch.ones(3, requires_grad=True)
for step in range(4):
    (x * 2).sum().backward()
    graphs = [one for one in gc.get_objects() if type(one) is AutogradGraph]
    assert sum(len(graph) > 0 for graph in graphs) <= 1 + before, graphs
    assert sum(graph.is_live for graph in graphs) <= before, graphs
"""
    before = "import gc\nfrom gradgraph.graph import AutogradGraph\n"
    before += "before = sum(type(one) is AutogradGraph for one in gc.get_objects())\n"
    with opened(script(before + source)) as one:
        assert one.passes == 4


def test_a_double_backward_is_told_apart_by_what_the_passes_made() -> None:
    source = """
import torch
x = torch.tensor([1.0, 2.0], requires_grad=True)
loss = (x ** 3).sum()
gradient, = torch.autograd.grad(loss, x, create_graph=True)
penalty = gradient.square().sum()
"""
    with opened(script(source + "penalty.backward()")) as one:
        assert (one.passes, one.graph.graph["orders"]) == (2, [0, 1])
        assert {data["provenance"] for _, data in one.graph.nodes(data=True)} == {"recorded"}
    with opened(script(source) + ":penalty") as one:
        assert one.graph.graph["orders"] == [0, 1]


def test_passes_inside_a_pass_do_not_count() -> None:
    source = """
import torch
from torch.utils.checkpoint import checkpoint
x = torch.ones(3, requires_grad=True)
checkpoint(lambda x: x.exp(), x, use_reentrant=True).sum().backward()
"""
    with opened(script(source)) as one:
        assert one.passes == 1
        assert {data["kind"] for _, data in one.graph.nodes(data=True)} == {"op", "opaque", "leaf"}


def test_a_pass_on_another_thread_counts() -> None:
    source = """
import threading, torch
def work():
    inner = torch.ones(3, requires_grad=True)
    inner.exp().sum().backward()
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
    with opened(script(source)) as one:
        assert list(one.graph.leaves().values()) == ["inner"]


@pytest.mark.parametrize("last", ["loss.backward()", "torch.autograd.grad(loss, [a, b])"])
def test_gradients_are_those_of_the_users_own_pass(last: str) -> None:
    source = f"""
import torch
a = torch.tensor([3.0, 4.0], requires_grad=True)
b = torch.tensor(2.0, requires_grad=True)
loss = (a * a).sum() * b
{last}
"""
    with opened(script(source), gradients=True) as one:
        norms = {one.graph.nodes[key]["name"]: stats.norm for key, stats in one.statistics.items()}
    assert norms["a"] == pytest.approx(20.0)
    assert norms["b"] == pytest.approx(25.0)


def test_a_kept_pass_can_be_differentiated_again_at_the_values_that_it_had() -> None:
    source = TRAIN.replace("loss.backward()", "loss.backward(); at = [p.detach().clone() for p in model.parameters()]")
    with opened(script(source), keep=True) as one:
        kept = one.kept
        assert kept is not None
        kept.restore()
        (loss,) = kept.roots
        again = torch.autograd.grad(loss, list(kept.leaves.values()), create_graph=True)
        main = sys.modules["__main__"]
        assert all(torch.equal(p, q) for p, q in zip(main.model.parameters(), main.at, strict=True))
        fresh = torch.autograd.grad(main.model(main.data).square().mean(), list(kept.leaves.values()))
        assert loss.item() == pytest.approx(main.model(main.data).square().mean().item())
    assert all(torch.equal(p, q) for p, q in zip(again, fresh, strict=True))


# ------------------------------------------------------------------------------------------------ names, modules


def test_names_after_the_run() -> None:
    path = script(TRAIN)
    with opened(f"{path}:fresh") as one:
        assert one.graph.is_live
        assert "model.0.weight" in one.graph.leaves().values()
    with opened(f"{path}:make") as one:  # a function, a nesting, names from its locals
        assert list(one.graph.leaves().values()) == ["weight"]
    with opened(f"{path}:holder.method") as one:
        assert one.graph.is_live
    before = sys.getprofile()
    with opened("train:make") as one:
        assert list(one.graph.leaves().values()) == ["weight"]
    assert sys.getprofile() is before
    assert "train" not in sys.modules


def test_a_graph_that_the_program_traced_itself_is_taken_as_it_is() -> None:
    source = "import torch, gradgraph\nx = torch.ones(1, requires_grad=True)\ng = gradgraph.trace(x.exp())"
    with opened(f"{script(source)}:g") as one:
        assert list(one.graph.leaves().values()) == ["x"]


def test_a_saved_graph() -> None:
    x = torch.ones(2, requires_grad=True)
    write_json(trace(x.exp()), "graph.json")
    with opened("graph.json") as one:
        assert list(one.graph.leaves().values()) == ["x"]
    assert failure("graph.json", "--epochs") == (
        "graph.json is a saved graph and takes no arguments; leave out what follows `--`."
    )


# -------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import torch\ndef f():\n    raise ValueError('no\\n good')\nf()", "train.py:3: the program raised ValueError"
         ": no good (expected it to run to its end; `gradgraph --debug ...` shows the traceback)."),
        ("import torch\nx = torch.ones(2)\nx.backward()", "train.py:3: the program raised RuntimeError: element 0 of "
         "tensors does not require grad and does not have a grad_fn (expected it to run to its end; `gradgraph --debug "
         "...` shows the traceback)."),
        ("x = 1\ny = (", "train.py:2: the program raised SyntaxError: '(' was never closed (train.py, line 2) "
         "(expected it to run to its end; `gradgraph --debug ...` shows the traceback)."),
        ("import sys\nsys.exit(3)", "train.py:2: the program exited with status 3, expected status 0. If it lacked "
         "arguments, give them after `--`, for example: gradgraph render script.py -- --epochs 3"),
        ("import sys\nsys.exit('usage: me')", "train.py:2: the program exited with the message 'usage: me', expected "
         "status 0. If it lacked arguments, give them after `--`, for example: gradgraph render script.py -- --epochs "
         "3"),
        ("x = 1", "train.py ran to its end without a backward pass (backward() or autograd.grad()), so there is no "
         "graph to show. Either let it run one, or name a function of it that returns a tensor: train.py:function"),
        ("import torch\nx = torch.ones(1, requires_grad=True)\nloss = x.exp()\nother = x.sin()", "train.py ran to its "
         "end without a backward pass (backward() or autograd.grad()), so there is no graph to show. Either let it run "
         "one, or name one of its tensors that have a graph (loss, other): train.py:loss"),
    ],
)  # fmt: skip
def test_a_script_that_fails(source: str, message: str) -> None:
    assert failure(script(source)) == message


def test_an_exit_with_status_0_is_an_end() -> None:
    with opened(script("import torch, sys\ntorch.ones(1, requires_grad=True).sum().backward()\nsys.exit(0)")) as one:
        assert one.passes == 1


def test_an_interrupt_is_the_users() -> None:
    path = list(sys.path)
    with pytest.raises(KeyboardInterrupt), opened(script("raise KeyboardInterrupt")):
        pass
    assert sys.path == path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fres", "train.py has no global 'fres' after it ran. Did you mean train.py:fresh?"),
        ("zzz", "train.py has no global 'zzz' after it ran. Its tensors with a graph are loss, fresh."),
        ("model.zzz", "model of train.py has no attribute 'zzz' after it ran, and no tensor with a graph; name a "
         "function of it that returns one."),
        ("number", "train.py:number holds no tensor: expected a tensor, a GradientEdge or a nesting of them, got an "
         "int."),
        ("nothing", "train.py:nothing holds no tensor: expected a tensor, a GradientEdge or a nesting of them, got a "
         "NoneType."),
        ("model", "train.py:model holds no tensor: expected a tensor, a GradientEdge or a nesting of them, got a "
         "Sequential."),
        ("needs", "train.py:needs cannot be called without arguments: missing a required argument: 'x'. Expected a "
         "tensor or a function of no arguments; wrap it in one that makes its inputs and returns the loss."),
        ("plain", "train.py:plain is a float32 tensor of shape [2] that does not require grad, so there is no graph to "
         "trace. Was it computed under torch.no_grad(), detached, converted by .item() or .numpy(), or from leaves "
         "without requires_grad=True? A gradient has a graph only where create_graph=True made one."),
    ],
)  # fmt: skip
def test_a_name_that_leads_nowhere(name: str, message: str) -> None:
    assert failure(f"{script(TRAIN)}:{name}") == message


def test_a_function_that_raises_says_where() -> None:
    script("def loss():\n    return 1 / 0")
    expected = (
        "loss raised ZeroDivisionError: division by zero (expected it to run to its end; `gradgraph --debug ...` "
    )
    assert failure("train.py:loss") == f"train.py:2: {expected}shows the traceback)."
    assert failure("train:loss") == f"train.py:2: {expected}shows the traceback)."


def test_a_module_that_cannot_be_imported() -> None:
    assert failure("nowhere.to:loss") == (
        f"there is no module nowhere.to to import, neither in {os.getcwd()} nor installed. Expected "
        "package.module:name; for a file give its path, for example nowhere/to.py:loss"
    )
    script("import nowhere", "broken.py")
    assert failure("broken:loss") == (
        "broken.py:1: importing broken raised ModuleNotFoundError: No module named 'nowhere' (expected it to run to "
        "its end; `gradgraph --debug ...` shows the traceback)."
    )


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "gradgraph", "schema": 99}', "\0\1"])
def test_a_damaged_saved_graph(content: str) -> None:
    Path("graph.json").write_text(content)
    with pytest.raises(ReadError, match=r"^graph\.json"), opened("graph.json"):
        pass


def test_the_cause_is_kept_for_debug() -> None:
    with pytest.raises(TargetError) as caught, opened(script("1 / 0")):
        pass
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_tensor_without_a_graph_is_an_input_error() -> None:
    with pytest.raises(InputError), opened(f"{script(TRAIN)}:plain"):
        pass
