"""Image files of every kind that users have, and of kinds they should not have."""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from prx_model.encoding import images
from prx_model.encoding.images import UnreadableImageError, centre_crop, load_rgb, too_small

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def file_of(image: Image.Image, kind: str = "PNG", **settings) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def gradient(width: int = 24, height: int = 16) -> Image.Image:
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([rows * 9, columns * 7, rows + columns], -1).astype(np.uint8))


def pixels(image: Image.Image) -> list[tuple[int, ...]]:
    return [tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()]


def png_of(width: int, height: int, rows: bytes = b"") -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("kind", "settings"), [("PNG", {}), ("WEBP", {"lossless": True}), ("BMP", {}), ("TIFF", {})])
def test_lossless_files_come_back_to_the_bit(kind, settings):
    image = load_rgb(file_of(gradient(), kind, **settings))
    assert image.mode == "RGB"
    assert np.array_equal(np.array(image), np.array(gradient()))


def test_jpeg_comes_back_about_right():
    loaded = np.array(load_rgb(file_of(gradient(), "JPEG", quality=95))).astype(int)
    assert abs(loaded - np.array(gradient())).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_the_camera_is_applied(orientation):
    upright = np.array(gradient(8, 4))
    # How the sensor stores what is to be seen as `upright`, by the definition of each EXIF value.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright.transpose(1, 0, 2), 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = file_of(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    assert np.array_equal(np.array(load_rgb(data)), upright)


def test_palettes_greys_and_bits_become_rgb():
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, *BLUE])
    palette.putdata([0, 1])
    assert pixels(load_rgb(file_of(palette))) == [RED, BLUE]
    assert load_rgb(file_of(Image.new("L", (1, 1), 77))).getpixel((0, 0)) == (77, 77, 77)
    assert load_rgb(file_of(Image.new("1", (1, 1), 1))).getpixel((0, 0)) == WHITE


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_cut(kind):
    values = np.array([[0, 256, 32768, 65535]], dtype=np.uint16)
    loaded = load_rgb(file_of(Image.fromarray(values), kind))
    assert [pixel[0] for pixel in pixels(loaded)] == [0, 1, 128, 255]


def test_cmyk_becomes_rgb():
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red, green, blue = load_rgb(file_of(cmyk, "JPEG", quality=100)).getpixel((8, 8))
    assert red > 250
    assert max(green, blue) < 5
    assert load_rgb(file_of(cmyk, "TIFF")).getpixel((8, 8)) == RED


def test_transparency_is_laid_over_white():
    rgba = Image.new("RGBA", (3, 1))
    rgba.putdata([(255, 0, 0, 255), (255, 0, 0, 0), (0, 0, 255, 51)])
    for kind, settings in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True})):
        assert pixels(load_rgb(file_of(rgba, kind, **settings))) == [RED, WHITE, (204, 204, 255)]
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, *BLUE])
    palette.putdata([0, 1])
    assert pixels(load_rgb(file_of(palette, transparency=1))) == [RED, WHITE]
    grey = Image.new("LA", (1, 1), (0, 0))
    assert load_rgb(file_of(grey)).getpixel((0, 0)) == WHITE
    key = Image.new("RGB", (1, 1), GREEN)
    assert load_rgb(file_of(key, transparency=GREEN)).getpixel((0, 0)) == WHITE


def test_of_an_animation_the_first_frame():
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE)]
    assert load_rgb(file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])).getpixel((0, 0)) == RED


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_a_file_that_is_cut_off_is_refused(kind):
    rng = np.random.default_rng(0)
    data = file_of(Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)), kind)
    with pytest.raises(UnreadableImageError) as caught:
        load_rgb(data[: len(data) // 2])
    assert caught.value.reason in ("cannot be decoded", "not an image")
    assert "\n" not in str(caught.value)


def test_flipped_bytes_never_raise_anything_else():
    rng = np.random.default_rng(1)
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF"):
        data = file_of(gradient(), kind)
        for _ in range(60):
            damaged = bytearray(data)
            for place in rng.integers(0, len(data), 4):
                damaged[place] = rng.integers(0, 256)
            with suppress(UnreadableImageError):
                assert load_rgb(bytes(damaged)).mode == "RGB"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"<html>not found</html>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),  # would start Ghostscript
        (png_of(0, 4), "not an image"),
        (png_of(4, 0), "not an image"),
        (png_of(1_000_000, 1_000_000), "too many pixels"),
        (png_of(12_000, 12_000), "too many pixels"),
        (png_of(64, 64, b"\0"), "cannot be decoded"),
        (file_of(Image.new("F", (2, 2)), "TIFF"), "unsupported pixels"),
    ],
)
def test_what_cannot_be_used_says_why(data, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        load_rgb(data)
    assert isinstance(caught.value, UnreadableImageError)
    assert caught.value.reason == reason


def test_the_limit_of_pixels_lets_large_photographs_through():
    assert 100_000_000 < images.MAX_PIXELS < 2 * Image.MAX_IMAGE_PIXELS


def test_the_largest_centred_square_is_taken():
    wide = Image.fromarray(np.repeat(np.array([[10] * 3, [20] * 3, [30] * 3, [40] * 3], np.uint8)[None], 2, axis=0))
    assert centre_crop(wide, 2)[..., 0].tolist() == [[20, 30], [20, 30]]
    tall = wide.transpose(Image.Transpose.TRANSPOSE)
    assert centre_crop(tall, 2)[..., 0].tolist() == [[20, 20], [30, 30]]
    assert np.array_equal(centre_crop(gradient(16, 16), 16), np.array(gradient(16, 16)))


def test_resizing_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = centre_crop(Image.fromarray(stripes), 16)
    assert small.shape == (16, 16, 3)
    assert small.dtype == np.uint8
    assert abs(small.astype(int) - 127).max() < 16  # grey: not every fourth line, which is all white


def test_resizing_first_and_cropping_first_are_the_same_inside():
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (128, 192, 3), dtype=np.uint8))
    resized = np.array(picture.resize((96, 64), Image.Resampling.BICUBIC))[:, 16:80].astype(int)
    assert abs(centre_crop(picture, 64).astype(int) - resized)[:, 2:-2].max() <= 1


def test_small_pictures_are_enlarged_and_named():
    small = gradient(20, 10)
    assert centre_crop(small, 32).shape == (32, 32, 3)
    assert too_small(small, 11) == "smaller than 11 px"
    assert too_small(small, 10) is None
