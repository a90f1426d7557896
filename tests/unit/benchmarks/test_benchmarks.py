"""What the scripts of benchmarks/ do before they measure: cells, rivals, pages."""

import importlib
import json
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import augmentations, clusters, deepcluster_cifar10, memory, rivals, step, views
from selftaught.data.open_images import open_images
from selftaught.foundation.machine import Machine
from selftaught.recipe.view_settings import view_policy
from selftaught.views.policy import (
    Blur,
    CenterCrop,
    Cutout,
    Gray,
    Intensity,
    Jitter,
    Policy,
    RandomCrop,
    Sobel,
    check_channels,
    simclr_imagenet,
)
from tests.support.photographs import photograph
from tests.support.sets import array_set

SCRIPTS = sorted(
    path.stem
    for path in (Path(__file__).parents[3] / "benchmarks").glob("*.py")
    if path.stem != "__init__"
)


def row(work: str, rival: str, ours: float, theirs: float) -> views.Row:
    spread = {"repeats": 1, "ratio": (ours / theirs,) * 2}
    return views.Row(work, "selftaught", rival, ours, theirs, "images/s", 2.0, spread, {}, "here")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_imported_without_measuring_anything(name):
    module = importlib.import_module(f"benchmarks.{name}")
    assert name == "measure" or name == "rivals" or callable(module.main)


@pytest.mark.parametrize("script", [views, step, memory, augmentations])
def test_a_script_needs_nothing_but_its_data(script):
    assert script.parser().parse_args(["--data", "somewhere"]).data == Path("somewhere")


# --- augmentations


def test_the_study_has_28_pairs_and_three_seeds_on_the_diagonal():
    cells = list(augmentations.cells())
    assert len(set(cells)) == len(cells) == 28 + 2 * 7 + 3
    pairs = {frozenset((cell.first, cell.second)) for cell in cells[:28]}
    assert len(pairs) == 28 and {cell.seed for cell in cells[:28]} == {0}


def test_a_cell_does_its_operations_and_no_others():
    cropped = augmentations.policy("crop and resize", "colour")
    assert isinstance(cropped.box, RandomCrop)
    assert [type(o) for o in cropped.operations] == [Jitter, Gray]
    assert augmentations.policy("cutout", "Sobel").operations == (Sobel(p=1.0), Cutout(p=1.0))
    alone = augmentations.policy("blur", "blur")
    assert (alone.box, alone.operations) == (CenterCrop(), (Blur(p=1.0),))


def test_the_matrix_is_symmetric_and_its_diagonal_is_a_mean():
    Cell = augmentations.Cell
    accuracy = {Cell("noise", "noise", seed): value for seed, value in enumerate((0.2, 0.3, 0.7))}
    found = augmentations.matrix(accuracy | {Cell("cutout", "blur"): 0.5})
    names = list(augmentations.OPERATIONS)
    noise, cutout, blur = map(names.index, ("noise", "cutout", "blur"))
    assert found[noise, noise] == pytest.approx(40)
    assert found[cutout, blur] == found[blur, cutout] == 50
    assert np.isnan(found).sum() == 49 - 3


def test_the_page_of_the_study_says_what_is_missing_and_how_far_seeds_lie_apart(tmp_path):
    Cell = augmentations.Cell
    accuracy = {Cell("noise", "noise", seed): value for seed, value in enumerate((0.2, 0.3, 0.7))}
    accuracy |= {Cell(augmentations.RANDOM, augmentations.RANDOM): 0.31}
    page = augmentations.page(accuracy, 500)
    assert "| noise |  |  |  |  | 40.0 |  |  |" in page
    assert "at most 50.0 apart" in page and "No training: 31.0." in page and "500 steps" in page
    augmentations.heat_map(augmentations.matrix(accuracy), tmp_path / "map.svg")
    assert "crop and resize" in _text_of(tmp_path / "map.svg")


# --- views


