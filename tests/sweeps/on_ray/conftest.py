"""One local Ray for all tests of this folder: each start of one is some twenty processes that import."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

from sweeps import cluster


@pytest.fixture(scope="package")
def address(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[str]:
    """Of a Ray that this process has joined; its workers know the tests' S3 server where there is one."""
    import ray

    log = tmp_path_factory.mktemp("ray") / "ray.log"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.delenv("RAY_ADDRESS", raising=False)
        if importlib.util.find_spec("moto") is not None:
            patch.setenv("AWS_ENDPOINT_URL", request.getfixturevalue("s3_server"))
            patch.setenv("AWS_ACCESS_KEY_ID", "testing")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        with cluster.printing_to(log):
            connection = cluster.connect(None, log)
            yield connection.address
            ray.shutdown()
