"""Pictures in files: every format, engine and theme, and what happens where none can be made."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

import gradgraph
from gradgraph import AutogradGraph, render
from gradgraph.errors import InputError, RenderError
from gradgraph.render import FORMATS, to_dot, to_svg
from gradgraph.render.compose import picture_of
from gradgraph.render.font import text_width
from gradgraph.render.lines import Show
from gradgraph.render.pages import bands
from gradgraph.render.picture import Picture
from gradgraph.render.places import LayoutName
from gradgraph.render.size import MAX_BOXES, check_size, count_passes
from tests.render.graphs import GALLERY, chain, double_backward, made, sample, tangle

ENGINES = [
    pytest.param("dot", marks=pytest.mark.needs_dot),
    pytest.param("embedded", marks=pytest.mark.needs_embedded),
]
MAGIC = {"png": b"\x89PNG\r\n", "svg": b"<?xml", "pdf": b"%PDF-", "dot": b"digraph"}
SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_by_every_engine(tmp_path: Path, suffix: str, engine: str) -> None:
    path = render(sample(), tmp_path / f"graph.{suffix}", engine=engine, saved=True, title="A sample")
    assert path == tmp_path / f"graph.{suffix}"
    assert path.read_bytes().startswith(MAGIC[suffix])
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_the_method_of_a_graph_draws_too(tmp_path: Path) -> None:
    path = double_backward().render(tmp_path / "graph.png", theme="dark", dpi=72)
    with Image.open(path) as picture:
        assert picture.getpixel((1, 1))[:3] == (0x14, 0x17, 0x1C)


def pictured(graph: AutogradGraph) -> Picture:
    return picture_of(graph, Show())


def boxes_of(svg: str) -> dict[str, tuple[list[float], list[tuple[float, float, float, str]]]]:
    """The bounds of each node's shape, and its texts as (x, baseline, width, text)."""
    found = {}
    for group in ElementTree.fromstring(svg).iter(f"{SVG}g"):
        if group.get("class") != "node":
            continue
        numbers: list[float] = []
        for shape in group.iter():
            numbers += map(float, re.findall(r"-?\d+\.?\d*", shape.get("points") or shape.get("d") or ""))
        texts = [
            (
                float(text.get("x", "nan")),
                float(text.get("y", "nan")),
                text_width(text.text or "", float(text.get("font-size", "0")), text.get("font-weight") == "bold"),
                text.text or "",
            )
            for text in group.iter(f"{SVG}text")
        ]
        if numbers:
            xs, ys = numbers[::2], numbers[1::2]
            found[group.get("id", "")] = ([min(xs), min(ys), max(xs), max(ys)], texts)
    return found


@pytest.mark.parametrize(
    ("layout", "engine"),
    [
        pytest.param("dot", "dot", marks=pytest.mark.needs_dot),
        pytest.param("dot", "embedded", marks=pytest.mark.needs_embedded),
        ("lanes", "auto"),
    ],
)
@pytest.mark.parametrize("name", GALLERY)
def test_nothing_is_clipped_and_nothing_overlaps(name: str, layout: str, engine: str) -> None:
    graph = GALLERY[name]()
    svg = to_svg(graph, layout=layout, engine=engine, saved=True, title=f"The graph {name}")
    boxes = boxes_of(svg)
    assert len(boxes) == len(pictured(graph).boxes)
    for (left, top, right, bottom), texts in boxes.values():
        for x, baseline, width, text in texts:
            assert left + 2 <= x - width / 2, text
            assert x + width / 2 <= right - 2, text
            assert top + 5 <= baseline <= bottom - 2, text
    bounds = [box for box, _ in boxes.values()]
    for index, (left, top, right, bottom) in enumerate(bounds):
        for other in bounds[:index]:
            assert left >= other[2] or right <= other[0] or top >= other[3] or bottom <= other[1]
    size = re.search(r'viewBox="0 0 ([-\d.]+) ([-\d.]+)"', svg)
    assert size is not None
    for left, top, right, bottom in bounds:
        assert left >= 0
        assert top >= 0
        assert right <= float(size[1])
        assert bottom <= float(size[2])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("lines", [1, 3, 9])
