"""Does a storage that fails now and then change the answer? The smoke sweep with its results in S3, behind trouble.

    python benchmarks/unsteady_storage.py --work FOLDER [--share 0.05] [--seed 0]

A server (tests/flaky_server.py) stands before moto's S3. Of every hundred requests it refuses some as S3 does under
load (503 SlowDown), cuts some answers in half, and has some done without an answer. The driver is killed with -9
half-way and the same command given again. In the end the ledger must hold, value for value, what the same sweep on a
disk without any trouble holds.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from sweeps.ledger import Ledger, TrialRecord
from sweeps.storage import SweepPaths
from tests.flaky_server import flaky_server
from tests.s3_server import SERVER

SPACE = "tests/spaces/smoke.yaml"
TROUBLES = ("slow", "cut", "lost")
LIMIT_S = 600.0
MOST_STARTS = 4
ROWS_BEFORE_THE_KILL = 8


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="results of the sweep on a disk, caches and logs")
    parser.add_argument("--share", type=float, default=0.05, help="of the requests, that have trouble")
    parser.add_argument("--seed", type=int, default=0, help="of the trouble")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    calm = _sweep(str(options.work / "calm"), options.work, "calm")
    assert calm.wait(LIMIT_S) == 0, f"see {options.work}/calm.log"
    expected = _findings(_records(str(options.work / "calm")))
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        return _disturbed(f"http://127.0.0.1:{int(server.stdout.readline())}", options, expected)
    finally:
        server.stdin.close()
        server.wait(30)


def _disturbed(endpoint: str, options: argparse.Namespace, expected: dict[str, Any]) -> int:
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": endpoint,
    }
    import boto3

    boto3.client("s3").create_bucket(Bucket="unsteady")
    draw = random.Random(options.seed)
    coming = [draw.choice(TROUBLES) if draw.random() < options.share else "" for _ in range(1_000_000)]
    met, began, codes = Counter(coming), time.monotonic(), []
    with flaky_server(endpoint) as troubles:
        troubles.coming = coming
        for number in range(MOST_STARTS):
            process = _sweep("s3://unsteady/results", options.work, f"start-{number}", troubles.endpoint)
            codes.append(_kill_half_way(process) if number == 0 else process.wait(LIMIT_S))
            if codes[-1] == 0:
                break
        met.subtract(Counter(troubles.coming))
        requests = len(troubles.requests)
    records = _records("s3://unsteady/results")
    found = _findings(records)
    wrong = [trial for trial in sorted(expected | found) if expected.get(trial) != found.get(trial)]
    told = ", ".join(f"{met[trouble]} {trouble}" for trouble in TROUBLES)
    print(f"{requests} requests, of them {told}; the command ended with {codes} after {time.monotonic() - began:.0f} s")
    repeated = sum(record.num_repeated for record in records)
    print(
        f"{len(found)} trials, {sum(len(record.evaluations) for record in records)} evaluations, {repeated} made twice"
    )
    print(f"other than on a calm disk: {', '.join(wrong) or 'nothing'}")
    return int(bool(wrong) or codes[-1] != 0)


def _sweep(results: str, work: Path, name: str, endpoint: str = "") -> subprocess.Popen[bytes]:
    command = [sys.executable, "sweeps/run.py", SPACE, "--address", "local", "--results", results]
    environment = os.environ | ({"AWS_ENDPOINT_URL": endpoint} if endpoint else {})
    with (work / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [*command, "--cache", str(work / "cache")], cwd=ROOT, env=environment, stdout=log, stderr=log
        )


def _kill_half_way(process: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + LIMIT_S
    while process.poll() is None and time.monotonic() < deadline:
        if sum(len(record.evaluations) for record in _records("s3://unsteady/results")) >= ROWS_BEFORE_THE_KILL:
            process.kill()
        time.sleep(0.5)
    return process.wait(30)


def _records(results: str) -> list[TrialRecord]:
    if not results.startswith("s3://"):
        [folder] = [path.parent for path in Path(results).glob("*/ledger")]
        return Ledger(SweepPaths.at(str(folder))).records()
    import boto3

    bucket, _, prefix = results.removeprefix("s3://").partition("/")
    listed = boto3.client("s3").list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/", Delimiter="/")
    folders = [it["Prefix"].strip("/") for it in listed.get("CommonPrefixes", []) if "laptop" in it["Prefix"]]
    return [record for it in folders for record in Ledger(SweepPaths.at(f"s3://{bucket}/{it}")).records()]


def _findings(records: list[TrialRecord]) -> dict[str, Any]:
    """Without times: every value of every trial at every step, and how it ended."""
    return {
        record.trial: [
            [(row.step, row.num_samples, dict(row.metrics), row.flow_loss) for row in record.evaluations],
            record.outcome,
        ]
        for record in records
    }


if __name__ == "__main__":
    sys.exit(main())
