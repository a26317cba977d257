"""Who looks on at a sweep: trackers and notices. Each reads the ledger at its own pace, and harms nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from prx_model.data.patience import StorageError
from sweeps.following import Following
from sweeps.ledger import Ledger, TrialRecord
from sweeps.meanwhile import meanwhile
from sweeps.obstacles import obstacle
from sweeps.onlookers.notices import Notices
from sweeps.onlookers.notify import check_notify
from sweeps.onlookers.trackers import check_installed
from sweeps.onlookers.tracking import trackings
from sweeps.space import SearchSpace, SpaceError
from sweeps.storage import SweepPaths

POLL_S = 5.0

Result = TypeVar("Result")


@contextmanager
def onlookers(space: SearchSpace, paths: SweepPaths, tell: Callable[[str], None]) -> Iterator[None]:
    """Show the sweep to its trackers and tell those who want to know, while the body runs and when it has ended.

    tell: is given what went wrong with them, in one line; the sweep goes on. Raises SpaceError before the body where a
    package or an address is missing. Goes on behind an error of the body: what is no mistake of who has typed the
    command is told as a halt.
    """
    try:
        check_installed(space.trackers)
        check_notify(space.notify)
    except ValueError as error:
        raise SpaceError(f"{space.file}: {error}") from error

    tracked = trackings(space, paths, tell)
    notices = _quietly(lambda: Notices(space, paths, tell), tell) if space.notify else None
    looks: list[Callable[[Sequence[TrialRecord]], None]] = [tracking.look for tracking in tracked]
    if notices is not None:
        looks.append(notices.look)
    halted: BaseException | None = None
    try:
        with ExitStack() as stack:
            for look in looks:
                stack.enter_context(meanwhile(POLL_S, _at(look, paths, tell)))
            yield
    except Exception as error:
        halted = error
        raise
    except BaseException:  # somebody has ended it by hand, and knows
        notices = None
        raise
    finally:
        records = _quietly(lambda: Ledger(paths).records(), tell) or []
        for tracking in tracked:
            tracking.look(records, at_last=True)
            tracking.close()
        if notices is not None:
            _quietly(lambda: _last_notices(notices, records, halted, paths), tell)


def _last_notices(
    notices: Notices, records: Sequence[TrialRecord], halted: BaseException | None, paths: SweepPaths
) -> None:
    notices.look(records)
    if halted is None:
        notices.ended(records)
    elif not isinstance(halted, ValueError):  # bad input, of which the terminal tells
        told = " ".join(str(halted).split())
        notices.halted(obstacle(halted, paths.root) or f"{type(halted).__name__}: {told}")


def _at(
    look: Callable[[Sequence[TrialRecord]], None], paths: SweepPaths, tell: Callable[[str], None]
) -> Callable[[], None]:
    """One look after another, each with its own view of the ledger, of which it reads only what is new."""
    following = Following(paths)

    def follow() -> None:
        following.look()
        look(following.records)

    return lambda: _quietly(follow, tell)


def _quietly(do: Callable[[], Result], tell: Callable[[str], None]) -> Result | None:
    """None where it could not be done: storage that does not answer is told of by those who write there."""
    try:
        return do()
    except StorageError:
        return None
    except Exception as error:
        tell(f"trackers and notices: {type(error).__name__}: {' '.join(str(error).split())[:200]}; the sweep goes on")
        return None
