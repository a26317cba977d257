"""An S3 server on this machine for tests: moto's, in a process of its own, found by s3fs, boto3 and pyarrow alike.

    def test_something(s3_bucket: str) -> None:
        location = f"{s3_bucket}/folder"  # "s3://bucket-1/folder", in a new and empty bucket

`s3_bucket` sets the environment that AWS's tools read (endpoint, keys, region) for the one test; processes that it
starts inherit it. For a client of the test's own: `from tests.s3_server import file_system`. Without moto (it is in the
`dev` extra) these tests are skipped.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

SERVER = """
import logging, sys
from moto.server import ThreadedMotoServer

logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()  # until the tests end, however they end
server.stop()
"""
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The endpoint of a running S3 server, "http://127.0.0.1:<port>"."""
    pytest.importorskip("moto")
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


@pytest.fixture
def s3_bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new bucket, as "s3://<name>"; AWS's tools find the server by themselves while the test runs."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    name = f"bucket-{next(_numbers)}"
    file_system().mkdir(name)
    return f"s3://{name}"


def file_system() -> Any:
    """s3fs on the server of `s3_bucket`, made anew: fsspec would hand out one that remembers an earlier test's keys."""
    import s3fs

    return s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
