"""SimCLR.  Chen, Kornblith, Norouzi, Hinton, ICML 2020 (arXiv 2002.05709).

Each view must find the other view of its image among all views of the batch: `SimCLR` below.

Shapes:  N images on this process, M on all of them; D projection size; J negatives per query.
         Of 2N rows, 2k and 2k+1 are the two views of image k (2k-1 and 2k in the paper).
Letters: f encoder, g head, h = f(x~), z = g(h), s_ij the cosine of z_i and z_j, tau temperature.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selftaught.errors import ConfigError, UserError
from selftaught.foundation.distributed import rank, world
from selftaught.methods.method import Method, at_least_float32, lines_at_chance, without_autocast
from selftaught.pairwise import contrast

if TYPE_CHECKING:
    from selftaught.data.batch import Batch
    from selftaught.encoders.encoder import Encoder
    from selftaught.views.policy import ViewSpec


def unit(z: Tensor) -> Tensor:
    """z / |z| along the last axis, in at least float32; rows shorter than 1e-6 stay shorter."""
    return F.normalize(at_least_float32(z), dim=-1, eps=1e-6)


def cosine(query_ND: Tensor, keys: Tensor) -> Tensor:
    """Cosines of each query with its own keys (N, J, D), or with shared keys (J, D): (N, J)."""
    return (unit(query_ND)[:, None] @ unit(keys).mT)[:, 0]


def info_nce(
    query_ND: Tensor,
    positive_ND: Tensor,
    negatives: Tensor,
    score: Callable[[Tensor, Tensor], Tensor] = cosine,
    tau: float = 1.0,
) -> Tensor:
    """-E[ log( exp s(f(x), f(x+)) / (exp s(f(x), f(x+)) + sum_j exp s(f(x), f(x_j-))) ) ].

    The lecture's Eq. 4.1, j = 1 .. N-1, with s / tau for s: a scalar in at least float32. Negatives
    are (N, J, D) per query or (J, D) for all; `score` maps (N, D) and such keys to (N, J).

    Raises:
        UserError: `negatives` is empty.
    """
    if negatives.shape[-2] == 0:
        raise UserError("info_nce got no negatives", "pass at least one")
    with without_autocast(query_ND):
        query_ND, positive_ND = at_least_float32(query_ND), at_least_float32(positive_ND)
        s_positive_N1 = score(query_ND, positive_ND[:, None])
        s = torch.cat([s_positive_N1, score(query_ND, at_least_float32(negatives))], dim=1) / tau
        return F.cross_entropy(s, s.new_zeros(len(s), dtype=torch.long))


def nt_xent(z0_ND: Tensor, z1_ND: Tensor, tau: float) -> Tensor:
    """Eq. 1, mean over all positive pairs: -log( exp(s_ij/tau) / sum_{k != i} exp(s_ik/tau) ).

    Over this process's 2N views, against the 2M of all: the mean over processes is the loss of the
    whole batch, and so is its gradient. A scalar in at least float32.

    Raises:
        UserError: There is only one image, or processes hold different numbers of images.
    """
    z_N2D = unit(torch.stack([z0_ND, z1_ND], dim=1))
    return eq_1(*contrast.gather_rows(z_N2D), tau)


def eq_1(z_iD: Tensor, z_kD: Tensor, tau: float) -> Tensor:
    """Eq. 1 of z / |z|: this process's views (2N, D) and all (2M, D); j = i ^ 1 is i's positive.

    `contrast` sums exp(s_ik/tau) over k != i, j of many rows without storing s, and Eq. 1 is then
    -log sigmoid( s_ij/tau - log of that sum ).
    """
    first = rank() * len(z_iD)
    if contrast.can_tile(len(z_kD), tau, z_kD.dtype):
        s_ij = (z_iD[0::2] * z_iD[1::2]).sum(1, keepdim=True)  # = s_ji
        others = contrast.log_sum_exp(z_iD, z_kD, tau, first).view(-1, 2)
        return -F.logsigmoid(s_ij / tau - others).mean()
    with without_autocast(z_iD):
        s_ik = z_iD / tau @ z_kD.T  # (2N, 2M): s_ik / tau
    i = first + torch.arange(len(z_iD), device=s_ik.device)
    return F.cross_entropy(s_ik.scatter_(1, i[:, None], -math.inf), i ^ 1)  # the sum skips k = i


@dataclass(frozen=True)
class SimCLROptions:
    """SimCLR's own options."""

    temperature: float = 0.1
    """tau of Eq. 1 (google-research/simclr's default; 0.5 for CIFAR-10)."""
    projection: int = 128
    """Size of z (Chen et al. 2020, section 2.3)."""
    hidden: int = 0
    """Width of the head's middle layers; 0: that of h (google-research/simclr)."""
    head: Literal["paper", "bn", "released"] = "paper"
    """g: W2 relu(W1 h) (section 2.1); bn: W2 relu(BN(W1 h)); released: the code's three layers."""

    def __post_init__(self) -> None:
        positive = self.temperature > 0 and self.projection > 0 and self.hidden >= 0
        if not positive or self.head not in ("paper", "bn", "released"):
            raise ConfigError(f"{self} has a value out of range", "see docs/methods/simclr.md")


