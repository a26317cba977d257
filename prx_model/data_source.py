"""The data set of a run: made or found, checked against the run's settings, and read in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from prx_model.kept import Kept

if TYPE_CHECKING:
    from prx_model.data.heldout import HeldOut
    from prx_model.data.manifest import LatentCard, Manifest
    from prx_model.data.store import EncodedStore, ImageCaptionStore
    from prx_model.experiment_config import DataConfig, ExperimentConfig
    from prx_model.teachers.tokens import TeacherTokens
    from prx_model.training.loop import Batches

    Store = ImageCaptionStore | EncodedStore

Progress = Callable[[str, int, int], None]  # stage, done, total


def open_store(data: DataConfig, cache: Path, progress: Progress | None = None, kept: Kept | None = None) -> Store:
    """The encoded data set: streamed where it is a 'store', else in memory, made first where the cache has none."""
    from prx_model.data.store import EncodedStore, ImageCaptionStore

    location, kept = _location(data, cache, progress), kept or Kept()
    # The fingerprint is read again for every run: a folder that was encoded anew is another data set.
    manifest = _manifest_at(location)
    if isinstance(location, Path):
        return kept.get("store", (location, manifest.fingerprint), lambda: ImageCaptionStore.open(location))
    room, folder = _cache_bytes(data, manifest), cache / "store"
    return kept.get(
        "store",
        (location, manifest.fingerprint, folder, room),
        lambda: EncodedStore.open(location, cache=folder, cache_bytes=room),
    )


def manifest_of(data: DataConfig, cache: Path) -> Manifest:
    """What the data set says of itself. Opens nothing else; makes it first where it is one that can be made."""
    return _manifest_at(_location(data, cache, None))


def _cache_bytes(data: DataConfig, manifest: Manifest) -> int:
    from prx_model.data.places import S3_SCHEME

    room = int(data.cache_gb * 1e9)
    largest = max(group.bytes for card in manifest.shards for group in card.groups)
    if str(data.path).startswith(S3_SCHEME) and room < largest:
        raise ValueError(
            f"data.cache_gb: got {data.cache_gb:g}, allowed for {data.path} is "
            f"at least {largest / 1e9:.2g}, the size of its largest row group"
        )
    return room


def _manifest_at(location: str | Path) -> Manifest:
    from prx_model.data.manifest import Manifest

    return Manifest.read(location)


def _location(data: DataConfig, cache: Path, progress: Progress | None) -> str | Path:
    """Where the data set lies: a Path is one that was made here, a str one that the settings name."""
    from prx_model.data.openmoji import OpenMojiSettings, prepare_openmoji

    if data.source == "store":
        assert data.path is not None
        return data.path
    settings = OpenMojiSettings(
        resolution=data.resolution,
        num_heldout=data.num_heldout,
        max_text_tokens=data.max_text_tokens,
        skin_tones=data.skin_tones,
        limit=data.limit,
    )
    return prepare_openmoji(settings, cache, progress)


def check_fits(config: ExperimentConfig, manifest: Manifest) -> None:
    """Raise ValueError, one line that opens with the setting's path, where a run asks for another data set."""
    where = config.data.path or config.data.source
    equal = (
        ("data.resolution", config.data.resolution, manifest.resolution, "images are so many px wide"),
        ("data.max_text_tokens", config.data.max_text_tokens, manifest.max_text_tokens, "captions were cut there"),
        ("model.in_channels", config.model.in_channels, _channels(manifest.latents), _space(manifest.latents)),
        ("model.context_in_dim", config.model.context_in_dim, manifest.text_encoder.width, "text states are so wide"),
    )
    for path, got, allowed, reason in equal:
        if got != allowed:
            raise ValueError(f"{path}: got {got}, allowed for {where} is {allowed}: its {reason}")
    multiple = _downsampling(manifest.latents) * config.model.patch_size
    if manifest.resolution % multiple:
        raise ValueError(
            f"data.resolution: got {manifest.resolution}, allowed are multiples of {multiple}: downsampling "
            f"{_downsampling(manifest.latents)} times patch_size {config.model.patch_size}"
        )
    held_out = manifest.counts["heldout"]
    # (A data set that is drawn holds out whole families of drawings, as near below the number as they add up to.)
    if config.data.source == "store" and config.data.num_heldout > held_out:
        raise ValueError(f"data.num_heldout: got {config.data.num_heldout}, allowed for {where} is 1 to {held_out}")


def _channels(latents: LatentCard | None) -> int:
    return 3 if latents is None else latents.channels


def _downsampling(latents: LatentCard | None) -> int:
    return 1 if latents is None else latents.downsampling


def _space(latents: LatentCard | None) -> str:
    return "images are RGB pixels" if latents is None else f"latents, of {latents.autoencoder}, have so many"


def sample_shape(manifest: Manifest) -> tuple[int, int, int]:
    """(C, H, W) of one image in the model's space: pixels, or the data set's latents."""
    side = manifest.resolution // _downsampling(manifest.latents)
    return _channels(manifest.latents), side, side


def token_grid(config: ExperimentConfig, manifest: Manifest) -> tuple[int, int]:
    """Rows and columns of the model's image tokens."""
    return config.model.token_grid(*sample_shape(manifest)[1:])


def batches_of(config: ExperimentConfig, store: Store, share: tuple[int, int], tokens: TeacherTokens) -> Batches:
    """This worker's share of every batch, with what REPA's teacher asks for."""
    from prx_model.data.reader import BatchReader
    from prx_model.data.store import ImageCaptionStore

    batch_size, seed = config.training.batch_size, config.seed
    if isinstance(store, ImageCaptionStore):
        return BatchReader(store.train, batch_size, seed, share=share, teacher_tokens=tokens.cached)
    from prx_model.data.stream import StreamReader

    return StreamReader(
        store,
        batch_size,
        seed,
        share=share,
        shuffle_rows=config.data.shuffle_rows,
        stored_teacher=tokens.stored,
        with_images=tokens.online is not None,
    )


def heldout_of(data: DataConfig, store: Store) -> HeldOut:
    """The held-out images that the run uses: the first `num_heldout`."""
    heldout = store.heldout
    return FirstRows(heldout, data.num_heldout) if data.num_heldout < len(heldout) else heldout


@dataclass(frozen=True)
class FirstRows:
    """The first `count` rows of a held-out split, as a split of its own: a HeldOut."""

    whole: HeldOut
    count: int

    @property
    def fingerprint(self) -> str:
        from prx_model.data.manifest import json_sha256

        return json_sha256([self.whole.fingerprint, self.count])

    @property
    def captions(self) -> Sequence[str]:
        from prx_model.data.heldout import Captions

        return Captions(self.count, lambda rows: [self.whole.captions[row] for row in self._own(rows)])

    def __len__(self) -> int:
        return self.count

    def texts_of(self, rows: Sequence[int]) -> tuple[Float[Tensor, "k L E"], Bool[Tensor, "k L"]]:
        return self.whole.texts_of(self._own(rows))

    def images_of(self, rows: Sequence[int]) -> UInt8[Tensor, "k 3 R R"]:
        return self.whole.images_of(self._own(rows))

    def _own(self, rows: Sequence[int]) -> Sequence[int]:
        assert all(0 <= row < self.count for row in rows), f"rows {rows} of {self.count}"
        return rows
