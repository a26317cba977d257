"""Where pretrained weights lie, and whether they are all there: the hub's cache, torch.hub's checkpoints, packages."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from prx_model.hub import HubSource

CONFIG = ("config.json",)
TRANSFORMERS_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
DIFFUSERS_WEIGHTS = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.bin.index.json",
)
TOKENIZER = ("tokenizer.json", "spiece.model", "tokenizer.model", "vocab.json", "vocab.txt")
INDEX = ".index.json"


class UnreachableError(Exception):
    """The network gives no answer; says why in a few words."""


class RefusedError(Exception):
    """The network's answer is that these weights cannot be had as things are; says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is wrong with weights on this machine, and how to put it right. downloadable: the network could do it."""

    what: str
    remedy: str
    downloadable: bool = True


@dataclass(frozen=True, kw_only=True)
class HubModel:
    """A model on the Hugging Face hub or in a folder.

    files: of each group, given as paths inside the repository, the first that is there will do. gated: its licence is
    known to need accepting; None where that is not known.
    """

    source: HubSource
    files: tuple[tuple[str, ...], ...]
    gated: bool | None = None

    @classmethod
    def of(cls, source: HubSource, *groups: Sequence[str], gated: bool | None = None) -> HubModel:
        """`groups` of files inside the source's subfolder."""
        return cls(source=source, files=tuple(_inside(source.subfolder, group) for group in groups), gated=gated)

    def __str__(self) -> str:
        return str(self.source)

    def problem(self) -> Problem | None:
        """What is not there, looked up without network."""
        missing = list(self._missing())
        if not missing:
            return None
        names = ", ".join(missing)
        if self.source.is_folder:
            return Problem(
                what=f"{self.source.place} lacks {names}",
                remedy="name a folder that `save_pretrained` has written",
                downloadable=False,
            )
        return Problem(
            what=f"{self.source} is not in {_cache()}: {names}",
            remedy=f"on a machine with network{self._licence()}, `{self._command()}`; "
            "copy that cache here, or point HF_HOME at it",
        )

    def ask(self, timeout_s: float) -> str:
        """The size of what the hub would send. Raises UnreachableError or RefusedError."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

        api, place = HfApi(), self.source.place
        try:
            info = api.model_info(place, revision=self.source.revision, timeout=timeout_s, files_metadata=True)
            if info.gated:
                api.auth_check(place)
        except GatedRepoError as error:
            raise RefusedError(
                f"it is gated: accept its licence at {api.endpoint}/{place}, then `hf auth login`"
            ) from error
        except RevisionNotFoundError as error:
            raise RefusedError(f"the hub has no revision {self.source.revision} of it") from error
        except RepositoryNotFoundError as error:
            raise RefusedError("the hub has no such repository, or it is private: `hf auth login`") from error
        except Exception as error:  # whatever an HTTP client, a proxy or a name server comes up with
            raise UnreachableError(_first_line(error)) from error
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        return _in_units(sum(sizes[name] for name in self._sent(sizes)))

    def _command(self) -> str:
        """A pipeline has many models, of which a part is wanted."""
        folders = sorted({name.rpartition("/")[0] for group in self.files for name in group})
        included = "" if "" in folders else "".join(f" --include '{folder}/*'" for folder in folders)
        revision = "" if self.source.revision == "main" else f" --revision {self.source.revision}"
        return f"hf download {self.source.place}{revision}{included}"

    def _licence(self) -> str:
        if not self.gated:
            return " (if gated, accept its licence first and `hf auth login`)" if self.gated is None else ""
        return f" (gated: accept its licence at https://huggingface.co/{self.source.place} first and `hf auth login`)"

    def _missing(self) -> Iterable[str]:
        for group in self.files:
            found = next((name for name in group if self._path(name) is not None), None)
            if found is None:
                yield group[0]
            elif found.endswith(INDEX):
                yield from (name for name in self._parts(found) if self._path(name) is None)

    def _parts(self, index: str) -> list[str]:
        """The files that weights are split into, by their index; the index itself where it cannot be read."""
        path = self._path(index)
        assert path is not None
        folder = index.rpartition("/")[0]
        try:
            names = set(json.loads(path.read_text())["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            return [f"{index} (unreadable)"]
        return list(_inside(folder, sorted(names)))

    def _path(self, name: str) -> Path | None:
        if self.source.is_folder:
            path = Path(self.source.place) / name
            return path if path.is_file() else None
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.source.place, name, revision=self.source.revision)
        return Path(found) if isinstance(found, str) else None

    def _sent(self, names: Iterable[str]) -> list[str]:
        names = list(names)
        chosen = [next((name for name in group if name in names), None) for group in self.files]
        stems = tuple(name.removesuffix(INDEX).rpartition(".")[0] + "-" for name in chosen if name and INDEX in name)
        return [name for name in names if name in chosen or (stems and name.startswith(stems))]


@dataclass(frozen=True, kw_only=True)
class CheckpointFile:
    """One file that torch.hub downloads; its name ends in the first digits of its sha256."""

    address: str

    def __str__(self) -> str:
        return self.address.rpartition("/")[2]

    @property
    def path(self) -> Path:
        import torch.hub

        return Path(torch.hub.get_dir()) / "checkpoints" / str(self)

    def problem(self) -> Problem | None:
        if not self.path.is_file():
            return Problem(what=f"no file {self.path}", remedy=f"download {self.address} and put it there")
        named = re.search(r"-([0-9a-f]{8,})\.", str(self))
        with self.path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if named is None or found.startswith(named[1]):
            return None
        return Problem(
            what=f"{self.path} is damaged: its sha256 begins with {found[:8]}, its name says {named[1]}",
            remedy=f"delete it, and put there what {self.address} has",
            downloadable=False,  # torch.hub takes what lies there as it is
        )

    def ask(self, timeout_s: float) -> str:
        import urllib.error
        import urllib.request

        request = urllib.request.Request(self.address, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as answer:
                return _in_units(int(answer.headers.get("Content-Length") or 0))
        except urllib.error.HTTPError as error:
            raise RefusedError(f"{self.address} answers {error.code} {error.reason}") from error
        except (OSError, ValueError) as error:
            raise UnreachableError(_first_line(error)) from error


@dataclass(frozen=True, kw_only=True)
class Packages:
    """Distributions of the package index that carry weights, or the code to load them; in the extra `extra`."""

    names: tuple[str, ...]
    extra: str

    def __str__(self) -> str:
        return ", ".join(self.names)

    def problem(self) -> Problem | None:
        missing = [name for name in self.names if not _is_installed(name)]
        if not missing:
            return None
        noun = "packages are" if len(missing) > 1 else "package is"
        return Problem(
            what=f"{noun} not installed: {', '.join(missing)}",
            remedy=f"pip install 'prx-sweeps[{self.extra}]'",
            downloadable=False,
        )

    def ask(self, timeout_s: float) -> str:
        raise AssertionError("packages are never downloaded by a run")


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def _inside(folder: str, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}" if folder else name for name in names)


def _cache() -> str:
    from huggingface_hub import constants

    return constants.HF_HUB_CACHE


def _first_line(error: BaseException) -> str:
    text: Any = getattr(error, "reason", None) or error
    return next((line.strip() for line in str(text).splitlines() if line.strip()), type(error).__name__)


def _in_units(size: int) -> str:
    if not size:
        return "of unknown size"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
