"""DeepCluster: clusters, draws, the new classifier, the loss, and what it says of odd data."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from selftaught.clustering import diagnostics
from selftaught.data.open_images import DataSettings, open_images
from selftaught.data.store import Images
from selftaught.errors import ConfigError
from selftaught.foundation.machine import Machine
from selftaught.methods.deepcluster import DeepCluster, DeepClusterOptions
from selftaught.recipe import build
from selftaught.recipe.config import Config, LoopSettings, NetworkSettings, ViewSettings
from selftaught.training.training import Training
from tests.oracles.agreement import nmi as plain_nmi

CPU = torch.device("cpu")
N, BATCH = 96, 16


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """Three kinds of images, with their labels."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    labels = np.arange(N) % 3
    pixels = rng.integers(0, 60, (N, 16, 16, 3)) + 90 * labels[:, None, None, None]
    np.savez(folder / "three.npz", images=pixels.astype(np.uint8), labels=labels)
    return open_images(
        str(folder / "three.npz"), machine=Machine(cache=folder / "cache", threads=1)
    )


def of_value(folder: Path, values: np.ndarray) -> Images:
    pixels = np.broadcast_to(values[:, None, None, None], (len(values), 16, 16, 3))
    np.savez(folder / "made.npz", images=np.ascontiguousarray(pixels, np.uint8))
    return open_images(str(folder / "made.npz"), machine=Machine(cache=folder / "cache", threads=1))


def training(
    images: Images, *, seed: int = 0, epochs: int = 2, optimizer: str = "sgd", **options: Any
) -> Training:
    config = Config(
        data=DataSettings("made"),
        network=NetworkSettings(image_size=16, width=4),
        views=ViewSettings(blur=0.0),
        loop=LoopSettings(
            batch_size=BATCH, epochs=epochs, optimizer=optimizer, lr=0.05, schedule="constant"
        ),
        method="deepcluster",
        options={"k": 6} | options,
        seed=seed,
    )
    return build.training_for(build.complete_options(config), images, machine=Machine(threads=0))


def epoch(made: Training) -> list[Any]:
    batches = []
    for batch in made.batches():
        made.take(batch)
        batches.append(batch)
    return batches


def method_of(made: Training) -> DeepCluster:
    assert isinstance(made.method, DeepCluster)
    return made.method


# --- options


def test_k_follows_the_number_of_images() -> None:
    def k_of(images: int) -> int | None:
        return DeepCluster.options_for_images(DeepClusterOptions(), images)[0].k

    assert [k_of(n) for n in (4, 1_000, 50_000, 1_281_167, 10**8)] == [2, 7, 390, 10_000, 10_000]
    assert DeepCluster.options_for_images(DeepClusterOptions(k=100), 50_000) == (
        DeepClusterOptions(k=100),
        [],
    )


def test_too_few_images_a_cluster_are_said() -> None:
    _, sentences = DeepCluster.options_for_images(DeepClusterOptions(k=100), 3_899)
    assert (
        len(sentences) == 1 and "100 clusters for 3,899 images: with fewer than 39" in sentences[0]
    )
    assert not DeepCluster.options_for_images(DeepClusterOptions(k=100), 3_900)[1]
    with pytest.raises(ConfigError, match="k = 100 clusters need more than 99 images"):
        DeepCluster.options_for_images(DeepClusterOptions(k=100), 99)


@pytest.mark.parametrize("name", ["k", "every", "pca", "iterations"])
def test_options_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} = 0 .*: use --set {name}="):
        DeepClusterOptions(**{name: 0})
    with pytest.raises(ConfigError, match="k = 1 leaves nothing to learn"):
        DeepClusterOptions(k=1)
    with pytest.raises(
        ConfigError, match="unknown sampling 'sideways': choose uniform, as_released"
    ):
        DeepClusterOptions(sampling="sideways")  # type: ignore[arg-type]


def test_the_papers_networks_see_gradients_and_others_where_asked() -> None:
    for architecture, sobel, front in (
        ("alexnet", None, "sobel"),
        ("vgg16", None, "sobel"),
        ("alexnet", False, "none"),
        ("resnet8", None, "none"),
        ("resnet8", True, "sobel"),
    ):
        assert DeepCluster.front(DeepClusterOptions(sobel=sobel), architecture) == front


def test_sobel_reaches_the_encoder(images: Images) -> None:
    made = training(images, sobel=True)
    assert made.method.encoder.config.front == "sobel"
    assert made.method.encoder.trunk.conv1.in_channels == 2
    epoch(made)


# --- an epoch


