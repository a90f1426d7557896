"""How checkpoints of other programs name their tensors: layouts, found behind any prefix.

Who trains an encoder wraps it: MoCo's tensors begin with encoder_q., those of solo-learn and
lightly with backbone., DINO's with teacher.backbone., VISSL's lie five mappings deep. A layout
knows the name of its network's first layer; whatever stands before that name is a prefix.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from selftaught.encoders.encoder import EncoderConfig
from selftaught.errors import FileError
from selftaught.views.policy import Intensity

PIXELS = {
    "imagenet": Intensity(),
    "unit": Intensity(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    "symmetric": Intensity(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
}
"""What pixels become: less ImageNet's mean, by its std; 0 to 1; -1 to 1."""

LICENCE = "Mind the licence of whoever trained these weights: the file does not name it."

_SECOND = re.compile(
    r"momentum|target|encoder_k|student|(^|_)ema(\.|_|$)"
)  # taken only where nothing else fits
_ASIDE = re.compile(
    r"(^|_)(fc|heads?|classif\w*|linear|proj\w*|predict\w*|prototypes?|mlp|logits|queue|decoder"
    r"|mask_token|top_layer|l[12]|momentum|target|encoder_k|student|ema)\d*(_|$)"
)
_CONTAINERS = re.compile(r"^((state_dict|model)\.)+")
_NAMED = 6  # layers in a note


@dataclass(frozen=True)
class LayoutMatch:
    """A network that named tensors are of.

    Attributes:
        config: The encoder's configuration, with the side that its images have by default.
        tensors: By the names of the encoder's trunk; a name that it does not have stays.
        notes: What is to be said of it, in sentences.
        one_size: Why images can have no other side; "" where they can.
    """

    config: EncoderConfig
    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    one_size: str = ""


@dataclass(frozen=True)
class NameLayout:
    """How one program names the tensors of its networks.

    Attributes:
        whose: Such as "a checkpoint of DeepCluster (Caron et al. 2018)".
        first: The name of a tensor that each of its files has; what stands before it is a prefix.
        match: From tensors without their prefix to the network; None if it is none of this layout.
            A FileError with the path is for what is of this layout, and wrong.
        licence: What to mind, in a sentence.
    """

    whose: str
    first: str
    match: Callable[[dict[str, Tensor], Path], LayoutMatch | None]
    licence: str = LICENCE


@dataclass(frozen=True)
class Found:
    """A match, whose it is, the prefix that its names had, and what to mind."""

    whose: str
    prefix: str
    match: LayoutMatch
    licence: str


def recognised(
    tensors: Mapping[str, Tensor],
    layouts: Iterable[NameLayout],
    path: Path,
    architecture: str | None,
) -> Found | None:
    """What the tensors are of, by the first layout that knows them.

    Of several prefixes that fit, the longest; but MoCo's encoder_q goes before its encoder_k, an
    online network before its target, and DINO's teacher, which is what DINO evaluates, before the
    student.

    Args:
        tensors: By their names in the file.
        layouts: In the order in which they are tried.
        path: Of the file, for complaints.
        architecture: Only this network; None: any.
    """
    for layout in layouts:
        found = []
        for prefix in _prefixes(tensors, layout.first):
            match = layout.match(under(prefix, tensors), path)
            if match and architecture in (None, match.config.architecture):
                found.append(Found(layout.whose, prefix, match, layout.licence))
        if found:
            return max(found, key=lambda one: _rank(one.prefix))
    return None


def best_prefix(tensors: Mapping[str, Tensor], own: Iterable[str]) -> str:
    """The prefix under which most names of a network are; "" where there are none."""
    names, cuts = set(own), {""}
    for name in tensors:
        parts = name.split(".")
        cuts |= {
            "".join(f"{part}." for part in parts[:i])
            for i in range(1, len(parts))
            if ".".join(parts[i:]) in names
        }
    return max(cuts, key=lambda cut: (len(names & under(cut, tensors).keys()), *_rank(cut)))


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with the prefix, without it."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def renamed(
    tensors: Mapping[str, Tensor], ours: Callable[[str], str], path: Path
) -> dict[str, Tensor]:
    """Tensors under other names.

    Raises:
        FileError: Two of them would have one name.
    """
    found = {ours(name): tensor for name, tensor in tensors.items()}
    if len(found) < len(tensors):
        raise FileError(f"{path} holds a layer under two names", "leave one of them out")
    return found


def is_aside(name: str) -> bool:
    """Whether a tensor of this name is clearly of a head, a queue or a second branch."""
    return bool(_ASIDE.search(name.split(".")[0].lower()))


def taken(prefix: str) -> str:
    """A sentence that names the prefix, where it says more than that it holds a state_dict."""
    shown = _CONTAINERS.sub("", prefix)
    return f"Taken: {shown}*." if shown else ""


def left_out(tensors: Mapping[str, Tensor], prefix: str) -> str:
    """A sentence on tensors that are not kept: layers with their outputs, others by their number.

    Args:
        tensors: By their names in the file.
        prefix: Of those that are kept.
    """
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        groups.setdefault(_sibling(name, prefix), {})[name] = tensor
    parts = [_described(group) for group in groups.values()]
    more = f" and {len(parts) - _NAMED} more" if len(parts) > _NAMED else ""
    return f"Left out: {', '.join(parts[:_NAMED])}{more}." if parts else ""


def _prefixes(tensors: Mapping[str, Tensor], first: str) -> list[str]:
    ends = (name for name in tensors if f".{name}".endswith(f".{first}"))
    return [name.removesuffix(first) for name in ends]


def _rank(prefix: str) -> tuple[bool, int]:
    return not _SECOND.search(prefix), len(prefix)


def _sibling(name: str, prefix: str) -> str:
    """A name down to where it parts from the prefix."""
    shared = _shared([name, prefix])
    return ".".join(name.split(".")[: len(shared) + 1])


def _shared(names: Iterable[str]) -> list[str]:
    """The parts that names begin with."""
    places = zip(*(name.split(".") for name in names), strict=False)
    return [parts[0] for parts in itertools.takewhile(lambda parts: len(set(parts)) == 1, places)]


def _described(group: Mapping[str, Tensor]) -> str:
    """Such as "fc (1,000 outputs)", "projector (6 tensors)" or "queue"."""
    shared = _shared(group)
    if shared[-1] in ("weight", "bias"):
        shared.pop()
    name = _CONTAINERS.sub("", ".".join(shared))
    layers = [len(t) for n, t in group.items() if n.endswith("weight") and t.ndim == 2]
    if len(layers) == 1 and len(group) <= 2:
        return f"{name} ({layers[0]:,} outputs)"
    return f"{name} ({len(group)} tensors)" if len(group) > 1 else name
