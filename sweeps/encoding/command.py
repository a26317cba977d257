"""Encode images and captions into a data set to train on, on a disk or on S3.

SOURCE is a folder or an s3:// address of images with captions beside them (a.jpg, a.txt), of images and one .jsonl or
.csv that names them, of Parquet files with an image and a caption column, or of WebDataset's .tar files.
The same command goes on where it was interrupted, and does nothing where everything is done.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from prx_model.data.manifest import IMAGE_FORMATS, STORED_DTYPES, ImageCard, SourceCard
from prx_model.encoding.settings import MINILM, MINILM_PRECISION, PRECISIONS, EncodingSettings
from prx_model.encoding.sources import recognise
from sweeps.encoding.request import EncodeRequest
from sweeps.encoding.session import EncodeSession

SUMMARY = "encode images and captions into a data set"
EPILOG = """\
examples:
  prx-sweeps encode s3://bucket/photos --to s3://bucket/encoded      # Flux latents, T5Gemma states, a GPU an actor
  prx-sweeps encode photos/ --to encoded --limit 1000 --heldout 100  # a look first
  prx-sweeps encode photos/ --to encoded --autoencoder pixel --text-encoder minilm --resolution 32   # no model hub

exit codes: 0 done; 1 some units failed, the same command tries them again; 2 bad input; 130 interrupted, the same
command goes on.
"""
EXIT_UNITS_FAILED = 1
PIXEL = "pixel"
DEFAULT_TEXT_ENCODER = "google/t5gemma-2b-2b-ul2"
DEFAULT_QUALITY = 95


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="folder, file or s3:// address of images and captions")
    parser.add_argument("--to", required=True, metavar="STORE", help="folder or s3:// address of the data set")
    _add_what(parser.add_argument_group("what is encoded"))
    _add_how(parser.add_argument_group("how it is encoded"))
    _add_where(parser.add_argument_group("where it runs; nothing here changes the data set"))


def _add_what(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--image-column", metavar="NAME", help="of Parquet or a list; of a tar, the images' extension")
    group.add_argument("--caption-column", metavar="NAME", help="of Parquet or a list; of a tar, the .json's field")
    group.add_argument("--limit", type=int, metavar="N", help="only the first N items")
    group.add_argument("--heldout", type=int, default=10_000, metavar="N", help="images kept from training (10000)")
    group.add_argument("--min-side", type=int, metavar="PX", help="leave smaller pictures out (the resolution)")
    group.add_argument("--name", help="of the source, for the record (its folder's)")
    group.add_argument("--licence", default="", help="of the source, for the record")
    group.add_argument("--attribution", default="", help="of the source, for the record")


def _add_how(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--resolution", type=int, default=256, metavar="PX", help="side of the centre crop (256)")
    group.add_argument(
        "--autoencoder",
        default="flux",
        metavar="NAME",
        help="flux, flux_repa_e, a hub id, a folder; 'pixel': none (flux)",
    )
    group.add_argument(
        "--text-encoder",
        default=DEFAULT_TEXT_ENCODER,
        metavar="NAME",
        help=f"a hub id, a folder, or the packaged minilm ({DEFAULT_TEXT_ENCODER})",
    )
    group.add_argument("--max-text-tokens", type=int, default=256, metavar="N", help="longer captions are cut (256)")
    group.add_argument("--text-dtype", choices=STORED_DTYPES, default="float16", help="as stored (float16)")
    group.add_argument(
        "--text-precision", choices=PRECISIONS, default="bfloat16", help="a hub text encoder's arithmetic (bfloat16)"
    )
    group.add_argument("--image-format", choices=IMAGE_FORMATS, help="of train images (jpeg; png with 'pixel')")
    group.add_argument(
        "--quality", type=int, metavar="N", help=f"of train images ({DEFAULT_QUALITY}); held-out ones lose nothing"
    )
    group.add_argument("--teacher", action="append", default=[], metavar="NAME", help="store its tokens; repeatable")
    group.add_argument(
        "--teacher-grid", type=int, metavar="N", help="tokens a side (resolution / 16, as PRX has on Flux latents)"
    )


def _add_where(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--batch-size", type=int, default=64, metavar="N", help="images at a time (64)")
    group.add_argument("--actors", type=int, metavar="N", help="workers side by side (as many as there are GPUs)")
    group.add_argument("--gpus-per-actor", type=float, metavar="X", help="may be a fraction (1 where there are GPUs)")
    group.add_argument("--rows-per-shard", type=int, metavar="N", help="(what makes shards of about 128 MB)")
    group.add_argument("--address", help="of a running Ray cluster; 'local' starts one here (RAY_ADDRESS)")
    group.add_argument("--verify", action="store_true", help="on going on, check what is there by sha256, not by size")


def run(options: argparse.Namespace) -> int:
    """Encode; the exit code."""
    out, err = (Console(file=stream, soft_wrap=True, highlight=False) for stream in (sys.stdout, sys.stderr))
    session = EncodeSession(request=request_of(options), address=options.address, out=out, err=err)
    return EXIT_UNITS_FAILED if session.run() else 0


def request_of(options: argparse.Namespace) -> EncodeRequest:
    """What the options ask for. ValueError in one line where they cannot be had."""
    pixel = options.autoencoder == PIXEL
    train_format = options.image_format or ("png" if pixel else "jpeg")
    quality = options.quality if train_format == "png" else options.quality or DEFAULT_QUALITY
    grid = options.teacher_grid or (options.resolution // 16 if options.teacher else None)
    settings = EncodingSettings(
        resolution=options.resolution,
        min_side=options.resolution if options.min_side is None else options.min_side,
        image=ImageCard(train_format=train_format, heldout_format="png", quality=quality),
        autoencoder=None if pixel else _absolute(options.autoencoder),
        text_encoder=_absolute(options.text_encoder),
        max_text_tokens=options.max_text_tokens,
        text_dtype=options.text_dtype,
        text_precision=MINILM_PRECISION if options.text_encoder == MINILM else options.text_precision,
        teachers=tuple(options.teacher),
        teacher_grid=grid,
    )
    source = recognise(options.source, image_column=options.image_column, caption_column=options.caption_column)
    card = SourceCard(
        name=options.name or Path(source.location).name,
        package="",
        package_version="",
        licence=options.licence,
        attribution=options.attribution,
    )
    return EncodeRequest(
        source=source,
        store=options.to,
        settings=settings,
        card=card,
        num_heldout=options.heldout,
        limit=options.limit,
        rows_per_shard=options.rows_per_shard,
        batch_size=options.batch_size,
        actors=options.actors,
        gpus_per_actor=options.gpus_per_actor,
        verify=options.verify,
    )


def _absolute(network: str) -> str:
    """A folder by its whole path, as workers know it; anything else as it is."""
    return str(Path(network).absolute()) if Path(network).is_dir() else network
