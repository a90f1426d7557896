"""The parts of a run's report, each built from what the run wrote down.

A section says in its first sentence what there is to see, before it shows it.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selftaught.evaluation.table import Row, counted, is_long, turned
from selftaught.reports import plots
from selftaught.reports.page import (
    Html,
    Markup,
    Section,
    Thumbnail,
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
from selftaught.reports.run.label_curves import labels_figures

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

_CLUSTERS = {  # title of a plot: its curves by key of metrics.jsonl, what they say in words
    "NMI": (
        {"nmi_last": "to the last assignment", "nmi_labels": "to the labels"},
        "1: the same groups; 0: groups that have nothing to do with each other. Labels are only "
        "looked at, never trained on.",
    ),
    "Sizes": (
        {"entropy": "entropy / ln k", "largest_share": "largest share"},
        "Entropy 1: clusters of one size; largest share 1: one cluster has everything.",
    ),
    "Clusters in use": ({"clusters_used": "clusters in use"}, "Those that hold an image."),
    "Objective": (
        {"objective": "objective"},
        "Mean squared distance of an image's features to its centroid.",
    ),
    "Repairs": ({"repairs": "repairs"}, "Empty clusters that were given a share of another."),
}


@dataclass(frozen=True)
class Neighbourhood:
    """One image and its nearest neighbours, nearest first."""

    query: Thumbnail
    nearest: Sequence[Thumbnail]


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
    if "clusters_used" in last:
        sentence += " It begins anew with each clustering: compare the ends of epochs."
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


def clusters_sections(metrics: Sequence[Mapping[str, Any]]) -> list[Section]:
    """How the clusters that a method trains on changed, where it logged them; else no section.

    Figure 2 of Caron et al. 2018: NMI between assignments t - 1 and t, and to labels.
    """
    drawn = []
    for title, (names, meaning) in _CLUSTERS.items():
        lines = {name: _epochs(metrics, key) for key, name in names.items()}
        lines = {name: points for name, points in lines.items() if points[1]}
        if lines:
            ends = (
                f"{n} {p[1][0]:.4g} at first and {p[1][-1]:.4g} at last" for n, p in lines.items()
            )
            alt = f"{title} over epochs: {', '.join(ends)}"
            drawn.append(figure(plots.curves(title, lines, alt=alt, over="epoch"), meaning))
    if not drawn:
        return []
    words = f"The clusters of each epoch, one point an epoch.{_time_of_clustering(metrics)}"
    return [Section("Clusters", Html(paragraph(words) + grid(drawn)))]


def _time_of_clustering(metrics: Sequence[Mapping[str, Any]]) -> str:
    """What clustering cost, if it was logged: seconds since the run was begun or resumed."""
    totals = [_points(metrics, key)[1] for key in ("begin_seconds", "seconds")]
    if not all(totals):
        return ""
    clustering, whole = (seconds[-1] for seconds in totals)
    share = clustering / max(whole, 1e-9)
    return (
        f" Clustering took {clustering:,.1f} s beside {whole - clustering:,.1f} s of training: "
        f"{100 * share:.0f} % of the two together."
    )


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


def filters_section(sheet: bytes, words: str, *, legend: bytes | None = None) -> Section:
    """The first layer's filters as the bytes of an image file, and what their colours mean."""
    drawn = figure(image(sheet, "The filters of the first layer"))
    if legend is not None:
        wheel = "A wheel: each direction in its colour"
        drawn = Html(figure(image(legend, wheel), "The image grows brighter this way.") + drawn)
    return Section("First-layer filters", Html(paragraph(words) + drawn))


def excited_section(walls: Sequence[tuple[str, bytes, Sequence[str]]], words: str) -> Section:
    """What excites a stage: name of a channel, its images as an image file, and their names."""
    drawn = [
        figure(image(sheet, f"What excites {name} most: {', '.join(paths)}"), name)
        for name, sheet, paths in walls
    ]
    return Section(
        "What excites the last stage", Html(paragraph(words) + grid(drawn, kind="tiles"))
    )


