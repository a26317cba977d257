"""Small real pictures with captions, in every layout that can be encoded."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

Pairs = Sequence[tuple[str, bytes, str]]
COLOURS = ("red", "green", "blue", "yellow", "violet", "orange")


def picture(number: int, side: int = 48, *, format: str = "JPEG") -> bytes:
    """A gradient of its own, wider than high."""
    from PIL import Image

    ramp = np.linspace(0, 255, side)[:, None] * np.ones(side + side // 2)
    channels = [np.roll(ramp, number * 5, axis=0), ramp * ((number % 7) / 6), 255 - ramp * ((number % 5) / 4)]
    buffer = io.BytesIO()
    Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8)).save(buffer, format=format)
    return buffer.getvalue()


def pairs(count: int, side: int = 48) -> list[tuple[str, bytes, str]]:
    """Key, JPEG file and caption, sorted by key."""
    return [
        (f"picture-{i:03d}", picture(i, side), f"a {COLOURS[i % 6]} gradient number {i}" + " and so on" * (i % 4))
        for i in range(count)
    ]


def write_folder(folder: Path, chosen: Pairs) -> Path:
    """Two sub-folders, a caption beside each picture."""
    for number, (key, image, caption) in enumerate(chosen):
        place = folder / ("a" if number < len(chosen) // 2 else "b")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{key}.jpg").write_bytes(image)
        (place / f"{key}.txt").write_text(caption + "\n", encoding="utf-8")
    return folder


def write_jsonl(folder: Path, chosen: Pairs, extra: Sequence[Mapping[str, object]] = ()) -> Path:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows: list[Mapping[str, object]] = []
    for key, image, caption in chosen:
        (folder / "images" / f"{key}.jpg").write_bytes(image)
        rows.append({"file_name": f"images/{key}.jpg", "caption": caption, "short_caption": caption[:8]})
    text = "".join(json.dumps(row) + "\n" for row in [*rows, *extra])
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")
    return folder


def write_csv(folder: Path, chosen: Pairs) -> Path:
    write_jsonl(folder, chosen).joinpath("metadata.jsonl").unlink()
    rows = [f'images/{key}.jpg,"{caption}, ""quoted""\nover two lines"' for key, _, caption in chosen]
    (folder / "list.csv").write_text("\n".join(["image,text", *rows]) + "\n", encoding="utf-8")
    return folder


def write_parquet(folder: Path, chosen: Pairs, *, files: int = 2, rows_per_group: int = 5) -> Path:
    """As the hub keeps images: {bytes, path} and two captions."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "data").mkdir(parents=True, exist_ok=True)
    for number in range(files):
        part = chosen[number * len(chosen) // files : (number + 1) * len(chosen) // files]
        table = pa.table(
            {
                "image": [{"bytes": image, "path": f"{key}.jpg"} for key, image, _ in part],
                "caption": [caption for _, _, caption in part],
                "short_caption": [caption[:8] for _, _, caption in part],
            }
        )
        pq.write_table(table, folder / "data" / f"train-{number:05d}.parquet", row_group_size=rows_per_group)
    return folder


def write_tars(folder: Path, chosen: Pairs, *, files: int = 2, as_json: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        part = chosen[number * len(chosen) // files : (number + 1) * len(chosen) // files]
        members = {}
        for key, image, caption in part:
            members[f"{key}.jpg"] = image
            fields = json.dumps({"caption": caption, "short": caption[:8]}).encode()
            members |= {f"{key}.json": fields} if as_json else {f"{key}.txt": caption.encode()}
        write_tar(folder / f"{number:05d}.tar", members)
    return folder


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path