def test_ours_has_the_median_of_its_rates_and_the_plot_names_every_library(tmp_path):
    rows = [row("a", "slow", 100, 10), row("a", "fast", 300, 50), row("b", "slow", 7, 1)]
    assert views.rates(rows) == {
        "a": {"selftaught": 200, "slow": 10, "fast": 50},
        "b": {"selftaught": 7, "slow": 1},
    }
    views.plot(rows, tmp_path / "plot.svg")
    text = _text_of(tmp_path / "plot.svg")
    assert "fast" in text and "200" in text


def _text_of(svg: Path) -> str:
    """What matplotlib writes beside the outlines of a text: the text, in a comment."""
    return "\n".join(line for line in svg.read_text().splitlines() if "<!--" in line)


@pytest.mark.parametrize("asked", [1, 40, 64, 1000])
def test_ours_makes_about_as_many_images_as_are_asked_for(asked, tmp_path, monkeypatch):
    """Whole batches, over the end of epochs, and none that nobody takes."""
    images, read = array_set(tmp_path, 100), []
    of_store = images.store.read
    monkeypatch.setattr(images.store, "read", lambda rows: read.append(len(rows)) or of_store(rows))
    slow = Policy(CenterCrop(), (Sobel(),))  # but nothing is compiled for it
    monkeypatch.setattr(views.Case, "policy", slow)
    ours = views.Ours(views.Case(32, "arrays", images, [], batch=32, cores=1))
    ours(asked)
    assert sum(read) == max(1, round(asked / 32)) * 32


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")  # of torchvision
@pytest.mark.parametrize("form", ["array", "file"])
def test_every_library_makes_the_view_that_ours_makes(form, tmp_path):
    """Where nothing is drawn: the same image, range, mean and std, up to rounding to 8 bits."""
    whole = Policy(RandomCrop((1.0, 1.0), (1.0, 1.0)))
    image = photograph(np.random.default_rng(0), 32, 32)
    picture = image
    if form == "file":
        from PIL import Image

        picture = tmp_path / "image.png"
        Image.fromarray(image).save(picture)
    mean, std = torch.tensor(Intensity().mean), torch.tensor(Intensity().std)
    expected = ((torch.tensor(image) / 255 - mean) / std).permute(2, 0, 1)
    crop, rest = rivals.kornia_steps(whole, 32)
    found = {
        "lightly": rivals.lightly_views(whole, 32)(rivals.as_pillow(picture))[0],
        "torchvision, PIL": rivals.torchvision_view(whole, 32)(rivals.as_pillow(picture)),
        "torchvision": rivals.torchvision_view(whole, 32)(rivals.as_tensor(picture)),
        "albumentations": rivals.albumentations_view(whole, 32)(rivals.as_array(picture)),
        "kornia": rest(crop(rivals.as_tensor(picture)[None].float() / 255))[0],
    }
    for name, view in found.items():
        mirrored = min((view - x).abs().max() for x in (expected, expected.flip(2)))
        assert mirrored < 1e-4, name


@pytest.mark.slow
def test_every_library_does_what_the_policy_says():
    """With all operations every library has blur, grey and jitter; without them none."""
    for policy, blurs in ((simclr_imagenet(), True), (Policy(RandomCrop()), False)):
        torchvision = str(rivals.torchvision_view(policy, 96))
        kornia = str(rivals.kornia_steps(policy, 96)[1])
        assert ("GaussianBlur" in torchvision, "GaussianBlur" in kornia) == (blurs, blurs)
        assert ("kernel_size=(9, 9)" in torchvision) is blurs
    jitter = str(rivals.torchvision_view(simclr_imagenet(), 96))
    assert "brightness=(0.19999999999999996, 1.8), contrast=(0.19999999999999996, 1.8)" in jitter


# --- step


@pytest.mark.parametrize("case", [case for cases in step.CASES.values() for case in cases])
def test_a_case_is_a_valid_configuration(case):
    config = case.config(compiled=False)
    assert (config.network.encoder, config.network.image_size) == (case.encoder, case.size)
    check_channels(view_policy(config.views), 3)
    assert (config.views.blur > 0) is (case.size > 32)