def test_clusters_are_those_of_the_whitened_features(images: Images) -> None:
    from selftaught.clustering.kmeans import kmeans
    from selftaught.clustering.whitening import Whitening
    from selftaught.foundation.rng import Key
    from selftaught.vectors.features import features

    made = training(images, seed=4)
    h_ND = features(made.method.encoder, images)
    made.begin_epoch()
    x_NP = Whitening.fit(h_ND)(h_ND)
    seed = Key(4, "deepcluster/kmeans", 0).words()[0]
    expected = kmeans(x_NP, 6, seed=seed, iterations=20)
    method = method_of(made)
    assert torch.equal(method.labels_N, expected.labels_N)
    assert torch.allclose(method.centroids_KP, expected.centroids_KD)
    assert method.metrics()["objective"] == pytest.approx(expected.objective)


def test_what_is_clustered_lies_before_the_last_activation(images: Images) -> None:
    made, asked = training(images), []

    def features(**how: Any) -> np.ndarray:
        asked.append(how)
        return np.random.default_rng(0).normal(size=(N, 8)).astype(np.float32)

    method_of(made).begin_epoch(features, None, made.progress)
    assert asked == [{"before_final": True}]


def test_each_clustering_has_a_new_classifier_and_a_new_optimizer(images: Images) -> None:
    made = training(images, every=2, epochs=3)
    method, seen = method_of(made), []
    for _ in range(3):
        made.begin_epoch()
        seen.append((method.head.weight.detach().clone(), method.labels_N.clone()))
        epoch(made)
    (W0, y0), (W1, y1), (W2, _) = seen
    assert torch.equal(y0, y1) and not torch.equal(W0, W1), "epoch 1 goes on with what it has"
    assert W0.std() == pytest.approx(0.01, rel=0.2) and W2.std() == pytest.approx(0.01, rel=0.2)
    assert W1.std() > 0.011 and not torch.equal(W0, W2)
    bias = method.head.bias.detach().abs().max()
    assert bias > 0
    made.plan = replace(made.plan, total_steps=10**6)
    made.step += 6  # to epoch 4, which clusters
    made.begin_epoch()
    assert method.head.bias.detach().abs().max() == 0


def test_an_optimizer_that_remembers_begins_anew_with_the_classifier(images: Images) -> None:
    made = training(images, epochs=4, every=2, optimizer="adamw")
    prefix = "optimizer/"

    def state() -> dict[str, float]:
        found = made.checkpoint().training
        return {
            n.removeprefix(prefix): t.abs().sum().item()
            for n, t in found.items()
            if n.startswith(prefix)
        }

    epoch(made)
    before = state()
    head = [name for name in before if name.startswith("head.")]
    assert head and all(before.values())
    made.begin_epoch()  # epoch 1 does not cluster
    assert state() == before
    epoch(made)
    made.begin_epoch()
    after = state()
    assert not any(after[name] for name in head)
    assert all(after[name] for name in after if name not in head)


def test_the_classifier_has_no_momentum_and_the_body_has(images: Images) -> None:
    made = training(images)
    epoch(made)
    slots = made.checkpoint().training
    assert not [name for name in slots if name.startswith("optimizer/head.")]
    assert [name for name in slots if name.startswith("optimizer/encoder.")]
    decays = {group["weight_decay"] for group in made.optimizer.param_groups}
    assert decays == {made.plan.weight_decay}, "the paper's decay is on all weights"


def test_the_loss_is_cross_entropy_with_the_clusters(images: Images) -> None:
    made = training(images)
    (batch, *_) = made.batches()
    method = method_of(made)
    h_nD = method.embed(batch)["h"]
    g_nk = (h_nD @ method.head.weight.T + method.head.bias).detach().double().numpy()
    y_n = method.labels_N[batch.rows].numpy()
    log_sum_n = np.log(np.exp(g_nk).sum(1))
    expected = (log_sum_n - g_nk[np.arange(BATCH), y_n]).mean()
    assert method.loss({"h": h_nD}, batch).item() == pytest.approx(expected, rel=1e-5)
    made = training(images, sampling="weighted")
    (batch, *_) = made.batches()
    method = method_of(made)
    h_nD = method.embed(batch)["h"]
    sizes = np.bincount(method.labels_N.numpy(), minlength=6)
    y_n = method.labels_N[batch.rows].numpy()
    weight_n = N / (np.count_nonzero(sizes) * sizes[y_n])
    g_nk = (h_nD @ method.head.weight.T + method.head.bias).detach().double().numpy()
    loss_n = np.log(np.exp(g_nk).sum(1)) - g_nk[np.arange(BATCH), y_n]
    assert method.loss({"h": h_nD}, batch).item() == pytest.approx(
        (weight_n * loss_n).mean(), rel=1e-5
    )


