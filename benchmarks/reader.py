"""How many samples a second the streaming reader gives, against Parquet alone on the same bytes, all in one run.

    python benchmarks/reader.py --folder cache/reader --rows 8192 [--s3-rows 1024] [--rounds 3]

The data set is synthetic, of the cluster's shapes: latents 16 x 32 x 32 and 100 text tokens of width 2304, both float16
and random bits, since no reader looks at values; 256 px JPEG images of smoothed noise. 8,192 rows take 4 GB and are
kept in the folder for the next run. Everything is read once before, so that the disk has no part in it.

parquet: `read_table` of every file, all columns, and `read_row_group` of all columns in random order on one thread:
what the same bytes cost with no order, no padding and no batches. first epoch: StreamReader in the state in which a run
starts, each row group's sha256 checked. later epochs: without. Rates are of whole epochs, start included; processor
time is of all threads of this process, and tells what the clock of a busy machine does not.

S3 is moto's server (in the `dev` extra) on loopback in a process of its own, or --s3-endpoint and --s3-bucket with the
credentials that AWS's tools find. moto is a Python server on the same cores, so "ranges alone", of s3fs fetching the
row groups with as many threads and nothing else, says what there is to be had. cold: with an empty cache. cached: with
a full one, in a new reader. --s3-rows 0 leaves S3 out.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pyarrow
import pyarrow.parquet as pq
import torch

from prx_model.data.durable import write_file
from prx_model.data.manifest import (
    MANIFEST_FILE,
    FileCard,
    ImageCard,
    LatentCard,
    Manifest,
    SourceCard,
    TextEncoderCard,
)
from prx_model.data.places import place_at
from prx_model.data.shards import Row, encode_image, shard_name, write_null_text, write_shard
from prx_model.data.store import EncodedStore
from prx_model.data.stream import StreamReader
from sweeps.provenance import provenance

TOKENS, WIDTH, LATENT, SIDE = 100, 2304, (16, 32, 32), 256
ROWS_PER_SHARD = 1024
SERVER = """
import logging, sys
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""


def random_numbers(rng: np.random.Generator, shape: tuple[int, ...]) -> torch.Tensor:
    raw = np.frombuffer(rng.bytes(2 * int(np.prod(shape))), np.uint8).copy()
    return torch.from_numpy(raw).view(torch.float16).reshape(shape)


def random_images(rng: np.random.Generator, count: int) -> list[bytes]:
    noise = torch.from_numpy(rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)).float()
    smooth = torch.nn.functional.interpolate(noise, size=(SIDE, SIDE), mode="bicubic").clamp(0, 255)
    return [encode_image(image, "jpeg", 90) for image in smooth.to(torch.uint8)]


def random_shard(folder: Path, number: int, count: int, images: Sequence[bytes]) -> FileCard:
    rng = np.random.default_rng(number)
    rows = [
        Row(
            key=f"{number}-{index}",
            caption=f"caption {index} of shard {number}",
            split="train",
            image=images[index % len(images)],
            text=random_numbers(rng, (TOKENS, WIDTH)),
            latent=random_numbers(rng, LATENT),
        )
        for index in range(count)
    ]
    return write_shard(folder, shard_name("train", number), rows)


def make_store(folder: Path, num_rows: int) -> Path:
    """A synthetic data set of the cluster's shapes, made where it is not there yet."""
    if (folder / MANIFEST_FILE).is_file() and Manifest.read(folder).counts == {"train": num_rows}:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    images = random_images(np.random.default_rng(0), 32)
    cards: list[FileCard] = []
    for number, start in enumerate(range(0, num_rows, ROWS_PER_SHARD)):
        cards.append(random_shard(folder, number, min(ROWS_PER_SHARD, num_rows - start), images))
        print(f"written: {start + cards[-1].rows} of {num_rows} rows", file=sys.stderr)
    null_text = write_null_text(folder, random_numbers(np.random.default_rng(0), (1, WIDTH)))
    manifest = random_manifest(num_rows, tuple(cards), null_text)
    write_file(folder / MANIFEST_FILE, lambda file: file.write(manifest.to_json().encode()))
    return folder


def random_manifest(num_rows: int, shards: tuple[FileCard, ...], null_text: FileCard) -> Manifest:
    nothing = {"package": "", "package_version": ""}
    return Manifest(
        source=SourceCard(name="random bits", **nothing, licence="", attribution=""),
        settings={},
        resolution=SIDE,
        max_text_tokens=256,
        longest_text=TOKENS,
        text_encoder=TextEncoderCard(name="random bits", **nothing, weight_sha256="", width=WIDTH),
        text_dtype="float16",
        image=ImageCard(train_format="jpeg", heldout_format="png", quality=90),
        latents=LatentCard(
            autoencoder="random bits",
            kind="",
            revision="",
            weight_sha256="",
            channels=LATENT[0],
            downsampling=SIDE // LATENT[1],
            scale=1.0,
            shift=0.0,
            dtype="float16",
        ),
        teachers=(),
        counts={"train": num_rows},
        cut_captions=0,
        skipped_by_reason={},
        skipped=(),
        shards=shards,
        null_text=null_text,
    )


def read_tables(folder: Path, manifest: Manifest) -> int:
    return sum(pq.read_table(folder / card.file).num_rows for card in manifest.shards)


def read_groups(folder: Path, manifest: Manifest) -> int:
    files = [pq.ParquetFile(folder / card.file) for card in manifest.shards]
    groups = [(file, index) for file in files for index in range(file.metadata.num_row_groups)]
    order = np.random.default_rng(0).permutation(len(groups))
    return sum(groups[number][0].read_row_group(groups[number][1], use_threads=False).num_rows for number in order)


def read_epoch(store: EncodedStore, batch_size: int, epoch: int, with_images: bool = False) -> int:
    reader = StreamReader(store, batch_size, seed=0, with_images=with_images)
    batches = reader.batches(epoch * reader.steps_per_epoch)
    try:
        return sum(len(batch) for batch in islice(batches, reader.steps_per_epoch))
    finally:
        batches.close()


def fetch_ranges(location: str, manifest: Manifest, num_threads: int) -> int:
    place = place_at(location)
    ranges = [
        (card.file, group.offset, group.offset + group.bytes) for card in manifest.shards for group in card.groups
    ]
    with ThreadPoolExecutor(num_threads) as pool:
        for data, (_, start, stop) in zip(pool.map(lambda item: place.read(*item), ranges), ranges, strict=True):
            assert len(data) == stop - start
    return manifest.counts["train"]


@contextmanager
def s3_server() -> Iterator[None]:
    """moto's server, found by AWS's tools through the environment."""
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{int(process.stdout.readline())}"
        os.environ.update(AWS_ACCESS_KEY_ID="none", AWS_SECRET_ACCESS_KEY="none", AWS_DEFAULT_REGION="us-east-1")
        yield
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


