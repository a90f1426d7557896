"""The paper's figure 4 on the user's own images: a row an operation, with probability 1.

Chen et al. 2020, figure 4, in its order; below a line the operations that are not in it. Ranges are
those of the settings, so that the picture shows what training with them would do.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from selftaught import assemble
from selftaught.config import ViewSettings
from selftaught.data.store import Images
from selftaught.errors import ConfigError
from selftaught.keep import KEEP
from selftaught.report.contents import drawn_rows, seen
from selftaught.report.sheets import Line, labelled_sheet, pictures
from selftaught.views.policy import Blur, CenterCrop, Policy, ViewSpec, check_channels

_PAPER = {  # the row's name: what happens besides the box, which is the whole image's by default
    "original": (),
    "crop and resize": ("crop",),
    "crop, resize and flip": ("crop", "flip"),
    "colour drop": ("gray",),
    "colour jitter": ("jitter",),
    "rotate": ("rotate",),
    "cutout": ("cutout",),
    "Gaussian noise": ("noise",),
    "Gaussian blur": ("blur",),
    "Sobel filtering": ("sobel",),
}
_OURS = {"solarise": ("solarise",), "channel jitter": ("channel_jitter",)}
_OURS |= {"band drop": ("band_drop",)}
_PROBABILITIES = [names["p"] for names in assemble.OPERATIONS.values()]


@dataclass(frozen=True)
class Row:
    """An operation as the figure shows it; `words` are its ranges."""

    name: str
    words: str
    policy: Policy


@dataclass(frozen=True)
class Figure:
    """The rows of the paper and ours, and the names of those left out, with the reason."""

    paper: list[Row]
    ours: list[Row]
    left_out: list[str]


def figure(
    views: ViewSettings,
    size: int,
    channels: int,
    words: Iterable[str] = (),
    asked: Collection[str] = (),
) -> Figure:
    """Which operations are shown for images of so many channels.

    Args:
        views: The ranges of the operations; their probabilities do not matter.
        size: Side of a view in pixels.
        channels: Of the images.
        words: Of --keep; what they exclude is not shown.
        asked: Dotted names that the user has set, which --keep leaves alone.
    """
    excluded = {n: word for word in words for n in KEEP[word] if f"views.{n}" not in asked}
    paper: list[Row] = []
    ours: list[Row] = []
    left_out = []
    for rows, table in ((paper, _PAPER), (ours, _OURS)):
        for name, operations in table.items():
            row = Row(name, _ranges(name, views, channels), _policy(views, operations))
            reasons = [f"--keep {excluded[n]}" for n in operations if n in excluded]
            if reason := "".join(reasons) or _senseless(row.policy, size, channels):
                left_out.append(f"{name} ({reason})")
            else:
                rows.append(row)
    return Figure(paper, ours, left_out)


def draw(shown: Figure, images: Images, *, size: int, seed: int, number: int) -> bytes:
    """The figure as a PNG file: `number` images drawn at random, a column each."""
    raw, intensity = images.store.read(drawn_rows(images, seed, number)), images.checked.intensity

    def lines(rows: list[Row]) -> Iterator[Line]:
        for row in rows:
            views = seen(raw, ViewSpec(row.policy, size), intensity, seed=seed, number=1)
            yield Line(row.name, row.words, pictures(views[0]))

    blocks = [list(lines(rows)) for rows in (shown.paper, shown.ours) if rows]
    return labelled_sheet(blocks, side=size * -(-96 // size))


def _policy(views: ViewSettings, operations: Iterable[str]) -> Policy:
    always = {name: float(name in operations) for name in _PROBABILITIES}
    policy = assemble.policy(replace(views, normalise=False, **always))  # type: ignore[arg-type]
    return policy if "crop" in operations else replace(policy, box=CenterCrop())


def _senseless(policy: Policy, size: int, channels: int) -> str:
    """Why an operation makes no sense for such images; nothing where it does."""
    try:
        check_channels(policy, channels)
    except ConfigError as error:
        return error.what
    blurs = [operation for operation in policy.operations if isinstance(operation, Blur)]
    return f"at {size} px its kernel is one pixel" if blurs and blurs[0].width(size) == 1 else ""


def _ranges(name: str, v: ViewSettings, channels: int) -> str:
    """The ranges of an operation in a few characters."""
    colours = channels == 3
    strengths = [v.brightness, v.contrast, *[v.saturation] * colours]
    factors = ", ".join(f"±{strength:g}" for strength in dict.fromkeys(strengths))
    return {
        "crop and resize": f"area {_span(v.crop_scale)}",
        "colour jitter": factors + f", hue ±{v.hue:g}" * colours,
        "rotate": "90, 180 or 270 degrees",
        "cutout": f"side {_span(v.cutout_side)}",
        "Gaussian noise": f"sigma {_span(v.noise_sigma)}",
        "Gaussian blur": f"sigma {_span(v.sigma)} px",
        "solarise": f"from {v.threshold:g} on",
        "channel jitter": f"gain {_span(v.gain)}",
        "band drop": f"each with {v.band_share:g}",
    }.get(name, "")


def _span(bounds: tuple[float, float]) -> str:
    low, high = bounds
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