@pytest.mark.parametrize("sampling", ["uniform", "as_released", "none", "weighted"])
def test_an_epoch_is_drawn_as_it_was_asked_for(images: Images, sampling: str) -> None:
    made = training(images, sampling=sampling)
    rows = torch.cat([batch.rows for batch in epoch(made)]).numpy()
    assert len(rows) == N
    labels_N = method_of(made).labels_N.numpy()
    sizes, drawn = (np.bincount(x, minlength=6) for x in (labels_N, labels_N[rows]))
    if sampling in ("none", "weighted"):
        assert np.array_equal(np.sort(rows), np.arange(N))
    elif sampling == "uniform":
        assert np.ptp(drawn[sizes > 0]) <= 2
    else:
        assert len(set(rows.tolist())) < N


# --- labels


def test_labels_are_measured_and_change_nothing(images: Images) -> None:
    made = training(images)
    epoch(made)
    found = method_of(made).metrics()
    assert found["nmi_labels"] == pytest.approx(
        plain_nmi(method_of(made).labels_N.tolist(), [n % 3 for n in range(N)], "geometric"),
        abs=1e-9,
    )
    blind = training(images)
    blind.feed.labels = None
    epoch(blind)
    assert "nmi_labels" not in method_of(blind).metrics()
    for one, other in zip(made.method.parameters(), blind.method.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_log_compares_with_the_last_assignment(images: Images) -> None:
    made = training(images)
    first = epoch(made)
    assert "nmi_last" not in made.line(first[-1])
    before = method_of(made).labels_N.tolist()
    line = made.line(epoch(made)[-1])
    after = method_of(made).labels_N.tolist()
    assert line["nmi_last"] == pytest.approx(plain_nmi(before, after, "geometric"), abs=1e-9)
    sizes = np.bincount(after, minlength=6)
    assert line["largest_share"] == pytest.approx(sizes.max() / N)
    assert line["clusters_used"] == np.count_nonzero(sizes)
    share = sizes[sizes > 0] / N
    assert line["entropy"] == pytest.approx(-(share * np.log(share)).sum() / math.log(6))
    assert line["chance"] == pytest.approx(math.log(line["clusters_used"]))


# --- odd data


def alarms_after_an_epoch(images: Images, **options: Any) -> list[str]:
    made = training(images, epochs=1, **options)
    line = made.line(epoch(made)[-1])
    assert math.isfinite(line["loss"])
    return made.method.alarms([line])


def test_equal_images_are_one_cluster_and_an_alarm(tmp_path: Path) -> None:
    (alarm,) = alarms_after_an_epoch(of_value(tmp_path, np.full(48, 7)))
    assert "All images are in one cluster" in alarm


def test_constant_features_are_one_cluster_and_an_alarm(images: Images) -> None:
    made = training(images, epochs=1)
    with torch.no_grad():
        for parameter in made.method.encoder.parameters():
            parameter.zero_()
    line = made.line(epoch(made)[-1])
    assert math.isfinite(line["loss"]) and line["largest_share"] == 1
    assert "features are equal" in made.method.alarms([line])[0]


def test_duplicates_leave_clusters_unused_and_an_alarm(tmp_path: Path) -> None:
    alarms = alarms_after_an_epoch(of_value(tmp_path, np.repeat([10, 240], 40)), k=40)
    assert "Only 2 of 40 clusters are in use" in alarms[0]


def test_a_cluster_of_more_than_half_is_an_alarm(tmp_path: Path) -> None:
    values = np.concatenate([np.full(60, 5), np.linspace(60, 250, 30)])
    (alarm,) = alarms_after_an_epoch(of_value(tmp_path, values), k=5)
    assert "of the images are in one cluster" in alarm


def test_half_of_the_images_in_one_of_two_clusters_is_no_alarm() -> None:
    def alarms(share: float, k: int) -> list[str]:
        return diagnostics.clustering_alarms({"largest_share": share, "clusters_used": 2}, k)

    assert not alarms(0.95, 2) and not alarms(0.65, 3)
    assert "70% of the images" in alarms(0.7, 3)[0] and "51% of the images" in alarms(0.51, 4)[0]


def test_healthy_clusters_raise_no_alarm(images: Images) -> None:
    assert not alarms_after_an_epoch(images)


def test_two_views_of_an_image_are_refused(images: Images) -> None:
    made = training(images)
    (spec,) = made.method.policy
    with pytest.raises(ConfigError, match="one view"):
        DeepCluster(made.method.encoder, DeepClusterOptions(k=3), policy=(replace(spec, count=2),))
