"""A progress bar for work that is long enough to want one."""

from __future__ import annotations

import sys
import warnings
from types import TracebackType

__all__ = ["Progress"]

_DELAY = 1.0  # seconds
_KERNEL = "ipykernel.zmqshell"  # what runs a notebook's cells


class Progress:
    """Counts rows, on a bar that appears after one second.

    Args:
        total: how many rows there are.
        what: the analysis.
        wanted: True always shows the bar, False never, None on a terminal or in a notebook.
    """

    def __init__(self, total: int, what: str, wanted: bool | None) -> None:
        with warnings.catch_warnings():
            # Without ipywidgets it warns in a notebook, and gives the bar of a terminal, which does there, too.
            warnings.simplefilter("ignore")
            from tqdm.auto import tqdm

        # With disable=None tqdm asks whether the stream is a terminal; a notebook's is not, and shows bars well.
        disable = not wanted if wanted is not None else False if _KERNEL in sys.modules else None
        self._bar = tqdm(total=total, desc=what, unit="row", delay=_DELAY, disable=disable, leave=False)

    def advance(self, rows: int) -> None:
        """`rows` more are done."""
        self._bar.update(rows)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()
