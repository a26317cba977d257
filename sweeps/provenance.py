"""What a result was made with: command, commit, versions, hardware."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps.config import to_plain
from sweeps.locations import Location, write_whole

if TYPE_CHECKING:
    from sweeps.space import SearchSpace

PACKAGES = (
    "torch",
    "ray",
    "optuna",
    "diffusers",
    "transformers",
    "torchmetrics",
    "pyarrow",
    "omegaconf",
    "numpy",
    "scipy",
    "onnxruntime",
    "pillow",
    "resvg-py",
)


def provenance(
    profile: str, profile_reason: str, hardware: str | None = None, data: str | None = None
) -> dict[str, Any]:
    """One start of a sweep, as plain values. data: fingerprint of an encoded data set."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "profile": profile,
        "profile_reason": profile_reason,
        **_commit(),
        "model_code": model_code(),
        "data": data,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "hardware": hardware or describe_machine(),
    }


def recorded_rule(space: SearchSpace) -> dict[str, Any]:
    """What the trials of a sweep are judged by: with it the ledger can be judged again, whoever reads it."""
    return {"objective": to_plain(space.objective), "stop": to_plain(space.stop), "budget": to_plain(space.budget)}


def append_start(path: Location, start: dict[str, Any]) -> None:
    """By the sweep's only driver, now and then: the file is written anew."""
    before = path.read_bytes() if path.is_file() else b""
    torn = b"\n" * (before != b"" and not before.endswith(b"\n"))
    write_whole(path, before + torn + json.dumps(start).encode() + b"\n")


def read_starts(path: Location) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    starts = []
    for line in text.splitlines():
        try:
            starts.append(json.loads(line))
        except ValueError:  # torn by a kill
            continue
    return starts


def describe_machine() -> str:
    """Processor, cores, memory and GPUs, in words."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    shown = f"{len(gpus)} x {gpus[0]}" if gpus else "no GPU"
    return f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, {shown}, {platform.system()}"


def model_code() -> str:
    """12 hex digits that change with the code that computes a result, and not with the rest of a commit."""
    root = Path(__file__).parent.parent / "prx_model"
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:12]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _commit() -> dict[str, Any]:
    """The commit of this checkout, and whether tracked files differ from it."""
    root = Path(__file__).parent.parent
    commit = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit or "unknown", "dirty": None if changed is None else bool(changed)}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