def test_texts_stay_within_the_corners_of_every_shape(engine: str, lines: int) -> None:
    long = [{"name": "x" * 60, "module": "m" * 60, "source": "s" * 60}, {}][lines == 1]
    many = [{"pass": n, "contribution": 1.2345e-8, "total": 1.2345e-8} for n in range(lines - 1)] if lines > 3 else None
    kinds = [
        {"op": f"Op{kind}" * 5, "kind": kind, "outputs": [], "accumulated": many, "gradient": [], **long}
        for kind in ("op", "custom", "opaque", "blocked", "leaf")
    ]
    svg = to_svg(made(kinds, [(n, n + 1) for n in range(4)]), engine=engine)
    for group in ElementTree.fromstring(svg).iter(f"{SVG}g"):
        if not group.get("id", "").startswith("n"):
            continue
        outline = group.find(f"{SVG}polygon")
        if outline is not None:
            points = [tuple(map(float, point.split(","))) for point in str(outline.get("points")).split()]
        else:
            path = group.find(f"{SVG}path")
            assert path is not None
            numbers = list(map(float, re.findall(r"-?\d+\.?\d*", str(path.get("d")))))
            points = list(zip(numbers[::2], numbers[1::2], strict=True))
        for text in group.iter(f"{SVG}text"):
            x, y = float(text.get("x", "nan")), float(text.get("y", "nan"))
            half = text_width(text.text or "", float(text.get("font-size", "0")), text.get("font-weight") == "bold") / 2
            for corner in [(x - half, y - 6), (x + half, y - 6), (x - half, y + 1), (x + half, y + 1)]:
                assert inside(corner, points), text.text


def inside(point: tuple[float, float], polygon: list[tuple[float, ...]]) -> bool:
    """Whether a ray from the point to the right crosses the outline an odd number of times."""
    x, y = point
    crossings = 0
    for (x1, y1), (x2, y2) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        if (y1 > y) != (y2 > y):
            crossings += x < (x2 - x1) * (y - y1) / (y2 - y1) + x1
    return crossings % 2 == 1


@pytest.mark.needs_embedded
@pytest.mark.needs_dot
@pytest.mark.skipif(shutil.which("dot") is None, reason="no Graphviz installed")
@pytest.mark.parametrize("name", GALLERY)
def test_both_engines_draw_the_same_boxes(name: str) -> None:
    graph = GALLERY[name]()
    drawn = []
    for engine in ("dot", "embedded"):
        boxes = boxes_of(to_svg(graph, layout="dot", engine=engine))
        drawn.append(
            {
                key: (round(box[2] - box[0]), round(box[3] - box[1]), [text for *_, text in texts])
                for key, (box, texts) in boxes.items()
                if re.match(r"n\d|root", key)
            }
        )
    assert drawn[0].keys() == drawn[1].keys()
    for key, (width, height, texts) in drawn[0].items():
        assert texts == drawn[1][key][2]
        assert (width, height) == pytest.approx(drawn[1][key][:2], abs=1)


@pytest.mark.needs_embedded
def test_the_same_graph_gives_the_same_picture() -> None:
    assert to_svg(double_backward(), engine="embedded") == to_svg(double_backward(), engine="embedded")


@pytest.mark.needs_embedded
def test_headings_are_bold_and_details_quiet() -> None:
    svg = to_svg(sample(), engine="embedded")
    looks = {text.text: text.attrib for text in ElementTree.fromstring(svg).iter(f"{SVG}text")}
    assert looks["SumBackward0"]["font-weight"] == "bold"
    assert "font-weight" not in looks["scalar"]
    assert (looks["scalar"]["fill"], looks["scalar"]["font-size"]) == ("#3d4650", "9")
    assert looks["changed in place: other"]["fill"] == "#b3261e"


