"""Who owns which sequence numbers of one thread.

A thread gives each autograd node that it makes the next number of its own counter. So what runs from number a to
number b, a module's forward or one line of a program, made exactly the nodes numbered a to b - 1.
"""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_left, bisect_right

__all__ = ["NOBODY", "Timeline"]

#: The owner of numbers that nobody claimed.
NOBODY = 2**64 - 1

_MOST = 4_000_000  # entries, 16 bytes each; of longer timelines the older half goes
_MOST_WAITING = 300_000  # three for each interval


class Timeline:
    """Owners of half-open intervals of numbers: of each number, the innermost interval's.

    Owners are numbers below `NOBODY`. Kept in two columns: from `starts[i]` to `starts[i + 1]` everything belongs to
    `owners[i]`. `starts` never falls; who knows what comes in order may append to both, `owners` first, and call
    `trim` now and then.
    Constant memory, however long a program runs: the oldest intervals are forgotten. One thread writes, any may read.
    """

    __slots__ = ("_settling", "_waiting", "owners", "starts")

    def __init__(self) -> None:
        self.starts = array("Q")
        self.owners = array("Q")
        self._waiting: list[int] = []  # first, last and owner of each interval that is not sorted in yet
        self._settling = threading.Lock()

    def __len__(self) -> int:
        self.settle()
        return len(self.starts)

    def own(self, first: int, last: int, owner: int) -> None:
        """`first` to `last`, exclusive, belongs to `owner` where nobody claimed it: inner intervals come first."""
        self._waiting.extend((first, last, owner))
        if len(self._waiting) > _MOST_WAITING:
            self.settle()

    def owner_of(self, number: int) -> int:
        """The owner of `number`, or `NOBODY`."""
        if self._waiting:
            self.settle()
        place = bisect_right(self.starts, number) - 1
        return self.owners[place] if place >= 0 else NOBODY

    def trim(self) -> None:
        """Forget the oldest entries where there are too many."""
        if len(self.starts) > _MOST:
            old = len(self.starts) - _MOST // 2
            del self.starts[:old], self.owners[:old]

    def settle(self) -> None:
        """Sort in what waits. While a program runs this would cost more than all the rest."""
        with self._settling:
            waiting = self._waiting[:]
            del self._waiting[: len(waiting)]  # and not what the thread that writes has added since
            for start in range(0, len(waiting), 3):
                self._sort_in(*waiting[start : start + 3])
            self.trim()

    def _sort_in(self, first: int, last: int, owner: int) -> None:
        starts, owners = self.starts, self.owners
        if not starts or starts[-1] < first:
            starts.append(first)
            owners.append(owner)
        elif starts[-1] == first:
            if len(starts) > 1 and owners[-2] == owner:  # the same line again: one interval
                starts[-1] = last
                return
            owners[-1] = owner
        else:
            self._surround(first, last, owner)
            return
        starts.append(last)
        owners.append(NOBODY)

    def _surround(self, first: int, last: int, owner: int) -> None:
        """Claim what is left between inner intervals."""
        starts, owners = self.starts, self.owners
        place = bisect_left(starts, first)
        # An inner interval that continues one from before `first` covers it already.
        claimed = place > 0 and owners[place - 1] != NOBODY
        for index in range(place, len(starts)):
            if owners[index] == NOBODY:
                owners[index] = owner
        if not claimed and starts[place] != first:
            starts.insert(place, first)
            owners.insert(place, owner)
        if starts[-1] == last:
            owners[-1] = NOBODY
        else:
            starts.append(last)
            owners.append(NOBODY)
