"""Plans of micro-batches: which samples go through the model together. Pure functions of the lengths.

An index stands for a sample, or for the samples of a unit. A plan has each index exactly once. The grouping affects
speed only, since denominators are counted over the global batch, so plans may reorder: the longest come first, so that
a lack of memory shows at once.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

from hone.errors import DataError

Plan = list[list[int]]


class SampleTooLongError(DataError):
    """One sample alone exceeds the token budget of a micro-batch."""

    def __init__(self, index: int, length: int, budget: int) -> None:
        self.index, self.length, self.budget = index, length, budget
        super().__init__(
            f"a sample of {length} tokens (for a pair: both sides) does not fit a micro-batch of {budget} tokens: "
            "raise train_mb_tokens (and logprob_mb_tokens) of policy.sequence_packing or policy.dynamic_batching "
            f"to at least {length}, or lower policy.max_total_sequence_length"
        )


def fixed(lengths: Sequence[int], size: int) -> Plan:
    """Micro-batches of `size` rows (the last may be smaller) of similar lengths, so that there is little padding."""
    order = _longest_first(lengths)
    return [order[i : i + size] for i in range(0, len(order), size)]


def by_tokens(
    lengths: Sequence[int], budget: int, round_to: int = 1, rows: Sequence[int] | None = None
) -> Plan:
    """As few padded micro-batches as possible, each of at most `budget` padded tokens.

    `rows` is the number of rows of each index (None: 1 each), and `lengths` the length of its longest row. A
    micro-batch costs rows × its longest row rounded up to a multiple of `round_to`. An index that fits the
    budget only before rounding gets its own micro-batch. Raises SampleTooLongError.
    """
    rows = [1] * len(lengths) if rows is None else rows
    plan: Plan = []
    free_rows = 0  # rows that still fit the newest micro-batch
    for index in _longest_first(lengths):
        if lengths[index] * rows[index] > budget:
            raise SampleTooLongError(index, lengths[index] * rows[index], budget)
        if not plan or rows[index] > free_rows:
            plan.append([])
            free_rows = budget // max(1, _round_up(lengths[index], round_to))
        plan[-1].append(index)
        free_rows -= rows[index]
    return plan


def packed(lengths: Sequence[int], capacity: int) -> Plan:
    """Rows of samples laid end to end, at most `capacity` tokens each: best-fit decreasing.

    It needs at most 11/9 of the fewest possible rows, plus one (Johnson 1974; the same bound as first-fit decreasing).
    Time is O(n log n). Raises SampleTooLongError.
    """
    plan: Plan = []
    space: list[tuple[int, int]] = []  # (tokens left, row), sorted
    for index in _longest_first(lengths):
        length = lengths[index]
        if length > capacity:
            raise SampleTooLongError(index, length, capacity)
        at = bisect_left(space, (length, -1))
        if at < len(space):
            left, row = space.pop(at)
            plan[row].append(index)
        else:
            left, row = capacity, len(plan)
            plan.append([index])
        insort(space, (left - length, row))
    return plan


def balanced(costs: Sequence[int], shares: int) -> Plan:
    """Divide the indices into `shares` shares of nearly equal cost: greedily, the most expensive index first.

    The cost of the largest share is at most 4/3 of the best possible (Graham 1969). A share may be empty; the indices
    of a share are in ascending order.
    """
    plan: Plan = [[] for _ in range(shares)]
    loads = [0] * shares
    for index in _longest_first(costs):
        share = loads.index(min(loads))
        plan[share].append(index)
        loads[share] += costs[index]
    return [sorted(share) for share in plan]


def _longest_first(lengths: Sequence[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple
