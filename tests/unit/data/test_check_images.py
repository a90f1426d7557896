"""Every image looked at once: exactly the expected reasons, and figures that are right."""

import hashlib
import os
import shutil
import time

import numpy as np
import pyarrow as pa
import pytest

from selftaught.data import check_images as module
from selftaught.data.check_images import Checked, check_images, read_index, utf8_name, write_index
from selftaught.data.decode import decode
from selftaught.data.sources import Source, find_images
from selftaught.errors import DataError, FileError
from selftaught.foundation import files
from selftaught.foundation.machine import Machine
from tests.support.bad_files import (
    JPEG,
    ODD_NAMES,
    PNG,
    animation,
    encoded,
    photograph,
    write_bad,
    write_good,
)


def check_folder(folder, cache, **options) -> Checked:
    options = {"threads": 2, **options}
    machine = Machine(threads=options.pop("threads"), cache=cache)
    return check_images(find_images(str(folder)), machine, **options)


def of_arrays(array, cache, **options) -> Checked:
    names = tuple(f"{i:05d}" for i in range(len(array)))
    return check_images(
        Source("arrays", None, names, np.asarray(array)), machine=Machine(cache=cache), **options
    )


def put(folder, **images):
    """Files of these names, without suffix, holding arrays as PNG (float32 as TIFF)."""
    folder.mkdir(exist_ok=True)
    for name, image in images.items():
        kind = "TIFF" if image.dtype == np.float32 else "PNG"
        (folder / f"{name}.{kind.lower()}").write_bytes(encoded(image, kind))


# ---- which are usable


def test_the_bad_are_named_with_their_reasons_and_the_good_are_kept(tmp_path):
    """I1, for the check."""
    folder = tmp_path / "images"
    good, expected = write_good(folder), write_bad(folder)
    checked = check_folder(folder, tmp_path / "cache")
    rejected = {row["path"]: row["reason"] for row in checked.rejected.to_pylist()}
    bad = {utf8_name(name): reason for name, reason in expected.items() if reason}
    assert rejected.keys() == bad.keys() and len(bad) == 20
    assert {path: why for path, why in rejected.items() if not why.startswith(bad[path])} == {}
    names = sorted([*good, *(name for name, reason in expected.items() if not reason)])
    assert checked.images["path"].to_pylist() == [utf8_name(name) for name in names]
    assert [checked.source.names[i] for i in checked.index_N] == names
    assert checked.images["row"].to_pylist() == list(range(len(names))) and len(checked) == 216
    assert (checked.channels, checked.dtype) == (3, "uint8")


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    """By its reason, whoever runs this: root may read everything."""
    put(tmp_path / "d", a=photograph(0), b=photograph(1))
    read = module.read_image

    def refuse(path, name):
        if name == "a.png":
            raise module.BadImage(name, "unreadable (Permission denied)")
        return read(path, name)

    monkeypatch.setattr(module, "read_image", refuse)
    reason = "unreadable (Permission denied)"
    expected = [{"path": "a.png", "reason": reason}]
    assert check_folder(tmp_path / "d", tmp_path / "c").rejected.to_pylist() == expected
    monkeypatch.undo()  # a permission that is given changes neither size nor time
    assert len(check_folder(tmp_path / "d", tmp_path / "c")) == 2


def test_a_list_that_names_links_and_missing_files(tmp_path):
    """The twelfth of S3: a link out of the folder."""
    put(tmp_path / "d", a=photograph(0))
    put(tmp_path / "outside", b=photograph(1))
    (tmp_path / "d/link").symlink_to("../outside")
    (tmp_path / "d/list.txt").write_text("a.png\nlink/b.png\nmissing.png\n")
    checked = check_folder(tmp_path / "d/list.txt", tmp_path / "c")
    assert checked.images["path"].to_pylist() == ["a.png"]
    assert [row["reason"] for row in checked.rejected.to_pylist()] == [
        "a link that leads out of the folder",
        "missing",
    ]


@pytest.mark.parametrize("number", [1, 3, 7])
def test_nothing_usable(number, tmp_path):
    """I2, for the check."""
    (tmp_path / "d").mkdir()
    for i in range(number):
        (tmp_path / f"d/{i}.jpg").write_bytes(b"text")
    with pytest.raises(DataError, match=rf"none of the {number} images of .*0\.jpg: not an image"):
        check_folder(tmp_path / "d", tmp_path / "c")


def test_min_side(tmp_path):
    put(tmp_path / "d", small=photograph(0, 9, 30), large=photograph(1, 10, 10))
    checked = check_folder(tmp_path / "d", tmp_path / "c", min_side=10)
    assert checked.rejected.to_pylist() == [
        {"path": "small.png", "reason": "smaller than 10 pixels"}
    ]
    assert len(check_folder(tmp_path / "d", tmp_path / "c", min_side=9)) == 2
    with pytest.raises(DataError, match="smaller than 50 pixels"):
        check_folder(tmp_path / "d", tmp_path / "c", min_side=50)


