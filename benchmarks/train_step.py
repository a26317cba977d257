"""Training at full speed: images/s, share of the machine's own matmul rate, REPA's price, against the plain loop.

    python benchmarks/train_step.py --device cuda --json train-step.json > docs/benchmarks/train-step-h100.md
    python benchmarks/train_step.py --model prx_tiny --steps 2 --eager        # anywhere, in a minute

Ours is `prx_model.training.loop.train` itself with all that it does: batches from the host's memory, draws, REPA's
teacher looking at the images of every batch, clipping, AdamW, losses read back. The plain loop is diffusers' module as
it comes with MSE and torch's AdamW, on a batch that lies on the device already. Teachers have the shape of the
published ones and random weights: speed does not depend on the weights.

The arithmetic is counted by formula (benchmarks/arithmetic.py): three passes through model and projector, one through
the teacher. The matmul rate is measured beside every case, in the same precision: a share of it compares across
machines and does not flatter one that is throttled.

Targets on one H100 or better, PRX-1.2B, 256 px: at least 50 % of the measured matmul rate; REPA's overhead within 1.3
times its share of the arithmetic; at least 1.5 times the plain loop.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.step_time import Workload as PlainWorkload
from benchmarks.step_time import can_compile, plain_loop, seconds
from benchmarks.train_workloads import DINOV2, DINOV3, WORKLOADS, Bench, Case, Endless, host_batch, random_teacher
from prx_model.compiled import ALWAYS, NEVER
from prx_model.evaluation import Evaluation
from prx_model.metrics.suite import SuiteResult
from prx_model.model import MODELS, PRX, count_parameters
from prx_model.objective import TrainingObjective
from prx_model.teachers.online import made_ready
from prx_model.training.config import OPTIMIZERS, TrainingConfig
from prx_model.training.loop import train
from prx_model.training.state import TrainState
from sweeps.provenance import provenance

ROUNDS = 3  # timed windows of --steps each, after one that is not timed
MATMUL_SIDE = {"cuda": 8192, "cpu": 1024}
PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a case came to. Rates are medians. failure: instead of all that, in a word."""

    case: Case
    images_per_s: float = 0.0
    matmul_tflops: float = 0.0
    data_share: float = 0.0
    first_s: float = 0.0
    peak_bytes: int | None = None
    failure: str | None = None

    @property
    def tflops(self) -> float:
        return 2 * self.case.macs * self.images_per_s / 1e12

    @property
    def share(self) -> float:
        """Of the machine's measured matmul rate."""
        return self.tflops / self.matmul_tflops


def unlooked(_model: PRX) -> Iterator[SuiteResult]:
    return iter(())


def train_ours(bench: Bench, case: Case) -> Iterator[tuple[float, float]]:
    """Images a second and the share of time spent waiting for batches, window by window of the loop itself."""
    config = TrainingConfig(
        steps=(ROUNDS + 1) * bench.steps,
        eval_every_steps=bench.steps,
        batch_size=case.batch,
        optimizer=bench.optimizer,
        precision=bench.work.precision,
        compile=ALWAYS if case.compiled else NEVER,
    )
    repa = None if case.teacher is None else bench.repa(case.teacher)
    width = None if case.teacher is None else bench.teacher_shape(case.teacher).width
    with bench.device:
        model = PRX(bench.config)
        if bench.attention is not None:
            model.transformer.set_attention_backend(bench.attention)
        null_text = torch.zeros(1, bench.config.context_in_dim)
        objective = TrainingObjective(model, null_text, repa=repa, teacher_width=width)
    teacher = None
    if case.teacher is not None:
        network = random_teacher(case.teacher, bench.teacher_shape(case.teacher), bench.device)
        teacher = made_ready(network, bench.device, bench.work.precision, compiled=case.compiled)
    source = Endless(host_batch(bench, case.batch))
    state = TrainState(objective, config)
    for it in train(state, source, config, seed=0, evaluate=unlooked, teacher=teacher):
        assert isinstance(it, Evaluation)
        yield it.images_per_s, it.data_s / (it.data_s + it.train_s)


def train_plainly(bench: Bench, case: Case) -> Iterator[tuple[float, float]]:
    """The same of the plain loop."""
    work = PlainWorkload(
        side=bench.work.side,
        text_tokens=bench.work.text_tokens,
        batch=case.batch,
        precision=bench.work.precision,
        repa=bench.repa(DINOV2),
        extractor=None,
    )
    _model, step = plain_loop(bench.config, work, host_batch(bench, case.batch).to(bench.device), bench.device)

    def window() -> None:
        for _ in range(bench.steps):
            step()

    for _ in range(ROUNDS + 1):
        yield case.batch * bench.steps / clocked(window, bench.device), 0.0


