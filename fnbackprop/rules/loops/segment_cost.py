"""Into how many segments a long scan is cut, so that what its backward keeps stays within a budget.

Segments may be segmented in turn: k levels of about T^(1/(k+1)) carries each need k+1 forward runs (treeverse).
"""

import math
from typing import NamedTuple


class Cost(NamedTuple):
    """What is kept, in bytes."""

    carry: int  # kept at the start of each segment
    stacked: int  # by one step, for its backward
    scanned: int = 0  # xs, ys and their cotangents at one step, of which a segment has a copy
    sums: int = 0  # the cotangents of the constants, once for each level

    def needed(self, steps: int, levels: int) -> int:
        """Bytes kept by a scan of so many steps with so many levels of segments."""
        if levels == 0:
            return steps * self.stacked
        count = self.count(steps, levels)
        size = math.ceil(steps / count)
        return self.of_level(steps, count) + self.needed(size, levels - 1)

    def least(self, steps: int) -> int:
        """The least that any number of levels needs."""
        return min(self.needed(steps, levels) for levels in range(_most_levels(steps) + 1))

    def segments(self, steps: int, allowed: float) -> int | None:
        """The number of segments with which `allowed` bytes suffice, at as few levels as possible; None: none does."""
        for levels in range(1, _most_levels(steps) + 1):
            if self.needed(steps, levels) <= allowed:
                return self.count(steps, levels)
        return None

    def count(self, steps: int, levels: int) -> int:
        """The number of segments at which all levels keep about as much: a divisor of the steps, if one is near."""
        best = (steps * max(self.stacked + self.scanned, 1) / max(self.carry, 1)) ** (1 / (levels + 1))
        best = min(max(best, 2.0), float(steps))
        divisors = [d for d in range(2, steps + 1) if steps % d == 0 and best / 1.5 <= d <= best * 1.5]
        return min(divisors, key=lambda d: abs(math.log(d / best))) if divisors else math.ceil(best)

    def of_level(self, steps: int, count: int) -> int:
        """Bytes kept by one level of `count` segments, without those kept within a segment."""
        return count * self.carry + math.ceil(steps / count) * self.scanned + self.sums


def _most_levels(steps: int) -> int:
    return max(0, steps.bit_length() - 1)
