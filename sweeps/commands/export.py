"""Write a sweep in the forms of others, from its ledger, whether it has ended or not.

Tables are `trials`, `evaluations` and `looks`, a file each;
docs/export.md tells their columns. What an earlier export has written is written anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sweeps.commands.chosen_sweep import add_sweep_argument, sweep_meant
from sweeps.locations import Location, location, write_whole

if TYPE_CHECKING:
    import pyarrow as pa

    from sweeps.storage import SweepPaths

SUMMARY = "write a sweep as an Optuna storage, as CSV or Parquet, or its model as a whole diffusers folder"
EPILOG = """\
examples:
  prx-sweeps export results/repa-laptop-0123456789ab --optuna study.db     # then: optuna-dashboard sqlite:///study.db
  prx-sweeps export results/repa-laptop-0123456789ab --csv tables --parquet tables
  prx-sweeps export s3://bucket/results/repa-cluster-0123456789ab --diffusers winner    # with all of its parts

exit codes: 0 done; 2 bad input.
"""
FORMS = ("optuna", "csv", "parquet", "diffusers")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_sweep_argument(parser, positional=True)
    parser.add_argument(
        "--optuna", metavar="STORAGE", help="file (SQLite; .log: a journal) or URL, such as sqlite:///study.db"
    )
    parser.add_argument("--csv", type=location, metavar="FOLDER", help="folder for the tables as CSV")
    parser.add_argument("--parquet", type=location, metavar="FOLDER", help="folder for the tables as Parquet")
    parser.add_argument("--diffusers", type=Path, metavar="FOLDER", help="new folder for the best trial's model, whole")
    parser.add_argument("--trial", metavar="NAME", help="a trial whose model --diffusers writes, instead of the best")
    parser.add_argument("--cache", type=Path, default=Path("cache"), help="folder of the sweep's data (cache)")


def run(options: argparse.Namespace) -> int:
    from optuna.exceptions import OptunaError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        for line in _run(options):
            print(line, flush=True)
    except (RuntimeError, OptunaError, SQLAlchemyError, ImportError) as error:
        raise ValueError(str(error)) from error
    return 0


def _run(options: argparse.Namespace) -> Iterator[str]:
    if not any(getattr(options, form) for form in FORMS):
        raise ValueError(f"nothing to write: give at least one of {', '.join(f'--{form}' for form in FORMS)}")
    paths = replace(sweep_meant(options.sweep), cache=options.cache.absolute())
    if options.csv or options.parquet:
        yield from _write_tables(options, paths)
    if options.optuna:
        yield from _write_study(options.optuna, paths)
    if options.diffusers:
        yield from _write_model(options, paths)


def _write_tables(options: argparse.Namespace, paths: SweepPaths) -> Iterator[str]:
    from sweeps.ledger import Ledger
    from sweeps.tables import as_csv, as_parquet, tables

    found = tables(Ledger(paths).records())
    if options.csv:
        yield from _write_files(options.csv, "csv", found, as_csv)
    if options.parquet:
        yield from _write_files(options.parquet, "parquet", found, as_parquet)


def _write_files(
    folder: Location, ending: str, found: dict[str, pa.Table], content: Callable[[pa.Table], bytes]
) -> Iterator[str]:
    for name, table in found.items():
        file = folder / f"{name}.{ending}"
        write_whole(file, content(table))
        yield f"{file}  {table.num_rows:,} rows, {table.num_columns} columns"


def _write_study(address: str, paths: SweepPaths) -> Iterator[str]:
    from sweeps.optuna_export import export_study
    from sweeps.recorded import space_of

    try:
        names = export_study(space_of(paths), paths, address)
    except ValueError as error:
        raise ValueError(f"--optuna {address}: {error}") from error
    yield f"{address}  studies {' and '.join(map(repr, names))}"


def _write_model(options: argparse.Namespace, paths: SweepPaths) -> Iterator[str]:
    from prx_model.experiment import export_model
    from sweeps.confirmation import best_record
    from sweeps.kept_models import checkpoint_at, config_of
    from sweeps.ledger import Ledger
    from sweeps.model_origin import origin_of
    from sweeps.recorded import RecordedError, space_of

    space, ledger = space_of(paths), Ledger(paths)
    best = best_record(space, ledger.records())
    name = options.trial or (best.trial if best else None)
    if name is None:
        raise RecordedError(f"{paths.root.name}: no candidate has finished; allowed is --trial NAME")
    with checkpoint_at(paths, name) as checkpoint:
        record = ledger.record(name)
        assert record is not None
        config, origin = config_of(space, record), origin_of(space, paths, name)
        assert paths.cache is not None
        export_model(config, paths.cache, checkpoint, options.diffusers, components="copy", origin=origin)
    yield f"{options.diffusers}  {name}, whole: PRXPipeline.from_pretrained({str(options.diffusers)!r})"