def clocked(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds by the clock, until the device is done."""
    if device.type == "cuda":
        return seconds(run, device)
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def matmul_tflops(device: torch.device, precision: str) -> float:
    """The rate of large square products: what this machine gives now."""
    side = MATMUL_SIDE[device.type]
    one, other = (torch.randn(side, side, device=device, dtype=PRECISIONS[precision]) for _ in range(2))
    count = 20 if device.type == "cuda" else 3

    def products() -> None:
        for _ in range(count):
            torch.mm(one, other)

    products()
    return 2 * side**3 * count / statistics.median(clocked(products, device) for _ in range(5)) / 1e12


def measure(bench: Bench, case: Case) -> Reading:
    """Runs a case, alone on the device. One that does not fit is a reading too."""
    _forget(bench.device)
    runs = train_ours if case.name.startswith("ours") else train_plainly
    started, first_s, windows = time.perf_counter(), 0.0, []
    try:
        for window in runs(bench, case):
            first_s = first_s or time.perf_counter() - started
            windows.append(window)
    except torch.OutOfMemoryError:
        return Reading(case=case, failure="out of memory")
    is_cuda = bench.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated(bench.device) if is_cuda else None
    _forget(bench.device)
    rates, waits = zip(*windows[1:], strict=True)
    return Reading(
        case=case,
        images_per_s=statistics.median(rates),
        matmul_tflops=matmul_tflops(bench.device, bench.work.precision),
        data_share=statistics.median(waits),
        first_s=first_s,
        peak_bytes=peak,
    )


def _forget(device: torch.device) -> None:
    """Free what the case before has left, and begin its peak anew."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def rows(readings: Sequence[Reading]) -> Iterator[str]:
    """The table, in Markdown. Overheads and ratios are against the case of the same batch."""
    yield "| case | batch | images/s | TFLOP/s | of the matmul rate | of the plain loop | peak memory | data | start |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for it in readings:
        if it.failure is not None:
            yield f"| {it.case.name} | {it.case.batch} | {it.failure} | | | | | | |"
            continue
        plain = next(other for other in readings if other.case.batch == it.case.batch)
        ratio = "" if plain.failure is not None else f"{it.images_per_s / plain.images_per_s:.2f}"
        peak = "" if it.peak_bytes is None else f"{it.peak_bytes / 2**30:.1f} GiB"
        yield (
            f"| {it.case.name} | {it.case.batch} | {it.images_per_s:.1f} | {it.tflops:.3g} | {it.share:.1%} "
            f"(of {it.matmul_tflops:.3g}) | {ratio} | {peak} | {it.data_share:.1%} | {it.first_s:.1f} s |"
        )


def overheads(readings: Sequence[Reading]) -> Iterator[dict[str, Any]]:
    """REPA's time over the same training without it, and what its arithmetic alone would take."""
    done = [it for it in readings if it.failure is None and it.case.name.startswith("ours")]
    for it in (one for one in done if one.case.teacher is not None):
        same = [one for one in done if (one.case.batch, one.case.compiled) == (it.case.batch, it.case.compiled)]
        base = next((one for one in same if one.case.teacher is None), None)
        if base is None:
            continue
        overhead, arithmetic = base.images_per_s / it.images_per_s - 1, it.case.macs / base.case.macs - 1
        yield {"case": it.case.name, "batch": it.case.batch, "overhead": overhead, "arithmetic": arithmetic}


def page(bench: Bench, readings: Sequence[Reading], options: argparse.Namespace, num_parameters: int) -> Iterator[str]:
    """The whole Markdown page."""
    made = provenance("-", "benchmark")
    versions = ", ".join(f"{name} {made['packages'][name]}" for name in ("torch", "diffusers", "transformers"))
    work = bench.work
    yield f"# Training steps of {options.model}\n"
    yield (
        f"{num_parameters:,} parameters, input {work.side} x {work.side} x {bench.config.in_channels}, "
        f"{work.text_tokens} text tokens, {work.precision}; {ROUNDS} windows of {bench.steps} steps each, median."
    )
    changed = ", with changes" if made["dirty"] else ""
    yield f"{made['hardware']}; on {bench.device}; Python {made['python']}, {versions}."
    yield f"Commit {made['commit'][:12]}{changed}."
    yield f"Ours with {bench.optimizer}; attention {bench.attention or 'native'}."
    yield f"Command: `{made['command']}`\n"
    yield from rows(readings)
    yield "\n| REPA's price | batch | time | arithmetic | ratio |\n|---|---|---|---|---|"
    for it in overheads(readings):
        yield (
            f"| {it['case']} | {it['batch']} | {it['overhead']:+.1%} | {it['arithmetic']:+.1%} "
            f"| {it['overhead'] / it['arithmetic']:.2f} |"
        )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=list(WORKLOADS), default="prx_1b")
    parser.add_argument("--batch", type=int, nargs="+", help="images per step; the model's own without it")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps of a window")
    parser.add_argument("--teachers", nargs="*", choices=[DINOV2, DINOV3], default=[DINOV2, DINOV3])
    parser.add_argument("--eager", action="store_true", help="leave out what is compiled")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default=OPTIMIZERS[0], help="of ours")
    parser.add_argument("--attention", help="a backend of diffusers for ours, such as _native_cudnn")
    parser.add_argument("--compiled", action="store_true", help="leave out what is eager, but for the plain loop")
    parser.add_argument("--json", type=Path, help="write all readings there too")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    work = WORKLOADS[options.model]
    bench = Bench(
        config=MODELS[options.model],
        work=work,
        device=options.device,
        steps=options.steps,
        optimizer=options.optimizer,
        attention=options.attention,
    )
    kinds = [kind for kind, left_out in ((False, options.compiled), (True, options.eager)) if not left_out]
    if True in kinds and not can_compile(bench.device):
        kinds = [False]
    num_parameters, readings = count_parameters(bench.config), []
    for case in bench.cases(options.batch or work.batch, options.teachers, kinds):
        readings.append(measure(bench, case))
        print(f"{case.name}, batch {case.batch}: {readings[-1].images_per_s:.1f} images/s", file=sys.stderr, flush=True)
    print("\n".join(page(bench, readings, options, num_parameters)))
    if options.json is not None:
        made = {name: value for name, value in provenance("-", "benchmark").items() if not name.startswith("profile")}
        told = [{**asdict(it), "tflops": it.tflops} for it in readings]
        options.json.write_text(
            json.dumps({"made": made, "readings": told, "repa": list(overheads(readings))}, indent=2)
        )


if __name__ == "__main__":
    torch.set_num_threads(1 if not torch.cuda.is_available() else torch.get_num_threads())
    main()
