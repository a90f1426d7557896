"""The command preview: a contact sheet of augmented views, or the paper's figure of operations.

The figure is figure 4 of Chen et al. 2020 for the user's own images: a row per operation, each with
probability 1, in the paper's order; below a rule, the operations that the paper does not have. The
ranges are those of the settings, so the sheet shows the effect of training with them.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from selftaught.commands.result import Answer
from selftaught.data.open_images import check_data, open_images
from selftaught.data.store import Images
from selftaught.errors import ConfigError
from selftaught.foundation.files import write_bytes
from selftaught.foundation.outputs import check_out, check_suffix, claim
from selftaught.options.train import Preview
from selftaught.recipe.build import view_specs
from selftaught.recipe.config import Config, ViewSettings, assigned_overrides
from selftaught.recipe.keep import KEEP
from selftaught.recipe.presets import FIGURE
from selftaught.recipe.resolve import resolve_views, view_wishes
from selftaught.recipe.view_settings import OPERATIONS, view_policy
from selftaught.reports.run.run_page import preview_sheet, random_rows, random_views
from selftaught.reports.sheets import SheetLine, labelled_sheet, pictures
from selftaught.views.policy import Blur, CenterCrop, Policy, ViewSpec, check_channels

_LARGEST_SHEET = 10**8  # pixels


def preview(chosen: Preview) -> Answer:
    """Draw a contact sheet of views as in pretrain, or the paper's figure.

    Raises:
        ConfigError: A policy or an option is unknown, or makes no sense for these images.
        FileError: --out exists.
    """
    machine = chosen.machine()
    check_suffix(chosen.out, ".png")
    check_out(chosen.out, "a file", overwrite=chosen.overwrite)
    asked = view_wishes(chosen)
    checked = check_data(asked.first.data, machine)
    resolved = resolve_views(asked, checked, machine.device)
    number = min(chosen.rows, len(checked))
    _check_sheet(number, resolved.config.network.image_size)
    images = open_images(resolved.config.data, machine, checked=checked)
    if chosen.policy == FIGURE:
        drawn, text = _figure(resolved.config, images, chosen, number)
    else:
        spec = view_specs(resolved.config)[0]
        drawn = preview_sheet(images, spec, checked.intensity, seed=chosen.seed, number=number)
        text = "\n".join([f"{number} images, 8 views of each: {chosen.out}", *resolved.notes])
    claim(chosen.out, "a file", overwrite=chosen.overwrite)
    write_bytes(chosen.out, drawn)
    return Answer(str(chosen.out), text)


def _check_sheet(number: int, size: int) -> None:
    """Refuse sheets too large to open; a row has about ten views."""
    if 10 * number * size**2 > _LARGEST_SHEET:
        raise ConfigError(
            f"a sheet of {number} images with views of {size} px would be too large",
            "use a smaller --image-size or fewer --rows",
        )


def _figure(config: Config, images: Images, chosen: Preview, number: int) -> tuple[bytes, str]:
    """The paper's figure as a PNG file, and a summary of it."""
    size = config.network.image_size
    asked = assigned_overrides(chosen.set)
    shown = operations_figure(config.views, size, images.store.channels, chosen.keep, asked)
    rows = [*shown.paper, *shown.ours]
    text = f"{number} images, each with {len(rows)} operations: {chosen.out}"
    text += "".join(f"\nnot shown: {reason}" for reason in shown.left_out)
    return draw_figure(shown, images, size=size, seed=chosen.seed, number=number), text


# ---- the figure

_PAPER = {  # row: its operations; without "crop" the view shows the whole image
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
_PROBABILITIES = [names["p"] for names in OPERATIONS.values()]


@dataclass(frozen=True)
class FigureRow:
    """A row of the figure; `words` are the ranges of its operation."""

    name: str
    words: str
    policy: Policy


@dataclass(frozen=True)
class Figure:
    """The paper's rows and ours, and those left out, each with the reason."""

    paper: list[FigureRow]
    ours: list[FigureRow]
    left_out: list[str]


def operations_figure(
    views: ViewSettings,
    size: int,
    channels: int,
    words: Iterable[str] = (),
    asked: Collection[str] = (),
) -> Figure:
    """The rows of the figure for images with this number of channels.

    Args:
        views: The ranges of the operations; their probabilities do not matter.
        size: Side of a view in pixels.
        channels: Channels of the images.
        words: The values of --keep, which exclude operations.
        asked: Dotted names that the user has set, which --keep does not exclude.
    """
    excluded = {n: word for word in words for n in KEEP[word] if f"views.{n}" not in asked}
    paper: list[FigureRow] = []
    ours: list[FigureRow] = []
    left_out = []
    for rows, table in ((paper, _PAPER), (ours, _OURS)):
        for name, operations in table.items():
            row = FigureRow(name, _ranges_text(name, views, channels), _policy(views, operations))
            reasons = [f"--keep {excluded[n]}" for n in operations if n in excluded]
            if reason := "".join(reasons) or _useless_reason(row.policy, size, channels):
                left_out.append(f"{name} ({reason})")
            else:
                rows.append(row)
    return Figure(paper, ours, left_out)


def draw_figure(shown: Figure, images: Images, *, size: int, seed: int, number: int) -> bytes:
    """The figure as a PNG file, with one column for each of `number` random images."""
    raw, intensity = images.store.read(random_rows(images, seed, number)), images.checked.intensity

    def lines(rows: list[FigureRow]) -> Iterator[SheetLine]:
        for row in rows:
            views = random_views(raw, ViewSpec(row.policy, size), intensity, seed=seed, number=1)
            yield SheetLine(row.name, row.words, pictures(views[0]))

    blocks = [list(lines(rows)) for rows in (shown.paper, shown.ours) if rows]
    return labelled_sheet(blocks, side=size * -(-96 // size))


def _policy(views: ViewSettings, operations: Iterable[str]) -> Policy:
    always = {name: float(name in operations) for name in _PROBABILITIES}
    policy = view_policy(replace(views, normalise=False, **always))  # type: ignore[arg-type]
    return policy if "crop" in operations else replace(policy, box=CenterCrop())


def _useless_reason(policy: Policy, size: int, channels: int) -> str:
    """Why an operation is useless for these images; "" if it is not."""
    try:
        check_channels(policy, channels)
    except ConfigError as error:
        return error.what
    blurs = [operation for operation in policy.operations if isinstance(operation, Blur)]
    return f"its kernel is one pixel at {size} px" if blurs and blurs[0].width(size) == 1 else ""


def _ranges_text(name: str, v: ViewSettings, channels: int) -> str:
    """The ranges of an operation, abbreviated."""
    colours = channels == 3
    strengths = [v.brightness, v.contrast, *[v.saturation] * colours]
    factors = ", ".join(f"±{strength:g}" for strength in dict.fromkeys(strengths))
    return {
        "crop and resize": f"area {_range_text(v.crop_scale)}",
        "colour jitter": factors + f", hue ±{v.hue:g}" * colours,
        "rotate": "90, 180 or 270 degrees",
        "cutout": f"side {_range_text(v.cutout_side)}",
        "Gaussian noise": f"sigma {_range_text(v.noise_sigma)}",
        "Gaussian blur": f"sigma {_range_text(v.sigma)} px",
        "solarise": f"from {v.threshold:g}",
        "channel jitter": f"gain {_range_text(v.gain)}",
        "band drop": f"p {v.band_share:g} per band",
    }.get(name, "")


def _range_text(bounds: tuple[float, float]) -> str:
    low, high = bounds
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
