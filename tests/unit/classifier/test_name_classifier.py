"""Names learnt from clusters: which images teach, what is fitted, what is told, and the files."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selftaught.classifier import name_classifier as kept
from selftaught.classifier.learn import (
    Members,
    confident_members,
    members,
    random_ranks,
    train_classifier,
)
from selftaught.classifier.name_classifier import Classifier
from selftaught.clusters.clusters import Clusters
from selftaught.clusters.fit import cluster_vectors
from selftaught.errors import DataError, FileError
from selftaught.evaluation.protocols import linear
from selftaught.vectors.vectors import Vectors
from tests.unit.clusters.test_clusters import blobs, vectors_of

NAMES = {0: "cat", 1: "dog", 2: "cat"}  # of four clusters; the last has none


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    x_ND, _ = blobs(each=60, size=6)
    x_ND += np.random.default_rng(9).normal(size=x_ND.shape).astype("f4") * 4  # some lie between
    return vectors_of(x_ND)


@pytest.fixture(scope="module")
def clusters(vectors: Vectors) -> Clusters:
    return cluster_vectors(vectors, 4, seed=1).clusters


@pytest.fixture(scope="module")
def found(vectors: Vectors, clusters: Clusters) -> Members:
    return members(vectors.x_ND, clusters, NAMES, {})


@pytest.fixture(scope="module")
def made(vectors: Vectors, found: Members) -> Classifier:
    return train_classifier(vectors, found, run="a run", seed=3)


# --- which image has which name


def test_members_have_the_name_of_their_cluster(
    vectors: Vectors, clusters: Clusters, found: Members
) -> None:
    own_N = clusters.assign(vectors.x_ND).cluster_N
    names = [None if k < 0 else found.names[k] for k in found.name_N]
    assert names == [NAMES.get(int(id_)) for id_ in own_N]
    assert found.names == ("cat", "dog") and not found.answered_N.any()
    assert not found.confident_N[found.own_N == 3].any()


def test_between_clusters_of_one_name_one_is_sure(
    vectors: Vectors, clusters: Clusters, found: Members
) -> None:
    alone = members(vectors.x_ND, clusters, {0: "cat", 1: "dog", 2: "bird"}, {})
    assert (found.confidence_N >= alone.confidence_N - 1e-6).all()
    assert (found.confidence_N > alone.confidence_N + 1e-3).any()


def test_an_answer_counts_more_than_the_cluster(vectors: Vectors, clusters: Clusters) -> None:
    own_N = clusters.assign(vectors.x_ND).cluster_N
    dog, cat, nameless = (int(np.flatnonzero(own_N == id_)[0]) for id_ in (1, 2, 3))
    answers = {dog: "cat", cat: "cat", nameless: "newt"}
    found = members(vectors.x_ND, clusters, NAMES, answers)
    assert found.names == ("cat", "dog", "newt")
    assert [found.names[found.name_N[i]] for i in answers] == list(answers.values())
    assert np.flatnonzero(found.answered_N).tolist() == sorted(answers)
    assert found.contradicted == 1 and not (found.confident_N & found.answered_N).any()


def slow_confident(own: list[int], confidence: list[float], distance: list[float]) -> list[bool]:
    """An image at a time, from the definitions."""
    sure = []
    for mine, c, d in zip(own, confidence, distance, strict=True):
        of_mine = [i for i, other in enumerate(own) if other == mine]
        low, high = np.percentile([distance[i] for i in of_mine], [25, 75])
        sure.append(
            c >= np.median([confidence[i] for i in of_mine]) and d <= high + 1.5 * (high - low)
        )
    return sure


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.floats(-1, 1, width=32, allow_subnormal=False),
            st.floats(0, 2, width=32, allow_subnormal=False),
        ),
        min_size=1,
        max_size=40,
    )
)
def test_confident_members_are_the_surer_half_that_is_not_far_out(
    images: list[tuple[int, float, float]],
) -> None:
    own, confidence, distance = zip(*images, strict=True)
    columns = np.array(own), np.array(confidence, "f4"), np.array(distance, "f4")
    sure_N = confident_members(*columns)
    assert sure_N.tolist() == slow_confident(*(c.tolist() for c in columns))
    for id_ in set(own):
        mine = columns[0] == id_
        assert sure_N[mine].sum() >= max(1, mine.sum() // 4)


def test_members_are_dealt_into_fifths(vectors: Vectors, clusters: Clusters) -> None:
    found = members(vectors.x_ND, clusters, NAMES, {5: "newt", 6: "newt"})
    rank_N = random_ranks(found, 0)
    assert rank_N[[5, 6]].tolist() == [0, 0]
    for k in (0, 1):
        pile = (found.name_N == k) & found.confident_N
        assert sorted(rank_N[pile]) == list(range(pile.sum()))
        shares = np.bincount(rank_N[pile] % 5, minlength=5)
        assert shares.max() - shares.min() <= 1
    assert (random_ranks(found, 1) != rank_N).any()


# --- what is learnt


def parts(found: Members, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows that are fitted to, that calibrate and that judge."""
    part_N = np.where(found.answered_N, 0, random_ranks(found, seed) % 5)
    named_N = found.name_N >= 0
    fitted_N = (found.confident_N | found.answered_N) & (part_N < 3)
    calibrate_N, judge_N = named_N & (part_N == 3), named_N & (part_N == 4)
    return tuple(np.flatnonzero(rows) for rows in (fitted_N, calibrate_N, judge_N))