def tiny_bench(tmp_path: Path, *parts: str) -> step.Bench:
    images = array_set(tmp_path, 16, side=32)
    chosen = step.parser().parse_args(
        ["--data", str(tmp_path), "--cores", "1", "--repeats", "1", "--parts", *parts]
    )
    pixels = list(images.checked.source.array)
    return step.Bench(step.Case("resnet8", 32, 8, steps=2), images, pixels, chosen)


@pytest.mark.slow
def test_whole_and_bare_take_the_same_steps(tmp_path):
    bench = tiny_bench(tmp_path, "bare")
    config = bench.case.config(compiled=False)
    whole, bare = step.Whole(bench._training(config)), step.Bare(bench._training(config), 2)
    for _ in range(2):
        whole()
        bare()
    assert whole.training.step == bare.training.step == 4
    assert 0 < whole.waiting_share < 1


@pytest.mark.slow
def test_lightly_trains_the_same_network_and_both_rows_are_written(tmp_path):
    bench = tiny_bench(tmp_path, "bare", "lightly")
    config = bench.case.config(compiled=False)
    rival = step.LightlySimCLR(config, bench.images)
    ours = bench._training(config).method
    sizes = [[p.numel() for p in m.parameters()] for m in (rival.backbone, ours.encoder)]
    assert sizes[0] == sizes[1]
    assert [r.rival for r in bench.rows(compiled=False)] == [
        "bare step on precomputed views",
        "lightly's example loop",
    ]


# --- whole scripts, as small as they can be


