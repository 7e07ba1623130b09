"""A folder with one target of each kind, and the command line in this process."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gradgraph.cli import main

TRAIN = """\
'''A training loop, and what a target can name.'''
import sys
import torch
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1)).double()
optimizer = torch.optim.SGD(model.parameters(), 0.1)
data = torch.randn(8, 2, dtype=torch.float64)
epochs = int(sys.argv[sys.argv.index("--epochs") + 1]) if "--epochs" in sys.argv else 2
for epoch in range(epochs):
    loss = model(data).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print("epoch", epoch)
loss = model(data).square().mean()
open("ran", "w").close()
def make():
    weight = torch.tensor([2.0, 3.0], requires_grad=True)
    return weight.prod()
"""

RunCli = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: `train.py` and `package/module.py`."""
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text(TRAIN)
    Path("package").mkdir()
    Path("package/module.py").write_text(TRAIN)
    return tmp_path


@pytest.fixture(scope="session")
def saved_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A graph saved with gradients and a Hessian."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("saved"))
        Path("train.py").write_text(TRAIN)
        result = CliRunner().invoke(main, ["trace", "train.py", "-gH", "-o", "graph.json"])
        assert result.exit_code == 0, result.output
        return Path("graph.json").read_bytes()


@pytest.fixture
def saved(folder: Path, saved_bytes: bytes) -> Path:
    """`graph.json` in the working directory."""
    path = folder / "graph.json"
    path.write_bytes(saved_bytes)
    return path


@pytest.fixture
def run_cli(folder: Path) -> RunCli:
    """Run a command line (without its first word) in this process."""

    def run(line: str) -> Result:
        return CliRunner().invoke(main, shlex.split(line), prog_name="gradgraph")

    return run
