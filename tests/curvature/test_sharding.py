"""Two processes share the work of one: equal results, and an error on one of them is an error on both."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from gradgraph.curvature.first_order import first_order
from gradgraph.curvature.sameness import checksum, closeness_of, difference_of
from gradgraph.curvature.sharding import Share
from gradgraph.errors import InputError
from tests.curvature import ranks

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two ranks have written what they did."""
    place = tmp_path_factory.mktemp("ranks")
    until = time.monotonic() + 180
    logs = [place / f"{rank}.log" for rank in range(ranks.SIZE)]
    processes = []
    try:
        for rank, log in enumerate(logs):
            command = [sys.executable, "-W", "ignore", "-m", "tests.curvature.ranks", str(rank), str(place)]
            with log.open("w") as file:
                processes.append(subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file))
        for process, log in zip(processes, logs, strict=True):
            assert process.wait(max(1, until - time.monotonic())) == 0, log.read_text()
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return place


@pytest.fixture(scope="module")
def both(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks.SIZE)]


def test_slices_cover_everything_once(both: list[dict[str, Any]]) -> None:
    for total, first, second in zip((0, 1, 2, 7, 100), both[0]["slices"], both[1]["slices"], strict=True):
        assert first[0] == 0
        assert first[1] == second[0]
        assert second[1] == total
        assert abs((first[1] - first[0]) - (second[1] - second[0])) <= 1


def test_rows_are_equal_to_the_bit(both: list[dict[str, Any]]) -> None:
    assert both[0]["row by row"] == both[1]["row by row"] == ranks.row_by_row(Share.of(False))


@pytest.mark.parametrize(
    ("name", "method", "probes", "tolerance"),
    [
        ("hutchinson", "hutchinson", 41, None),
        ("hutchinson tolerance", "hutchinson", 4000, 0.2),
        ("xdiag", "xdiag", 41, None),
        ("xdiag tolerance", "xdiag", 200, 1e-9),
        ("xdiag columns", "xdiag", 100, None),
    ],
)
def test_estimates_are_equal_to_rounding(
    both: list[dict[str, Any]], name: str, method: Any, probes: int, tolerance: float | None
) -> None:
    alone = ranks.estimated(method, probes, tolerance, Share.of(False))
    first, second = (one[name] for one in both)
    assert first == second  # to the bit
    assert first["exact"] == alone["exact"]
    assert first["reason"].endswith(", over 2 ranks")
    assert alone["reason"].startswith(first["reason"].removesuffix(", over 2 ranks"))
    scale = max(map(abs, alone["values"]))
    assert first["values"] == pytest.approx(alone["values"], rel=1e-11, abs=1e-12 * scale)
    assert first["stderr"] == pytest.approx(alone["stderr"], rel=1e-8, abs=1e-9 * scale)


@pytest.mark.parametrize("number", range(len(ranks.PUBLIC)))
def test_hessian_diagonal(both: list[dict[str, Any]], number: int) -> None:
    method, options = ranks.PUBLIC[number]
    assert both[0]["public"][number] == both[1]["public"][number]
    alone = ranks.public(method, False, **options)
    for found, expected in zip(both[0]["public"][number], alone, strict=True):
        if number < 2:
            assert found == expected
        assert found == pytest.approx(expected, rel=1e-10, abs=1e-11)


def test_the_first_ranks_generator_decides(both: list[dict[str, Any]]) -> None:
    assert both[0]["seeds"] == both[1]["seeds"] == both[0]["hutchinson"]


def test_sums(both: list[dict[str, Any]]) -> None:
    assert both[0]["sums"] == both[1]["sums"]
    sums = both[0]["sums"]
    assert sums["sums"] == [[4.0] * 3] * 3 + [[7] * 4]
    assert sums["dtypes"] == ["torch.float64", "torch.float32", "torch.bfloat16", "torch.int64"]
    assert sums["wide"] == [[1.0, 2.0] * 3] * 4
    assert sums["first"] == [1.0, 1.0]
    assert sums["number"] == 0.5


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_ranks_error_is_every_ranks(both: list[dict[str, Any]], when: str) -> None:
    healthy, failed = (one[f"fails {when}"] for one in both)
    assert failed == "ValueError: boom"
    assert healthy == (
        "GradGraphError: 1 of 2 ranks failed, so that there is no result on any: rank 1: ValueError: boom"
    )


def test_each_rank_keeps_its_own_error(both: list[dict[str, Any]]) -> None:
    assert [one["both fail"] for one in both] == ["ValueError: boom 0", "ValueError: boom 1"]


