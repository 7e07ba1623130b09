"""The colours of pictures: safe for colour-blind readers, and in grey each order is darker than the last."""

from __future__ import annotations

from dataclasses import dataclass

from gradgraph.errors import InputError

__all__ = ["DARK", "LIGHT", "Theme", "theme_called"]


@dataclass(frozen=True)
class Theme:
    """All colours, as six hexadecimal digits: old Graphviz paints others black."""

    name: str
    background: str
    text: str
    quiet: str  # details, labels of edges
    note: str  # annotations
    alert: str
    alert_fill: str
    gradient: str  # edges
    curvature: str
    orders: tuple[tuple[str, str], ...]  # fill and border, the last for all higher orders
    leaf: tuple[str, str]
    opaque: tuple[str, str]
    root: tuple[str, str]  # fill and text
    sequence: tuple[str, ...]  # fills from low to high
    diverging: tuple[str, ...]  # from negative through zero to positive

    def order(self, order: int) -> tuple[str, str]:
        """Fill and border of an operation of that order."""
        return self.orders[min(order, len(self.orders) - 1)]


LIGHT = Theme(
    name="light",
    background="#ffffff",
    text="#1b1f24",
    quiet="#4a535e",
    note="#1b1f24",
    alert="#b3261e",
    alert_fill="#fbdcd9",
    gradient="#6b7580",
    curvature="#cf4a00",
    orders=(
        ("#eaf1fa", "#4f7fb5"),
        ("#fbe6a6", "#a07a00"),
        ("#b2dfc8", "#1f7a55"),
        ("#dcb3d4", "#8c3f7f"),
        ("#b4bbc6", "#4b5563"),
    ),
    leaf=("#ffffff", "#1b1f24"),
    opaque=("#d5d9df", "#1b1f24"),
    root=("#1b1f24", "#ffffff"),
    sequence=("#f3f7fb", "#d3e3f4", "#abcbe8", "#82b1da", "#5e98cb"),
    diverging=("#6ea3d0", "#bcd6ec", "#f5f5f5", "#f9cf9d", "#ea9c4d"),
)

DARK = Theme(
    name="dark",
    background="#14171c",
    text="#eceff3",
    quiet="#b3bcc8",
    note="#eceff3",
    alert="#ff9a91",
    alert_fill="#571f1c",
    gradient="#8b96a3",
    curvature="#ff9248",
    orders=(
        ("#1c2b3d", "#6ea3dd"),
        ("#4a3f12", "#d9b545"),
        ("#1e5a43", "#5fcb9e"),
        ("#6d3d64", "#dd9bd0"),
        ("#5d6673", "#bcc5d0"),
    ),
    leaf=("#14171c", "#eceff3"),
    opaque=("#3a414b", "#eceff3"),
    root=("#eceff3", "#14171c"),
    sequence=("#1a222c", "#20364e", "#284c73", "#31649a", "#3a7cc0"),
    diverging=("#2f6ea8", "#234766", "#23272d", "#6b4a1e", "#a86a1f"),
)


def theme_called(name: str) -> Theme:
    """The theme of that name.

    Raises:
        InputError: there is none.
    """
    for theme in (LIGHT, DARK):
        if theme.name == name:
            return theme
    raise InputError(f"theme={name!r} is not known: expected 'light' or 'dark'.")
