"""What an encoding job shows: how far it is while it runs, and what came of it at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live

from prx_model.data.manifest import Manifest, Skipped
from prx_model.encoding.finish import SKIPPED_FILE
from sweeps.encoding.job import Progress
from sweeps.meanwhile import meanwhile
from sweeps.wording import count, duration

POLL_S = 1.0
PLAIN_EVERY_S = 15.0  # without a terminal, so often a line
READ_TIMEOUT_S = 5.0
MEGABYTE, GIGABYTE = 10**6, 10**9


@dataclass
class EncodeWatch:
    """Where a job stands, in one line. Its pace is that of this start, from the first item on."""

    progress: Progress
    done_before: int = 0
    skipped_before: int = 0
    last: tuple[int, int, int] = (0, 0, 0)
    started: float | None = None
    last_line: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.done_before = sum(card.num_items for card in self.progress.units.values())
        self.skipped_before = sum(len(card.skipped) for card in self.progress.units.values())

    def read(self) -> None:
        """Ask the tally; where it does not answer in time, what was last known stays."""
        import ray
        from ray.exceptions import RayError

        if self.progress.tally is None:
            return
        try:
            self.last = ray.get(self.progress.tally.read.remote(), timeout=READ_TIMEOUT_S)
        except RayError:
            return
        if self.started is None and self.last[0]:
            self.started = time.monotonic()

    def line(self) -> str:
        done, skipped, size = self.last
        total = self.progress.plan.num_items
        all_done = min(total, self.done_before + done)
        parts = [f"{all_done:,} of {total:,} samples"]
        elapsed = 0.0 if self.started is None else time.monotonic() - self.started
        if elapsed >= 1:
            parts.append(f"{done / elapsed:,.1f} samples/s, {size / elapsed / MEGABYTE:,.1f} MB/s")
            if done and all_done < total:
                parts.append(f"about {duration(elapsed / done * (total - all_done))} left")
        elif not done:
            parts.append("starting")
        left_out = self.skipped_before + skipped
        return "  ".join(
            [*parts, f"{left_out:,} left out", f"{len(self.progress.failed)} failed"][
                : None if self.progress.failed else -1
            ]
        )


@contextmanager
def watching(console: Console, watch: EncodeWatch) -> Iterator[None]:
    """Show progress while the body runs: a line that changes in a terminal, a line now and then elsewhere."""
    with _live(console) as live:

        def follow() -> None:
            watch.read()
            if live is not None:
                live.update(watch.line())
            elif time.monotonic() - watch.last_line >= PLAIN_EVERY_S:
                watch.last_line = time.monotonic()
                tell(console, watch.line())

        try:
            with meanwhile(POLL_S, follow):
                yield
        finally:
            watch.read()


@contextmanager
def _live(console: Console) -> Iterator[Live | None]:
    if not console.is_terminal:
        yield None
        return
    # What others print is on its way to a file already; Live would bring it back.
    with Live(
        console=console, refresh_per_second=2, transient=True, redirect_stdout=False, redirect_stderr=False
    ) as live:
        yield live


def tell(console: Console, text: str) -> None:
    """A line with the time of day."""
    console.print(f"[dim]{time.strftime('%H:%M:%S')}[/dim]  {text}", highlight=False, soft_wrap=True)


def summary(location: str, manifest: Manifest, examples: Mapping[str, Skipped]) -> list[str]:
    """What a finished store holds, and what to write into a search space. examples: an item per reason."""
    lines = [f"Data set  {location}", f"          fingerprint {manifest.fingerprint}"]
    for split in ("train", "heldout"):
        cards = manifest.shards_of(split)
        size = sum(card.bytes for card in cards)
        name = {"train": "train", "heldout": "held out"}[split]
        lines.append(f"{name:<9} {manifest.counts[split]:,} images in {count(len(cards), 'shard')}, {_bytes(size)}")
    lines += _left_out(manifest, examples)
    if manifest.cut_captions:
        lines.append(f"cut       {manifest.cut_captions:,} captions are longer than {manifest.max_text_tokens} tokens")
    return lines


def data_section(location: str, manifest: Manifest) -> list[str]:
    """The lines of a search space that train on the store."""
    return [
        "data:",
        "  source: store",
        f"  path: {location}",
        f"  resolution: {manifest.resolution}",
        f"  num_heldout: {manifest.counts['heldout']}",
        f"  max_text_tokens: {manifest.max_text_tokens}",
    ]


def pace(progress: Progress, watch: EncodeWatch, seconds: float) -> str:
    """What this start of the command has done, and how fast."""
    items = watch.last[0]
    resumed = f"; {watch.done_before:,} were there already" if watch.done_before else ""
    if not items:
        return f"this start {duration(seconds)}{resumed}"
    working = max(seconds if watch.started is None else time.monotonic() - watch.started, 1e-3)
    rates = f"{items / working:,.1f} samples/s, {watch.last[2] / working / MEGABYTE:,.1f} MB/s"
    workers = count(progress.actors, "actor")
    return f"this start {items:,} samples in {duration(seconds)} with {workers}: {rates}{resumed}"


def _left_out(manifest: Manifest, examples: Mapping[str, Skipped]) -> Sequence[str]:
    if not manifest.skipped_by_reason:
        return []
    total = sum(manifest.skipped_by_reason.values())
    lines = [f"left out  {total:,} {'item' if total == 1 else 'items'}, listed in {SKIPPED_FILE}:"]
    for reason, number in manifest.skipped_by_reason.items():
        example = examples.get(reason)
        such = "" if example is None else f", such as {example.key}{f' ({example.detail})' if example.detail else ''}"
        lines.append(f"          {number:,} {reason}{such}")
    return lines


def first_examples(skipped: Sequence[Skipped]) -> dict[str, Skipped]:
    """The first item of each reason."""
    examples: dict[str, Skipped] = {}
    for item in skipped:
        examples.setdefault(item.reason, item)
    return examples


def _bytes(size: int) -> str:
    return f"{size / GIGABYTE:,.1f} GB" if size >= GIGABYTE else f"{size / MEGABYTE:,.1f} MB"
