"""Progress bars: that they appear where they are wanted, and that nothing else does."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gradgraph.curvature import progress
from gradgraph.curvature.progress import Progress

#: A notebook's kernel as tqdm knows it, without ipywidgets.
IN_A_NOTEBOOK = """
import sys, types
sys.modules["ipykernel.zmqshell"] = types.ModuleType("ipykernel.zmqshell")
sys.modules["IPython"] = types.ModuleType("IPython")
sys.modules["IPython"].get_ipython = lambda: None
sys.modules["ipywidgets"] = None
from gradgraph.curvature import progress
progress._DELAY = {delay}
with progress.Progress(3, "hessian", {wanted}) as bar:
    bar.advance(3)
"""


@pytest.mark.parametrize(
    ("wanted", "delay", "shows"), [(None, 0, True), (True, 0, True), (False, 0, False), (None, 1, False)]
)
@pytest.mark.parametrize("filter_", ["default", "error"])
def test_a_notebook_without_widgets_has_a_plain_bar_and_no_warning(
    wanted: bool | None, delay: int, shows: bool, filter_: str
) -> None:
    program = IN_A_NOTEBOOK.format(delay=delay, wanted=wanted)
    done = subprocess.run([sys.executable, "-W", filter_, "-c", program], capture_output=True, text=True, check=True)
    assert "Warning" not in done.stderr
    assert ("hessian" in done.stderr) is shows


def test_elsewhere_only_a_terminal_has_one(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_DELAY", 0)
    for wanted, shows in ((None, False), (True, True), (False, False)):
        with Progress(3, "hessian", wanted) as bar:
            bar.advance(3)
        assert ("hessian" in capsys.readouterr().err) is shows
