"""What is no trial's fault: a disk that takes no more, a folder that can no longer be written, storage that does not
answer, a Ray that is gone.

A trial that meets one of them has not failed. It stays unfinished, the sweep halts with one line that says what to do,
and the same command goes on.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from prx_model.data.patience import StorageError

_REMEDIES = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some of your quota there",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EROFS: "make it writable",
    errno.EIO: "see to the disk",
}


class HaltedError(RuntimeError):
    """The sweep cannot go on now; nothing is lost. One line: what is in the way, and what to do about it."""


def obstacle(error: BaseException, root: object) -> str | None:
    """What is in the way of the sweep in the folder `root`, in one line; None where the error is about something else.

    Looked for in all that led to the error: torch and Tune raise errors of their own over those of the system.
    """
    for cause in _causes(error):
        if isinstance(cause, HaltedError):
            return str(cause)
        if (trouble := _with_storage(cause)) is not None:
            return trouble
        number = cause.errno if isinstance(cause, OSError) else None
        # Other libraries, and errors that come from another process, keep the words alone.
        number = number if number in _REMEDIES else next((n for n in _REMEDIES if os.strerror(n) in str(cause)), None)
        if number is not None:
            place = getattr(cause, "filename", None) or root
            return f"{place}: {os.strerror(number)}; {_REMEDIES[number]}, then the same command goes on"
    return None


def _with_storage(error: BaseException) -> str | None:
    """One line where object storage is in the way; what it takes to a disk here may be stopped by that disk."""
    told = " ".join(str(error).split())
    ours = isinstance(error, StorageError) or StorageError.__name__ in told  # as another process tells it
    if not ours or any(os.strerror(number) in told for number in _REMEDIES):
        return None
    return f"{told}; when the storage answers again, the same command goes on"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it was raised from, what was being handled when it was raised, and so on."""
    seen: list[BaseException] = []
    waiting = [error]
    while waiting:
        cause = waiting.pop()
        if cause is not None and cause not in seen:
            seen.append(cause)
            yield cause
            waiting += [cause.__context__, cause.__cause__]
