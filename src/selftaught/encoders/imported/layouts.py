"""How checkpoints of other programs name their tensors: layouts, found behind any prefix.

Training code wraps an encoder: MoCo's tensors begin with encoder_q., those of solo-learn and
lightly with backbone., DINO's with teacher.backbone., VISSL's are five mappings deep. A layout
knows the name of its network's first layer; whatever precedes that name is a prefix.
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
"""Pixel ranges: by ImageNet's mean and std; 0 to 1; -1 to 1."""

LICENCE = "Check the licence of these weights: the file does not state it."

_SECOND = re.compile(
    r"momentum|target|encoder_k|student|(^|_)ema(\.|_|$)"
)  # used only if nothing else fits
_ASIDE = re.compile(
    r"(^|_)(fc|heads?|classif\w*|linear|proj\w*|predict\w*|prototypes?|mlp|logits|queue|decoder"
    r"|mask_token|top_layer|l[12]|momentum|target|encoder_k|student|ema)\d*(_|$)"
)
_CONTAINERS = re.compile(r"^((state_dict|model)\.)+")
_NAMED = 6  # layers listed in a note


@dataclass(frozen=True)
class LayoutMatch:
    """The network that named tensors belong to.

    Attributes:
        config: The encoder's configuration, with its default image size.
        tensors: Tensors by the names of the encoder's trunk; names that it lacks stay.
        notes: Sentences about the network.
        one_size: What fixes the image size; "" if nothing does.
    """

    config: EncoderConfig
    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    one_size: str = ""


@dataclass(frozen=True)
class NameLayout:
    """How one program names the tensors of its networks.

    Attributes:
        whose: Kind of file, such as "a checkpoint of DeepCluster (Caron et al. 2018)".
        first: Name of a tensor that each of its files has; whatever precedes it is a prefix.
        match: From tensors without their prefix to the network; None for another layout. Tensors
            of this layout that are wrong raise a FileError with the path.
        licence: A sentence about the licence.
    """

    whose: str
    first: str
    match: Callable[[dict[str, Tensor], Path], LayoutMatch | None]
    licence: str = LICENCE


@dataclass(frozen=True)
class PrefixedMatch:
    """A match with its kind of file, the prefix of its names, and its licence."""

    whose: str
    prefix: str
    match: LayoutMatch
    licence: str


def recognise(
    tensors: Mapping[str, Tensor],
    layouts: Iterable[NameLayout],
    path: Path,
    architecture: str | None,
) -> PrefixedMatch | None:
    """The match of the first layout that recognises the tensors.

    Of several prefixes that fit, the longest wins; but MoCo's encoder_q wins over its encoder_k, an
    online network over its target, and DINO's teacher, which DINO evaluates, over the student.

    Args:
        tensors: Tensors by their names in the file.
        layouts: Layouts in the order in which they are tried.
        path: The file, for error messages.
        architecture: The only network to accept; None: any.
    """
    for layout in layouts:
        found = []
        for prefix in _prefixes(tensors, layout.first):
            match = layout.match(strip_prefix(prefix, tensors), path)
            if match and architecture in (None, match.config.architecture):
                found.append(PrefixedMatch(layout.whose, prefix, match, layout.licence))
        if found:
            return max(found, key=lambda one: _rank(one.prefix))
    return None


def best_prefix(tensors: Mapping[str, Tensor], own: Iterable[str]) -> str:
    """The prefix of most names of a network; "" if no names match."""
    names, cuts = set(own), {""}
    for name in tensors:
        parts = name.split(".")
        cuts |= {
            "".join(f"{part}." for part in parts[:i])
            for i in range(1, len(parts))
            if ".".join(parts[i:]) in names
        }
    return max(cuts, key=lambda cut: (len(names & strip_prefix(cut, tensors).keys()), *_rank(cut)))


def strip_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with the prefix, without it."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def rename_tensors(
    tensors: Mapping[str, Tensor], ours: Callable[[str], str], path: Path
) -> dict[str, Tensor]:
    """The tensors under the names that `ours` returns.

    Raises:
        FileError: Two of them would have the same name.
    """
    found = {ours(name): tensor for name, tensor in tensors.items()}
    if len(found) < len(tensors):
        raise FileError(f"{path} holds a layer under two names", "remove one of them")
    return found


def is_auxiliary(name: str) -> bool:
    """Whether a tensor of this name clearly belongs to a head, a queue or a second branch."""
    return bool(_ASIDE.search(name.split(".")[0].lower()))


def prefix_note(prefix: str) -> str:
    """A sentence that names the prefix; "" if it is only a container such as state_dict."""
    inner = _CONTAINERS.sub("", prefix)
    return f"Imported: {inner}*." if inner else ""


def omission_note(tensors: Mapping[str, Tensor], prefix: str) -> str:
    """A sentence on tensors that are not imported: layers with their outputs, others by number.

    Args:
        tensors: Tensors by their names in the file.
        prefix: Prefix of the imported tensors.
    """
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        groups.setdefault(_sibling(name, prefix), {})[name] = tensor
    parts = [_description(group) for group in groups.values()]
    more = f" and {len(parts) - _NAMED} more" if len(parts) > _NAMED else ""
    return f"Left out: {', '.join(parts[:_NAMED])}{more}." if parts else ""


def _prefixes(tensors: Mapping[str, Tensor], first: str) -> list[str]:
    ends = (name for name in tensors if f".{name}".endswith(f".{first}"))
    return [name.removesuffix(first) for name in ends]


def _rank(prefix: str) -> tuple[bool, int]:
    return not _SECOND.search(prefix), len(prefix)


def _sibling(name: str, prefix: str) -> str:
    """A name up to the part that differs from the prefix."""
    shared = _shared_parts([name, prefix])
    return ".".join(name.split(".")[: len(shared) + 1])


def _shared_parts(names: Iterable[str]) -> list[str]:
    """The leading parts that all names share."""
    places = zip(*(name.split(".") for name in names), strict=False)
    return [parts[0] for parts in itertools.takewhile(lambda parts: len(set(parts)) == 1, places)]


def _description(group: Mapping[str, Tensor]) -> str:
    """Such as "fc (1,000 outputs)", "projector (6 tensors)" or "queue"."""
    shared = _shared_parts(group)
    if shared[-1] in ("weight", "bias"):
        shared.pop()
    name = _CONTAINERS.sub("", ".".join(shared))
    layers = [len(t) for n, t in group.items() if n.endswith("weight") and t.ndim == 2]
    if len(layers) == 1 and len(group) <= 2:
        return f"{name} ({layers[0]:,} outputs)"
    return f"{name} ({len(group)} tensors)" if len(group) > 1 else name
