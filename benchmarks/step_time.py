"""How long a training step, a sample and a score take, against the plain diffusers loop: interleaved, as Markdown.

    python benchmarks/step_time.py
    python benchmarks/step_time.py --model prx_1b --batch 32 --device cuda

The plain loop is PRXTransformer2DModel, MSE on the velocity and torch's AdamW with its defaults, on equal tensors. Ours
also drops captions, clips the gradient and averages the weights, and with REPA aligns hidden states: the whole step of
`prx_model.training.loop` but for reading the batch from the data set. A CPU runs on one thread, and its times are the
processor's, which say less about what else runs on the machine than the clock does.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

from prx_model.batch import Batch
from prx_model.compiled import ALWAYS, NEVER, check_toolchain
from prx_model.flow import draw
from prx_model.metrics.features import load_extractor
from prx_model.model import MODELS, PRX, PRXConfig
from prx_model.objective import TrainingObjective
from prx_model.repa import RepaConfig
from prx_model.sampling import SamplerConfig, sample
from prx_model.teachers.table import TEACHERS
from prx_model.training.config import TrainingConfig
from prx_model.training.loop import optimizer_step
from prx_model.training.state import TrainState
from sweeps.provenance import provenance

EULER = SamplerConfig(steps=6, guidance=1.0)
NUM_NULL_TOKENS = 2


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a model is timed on. side: of its square input. extractor: the scoring network, None to leave it out."""

    side: int
    text_tokens: int
    batch: int
    precision: str
    repa: RepaConfig
    extractor: str | None


