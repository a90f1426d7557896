"""One file to pixels: Pillow's pixels, and nothing but BadImage for anything else."""

import io
import os
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from selftaught.data import decode as module
from selftaught.data.decode import as_channels, decode, decode_file, decode_with_notes
from selftaught.errors import BadImage
from tests.support.bad_files import (
    JPEG,
    MEASURED,
    PNG,
    animation,
    bomb,
    corrupted,
    encoded,
    photograph,
    png_of_sixteen_bit_colour,
)
from tests.support.photographs import photographs


def by_pillow(data: bytes, mode: str = "RGB") -> np.ndarray:
    return np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert(mode))


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def reason(data: bytes) -> str:
    with pytest.raises(BadImage) as caught:
        decode(data, "x.jpg")
    return caught.value.reason


JPEG_KINDS = [
    {},
    {"progressive": True},
    {"subsampling": 0},
    {"subsampling": 1},
    {"quality": 30},
    {"restart_marker_blocks": 4},
    {"keep_rgb": True},
    {"optimize": True},
]


@pytest.mark.parametrize("options", JPEG_KINDS)
@pytest.mark.parametrize("shape", [(40, 48), (1, 1), (37, 203)])
def test_jpeg_is_pillows_bit_for_bit(options, shape):
    data = encoded(photograph(0, *shape), "JPEG", **options)
    assert np.array_equal(decode(data, "x"), by_pillow(data))


def test_grey_and_cmyk_jpeg_are_pillows():
    grey = encoded(photograph(0, channels=1), "JPEG")
    assert np.array_equal(decode(grey, "x")[..., 0], by_pillow(grey, "L"))
    cmyk = encoded(Image.fromarray(photograph(0)).convert("CMYK"), "JPEG")
    assert np.array_equal(decode(cmyk, "x"), by_pillow(cmyk))


@pytest.mark.parametrize("options", JPEG_KINDS)
def test_a_cut_jpeg_is_refused_wherever_pillow_refuses_it(options):
    """At every length: half an image never goes in as half grey."""
    data = encoded(photograph(0, 24, 24), "JPEG", **options)
    for length in range(1, len(data)):
        with pytest.raises(OSError, match=r".+"):
            Image.open(io.BytesIO(data[:length]), formats=["JPEG"]).load()
        with pytest.raises(BadImage):
            decode(data[:length], "x")


def test_bytes_after_the_end_of_a_jpeg_do_no_harm():
    assert np.array_equal(decode(JPEG + bytes(100), "x"), decode(JPEG, "x"))


def test_a_damaged_jpeg_is_judged_by_pillow():
    """simplejpeg refuses it, Pillow loads it: the promise is Pillow's pixels."""
    data = corrupted(JPEG)
    assert np.array_equal(decode(data, "x"), by_pillow(data))
    assert not np.array_equal(decode(data, "x"), decode(JPEG, "x"))


