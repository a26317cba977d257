"""Pretrained networks of the Hugging Face hub: where one lies, and what to say when it is not there or not whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """A network's home.

    place: 'owner/name' on the hub, or a folder. subfolder: inside of it, or ''. revision: branch, tag or commit; a
    folder has none, and there it is ''.
    """

    place: str
    subfolder: str = ""
    revision: str = ""

    @classmethod
    def parse(cls, source: str, revision: str = "main") -> HubSource:
        """From 'owner/name', 'owner/name:subfolder', a folder, or 'folder:subfolder'."""
        place, subfolder = source, ""
        if ":" in source and not Path(source).is_dir():
            place, subfolder = source.rsplit(":", 1)
        if not place or source.endswith(":"):
            raise ValueError(f"source: got {source!r}, allowed is 'owner/name', 'owner/name:subfolder' or a folder")
        local = Path(place).is_dir()
        return cls(place=place, subfolder=subfolder, revision="" if local else revision)

    @property
    def name(self) -> str:
        """What `parse` reads back: 'place' or 'place:subfolder'."""
        return f"{self.place}:{self.subfolder}" if self.subfolder else self.place

    @property
    def is_folder(self) -> bool:
        return not self.revision

    def arguments(self) -> dict[str, Any]:
        """Keywords of every `from_pretrained`, beside the place."""
        named = {"subfolder": self.subfolder, "revision": self.revision}
        return {key: value for key, value in named.items() if value}

    def beside(self, subfolder: str) -> HubSource:
        """Another part of the same repository or folder."""
        return HubSource(place=self.place, subfolder=subfolder, revision=self.revision)

    def at(self, commit: str | None) -> HubSource:
        """The same, pinned to the commit that its branch or tag was found at; as it is where none is known."""
        if self.is_folder or not commit:
            return self
        return HubSource(place=self.place, subfolder=self.subfolder, revision=commit)

    def __str__(self) -> str:
        return self.name if self.is_folder else f"{self.name} (revision {self.revision})"


def unavailable(source: HubSource, error: Exception) -> OSError:
    """One line for a network that is not there: what, from where, why, and what to do."""
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if source.is_folder:
        remedy = "name a folder that `save_pretrained` has written"
    else:
        remedy = (
            f"fetch it once on a machine with network: `hf download {source.place}` (if gated, accept its licence on "
            "its page and `hf auth login`), or point HF_HOME at a cache that has it"
        )
    return OSError(f"cannot load {source}: {reason}; {remedy}")


def check_filled(source: HubSource, model_class: str, report: dict[str, Any]) -> None:
    """ValueError if a checkpoint leaves weights of the model unset.

    transformers and diffusers would fill them with random numbers and only log it.
    """
    unset = sorted(map(str, _all(report, "missing_keys", "mismatched_keys")))
    if unset:
        raise ValueError(
            f"{source} does not fill {len(unset)} weights of {model_class}, e.g. {unset[0]}; "
            "name a checkpoint of that class"
        )


def _all(report: dict[str, Any], *names: str) -> Iterable[Any]:
    return [key for name in names for key in report.get(name) or ()]


@contextmanager
def quietly() -> Iterator[None]:
    """Keeps bars and remarks of transformers and diffusers out of the terminal, for who reads their reports."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    from prx_model.pretrained import without_loading_bar

    before = [(logging, logging.get_verbosity()) for logging in (of_diffusers, of_transformers)]
    for logging, _ in before:
        logging.set_verbosity_error()
    try:
        with without_loading_bar():
            yield
    finally:
        for logging, verbosity in before:
            logging.set_verbosity(verbosity)
