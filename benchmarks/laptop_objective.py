"""Which metric tells REPA from the baseline best, against its own seed noise? Scores the samples of laptop_runs.py.

    python benchmarks/laptop_objective.py FOLDER --baseline PREFIX --candidate PREFIX [--cache cache]

For every metric, number of samples and guidance: mean and standard deviation over the seeds at each step, the gain in
percent, and the gain over the pooled standard deviation of the two groups (d'). Larger is better for telling apart.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from prx_model.experiment import DataConfig, open_store
from prx_model.metrics.features import load_extractor
from prx_model.metrics.reference import ReferenceStatistics, reference_features
from prx_model.metrics.table import MetricSpec

EXTRACTORS = {"opennsfw": "open_nsfw_resnet50_pool", "lite0": "efficientnet_lite0_pool"}


def specs(short: str, extractor: str) -> list[MetricSpec]:
    mmds = [
        MetricSpec(
            name=f"mmd_{short}_s{sigma:g}",
            extractor=extractor,
            distance="mmd",
            l2_normalise=True,
            sigma=sigma,
            unbiased=True,
            scale=1000,
            description="",
        )
        for sigma in (0.3, 0.5, 1.0)
    ]
    frechets = [
        MetricSpec(
            name=f"frechet_{short}_pc{k}",
            extractor=extractor,
            distance="frechet",
            principal_directions=k,
            description="",
        )
        for k in (16, 32, 64)
    ]
    return mmds + frechets


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--baseline", required=True)
    parser.add_argument("--candidate", required=True)
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    parser.add_argument("--samples", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--last", type=int, default=2, help="the last so many evaluations of each run")
    options = parser.parse_args()
    torch.set_num_threads(1)
    store = open_store(DataConfig(), options.cache)
    for short, extractor_name in EXTRACTORS.items():
        extractor = load_extractor(extractor_name)
        reference = {
            name: reference_features(extractor, split, cache=options.cache)
            for name, split in (("heldout", store.heldout), ("train", store.train))
        }
        groups = [_runs(options.folder, prefix) for prefix in (options.baseline, options.candidate)]
        features = [[_features(extractor, run, options.last) for run in runs] for runs in groups]
        _report(specs(short, extractor_name), reference, features, options.samples)


def _runs(folder: Path, prefix: str) -> list[Path]:
    runs = sorted(path for path in folder.iterdir() if path.name.startswith(prefix))
    if not runs:
        raise SystemExit(f"no run in {folder} starts with {prefix}")
    return runs


def _features(extractor, run: Path, last: int) -> dict[tuple[int, str], torch.Tensor]:
    """(step, key) -> features of all samples; kept beside the samples, because scoring takes longer than reading."""
    found = {}
    for path in sorted(run.glob("samples-*.pt"))[-last:]:
        kept = path.with_name(f"features-{extractor.name}-{path.name}")
        if not kept.exists():
            samples = torch.load(path, weights_only=True)
            torch.save({g: torch.cat([extractor(b) for b in i.split(64)]) for g, i in samples.items()}, kept)
        step = int(path.stem.split("-")[1])
        found |= {(step, g): f for g, f in torch.load(kept, weights_only=True).items()}
    return found


def _report(metrics, reference, groups, counts) -> None:
    keys = sorted(set.intersection(*(set(run) for runs in groups for run in runs)))
    for spec in metrics:
        for split, real in reference.items():
            statistics_of_real = ReferenceStatistics.fit(spec, real)
            for count in counts:
                for key in keys:
                    values = [[statistics_of_real.distance(run[key][:count]) for run in runs] for runs in groups]
                    _line(spec.name, split, count, key, *values)


def _line(name: str, split: str, count: int, key, baseline: list[float], candidate: list[float]) -> None:
    means = [statistics.fmean(group) for group in (baseline, candidate)]
    spreads = [statistics.stdev(group) if len(group) > 1 else math.nan for group in (baseline, candidate)]
    pooled = math.sqrt(statistics.fmean(s * s for s in spreads))
    paired = [b - c for b, c in zip(baseline, candidate, strict=False)]
    t = statistics.fmean(paired) / (statistics.stdev(paired) / math.sqrt(len(paired))) if len(paired) > 1 else math.nan
    separation = (means[0] - means[1]) / pooled if pooled else math.nan
    print(
        f"{name:22s} {split:8s} n {count:4d} step {key[0]:4d} {key[1]:10s} "
        f"baseline {means[0]:8.3f} +- {spreads[0]:6.3f}  REPA {means[1]:8.3f} +- {spreads[1]:6.3f}  "
        f"gain {100 * (1 - means[1] / means[0]):5.1f} %  d' {separation:5.1f} "
        f"paired t {t:5.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