def test_the_fit_is_scikit_learns(
    vectors: Vectors, found: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    rows, _, _ = parts(found, 3)
    scaler = StandardScaler().fit(vectors.x_ND[rows].astype(float))
    monkeypatch.setattr(linear, "STRENGTHS", (1e-2,))
    made = train_classifier(vectors, found, seed=3)
    C = 1 / (1e-2 * len(rows))
    peer = LogisticRegression(C=C * 2, tol=1e-10, max_iter=10_000)  # of 2 classes it has one w
    peer.fit(scaler.transform(vectors.x_ND[rows]), found.name_N[rows])
    expected_NK = peer.predict_proba(scaler.transform(vectors.x_ND))
    probabilities_NK = made.logits(vectors.x_ND).softmax(1).numpy()
    np.testing.assert_allclose(probabilities_NK, expected_NK, atol=2e-3)
    assert made.facts["fitted"] == len(rows)


def test_images_that_judge_and_others_that_are_unsure_teach_nothing(
    vectors: Vectors, found: Members, made: Classifier
) -> None:
    seen = np.concatenate(parts(found, 3)[:2])
    moved_ND = vectors.x_ND + 100
    moved_ND[seen] = vectors.x_ND[seen]
    again = train_classifier(vectors_of(moved_ND), found, seed=3)
    assert torch.equal(again.weight_KD, made.weight_KD) and torch.equal(again.bias_K, made.bias_K)
    assert again.temperature == made.temperature and again.facts != made.facts


def test_the_strength_is_that_which_serves_held_out_images_best(
    vectors: Vectors, found: Members, made: Classifier
) -> None:
    fitted, calibrate, _ = parts(found, 3)
    x, y = torch.from_numpy(vectors.x_ND), torch.from_numpy(found.name_N)
    axes = linear.principal_axes(x[fitted])
    z, losses = axes.project(x), {}
    for strength in linear.STRENGTHS:
        zero = linear.zero_weights(z, 2)
        w = linear.fit_logistic(z[fitted], y[fitted], axes.variance_r, zero, strength=strength)
        losses[strength] = linear.cross_entropy(w, z[calibrate], y[calibrate]).item()
    assert losses[made.facts["strength"]] <= min(losses.values()) * 1.01 + 1e-3


def test_what_is_told_is_counted_on_the_images_that_judge(
    vectors: Vectors, found: Members, made: Classifier
) -> None:
    _, _, judge = parts(found, 3)
    p_NK = (made.logits(vectors.x_ND) / made.temperature).softmax(1)
    for key, confident_ones in (("agreement", True), ("agreement_of_the_rest", False)):
        rows = [i for i in judge if found.confident_N[i] == confident_ones]
        right = [int(p_NK[i].argmax()) == found.name_N[i] for i in rows]
        told = made.facts[key]
        assert told["images"] == len(rows) and told["share"] == np.mean(right)
        assert told["low"] < told["share"] <= told["high"]
    assert 0 <= made.facts["calibration_error"] < 0.5
    pairs = [(found.names[found.name_N[i]], found.names[p_NK[i].argmax()]) for i in judge]
    for name, told in made.facts["by_name"].items():
        right = [a == b for a, b in pairs if a == name]
        assert told["images"] == len(right) and told["share"] == np.mean(right)
    wrong = Counter(pair for pair in pairs if pair[0] != pair[1])
    confused = {(one["name"], one["says"]): one["images"] for one in made.facts["confused"]}
    assert confused == dict(wrong) and list(confused.values()) == sorted(confused.values())[::-1]
    assert sum(one["images"] for one in made.facts["reliability"]) == len(judge)


def test_names_of_one_image_are_learnt_and_nothing_is_judged() -> None:
    vectors = vectors_of(np.eye(3, dtype=np.float32) * 5)
    clusters = cluster_vectors(vectors, 3).clusters
    found = members(vectors.x_ND, clusters, {0: "a", 1: "b", 2: "c"}, {})
    made = train_classifier(vectors, found)
    assert [made.names[k] for k in made.predict(vectors.x_ND).first_N] == [
        found.names[k] for k in found.name_N
    ]
    assert made.temperature == 1
    assert made.facts["agreement"] is None and made.facts["calibration_error"] is None
    assert made.facts["by_name"] == {} and made.facts["reliability"] == []


def test_far_blobs_are_told_apart_and_new_vectors_get_their_names() -> None:
    x_ND, label_N = blobs(each=50)
    vectors = vectors_of(x_ND[:120])
    clusters = cluster_vectors(vectors, 4).clusters
    ids = clusters.assign(vectors.x_ND).cluster_N
    names = {int(id_): f"blob {label}" for id_, label in zip(ids, label_N[:120], strict=True)}
    made = train_classifier(vectors, members(vectors.x_ND, clusters, names, {}))
    said = made.predict(x_ND[120:])
    assert [made.names[k] for k in said.first_N] == [f"blob {label}" for label in label_N[120:]]
    assert (said.confidence_N > 0.5).all() and made.facts["agreement"]["share"] == 1


def test_answers_teach_a_name_that_no_cluster_has() -> None:
    x_ND, label_N = blobs(each=50)
    vectors = vectors_of(x_ND)
    clusters = cluster_vectors(vectors, 4).clusters
    newt = np.flatnonzero(label_N == 2)
    own = clusters.assign(x_ND).cluster_N
    names = {id_: f"n{id_}" for id_ in range(4) if id_ != own[newt[0]]}
    found = members(x_ND, clusters, names, dict.fromkeys(newt[:5].tolist(), "newt"))
    said = train_classifier(vectors, found).predict(x_ND[newt[5:]])
    assert np.mean([found.names[k] == "newt" for k in said.first_N]) > 0.9


def test_one_name_is_nothing_to_learn(vectors: Vectors, clusters: Clusters) -> None:
    with pytest.raises(DataError, match="fewer than two names"):
        train_classifier(vectors, members(vectors.x_ND, clusters, {0: "cat", 1: "cat"}, {}))


def test_vectors_that_are_all_alike_are_a_guess() -> None:
    x_ND = np.ones((20, 3), np.float32)
    clusters = cluster_vectors(vectors_of(blobs(size=3)[0]), 4).clusters
    found = members(x_ND, clusters, {0: "a"}, dict.fromkeys(range(8), "b"))
    only = members(x_ND, clusters, {int(found.own_N[0]): "a"}, dict.fromkeys(range(8), "b"))
    said = train_classifier(vectors_of(x_ND), only).predict(x_ND)
    assert np.isfinite(said.confidence_N).all() and len(set(said.first_N.tolist())) == 1


# --- what it says


def test_the_two_best_names_and_their_probabilities(vectors: Vectors) -> None:
    numbers = np.random.default_rng(0)
    weight_KD = torch.from_numpy(numbers.normal(size=(5, 6)).astype("f4"))
    mean_D, bias_K = torch.arange(6.0), torch.arange(5.0)
    made = Classifier(tuple("abcde"), mean_D, weight_KD, bias_K, 2.0, "", "", {})
    said = made.predict(vectors.x_ND)
    for i, x_D in enumerate(vectors.x_ND.astype(float)):
        scores = [
            (float(w @ (x_D - np.arange(6))) + k) / 2 for k, w in enumerate(weight_KD.numpy())
        ]
        p = np.exp(np.array(scores) - max(scores))
        p /= p.sum()
        order = np.argsort(-p)
        assert (said.first_N[i], said.second_N[i]) == tuple(order[:2])
        np.testing.assert_allclose(
            (said.confidence_N[i], said.gap_N[i]),
            (p[order[0]], p[order[0]] - p[order[1]]),
            atol=1e-4,
        )


def test_blocks_do_not_change_what_is_said(
    vectors: Vectors, made: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = made.predict(vectors.x_ND)
    monkeypatch.setattr(kept, "_BLOCK", 6 * 7)
    blocks = made.predict(vectors.x_ND)
    assert (whole.first_N == blocks.first_N).all()
    np.testing.assert_allclose(whole.confidence_N, blocks.confidence_N, atol=1e-6)


def test_vectors_of_another_size_are_refused(made: Classifier) -> None:
    with pytest.raises(DataError, match="vectors have 7 dimensions, the classifier 6: use the"):
        made.predict(np.zeros((2, 7), np.float32))


# --- on disk


def test_a_saved_classifier_comes_back_bit_for_bit(
    vectors: Vectors, made: Classifier, tmp_path: Path
) -> None:
    kept.save_classifier(made, tmp_path)
    again = kept.load_classifier(tmp_path)
    assert torch.equal(again.logits(vectors.x_ND), made.logits(vectors.x_ND))
    assert again.temperature == made.temperature and again.names == made.names
    assert (again.encoder, again.run, again.facts) == ("an encoder", "a run", made.facts)


def changed(**facts: object):
    def change(folder: Path) -> None:
        old = json.loads((folder / kept.FACTS).read_text())
        (folder / kept.FACTS).write_text(json.dumps(old | facts))

    return change


def no_facts(folder: Path) -> None:
    (folder / kept.FACTS).unlink()


def half_facts(folder: Path) -> None:
    (folder / kept.FACTS).write_text("{")


def no_tensors(folder: Path) -> None:
    (folder / kept.TENSORS).unlink()


def other_tensors(folder: Path) -> None:
    path = folder / kept.TENSORS
    path.write_bytes(path.read_bytes()[:-1] + b"x")


@pytest.mark.parametrize(
    "damage",
    [
        *(no_facts, half_facts, no_tensors, other_tensors),
        changed(names=["cat"]),
        changed(names=["cat", "cat"]),
        changed(names=["cat", "dog", "newt"]),
        changed(names=["cat", 3]),
        changed(temperature=0.0),
        changed(temperature=float("nan")),
        changed(format=2),
        changed(run=None),
    ],
)
def test_a_damaged_classifier_is_one_line(made: Classifier, tmp_path: Path, damage) -> None:
    kept.save_classifier(made, tmp_path)
    damage(tmp_path)
    with pytest.raises(FileError, match="classifier"):
        kept.load_classifier(tmp_path)


def test_tensors_that_do_not_fit_are_one_line(made: Classifier, tmp_path: Path) -> None:
    from dataclasses import replace

    for wrong in (
        replace(made, bias_K=torch.zeros(3)),
        replace(made, mean_D=torch.zeros(7)),
        replace(made, weight_KD=made.weight_KD * torch.nan),
        replace(made, weight_KD=made.weight_KD.double()),
    ):
        kept.save_classifier(wrong, tmp_path)
        with pytest.raises(FileError, match="damaged"):
            kept.load_classifier(tmp_path)
