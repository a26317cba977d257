"""What trials need to run; and for results in S3, a place in an empty bucket, behind a network that fails at will."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeps import object_path
from sweeps.object_path import ObjectPath
from tests.flaky_server import Troubles, flaky_server
from tests.sweeps.trials import filled_cache

QUICK = (0.001, 0.001, 0.001)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, teachers and reference features of the smoke space."""
    return filled_cache(tmp_path_factory)


@pytest.fixture
def stored(s3_bucket: str) -> Iterator[ObjectPath]:
    """An address in an empty bucket, whose patience is short."""
    object_path.client.cache_clear()
    yield ObjectPath(s3_bucket.removeprefix("s3://"), "results", QUICK)
    object_path.client.cache_clear()


@pytest.fixture
def troubles(stored: ObjectPath, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Troubles]:
    """Between `stored` and its server."""
    with flaky_server(s3_server) as flaky:
        monkeypatch.setenv("AWS_ENDPOINT_URL", flaky.endpoint)
        object_path.client.cache_clear()
        yield flaky
