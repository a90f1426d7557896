"""The parts of a run's report, each built from what the run wrote down.

A section says in its first sentence what there is to see, before it shows it.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from selftaught.report import plots
from selftaught.report.page import (
    Html,
    Markup,
    Section,
    bullets,
    facts,
    figure,
    folded,
    grid,
    image,
    paragraph,
    table,
    text,
)

if TYPE_CHECKING:
    from selftaught.evaluation.row import Row

_SHOWN = 50  # rejected images that the page lists; rejected.parquet has them all

_HEALTH = {  # key of metrics.jsonl: title of its plot, what it says in words
    "spread": ("Spread of the outputs", "1: in all directions alike; 0: a complete collapse."),
    "effective_rank": ("Effective rank", "How many directions the outputs use."),
    "contrastive_accuracy": (
        "Contrastive accuracy",
        "How often an image's other view is the nearest of the batch.",
    ),
    "probe_accuracy": (
        "Probe accuracy",
        "kNN on the labelled images of --probe; watched, never used to choose.",
    ),
    "lr": ("Learning rate", "As the schedule set it."),
    "images_per_second": ("Images a second", "The speed of training."),
}


@dataclass(frozen=True)
class Picture:
    """A small image of the report: `uri` is a `data:` URI, `words` what is said of it."""

    uri: str
    name: str
    words: str = ""


@dataclass(frozen=True)
class Neighbourhood:
    """One image and its nearest neighbours, nearest first."""

    query: Picture
    nearest: Sequence[Picture]


def trained_section(
    config: Mapping[str, Any],
    images: Mapping[str, object],
    *,
    notes: Sequence[str] = (),
    rejected: Sequence[tuple[str, str]] = (),
) -> Section:
    """What was trained on what.

    Args:
        config: The resolved configuration, as config.yaml has it.
        images: Facts about the images by name, such as {"usable images": 2624}.
        notes: What the check of the images remarked.
        rejected: (path, reason) of the images that were left out.
    """
    parts = [facts({**images, "left out": len(rejected)})]
    if notes:
        parts.append(bullets(notes))
    if rejected:
        rows = table(("image", "left out because"), rejected[:_SHOWN])
        more = len(rejected) - _SHOWN
        tail = paragraph(f"{more} more are in rejected.parquet.") if more > 0 else Html("")
        parts.append(folded(f"{len(rejected)} images were left out", Html(rows + tail)))
    parts.append(folded("The whole configuration", table(("option", "value"), _flat(config))))
    return Section("What was trained on what", Html("".join(parts)))


def loss_section(metrics: Sequence[Mapping[str, Any]]) -> Section:
    """The loss over steps beside its chance level, the loss of a constant output."""
    title = "Loss against chance"
    if not metrics:
        return Section(title, paragraph("No step was logged yet.", kind="note"))
    last = metrics[-1]
    chance = last.get("chance")
    sentence = f"The loss was {metrics[0]['loss']:.3f} at step {metrics[0]['step']} and "
    sentence += f"{last['loss']:.3f} at step {last['step']}."
    if chance is not None:
        sentence += f" An encoder that answers the same for every image has {chance:.3f} (chance)."
    level = ("chance", _points(metrics, "chance")) if chance is not None else None
    plot = plots.curves("Loss", {"loss": _points(metrics, "loss")}, alt=sentence, level=level)
    return Section(title, Html(paragraph(sentence) + grid([figure(plot)])))


def health_section(metrics: Sequence[Mapping[str, Any]], alarms: Sequence[str]) -> Section:
    """Whether training looks healthy: the alarms in words, then the curves behind them.

    Args:
        metrics: The lines of metrics.jsonl.
        alarms: Sentences of the alarms that were raised; none is good news.
    """
    words = [paragraph(alarm, kind="bad") for alarm in alarms]
    if not alarms:
        words = [paragraph("No alarm was raised: neither collapse nor divergence.", kind="good")]
    drawn = []
    for key, (title, meaning) in _HEALTH.items():
        points = _points(metrics, key)
        if points[1]:
            alt = f"{title} over steps, {points[1][0]:.4g} at first and {points[1][-1]:.4g} at last"
            drawn.append(figure(plots.curves(title, {title: points}, alt=alt), meaning))
    return Section("Health", Html("".join(words) + grid(drawn)))


def views_section(sheet: bytes, *, words: str = "") -> Section:
    """What the network saw: a contact sheet of views, as the bytes of a PNG, WebP or JPEG file."""
    words = words or "Each image with views of it as the network sees them, drawn as in training."
    alt = "Contact sheet: images and random views of each"
    return Section("Views", Html(paragraph(words) + figure(image(sheet, alt))))


def neighbours_section(
    neighbourhoods: Sequence[Neighbourhood], *, title: str = "Nearest neighbours", words: str = ""
) -> Section:
    """Images and what the encoder finds most like them."""
    words = words or (
        "Each line begins with an image (framed); the others are its nearest neighbours by cosine "
        "of the encoder's outputs, nearest first."
    )
    lines = []
    for one in neighbourhoods:
        first = _picture(one.query, f"Image {one.query.name}")
        others = (
            _picture(other, f"Neighbour {rank} of {one.query.name}: {other.name}")
            for rank, other in enumerate(one.nearest, 1)
        )
        lines.append(Html(f'<div class="line">{first}{"".join(others)}</div>'))
    return Section(title, Html(paragraph(words) + grid(lines, kind="wall")))


def table_section(rows: Sequence["Row"], *, title: str = "Evaluation", words: str = "") -> Section:
    """The evaluation: one table a protocol, split and metric, every representation beside the rest.

    Several seeds of one representation become one line: the mean of their values, and the widest of
    their intervals.
    """
    if not rows:
        return Section(title, paragraph("Nothing was evaluated.", kind="note"))
    words = words or (
        "Points are values, lines their 95 % intervals; a line of the table that is not this "
        "encoder is what it has to beat."
    )
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.protocol, row.metric, row.split].append(row)
    parts = [paragraph(words)]
    for (protocol, metric, split), group in groups.items():
        heading = f"<h3>{text(protocol)}: {text(metric)} <small>({text(split)})</small></h3>"
        parts.append(Html(heading + _comparison(group)))
    notes = dict.fromkeys(row.note for row in rows if row.note)
    return Section(title, Html("".join(parts) + (bullets(notes) if notes else "")))


def _comparison(group: Sequence["Row"]) -> Html:
    """One table: a line a representation, with its interval on the group's common scale."""
    by_name: dict[str, list[Row]] = defaultdict(list)
    for row in group:
        by_name[row.representation].append(row)
    bounds = [b for row in group for b in (row.value, row.low, row.high) if b is not None]
    scale = (min(bounds), max(bounds))
    return table(
        ("representation", "value", "", "95 % interval", "this encoder minus it", "seconds"),
        [_line(name, seeds, scale) for name, seeds in by_name.items()],
        numbers=(1, 3, 4, 5),
        marked=(0,),
    )


