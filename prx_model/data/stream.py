"""An endless, deterministic sequence of batches of a data set that is larger than memory."""

from __future__ import annotations

import resource
from collections import deque
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64

from prx_model.batch import Batch
from prx_model.data.background import Background
from prx_model.data.decoding import images_at, latents_at, teacher_tokens_at, texts_at
from prx_model.data.groups import OpenGroup
from prx_model.data.manifest import TeacherCard
from prx_model.data.order import SHUFFLE_ROWS, Order, StepRows
from prx_model.data.store import EncodedStore

BATCHES_AHEAD = 2  # made while the caller uses the one that it has
STEPS_AHEAD = 8  # on top of those, for which row groups are opened
OTHER_FILES = 128  # that a process may have open besides


class StreamReader:
    """Batches of a data set's train split, in the order of prx_model/data/order.py.

    Nothing has to be saved to resume at a step. Threads make the next batches, open the row groups of those that follow
    (from S3: fetch them) and end with the generator.

    Memory: the batch in use and BATCHES_AHEAD more, this worker's share each. Row groups that are alive are open files,
    not data: the system caches what it has room for. There are as many of them as Order says, and those of STEPS_AHEAD
    steps; while they are fetched from S3, those that the threads work at are in memory.
    """

    def __init__(
        self,
        store: EncodedStore,
        batch_size: int,
        seed: int,
        *,
        share: tuple[int, int] | None = None,
        shuffle_rows: int = SHUFFLE_ROWS,
        stored_teacher: str | None = None,
        with_images: bool = False,
    ) -> None:
        """batch_size: of the global batch, of which the rows [start, stop) of `share` are read; all of them if None.
        shuffle_rows: rows of the global batch's windows together. stored_teacher: whose tokens come along.
        with_images: whether pixels come along, for a teacher that looks at them.
        """
        self.store = store
        self.batch_size = batch_size
        self.seed = seed
        self.share = share or (0, batch_size)
        self.shuffle_rows = shuffle_rows
        self.with_images = with_images
        order = self._order()
        self.steps_per_epoch = order.steps_per_epoch
        if not 0 <= self.share[0] < self.share[1] <= batch_size:
            raise ValueError(f"share: got {share}, allowed is [start, stop) within 0 to {batch_size}, not empty")
        self._teacher = None if stored_teacher is None else _card_of(store, stored_teacher)
        self._check_open_files(order)

    def batches(self, from_step: int = 0) -> Generator[Batch]:
        """The batches of `from_step`, `from_step` + 1, ... without end.

        clean: latents, or pixels / 127.5 - 1 (float32) of a data set without them. Latents, text and teacher tokens
        have the dtype in which they are stored. index: numbers of the rows in the train split. Errors of the threads
        (see Ranges.open) are raised here, when the batch is due that they spoil.
        """
        if from_step < 0:
            raise ValueError(f"from_step: got {from_step}, allowed is an integer of at least 0")
        return self._batches(from_step)

    def _batches(self, step: int) -> Generator[Batch]:
        files = self.store.train
        with Background(BATCHES_AHEAD, "batch") as making, Background(files.num_threads, "row-group") as opening:
            plans = _Plans(
                self._order(), self.share, lambda number: opening.submit(files.open, number, opening.stopping)
            )
            ready: deque[Future[Batch]] = deque()
            while True:
                while len(ready) <= BATCHES_AHEAD:
                    ready.append(making.submit(self._batch, plans.plan(step)))
                    step += 1
                yield ready.popleft().result()

    def _batch(self, plan: _Plan) -> Batch:
        places = [(plan.groups[number].result(), row) for number, row in plan.places]
        manifest = self.store.manifest
        text, text_mask = texts_at(places, manifest)
        with_images = self.with_images or manifest.latents is None
        images = images_at(places, manifest.resolution) if with_images else None
        if manifest.latents is not None:
            clean = latents_at(places, manifest)
        else:
            assert images is not None
            clean = images.float() / 127.5 - 1
        return Batch(
            clean=clean,
            text=text,
            text_mask=text_mask,
            index=torch.from_numpy(plan.rows),
            teacher_tokens=None if self._teacher is None else teacher_tokens_at(places, self._teacher),
            image=images if self.with_images else None,
        )

    def _order(self) -> Order:
        return Order(self.store.train.group_rows, self.batch_size, self.seed, shuffle_rows=self.shuffle_rows)

    def _check_open_files(self, order: Order) -> None:
        allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        lanes = -(-(self.share[1] - self.share[0]) * order.num_lanes // self.batch_size)
        mean_rows = self.store.num_train / len(self.store.train.group_rows)
        expected = round(lanes * (2 * order.window_rows / mean_rows + 2))
        if expected + OTHER_FILES > allowed:
            raise ValueError(
                f"shuffle_rows: got {self.shuffle_rows}, which keeps some {expected} row groups open; this process may "
                f"open {allowed} files: lower it, or raise the limit (ulimit -n)"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Plan:
    """What a batch is made of. places: group and row within it, of each row of the batch."""

    rows: Int64[np.ndarray, " b"]
    places: list[tuple[int, int]]
    groups: Mapping[int, Future[OpenGroup]]


class _Plans:
    """Looks STEPS_AHEAD further than it is asked for, opens the row groups that come into sight, in the order of their
    first use, and lets go of those that are out of it."""

    def __init__(self, order: Order, share: tuple[int, int], open_group: Callable[[int], Future[OpenGroup]]) -> None:
        self._order = order
        self._share = share
        self._open_group = open_group
        self._ahead: dict[int, StepRows] = {}
        self._open: dict[int, Future[OpenGroup]] = {}

    def plan(self, step: int) -> _Plan:
        """The plan of `step`; to be asked for in the order of the steps."""
        for later in range(step, step + STEPS_AHEAD + 1):
            if later not in self._ahead:
                self._ahead[later] = self._order.step(later, self._share)
                numbers, _ = self._order.group_of(self._ahead[later].rows)
                for number in dict.fromkeys(numbers.tolist()):
                    if number not in self._open:
                        self._open[number] = self._open_group(number)
        in_sight = {number for ahead in self._ahead.values() for number in ahead.groups}
        self._open = {number: future for number, future in self._open.items() if number in in_sight}
        rows = self._ahead.pop(step).rows
        numbers, places = self._order.group_of(rows)
        return _Plan(
            rows=rows,
            places=list(zip(numbers.tolist(), places.tolist(), strict=True)),
            groups={number: self._open[number] for number in set(numbers.tolist())},
        )


def _card_of(store: EncodedStore, name: str) -> TeacherCard:
    cards = {card.name: card for card in store.manifest.teachers}
    if name not in cards:
        raise ValueError(
            f"stored_teacher: got {name!r}, allowed is one of {', '.join(cards) or 'none: none is stored'}"
        )
    return cards[name]
