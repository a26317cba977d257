from __future__ import annotations

from tests.s3_server import file_system


def test_every_test_has_an_empty_bucket_that_all_clients_find(s3_bucket: str) -> None:
    import boto3
    from pyarrow import fs

    name = s3_bucket.removeprefix("s3://")
    assert file_system().ls(name) == []
    boto3.client("s3").put_object(Bucket=name, Key="folder/file", Body=b"0123456789")
    assert file_system().cat_file(f"{name}/folder/file", start=2, end=5) == b"234"
    arrow, path = fs.FileSystem.from_uri(f"{s3_bucket}/folder/file")
    with arrow.open_input_file(path) as file:
        assert file.read_at(3, 2) == b"234"
