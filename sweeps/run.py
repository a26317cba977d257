"""Run a sweep, or resume it: the same command.

python sweeps/run.py search_spaces/repa.yaml
"""

from __future__ import annotations

import sys
from pathlib import Path

# `python sweeps/run.py` puts sweeps/ first on the module path; what is meant is the folder above it.
ROOT = Path(__file__).resolve().parent.parent
if sys.path and Path(sys.path[0] or ".").resolve() == ROOT / "sweeps":
    sys.path[0] = str(ROOT)

import argparse  # noqa: E402
import os  # noqa: E402
from collections.abc import Mapping  # noqa: E402
from typing import Any  # noqa: E402

from rich.console import Console  # noqa: E402

from sweeps import cluster, reuse  # noqa: E402
from sweeps.config import ConfigError  # noqa: E402
from sweeps.ledger import FAILED, LedgerError  # noqa: E402
from sweeps.locations import location, sent_at_the_end, write_whole  # noqa: E402
from sweeps.obstacles import obstacle  # noqa: E402
from sweeps.space import SearchSpace, SpaceError  # noqa: E402
from sweeps.space_file import read_space, resolve, with_budget  # noqa: E402
from sweeps.storage import SweepPaths  # noqa: E402

RESULTS = "results"
EXIT_TRIAL_FAILED, EXIT_BAD_INPUT, EXIT_HALTED, EXIT_INTERRUPTED = 1, 2, 3, 130


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Run a hyperparameter sweep, or resume it: the same command.",
        epilog="Exit codes: 0 all trials ended well, 1 a trial failed, 2 bad input, 3 halted by what is no fault of a "
        "trial's (a full disk, a lost Ray), 130 interrupted. After 3 and 130 the same command goes on.",
    )
    parser.add_argument("space", type=Path, help="a search-space file, such as search_spaces/repa.yaml")
    parser.add_argument(
        "--profile", help="a profile of the file; default: cluster if a Ray cluster holds it, else laptop"
    )
    parser.add_argument("--plan", action="store_true", help="print all that would run, and run nothing")
    parser.add_argument(
        "--results",
        type=location,
        help="folder of the results, or s3://bucket/prefix (default: the file's, or results)",
    )
    parser.add_argument(
        "--cache", type=Path, default=Path("cache"), help="folder of encoded data and features (default: cache)"
    )
    parser.add_argument("--candidates", type=int, help="number of candidates instead of the file's")
    parser.add_argument(
        "--fresh-baseline", action="store_true", help="train every baseline seed here, also those that could be reused"
    )
    parser.add_argument(
        "--address", help="address of a running Ray cluster; 'local' starts one here (default: RAY_ADDRESS)"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options, console = parse_arguments(arguments), Console(file=sys.stdout, soft_wrap=True)
    try:
        return _main(options, console)
    except (SpaceError, ConfigError, LedgerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("\nInterrupted. Nothing is lost: the same command goes on from here.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:
        in_the_way = obstacle(error, options.results or RESULTS)
        if in_the_way is None:
            raise
        print(f"halted: {in_the_way}", file=sys.stderr)
        return EXIT_HALTED


def _main(options: argparse.Namespace, console: Console) -> int:
    from sweeps import plan

    content = read_space(options.space)
    address = cluster.running_address(options.address)
    choice = cluster.choose_profile(content, options.space, options.profile, address)
    space = with_budget(resolve(content, file=options.space, profile=choice.profile), candidates=options.candidates)
    paths = SweepPaths.of(space, options.results or location(space.results or RESULTS), options.cache)
    console.print(f"Profile {choice.profile}: {choice.reason}.", highlight=False)
    if options.plan:
        plan.print_plan(console, space, paths, _reusable(options, space, paths, _made_with(space, choice)))
        return 0
    paths.create()
    return _run(options, console, content, space, paths, choice, address)


def _run(
    options: argparse.Namespace,
    console: Console,
    content: Mapping[str, Any],
    space: SearchSpace,
    paths: SweepPaths,
    choice: cluster.Choice,
    address: str | None,
) -> int:
    from sweeps import (
        cluster_preflight,
        gauges,
        locks,
        plan,
        preflight,
        preparation,
        progress,
        provenance,
        raylet,
        report,
        sweep,
    )
    from sweeps.confirmation import best_record
    from sweeps.page import fresh

    started = sweep.Sweep(space=space, paths=paths, cache=options.cache.absolute())
    with locks.only_driver(paths, _halt_at_once_for) as warning:
        if warning:
            console.print(f"Warning: {warning}", highlight=False)
        write_whole(paths.space, options.space.read_bytes())
        made_with = _made_with(space, choice)
        provenance.append_start(paths.starts, made_with | provenance.recorded_rule(space))
        preflight.check_weights_at_hand(space)
        caches, remotely = progress.CacheProgress(console), preparation.belongs_on_a_gpu_node(space)
        if not remotely:
            preparation.prepare_here(started, caches)
        found = _reusable(options, space, paths, made_with)
        reuse.adopt(found, paths)
        plan.print_plan(console, space, paths, found)
        log = paths.ray_log
        with sent_at_the_end(log, paths.logs / log.name), cluster.printing_to(log):
            connection = cluster.connect(address, log)
            cluster.check_state_api(connection.address)
            cluster_preflight.check_cluster(space, paths, connection, lambda line: console.print(f"Preflight  {line}"))
            console.print(f"Dashboard  {connection.dashboard or 'off'}\n", highlight=False)
            if remotely:
                preparation.prepare_on_a_node(started, space.resources, caches)
            planned = plan.num_trials(space)
            shown = gauges.Gauges(space, paths.root.name, planned)
            watch = progress.Watch(console, space, paths, planned=planned, gauges=shown)
            try:
                with raylet.watched_raylet(_halt_at_once), progress.watching(watch), fresh.kept_fresh(space, paths):
                    records = sweep.run(started, connection)
            finally:
                # The page is made whatever happened: what is known so far is worth reading.
                summary = report.summarise(space, started.ledger)
                report.write_page(space, paths, summary, provenance.read_starts(paths.starts))
        best = best_record(space, records)
        sweep.keep_best_model(started, best)
        sweep.collect_checkpoints(started, best)
    console.print()
    console.print(report.final_table(summary))
    for line in report.final_lines(summary, paths):
        console.print(line, highlight=False)
    return EXIT_TRIAL_FAILED if any(record.outcome == FAILED for record in records) else 0


def _made_with(space: SearchSpace, choice: cluster.Choice) -> dict[str, Any]:
    from sweeps import preflight, provenance

    manifest = preflight.stored_manifest(space.baseline_config(space.first_seed))
    return provenance.provenance(choice.profile, choice.reason, data=manifest.fingerprint if manifest else None)


def _reusable(
    options: argparse.Namespace, space: SearchSpace, paths: SweepPaths, made_with: Mapping[str, Any]
) -> reuse.Found:
    if options.fresh_baseline or not space.budget.reuse_baseline:
        return reuse.Found()
    return reuse.find(space, paths, made_with)


def _halt_at_once(why: str = "Ray has died (its raylet)") -> None:
    """Ray is gone, and would end this process in a moment, with an exit code that means something else."""
    print(f"\nhalted: {why}; the same command goes on", file=sys.__stderr__, flush=True)
    os._exit(EXIT_HALTED)


def _leave(code: int) -> None:
    """End this process. In the middle of a sweep at once: slots' threads still talk to Ray, and where its own end at
    exit meets one of them, it ends the process with a code of its own. Ray's processes end with this one either way.
    """
    if code in (EXIT_HALTED, EXIT_INTERRUPTED):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _halt_at_once_for(holder: str) -> None:
    """Another driver has taken over: what this one would still do, it would do twice."""
    _halt_at_once(f"this sweep is run by {holder}, since nothing was heard of this process for too long")


if __name__ == "__main__":
    _leave(main())
