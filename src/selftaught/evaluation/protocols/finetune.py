"""Fine-tuning: train every weight of the encoder and a new linear head on the training labels.

It is compared with the same network from scratch: random init, trained by the same recipe.

The recipe is google-research/simclr's for 1 % of ImageNet's labels, 12,811 images: LARS, momentum
0.9, learning rate 0.005 sqrt(batch), no weight decay, cosine without warm-up, 60 epochs of batches
of 1,024, crops and flips; a head of zeros, which like biases and norms has no trust ratio; batch
norm in training mode. Differences, for small networks and few images:

* An epoch has 12 steps, as in the original, of batches of 16 to 1,024 images. Below 192 images
  there are more epochs and as many steps: steps, not images, determine how far a weight moves.
* Two learning rates are tried: the released one, and one at which a network from scratch learns in
  this many steps, for a fair comparison. LARS moves a weight by a share of its norm at any rate,
  but biases, norms and head would diverge at the higher rate, so theirs is lower.
* A fifth of the training images is held out, and the network is tested on it about 20 times. The
  moment with the highest accuracy, averaged with the two moments before, is chosen (the last of
  equal ones), and the learning rate whose moment has the lowest cross-entropy: with few held-out
  images the best single accuracy is mostly luck. The paper fixes the number of epochs. The test
  images are used once, at the end. With fewer than 5 images per class nothing is held out, and the
  last epoch counts, at the released rate, or at the other rate from scratch.
* h goes to the head directly; the original keeps the first layer of SimCLR's head in between.

Shapes:  n training images, B of a batch, M test images; K classes; C channels, S pixels per side.
"""

import contextlib
import copy
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from selftaught.encoders.encoder import Encoder
from selftaught.errors import DataError
from selftaught.evaluation.protocols.linear import held_out_masks
from selftaught.evaluation.protocols.linear_sgd import TRAINING_VIEWS, zero_head
from selftaught.evaluation.representation import Representation, whole_batches
from selftaught.evaluation.trial import ProtocolAnswer, Trial, classification_answer
from selftaught.foundation.rng import Key, permutation
from selftaught.training.optimizers import build_optimizer, set_lr
from selftaught.training.schedule import lr_at, scaled_lr
from selftaught.vectors.features import batch_views, evaluation_mode
from selftaught.views.policy import evaluation

EPOCHS, STEPS = 60, 12
"""Number of epochs, and least steps per epoch if there are enough images."""
BATCHES = (16, 1024)
"""Smallest and largest batch."""
FEW = 5
"""With fewer images per class on average, none is held out."""
MOMENTS, TOGETHER = 20, 3
"""Approximate number of tests during training, and number of tests averaged."""

_BATCH = 256  # images at a time for inference


@dataclass(frozen=True)
class Rates:
    """Peak learning rates: of weights, and of biases, norms and the head."""

    weights: float
    others: float


RATES = (Rates(0.005, 0.005), Rates(0.32, 0.02))
"""Before scaling by sqrt(batch); the first are the released ones."""


class Network(nn.Module):
    """A copy of the encoder with a head of zeros, all float32 and trainable."""

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder)
        self.head = zero_head(encoder.dim, classes)
        self.requires_grad_(True).float()

    def forward(self, x_BCSS: Tensor) -> Tensor:
        """Logits, (B, K)."""
        scores_BK: Tensor = self.head(self.encoder(x_BCSS))
        return scores_BK


@dataclass(frozen=True)
class FinetuneRecipe:
    """How to train on a number of images.

    Attributes:
        epochs: Number of epochs.
        batch_size: B.
        rates: The learning rates to try, scaled.
    """

    epochs: int
    batch_size: int
    rates: tuple[Rates, ...]


@dataclass(frozen=True)
class Moment:
    """A network at a moment of its training.

    Attributes:
        network: The network at that moment.
        rates: Its learning rates.
        epoch: Number of epochs so far.
        right: Number of held-out images right, averaged with the moments just before.
        loss: Cross-entropy on the held-out images.
    """

    network: Network
    rates: Rates
    epoch: int
    right: float
    loss: float


