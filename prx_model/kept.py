"""What a process keeps between runs: things that take seconds to load and that no run changes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

Thing = TypeVar("Thing")

MOST_OF_A_KIND = 4


class Kept:
    """Encoded data, teachers' tokens and metric suites of earlier runs, each under the fingerprint of what it is.

    At most `most` of a kind are kept; the one that was used longest ago goes first. Nothing that a run changes may be
    put in: a run's numbers must not depend on the runs before it.
    """

    def __init__(self, most: int = MOST_OF_A_KIND) -> None:
        if most < 1:
            raise ValueError(f"most: got {most}, allowed is an integer of at least 1")
        self.most = most
        self._kinds: dict[str, OrderedDict[Hashable, Any]] = {}

    def get(self, kind: str, fingerprint: Hashable, make: Callable[[], Thing], *, most: int | None = None) -> Thing:
        """The thing of that kind and fingerprint; made now if it is not there. most: of a kind that takes much room."""
        things = self._kinds.setdefault(kind, OrderedDict())
        if fingerprint not in things:
            while len(things) >= (most or self.most):  # before the new one is made, so that there is room for it
                things.popitem(last=False)
            things[fingerprint] = make()
        things.move_to_end(fingerprint)
        return things[fingerprint]

    def count(self, kind: str) -> int:
        return len(self._kinds.get(kind, ()))
