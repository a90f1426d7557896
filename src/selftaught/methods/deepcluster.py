"""DeepCluster.  Caron, Bojanowski, Joulin, Douze, ECCV 2018 (arXiv 1807.05520).

Cluster the features, then learn to predict the clusters, alternately: `DeepCluster` below.

Shapes:  N images of the store, n of this process's batch; D size of a feature, P of a whitened one;
         k clusters.
Letters: f_theta the encoder, g_W the classifier, x_n an image, y_n its cluster, C the centroids.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from selftaught.clustering import diagnostics, sampling
from selftaught.data.batch import Draws
from selftaught.errors import ConfigError
from selftaught.foundation.rng import Key, torch_seed
from selftaught.methods.method import Features, Method, at_least_float32, without_autocast

if TYPE_CHECKING:
    from selftaught.data.batch import Batch, Progress
    from selftaught.encoders.encoder import Encoder
    from selftaught.views.policy import ViewSpec

PAPERS = ("alexnet", "vgg16")
LR = dict.fromkeys(PAPERS, 0.05) | {"resnet8": 1.0, "resnet20": 1.0}
"""Learning rates by network: docs/methods/deepcluster.md says why."""
DRAW = {"uniform": sampling.uniform_over_clusters, "as_released": sampling.released_code_rows}
FEW = 39
"""Images per cluster; faiss warns of fewer."""


@dataclass(frozen=True)
class DeepClusterOptions:
    """DeepCluster's own options."""

    k: int | None = None
    """Number of clusters; by default one per 128 images (ImageNet's 10,000), from 2 to 10,000."""
    every: int = 1
    """Epochs from one clustering to the next (section 4: 1)."""
    pca: int = 256
    """Largest P (section 3.3)."""
    iterations: int = 20
    """Iterations of k-means (the released code's)."""
    sampling: Literal["uniform", "as_released", "none", "weighted"] = "uniform"
    """An epoch is uniform over clusters (section 3.3), or sampled as in the released code, or has
    every image once: with the plain loss (none), or with a weighted one (section 3.3)."""
    sobel: bool | None = None
    """Whether f sees gradients instead of colours; by default only the paper's networks do."""

    def __post_init__(self) -> None:
        for name in ("every", "pca", "iterations"):
            if (value := getattr(self, name)) < 1:
                raise ConfigError(f"{name} = {value} is too small", f"use --set {name}=1 or more")
        if self.sampling not in (known := (*DRAW, "none", "weighted")):
            raise ConfigError(f"unknown sampling {self.sampling!r}", f"choose {', '.join(known)}")
        if self.k is not None and self.k < 2:
            raise ConfigError(f"k = {self.k} leaves nothing to learn", "use --set k=2 or more")