def finetune(subject: Representation, trial: Trial) -> ProtocolAnswer:
    """Train a copy of the whole network; the encoder stays unchanged.

    Raises:
        DataError: The training diverges at every learning rate.
    """
    assert subject.encoder is not None
    held_n = held_out_part(trial)
    learn, held = trial_part(trial, ~held_n), trial_part(trial, held_n)
    recipe = finetune_recipe(learn, RATES if held_n.any() else blind_rates(subject))
    with _keyed_dropout(trial):
        best = best_moment(subject.encoder, learn, held, recipe)
    scores_MK = (
        None if best is None else finetune_logits(best.network, trial, trial.test).softmax(dim=1)
    )
    if scores_MK is None or not bool(scores_MK.isfinite().all()):
        raise DataError(
            f"{subject.name} diverges during fine-tuning",
            "its weights or outputs are very large; train again with a lower --lr",
        )
    return classification_answer(
        trial, scores_MK.numpy(), _note(subject, recipe, bool(held_n.any()))
    )


def has_weights(subject: Representation) -> bool:
    """Whether there are weights to train; raw pixels have none."""
    return subject.encoder is not None and next(subject.encoder.parameters(), None) is not None


def held_out_part(trial: Trial) -> NDArray[np.bool_]:
    """Mask of the held-out training images, (n,): a fifth of each class, but never all of it.

    With fewer than 5 images per class, none is held out.
    """
    held_n = next(held_out_masks(torch.from_numpy(trial.labels), trial.seed)).numpy()
    held_n = held_n & (len(trial.labels) >= FEW * len(np.unique(trial.labels)))
    lost = np.setdiff1d(trial.labels, trial.labels[~held_n])
    return held_n & ~np.isin(trial.labels, lost)


def trial_part(trial: Trial, which_n: NDArray[np.bool_]) -> Trial:
    """The trial with some of its training images."""
    return replace(trial, train=trial.train[which_n], labels=trial.labels[which_n])


def blind_rates(subject: Representation) -> tuple[Rates]:
    """Learning rates of an encoder, or from scratch, if no images are held out to choose by."""
    released, from_scratch = RATES
    return (released if subject.seed is None else from_scratch,)