def test_annotations_are_shown_where_there_are_any(tmp_path: Path) -> None:
    shown = to_dot(sample())
    assert "‖grad‖ 0.25" in shown
    assert "H diag mean" in shown
    assert "keeps" not in shown
    hidden = to_dot(sample(), gradients=False, hessian=False)
    assert "grad‖" not in hidden
    assert ".grad pass" not in hidden
    assert "H diag" not in hidden
    assert "gradient arrives" not in to_dot(chain(2))


def test_annotations_that_are_not_there_are_missed(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"gradients=True asks for annotations that no node carries .* gradgraph\.annotate"
    ):
        render(chain(2), tmp_path / "x.svg", gradients=True)
    with pytest.raises(InputError, match="hessian=True asks for annotations"):
        render(chain(2), tmp_path / "x.svg", hessian=True)
    assert list(tmp_path.iterdir()) == []


def test_computed_gradients_are_drawn() -> None:
    graph = double_backward()
    gradgraph.annotate(graph, "gradient", gradgraph.gradients(graph))
    assert to_dot(graph).count("‖grad‖") >= 30


def test_devices_are_told_where_there_are_several() -> None:
    outputs: list[dict[str, Any]] = [
        {"shape": [2], "dtype": "float32", "device": device} for device in ("cpu", "cuda:0")
    ]
    graph = made([{"op": "ToCopyBackward0", "outputs": outputs[:1]}, {"op": "A", "outputs": outputs[1:]}], [(0, 1)])
    assert '"A\\n[2] cuda:0"' in to_dot(graph)
    assert "cpu" not in to_dot(chain(1))


@pytest.mark.parametrize(
    ("name", "got"),
    [("graph.html", "the suffix '.html'"), ("graph.jpeg", "the suffix '.jpeg'"), ("graph", "no suffix")],
)
def test_unknown_formats_are_refused(tmp_path: Path, name: str, got: str) -> None:
    with pytest.raises(InputError, match=rf"expected \.png, \.svg, \.pdf, \.dot, got {got}"):
        render(chain(1), tmp_path / name)
    with pytest.raises(InputError, match="got format='gif'"):
        render(chain(1), tmp_path / "x.svg", format="gif")
    assert list(tmp_path.iterdir()) == []


def test_the_format_can_be_given_apart_from_the_suffix(tmp_path: Path) -> None:
    assert render(chain(1), tmp_path / "picture", format="SVG").read_bytes().startswith(MAGIC["svg"])
    assert render(chain(1), tmp_path / "UPPER.DOT").read_bytes().startswith(MAGIC["dot"])


def test_an_existing_file_is_replaced_and_a_link_kept(tmp_path: Path) -> None:
    (tmp_path / "old.dot").write_text("old")
    os.chmod(tmp_path / "old.dot", 0o600)
    (tmp_path / "link.dot").symlink_to(tmp_path / "old.dot")
    render(chain(1), tmp_path / "link.dot")
    assert (tmp_path / "link.dot").is_symlink()
    assert (tmp_path / "old.dot").read_bytes().startswith(MAGIC["dot"])
    if os.name == "posix":
        assert (tmp_path / "old.dot").stat().st_mode & 0o777 == 0o600


@pytest.mark.needs_embedded
def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "graph.svg"
    path.write_text("precious")
    with pytest.raises(InputError):
        render(chain(1), path, theme="sepia")
    with pytest.raises(RenderError):
        render(chain(30), path, max_boxes=10, layout="dot")
    with pytest.raises(RenderError, match=r"within the limit of 0\.001 s"):
        render(chain(30), path, timeout=0.001, engine="embedded")
    with pytest.warns(RuntimeWarning, match=r"within the limit of 0\.001 s.* laid out in lanes instead"):
        assert "</svg>" in to_svg(chain(30), timeout=0.001)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match=r"cannot write .*graph\.svg': No space left on device. Expected a path in"):
        render(chain(1), path)
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


