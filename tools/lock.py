"""Write requirements.lock from pyproject.toml: `make lock`, or `make lock UPGRADE=1` for the newest releases.

pip resolves the project's dependencies for the running Python without installing anything (`--dry-run --report`). It
keeps to the pins that are in the lock already; one that pyproject.toml no longer allows is given up.
`--upgrade` gives up all.

Two kinds of packages are treated apart:
- data and weight packages (`without-dependencies` in pyproject.toml) go into the lock as pinned, without what they
  ask for;
- the CUDA libraries that some builds of torch pin by themselves stay out: the lock serves CPU and GPU machines alike,
  and the Makefile lets torch fetch its own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
HEADER = """\
# Every package of the project for Linux and Python 3.11. Written by `make lock` from pyproject.toml: do not edit.
# Install with --no-deps (the Makefile does): the list is complete, and what data packages ask for is left out.
"""
ACCELERATOR_LIBRARY = re.compile(r"^(nvidia-|cuda-|triton$)")


def requirements_of(pyproject: dict[str, Any]) -> tuple[list[Requirement], list[Requirement]]:
    """The requirements that pip resolves, and the data packages that are taken as they stand."""
    project = pyproject["project"]
    settings = pyproject["tool"]["prx-sweeps"]["lock"]
    lines = [*project["dependencies"], *pyproject["build-system"]["requires"]]
    for extra in settings["extras"]:
        lines += project["optional-dependencies"][extra]
    parsed = [Requirement(line) for line in lines]
    alone = {canonicalize_name(name) for name in settings["without-dependencies"]}
    resolved = [requirement for requirement in parsed if canonicalize_name(requirement.name) not in alone]
    data = [requirement for requirement in parsed if canonicalize_name(requirement.name) in alone]
    for requirement in data:
        if not re.fullmatch(r"==[^*,]+", str(requirement.specifier)):
            raise ValueError(
                f"{requirement}: a package without dependencies needs an exact pin, as in {requirement.name}==1.0"
            )
    return resolved, data


def resolve(requirements: list[Requirement], constraints: list[str]) -> dict[str, str]:
    """Name -> version of the full closure, by pip's own resolver. Nothing is installed."""
    with tempfile.TemporaryDirectory() as folder:
        report, kept = Path(folder, "report.json"), Path(folder, "constraints.txt")
        kept.write_text("\n".join(constraints))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--report", str(report), "--constraint", str(kept), *map(str, requirements)]
        subprocess.run(command, check=True)
        installs = json.loads(report.read_text())["install"]
    found: dict[str, str] = {
        str(canonicalize_name(item["metadata"]["name"])): item["metadata"]["version"] for item in installs
    }
    return {name: version for name, version in found.items() if not ACCELERATOR_LIBRARY.match(name)}


def pins_to_keep(requirements: list[Requirement]) -> list[str]:
    """The lines of the lock, less those that a declared requirement has ruled out since."""
    if not LOCK.exists():
        return []
    declared = {str(canonicalize_name(requirement.name)): requirement.specifier for requirement in requirements}
    lines = [line for line in LOCK.read_text().splitlines() if line and not line.startswith("#")]
    pins = [(name, version) for name, _, version in (line.partition("==") for line in lines)]
    return [
        f"{name}=={version}"
        for name, version in pins
        if name not in declared or declared[name].contains(version, prereleases=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Write requirements.lock from pyproject.toml.")
    parser.add_argument(
        "--upgrade", action="store_true", help="take the newest releases instead of keeping current pins"
    )
    arguments = parser.parse_args()
    resolved, data = requirements_of(tomllib.loads((ROOT / "pyproject.toml").read_text()))
    pins = resolve(resolved, [] if arguments.upgrade else pins_to_keep(resolved))
    pins |= {str(canonicalize_name(item.name)): str(item.specifier).removeprefix("==") for item in data}
    # A local label names one machine's build (2.13.0+cpu); the pin names the release.
    lines = [f"{name}=={version.partition('+')[0]}" for name, version in sorted(pins.items())]
    unfinished = LOCK.with_suffix(".lock.unfinished")
    unfinished.write_text(HEADER + "\n".join(lines) + "\n")
    os.replace(unfinished, LOCK)
    print(f"{LOCK.name}: {len(lines)} packages")


if __name__ == "__main__":
    main()
