"""Fine-tuning: every weight of the encoder learns the training labels, below a new linear head.

Beside it stands the same network from scratch: "random init", trained by the same recipe.

The recipe is google-research/simclr's for 1 % of ImageNet's labels, 12,811 images: LARS, momentum
0.9, learning rate 0.005 sqrt(batch), no weight decay, cosine without warm-up, 60 epochs of batches
of 1,024, crops and flips; a head of zeros, which like biases and norms has no trust ratio; batch
norm in training mode. What differs, for small networks and few images:

* An epoch has 12 steps, as it has there, of batches of 16 to 1,024 images; below 192 images there
  are more epochs, for as many steps: how far a weight comes is a matter of steps, not of images.
* Two learning rates are tried: the released one, and one at which a network from scratch learns
  in so many steps; at the released one alone it would be no match. LARS moves a weight by a share
  of its norm at any rate, but biases, norms and head would diverge at the higher: theirs is lower.
* A fifth of the training images is held out, and the network is looked at some 20 times. The moment
  counts at which it and the two before were right most often (of equal ones the last), and the
  learning rate whose moment has the lowest cross-entropy: with few held-out images the best single
  accuracy is mostly luck. The paper's number of epochs is fixed. The test images are looked at
  once, at the end. With fewer than 5 images a class nothing is held out: the last epoch counts, at
  the released rate, or at the other from scratch.
* h goes to the head directly; there the first layer of SimCLR's head is between them.

Shapes:  n training images, B of a batch, M that are answered for; K classes; C channels, S pixels a
         side.
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
from selftaught.evaluation.protocols.linear import held_out
from selftaught.evaluation.protocols.linear_sgd import TRAINING_VIEWS, zero_head
from selftaught.evaluation.representation import Representation, whole_batches
from selftaught.evaluation.trial import ProtocolAnswer, Trial, classified
from selftaught.foundation.rng import Key, permutation
from selftaught.training.optimizers import build_optimizer, set_lr
from selftaught.training.schedule import lr_at, scaled_lr
from selftaught.vectors.features import batch_views, evaluating
from selftaught.views.policy import evaluation

EPOCHS, STEPS = 60, 12
"""And of how many steps an epoch is at least, if there are images for them."""
BATCHES = (16, 1024)
"""Images of the smallest batch and of the largest."""
FEW = 5
"""Images a class, on average, below which none is held out."""
MOMENTS, TOGETHER = 20, 3
"""How often a network is looked at while it learns, about, and how many looks make a figure."""

_BATCH = 256  # images at a time where nothing is learnt


@dataclass(frozen=True)
class Rates:
    """Peak learning rates: of weights, and of biases, norms and the head."""

    weights: float
    others: float


RATES = (Rates(0.005, 0.005), Rates(0.32, 0.02))
"""Before their scaling by sqrt(batch); the first are the released ones."""


class Network(nn.Module):
    """A copy of the encoder, and a head of zeros; all of it float32 and to be trained."""

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
    """How so many images are learnt.

    Attributes:
        epochs: How often each image is seen.
        batch_size: B.
        rates: The learning rates that are tried, scaled.
    """

    epochs: int
    batch_size: int
    rates: tuple[Rates, ...]


@dataclass(frozen=True)
class Moment:
    """A network at a moment of its training.

    Attributes:
        network: What it was then.
        rates: The learning rates that led to it.
        epoch: After how many epochs.
        right: How many held-out images it and the moments just before got right, on average.
        loss: Its cross-entropy on them.
    """

    network: Network
    rates: Rates
    epoch: int
    right: float
    loss: float


def finetune(subject: Representation, trial: Trial) -> ProtocolAnswer:
    """Train a copy of the whole network; the encoder that was given stays as it is.

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
            f"{subject.name} diverges when it is fine-tuned",
            "its weights or outputs are very large; train again with a lower --lr",
        )
    return classified(trial, scores_MK.numpy(), _note(subject, recipe, bool(held_n.any())))


def takes(subject: Representation) -> bool:
    """Whether there are weights to train; raw pixels, for one, have none."""
    return subject.encoder is not None and next(subject.encoder.parameters(), None) is not None


def held_out_part(trial: Trial) -> NDArray[np.bool_]:
    """Which training images are held out, (n,): a fifth of each class, but no class's last image.

    None of them is where there are fewer than 5 images a class.
    """
    held_n = next(held_out(torch.from_numpy(trial.labels), trial.seed)).numpy()
    held_n = held_n & (len(trial.labels) >= FEW * len(np.unique(trial.labels)))
    lost = np.setdiff1d(trial.labels, trial.labels[~held_n])
    return held_n & ~np.isin(trial.labels, lost)