def table_section(rows: Sequence[Row], *, title: str = "Evaluation", words: str = "") -> Section:
    """The evaluation: one table a protocol, split and metric, every representation beside the rest.

    A protocol of many metrics, as of a network's stages, is one table: a line each.

    Several seeds of one representation become one line: the mean of their values, and the widest of
    their intervals.
    """
    if not rows:
        return Section(title, paragraph("Nothing was evaluated.", kind="note"))
    words = words or (
        "Points are values, lines their 95 % intervals; a line of the table that is not this "
        "encoder is what it has to beat."
    )
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.protocol, row.split].append(row)
    parts = [paragraph(words), *labels_figures(rows)]
    for (protocol, split), group in groups.items():
        parts += _long_table(protocol, split, group) if is_long(group) else _tables(group)
    notes = dict.fromkeys(f"{row.protocol}: {row.note}" for row in rows if row.note)
    return Section(title, Html("".join(parts) + (bullets(notes) if notes else "")))


def verdict_sections(sentences: Sequence[str], asked: str) -> list[Section]:
    """Whether the encoder is worth it; no section without sentences."""
    return [Section(f"Is it worth it? {asked}", bullets(sentences))] if sentences else []


def _tables(group: Sequence[Row]) -> list[Html]:
    """A heading and a table for each metric of a protocol."""
    by_metric: dict[str, list[Row]] = defaultdict(list)
    for row in group:
        by_metric[row.metric].append(row)
    return [
        Html(
            _heading(f"{of_one[0].protocol}: {metric}", counted(of_one[0].split, of_one))
            + _comparison(of_one)
        )
        for metric, of_one in by_metric.items()
    ]


def _long_table(protocol: str, split: str, group: Sequence[Row]) -> list[Html]:
    """A heading and a table of all metrics: a line each, and a column a representation."""
    header, *lines = turned(group)
    drawn = table(header, lines, numbers=range(1, len(header)))
    marks = paragraph(
        "< less than this encoder's, > more: the paired 95 % interval of the difference does not "
        "hold 0."
    )
    return [Html(_heading(protocol, counted(split, group)) + drawn + marks)]


def _heading(words: str, split: str) -> str:
    return f"<h3>{text(words)} <small>({text(split)})</small></h3>"


def _comparison(group: Sequence[Row]) -> Html:
    """One table: a line a representation, with its interval on the group's common scale."""
    by_name: dict[str, list[Row]] = defaultdict(list)
    for row in group:
        by_name[row.representation].append(row)
    bounds = [b for row in group for b in (row.value, row.low, row.high) if b is not None]
    scale, first = (min(bounds), max(bounds)), group[0].representation
    return table(
        ("representation", "value", "", "95 % interval", f"{first} minus it", "seconds"),
        [_line(name, seeds, scale) for name, seeds in by_name.items()],
        numbers=(1, 3, 4, 5),
        marked=(0,),
    )


def _line(name: str, seeds: Sequence[Row], scale: tuple[float, float]) -> list[object]:
    value = sum(row.value for row in seeds) / len(seeds)
    lows = [row.low for row in seeds if row.low is not None]
    highs = [row.high for row in seeds if row.high is not None]
    called = f"{name}, mean of {len(seeds)} seeds" if len(seeds) > 1 else name
    seconds = f"{sum(row.seconds for row in seeds):.1f}"
    if not (lows and highs):
        return [called, f"{value:.3f}", "", "", "", seconds]
    low, high = min(lows), max(highs)
    drawn = Markup(plots.interval_plot(value, low, high, scale=scale))
    return [called, f"{value:.3f}", drawn, f"{low:.3f} to {high:.3f}", _difference(seeds), seconds]


def _difference(seeds: Sequence[Row]) -> str:
    """The widest of the paired intervals, where there is one."""
    lows = [row.delta_low for row in seeds if row.delta_low is not None]
    highs = [row.delta_high for row in seeds if row.delta_high is not None]
    return f"{min(lows):+.3f} to {max(highs):+.3f}" if lows and highs else ""


def _points(metrics: Sequence[Mapping[str, Any]], key: str) -> plots.Points:
    """Steps and values of one key, where it was logged."""
    logged = [(m["step"], m[key]) for m in metrics if m.get(key) is not None]
    return [float(step) for step, _ in logged], [float(value) for _, value in logged]


def _epochs(metrics: Sequence[Mapping[str, Any]], key: str) -> plots.Points:
    """Epochs and the last value that each logged of one key."""
    last = {float(m["epoch"]): float(m[key]) for m in metrics if m.get(key) is not None}
    return list(last), list(last.values())


def _picture(picture: Thumbnail, alt: str) -> Html:
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
