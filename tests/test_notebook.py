"""How a graph shows itself: a picture where one comes in a moment, text with the reason otherwise, never an error."""

from __future__ import annotations

import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest
import torch
from nbclient import NotebookClient

import gradgraph
from gradgraph.errors import RenderError
from gradgraph.graph import AutogradGraph
from gradgraph.notebook import mimebundle
from tests.cases import CASES

EXAMPLES = Path(__file__).parents[1] / "examples"
TUTORIAL = EXAMPLES / "notebook.ipynb"
CURVATURE = EXAMPLES / "curvature.ipynb"


def small() -> AutogradGraph:
    x = torch.ones(2, requires_grad=True)
    return gradgraph.trace((x * x).sum())


def test_a_graph_shows_itself_as_a_picture() -> None:
    bundle = small()._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "image/svg+xml"}
    assert bundle["text/plain"] == "<AutogradGraph: 3 nodes, 3 edges, order 0, live>"
    assert ElementTree.fromstring(bundle["image/svg+xml"]).tag == "{http://www.w3.org/2000/svg}svg"
    assert "MulBackward0" in bundle["image/svg+xml"]


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("name", sorted(CASES))
def test_every_named_graph_shows_itself(name: str) -> None:
    case = CASES[name]()
    graph = gradgraph.trace(case.outputs, case.params, lower=case.lower)
    bundle = mimebundle(graph)
    assert "</svg>" in bundle["image/svg+xml"]


def long(steps: int) -> AutogradGraph:
    x = torch.ones(1, requires_grad=True)
    y = x
    for _ in range(steps):
        y = y * 2
    return gradgraph.trace(y)


def test_a_large_graph_is_folded() -> None:
    start = time.perf_counter()
    bundle = mimebundle(long(20_000))
    assert time.perf_counter() - start < 10
    assert "20,001 nodes folded into" in bundle["image/svg+xml"]
    assert bundle["image/svg+xml"].count('class="node"') < 160


def test_a_huge_graph_is_text_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = long(2000)
    monkeypatch.setattr(import_module("gradgraph.notebook"), "_MOST_NODES", 1000)
    bundle = mimebundle(graph)
    assert set(bundle) == {"text/plain"}
    assert "No picture here: more than 1,000 nodes. graph.render('graph.svg')" in bundle["text/plain"]
    assert "gradgraph.focus(graph, node) shows a part." in bundle["text/plain"]
    assert len(bundle["text/plain"]) < 10_000


def test_a_view_shows_itself_as_it_is() -> None:
    graph = long(300)
    view = gradgraph.fold(graph, by="repeat")
    bundle = view._repr_mimebundle_()
    assert bundle["text/plain"] == repr(view)
    assert bundle["image/svg+xml"].count('class="node"') >= len(view)
    large = mimebundle(gradgraph.fold(long(700), by="none"))
    assert "more than 600 boxes. gradgraph.fold(graph, ...)" in large["text/plain"]


def test_an_empty_graph_is_text() -> None:
    assert mimebundle(AutogradGraph()) == {"text/plain": "<AutogradGraph: 0 nodes, 0 edges, empty>"}


