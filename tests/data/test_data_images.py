"""The decoder: what the policy says of every mode, and what it refuses. References are worked out from pixels."""

from __future__ import annotations

import io
import random
import resource
import struct
import subprocess
import sys
import textwrap
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from nmtool.data.images import FILE_BYTES, BrokenSample, decode
from nmtool.errors import DataError


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG file written by hand, independent of Pillow. ``rows`` are filtered scan lines."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + extra
        + chunk(b"IDAT", zlib.compress(rows, 9))
        + chunk(b"IEND", b"")
    )


def bomb(width: int, height: int) -> bytes:
    """A 1-bit PNG of that size, all black: some KB on disk."""
    return png(width, height, 1, 0, bytes((1 + (width + 7) // 8) * height))


def test_rgb_is_left_as_it_is(tools: Any) -> None:
    image = tools.picture(1)
    got = decode(tools.encoded(image))
    assert got.dtype == np.uint8
    assert got.shape == (9, 12, 3)
    assert got.flags.writeable
    assert np.array_equal(got, np.asarray(image))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "GIF", "JPEG"])
def test_every_format_is_read(tools: Any, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    flat = Image.new("RGB", (16, 8), (200, 40, 90))
    got = decode(tools.encoded(flat, kind, **options))
    assert got.shape == (8, 16, 3)
    assert np.abs(got.astype(int) - (200, 40, 90)).max() <= 3


def test_grey_and_one_bit_fill_three_channels(tools: Any) -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    assert np.array_equal(decode(tools.encoded(Image.fromarray(grey))), np.repeat(grey[..., None], 3, axis=2))
    bits = Image.fromarray(grey > 100)
    assert bits.mode == "1"
    assert np.array_equal(decode(tools.encoded(bits))[..., 0], np.where(grey > 100, 255, 0))


def test_alpha_is_composited_on_white(tools: Any) -> None:
    pixels = np.array([[[10, 20, 30, 0], [10, 20, 30, 255], [100, 0, 200, 128]]], dtype=np.uint8)
    alpha = pixels[..., 3:] / 255
    expected = pixels[..., :3] * alpha + 255 * (1 - alpha)
    for kind in ("PNG", "WEBP"):
        got = decode(tools.encoded(Image.fromarray(pixels), kind, **({"lossless": True} if kind == "WEBP" else {})))
        assert np.abs(got - expected).max() <= 1
    grey = Image.fromarray(pixels[..., [0, 3]], "LA")
    got = decode(tools.encoded(grey))
    assert np.abs(got - (pixels[..., :1] * alpha + 255 * (1 - alpha))).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_transparent_palette_entries_become_white(tools: Any, kind: str) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    got = decode(tools.encoded(image, kind, transparency=0))
    assert got.tolist() == [[[255, 255, 255], [0, 0, 255]]]
    assert decode(tools.encoded(image, kind)).tolist() == [[[255, 0, 0], [0, 0, 255]]]


def test_colour_keys_become_white(tools: Any) -> None:
    rgb = Image.fromarray(np.array([[[1, 2, 3], [9, 9, 9]]], dtype=np.uint8))
    assert decode(tools.encoded(rgb, transparency=(1, 2, 3))).tolist() == [[[255] * 3, [9] * 3]]
    grey = Image.fromarray(np.array([[7, 8]], dtype=np.uint8))
    assert decode(tools.encoded(grey, transparency=7)).tolist() == [[[255] * 3, [8] * 3]]


def test_16_bit_grey_is_scaled_and_not_clipped() -> None:
    values = [0, 128, 129, 257, 1000, 32768, 65406, 65407, 65535]
    rows = b"\0" + struct.pack(f">{len(values)}H", *values)
    got = decode(png(len(values), 1, 16, 0, rows))
    assert got[0, :, 0].tolist() == [round(value / 257) for value in values]
    assert np.array_equal(got[..., 0], got[..., 2])


def test_16_bit_grey_with_a_colour_key() -> None:
    body = struct.pack(">H", 1000)
    key = struct.pack(">I", 2) + b"tRNS" + body + struct.pack(">I", zlib.crc32(b"tRNS" + body))
    got = decode(png(2, 1, 16, 0, b"\0" + struct.pack(">2H", 1000, 514), extra=key))
    assert got[0, :, 0].tolist() == [255, 2]


def test_16_bit_colour_gives_its_high_bytes() -> None:
    rows = b"\0" + struct.pack(">6H", 0x1234, 0xFF00, 0x00FF, 0x8000, 0x7FFF, 0xFFFF)
    assert decode(png(2, 1, 16, 2, rows)).tolist() == [[[0x12, 0xFF, 0x00], [0x80, 0x7F, 0xFF]]]


def test_cmyk_jpeg(tools: Any) -> None:
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # magenta and yellow: red
    got = decode(tools.encoded(ink, "JPEG", quality=95))
    assert np.abs(got.astype(int) - (255, 0, 0)).max() <= 6
    assert decode(tools.encoded(Image.new("CMYK", (16, 16), (0, 0, 0, 255)), "JPEG")).max() <= 3


# What EXIF says of each orientation: where the stored picture's first row and column are when upright.
_UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_exif_orientation_is_applied(tools: Any, orientation: int, kind: str) -> None:
    image = tools.picture(5)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    got = decode(tools.encoded(image, kind, exif=exif.tobytes(), **options))
    assert np.array_equal(got, _UPRIGHT[orientation](np.asarray(image)))


def test_exif_rotated_jpeg(tools: Any) -> None:
    left_white = np.zeros((16, 32, 3), dtype=np.uint8)
    left_white[:, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate clockwise to see it upright
    got = decode(tools.encoded(Image.fromarray(left_white), "JPEG", exif=exif.tobytes()))
    assert got.shape == (32, 16, 3)
    assert got[:14].min() > 240
    assert got[18:].max() < 15


@pytest.mark.filterwarnings("ignore")  # as in production, where Pillow's words about EXIF change nothing
@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0garbage", b"Exif\0\0"])
def test_a_damaged_exif_block_does_not_break_the_picture(tools: Any, exif: bytes) -> None:
    assert decode(tools.encoded(Image.new("RGB", (8, 8), "red"), "JPEG", exif=exif)).shape == (8, 8, 3)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_out_of_range_is_none(tools: Any, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = tools.picture(5)
    assert np.array_equal(decode(tools.encoded(image, exif=exif.tobytes())), np.asarray(image))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame(tools: Any, kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    data = tools.encoded(
        frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
    )
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == 3
    assert np.array_equal(decode(data), np.asarray(frames[0]))


def test_one_pixel(tools: Any) -> None:
    assert decode(tools.encoded(Image.new("RGB", (1, 1), (1, 2, 3)))).tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.3, 0.7])
def test_a_truncated_file_is_broken(tools: Any, kind: str, kept: float) -> None:
    data = tools.encoded(tools.picture(3, (120, 90)), kind)
    with pytest.raises(BrokenSample, match="cats/1"):
        decode(data[: int(len(data) * kept)], name="cats/1")


def test_a_png_whose_pixels_are_damaged_is_broken() -> None:
    """The stream of pixels alone: what comes before and after it, and the file's length, are as they were."""
    whole = png(40, 40, 8, 2, b"".join(b"\0" + bytes((x * y) % 251 for x in range(120)) for y in range(40)))
    assert decode(whole).shape == (40, 40, 3)
    body = bytearray(whole)
    middle = (body.index(b"IDAT") + body.index(b"IEND")) // 2
    body[middle : middle + 8] = bytes(b ^ 0xFF for b in body[middle : middle + 8])
    with pytest.raises(BrokenSample):
        decode(bytes(body))


def test_a_truncated_jpeg_is_broken_even_where_another_library_made_pillow_lenient(tools: Any) -> None:
    data = tools.encoded(tools.picture(3, (120, 90)), "JPEG")
    code = textwrap.dedent("""
        import sys
        from PIL import ImageFile
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        from nmtool.data.images import BrokenSample, decode
        try:
            decode(sys.stdin.buffer.read())
        except BrokenSample:
            sys.exit(42)
    """)
    assert subprocess.run([sys.executable, "-c", code], input=data[: len(data) // 2]).returncode == 42
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_a_small_file_of_170_megapixels_is_refused_before_it_is_decoded() -> None:
    data = bomb(13_000, 13_000)
    assert len(data) < 30_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BrokenSample, match="64 megapixels"):
        decode(data)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # in KB
    assert grown < 20_000  # the bits alone would take 21 MB, as RGB 500 MB


@pytest.mark.filterwarnings("ignore")  # the size check alone has to hold
@pytest.mark.parametrize(("width", "height"), [(13_000, 13_000), (8_001, 8_000), (20_000, 20_000), (1 << 30, 1)])
def test_too_many_pixels(width: int, height: int) -> None:
    with pytest.raises(BrokenSample, match="megapixels"):
        decode(png(width, height, 1, 0, b""))


@pytest.mark.parametrize(("width", "height"), [(1026, 2), (1, 513), (100_000, 100)])
def test_too_elongated(width: int, height: int) -> None:
    with pytest.raises(BrokenSample, match="512:1"):
        decode(bomb(width, height))


def test_512_to_1_is_still_read() -> None:
    assert decode(bomb(512, 1)).shape == (1, 512, 3)


def test_too_many_bytes() -> None:
    with pytest.raises(BrokenSample, match=str(FILE_BYTES)):
        decode(bytes(FILE_BYTES + 1))


@pytest.mark.parametrize(
    "data",
    [
        b"SIMPLE  =                    T / FITS".ljust(2880),
        b"%PDF-1.7\n",
        b"\0\0\0\x0cjP  \r\n\x87\n",
        b"II*\0\x08\0\0\0",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\x80\x04\x95",
        b"",
    ],
    ids=["fits", "pdf", "jpeg2000", "tiff", "svg", "pickle", "empty"],
)
def test_other_formats_are_refused_whatever_they_are_called(data: bytes) -> None:
    with pytest.raises(BrokenSample) as caught:
        decode(data, name="cats/a.jpg")
    assert isinstance(caught.value, DataError)
    assert caught.value.exit_code == 65
    assert "0x" not in str(caught.value)  # no address: the message is kept beside the row


def test_tiff_is_refused(tools: Any) -> None:
    with pytest.raises(BrokenSample, match="JPEG, PNG, WebP, BMP or GIF"):
        decode(tools.encoded(tools.picture(1), "TIFF"))


def test_messages_are_the_same_every_time(tools: Any) -> None:
    data = tools.encoded(tools.picture(3, (60, 60)), "JPEG")[:-400]
    said = set()
    for _ in range(3):
        with pytest.raises(BrokenSample) as caught:
            decode(bytes(data))
        said.add(str(caught.value))
    assert len(said) == 1


def test_threads_decode_the_same_as_one(tools: Any) -> None:
    files = [tools.encoded(tools.picture(k, (40, 30)), kind) for k in range(12) for kind in ("PNG", "JPEG", "GIF")]
    one = [decode(data) for data in files]
    with ThreadPoolExecutor(8) as pool:
        many = list(pool.map(decode, files * 3))
    assert all(np.array_equal(a, b) for a, b in zip(one * 3, many, strict=True))


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "BMP"]))
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_give_an_image_or_a_broken_sample(seed: int, kind: str) -> None:
    stream = io.BytesIO()
    Image.effect_noise((24, 16), 60).convert("RGB").save(stream, kind)
    data = bytearray(stream.getvalue())
    rng = random.Random(seed)
    for _ in range(rng.randint(1, 6)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    try:
        got = decode(bytes(data))
    except BrokenSample:
        return
    assert got.dtype == np.uint8
    assert got.shape[2] == 3


def test_thumbnails_are_written_anew() -> None:
    from nmtool.data.images import thumbnail

    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    assert thumbnail(small, 32).startswith(b"\x89PNG")
    assert np.array_equal(decode(thumbnail(small, 32)), small)  # as it was, never made larger
    large = decode(thumbnail(np.full((300, 600, 3), 90, dtype=np.uint8), 96))
    assert large.shape == (48, 96, 3)
    assert np.abs(large.astype(int) - 90).max() <= 3
    assert thumbnail(np.zeros((1, 500, 3), dtype=np.uint8), 96).startswith(b"\xff\xd8\xff")