def upload(folder: Path, bucket: str) -> str:
    import s3fs

    files = s3fs.S3FileSystem(skip_instance_cache=True)
    if not files.exists(bucket):
        files.mkdir(bucket)
    for path in folder.iterdir():
        files.put_file(str(path), f"{bucket}/reader-benchmark/{path.name}")
    return f"s3://{bucket}/reader-benchmark"


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One pass over the rows: by the clock, and by the processor time of this process."""

    rows_per_s: float
    cpu_ms_per_row: float


def measured(rounds: int, reads: dict[str, Callable[[], int]]) -> dict[str, list[Pass]]:
    """The passes of each, the rounds interleaved: whatever else runs on the machine disturbs all of them."""
    passes: dict[str, list[Pass]] = {name: [] for name in reads}
    for _ in range(rounds):
        for name, read in reads.items():
            start, used = time.perf_counter(), time.process_time()
            count = read()
            wall_s, cpu_s = time.perf_counter() - start, time.process_time() - used
            passes[name].append(Pass(rows_per_s=count / wall_s, cpu_ms_per_row=1000 * cpu_s / count))
    return passes


def local_rates(folder: Path, batch_size: int, rounds: int) -> dict[str, list[Pass]]:
    manifest = Manifest.read(folder)
    warm = EncodedStore.open(folder, cache=folder, cache_bytes=1)
    warm.verify()  # into the page cache
    read_epoch(warm, batch_size, 0)
    return measured(
        rounds,
        {
            "parquet: read_table": lambda: read_tables(folder, manifest),
            "parquet: read_row_group, random order": lambda: read_groups(folder, manifest),
            "reader: first epoch": lambda: read_epoch(
                EncodedStore.open(folder, cache=folder, cache_bytes=1), batch_size, 0
            ),
            "reader: later epochs": lambda: read_epoch(warm, batch_size, 1),
        },
    )


def s3_rates(folder: Path, bucket: str, batch_size: int, rounds: int) -> dict[str, list[Pass]]:
    manifest = Manifest.read(folder)
    location = upload(folder, bucket)
    with tempfile.TemporaryDirectory() as scratch:
        caches = iter(Path(scratch) / str(number) for number in range(rounds))
        used: list[Path] = []

        def epoch_through(cache: Path) -> int:
            store = EncodedStore.open(location, cache=cache, cache_bytes=1 << 40)
            return read_epoch(store, batch_size, 0)

        def cold() -> int:
            used.append(next(caches))
            return epoch_through(used[-1])

        return measured(
            rounds,
            {
                "S3: ranges alone": lambda: fetch_ranges(location, manifest, 8),
                "S3: reader, cold": cold,
                "S3: reader, cached": lambda: epoch_through(used[-1]),
            },
        )


def table(passes: dict[str, list[Pass]], first: str, row_bytes: float) -> list[str]:
    middle = {name: statistics.median(run.rows_per_s for run in runs) for name, runs in passes.items()}
    lines = [
        f"| what | samples/s, median (range) | GB/s | of {first} | processor ms a sample |",
        "|---|---|---|---|---|",
    ]
    for name, runs in passes.items():
        rates = [run.rows_per_s for run in runs]
        shown = f"{middle[name]:,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"
        gb_s, share = middle[name] * row_bytes / 1e9, middle[name] / middle[first]
        cpu_ms = statistics.median(run.cpu_ms_per_row for run in runs)
        lines.append(f"| {name} | {shown} | {gb_s:.2f} | {share:.2f} | {cpu_ms:.2f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for the synthetic data sets; kept")
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--s3-rows", type=int, default=1024)
    parser.add_argument("--s3-endpoint", help="an S3 server that runs already")
    parser.add_argument("--s3-bucket", default="reader-benchmark")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    folder = make_store(arguments.folder / f"store-{arguments.rows}", arguments.rows)
    manifest = Manifest.read(folder)
    row_bytes = sum(card.bytes for card in manifest.shards) / arguments.rows
    versions = f"pyarrow {pyarrow.__version__}, numpy {np.__version__}, torch {torch.__version__}"
    made_with = provenance("", "")
    print(f"{made_with['hardware']}; {versions}; commit {made_with['commit'][:12]}")
    print(f"{arguments.rows} rows of {row_bytes / 1e6:.2f} MB, batch {arguments.batch_size}\n")
    print(
        *table(local_rates(folder, arguments.batch_size, arguments.rounds), "parquet: read_table", row_bytes), sep="\n"
    )
    if arguments.s3_rows:
        small = make_store(arguments.folder / f"store-{arguments.s3_rows}", arguments.s3_rows)
        if arguments.s3_endpoint:
            os.environ["AWS_ENDPOINT_URL"] = arguments.s3_endpoint
            passes = s3_rates(small, arguments.s3_bucket, arguments.batch_size, arguments.rounds)
        else:
            with s3_server():
                passes = s3_rates(small, arguments.s3_bucket, arguments.batch_size, arguments.rounds)
        print(f"\nS3, {arguments.s3_rows} rows\n")
        print(*table(passes, "S3: ranges alone", row_bytes), sep="\n")


if __name__ == "__main__":
    main()