def test_other_calls_are_no_sums(both: list[dict[str, Any]]) -> None:
    for one in both:
        assert one["other calls"].startswith("GradGraphError: ranks do different things: rank 0 is at ('sum', [([3]")
        assert one["other calls"].endswith("All ranks must make the same calls with the same arguments.")


def test_decisions_must_agree(both: list[dict[str, Any]]) -> None:
    for one in both:
        assert one["disagree"].startswith(
            "GradGraphError: ranks do different things: rank 0 is at ('agree', {'w': 0}), rank 1 at ('agree', {'w': 1})"
        )


@pytest.mark.parametrize(
    ("name", "what", "remedy"),
    [
        ("other batch", "rank 1 differs from rank 0 in the loss: ", "Give every rank the same batch"),
        ("other parameters", "rank 1 differs from rank 0 in parameters, first in '2.weight'. ", "broadcast rank 0's."),
        (
            "other model",
            "rank 1 differs from rank 0 in the parameters' shapes. ",
            "Build the same model on every rank.",
        ),
        ("other names", "rank 1 differs from rank 0 in the parameters' names. ", "Pass the same parameters on every"),
    ],
)
def test_ranks_with_different_losses(both: list[dict[str, Any]], name: str, what: str, remedy: str) -> None:
    assert both[0][name] == both[1][name]
    assert both[0][name].startswith(f"InputError: {what}")
    assert remedy in both[0][name]
    assert "each must compute the same loss of the same batch" in both[0][name]
    assert both[0]["same"] == both[1]["same"] == "nothing"


def test_a_death_is_told(folder: Path) -> None:
    told = json.loads((folder / "death.json").read_text())
    assert told.startswith("GradGraphError: the process group failed on rank 0: ")
    assert "Another rank died, or worked longer than the group's timeout" in told


def test_the_majority_is_right() -> None:
    usual = {"names": ["w"], "shapes": [], "parameters": {"w": 1}, "reached": {}, "loss": 2.0, "gradient": 1.0}
    odd = {**usual, "loss": 3.0}
    assert difference_of([usual, usual], 1e-12) is None
    told = difference_of([odd, usual, usual], 1e-12)
    assert told is not None
    assert told.startswith("rank 0 differs from rank 1 in the loss: 3.0, not 2.0.")
    told = difference_of([usual, odd, usual, odd, usual], 1e-12)
    assert told is not None
    assert told.startswith("ranks 1, 3 differ from rank 0 in the loss")


def test_roundings_are_nodifference_of() -> None:
    usual = {"names": ["w"], "shapes": [], "parameters": {"w": 1}, "reached": {}, "loss": 2.0, "gradient": 1.0}
    assert difference_of([usual, {**usual, "loss": 2.0 * (1 + 1e-14)}], closeness_of(torch.float64)) is None
    assert difference_of([usual, {**usual, "loss": 2.0 * (1 + 1e-6)}], closeness_of(torch.float32)) is None
    assert difference_of([usual, {**usual, "loss": 2.0 * (1 + 1e-6)}], closeness_of(torch.float64)) is not None
    assert difference_of([usual, {**usual, "gradient": 1.1}], closeness_of(torch.float32)) is not None
    assert difference_of([{**usual, "loss": float("nan")}] * 2, 1e-12) is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_checksums_see_every_bit_and_place(dtype: torch.dtype) -> None:
    values = torch.arange(1, 8).to(dtype)
    assert checksum(values) == checksum(values.clone())
    assert checksum(values) != checksum(values.flip(0))
    other = values.clone()
    other[3] = torch.nextafter(other[3].float(), torch.tensor(9.0)) if dtype is torch.float32 else other[3] * 1.01
    assert checksum(values) != checksum(other)
    assert checksum(values.reshape(7, 1).expand(7, 2).t()) == checksum(torch.stack([values, values]))
    assert checksum(values[:0]) == 0


def test_without_a_group() -> None:
    with pytest.raises(InputError, match="expected an initialized process group, got none"):
        Share.of(True)


def test_alone_everything_is_mine() -> None:
    loss, params = ranks.loss_and_params()
    ones = torch.ones(3)
    with Share.of(False) as share, first_order("test", loss, params) as order:
        assert share.is_single
        assert share.slice(10) == (0, 10)
        share.check(loss, order)
        share.sum_([ones])
        share.first_([ones])
        assert share.first(3.5) == 3.5
    assert torch.equal(ones, torch.ones(3))
    with pytest.raises(ValueError, match="boom"), Share.of(False):
        raise ValueError("boom")