@pytest.mark.parametrize(
    ("at_least", "part"), [(None, 1), (100, 1), (51, 1), (50, 2), (26, 2), (25, 4), (13, 8), (1, 8)]
)
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_large_jpeg_is_decoded_as_small_as_asked(at_least, part, orientation):
    """At the smallest of libjpeg's scales that leaves enough, sides rounded up, and upright."""
    data = encoded(photograph(3, 99, 135), "JPEG", exif=exif(orientation))
    height, width = -(-99 // part), -(-135 // part)
    expected = (width, height, 3) if orientation == 6 else (height, width, 3)
    assert decode(data, "x", at_least=at_least).shape == expected


@pytest.mark.parametrize("part", [2, 4, 8])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_decoded_smaller_is_the_same_picture(part, orientation):
    photo = photographs()[0][:400]
    data = encoded(photo, "JPEG", quality=95, exif=exif(orientation))
    found = decode(data, "x", at_least=400 // part)
    means = Image.fromarray(decode(data, "x")).reduce(part)
    assert np.abs(found.astype(int) - np.array(means)).mean() < 2
    assert found.flags.writeable and found.flags.c_contiguous


def test_what_is_no_jpeg_or_cmyk_is_decoded_at_its_size():
    cmyk = encoded(Image.fromarray(photograph(0)).convert("CMYK"), "JPEG")
    for data in (PNG, cmyk):
        assert np.array_equal(decode(data, "x", at_least=8), decode(data, "x"))
    grey = decode(encoded(photograph(0, channels=1), "JPEG"), "x", at_least=20)
    assert grey.shape == (20, 24, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_orientation_is_applied(kind, orientation):
    data = encoded(photograph(1), kind, exif=exif(orientation))
    found = decode(data, "x")
    assert np.array_equal(found, by_pillow(data))
    assert found.shape == ((40, 48, 3) if orientation < 5 else (48, 40, 3))


@pytest.mark.parametrize("orientation", [0, 9, 3000])
def test_an_orientation_that_does_not_exist_is_none(orientation):
    data = encoded(photograph(1), "JPEG", exif=exif(orientation))
    assert np.array_equal(decode(data, "x"), decode(encoded(photograph(1), "JPEG"), "x"))


def test_damaged_exif_does_not_cost_the_image():
    data = encoded(photograph(1), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    assert decode(data, "x").shape == (40, 48, 3)


def test_alpha_is_laid_over_white():
    pixels = np.zeros((1, 4, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = (200, 100, 1), (0, 51, 128, 255)
    found = decode(encoded(Image.fromarray(pixels, "RGBA"), "PNG"), "x")
    assert found[0].tolist() == [[255] * 3, [244, 224, 204], [227, 177, 128], [200, 100, 1]]


def test_grey_with_alpha_stays_grey():
    image = Image.new("LA", (2, 1))
    image.putdata([(10, 255), (10, 0)])
    assert decode(encoded(image, "PNG"), "x").tolist() == [[[10], [255]]]


def test_a_palette_is_colour_or_grey_and_its_hole_white():
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 7, 7, 7])
    image.putdata([0, 1, 2])
    found = decode(encoded(image, "PNG", transparency=1), "x")
    assert found.tolist() == [[[255, 0, 0], [255, 255, 255], [7, 7, 7]]]
    image.putpalette([9, 9, 9, 0, 0, 0, 7, 7, 7])
    assert decode(encoded(image, "PNG"), "x").tolist() == [[[9], [0], [7]]]


def test_a_transparent_colour_of_a_true_colour_image_is_white():
    image = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    found = decode(encoded(image, "PNG", transparency=(1, 2, 3)), "x")
    assert found.tolist() == [[[255, 255, 255], [4, 5, 6]]]


def test_bilevel_is_black_and_white():
    image = Image.new("1", (2, 1))
    image.putdata([0, 1])
    for kind in ("PNG", "TIFF", "PPM", "BMP"):
        assert decode(encoded(image, kind), "x").tolist() == [[[0], [255]]]


@pytest.mark.parametrize(("kind", "note"), [("GIF", "animated"), ("WEBP", "animated")])
def test_the_first_frame_is_used_and_it_is_said(kind, note):
    found = decode_with_notes(animation(kind), "x")
    assert found.notes == (note,)
    alone = encoded(photograph(8), kind)
    assert np.abs(found.pixels.astype(int) - decode(alone, "x")).mean() < 4  # lossy both
    assert decode_with_notes(alone, "x").notes == ()


def test_the_first_page_is_used_and_it_is_said():
    data = encoded(
        Image.fromarray(photograph(1)),
        "TIFF",
        save_all=True,
        append_images=[Image.fromarray(photograph(2))],
    )
    found = decode_with_notes(data, "x")
    assert found.notes == ("pages",)
    assert np.array_equal(found.pixels, photograph(1))


def test_sixteen_bits_stay_what_they_are():
    pixels = np.array([[0, 300, 40_000, 65_535]], np.uint16)
    for kind in ("PNG", "TIFF"):
        found = decode(encoded(pixels[..., None], kind), "x")
        assert found.dtype == np.uint16 and np.array_equal(found[..., 0], pixels)
    big_endian = b"P5 4 1 65535\n" + pixels.astype(">u2").tobytes()
    assert np.array_equal(decode(big_endian, "x")[..., 0], pixels)


def test_float_and_32_bits_stay_what_they_are():
    values = np.array([[-1.5, 0.0, 0.5, 1e6]], np.float32)
    found = decode(encoded(values[..., None], "TIFF"), "x")
    assert found.dtype == np.float32 and np.array_equal(found[..., 0], values)
    for pixels, dtype in (([[0, 65_535]], np.uint16), ([[-1, 5]], np.float32), ([[70_000]], "f4")):
        wide = np.array(pixels, np.int32)[..., None]
        found = decode(encoded(wide, "TIFF"), "x")
        assert found.dtype == dtype and np.array_equal(found, wide)


def test_sixteen_bit_colour_is_read_as_eight_and_it_is_said():
    found = decode_with_notes(png_of_sixteen_bit_colour([256, 40_000, 65_535]), "x")
    assert found.pixels.dtype == np.uint8 and found.pixels.ravel().tolist() == [1, 156, 255]
    assert found.notes == ("16 bits read as 8",)


def test_values_that_are_not_finite_are_refused():
    for value in (np.nan, np.inf):
        data = encoded(np.full((3, 3, 1), value, np.float32), "TIFF")
        assert reason(data) == "holds values that are not finite"


def test_pixels_can_be_written_to():
    """torch.from_numpy warns of others."""
    for data in (JPEG, PNG, encoded(photograph(1), "JPEG", exif=exif(6))):
        assert decode(data, "x").flags.writeable and decode(data, "x").flags.c_contiguous


@pytest.mark.parametrize(("name", "data", "expected"), MEASURED)
def test_the_measured_battery(name, data, expected):
    """What the set's type does to 16 bits and float is the check's matter."""
    if expected and "among" not in expected:
        assert reason(data()).startswith(expected)
    else:
        assert decode(data(), name).ndim == 3


def test_other_types_are_named():
    assert reason(b"8BPS" + bytes(99)) == "unsupported type (PSD)"
    assert reason(bytes(128) + b"DICM" + bytes(99)) == "unsupported type (DICOM)"
    assert reason(b"\0\0\0\x18ftypheic" + bytes(99)) == "unsupported type (HEIC)"
    lab = encoded(Image.new("LAB", (4, 4)), "TIFF")
    assert reason(lab) == "unsupported type (LAB)"


def test_pillows_limit_is_respected_and_its_globals_left_alone(monkeypatch):
    before = dict(vars(Image)), list(warnings.filters)
    decode(JPEG, "x")
    assert (dict(vars(Image)), list(warnings.filters)) == before
    for data in (JPEG, PNG, encoded(photograph(1), "GIF")):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 48)
        assert decode(data, "x").shape[:2] == (40, 48)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 48 - 1)
        assert reason(data).startswith("over the pixel limit")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        assert decode(data, "x").shape[:2] == (40, 48)


def test_threads_leave_the_warning_filters_in_order():
    before = list(warnings.filters)
    threads = [
        threading.Thread(target=lambda: [decode(PNG, "x") for _ in range(50)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


def test_a_bomb_takes_no_memory(tmp_path):
    """I5: less than 150 MB over the base, in a process of its own."""
    program = """
import resource, sys
from selftaught.data.decode import decode
from selftaught.errors import BadImage
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        data = file.read()
    try:
        decode(data, path)
    except BadImage as error:
        assert error.reason.startswith("over the pixel limit"), error
    else:
        raise SystemExit("decoded")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base)
"""
    paths = []
    for i, data in enumerate((bomb(13_000), bomb(20_000), *claims(60_000))):
        paths.append(tmp_path / str(i))
        paths[-1].write_bytes(data)
    run = [sys.executable, "-c", program, *paths]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 150_000  # kilobytes


def claims(side: int) -> list[bytes]:
    """A JPEG, a GIF and a BMP whose headers claim side x side pixels."""
    size = side.to_bytes(2, "big")
    frame = JPEG.index(b"\xff\xc0") + 5
    small = encoded(photograph(1), "BMP")
    return [
        JPEG[:frame] + size + size + JPEG[frame + 4 :],
        b"GIF89a" + 2 * side.to_bytes(2, "little") + encoded(photograph(1), "GIF")[10:],
        small[:18] + 2 * side.to_bytes(4, "little") + small[26:],
    ]


# ---- files


def test_a_file_is_decoded(tmp_path):
    (tmp_path / "a.jpg").write_bytes(JPEG)
    assert np.array_equal(decode_file(tmp_path / "a.jpg", "a.jpg"), decode(JPEG, "a"))


def test_no_pipe_device_or_folder_is_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe.jpg", tmp_path / "zero.jpg"):
        with pytest.raises(BadImage, match="not a regular file"):
            decode_file(path, "x")
    with pytest.raises(BadImage, match="an unreadable folder"):
        decode_file(tmp_path, "x")


def test_a_file_that_becomes_a_pipe_after_it_was_looked_at_is_not_waited_for(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(JPEG)

    def swap(name, flags):
        path.unlink()
        os.mkfifo(path)
        return open_now(name, flags)

    open_now = module._open_nonblocking
    monkeypatch.setattr(module, "_open_nonblocking", swap)
    with pytest.raises(BadImage, match="not a regular file"):
        decode_file(path, "x")


def test_missing_forbidden_and_huge_files(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    with pytest.raises(BadImage, match=r"a\.jpg: missing"):
        decode_file(path, "a.jpg")
    with path.open("wb") as file:
        file.truncate(2**30 + 1)  # sparse
    with pytest.raises(BadImage, match="larger than 1 GiB"):
        decode_file(path, "a.jpg")

    def refuse(name, flags):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module, "_open_nonblocking", refuse)
    with pytest.raises(BadImage, match=r"unreadable \(Permission denied\)"):
        decode_file(path, "a.jpg")


def test_errors_name_the_file_in_one_line():
    with pytest.raises(BadImage) as caught:
        decode(b"", "a\nb\udce9.jpg")
    assert str(caught.value) == "a\\nb\\udce9.jpg: empty"


def test_grey_is_repeated_where_others_have_colour():
    grey = photograph(1, channels=1)
    assert np.array_equal(as_channels(grey, 3), np.concatenate([grey] * 3, axis=2))
    assert as_channels(grey, 1) is grey


# ---- bytes that nobody would think of

_SEEDS = [data() for _, data, expected in MEASURED if "limit" not in expected]
_SEEDS += [encoded(photograph(1), kind) for kind in ("BMP", "PPM", "JPEG2000", "AVIF", "WEBP")]
_SEEDS += [encoded(photograph(1), "TIFF", compression=c) for c in ("tiff_lzw", "tiff_deflate")]
_SEEDS += [encoded(photograph(1), "JPEG", exif=exif(6)), animation("WEBP")]


@st.composite
def damaged(draw) -> bytes:
    """A file of some kind with bytes changed, put in, taken out or cut off."""
    data = bytearray(draw(st.sampled_from(_SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, min(len(data), 150))) if draw(st.booleans()) else len(data) // 2
        if draw(st.booleans()):
            data[at : at + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
        else:
            del data[at + draw(st.integers(0, len(data))) :]
    return bytes(data)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.one_of(damaged(), st.binary(max_size=200)))
def test_bytes_give_pixels_or_bad_image(data):
    """I4; the filters of pytest turn any warning into another error."""
    try:
        pixels = decode(data, "x")
    except BadImage as error:
        assert error.reason and "\n" not in str(error)
    else:
        assert pixels.ndim == 3 and pixels.shape[2] in (1, 3)
        assert pixels.dtype in (np.uint8, np.uint16, np.float32)
