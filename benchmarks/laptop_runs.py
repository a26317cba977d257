"""Train baseline and REPA runs of the laptop profile and keep the samples of every evaluation, to score them in many ways.

    python benchmarks/laptop_runs.py --out FOLDER --run NAME --seed 0 [--teacher dinov2s_saliency --depth 2 --weight 0.5] ...

One process is one run on one thread. `benchmarks/laptop_objective.py` reads what it writes.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch

from prx_model.data.reader import BatchReader
from prx_model.data.teacher_cache import cached_teacher_tokens
from prx_model.experiment import DataConfig, EvaluationConfig, ExperimentConfig, build_objective, open_store
from prx_model.flow import draw
from prx_model.model import MODELS, PRX
from prx_model.repa import RepaConfig
from prx_model.sampling import SamplerConfig, pixels_to_images, sample
from prx_model.teachers import load_teacher
from prx_model.training import TrainingConfig, TrainState, optimizer_step


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    config = ExperimentConfig(
        model=replace(MODELS["prx_emoji"], hidden_size=options.hidden, num_heads=options.heads, depth=options.blocks),
        data=DataConfig(),
        training=TrainingConfig(
            steps=options.steps,
            batch_size=options.batch,
            eval_every_steps=options.every,
            learning_rate=options.lr,
            warmup_steps=options.warmup,
            grad_clip=1.0,
            ema_decay=options.ema,
            precision="fp32",
        ),
        evaluation=EvaluationConfig(num_samples=options.samples, batch_size=64),
        repa=None
        if options.teacher is None
        else RepaConfig(
            teacher=options.teacher,
            depth=options.depth,
            weight=options.weight,
            projector=options.projector,
            projector_width=options.projector_width,
        ),
        seed=options.seed,
    )
    train(config, options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    parser.add_argument("--run", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--every", type=int, default=80)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--warmup", type=int, default=20)
    parser.add_argument("--ema", type=float, default=0.98)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--samples", type=int, default=384)
    parser.add_argument("--teacher")
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--weight", type=float, default=0.5)
    parser.add_argument("--projector", default="mlp")
    parser.add_argument("--projector-width", type=int, default=256)
    return parser.parse_args()


def train(config: ExperimentConfig, options: argparse.Namespace) -> None:
    store = open_store(config.data, options.cache)
    tokens = None
    if config.repa is not None:
        tokens = cached_teacher_tokens(
            load_teacher(config.repa.teacher),
            store.train,
            grid=config.model.token_grid(config.data.resolution, config.data.resolution),
            cache=options.cache,
            split_fingerprint=store.train.fingerprint,
        )
    reader = BatchReader(store.train, config.training.batch_size, config.seed, teacher_tokens=tokens)
    state = TrainState(build_objective(config, store.null_text), config.training)
    evaluations = frozenset(config.training.evaluation_steps())
    losses: list[float] = []
    began = time.perf_counter()
    for batch in reader.batches():
        draws = draw(batch, config.training.timesteps, caption_dropout=0.1, seed=config.seed, step=state.step)
        weight = 0.0 if config.repa is None else config.repa.weight_at(state.step, config.training.steps)
        terms = state.objective(batch, draws, weight)
        optimizer_step(state, terms.total, config.training)
        losses.append(terms.flow.item())
        if state.step in evaluations:
            train_s, began = time.perf_counter() - began, time.perf_counter()
            images = {g: generate(state.evaluated_model, store, config, g) for g in (1.0, 2.0)}
            keep(options, state.step, images, losses, train_s, time.perf_counter() - began)
            losses, began = [], time.perf_counter()
        if state.step == config.training.steps:
            return


def generate(model: PRX, store, config: ExperimentConfig, guidance: float) -> torch.Tensor:
    count, heldout, parts = config.evaluation.num_samples, store.heldout, []
    side = config.data.resolution
    for start in range(0, count, 64):
        rows = torch.arange(start, min(count, start + 64))
        noise = torch.stack([torch.randn(3, side, side, generator=torch.Generator().manual_seed(int(r))) for r in rows])
        rows = rows % len(heldout)
        pixels = sample(
            model,
            noise,
            heldout.text[rows],
            heldout.text_mask[rows],
            null_text=store.null_text,
            config=SamplerConfig(steps=8, guidance=guidance),
        )
        parts.append(pixels_to_images(pixels))
    return torch.cat(parts)


def keep(options: argparse.Namespace, step: int, images: dict, losses: list[float], train_s: float, eval_s: float):
    folder = options.out / options.run
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({f"guidance{g:g}": i for g, i in images.items()}, folder / f"samples-{step:05d}.pt")
    row = {"step": step, "flow": sum(losses) / len(losses), "train_s": train_s, "eval_s": eval_s}
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    with (folder / "rows.jsonl").open("a") as file:
        file.write(json.dumps({**row, **settings}) + "\n")
    print(options.run, json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
