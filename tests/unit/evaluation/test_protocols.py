"""Protocols on vectors, against loops and libraries: the vote, regression, SGD, clusters."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score

from selftaught.evaluation.protocols import kmeans_agreement, knn, linear, linear_sgd
from selftaught.evaluation.trial import ProtocolAnswer, Trial
from selftaught.pairwise.knn_vote import knn_accuracy, knn_vote
from tests.oracles import knn as oracle

DIGITS_X, DIGITS_Y = load_digits(return_X_y=True)
IMAGES: Any = SimpleNamespace(content="digits")


@dataclass(frozen=True)
class Vectors:
    """A representation that is only vectors."""

    array: np.ndarray
    name: str = "vectors"
    seed: int | None = None
    encoder: None = field(default=None, init=False)

    def vectors(self, images: Any) -> np.ndarray:
        return self.array.astype(np.float32)


def digits(train: int = 1000, **options: Any) -> Trial:
    order = np.random.default_rng(0).permutation(len(DIGITS_X))
    rows, test = np.sort(order[:train]), np.sort(order[1200:])
    return Trial(IMAGES, rows, DIGITS_Y[rows], test, classes=10, **options)


def figures(answer: ProtocolAnswer, labels: np.ndarray = DIGITS_Y) -> Mapping[str, float]:
    truth = labels[answer.rows]
    ones = np.ones((len(truth), 1), np.float32)
    return {name: float(figure(truth, ones)[0]) for name, figure in answer.figures.items()}


# knn


def test_vote_by_hand() -> None:
    # Cosines 1, 0 and -1 with tau = 1: weights e, 1, 1/e; k = 2 leaves the last out.
    train, labels = np.array([[2.0, 0], [0, 1], [-3, 0]], np.float32), np.array([1, 0, 0])
    test = np.array([[5.0, 0]], np.float32)
    shares = knn_vote(train, labels, test, classes=2, k=2, tau=1.0)
    assert shares[0] == pytest.approx([1 / (1 + np.e), np.e / (1 + np.e)], abs=1e-6)
    slow = oracle.vote(train, labels, test, classes=2, k=2, tau=1.0)
    assert slow[0] == pytest.approx(shares[0], abs=1e-6)


@pytest.mark.parametrize("k", [1, 7, 30, 200])
def test_vote_equals_loops(k: int) -> None:
    numbers = np.random.default_rng(k)
    train = numbers.normal(size=(40, 5)).astype(np.float32)
    train[20:] = train[:20]  # every cosine twice: the lower row is nearer
    labels, test = numbers.integers(0, 3, 40), numbers.normal(size=(25, 5)).astype(np.float32)
    for tau in (0.07, 1.0):
        fast = knn_vote(train, labels, test, classes=3, k=k, tau=tau)
        slow = oracle.vote(train, labels, test, classes=3, k=k, tau=tau)
        assert np.abs(fast - slow).max() < 1e-4


def test_knn_says_that_k_was_clipped() -> None:
    assert knn.knn(Vectors(DIGITS_X), digits(131)).note == "k = 200 was clipped to 131"
    assert knn.knn(Vectors(DIGITS_X), digits(201)).note == ""


def test_knn_accuracy_is_that_of_the_protocol() -> None:
    trial = digits()
    cheap = knn_accuracy(DIGITS_X.astype(np.float32), DIGITS_Y, trial.train, trial.test)
    assert cheap == pytest.approx(figures(knn.knn(Vectors(DIGITS_X), trial))["accuracy"])
    assert cheap > 0.9


# linear


@pytest.mark.parametrize(("n", "D"), [(300, 10), (40, 64)], ids=["tall", "wide"])
@pytest.mark.parametrize("strength", [1e-1, 1e-3])
def test_fit_is_scikit_learns_minimum(n: int, D: int, strength: float) -> None:
    numbers = np.random.default_rng(n)
    labels = numbers.integers(0, 3, n)
    x = numbers.normal(size=(n, D)) @ numbers.normal(size=(D, D)) + np.eye(3, D)[labels] * 3
    x[:, 1] = 7.0  # a constant column, as of a dead unit
    x_n = torch.from_numpy(x).float()
    axes = linear.principal_axes(x_n)
    z, y = axes.project(x_n), torch.from_numpy(labels)
    assert z.square().mean(dim=0).numpy() == pytest.approx(axes.variance_r.numpy(), rel=1e-3)
    start = linear.zero_weights(z, 3)
    weights = linear.fit_logistic(z, y, axes.variance_r, start, strength=strength)
    ours = linear.logits(weights, z).softmax(dim=0).T.numpy()

    deviation = np.where(x.std(axis=0) > 1e-9, x.std(axis=0), 1)
    standard = (x - x.mean(axis=0)) / deviation
    theirs = LogisticRegression(C=1 / (n * strength), tol=1e-8, max_iter=20_000)
    expected = theirs.fit(standard, labels).predict_proba(standard)
    assert np.abs(ours - expected).max() < 5e-3


def test_the_gradient_of_the_fit_is_autograds() -> None:
    numbers = torch.Generator().manual_seed(0)
    weights, z = torch.randn(3, 6, generator=numbers), torch.randn(40, 5, generator=numbers)
    labels = torch.arange(40) % 3
    loss, gradient = linear.logistic_loss(weights, z, labels)
    free = weights.double().requires_grad_()
    slow = linear.cross_entropy(free, z.double(), labels)
    slow.backward()
    assert loss.item() == pytest.approx(slow.item(), abs=1e-6)
    assert torch.allclose(gradient.double(), free.grad, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 5])
def test_along_the_axes_the_first_step_is_newtons(classes: int) -> None:
    """The Hessian at W = 0 times a change of class sum 0 is that change over the scale squared."""
    numbers = torch.Generator().manual_seed(1)
    x = torch.randn(60, 4, generator=numbers) @ torch.randn(4, 4, generator=numbers)
    axes = linear.principal_axes(x)
    z, labels = axes.project(x).double(), torch.arange(60) % classes
    change = torch.randn(classes, 5, generator=numbers).double()
    change -= change.mean(dim=0)

    def objective(weights: torch.Tensor) -> torch.Tensor:
        penalty = 0.3 / 2 * weights[:, :-1].square().sum()
        return linear.cross_entropy(weights, z, labels) + penalty

    zero = torch.zeros(classes, 5, dtype=torch.float64)
    _, found = torch.autograd.functional.hvp(objective, zero, change)
    scale = linear.scales(axes.variance_r, classes, 0.3).double()
    assert torch.allclose(found, change / scale.square(), atol=1e-4)


@pytest.mark.slow
def test_linear_is_as_good_as_the_best_of_scikit_learn() -> None:
    trial = digits()
    found = figures(linear.linear(Vectors(DIGITS_X), trial))["accuracy"]
    mean, deviation = DIGITS_X[trial.train].mean(axis=0), DIGITS_X[trial.train].std(axis=0)
    x = (DIGITS_X - mean) / np.where(deviation > 0, deviation, 1)
    best = 0.0
    for inverse in (0.01, 0.1, 1.0):
        theirs = LogisticRegression(C=inverse, max_iter=2000).fit(x[trial.train], trial.labels)
        best = max(best, theirs.score(x[trial.test], DIGITS_Y[trial.test]))
    assert found >= best - 0.01


@pytest.mark.slow
def test_linear_does_not_mind_scale_or_shift() -> None:
    trial = digits(400)
    scale = np.logspace(-3, 3, 64)
    plain, changed = (
        figures(linear.linear(Vectors(x), trial))["accuracy"]
        for x in (DIGITS_X, (DIGITS_X - 3) * scale)
    )
    assert changed == pytest.approx(plain, abs=0.01)


def test_vectors_that_are_all_alike_give_guessing() -> None:
    trial = digits(400)
    found = figures(linear.linear(Vectors(np.ones((len(DIGITS_X), 5))), trial))
    assert 0.05 < found["accuracy"] < 0.15
    assert found["balanced accuracy"] == pytest.approx(0.1)


def test_strength_is_high_where_there_is_nothing_to_learn() -> None:
    numbers = torch.Generator().manual_seed(0)
    z, y = torch.randn(200, 30, generator=numbers), torch.arange(200) % 2
    axes = linear.principal_axes(z)
    strength, _ = linear.choose_strength(axes.project(z), y, axes.variance_r, classes=2, seed=0)
    assert strength >= 0.1


def test_held_out_images_are_a_fifth_of_each_class_in_turn() -> None:
    labels = torch.tensor([0] * 50 + [1] * 10)
    folds = torch.stack(list(linear.held_out_masks(labels, seed=1)))
    assert (folds.sum(dim=0) == 1).all()  # each image once
    assert (folds[:, 50:].sum(dim=1) == 2).all()
    assert (folds != torch.stack(list(linear.held_out_masks(labels, seed=2)))).any()
    assert len(list(linear.held_out_masks(torch.zeros(5000), seed=0))) == 1
    assert len(list(linear.held_out_masks(labels, seed=1, many=60))) == 1


def test_no_fold_is_empty_where_there_are_fewer_images_than_folds() -> None:
    folds = torch.stack(list(linear.held_out_masks(torch.tensor([0, 1, 1]), seed=0)))
    assert folds.shape == (3, 3) and (folds.sum(dim=0) == 1).all() and (folds.sum(dim=1) == 1).all()


# linear-sgd


def test_recipes_are_the_papers() -> None:
    def recipe(side: int, n: int) -> linear_sgd.LinearSgdRecipe:
        subject: Any = SimpleNamespace(
            encoder=SimpleNamespace(config=SimpleNamespace(image_size=side))
        )
        rows = np.arange(n)
        return linear_sgd.linear_sgd_recipe(subject, Trial(IMAGES, rows, rows * 0, rows, classes=2))

    assert recipe(32, 50_000) == linear_sgd.LinearSgdRecipe(100, 512, 0.0)
    assert recipe(224, 50_000) == linear_sgd.LinearSgdRecipe(90, 4096, 1e-6)
    assert recipe(32, 100) == linear_sgd.LinearSgdRecipe(100, 100, 0.0)


def test_sgd_is_nesterov_with_a_cosine_from_zero() -> None:
    x, trial = DIGITS_X / 16, digits(96, epochs=2)
    recipe, subject = linear_sgd.LinearSgdRecipe(2, 32, 0.01), Vectors(x)
    head = linear_sgd.zero_head(64, 10)
    linear_sgd.train_head(head, subject, trial, recipe)

    weights, momentum = np.zeros((10, 65)), np.zeros((10, 65))
    steps = [b for e in range(2) for b in linear_sgd.linear_sgd_batches(subject, trial, 32, e)]
    assert len(steps) == 6
    for step, (h, labels) in enumerate(steps):
        ones = np.concatenate([h.numpy().astype(float), np.ones((32, 1))], axis=1)
        exps = np.exp(ones @ weights.T)
        gradient = (exps / exps.sum(1, keepdims=True) - np.eye(10)[labels]).T @ ones / 32
        gradient += 0.01 * weights
        momentum = 0.9 * momentum + gradient
        rate = 0.1 * 32 / 256 * (1 + np.cos(np.pi * step / 6)) / 2
        weights -= rate * (gradient + 0.9 * momentum)
    assert head.weight.detach().numpy() == pytest.approx(weights[:, :64], abs=1e-5)
    assert head.bias.detach().numpy() == pytest.approx(weights[:, 64], abs=1e-5)


def test_sgd_learns_and_says_that_vectors_have_no_views() -> None:
    answer = linear_sgd.linear_sgd(Vectors(DIGITS_X / 16), digits(epochs=60))
    assert figures(answer)["accuracy"] > 0.85
    assert answer.note == "60 epochs of batches of 512, on vectors: without crops and flips"


# clusters


def test_clusters_find_what_is_apart() -> None:
    numbers = np.random.default_rng(0)
    labels = numbers.integers(0, 3, 90)
    x = (np.eye(3, 8)[labels] + 0.05 * numbers.normal(size=(90, 8))) * numbers.uniform(
        1, 9, (90, 1)
    )
    x = x.astype(np.float32)
    assert adjusted_rand_score(labels, kmeans_agreement.kmeans_clusters(x, 3, seed=0)) == 1


def test_clusters_are_judged_on_all_labelled_images() -> None:
    trial = digits()
    answer = kmeans_agreement.clusters(Vectors(DIGITS_X), trial)
    assert set(answer.rows) == set(trial.train) | set(trial.test)
    assert answer.split == "all labelled images"
    found = figures(answer)
    assert found["NMI"] > 0.6 and found["ARI"] > 0.5 and found["accuracy"] > 0.6


# what two classes are judged by


def test_of_two_classes_the_positive_ones_average_precision_counts() -> None:
    labels = (DIGITS_Y == 3).astype(int)
    trial, values = digits(400), []
    for positive in (0, 1):
        two = replace(trial, labels=labels[trial.train], classes=2, positive=positive)
        found = figures(knn.knn(Vectors(DIGITS_X), two), labels)
        assert list(found) == ["accuracy", "balanced accuracy", "average precision"]
        values.append(found["average precision"])
    assert values[0] > values[1] > 0.5  # the rare class is the harder one
