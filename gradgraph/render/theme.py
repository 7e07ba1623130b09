"""The colours of pictures: safe for colour-blind readers, and in grey each order is darker than the last."""

from __future__ import annotations

from dataclasses import dataclass

from gradgraph.errors import InputError

__all__ = ["DARK", "LIGHT", "Theme", "mixed", "theme_called"]


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
    diverging: tuple[str, ...]  # from negative to positive, the middle one for zero itself

    def order(self, order: int) -> tuple[str, str]:
        """Fill and border of an operation of that order."""
        return self.orders[min(order, len(self.orders) - 1)]

    def lane(self, order: int) -> str:
        """The background of the lane of that order: its colour, faint."""
        return mixed(self.order(order)[0], self.background, 0.3)

    def card(self, fill: str) -> str:
        """The cards behind the front one of a folded box."""
        return mixed(fill, self.quiet, 0.82)


def mixed(color: str, other: str, part: float) -> str:
    """`part` of one colour and the rest of another.

    >>> mixed("#ff0000", "#ffffff", 0.2)
    '#ffcccc'
    """
    pairs = ((int(color[at : at + 2], 16), int(other[at : at + 2], 16)) for at in (1, 3, 5))
    return "#" + "".join(f"{round(part * one + (1 - part) * two):02x}" for one, two in pairs)


LIGHT = Theme(
    name="light",
    background="#ffffff",
    text="#1b1f24",
    quiet="#3d4650",
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
        ("#d2ac74", "#7d5312"),
    ),
    leaf=("#ffffff", "#1b1f24"),
    opaque=("#d5d9df", "#1b1f24"),
    root=("#1b1f24", "#ffffff"),
    sequence=("#f3f7fb", "#dbe8f6", "#bdd6ee", "#9dc2e4", "#8cb9e0"),
    diverging=("#8fbae0", "#b7d4ec", "#dae8f4", "#f5f5f5", "#fae5c6", "#f7cf9b", "#f0b06a"),
)

DARK = Theme(
    name="dark",
    background="#14171c",
    text="#eceff3",
    quiet="#d0d7e0",
    note="#eceff3",
    alert="#ff9a91",
    alert_fill="#571f1c",
    gradient="#8b96a3",
    curvature="#ff9248",
    orders=(
        ("#1c2b3d", "#6ea3dd"),
        ("#4a3f12", "#d9b545"),
        ("#1b533e", "#5fcb9e"),
        ("#6b3f63", "#dd9bd0"),
        ("#74582c", "#ecd2ab"),
    ),
    leaf=("#14171c", "#eceff3"),
    opaque=("#3a414b", "#eceff3"),
    root=("#eceff3", "#14171c"),
    sequence=("#1a222c", "#1f3046", "#234060", "#27507a", "#285a8a"),
    diverging=("#285a8a", "#214769", "#223547", "#23272d", "#443619", "#5f4219", "#7a4d14"),
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