# ---- what is said of them


def test_the_table_and_the_notes(tmp_path):
    folder = tmp_path / "d"
    put(folder, a=photograph(0), b=photograph(0), c=np.full((9, 9, 3), 7, np.uint8))
    put(folder, e=photograph(3, 4, 30))
    (folder / "d.gif").write_bytes(animation("GIF"))
    (folder / "f.png").write_bytes((folder / "c.png").read_bytes())
    checked = check_folder(folder, tmp_path / "c")
    table = checked.images.to_pylist()
    assert [row["note"] for row in table] == [
        "",
        "copy of a.png",
        "constant",
        "animated",
        "tiny",
        "constant, copy of c.png",
    ]
    sizes = [(row["width"], row["height"], row["channels"], row["dtype"]) for row in table]
    assert sizes[4] == (30, 4, 3, "uint8") and sizes[0] == (48, 40, 3, "uint8")
    assert table[0]["sha256"] == hashlib.sha256((folder / "a.png").read_bytes()).hexdigest()
    assert [note.split(" of ")[0] for note in checked.notes] == ["2", "2", "1", "1"]
    assert checked.notes[0].endswith("for example b.png.")


def test_a_set_without_oddities_has_no_notes(tmp_path):
    write_good(tmp_path / "d", 10)
    assert check_folder(tmp_path / "d", tmp_path / "c").notes == ()


def test_odd_names_reach_the_tables_and_back(tmp_path):
    for i, name in enumerate(ODD_NAMES):
        (tmp_path / "d").mkdir(exist_ok=True)
        (tmp_path / "d" / name).write_bytes(encoded(photograph(i), "PNG"))
    checked = check_folder(tmp_path / "d", tmp_path / "c")
    (tmp_path / "run").mkdir()
    write_index(checked, tmp_path / "run")
    paths = read_index(tmp_path / "run")["path"].to_pylist()
    assert paths == [utf8_name(name) for name in sorted(ODD_NAMES)]
    assert "caf\\xe9.png" in paths and "line\nbreak.png" in paths
    for i in checked.index_N:
        assert os.path.exists(checked.source.root / checked.source.names[i])
    assert len(check_folder(tmp_path / "d", tmp_path / "c")) == len(ODD_NAMES)  # from the cache


def test_grey_stays_one_channel_where_all_are_grey(tmp_path):
    write_good(tmp_path / "grey", 6, channels=1)
    checked = check_folder(tmp_path / "grey", tmp_path / "c")
    assert checked.channels == 1 and len(checked.intensity.mean) == 1
    put(tmp_path / "grey", colour=photograph(99))
    checked = check_folder(tmp_path / "grey", tmp_path / "c")
    assert checked.channels == 3 and len(checked.intensity.mean) == 3
    assert "6 of the images are grey and are repeated in 3 channels." in checked.notes


# ---- intensity


@pytest.mark.parametrize("threads", [1, 3])
def test_mean_and_std_of_8_bits_are_exact(threads, tmp_path):
    folder = tmp_path / "d"
    write_good(folder, 20)
    put(folder, odd=photograph(77, 13, 17), grey=photograph(78, 8, 9, 1))
    checked = check_folder(folder, tmp_path / "c", threads=threads)
    pixels = [decode((folder / n).read_bytes(), n) for n in checked.source.names]
    flat = np.concatenate([np.broadcast_to(p, (*p.shape[:2], 3)).reshape(-1, 3) for p in pixels])
    flat = flat.astype(np.float64) / 255
    np.testing.assert_allclose(checked.intensity.mean, flat.mean(0), rtol=1e-12)
    np.testing.assert_allclose(checked.intensity.std, flat.std(0), rtol=1e-9)
    assert (checked.intensity.low, checked.intensity.high) == (0, 255)


@pytest.mark.parametrize("channels", [1, 2, 3, 7])
def test_mean_and_std_of_arrays_are_exact(channels, tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (600, 5, 6, channels), np.uint8)
    checked = of_arrays(array, tmp_path)
    scaled = array.reshape(-1, channels) / 255
    np.testing.assert_allclose(checked.intensity.mean, scaled.mean(0), rtol=1e-12)
    np.testing.assert_allclose(checked.intensity.std, scaled.std(0), rtol=1e-9)
    assert checked.channels == channels and len(checked) == 600
    assert checked.images["sha256"][5].as_py() == hashlib.sha256(array[5].tobytes()).hexdigest()


def test_a_set_without_contrast_does_not_divide_by_nothing(tmp_path):
    checked = of_arrays(np.full((4, 8, 8, 1), 9, np.uint8), tmp_path)
    assert checked.intensity.std == (1 / 255,)