class DeepCluster(Method):
    """Learn      min_{theta,W}  1/N sum_n l(g_W(f_theta(x_n)), y_n)    (Eq. 1; the lecture's 5.1)
    in turns with min_C  1/N sum_n min_y |f_theta(x_n) - C y|^2         (Eq. 2; the lecture's 5.2).

    Raises:
        ConfigError: The policy makes several views, or `sobel` contradicts the encoder.
    """

    Options = DeepClusterOptions
    wants = frozenset({"labels"})
    labels_N: Tensor
    centroids_KP: Tensor
    figures: Tensor

    def __init__(
        self, encoder: "Encoder", options: DeepClusterOptions, *, policy: "tuple[ViewSpec, ...]"
    ) -> None:
        super().__init__()
        if [view.count for view in policy] != [1]:
            raise ConfigError("deepcluster uses one view per image", "use one view")
        if options.sobel not in (None, encoder.config.front == "sobel"):
            raise ConfigError("--set sobel contradicts the encoder of --init", "drop --set sobel")
        assert options.k is not None, "as `options_for_images` sets it"
        self.encoder, self.policy, self.options = encoder, policy, options
        self.prepares_every = options.every
        self.head = nn.Linear(encoder.dim, options.k)  # g_W
        self.register_buffer("labels_N", torch.zeros(0, dtype=torch.int64))  # y_n
        self.register_buffer("centroids_KP", torch.zeros(0, 0))  # C
        self.register_buffer("figures", torch.zeros(0, dtype=torch.float64))  # of the clustering

    @classmethod
    def recommended(cls, architecture: str) -> dict[str, Any]:
        """The paper's optimizer, with a learning rate for this network's number of features."""
        lr = LR.get(architecture, 0.1)
        constant = {"optimizer": "sgd", "lr": lr, "schedule": "constant", "weight_decay": 1e-5}
        return {f"loop.{name}": value for name, value in constant.items()}

    @classmethod
    def options_for_images(
        cls, options: DeepClusterOptions, images: int
    ) -> tuple[DeepClusterOptions, list[str]]:
        """The options with k for this number of images."""
        k = options.k or int(np.clip(images // 128, 2, 10_000))
        if k > images:
            what = f"k = {k:,} clusters need more than {images:,} images"
            raise ConfigError(what, "use a smaller --set k")
        notes = [f"k = {k:,}: one cluster per 128 images."] if options.k is None else []
        if images < FEW * k:
            few = f"with fewer than {FEW} images per cluster, clusters are mostly chance"
            notes.append(f"{k:,} clusters for {images:,} images: {few}.")
        return replace(options, k=k), notes

    @classmethod
    def front(cls, options: DeepClusterOptions, architecture: str) -> str:
        """Sobel filters if `sobel` requests them; by default only for the paper's networks."""
        wanted = architecture in PAPERS if options.sobel is None else options.sobel
        return "sobel" if wanted else "none"

    def begin_epoch(
        self, features: Features, labels: NDArray[Any] | None, progress: "Progress"
    ) -> Draws | None:
        """Eq. 2 once in `every` epochs, and the rows for Eq. 1."""
        if progress.epoch % self.options.every == 0 or not len(self.labels_N):
            self._cluster(features, labels, progress)
        if self.options.sampling not in DRAW:
            return None
        key = Key(progress.seed, "deepcluster/draws", progress.epoch)
        return Draws(DRAW[self.options.sampling](self.labels_N.cpu().numpy(), key))

    def _cluster(
        self, features: Features, labels: NDArray[Any] | None, progress: "Progress"
    ) -> None:
        """Compute y_n and C from the whitened f_theta(x_n), and reset g_W."""
        from selftaught.clustering.kmeans import kmeans  # late: Eq. 1 needs neither
        from selftaught.clustering.whitening import Whitening

        device, options = self.head.weight.device, self.options
        f_ND = features(before_final=True)
        x_NP = Whitening.fit(f_ND, options.pca, device=device)(f_ND, device=device)
        seed = Key(progress.seed, "deepcluster/kmeans", progress.epoch).words()[0]
        k, steps = self.head.out_features, options.iterations
        found = kmeans(x_NP, k, seed=seed, iterations=steps, device=device)
        figures = diagnostics.clustering_metrics(found, self.labels_N, labels)
        self.figures = torch.tensor(figures, dtype=torch.float64, device=device)
        self.labels_N, self.centroids_KP = found.labels_N.to(device), found.centroids_KD.to(device)
        self._reset_head(torch.Generator().manual_seed(torch_seed(seed, progress.epoch)))

    @torch.no_grad()
    def _reset_head(self, generator: torch.Generator) -> None:
        """W ~ N(0, 0.01), bias 0: clusters have new numbers."""
        W = torch.empty(self.head.weight.shape).normal_(0, 0.01, generator=generator)
        self.head.weight.copy_(W)
        self.head.bias.zero_()

    def embed(self, batch: "Batch") -> dict[str, Tensor]:
        """h = f_theta(x_n), (n, D)."""
        return {"h": self.encoder(batch.views[0])}

    def loss(self, embedded: dict[str, Tensor], batch: "Batch") -> Tensor:
        """Eq. 1 over this process's images."""
        y_n = self.labels_N[batch.rows.to(self.labels_N.device)]
        with without_autocast(embedded["h"]):
            g_nk = self.head(at_least_float32(embedded["h"]))
            loss_n = F.cross_entropy(g_nk, y_n, reduction="none")
            if self.options.sampling == "weighted":
                loss_n = sampling.weights(self.labels_N, g_nk.shape[1]).to(loss_n)[y_n] * loss_n
        return loss_n.mean()

    def param_groups(self, progress: "Progress") -> list[dict[str, Any]]:
        """g_W has its own SGD, without momentum, which restarts with each clustering."""
        named = list(self.named_parameters())
        head = {"params": [(n, p) for n, p in named if n.startswith("head.")], "momentum": 0.0}
        restart = progress.epoch % self.options.every == 0
        return [
            {"params": [(n, p) for n, p in named if not n.startswith("head.")]},
            head | {"restart": restart},
        ]

    def chance(self, batch: "Batch") -> float:
        """The entropy of the sampled clusters: the best loss of a constant output."""
        found = self.metrics()
        if self.options.sampling in ("uniform", "weighted"):
            return math.log(found["clusters_used"])
        return found["entropy"] * math.log(self.head.out_features)

    def metrics(self) -> dict[str, float]:
        """`diagnostics.FIGURES` of the last clustering."""
        found = zip(diagnostics.FIGURES, self.figures.tolist(), strict=True)
        return {name: figure for name, figure in found if figure != diagnostics.NONE}

    def alarms(self, history: Sequence[dict[str, Any]]) -> list[str]:
        """Whether the clusters separate images."""
        return diagnostics.clustering_alarms(history[-1], self.head.out_features) if history else []
