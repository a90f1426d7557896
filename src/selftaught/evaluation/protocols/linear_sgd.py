"""SimCLR's linear evaluation: a linear classifier on the frozen encoder, trained on random views.

Chen et al. 2020, appendix B.6 and B.9, and google-research/simclr: head from zero, Nesterov
momentum 0.9, learning rate 0.1 * batch / 256, cosine without warm-up; crops and flips for
training, the central view for testing. Every epoch passes all training images through the encoder.

Shapes:  n training images, D size of a vector, N images of a batch, K classes, S pixels per side.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from selftaught.evaluation.representation import Representation, whole_batches
from selftaught.evaluation.trial import ProtocolAnswer, Trial, classification_answer
from selftaught.foundation.rng import Key, permutation
from selftaught.vectors.features import batch_views, evaluation_mode
from selftaught.views.policy import Flip, Policy, RandomCrop

TRAINING_VIEWS = Policy(RandomCrop(), (Flip(),))


@dataclass(frozen=True)
class LinearSgdRecipe:
    """Settings that differ between large and small images."""

    epochs: int
    batch_size: int
    weight_decay: float


LARGE = LinearSgdRecipe(90, 4096, 1e-6)  # ImageNet, appendix B.6
SMALL = LinearSgdRecipe(100, 512, 0.0)  # CIFAR-10, appendix B.9
SMALL_SIDE = 64
"""Up to this many pixels per side, the recipe is CIFAR-10's."""


def linear_sgd(subject: Representation, trial: Trial) -> ProtocolAnswer:
    """SimCLR's protocol; the test images are used once, at the end."""
    recipe = linear_sgd_recipe(subject, trial)
    x_ND = torch.from_numpy(subject.vectors(trial.images))
    head = zero_head(x_ND.shape[1], trial.classes, trial.machine.device)
    train_head(head, subject, trial, recipe)
    with torch.inference_mode():
        scores_MK = head(x_ND[torch.from_numpy(trial.test)].to(trial.machine.device)).softmax(dim=1)
    return classification_answer(trial, scores_MK.cpu().numpy(), _note(subject, trial, recipe))


def zero_head(dim: int, classes: int, device: str = "cpu") -> nn.Linear:
    """A linear classifier of zeros; torch's generator stays unchanged."""
    head: nn.Linear = nn.utils.skip_init(  # type: ignore[no-untyped-call]
        nn.Linear, dim, classes, device=device
    )
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def linear_sgd_recipe(subject: Representation, trial: Trial) -> LinearSgdRecipe:
    """The paper's recipe for this image size; the batch is at most the training set."""
    side = subject.encoder.config.image_size if subject.encoder else SMALL_SIDE
    paper = SMALL if side <= SMALL_SIDE else LARGE
    epochs = paper.epochs if trial.epochs is None else trial.epochs
    return LinearSgdRecipe(epochs, min(paper.batch_size, len(trial.train)), paper.weight_decay)


def train_head(
    head: nn.Linear, subject: Representation, trial: Trial, recipe: LinearSgdRecipe
) -> None:
    """Train the head; the encoder stays unchanged."""
    steps = recipe.epochs * (len(trial.train) // recipe.batch_size)
    optimizer = torch.optim.SGD(
        head.parameters(),
        lr=0.1 * recipe.batch_size / 256,
        momentum=0.9,
        nesterov=True,
        weight_decay=recipe.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    for epoch in range(recipe.epochs):
        for h_ND, labels_N in linear_sgd_batches(subject, trial, recipe.batch_size, epoch):
            optimizer.zero_grad()
            F.cross_entropy(head(h_ND), labels_N).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()


def linear_sgd_batches(
    subject: Representation, trial: Trial, batch_size: int, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """An epoch's h (N, D) and labels (N,), in a new order, with new views if there is a network."""
    order = permutation(Key(trial.seed, "evaluation/order", epoch), len(trial.train))
    positions = whole_batches(order, batch_size)
    rows = [trial.train[part] for part in positions]
    for part, h_ND in zip(positions, _vectors(subject, trial, rows, epoch), strict=True):
        labels_N = torch.from_numpy(trial.labels[part])
        yield h_ND.to(trial.machine.device), labels_N.to(trial.machine.device)


def _vectors(
    subject: Representation, trial: Trial, rows: list[NDArray[np.int64]], epoch: int
) -> Iterator[Tensor]:
    if subject.encoder is None:
        x_ND = subject.vectors(trial.images)
        yield from (torch.from_numpy(x_ND[part]) for part in rows)
        return
    encoder = subject.encoder.to(trial.machine.device)
    views = batch_views(
        encoder,
        trial.images,
        rows,
        TRAINING_VIEWS,
        seed=trial.seed,
        epoch=epoch,
        threads=trial.machine.threads,
    )
    for x_NCSS in views:
        with evaluation_mode(encoder):
            h_ND = encoder(x_NCSS)
        yield h_ND.clone()  # outside inference mode, so that the head can learn from it


def _note(subject: Representation, trial: Trial, recipe: LinearSgdRecipe) -> str:
    note = f"{recipe.epochs} epochs of batches of {recipe.batch_size}"
    return note if subject.encoder else f"{note}, on vectors: without crops and flips"