PROJECTED = RepaConfig(teacher="efficientnet_lite0", depth=4, weight=1.3, projector_width=256)
WORKLOADS = {
    # The laptop profile of search_spaces/repa.yaml.
    "prx_emoji": Workload(
        side=32, text_tokens=16, batch=16, precision="fp32", repa=PROJECTED, extractor="open_nsfw_resnet50_pool"
    ),
    # Photoroom's ablation: 256 px as 32 x 32 latents; the batch of one of 8 GPUs.
    "prx_1b": Workload(
        side=32,
        text_tokens=256,
        batch=32,
        precision="bf16",
        repa=RepaConfig(teacher="dinov3_vitl16", depth=8, weight=0.5),
        extractor=None,
    ),
    "prx_tiny": Workload(
        side=16, text_tokens=5, batch=4, precision="fp32", repa=replace(PROJECTED, depth=1), extractor=None
    ),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing that is timed; `count` is how many images it deals with."""

    group: str
    name: str
    count: int
    run: Callable[[], Any]


def random_batch(config: PRXConfig, work: Workload, device: torch.device) -> Batch:
    generator = torch.Generator().manual_seed(0)
    rows, columns = config.token_grid(work.side, work.side)
    width = TEACHERS[work.repa.teacher].width
    mask = torch.arange(work.text_tokens) < torch.randint(3, work.text_tokens + 1, (work.batch, 1), generator=generator)
    return Batch(
        clean=torch.rand(work.batch, config.in_channels, work.side, work.side, generator=generator) * 2 - 1,
        text=torch.randn(work.batch, work.text_tokens, config.context_in_dim, generator=generator) * mask[..., None],
        text_mask=mask,
        index=torch.arange(work.batch),
        teacher_tokens=torch.randn(work.batch, rows * columns, width, generator=generator),
    ).to(device)


def plain_loop(config: PRXConfig, work: Workload, batch: Batch, device: torch.device) -> tuple[Any, Callable[[], None]]:
    """diffusers' module as it comes, and one step of the loop that anyone would write around it."""
    from diffusers.models.transformers.transformer_prx import PRXTransformer2DModel

    with device:
        model: Any = PRXTransformer2DModel(**asdict(config), axes_dim=config.axes_dim)
    optimizer = torch.optim.AdamW(model.parameters())

    def step() -> None:
        t = torch.sigmoid(torch.randn(len(batch), device=device))
        noise = torch.randn_like(batch.clean)
        mixed = (1 - t[:, None, None, None]) * batch.clean + t[:, None, None, None] * noise
        with torch.autocast(device.type, torch.bfloat16, enabled=work.precision == "bf16"):
            velocity = model(mixed, t, batch.text, batch.text_mask).sample
        loss = torch.nn.functional.mse_loss(velocity.float(), noise - batch.clean)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return model, step


def our_loop(
    config: PRXConfig, work: Workload, batch: Batch, repa: RepaConfig | None, compiled: bool
) -> tuple[TrainState, Callable[[], None]]:
    """The state of a run, and one step of it as `prx_model.training.loop.train` makes it."""
    device = batch.clean.device
    training = TrainingConfig(
        batch_size=work.batch,
        precision=work.precision,
        grad_clip=1.0,
        ema_decay=0.98,
        compile=ALWAYS if compiled else NEVER,
    )
    null_text = torch.zeros(NUM_NULL_TOKENS, config.context_in_dim)
    width = None if repa is None else TEACHERS[repa.teacher].width
    objective = TrainingObjective(PRX(config), null_text, repa=repa, teacher_width=width).to(device)
    state = TrainState(objective, training)

    def step() -> None:
        draws = draw(batch.clean.shape, training.timesteps, caption_dropout=0.1, seed=0, step=state.step, device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=work.precision == "bf16"):
            terms = objective(batch, draws, 0.0 if repa is None else repa.weight)
        optimizer_step(state, terms.total, training)

    return state, step


@torch.no_grad()
def plain_samples(model: Any, noise: Tensor, batch: Batch) -> Tensor:
    x = noise
    for t, t_next in pairwise(EULER.times()):
        times = torch.full((len(x),), t, device=x.device)
        x = x + (t_next - t) * model(x, times, batch.text, batch.text_mask).sample
    return x


def cases(config: PRXConfig, work: Workload, device: torch.device, *, compiled: bool) -> Iterator[Case]:
    batch = random_batch(config, work, device)
    noise = torch.randn_like(batch.clean)
    plain, step = plain_loop(config, work, batch, device)
    yield Case(group="step", name="plain diffusers loop", count=work.batch, run=step)
    yield Case(
        group="sample", name="plain diffusers loop", count=work.batch, run=lambda: plain_samples(plain, noise, batch)
    )
    for kind in ("eager", "compiled") if compiled else ("eager",):
        for name, repa in (("baseline", None), ("REPA", work.repa)):
            state, step = our_loop(config, work, batch, repa, kind == "compiled")
            yield Case(group="step", name=f"{name}, {kind}", count=work.batch, run=step)
        yield Case(group="sample", name=kind, count=work.batch, run=sampler(state.evaluated_model, noise, batch))
    if work.extractor is not None:
        extractor = load_extractor(work.extractor).to(device)
        images = torch.randint(0, 256, (work.batch, 3, work.side, work.side), dtype=torch.uint8, device=device)
        yield Case(group="score", name=work.extractor, count=work.batch, run=lambda: extractor(images))


def sampler(model: PRX, noise: Tensor, batch: Batch) -> Callable[[], Tensor]:
    null_text = torch.zeros(NUM_NULL_TOKENS, batch.text.shape[2], device=noise.device)
    return lambda: sample(model, noise, batch.text, batch.text_mask, null_text=null_text, config=EULER)


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        run()
        torch.cuda.synchronize(device)
        return time.perf_counter() - started
    started = time.process_time()
    run()
    return time.process_time() - started


def measure(timed: list[Case], device: torch.device, *, steps: int) -> tuple[list[float], list[list[float]]]:
    """Seconds of the first call by the clock, then of `steps` more, every case in turn."""
    first = []
    for case in timed:
        started = time.perf_counter()
        seconds(case.run, device)
        first.append(time.perf_counter() - started)
    rounds = [[seconds(case.run, device) for case in timed] for _ in range(steps + 2)]
    return first, [list(times) for times in zip(*rounds[2:], strict=True)]


def table(timed: list[Case], first: list[float], times: list[list[float]]) -> Iterator[str]:
    """One row a case. The ratio is the median, over the rounds, of its time over that of its group's first case."""
    yield "| what | per call, median (quartiles) | of the first | images/s | first call |"
    yield "|---|---|---|---|---|"
    for case, start, own in zip(timed, first, times, strict=True):
        reference = times[next(i for i, other in enumerate(timed) if other.group == case.group)]
        ratio = statistics.median(mine / theirs for mine, theirs in zip(own, reference, strict=True))
        low, median, high = statistics.quantiles(own, n=4)
        yield (
            f"| {case.group}: {case.name} | {median * 1e3:.1f} ({low * 1e3:.1f} to {high * 1e3:.1f}) ms | {ratio:.2f} "
            f"| {case.count / median:.1f} | {start:.1f} s |"
        )


def can_compile(device: torch.device) -> bool:
    """Says so where it cannot."""
    try:
        check_toolchain(device)
    except ValueError as error:
        print(f"Not compiled: {error}\n")
        return False
    return True


def describe(options: argparse.Namespace, work: Workload, device: torch.device) -> str:
    made = provenance("-", "benchmark")
    changed = ", with changes" if made["dirty"] else ""
    versions = ", ".join(f"{name} {made['packages'][name]}" for name in ("torch", "diffusers"))
    return (
        f"{options.model} ({PRX(MODELS[options.model]).num_parameters():,} parameters), {work.side} x {work.side}, "
        f"{work.text_tokens} text tokens, batch {work.batch}, {work.precision}; {EULER.steps} Euler steps a sample.\n"
        f"{made['hardware']}; on {device.type}, 1 thread; Python {made['python']}, {versions}; "
        f"commit {made['commit'][:12]}{changed}.\nCommand: `{made['command']}`\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=list(WORKLOADS), default="prx_emoji")
    parser.add_argument("--batch", type=int, help="images per step, sample and score; the model's own without it")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--steps", type=int, default=20, help="timed calls of each case, after three that are not")
    parser.add_argument("--eager", action="store_true", help="leave out what is compiled")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device, work = options.device, WORKLOADS[options.model]
    work = replace(work, batch=options.batch or work.batch)
    print(describe(options, work, device))
    compiled = not options.eager and can_compile(device)
    timed = list(cases(MODELS[options.model], work, device, compiled=compiled))
    print("\n".join(table(timed, *measure(timed, device, steps=options.steps))))


if __name__ == "__main__":
    main()
