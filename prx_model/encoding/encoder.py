"""Images and captions -> rows of a data set: crop, latents, token states, teachers' tokens; what is broken is named.

Nothing here knows of shards or of other workers: the same items give the same rows, whoever encodes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from prx_model.data.manifest import Skipped, TeacherCard, TextEncoderCard
from prx_model.data.shards import TORCH_DTYPES, Row, SplitName, decode_image, encode_image
from prx_model.encoding.hub_text import HubTextEncoder, as_stored
from prx_model.encoding.images import UnreadableImageError, centre_crop, load_rgb, too_small
from prx_model.encoding.listing import NOT_FINITE, SourceItem
from prx_model.encoding.settings import MINILM, EncoderCards, EncodingSettings
from prx_model.encoding.text import MINILM_DISTRIBUTION, MiniLmEncoder
from prx_model.latents import LatentSpace, load_latent_space
from prx_model.teachers.table import Teacher, load_teacher

LATENT_DTYPE = "float16"

# Told after each batch: items done since the last call, how many of them were left out, bytes of the others' rows.
Told = Callable[[int, int, int], None]


@dataclass(kw_only=True)
class EncodedItems:
    """The rows of some items in their order, `ranks` beside them; the items left out; captions that lost their end."""

    rows: list[Row] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    cut_captions: int = 0

    @property
    def longest_text(self) -> int:
        return max((len(row.text) for row in self.rows), default=0)


@dataclass(frozen=True, kw_only=True)
class _Picture:
    """An item whose image has been read and cropped. rank: 0 and above of a candidate for the held-out split."""

    key: str
    caption: str
    rank: int
    pixels: UInt8[np.ndarray, "R R 3"]

    @property
    def split(self) -> SplitName:
        return "heldout" if self.rank >= 0 else "train"


class Encoder:
    """The networks of `settings` on one device; loading them takes seconds to minutes.

    cards: of an earlier start, to load the same revisions; ValueError if what is found has other weights. OSError where
    a network cannot be had. batch_size: images at a time. threads: that decode and pack images.
    """

    def __init__(
        self,
        settings: EncodingSettings,
        *,
        device: torch.device,
        batch_size: int = 64,
        threads: int = 4,
        cards: EncoderCards | None = None,
    ) -> None:
        self.settings, self.device, self.batch_size, self.threads = settings, device, batch_size, threads
        self.text = _load_text(settings, device, batch_size, cards)
        self.latent_space = _load_latents(settings, device, cards)
        self.teachers: list[Teacher] = [load_teacher(name).to(device) for name in settings.teachers]
        self.cards = self._cards()
        if cards is not None and cards != self.cards:
            raise ValueError(_other_weights(cards, self.cards))

    def null_text(self) -> Float[Tensor, "L0 E"]:
        """The states of the empty caption as they are stored."""
        return as_stored(self.text([""])[0], TORCH_DTYPES[self.settings.text_dtype])

    def encode(
        self,
        items: Iterable[tuple[SourceItem, int]],
        told: Told | None = None,
    ) -> EncodedItems:
        """The rows of all items that can be used. An item's rank is -1 for the train split.

        Raises only what `items` raises and what is wrong with the machine: never for what is wrong with an item.
        """
        done = EncodedItems()
        with ThreadPoolExecutor(self.threads) as pool:
            for pictures, skipped in self._pictures_ahead(items, pool):
                done.skipped += skipped
                rows = self._encode_batch(pictures, done, pool) if pictures else []
                if told is not None:
                    num_items = len(pictures) + len(skipped)
                    told(num_items, num_items - len(rows), sum(map(row_bytes, rows)))
        return done

    def _cards(self) -> EncoderCards:
        side = self.settings.teacher_grid or 0
        return EncoderCards(
            text_encoder=_text_card(self.text),
            latents=None if self.latent_space is None else self.latent_space.card(LATENT_DTYPE),
            teachers=tuple(
                TeacherCard(name=one.name, fingerprint=one.fingerprint, grid=(side, side), width=one.width)
                for one in self.teachers
            ),
        )

    def _pictures_ahead(
        self, items: Iterable[tuple[SourceItem, int]], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[list[_Picture], list[Skipped]]]:
        """Batches of items, read and cropped while the one before is encoded."""
        iterator = iter(items)

        def load() -> list[_Picture | Skipped]:
            return list(pool.map(self._load, list(islice(iterator, self.batch_size))))

        with ThreadPoolExecutor(1) as reader:
            coming = reader.submit(load)
            while loaded := coming.result():
                coming = reader.submit(load)
                yield (
                    [one for one in loaded if isinstance(one, _Picture)],
                    [one for one in loaded if isinstance(one, Skipped)],
                )

    def _load(self, pair: tuple[SourceItem, int]) -> _Picture | Skipped:
        item, rank = pair
        if item.problem:
            return Skipped(key=item.key, reason=item.problem, detail=item.detail)
        try:
            image = load_rgb(item.image)
            small = too_small(image, self.settings.min_side)
            if small is not None:
                return Skipped(key=item.key, reason=small, detail=f"{image.width} x {image.height}")
            pixels = centre_crop(image, self.settings.resolution)
        except UnreadableImageError as error:
            return Skipped(key=item.key, reason=error.reason, detail=error.detail)
        return _Picture(key=item.key, caption=item.caption, rank=rank, pixels=pixels)

    def _encode_batch(self, pictures: list[_Picture], done: EncodedItems, pool: ThreadPoolExecutor) -> list[Row]:
        texts = self._texts([picture.caption for picture in pictures])
        images = torch.from_numpy(np.stack([picture.pixels for picture in pictures])).permute(0, 3, 1, 2).contiguous()
        latents = self._latents(images)
        files = list(pool.map(self._image_file, pictures))
        teachers = self._teacher_tokens(files, pool)
        rows: list[Row] = []
        for index, picture in enumerate(pictures):
            text = texts[index]
            numbers = [*([] if latents is None else [latents[index]]), *(tokens[index] for tokens in teachers.values())]
            if isinstance(text, str):
                done.skipped.append(Skipped(key=picture.key, reason=NOT_FINITE, detail=text))
            elif not all(bool(tensor.isfinite().all()) for tensor in numbers):
                done.skipped.append(Skipped(key=picture.key, reason=NOT_FINITE, detail="latents or teacher's tokens"))
            else:
                rows.append(
                    Row(
                        key=picture.key,
                        caption=picture.caption,
                        split=picture.split,
                        image=files[index],
                        text=text,
                        latent=None if latents is None else latents[index],
                        teachers={name: tokens[index] for name, tokens in teachers.items()},
                    )
                )
                done.ranks.append(picture.rank)
        done.rows += rows
        done.cut_captions += self.text.num_cut([row.caption for row in rows]) if rows else 0
        return rows

    def _texts(self, captions: Sequence[str]) -> list[Tensor | str]:
        """The states of each caption as stored, or why there are none."""
        try:
            states = self.text(captions)
        except ValueError as error:  # one caption's states are not finite: which?
            if len(captions) == 1:
                return [str(error)]
            return [text for caption in captions for text in self._texts([caption])]
        texts: list[Tensor | str] = []
        for state in states:
            try:
                texts.append(as_stored(state, TORCH_DTYPES[self.settings.text_dtype]))
            except ValueError as error:
                texts.append(str(error))
        return texts

    def _latents(self, images: UInt8[Tensor, "B 3 R R"]) -> Tensor | None:
        if self.latent_space is None:
            return None
        return self.latent_space.encode(images.to(self.device)).to("cpu", TORCH_DTYPES[LATENT_DTYPE])

    def _image_file(self, picture: _Picture) -> bytes:
        card = self.settings.image
        if picture.split == "heldout":
            return encode_image(picture.pixels, card.heldout_format)
        return encode_image(picture.pixels, card.train_format, card.quality)

    def _teacher_tokens(self, files: Sequence[bytes], pool: ThreadPoolExecutor) -> dict[str, Tensor]:
        """Of the images as they are stored: what a teacher would see that runs during training."""
        if not self.teachers or self.settings.teacher_grid is None:
            return {}
        images = torch.stack(list(pool.map(decode_image, files))).to(self.device)
        grid = (self.settings.teacher_grid, self.settings.teacher_grid)
        return {teacher.name: teacher(images, grid).to("cpu", torch.float16) for teacher in self.teachers}


def row_bytes(row: Row) -> int:
    """About what a row takes in a shard."""
    tensors = [*([] if row.latent is None else [row.latent]), *row.teachers.values()]
    return len(row.image) + len(row.caption) + row.text.nbytes + sum(tensor.nbytes for tensor in tensors)


def _load_text(
    settings: EncodingSettings, device: torch.device, batch_size: int, cards: EncoderCards | None
) -> MiniLmEncoder | HubTextEncoder:
    if settings.text_encoder == MINILM:
        return MiniLmEncoder(max_text_tokens=settings.max_text_tokens, batch_size=batch_size)
    return HubTextEncoder(
        settings.text_encoder,
        revision=(cards.text_encoder.revision if cards else "") or "main",
        max_text_tokens=settings.max_text_tokens,
        batch_size=batch_size,
        device=device,
        dtype=getattr(torch, settings.text_precision),
    )


def _load_latents(settings: EncodingSettings, device: torch.device, cards: EncoderCards | None) -> LatentSpace | None:
    if settings.autoencoder is None:
        return None
    revision = cards.latents.revision if cards is not None and cards.latents is not None else ""
    space = load_latent_space(settings.autoencoder, revision or "main").to(device)
    if settings.resolution % space.downsampling:
        raise ValueError(
            f"resolution: got {settings.resolution}, allowed are multiples of {space.downsampling}, "
            f"the downsampling of {space.name}"
        )
    return space


def _text_card(encoder: MiniLmEncoder | HubTextEncoder) -> TextEncoderCard:
    if isinstance(encoder, HubTextEncoder):
        return encoder.card()
    return TextEncoderCard(
        name=encoder.name,
        package=MINILM_DISTRIBUTION,
        package_version=encoder.package_version,
        weight_sha256=encoder.weight_sha256,
        width=encoder.width,
    )


def _other_weights(recorded: EncoderCards, found: EncoderCards) -> str:
    pairs = ((recorded.text_encoder, found.text_encoder), (recorded.latents, found.latents))
    differing = [
        (old, new) for old, new in (*pairs, *zip(recorded.teachers, found.teachers, strict=True)) if old != new
    ]
    old, new = differing[0]
    return (
        f"the data set was begun with {old}, but found is {new}; put the same network back, or encode into a new place"
    )