def _line(name: str, seeds: Sequence["Row"], scale: tuple[float, float]) -> list[object]:
    value = sum(row.value for row in seeds) / len(seeds)
    lows = [row.low for row in seeds if row.low is not None]
    highs = [row.high for row in seeds if row.high is not None]
    called = f"{name}, mean of {len(seeds)} seeds" if len(seeds) > 1 else name
    seconds = f"{sum(row.seconds for row in seeds):.1f}"
    if not (lows and highs):
        return [called, f"{value:.3f}", "", "", "", seconds]
    low, high = min(lows), max(highs)
    drawn = Markup(plots.interval(value, low, high, scale=scale))
    return [called, f"{value:.3f}", drawn, f"{low:.3f} to {high:.3f}", _difference(seeds), seconds]


def _difference(seeds: Sequence["Row"]) -> str:
    """The widest of the paired intervals, where there is one."""
    lows = [row.delta_low for row in seeds if row.delta_low is not None]
    highs = [row.delta_high for row in seeds if row.delta_high is not None]
    return f"{min(lows):+.3f} to {max(highs):+.3f}" if lows and highs else ""


def _points(metrics: Sequence[Mapping[str, Any]], key: str) -> plots.Points:
    """Steps and values of one key, where it was logged."""
    logged = [(m["step"], m[key]) for m in metrics if m.get(key) is not None]
    return [float(step) for step, _ in logged], [float(value) for _, value in logged]


def _picture(picture: Picture, alt: str) -> Html:
    return figure(image(picture.uri, alt), picture.words)


def _flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, object]]:
    """Nested options as ("views.size", 64), in their order."""
    lines: list[tuple[str, object]] = []
    for key, value in config.items():
        if isinstance(value, Mapping):
            lines += _flat(value, f"{prefix}{key}.")
        else:
            lines.append((f"{prefix}{key}", value))
    return lines
