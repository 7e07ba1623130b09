"""Charts: what they show, that no peak is lost, and that the program's matplotlib stays as it was."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

import gradgraph
from gradgraph import InputError, RenderError, hessian
from gradgraph.charts import heat_map, shares
from gradgraph.charts.canvas import _DPI
from gradgraph.charts.heat import _apart
from gradgraph.charts.pooling import cells_of, pooled
from gradgraph.curvature import HessianBlocks


@dataclass
class Shares:
    """What `shares` asks of a Curvature."""

    given: dict[str, float]
    of: str = "direction"
    stderr: float | None = None
    gauss_newton: float | None = None
    residual: float | None = None
    asked: list[str] = field(default_factory=list)

    @property
    def total(self) -> float:
        return sum(self.given.values())

    @property
    def magnitude(self) -> float:
        return sum(map(abs, self.given.values()))

    def by_module(self) -> dict[str, float]:
        self.asked.append("module")
        return self.given

    def by_op(self) -> dict[str, float]:
        self.asked.append("op")
        return self.given

    def by_source(self) -> dict[str, float]:
        self.asked.append("source")
        return self.given


def small() -> HessianBlocks:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Linear(2, 1))
    return hessian((net(torch.randn(6, 1)) - 1).square().mean(), net, blocks="full")


def of_matrix(matrix: torch.Tensor, sizes: Mapping[str, int]) -> HessianBlocks:
    rows = dict(zip(sizes, matrix.split(list(sizes.values())), strict=True))
    blocks = {name: dict(zip(sizes, row.split(list(sizes.values()), dim=1), strict=True)) for name, row in rows.items()}
    return HessianBlocks(blocks, sizes)


def texts(figure: Figure) -> list[str]:
    found = [text.get_text() for axes in figure.axes for text in axes.texts]
    found += [text.get_text() for text in figure.texts]
    found += [text.get_text() for text in figure.axes[0].get_yticklabels()]
    return [*found, figure.axes[0].get_title(loc="left")]


def width(path: Path) -> int:
    with Image.open(path) as picture:
        return int(picture.size[0])


def shown(figure: Figure) -> Any:
    """The cells of a heat map."""
    return figure.axes[0].images[0].get_array()


CHARTS: dict[str, Callable[..., Any]] = {
    "heat_map": lambda *args, **options: heat_map(small(), *args, **options),
    "shares": lambda path=None, **options: shares(Shares({"a": 1.0, "b": -0.5}), "op", path, **options),
}
every_chart = pytest.mark.parametrize("chart", CHARTS.values(), ids=CHARTS)


@every_chart
@pytest.mark.parametrize(("suffix", "theme"), [("png", "light"), ("svg", "dark"), ("pdf", "light")])
def test_same_chart_same_bytes(chart: Callable[..., Any], suffix: str, theme: str, tmp_path: Path) -> None:
    first, again = tmp_path / f"first.{suffix}", tmp_path / f"again.{suffix}"
    assert chart(first, theme=theme) == first
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "savefig.dpi": 10, "text.color": "red"}):
        chart(again, theme=theme)
    assert first.read_bytes() == again.read_bytes()
    head = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    assert first.read_bytes().startswith(head)
    assert not list(tmp_path.glob(".*"))


@every_chart
def test_the_programs_matplotlib_stays_as_it_was(chart: Callable[..., Any], tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    chart(tmp_path / "a.png")
    assert isinstance(chart(), Figure)
    assert dict(matplotlib.rcParams) == before


def test_no_pyplot(tmp_path: Path) -> None:
    program = (
        "import sys, torch, gradgraph, gradgraph.charts\n"
        "assert 'matplotlib' not in sys.modules\n"
        "x = torch.ones(2, requires_grad=True)\n"
        f"gradgraph.hessian(x.prod() ** 2, x).heat_map({str(tmp_path / 'a.png')!r})\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert 1000 < width(tmp_path / "a.png") < 2000


@every_chart
def test_without_matplotlib(chart: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        RenderError, match=r'draws with matplotlib, which is not installed.*pip install "gradgraph\[plot'
    ):
        chart(tmp_path / "a.png")


@every_chart
def test_bad_paths_and_themes(chart: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected \.png, \.svg, \.pdf, got the suffix '\.gif'"):
        chart(tmp_path / "a.gif")
    with pytest.raises(InputError, match="got no suffix"):
        chart(tmp_path / "a")
    with pytest.raises(InputError, match="there is no folder"):
        chart(tmp_path / "none" / "a.png")
    (tmp_path / "d.png").mkdir()
    with pytest.raises(InputError, match="it is a folder"):
        chart(tmp_path / "d.png")
    with pytest.raises(InputError, match="theme='pink' is not known"):
        chart(tmp_path / "a.png", theme="pink")
    assert [path.name for path in tmp_path.iterdir()] == ["d.png"]


def test_a_small_matrix_is_written_out() -> None:
    blocks = small()
    figure = blocks.heat_map()
    assert isinstance(figure, Figure)
    assert np.array_equal(shown(figure), blocks.matrix().double().numpy())
    found = texts(figure)
    assert "Hessian, 7 × 7 entries" in found
    assert {"0.weight", "0.bias", "2.weight", "2.bias"} <= set(found)
    assert sum(text.replace("−", "-").replace(".", "").lstrip("-").isdigit() for text in found) == 49
    low, high = figure.axes[0].images[0].get_clim()
    assert low == -high
    assert high == float(blocks.matrix().abs().max())


def test_what_was_not_computed_is_hatched_and_said() -> None:
    x, y = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    figure = heat_map(hessian((x**3).sum() * (y**2).sum(), {"x": x, "y": y}))
    assert [patch.get_hatch() for patch in figure.axes[0].patches] == ["////", "////"]
    assert any("Hatched blocks were not computed" in text for text in texts(figure))
    numbers = [text for text in texts(figure) if text.strip("−").replace(".", "").isdigit()]
    assert len(numbers) == 4 + 9


def test_entries_that_are_not_finite_stand_out() -> None:
    matrix = torch.tensor([[1.0, math.nan], [math.inf, -2.0]])
    figure = heat_map(of_matrix(matrix, {"w": 2}), theme="dark")
    assert shown(figure).mask.tolist() == [[False, True], [True, False]]
    assert "2 cells hold entries that are not finite: white." in texts(figure)
    assert figure.axes[0].images[0].get_clim() == (-2.0, 2.0)


def test_zeros_and_nothing() -> None:
    figure = heat_map(of_matrix(torch.zeros(3, 3), {"w": 3, "empty": 0}))
    assert "All entries are zero." in texts(figure)
    with pytest.raises(InputError, match="expected a Hessian with entries"):
        heat_map(of_matrix(torch.zeros(0, 0), {"empty": 0}))


def test_a_large_matrix_keeps_its_peaks_and_says_that_it_is_pooled() -> None:
    sizes = {"first": 3000, "bias": 1, "second": 999}
    matrix = torch.zeros(4000, 4000)
    matrix[17, 2999], matrix[3000, 3000], matrix[3999, 0] = 5.0, 2.0, -7.0
    figure = heat_map(of_matrix(matrix, sizes))
    cells = shown(figure)
    assert cells.shape[0] <= 462
    assert sorted(cells[cells != 0].tolist()) == [-7.0, 2.0, 5.0]
    assert "Each cell is the entry of largest magnitude among up to 9 × 9." in texts(figure)


def test_each_entry_has_its_cell_as_long_as_there_are_pixels() -> None:
    for side, cells in ((465, 465), (920, 920), (921, 460)):
        figure = heat_map(of_matrix(torch.eye(side), {"w": side}))
        assert shown(figure).shape == (cells, cells)
        assert figure.axes[0].get_position().width * figure.get_figwidth() * _DPI >= cells


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_pooling_takes_the_largest_of_each_cell(n: int, m: int, rows: int, columns: int, seed: int) -> None:
    rows, columns = min(rows, n), min(columns, m)
    block = np.random.default_rng(seed).normal(size=(n, m))
    small = pooled(block, rows, columns)
    assert small.shape == (rows, columns)
    for i in range(rows):
        for j in range(columns):
            part = block[i * n // rows : (i + 1) * n // rows, j * m // columns : (j + 1) * m // columns]
            assert small[i, j] == part.flat[np.abs(part).argmax()]


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 10**6), min_size=1, max_size=40), st.integers(50, 500))
def test_every_parameter_has_cells(sizes: dict[str, int], most: int) -> None:
    cells = cells_of(sizes, most)
    assert all((cells[name] > 0) == (size > 0) and cells[name] <= size for name, size in sizes.items())
    assert sum(cells.values()) <= most + len(sizes)


@given(st.lists(st.floats(0, 100), max_size=20))
def test_names_do_not_overlap(middles: list[float]) -> None:
    places = _apart(sorted(middles), 5.0, 100.0)
    assert all(after - before >= 5.0 - 1e-9 for before, after in pairwise(places))
    assert all(2.5 - 1e-9 <= place <= 97.5 + 1e-9 for place in places)


def test_more_parameters_than_there_is_room_for() -> None:
    sizes = {f"layer{number}.weight_of_a_long_name": 1 + number % 3 for number in range(120)}
    total = sum(sizes.values())
    figure = heat_map(of_matrix(torch.randn(total, total), sizes))
    (note,) = [text for text in texts(figure) if "are not named" in text]
    named = [text for text in texts(figure) if text.startswith("layer") and "…" in text]
    assert note.endswith(f"{120 - len(named)} smaller parameters are not named.")
    assert len(named) > 30


def test_colours_are_logarithmic_where_orders_of_magnitude_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    wide = 10 ** (4 * torch.rand(30, 30, generator=generator) - 4)
    for matrix, title in ((wide, "entry, log"), (torch.rand(30, 30, generator=generator), "entry")):
        figure = heat_map(of_matrix(matrix, {"w": 30}))
        norm: Any = figure.axes[0].images[0].norm
        assert norm(0.0) == pytest.approx(0.5)
        assert norm(-float(matrix.max())) == pytest.approx(0.0)
        assert figure.axes[1].get_title(loc="left") == title


def test_negative_bars_differ_by_more_than_colour() -> None:
    figure = shares(Shares({"up": 3.0, "down": -1.0, "none": 0.0}), "module")
    up, down = figure.axes[0].patches
    assert not up.get_hatch()
    assert down.get_hatch() == "////"
    assert up.get_width() > 0 > down.get_width()  # type: ignore[attr-defined]
    found = texts(figure)
    assert "+3  (+75 %)" in found
    assert "−1  (−25 %)" in found
    assert "Curvature along one direction: 2" in found
    assert "what each module adds  ·  shares of 4, the sum of all magnitudes  ·  1 adds nothing" in found


def test_bars_are_bounded_and_keep_the_sum() -> None:
    given = {f"module{number}": (-1.0) ** number / (number + 1) for number in range(50)}
    figure = shares(Shares(given, of="trace", stderr=0.25, gauss_newton=1.0, residual=-0.25), most=7)
    widths = [patch.get_width() for patch in figure.axes[0].patches]  # type: ignore[attr-defined]
    assert len(widths) == 7
    assert sum(widths) == pytest.approx(sum(given.values()))
    found = texts(figure)
    assert "others (44)" in found
    assert any(text.startswith("Trace of the Hessian: ") and text.endswith(" ± 0.25") for text in found)
    assert any("Gauss-Newton +1, residual −0.25" in text for text in found)


@pytest.mark.parametrize("by", ["module", "op", "source"])
def test_bars_by(by: Literal["module", "op", "source"]) -> None:
    name = {"module": "block.$1$", "op": "TanhBackward0", "source": "/home/x/$train$/model.py:12 in forward"}[by]
    given = Shares({name: 1.0})
    figure = shares(given, by)
    assert given.asked == [by] or set(given.asked) == {by}
    expected = {"module": "block.$1$", "op": "Tanh", "source": "model.py:12 in forward"}[by]
    assert expected in texts(figure)


def test_bars_of_nothing_and_of_nan(tmp_path: Path) -> None:
    assert "no share is other than zero" in texts(shares(Shares({"relu": 0.0}), "op"))
    assert "no share is other than zero" in texts(shares(Shares({}), "op"))
    figure = shares(Shares({"a": 1.0, "b": math.nan, "c": math.inf}), "op", tmp_path / "a.png")
    assert figure == tmp_path / "a.png"
    assert "nan" in texts(shares(Shares({"a": 1.0, "b": math.nan}), "op"))


def test_bad_options() -> None:
    with pytest.raises(InputError, match="by='layer' is not known: expected 'module', 'op' or 'source'"):
        shares(Shares({"a": 1.0}), "layer")  # type: ignore[call-overload]
    for most in (1, 2.5, True):
        with pytest.raises(InputError, match="expected 2 bars or more"):
            shares(Shares({"a": 1.0}), most=most)  # type: ignore[arg-type]


def test_a_real_curvature() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    x = torch.randn(8, 3, dtype=torch.float64)
    with gradgraph.record():
        output = net(x)
        loss = (output - 1).square().mean()
    direction = [torch.ones_like(parameter) for parameter in net.parameters()]
    curvature = gradgraph.curvature(loss, net, direction, outputs=output)
    for by in ("module", "op", "source"):
        figure = shares(curvature, by)
        widths = [patch.get_width() for patch in figure.axes[0].patches]  # type: ignore[attr-defined]
        assert sum(widths) == pytest.approx(curvature.total, rel=1e-12)
        assert any("Gauss-Newton" in text for text in texts(figure))