@pytest.mark.parametrize("error", [RenderError("no engine"), OSError(28, "No space left"), KeyError("x")])
def test_a_failure_is_told_in_the_text(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(sys.modules["gradgraph.render"], "to_svg", fail)
    bundle = mimebundle(small())
    assert set(bundle) == {"text/plain"}
    assert f"No picture here: {type(error).__name__}: " in bundle["text/plain"]
    assert "`gradgraph doctor` says what can be drawn." in bundle["text/plain"]
    assert "MulBackward0" in bundle["text/plain"]


def test_without_an_engine_there_is_a_picture_in_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(import_module("gradgraph.render.engines"), "_package_folder", lambda name: None)
    assert "MulBackward0" in mimebundle(small())["image/svg+xml"]


@pytest.mark.parametrize(("attribute", "value"), [("order", "high"), ("kind", None), ("outputs", 3), ("saved", {1})])
def test_attributes_that_a_user_has_overwritten_raise_nothing(attribute: str, value: object) -> None:
    graph = small()
    graph.nodes[0][attribute] = value
    assert "text/plain" in mimebundle(graph)


def test_a_picture_needs_no_torch(tmp_path: Path) -> None:
    gradgraph.write_json(small(), tmp_path / "g.json")
    program = (
        "import sys; sys.modules['torch'] = None; import gradgraph\n"
        "print(sorted(gradgraph.read_json(sys.argv[1])._repr_mimebundle_()))"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "g.json"], capture_output=True, text=True)
    assert done.stdout == "['image/svg+xml', 'text/plain']\n", done.stderr


# The kernel's client leaves sockets to the collector and warns of event loops; none of it is ours.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::RuntimeWarning")
def test_the_tutorial_runs_and_shows_pictures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    notebook = nbformat.read(TUTORIAL, as_version=4)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    shown = [
        output["data"]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "execute_result" and "AutogradGraph" in output["data"]["text/plain"]
    ]
    assert len(shown) == 5
    for data in shown:
        assert "</svg>" in "".join(data["image/svg+xml"])
    pictures = ["".join(data["image/svg+xml"]) for data in shown]
    assert "‖grad‖" in pictures[1]
    assert "curvature" in pictures[2]
    assert "H diag" in pictures[3]


# Its own cells assert what its conclusions say.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::RuntimeWarning")
def test_the_notebook_on_curvature_runs_and_shows_pictures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    notebook = nbformat.read(CURVATURE, as_version=4)
    resources = {"metadata": {"path": str(EXAMPLES)}}  # where it is opened: it imports the scripts beside it
    NotebookClient(notebook, timeout=240, kernel_name="python3", resources=resources).execute()
    results = [
        output["data"]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "execute_result"
    ]
    streams = [output["text"] for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output]
    assert "Warning" not in "".join(streams)
    curvatures = [data["text/plain"] for data in results if data["text/plain"].startswith("<Curvature: ")]
    assert [text.count(": Gauss-Newton ") for text in curvatures] == [1, 1, 1]
    assert sum("image/png" in data for data in results) == 5
    pictures = ["".join(data["image/svg+xml"]) for data in results if "image/svg+xml" in data]
    assert len(pictures) == 3
    assert all(">curvature " in picture and "folded into" in picture for picture in pictures)


def test_charts_show_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    program = (
        "import torch, gradgraph\nfrom gradgraph.charts import shares\n"
        "x = torch.ones(2, requires_grad=True)\n"
        "shares(gradgraph.curvature((x.exp() * x).sum(), x), by='op')"
    )
    heat_map = "gradgraph.hessian(x.prod() ** 2, x).heat_map()"
    sources = [program, heat_map, f"%matplotlib inline\n{heat_map}"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    for cell in notebook.cells:
        (output,) = cell.outputs
        assert output["output_type"] == "execute_result"
        assert output["data"]["text/plain"].startswith("<Chart size ")
        assert output["data"]["image/png"].startswith("iVBOR")
    assert notebook.cells[0].outputs[0]["metadata"]["image/png"]["width"] == 768


@pytest.mark.parametrize("path", [TUTORIAL, CURVATURE], ids=lambda path: path.stem)
def test_notebooks_are_stored_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")


def test_recorded_lines_go_by_their_cell() -> None:
    source = (
        "import torch, gradgraph\n"
        "x = torch.ones(2, requires_grad=True)\n"
        "with gradgraph.record():\n"
        "    y = x.exp()\n"
        "print(gradgraph.trace(y).nodes[0]['source'])"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    assert [output["text"] for output in notebook.cells[0]["outputs"]] == ["In[1]:4 in <module>\n"]
