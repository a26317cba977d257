"""Image files as users have them -> square RGB pixels. What can be read is read one way; the rest says why not."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

if TYPE_CHECKING:
    from PIL.Image import Image

# Named, so that no file can reach a decoder that calls other programs (EPS starts Ghostscript).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
MAX_PIXELS = 2**27  # 134 megapixels, 400 MB as RGB: above any camera's picture, below a bomb's


class UnreadableImageError(ValueError):
    """A picture that cannot be used. `reason` is one of a few kinds, `detail` what is special about this one."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


def load_rgb(data: bytes) -> Image:
    """The picture in an image file, as RGB, turned as its EXIF orientation says. Of an animation, the first frame.

    Transparency is laid over white. 16-bit grey is scaled, not cut, to 8 bits. Colour profiles are not applied, as in
    every published text-to-image data pipeline. Raises UnreadableImageError, a ValueError, for everything else:
    'empty file', 'not an image', 'too many pixels', 'cannot be decoded' (cut off or corrupt), 'unsupported pixels'.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not data:
        raise UnreadableImageError("empty file")
    try:
        image = Image.open(BytesIO(data), formats=_formats())
    except Image.DecompressionBombError as error:
        raise UnreadableImageError("too many pixels", str(error)) from error
    except UnidentifiedImageError as error:  # its message names a memory address
        raise UnreadableImageError("not an image", f"starts with {data[:8]!r}") from error
    except Exception as error:
        raise _undecodable(error) from error
    if image.width * image.height > MAX_PIXELS:
        raise UnreadableImageError("too many pixels", f"{image.width} x {image.height}, allowed are {MAX_PIXELS}")
    try:
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))
    except UnreadableImageError:
        raise
    # Damaged files make decoders raise nearly anything: OSError, SyntaxError, struct.error, IndexError, zlib.error, ...
    except Exception as error:
        raise _undecodable(error) from error


def centre_crop(image: Image, resolution: int) -> UInt8[np.ndarray, "R R 3"]:
    """The largest centred square, resized to `resolution` with Pillow's antialiased bicubic kernel.

    A smaller picture is enlarged; whether it may be is the caller's to say: see `too_small`.
    """
    from PIL.Image import Resampling

    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Cropped first: the same pixels as resizing the short side first, without the memory of a long thin picture.
    square = image.crop((left, top, left + side, top + side))
    if side != resolution:
        square = square.resize((resolution, resolution), Resampling.BICUBIC)
    return np.array(square)


def too_small(image: Image, min_side: int) -> str | None:
    """Why a picture whose short side is below `min_side` is left out, or None."""
    return f"smaller than {min_side} px" if min(image.size) < min_side else None


def _formats() -> list[str]:
    """Those of FORMATS that this build of Pillow can read."""
    from PIL import Image

    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _undecodable(error: Exception) -> UnreadableImageError:
    message = str(error).splitlines()
    return UnreadableImageError(
        "cannot be decoded", f"{type(error).__name__}: {message[0]}" if message else type(error).__name__
    )


def _to_rgb(image: Image) -> Image:
    from PIL import Image

    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):  # 32-bit numbers whose white is anyone's guess
        raise UnreadableImageError("unsupported pixels", f"mode {image.mode}")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")
