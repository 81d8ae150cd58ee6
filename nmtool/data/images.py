"""From the bytes of an image file to RGB uint8: the only place that opens an image. Image files are untrusted.

It refuses what is large, odd or broken before or while it is decoded (``BrokenSample``), never fills in what is
missing, and never guesses: the policy below is versioned, and the version is part of every digest of a set of images.

Policy 1:

- formats: JPEG, PNG, WebP, BMP, GIF, told by content, not by name; at most 64 MiB, 64 megapixels, 512:1;
- the first frame only; the whole of it has to decode (a truncated file is broken);
- transparency of any sort (alpha channel, palette, colour key) is composited on white;
- 16-bit grey is scaled to 8 bits (v / 257, rounded), not clipped; Pillow gives 16-bit colour as its high bytes;
- grey and 1-bit are repeated in three channels; CMYK is converted without a profile; ICC profiles are ignored;
- the EXIF orientation is applied.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import io
import re
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nmtool.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

POLICY = 1
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif")
FILE_BYTES = 64 << 20
PIXELS = 64_000_000
ASPECT = 512

_ORIENTATION = 0x0112
_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")


class BrokenSample(DataError):
    """One sample that can't be read or decoded; its row stays, marked, where the user said to go on.

    Attributes:
        content: hex sha256 of the bytes that don't decode; empty where they were not read.
    """

    content = ""


def decode(data: bytes, *, name: str = "image") -> npt.NDArray[np.uint8]:
    """Decode an image file's bytes to RGB uint8 [H, W, 3] under the policy above.

    Args:
        data: the whole file.
        name: what messages call it: a sample id, never a machine's path.

    Raises:
        BrokenSample: too large, too elongated, in no accepted format, truncated or otherwise undecodable.
    """
    try:
        return _decoded(data, name)
    except BrokenSample as error:
        error.content = hashlib.sha256(data).hexdigest()
        raise


_jpeg: Callable[[bytes], npt.NDArray[np.uint8]] | None = None


@contextlib.contextmanager
def jpegs_by(decoder: Callable[[bytes], npt.NDArray[np.uint8]]) -> Iterator[None]:
    """Have another decoder make the pixels of colour JPEG files meanwhile, in all threads.

    Pillow still looks at each file first. What has no end marker, and what the decoder does not take, stays Pillow's.

    Args:
        decoder: of a whole file, RGB uint8 [H, W, 3], not turned.
    """
    global _jpeg
    before, _jpeg = _jpeg, decoder
    try:
        yield
    finally:
        _jpeg = before


def _elsewhere(image: Image.Image, data: bytes) -> Image.Image | None:
    """The pixels by ``jpegs_by``; None where this file is Pillow's to decode."""
    if _jpeg is None or image.format != "JPEG" or image.mode != "RGB" or not data.endswith(b"\xff\xd9"):
        return None
    try:
        pixels = _jpeg(data)
    except RuntimeError:  # as torch tells that it can't
        return None
    return _pillow().fromarray(pixels) if pixels.shape == (image.height, image.width, 3) else None


def _decoded(data: bytes, name: str) -> npt.NDArray[np.uint8]:
    if len(data) > FILE_BYTES:
        raise BrokenSample(f"{name} has {len(data)} bytes", f"an image file of at most {FILE_BYTES}")
    pillow = _pillow()
    try:
        with pillow.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image.size, name)
            rgb = _elsewhere(image, data)
            if rgb is None:
                # in here, so that a truncated file can't pass as a whole one; and before EXIF is asked for, which loads
                # a PNG, too, and would keep the error to itself
                image.load()
                rgb = _rgb(image, name)
            turn = _orientation(image)
        return np.array(_upright(rgb, turn), dtype=np.uint8)
    except (BrokenSample, MemoryError):
        raise
    except (pillow.DecompressionBombWarning, pillow.DecompressionBombError):
        raise _oversize(name, "far over 64 megapixels") from None
    except pillow.UnidentifiedImageError:
        raise BrokenSample(f"{name} is no image that can be read", "a JPEG, PNG, WebP, BMP or GIF file") from None
    except Exception as error:  # a decoder fed hostile bytes may raise anything
        raise BrokenSample(f"{name} can't be decoded ({_reason(error)})", "a whole, valid image file") from None


@functools.cache
def _pillow() -> ModuleType:
    """Pillow, imported on first use, with only the plugins that are wanted."""
    from PIL import Image, ImageFile

    for plugin in ("Bmp", "Gif", "Jpeg", "Png", "WebP"):
        importlib.import_module(f"PIL.{plugin}ImagePlugin")
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # another library may have set it; it paints what is missing grey
    # Once, and not around each decode: changing the filters is not safe among the decode threads.
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    # What Pillow merely warns of (a damaged EXIF block) is settled by the policy, not by the log.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    return Image


def _oversize(name: str, size: str) -> BrokenSample:
    return BrokenSample(f"{name} is {size}", f"at most {PIXELS // 10**6} megapixels and {ASPECT}:1", "scale it down")


def _check_size(size: tuple[int, int], name: str) -> None:
    """Before anything is decoded: a 20 KB file may unpack to hundreds of megabytes (reliability T4)."""
    width, height = size
    if width < 1 or height < 1:
        raise BrokenSample(f"{name} is {width} x {height} pixels", "at least one pixel")
    if width * height > PIXELS or max(size) > ASPECT * min(size):
        raise _oversize(name, f"{width} x {height} pixels")


def _rgb(image: Image.Image, name: str) -> Image.Image:
    """Any mode that the accepted formats have, as RGB."""
    mode = image.mode
    if mode == "F":
        raise BrokenSample(f"{name} has floating-point pixels", "8- or 16-bit ones")
    if mode.startswith("I"):
        values = np.asarray(image).astype(np.int64).clip(0, 65535)
        grey = ((values + 128) // 257).astype(np.uint8)
        clear = image.info.get("transparency")
        if isinstance(clear, int):
            grey[values == clear] = 255
        image = _pillow().fromarray(grey)
    if image.has_transparency_data:
        colour = image.convert("RGBA")
        white = _pillow().new("RGBA", colour.size, (255, 255, 255, 255))
        image = _pillow().alpha_composite(white, colour)
    return image if image.mode == "RGB" else image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none that can be read."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block says nothing about the picture
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    if orientation == 1:
        return image
    how = _pillow().Transpose
    # EXIF's codes 2 to 8, in order
    turns = (
        how.FLIP_LEFT_RIGHT,
        how.ROTATE_180,
        how.FLIP_TOP_BOTTOM,
        how.TRANSPOSE,
        how.ROTATE_270,
        how.TRANSVERSE,
        how.ROTATE_90,
    )
    return image.transpose(turns[orientation - 2])


def _reason(error: Exception) -> str:
    """The decoder's words, the same on every run: they are kept beside the row."""
    return _ADDRESS.sub("0x…", str(error))[:200] or type(error).__name__


def thumbnail(pixels: npt.NDArray[np.uint8], side: int) -> bytes:
    """RGB uint8 [H, W, 3] as an image file of at most ``side`` pixels a side: PNG where it was as small, else JPEG.

    Written anew from pixels: nothing of the file they came from is left in it. Never made larger.
    """
    pillow = _pillow()
    image = pillow.fromarray(pixels)
    small = max(image.size) <= side
    if not small:
        image.thumbnail((side, side), pillow.Resampling.BILINEAR)
    sink = io.BytesIO()
    if small:
        image.save(sink, format="PNG", optimize=True)
    else:
        image.save(sink, format="JPEG", quality=80)
    return sink.getvalue()