def sixteen(low, high, number=40, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(low, high + 1, (number, 32, 32, 1)).astype(np.uint16)


def test_sixteen_bits_get_the_percentiles_as_range(tmp_path):
    array = sixteen(200, 4000)
    array[0, 0, 0], array[1, 1, 1] = 65_535, 0  # two dead pixels do not make it dark
    put(tmp_path / "d", **{f"i{i:02d}": image for i, image in enumerate(array)})
    checked = check_folder(tmp_path / "d", tmp_path / "c")
    low, high = np.percentile(array, [0.1, 99.9])
    assert abs(checked.intensity.low - low) < 5 and abs(checked.intensity.high - high) < 5
    scaled = np.clip((array - low) / (high - low), 0, 1)
    assert abs(checked.intensity.mean[0] - scaled.mean()) < 0.005
    assert abs(checked.intensity.std[0] - scaled.std()) < 0.005
    assert checked.dtype == "uint16" and len(checked.notes) == 1
    assert "The images range from 0 to 65535; about 0.15%" in checked.notes[0]


def test_few_large_images_are_sampled_evenly(tmp_path):
    """4,096 pixels of 250,000, in an image of stripes that a regular grid would miss."""
    stripes = np.zeros((2, 500, 512, 1), np.uint16)
    stripes[:, :, ::2], stripes[1] = 1000, stripes[1] + 7
    checked = of_arrays(stripes, tmp_path)
    scaled = np.clip(stripes / 1007, 0, 1)
    assert abs(checked.intensity.mean[0] - scaled.mean()) < 0.01


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (sixteen(0, 65_535), (0, 65_535)),
        (sixteen(3000, 60_000), (0, 65_535)),
        (sixteen(0, 255), None),
        (sixteen(40_000, 65_535), None),
        ((sixteen(0, 1000) / 1000).astype(np.float32), (0, 1)),
        ((sixteen(0, 1000) / 1001 + 0.1).astype(np.float32), None),
        ((sixteen(0, 1000) - 500.0).astype(np.float32), None),
    ],
)
def test_the_types_range_where_the_images_fill_it(array, expected, tmp_path):
    found = of_arrays(array, tmp_path).intensity
    low, high = expected or np.percentile(array, [0.1, 99.9])
    assert abs(found.low - low) < 1e-2 * (high - low) and abs(found.high - high) < 1e-2 * (
        high - low
    )


def test_a_set_of_one_16_bit_value(tmp_path):
    found = of_arrays(np.full((3, 4, 4, 1), 500, np.uint16), tmp_path).intensity
    assert (found.low, found.high) == (500, 501)


def test_types_that_have_no_common_range(tmp_path):
    wide = sixteen(0, 4000, 3)
    put(tmp_path / "d", a=wide[0], b=wide[1], c=photograph(0, channels=1))
    checked = check_folder(tmp_path / "d", tmp_path / "c")
    assert checked.rejected.to_pylist() == [
        {"path": "c.png", "reason": "8 bits among images of more"}
    ]
    put(tmp_path / "d", x=wide[2].astype(np.float32))
    checked = check_folder(tmp_path / "d", tmp_path / "c")
    assert checked.dtype == "float32" and len(checked) == 3  # 16 bits are exact in it
    put(tmp_path / "d", e=photograph(1), f=photograph(2))
    checked = check_folder(tmp_path / "d", tmp_path / "c")
    assert checked.dtype == "uint8" and len(checked) == 3
    assert {row["reason"] for row in checked.rejected.to_pylist()} == {
        "16 bits or float among 8-bit images"
    }


def test_array_images_that_are_not_finite_are_left_out(tmp_path):
    array = np.random.default_rng(0).random((5, 4, 4, 2), np.float32)
    array[2, 0, 0, 1], array[3, 1, 1, 0] = np.nan, np.inf
    checked = of_arrays(array, tmp_path)
    assert checked.index_N.tolist() == [0, 1, 4]
    assert {row["reason"] for row in checked.rejected.to_pylist()} == {
        "holds values that are not finite"
    }


# ---- the cache


def counted(monkeypatch) -> list[str]:
    """The names of files that are decoded from now on."""
    names, decode_with_notes = [], module.decode_with_notes

    def count(data, name):
        names.append(name)
        return decode_with_notes(data, name)

    monkeypatch.setattr(module, "decode_with_notes", count)
    return names


def same(a: Checked, b: Checked) -> bool:
    return (a.images, a.rejected, a.intensity, a.notes, a.content) == (
        *(b.images, b.rejected, b.intensity, b.notes, b.content),
    )


