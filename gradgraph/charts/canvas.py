"""Figures without pyplot's global state, and their files: the same chart, the same bytes."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gradgraph.errors import InputError, RenderError
from gradgraph.files import write_whole
from gradgraph.render.theme import Theme, mixed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FORMATS", "SIZES", "bytes_of", "checked_path", "drawing", "ends", "plain", "signed", "write"]

#: What charts are written as, by suffix; and what keeps the time of day out of each.
FORMATS = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}

#: Type sizes in points: heading, names and numbers, notes.
SIZES = (12.0, 9.0, 8.0)

_DPI = 144


@contextmanager
def drawing(what: str) -> Iterator[None]:
    """Draw inside the block by matplotlib's own defaults, whatever style the program uses; that is back afterwards.

    Raises:
        RenderError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise RenderError(
            f'{what} draws with matplotlib, which is not installed here: run pip install "gradgraph[plot]", or pip '
            "install matplotlib."
        ) from error
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        # Names of clip paths in SVG are random without it.
        matplotlib.rcParams["svg.hashsalt"] = "gradgraph"
        matplotlib.rcParams["text.parse_math"] = False  # a name may hold dollar signs
        matplotlib.rcParams["hatch.linewidth"] = 0.7
        yield


def checked_path(path: str | os.PathLike[str]) -> Path:
    """`path`, if a chart can be written there: said before the work, rather than after.

    Raises:
        InputError: an unknown suffix, a folder, or no folder to write to.
    """
    target = Path(path)
    suffix = target.suffix.removeprefix(".").lower()
    if suffix not in FORMATS:
        got = f"the suffix {target.suffix!r}" if suffix else "no suffix"
        known = ", ".join(f".{one}" for one in FORMATS)
        raise InputError(f"cannot tell what to write to {str(target)!r}: expected {known}, got {got}.")
    if target.is_dir():
        raise InputError(f"cannot write to {str(target)!r}: it is a folder; give the path of a file.")
    if not target.parent.is_dir():
        raise InputError(f"cannot write {target.name!r}: there is no folder {str(target.parent)!r}; make it first.")
    return target


def write(figure: Figure, path: Path) -> Path:
    """Put the figure into the file, whole or not at all."""
    return write_whole(path, bytes_of(figure, path.suffix.removeprefix(".").lower()))


def bytes_of(figure: Figure, suffix: str) -> bytes:
    """The figure as the content of a file with that suffix."""
    content = io.BytesIO()
    figure.savefig(content, format=suffix, dpi=_DPI, metadata=FORMATS[suffix], facecolor=figure.get_facecolor())
    return content.getvalue()


def plain(axes: Axes, theme: Theme) -> None:
    """Axes in the theme's colours, without a frame."""
    axes.set_facecolor(theme.background)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(colors=theme.text, labelsize=SIZES[1], length=0)


def ends(theme: Theme) -> tuple[str, str]:
    """The strongest colours for negative and positive numbers."""
    return mixed(theme.orders[0][1], theme.text, 0.8), theme.curvature


def signed(value: float, sign: str = "+", digits: int = 3) -> str:
    """A number for reading, with a true minus.

    >>> signed(-0.25), signed(0.25), signed(0.25, sign="")
    ('−0.25', '+0.25', '0.25')
    """
    return f"{value:{sign}.{digits}g}".replace("-", "−") if value == value else "nan"