def test_folders_that_are_missing_or_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no folder .*nowhere'; make it first"):
        render(chain(1), tmp_path / "nowhere" / "x.svg")
    (tmp_path / "folder.svg").mkdir()
    with pytest.raises(InputError, match="it is a folder; give the path of a file"):
        render(chain(1), tmp_path / "folder.svg")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="there is no folder"):
        render(chain(1), tmp_path / "file" / "x.svg")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o500)
    with pytest.raises(InputError, match=r"Permission denied\. Expected a path in an existing folder"):
        render(chain(1), tmp_path / "x.dot")
    os.chmod(tmp_path, 0o700)


def width_of(svg: str) -> float:
    found = re.search(r'width="([\d.]+)pt"', svg)
    assert found is not None
    return float(found[1])


@pytest.mark.parametrize("layout", ["dot", "lanes"])
def test_a_thousand_steps_on_one_weight_are_drawn(tmp_path: Path, layout: LayoutName) -> None:
    svg = render(chain(1000), tmp_path / "chain.svg", fold="none", layout=layout).read_text()
    assert len(boxes_of(svg)) == 2001
    assert width_of(svg) < 700  # the chain stands straight


def test_ten_thousand_boxes_are_drawn_at_full_size(tmp_path: Path) -> None:
    graph = chain(5000)
    start = time.perf_counter()
    svg = render(graph, tmp_path / "chain.svg", fold="none").read_text()
    assert render(graph, tmp_path / "chain.pdf", fold="none").read_bytes().startswith(MAGIC["pdf"])
    assert time.perf_counter() - start < 30
    assert svg.count('class="node"') == 10_001


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that small pictures reach."""
    pages = import_module("gradgraph.render.pages")
    for name, value in (("_LONGEST_SIDE_PX", 4000), ("_PAGE_SIDE_PX", 1500), ("_MOST_PIXELS", 8_000_000)):
        monkeypatch.setattr(pages, name, value)


@pytest.mark.usefixtures("small_pages")
def test_too_large_a_picture_becomes_an_overview_and_pages(tmp_path: Path) -> None:
    graph = chain(80)
    with pytest.warns(UserWarning, match=r"chain\.png is an overview, and .*chain-1\.png to .*chain-\d\.png are its"):
        path = render(graph, tmp_path / "chain.png", fold="none")
    assert path == tmp_path / "chain.png"
    names = sorted(entry.name for entry in tmp_path.iterdir())
    assert names[:2] == ["chain-1.png", "chain-2.png"]
    sizes = {}
    for name in names:
        with Image.open(tmp_path / name) as picture:
            sizes[name] = picture.size
            assert max(picture.size) <= 1501
    # The pages together are legible where the overview is not.
    assert sizes["chain-1.png"][0] > 1.5 * sizes["chain.png"][0]
    with pytest.raises(RenderError, match=r"too large for a legible PNG.* Write \.svg or \.pdf .* fold='auto'"):
        render(chain(2000), tmp_path / "longer.png", fold="none")
    assert not (tmp_path / "longer.png").exists()


@pytest.mark.usefixtures("small_pages")
def test_a_picture_is_one_file_or_none(tmp_path: Path) -> None:
    (tmp_path / "chain-2.png").mkdir()
    with pytest.raises(InputError, match=r"chain-2\.png': it is a folder"):
        render(chain(80), tmp_path / "chain.png", fold="none")
    assert not (tmp_path / "chain.png").exists()


def test_a_large_picture_is_scaled_with_a_warning(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"smaller than asked for.* it is drawn at \d+ dpi\. Write \.svg or \.pdf"):
        render(chain(250), tmp_path / "chain.png", fold="none", layout="dot", dpi=300)
    assert [entry.name for entry in tmp_path.iterdir()] == ["chain.png"]


def test_pages_cover_the_picture_and_overlap() -> None:
    found = bands(5000.0, 90_000.0, 60.0)
    tops = [top for _, top, _, _ in found]
    assert tops == sorted(tops)
    assert tops[0] == 0
    assert tops[-1] + found[-1][3] == pytest.approx(90_000)
    assert all(after < before + found[0][3] - 71 for before, after in pairwise(tops))
    assert all(width * height / 72**2 * 60**2 <= 24_100_000 for _, _, width, height in found)
    wide = bands(30_000.0, 2000.0, 60.0)
    assert len(wide) == 3
    assert wide[-1][0] + wide[-1][2] == pytest.approx(30_000)


def test_too_many_boxes_for_dot_are_refused_at_once(tmp_path: Path) -> None:
    graph = chain(1300)
    start = time.perf_counter()
    with pytest.raises(
        RenderError,
        match=r"2,601 boxes, and at most max_boxes=2,500 .* layout='lanes', which has no limit; fold .* raise",
    ):
        render(graph, tmp_path / "x.svg", fold="none", layout="dot")
    assert time.perf_counter() - start < 2
    assert render(graph, tmp_path / "x.dot", fold="none", layout="dot").stat().st_size > 100_000


def test_too_long_edges_for_dot_are_refused_at_once() -> None:
    picture = pictured(tangle(40))
    assert len(picture.boxes) < 1000
    start = time.perf_counter()
    with pytest.raises(
        RenderError, match=r"too tangled to lay out: [\d,]+ boxes, and long edges .* at most 5,000 places"
    ):
        check_size(picture, MAX_BOXES)
    assert time.perf_counter() - start < 2
    check_size(picture, 20_000)


def test_a_limit_that_is_none() -> None:
    with pytest.raises(InputError, match="max_boxes=0 is no limit"):
        to_svg(chain(1), max_boxes=0)


def test_how_often_edges_pass_over_ranks() -> None:
    ops = [{"op": "A"}] * 4
    assert count_passes(pictured(made(ops, [(0, 1), (1, 2), (2, 3), (0, 3, 1), (0, 3, 2)]))) == 4
    assert count_passes(pictured(made(ops, [(0, 1), (1, 2), (2, 3), (3, 0)]))) == 0
    assert count_passes(pictured(chain(50))) == 0


def test_the_double_backward_of_gpt2_is_drawn_folded_and_whole(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_layer=12,
        n_head=2,
        n_embd=8,
        vocab_size=20,
        n_positions=8,
        attn_implementation="eager",
        bos_token_id=0,
        eos_token_id=0,
    )
    model = transformers.GPT2LMHeadModel(config)
    loss = model(torch.arange(6)[None], labels=torch.arange(6)[None]).loss
    render(gradgraph.trace(loss, model), tmp_path / "forward.svg")
    gradients = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    graph = gradgraph.trace(sum(gradient.square().sum() for gradient in gradients), model, lower=[loss])
    start = time.perf_counter()
    unfolded = render(graph, tmp_path / "double.svg", fold="none").read_text()
    folded = render(graph, tmp_path / "folded.svg").read_text()
    render(graph, tmp_path / "folded.png")
    assert time.perf_counter() - start < 30
    assert unfolded.count('class="node"') > len(graph)
    assert 20 < folded.count('class="node"') < 250
    assert re.search(r"[\d,]+ nodes folded into", folded)


def test_an_empty_graph_and_a_part_of_one(tmp_path: Path) -> None:
    assert "an empty graph" in to_svg(AutogradGraph())
    graph = double_backward()
    part = graph.subgraph(graph.by_order()[0])
    assert isinstance(part, AutogradGraph)
    assert part.render(tmp_path / "part.svg").exists()


def test_drawing_needs_no_torch(tmp_path: Path) -> None:
    gradgraph.write_json(double_backward(), tmp_path / "graph.json")
    program = (
        "import sys, gradgraph\n"
        "from gradgraph.render.text import memory, outline, summary\n"
        "graph = gradgraph.read_json('graph.json')\n"
        "gradgraph.render(graph, 'graph.png')\n"
        "print(summary(graph), memory(graph), outline(graph))\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    assert (tmp_path / "graph.png").read_bytes().startswith(MAGIC["png"])