def test_a_second_check_decodes_what_has_changed(tmp_path, monkeypatch):
    folder, cache = tmp_path / "d", tmp_path / "c"
    write_good(folder, 20)
    (folder / "bad.jpg").write_bytes(JPEG[:-1])
    put(folder, extra=sixteen(0, 9)[0])
    first = check_folder(folder, cache)
    names = counted(monkeypatch)
    assert same(check_folder(folder, cache, threads=1), first) and names == []
    (folder / "bad.jpg").write_bytes(JPEG)
    (folder / "new.png").write_bytes(PNG)
    second = check_folder(folder, cache)
    assert sorted(names) == ["bad.jpg", "new.png"] and len(second) == len(first) + 2
    assert second.content != first.content
    target = folder / "good/0/000.JPG"
    os.utime(target, ns=(0, target.stat().st_mtime_ns + 1))
    check_folder(folder, cache)
    assert names[2:] == ["good/0/000.JPG"]


def test_16_bit_figures_come_back_from_the_cache(tmp_path):
    put(tmp_path / "d", **{f"i{i}": image for i, image in enumerate(sixteen(200, 4000, 5))})
    put(tmp_path / "d", f=(sixteen(0, 9, 1)[0] / 7).astype(np.float32))
    first = check_folder(tmp_path / "d", tmp_path / "c")
    assert same(check_folder(tmp_path / "d", tmp_path / "c"), first)


def test_a_cache_that_is_damaged_or_made_by_others_is_ignored(tmp_path, monkeypatch):
    folder, cache = tmp_path / "d", tmp_path / "c"
    write_good(folder, 4)
    first = check_folder(folder, cache)
    (table,) = (cache / "checks").iterdir()
    names = counted(monkeypatch)
    whole = table.read_bytes()
    for damage in (whole[: len(whole) // 2], b"", whole[:500] + bytes(50) + whole[550:]):
        table.write_bytes(damage)
        assert same(check_folder(folder, cache), first)
    assert len(names) == 12
    files.write_table(table, files.read_table(table).replace_schema_metadata({"made by": "0"}))
    assert same(check_folder(folder, cache), first) and len(names) == 16
    shutil.rmtree(cache)
    assert same(check_folder(folder, cache), first)


def test_a_cache_that_cannot_be_written_to_is_not_needed(tmp_path):
    write_good(tmp_path / "d", 4)
    (tmp_path / "file").write_text("in the way")
    assert len(check_folder(tmp_path / "d", tmp_path / "file")) == 4


def test_an_interrupted_check_goes_on_where_it_was(tmp_path, monkeypatch):
    folder, cache = tmp_path / "d", tmp_path / "c"
    write_good(folder, 100)
    look_at, count = module._check_file, []

    def interrupt(*arguments):
        count.append(1)
        if len(count) > 70:
            raise KeyboardInterrupt
        return look_at(*arguments)

    monkeypatch.setattr(module, "_check_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        check_folder(folder, cache, threads=1)
    monkeypatch.undo()
    names = counted(monkeypatch)
    assert len(check_folder(folder, cache)) == 100
    assert len(names) == 100 - 2 * module._CHUNK


def test_nothing_depends_on_the_number_of_threads(tmp_path):
    write_good(tmp_path / "d", 70)
    write_bad(tmp_path / "d/bad")
    runs = [
        check_folder(tmp_path / "d", tmp_path / f"c{threads}", threads=threads)
        for threads in (1, 2, 5)
    ]
    assert same(runs[0], runs[1]) and same(runs[0], runs[2])


def test_content_is_the_bytes_in_order(tmp_path):
    a = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1), np.uint8)
    one, other = of_arrays(a, tmp_path), of_arrays(a.copy(), tmp_path)
    assert one.content == other.content
    assert one.content != of_arrays(a[::-1], tmp_path).content
    assert one.content != of_arrays(a.reshape(3, 2, 8, 1), tmp_path).content


def test_a_thousand_files_take_seconds(tmp_path):
    """At 100 KB each; the bound leaves room for a busy machine."""
    jpeg = encoded(photograph(0, 400, 520), "JPEG", quality=95)
    (tmp_path / "d").mkdir()
    for i in range(300):
        (tmp_path / f"d/{i}.jpg").write_bytes(jpeg + i.to_bytes(2, "big"))
    start = time.perf_counter()
    assert len(check_folder(tmp_path / "d", tmp_path / "c")) == 300
    assert time.perf_counter() - start < 10


# ---- the tables of a run


def test_the_tables_of_a_run(tmp_path):
    write_good(tmp_path / "d", 4)
    (tmp_path / "d/bad.jpg").write_bytes(b"")
    checked = check_folder(tmp_path / "d", tmp_path / "c")
    write_index(checked, tmp_path)
    assert read_index(tmp_path) == checked.images
    assert files.read_table(tmp_path / "rejected.parquet") == checked.rejected
    files.write_table(tmp_path / "images.parquet", pa.table({"row": [1]}))
    with pytest.raises(FileError, match="has no column channels"):
        read_index(tmp_path)
