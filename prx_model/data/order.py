"""In which order the rows of a data set are trained on: a pure function of the seed, the batch size and the row groups.

Rows are stored in groups, and only whole groups are worth reading. So each epoch puts the groups in a new order, lays
their rows end to end, drops what does not fill a batch, and cuts the rest into lanes of equal length. A batch takes the
same number of rows from every lane, and so from places all over the data set; within a lane, rows are shuffled in
windows. The windows' borders are staggered over the lanes, lest all of them ask for new groups at the same step. A
worker reads the lanes that its share of the batch touches, and of those no more than a window.

The number of workers has no part in it: any share of a batch is a part of the same batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

MAX_LANES = 64
SHUFFLE_ROWS = 4096


@dataclass(frozen=True, kw_only=True, eq=False)
class StepRows:
    """What one step reads.

    rows: their numbers in the split. groups: those in which the windows lie that these rows come from, ascending.
    """

    rows: Int64[np.ndarray, " b"]
    groups: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Window:
    """Shuffled rows of a lane; the first stands at position `start` of the lane."""

    start: int
    rows: Int64[np.ndarray, " w"]
    groups: tuple[int, ...]


class Order:
    """The rows of every step from 0 on.

    group_rows: rows of each row group, in the order of the split. shuffle_rows: rows of all lanes' windows in sum: the
    measure of how well rows are mixed, and of what has to be at hand at a time. A step that reads all lanes needs about
    two groups of each where a window is as long as a group, and never more than four; a share of them that share.
    """

    def __init__(
        self, group_rows: Sequence[int], batch_size: int, seed: int, *, shuffle_rows: int = SHUFFLE_ROWS
    ) -> None:
        num_rows = sum(group_rows)
        if not 1 <= batch_size <= num_rows:
            raise ValueError(f"batch_size: got {batch_size}, allowed is 1 to {num_rows}, the rows of the data set")
        if seed < 0:
            raise ValueError(f"seed: got {seed}, allowed is an integer of at least 0")
        if shuffle_rows < 1:
            raise ValueError(f"shuffle_rows: got {shuffle_rows}, allowed is an integer of at least 1")
        self.batch_size = batch_size
        self.seed = seed
        self.steps_per_epoch = num_rows // batch_size
        self.num_lanes = min(MAX_LANES, batch_size & -batch_size)  # the largest power of two in the batch size
        self.window_rows = max(1, shuffle_rows // self.num_lanes)
        self._group_rows = np.asarray(group_rows, dtype=np.int64)
        self._first_rows = np.cumsum(self._group_rows) - self._group_rows
        self._lane_batch = batch_size // self.num_lanes
        self._lane_rows = self.steps_per_epoch * self._lane_batch
        self._epochs: dict[int, tuple[Int64[np.ndarray, " g"], Int64[np.ndarray, " g"]]] = {}
        self._windows: dict[tuple[int, int, int], _Window] = {}

    def step(self, step: int, share: tuple[int, int] | None = None) -> StepRows:
        """The rows [start, stop) of a step's batch, all of them if `share` is None."""
        start, stop = share or (0, self.batch_size)
        epoch, within = divmod(step, self.steps_per_epoch)
        windows: dict[tuple[int, int, int], _Window] = {}
        parts: list[Int64[np.ndarray, " r"]] = []
        for lane in range(start // self._lane_batch, -(-stop // self._lane_batch)):
            first = lane * self._lane_batch
            low = within * self._lane_batch + max(0, start - first)
            high = within * self._lane_batch + min(self._lane_batch, stop - first)
            while low < high:
                key = (epoch, lane, self._window_number(lane, low))
                window = windows[key] = self._windows.get(key) or self._window(*key)
                taken = window.rows[low - window.start : high - window.start]
                parts.append(taken)
                low += len(taken)
        # What the step needs is all that is kept: the next step needs nearly the same, and any step can be made anew.
        self._windows = windows
        self._epochs = {number: groups for number, groups in self._epochs.items() if number >= epoch}
        groups = sorted({group for window in windows.values() for group in window.groups})
        return StepRows(rows=np.concatenate(parts), groups=tuple(groups))

    def group_of(self, rows: Int64[np.ndarray, " b"]) -> tuple[Int64[np.ndarray, " b"], Int64[np.ndarray, " b"]]:
        """In which group each row lies, and where in it."""
        groups = np.searchsorted(self._first_rows, rows, side="right") - 1
        return groups, rows - self._first_rows[groups]

    def _borders(self, lane: int) -> range:
        """Where a window of the lane ends and the next begins. The first and the last have 0.5 to 1.5 times the rows of
        the others: a window of a few rows would leave them in the order in which they are stored."""
        least = -(-self.window_rows // 2)
        first = lane * self.window_rows // self.num_lanes
        first += self.window_rows if first < least else 0
        return range(first, self._lane_rows - least + 1, self.window_rows)

    def _window_number(self, lane: int, position: int) -> int:
        borders = self._borders(lane)
        return min(len(borders), max(0, (position - borders.start) // self.window_rows + 1))

    def _window(self, epoch: int, lane: int, number: int) -> _Window:
        borders = self._borders(lane)
        start = borders[number - 1] if number > 0 else 0
        stop = borders[number] if number < len(borders) else self._lane_rows
        groups, ends = self._epoch(epoch)
        positions = lane * self._lane_rows + np.arange(start, stop)
        places = np.searchsorted(ends, positions, side="right")
        chosen = groups[places]
        rows = self._first_rows[chosen] + positions - (ends[places] - self._group_rows[chosen])
        shuffled = self._generator(epoch, lane, number).permutation(rows)
        return _Window(start=start, rows=shuffled, groups=tuple(int(group) for group in np.unique(chosen)))

    def _epoch(self, epoch: int) -> tuple[Int64[np.ndarray, " g"], Int64[np.ndarray, " g"]]:
        """The groups in this epoch's order, and where each ends when their rows are laid end to end."""
        if epoch not in self._epochs:
            groups = self._generator(epoch).permutation(len(self._group_rows)).astype(np.int64)
            self._epochs[epoch] = (groups, np.cumsum(self._group_rows[groups]))
        return self._epochs[epoch]

    def _generator(self, *key: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=key)))