def trial_part(trial: Trial, which_n: NDArray[np.bool_]) -> Trial:
    """The trial with some of its training images."""
    return replace(trial, train=trial.train[which_n], labels=trial.labels[which_n])


def blind_rates(subject: Representation) -> tuple[Rates]:
    """Those of an encoder, or of a network from scratch, where no image is left to choose by."""
    released, from_scratch = RATES
    return (released if subject.seed is None else from_scratch,)


def finetune_recipe(learn: Trial, tried: tuple[Rates, ...] = RATES) -> FinetuneRecipe:
    """The released recipe for so many images, at some learning rates."""
    n, (smallest, largest) = len(learn.train), BATCHES
    batch_size = min(n, max(smallest, n // STEPS), largest)
    enough = math.ceil(EPOCHS * STEPS / (n // batch_size))
    return FinetuneRecipe(
        epochs=max(EPOCHS, enough) if learn.epochs is None else learn.epochs,
        batch_size=batch_size,
        rates=tuple(_scaled(rates, batch_size) for rates in tried),
    )


def _scaled(rates: Rates, batch_size: int) -> Rates:
    weights, others = (scaled_lr(r, batch_size, "sqrt") for r in (rates.weights, rates.others))
    return Rates(weights, others)


def best_moment(
    encoder: Encoder, learn: Trial, held: Trial, recipe: FinetuneRecipe
) -> Moment | None:
    """The moment that the held-out images prefer; the last one, if there are none.

    None: the training diverges at once at every learning rate.
    """
    found = [best_at(encoder, learn, held, recipe, rates) for rates in recipe.rates]
    return min(filter(None, found), key=lambda moment: moment.loss, default=None)


def best_at(
    encoder: Encoder, learn: Trial, held: Trial, recipe: FinetuneRecipe, rates: Rates
) -> Moment | None:
    """The same at one learning rate: when most images are right; of equal moments the last."""
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
    """Train; the epochs that have passed and the network, some 20 times and at the end.

    It ends early once a weight is not finite.
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
    """Weights; and biases, norms and the head, without trust ratio and at a rate of their own."""
    head = set(network.head.parameters())
    named = list(network.named_parameters())
    scaled = {name for name, p in named if p.ndim > 1 and p not in head}
    return [
        {"params": [(name, p) for name, p in named if name in scaled]},
        {
            "params": [(name, p) for name, p in named if name not in scaled],
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
    made = batch_views(
        network.encoder,
        learn.images,
        [learn.train[those] for those in positions],
        TRAINING_VIEWS,
        seed=learn.seed,
        epoch=epoch,
        threads=learn.machine.threads,
    )
    with contextlib.closing(made):
        for those, x_BCSS in zip(positions, made, strict=True):
            yield x_BCSS, torch.from_numpy(learn.labels[those]).to(learn.machine.device)


def held_out_accuracy(network: Network, held: Trial) -> tuple[int, float]:
    """How many of the held-out images are right, and the cross-entropy."""
    scores_nK, labels_n = finetune_logits(network, held, held.train), torch.from_numpy(held.labels)
    right = int((scores_nK.argmax(dim=1) == labels_n).sum())
    return right, F.cross_entropy(scores_nK, labels_n).item()


def finetune_logits(network: Network, trial: Trial, rows_M: NDArray[np.int64]) -> Tensor:
    """What the network says of the evaluation view of some images, (M, K), in memory."""
    parts = np.split(rows_M, range(_BATCH, len(rows_M), _BATCH))
    policy = evaluation(network.encoder.config.image_size)
    made = batch_views(network.encoder, trial.images, parts, policy, threads=trial.machine.threads)
    with evaluating(network), contextlib.closing(made):
        return torch.cat([network(x_BCSS).cpu() for x_BCSS in made])


@contextlib.contextmanager
def _keyed_dropout(trial: Trial) -> Iterator[None]:
    """Dropout draws from torch's generators; afterwards they are as they were."""
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
        else "too few images a class to hold any out: the last epoch"
    )
    epochs = f"{recipe.epochs} epoch{'s' * (recipe.epochs != 1)} of batches of {recipe.batch_size}"
    whose = f"{subject.name}: " if subject.seed is not None else ""
    return f"{whose}{epochs}; {how}"