def finetune_recipe(learn: Trial, candidates: tuple[Rates, ...] = RATES) -> FinetuneRecipe:
    """The released recipe for this many images, at some learning rates."""
    n, (smallest, largest) = len(learn.train), BATCHES
    batch_size = min(n, max(smallest, n // STEPS), largest)
    enough = math.ceil(EPOCHS * STEPS / (n // batch_size))
    return FinetuneRecipe(
        epochs=max(EPOCHS, enough) if learn.epochs is None else learn.epochs,
        batch_size=batch_size,
        rates=tuple(_scaled_rates(rates, batch_size) for rates in candidates),
    )


def _scaled_rates(rates: Rates, batch_size: int) -> Rates:
    weights, others = (scaled_lr(r, batch_size, "sqrt") for r in (rates.weights, rates.others))
    return Rates(weights, others)


def best_moment(
    encoder: Encoder, learn: Trial, held: Trial, recipe: FinetuneRecipe
) -> Moment | None:
    """The best moment on the held-out images; the last one if there are none.

    None: training diverges at once at every learning rate.
    """
    found = [best_moment_at(encoder, learn, held, recipe, rates) for rates in recipe.rates]
    return min(filter(None, found), key=lambda moment: moment.loss, default=None)


def best_moment_at(
    encoder: Encoder, learn: Trial, held: Trial, recipe: FinetuneRecipe, rates: Rates
) -> Moment | None:
    """The moment of highest accuracy at one learning rate; of equal moments the last."""
    best: Moment | None = None
    recent = deque[int](maxlen=TOGETHER)
    for epoch, network in moments(encoder, learn, recipe, rates):
        right, loss = held_out_accuracy(network, held) if len(held.train) else (0, 0.0)
        recent.append(right)
        mean = sum(recent) / len(recent)
        if math.isfinite(loss) and (best is None or mean >= best.right):
            best = Moment(copy.deepcopy(network), rates, epoch, mean, loss)
    return best


def moments(
    encoder: Encoder, learn: Trial, recipe: FinetuneRecipe, rates: Rates
) -> Iterator[tuple[int, Network]]:
    """Train; yield the number of epochs and the network, about 20 times and at the end.

    It ends early if a weight is not finite.
    """
    network = Network(encoder, learn.classes)
    network.to(device=learn.machine.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(
        "lars", parameter_groups(network, rates), weight_decay=0.0, momentum=0.9
    )
    steps = len(learn.train) // recipe.batch_size
    every = max(1, recipe.epochs // MOMENTS)
    for epoch in range(recipe.epochs):
        for step, (x_BCSS, labels_B) in enumerate(
            finetune_batches(network, learn, recipe.batch_size, epoch), epoch * steps
        ):
            total = recipe.epochs * steps
            set_lr(optimizer, lr_at(step, peak=rates.weights, total_steps=total, warmup=0))
            network.train(len(labels_B) > 1)  # one image has no statistics
            optimizer.zero_grad()
            F.cross_entropy(network(x_BCSS), labels_B).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        if not all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values()):
            return
        if (epoch + 1) % every == 0 or epoch + 1 == recipe.epochs:
            yield epoch + 1, network


def parameter_groups(network: Network, rates: Rates) -> list[dict[str, Any]]:
    """Weights; and biases, norms and the head, with another rate and without trust ratio."""
    head = set(network.head.parameters())
    parameters = list(network.named_parameters())
    scaled = {name for name, p in parameters if p.ndim > 1 and p not in head}
    return [
        {"params": [(name, p) for name, p in parameters if name in scaled]},
        {
            "params": [(name, p) for name, p in parameters if name not in scaled],
            "excluded": True,
            "lr_scale": rates.others / rates.weights,
        },
    ]


def finetune_batches(
    network: Network, learn: Trial, batch_size: int, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """An epoch's views (B, C, S, S) and labels (B,), in a new order."""
    order = permutation(Key(learn.seed, "evaluation/order", epoch), len(learn.train))
    positions = whole_batches(order, batch_size)
    views = batch_views(
        network.encoder,
        learn.images,
        [learn.train[part] for part in positions],
        TRAINING_VIEWS,
        seed=learn.seed,
        epoch=epoch,
        threads=learn.machine.threads,
    )
    with contextlib.closing(views):
        for part, x_BCSS in zip(positions, views, strict=True):
            yield x_BCSS, torch.from_numpy(learn.labels[part]).to(learn.machine.device)


def held_out_accuracy(network: Network, held: Trial) -> tuple[int, float]:
    """Number of held-out images that are right, and their cross-entropy."""
    scores_nK, labels_n = finetune_logits(network, held, held.train), torch.from_numpy(held.labels)
    right = int((scores_nK.argmax(dim=1) == labels_n).sum())
    return right, F.cross_entropy(scores_nK, labels_n).item()


def finetune_logits(network: Network, trial: Trial, rows_M: NDArray[np.int64]) -> Tensor:
    """Logits of the evaluation view of some images, (M, K), in memory."""
    parts = np.split(rows_M, range(_BATCH, len(rows_M), _BATCH))
    policy = evaluation(network.encoder.config.image_size)
    views = batch_views(network.encoder, trial.images, parts, policy, threads=trial.machine.threads)
    with evaluation_mode(network), contextlib.closing(views):
        return torch.cat([network(x_BCSS).cpu() for x_BCSS in views])


@contextlib.contextmanager
def _keyed_dropout(trial: Trial) -> Iterator[None]:
    """Seed torch's generators for dropout, and restore them afterwards."""
    gpus = [torch.device(trial.machine.device)] if trial.machine.device.startswith("cuda") else []
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(trial.seed)
        if gpus:
            torch.cuda.manual_seed(trial.seed)
        yield


def _note(subject: Representation, recipe: FinetuneRecipe, chosen: bool) -> str:
    how = (
        "learning rate and epoch chosen on a held-out fifth of the training images"
        if chosen
        else "too few images per class to hold any out, so the last epoch counts"
    )
    epochs = f"{recipe.epochs} epoch{'s' * (recipe.epochs != 1)} of batches of {recipe.batch_size}"
    whose = f"{subject.name}: " if subject.seed is not None else ""
    return f"{whose}{epochs}; {how}"
