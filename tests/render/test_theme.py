"""Colours: readable everywhere, and told apart by readers with every kind of colour vision."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import pytest

from gradgraph.errors import InputError
from gradgraph.render.boxes import shade
from gradgraph.render.measures import Measure
from gradgraph.render.theme import DARK, LIGHT, Theme, mixed, theme_called

THEMES = pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])

#: Machado, Oliveira and Fernandes 2009, table 1, severity 1.0: on linear RGB.
VISIONS = {
    "normal": [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)],
    "protanopia": [
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ],
    "deuteranopia": [
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ],
    "tritanopia": [
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ],
}


def linear(color: str) -> list[float]:
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]


def luminance(color: str) -> float:
    """Relative luminance, WCAG 2.2."""
    red, green, blue = linear(color)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def lab(color: str, vision: str) -> tuple[float, float, float]:
    """CIE L*a*b* of what a reader with that vision sees, under D65."""
    rgb = linear(color)
    red, green, blue = (
        min(max(sum(a * b for a, b in zip(row, rgb, strict=True)), 0.0), 1.0) for row in VISIONS[vision]
    )

    def f(t: float) -> float:
        return t ** (1 / 3) if t > 216 / 24389 else (24389 / 27 * t + 16) / 116

    x = f((0.4124564 * red + 0.3575761 * green + 0.1804375 * blue) / 0.95047)
    y = f(0.2126729 * red + 0.7151522 * green + 0.0721750 * blue)
    z = f((0.0193339 * red + 0.1191920 * green + 0.9503041 * blue) / 1.08883)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def distance(one: str, other: str, vision: str) -> float:
    """CIE 1976: 2.3 is just noticeable side by side."""
    return math.dist(lab(one, vision), lab(other, vision))


def fills(theme: Theme) -> list[str]:
    return [fill for fill, _ in (*theme.orders, theme.leaf, theme.opaque)]


@THEMES
def test_everything_is_readable(theme: Theme) -> None:
    grounds = [*fills(theme), *theme.sequence, *theme.diverging, theme.background, theme.alert_fill]
    for fill in grounds:
        assert contrast(theme.text, fill) >= 4.5
        assert contrast(theme.note, fill) >= 4.5
        assert contrast(theme.quiet, fill) >= 4.5
    assert contrast(theme.alert, theme.alert_fill) >= 4.5
    assert contrast(theme.root[1], theme.root[0]) >= 4.5
    for edge in (theme.gradient, theme.curvature, *(border for _, border in theme.orders)):
        assert contrast(edge, theme.background) >= 3.0


@THEMES
def test_what_stands_on_lanes_frames_and_badges_is_readable(theme: Theme) -> None:
    for order, (_, border) in enumerate(theme.orders):
        lane = theme.lane(order)
        framed = mixed(theme.text, lane, 0.035)
        assert contrast(theme.text, lane) >= 7.0
        assert contrast(theme.quiet, mixed(theme.text, framed, 0.035)) >= 4.5
        for edge in (theme.gradient, theme.curvature):
            assert contrast(edge, lane) >= 3.0
        assert contrast(theme.background, border) >= 3.0  # the badge: bold, 10 pt
        # Boxes stand out from their lane by fill or border.
        assert max(contrast(border, lane), contrast(theme.order(order)[0], lane)) >= 2.5


@THEMES
@pytest.mark.parametrize("vision", VISIONS)
def test_orders_are_told_apart_by_every_eye(theme: Theme, vision: str) -> None:
    for one, other in combinations(range(len(theme.orders)), 2):
        assert distance(theme.orders[one][0], theme.orders[other][0], vision) >= 9, (one, other)


@THEMES
@pytest.mark.parametrize("vision", VISIONS)
def test_edges_and_measures_are_told_apart_by_every_eye(theme: Theme, vision: str) -> None:
    assert distance(theme.gradient, theme.curvature, vision) >= 40
    for scale in (theme.sequence, theme.diverging):
        assert all(distance(one, other, vision) >= 4 for one, other in pairwise(scale))
        assert distance(scale[0], scale[-1], vision) >= 25


@THEMES
def test_zero_alone_has_the_fill_of_zero(theme: Theme) -> None:
    signed = Measure("", -2.0, 2.0, "signed")
    values = (-2.0, -1.0, -1e-9, 0.0, 1e-9, 1.0, 2.0)
    assert tuple(shade(value, signed, theme) for value in values) == theme.diverging
    assert shade(-0.16 * 2, signed, theme) == theme.diverging[2]
    assert shade(0.0, Measure("", 0.0, 0.0, "signed"), theme) == theme.diverging[3]
    assert shade(math.nan, signed, theme) == theme.alert_fill


@THEMES
def test_orders_step_away_from_the_background_in_grey(theme: Theme) -> None:
    steps = [contrast(fill, theme.background) for fill, _ in theme.orders]
    assert steps == sorted(steps)
    assert len(set(steps)) == len(steps)


def test_mixing() -> None:
    assert mixed("#102030", "#ffffff", 1.0) == "#102030"
    assert mixed("#102030", "#ffffff", 0.0) == "#ffffff"


def test_themes_by_name() -> None:
    assert theme_called("dark") is DARK
    with pytest.raises(InputError, match="theme='sepia' is not known: expected 'light' or 'dark'"):
        theme_called("sepia")