class Head(nn.Module):
    """g, from h (..., dim) to z (..., projection); its last layer computes in at least float32."""

    def __init__(self, dim: int, options: SimCLROptions) -> None:
        super().__init__()
        hidden, released = options.hidden or dim, options.head == "released"
        middle: list[nn.Module] = []
        for width in [dim, hidden] if released else [dim]:
            middle.append(nn.Linear(width, hidden, bias=False))
            if options.head != "paper":
                middle.append(nn.BatchNorm1d(hidden))
            middle.append(nn.ReLU())
        self.middle = nn.Sequential(*middle)
        self.last = nn.Sequential(nn.Linear(hidden, options.projection, bias=False))
        if released:
            self.last.append(nn.BatchNorm1d(options.projection))
            self.last[-1].register_parameter("bias", None)  # gamma, no beta
            for weight in (p for p in self.parameters() if p.ndim == 2):
                nn.init.normal_(weight, std=0.01)

    def forward(self, h: Tensor) -> Tensor:
        """z = g(h)."""
        x = self.middle(h)
        with without_autocast(x):
            z: Tensor = self.last(at_least_float32(x))
        return z


class SimCLR(Method):
    """Algorithm 1; the encoder f is kept, the head g is discarded.

    Raises:
        ConfigError: The policy, t and t', does not make two views of one size.
    """

    Options = SimCLROptions
    contrasts_images, views = True, 2

    def __init__(
        self, encoder: "Encoder", options: SimCLROptions, *, policy: "tuple[ViewSpec, ...]"
    ) -> None:
        super().__init__()
        if [v.size for v in policy for _ in range(v.count)] != [policy[0].size] * 2:
            raise ConfigError("simclr compares two views of one size", "use two views of one size")
        self.encoder, self.policy, self.options = encoder, policy, options
        self.head = Head(encoder.dim, options)
        self._last: tuple[Tensor, Tensor] | None = None  # rows that were contrasted, for metrics

    def embed(self, batch: "Batch") -> dict[str, Tensor]:
        """h (N, 2, dim) and z (N, 2, projection); both views pass as one batch of 2N."""
        x = torch.cat(batch.views)  # x~_{2k-1} = t(x_k), x~_2k = t'(x_k)
        h = self.encoder(x)  # h = f(x~)
        z = self.head(h)  # z = g(h)
        return {name: torch.stack(y.chunk(2), dim=1) for name, y in (("h", h), ("z", z))}

    def loss(self, embedded: dict[str, Tensor], batch: "Batch") -> Tensor:
        """L of Algorithm 1, over this process's images."""
        z_iD, z_kD = contrast.gather_rows(unit(embedded["z"]))
        self._last = z_iD.detach(), z_kD.detach()
        return eq_1(z_iD, z_kD, self.options.temperature)

    def chance(self, batch: "Batch") -> float:
        """ln(2M - 1): all views are identical."""
        return math.log(2 * len(batch.rows) * world() - 1)

    def metrics(self) -> dict[str, float]:
        """Contrastive accuracy: the share of views that are most similar to their positive."""
        if self._last is None:
            return {}
        first = rank() * len(self._last[0])
        return {"contrastive_accuracy": contrast.contrastive_accuracy(*self._last, first)}

    def alarms(self, history: Sequence[dict[str, Any]]) -> list[str]:
        """Whether the loss was at chance for 200 steps while views were matched by guessing."""
        if not (recent := lines_at_chance(history)):
            return []
        chance = recent[-1]["chance"]
        matched = sum(line["contrastive_accuracy"] for line in recent) / len(recent)
        guessed = math.exp(-chance)  # one of the 2M - 1 others
        alarm = _COLLAPSED.format(chance, 100 * matched, 100 * guessed)
        return [alarm] if matched < 2 * guessed else []


_COLLAPSED = (
    "For 200 steps the loss has been within 1 % of chance ({:.3f}), and only {:.2g} % of views "
    "match their pair (chance: {:.2g} %). The network has collapsed or does not train: lower --lr, "
    "or look at its views with selftaught preview."
)