def write_cifar(folder: Path, n: int = 300) -> Path:
    """Images in ten classes, as CIFAR-10 is laid out."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        labels = np.arange(n) % 10
        images = rng.integers(0, 256, (n, 32, 32, 3), np.uint8) // 2
        images += (12 * labels[:, None, None, None]).astype(np.uint8)
        np.savez(folder / f"{split}.npz", images=images, labels=labels)
    return folder


@pytest.mark.slow
def test_the_study_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(augmentations, "DOCS", tmp_path)
    out = tmp_path / "cells.jsonl"
    data = write_cifar(tmp_path / "cifar10")
    arguments = ["--data", str(data), "--out", str(out), "--seconds", "0.1", "--cells", "1"]
    augmentations.main(arguments)
    augmentations.main([*arguments, "--publish"])
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["first"] for line in lines] == ["crop and resize", "cutout"]
    assert lines[0]["steps"] == lines[1]["steps"] > 0
    assert f"| cutout |  | {100 * lines[1]['accuracy']:.1f} |" in capsys.readouterr().out
    assert "(augmentations.svg)" in (tmp_path / "results.md").read_text()


@pytest.mark.slow
def test_views_are_measured_against_every_library(tmp_path):
    write_cifar(tmp_path / "cifar10")
    out = tmp_path / "rows.json"
    small = ["--cases", "32", "--repeats", "1", "--seconds", "0.01", "--json", str(out)]
    chosen = views.parser().parse_args(["--data", str(tmp_path), *small])
    (case,) = views.cases(chosen, tmp_path / "cache")
    rows = views.comparisons(case, chosen)
    assert len({found.rival for found in rows}) == 5
    assert all(found.ours_value > 0 and found.rival_value > 0 for found in rows)


@pytest.mark.slow
def test_the_memory_of_a_process_is_its_own(tmp_path):
    write_cifar(tmp_path / "cifar10")
    path = memory._arrays(tmp_path, tmp_path, 1000)
    peak = memory._peak(path, "arrays")
    assert 100 < peak < 4000
    with closing(np.load(path, allow_pickle=False)) as arrays:
        assert arrays["images"].shape == (1000, 32, 32, 3)
    assert len(open_images(str(path), machine=Machine(cache=tmp_path / "cache")).store) == 1000


# --- clusters


def test_clusters_are_kept_once_where_they_are_the_same(tmp_path):
    values = defaultdict(lambda: defaultdict(list))
    for name, value, first in (("DeepCluster", 0.5, True), ("SimCLR", 0.25, False)):
        rows = [
            {"representation": r, "metric": m, "value": v}
            for r, v in (("this encoder", value), ("raw pixels", 0.75))
            for m in ("NMI", "ARI", "balanced accuracy")
        ]
        clusters.add_figures(values, name, rows, first=first)
    values[clusters.OWN]["NMI"] += [0.125, 0.375]
    clusters.add_figures(values, "SimCLR", rows, first=False)
    lines = clusters.table("digits", values, 2).splitlines()
    assert lines[0] == "| digits, 2 seeds | NMI | ARI | accuracy |"
    assert lines[2:] == [
        "| DeepCluster | 0.500 | 0.500 |  |",
        "| raw pixels | 0.750 | 0.750 |  |",
        "| SimCLR | 0.250 (0.250 to 0.250) | 0.250 (0.250 to 0.250) |  |",
        f"| {clusters.OWN} | 0.250 (0.125 to 0.375) |  |  |",
    ]


# --- DeepCluster on CIFAR-10


PROTOCOLS, PIXELS = ("knn", "linear"), ("raw pixels", 41.0)


def test_deepcluster_s_page_has_what_was_measured(tmp_path):
    chosen = deepcluster_cifar10.parser().parse_args(["--data", "d", "--out", str(tmp_path)])
    log = [
        {"step": s, "epoch": e, "nmi_labels": 0.1 * e, "largest_share": 0.02, "seconds": 10.0}
        | ({"nmi_last": 0.2 * e} if e else {})
        | {"begin_seconds": 2.5}
        for s, e in ((1, 0), (200, 1), (400, 2), (600, 3))
    ]
    accuracy = {(name, p): v for p in PROTOCOLS for name, v in (("random init", 30.0), PIXELS)}
    for seed, value in ((0, 40.0), (1, 50.0)):
        folder = deepcluster_cifar10.place(chosen, "uniform", seed)
        (folder / "encoder").mkdir(parents=True)
        (folder / "encoder/model.safetensors").touch()
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
        accuracy |= {(folder.name, p): value for p in PROTOCOLS}
    begun = deepcluster_cifar10.place(chosen, "released", 0)
    (begun / "encoder").mkdir(parents=True)
    page = deepcluster_cifar10.page(chosen, accuracy)
    assert "| k = 100, uniform | 2 | 45.0 (40.0, 50.0) | 45.0 (40.0, 50.0) | 600, 600 |" in page
    assert "| raw pixels | | 41.0 | 41.0 | |" in page
    assert (
        "| k = 100, uniform | 4 | 0.200, 0.400, 0.600 | 0.100, 0.200, 0.300 | 0.020 | 25 % |"
        in page
    )
    assert "released" not in page, "it has not ended"


@pytest.mark.slow
def test_deepcluster_s_runs_are_trained_once_and_judged_together(tmp_path, monkeypatch):
    write_cifar(data := tmp_path / "cifar10")
    monkeypatch.setattr(deepcluster_cifar10, "DOCS", docs := tmp_path / "docs")
    docs.mkdir()
    monkeypatch.setitem(
        deepcluster_cifar10.VARIANTS,
        "uniform",
        ("k = 5", [*deepcluster_cifar10.DEEPCLUSTER, "--set", "k=5"]),
    )
    flags = ["--data", str(data), "--out", str(out := tmp_path / "runs"), "--seconds", "3"]
    flags += ["--seeds", "0", "--variants"]
    deepcluster_cifar10.main([*flags, "uniform", "--share", "0", "1"])
    assert not list(docs.iterdir()), "a share judges nothing"
    before = (out / "uniform0/metrics.jsonl").read_bytes()
    deepcluster_cifar10.main([*flags, "uniform", "simclr"])
    assert (out / "uniform0/metrics.jsonl").read_bytes() == before
    steps = [deepcluster_cifar10.lines(out / name)[-1]["step"] for name in ("uniform0", "simclr0")]
    assert steps[0] == steps[1]
    page = (docs / "results.md").read_text()
    for name in ("k = 5", "SimCLR, same number of passes", "random init", "raw pixels"):
        assert f"| {name} |" in page
    assert (docs / "deepcluster_cifar10.svg").stat().st_size > 1000
