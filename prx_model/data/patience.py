"""S3 through s3fs: a client that tries once, and the patience around it.

s3fs takes endpoint, region and credentials from where all of AWS's tools take them. The network fails as a matter of
course: what may pass (throttling, a cut connection, a time-out) is tried again with growing pauses, what will not pass
(nothing there, no permission) is an error at once.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from s3fs import S3FileSystem

# Seconds between tries, each varied by a half: a minute of trouble in all, then the error is told.
PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
SILENT_TRIES = 3  # nobody is told of a hiccup
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 30
CONNECTIONS = 64  # at a time; botocore's own 10 would make a queue of many small reads

Result = TypeVar("Result")
logger = logging.getLogger(__name__)


class StorageError(OSError):
    """Object storage that cannot be reached, or does not let us: one line with the address and what it said."""


class ForbiddenError(StorageError, PermissionError):
    """Object storage that does not let us."""


def single_try_client() -> S3FileSystem:
    """A new client. `patiently` alone counts the tries: botocore's times s3fs's times ours would go on for an hour."""
    import s3fs

    once = {"retries": {"mode": "standard", "total_max_attempts": 1}, "max_pool_connections": CONNECTIONS}
    files = s3fs.S3FileSystem(
        use_listings_cache=False,
        skip_instance_cache=True,  # fsspec would keep the first one's credentials for ever
        config_kwargs={"connect_timeout": CONNECT_TIMEOUT_S, "read_timeout": READ_TIMEOUT_S, **once},
    )
    files.retries = 1
    return files


def patiently(
    call: Callable[[], Result],
    name: str,
    *,
    verb: str = "read",
    pauses_s: tuple[float, ...] = PAUSES_S,
    stopping: threading.Event | None = None,
) -> Result:
    """What `call` returns, tried again while it fails in a way that may pass.

    name, verb: of what is asked for, as in '{name} could not be {verb}'. stopping: give up once set (CancelledError).
    FileNotFoundError where it is missing, ForbiddenError where it may not be had, StorageError after the last try.
    """
    from aiohttp import ClientError as HttpError
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, ParamValidationError

    stopping = stopping or threading.Event()
    for tries, pause_s in enumerate((*pauses_s, None), start=1):
        try:
            return call()
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{name} is missing") from error
        except PermissionError as error:
            raise ForbiddenError(f"{name} may not be {verb} ({error}); check the AWS credentials") from error
        except NoCredentialsError as error:
            raise ForbiddenError(f"{name} may not be {verb} (no AWS credentials found); configure them") from error
        except ParamValidationError as error:  # such as a name that no bucket can have
            raise StorageError(f"{name} cannot be {verb}: {' '.join(str(error).split())}") from error
        except (OSError, BotoCoreError, ClientError, HttpError) as error:
            if pause_s is None:
                raise StorageError(f"{name} could not be {verb} in {tries} tries; the last: {_told(error)}") from error
            if tries == SILENT_TRIES + 1:
                left = f"{sum(pauses_s[SILENT_TRIES:]):.0f} s"
                logger.warning("%s could not be %s yet (%s); tried again for %s", name, verb, _told(error), left)
            if stopping.wait(pause_s * random.uniform(0.5, 1.5)):
                raise CancelledError from error
    raise AssertionError("unreachable")


def error_code(error: BaseException) -> str:
    """S3's own word for what went wrong, 'PreconditionFailed'; '' where it has not answered."""
    response = getattr(error.__cause__, "response", None) or getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
