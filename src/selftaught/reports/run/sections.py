"""The sections of a run's report, built from the files of the run.

The first sentence of a section explains what the section shows.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selftaught.evaluation.table import Row, images_in_words, is_long, transposed_table
from selftaught.reports import plots
from selftaught.reports.page import (
    Html,
    Markup,
    Section,
    Thumbnail,
    bullets,
    details,
    facts,
    figure,
    grid,
    image,
    paragraph,
    table,
    text,
)
from selftaught.reports.run.label_curves import labels_figures

_LISTED = 50  # rejected images on the page; rejected.parquet lists all

_HEALTH = {  # key of metrics.jsonl: title and caption of its plot
    "spread": ("Spread of the outputs", "1: equal in all directions; 0: complete collapse."),
    "effective_rank": ("Effective rank", "Number of directions that the outputs use."),
    "contrastive_accuracy": (
        "Contrastive accuracy",
        "How often an image's other view is its nearest neighbour in the batch.",
    ),
    "probe_accuracy": (
        "Probe accuracy",
        "kNN on the labelled images of --probe; for monitoring only.",
    ),
    "lr": ("Learning rate", "Set by the schedule."),
    "images_per_second": ("Images per second", "Training speed."),
}

_CLUSTERS = {  # title of a plot: its curves by key of metrics.jsonl, caption
    "NMI": (
        {"nmi_last": "with the previous assignment", "nmi_labels": "with the labels"},
        "1: identical clusters; 0: unrelated clusters. Labels are used for this plot only, never "
        "for training.",
    ),
    "Sizes": (
        {"entropy": "entropy / ln k", "largest_share": "largest share"},
        "Entropy 1: all clusters of equal size. Largest share 1: one cluster holds all images.",
    ),
    "Clusters in use": (
        {"clusters_used": "clusters in use"},
        "Clusters that hold at least one image.",
    ),
    "Objective": (
        {"objective": "objective"},
        "Mean squared distance of an image's features to its centroid.",
    ),
    "Repairs": ({"repairs": "repairs"}, "Empty clusters that were refilled from another cluster."),
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
    """The training data and the configuration.

    Args:
        config: The resolved configuration, as config.yaml has it.
        images: Facts about the images by name, such as {"usable images": 2624}.
        notes: Notes of the image check.
        rejected: (path, reason) of each image that was left out.
    """
    parts = [facts({**images, "left out": len(rejected)})]
    if notes:
        parts.append(bullets(notes))
    if rejected:
        rows = table(("image", "reason"), rejected[:_LISTED])
        more = len(rejected) - _LISTED
        tail = paragraph(f"{more} more are in rejected.parquet.") if more > 0 else Html("")
        parts.append(details(f"{len(rejected)} images were left out", Html(rows + tail)))
    parts.append(details("Full configuration", table(("option", "value"), _flat_options(config))))
    return Section("Training data and configuration", Html("".join(parts)))


def loss_section(metrics: Sequence[Mapping[str, Any]]) -> Section:
    """The loss over steps and its chance level, the loss of a constant output."""
    title = "Loss compared with chance"
    if not metrics:
        return Section(title, paragraph("No step has been logged yet.", kind="note"))
    last = metrics[-1]
    chance = last.get("chance")
    sentence = f"The loss was {metrics[0]['loss']:.3f} at step {metrics[0]['step']} and "
    sentence += f"{last['loss']:.3f} at step {last['step']}."
    if chance is not None:
        sentence += f" The same output for every image would give {chance:.3f} (chance)."
    if "clusters_used" in last:
        sentence += " It restarts with each clustering, so compare the ends of epochs."
    level = ("chance", _points(metrics, "chance")) if chance is not None else None
    plot = plots.curves("Loss", {"loss": _points(metrics, "loss")}, alt=sentence, level=level)
    return Section(title, Html(paragraph(sentence) + grid([figure(plot)])))


def health_section(metrics: Sequence[Mapping[str, Any]], alarms: Sequence[str]) -> Section:
    """The health of training: the alarms, then the curves behind them.

    Args:
        metrics: The lines of metrics.jsonl.
        alarms: The sentences of the alarms that were raised.
    """
    words = [paragraph(alarm, kind="bad") for alarm in alarms]
    if not alarms:
        words = [
            paragraph("No alarm was raised: training neither collapsed nor diverged.", kind="good")
        ]
    drawn = []
    for key, (title, meaning) in _HEALTH.items():
        points = _points(metrics, key)
        if points[1]:
            alt = f"{title} over steps, from {points[1][0]:.4g} to {points[1][-1]:.4g}"
            drawn.append(figure(plots.curves(title, {title: points}, alt=alt), meaning))
    return Section("Health", Html("".join(words) + grid(drawn)))


def clusters_sections(metrics: Sequence[Mapping[str, Any]]) -> list[Section]:
    """How the clusters that a method trains on changed; no section if it logged none.

    Figure 2 of Caron et al. 2018: NMI between assignments t - 1 and t, and to labels.
    """
    drawn = []
    for title, (names, meaning) in _CLUSTERS.items():
        lines = {name: _epochs(metrics, key) for key, name in names.items()}
        lines = {name: points for name, points in lines.items() if points[1]}
        if lines:
            ends = (f"{n} from {p[1][0]:.4g} to {p[1][-1]:.4g}" for n, p in lines.items())
            alt = f"{title} over epochs: {', '.join(ends)}"
            drawn.append(figure(plots.curves(title, lines, alt=alt, over="epoch"), meaning))
    if not drawn:
        return []
    words = f"The clusters of each epoch, one point per epoch.{_time_of_clustering(metrics)}"
    return [Section("Clusters", Html(paragraph(words) + grid(drawn)))]


def _time_of_clustering(metrics: Sequence[Mapping[str, Any]]) -> str:
    """The time of clustering, if logged: seconds since the run was started or resumed."""
    totals = [_points(metrics, key)[1] for key in ("begin_seconds", "seconds")]
    if not all(totals):
        return ""
    clustering, whole = (seconds[-1] for seconds in totals)
    share = clustering / max(whole, 1e-9)
    return (
        f" Clustering took {clustering:,.1f} s and training {whole - clustering:,.1f} s: "
        f"clustering is {100 * share:.0f} % of the total."
    )


def views_section(sheet: bytes, *, words: str = "") -> Section:
    """The network's input: a contact sheet of views, as the bytes of a PNG, WebP or JPEG file."""
    words = (
        words
        or "Images, each followed by random views of it, as the network sees them in training."
    )
    alt = "Contact sheet: images and random views of each"
    return Section("Views", Html(paragraph(words) + figure(image(sheet, alt))))


def neighbours_section(
    neighbourhoods: Sequence[Neighbourhood], *, title: str = "Nearest neighbours", words: str = ""
) -> Section:
    """Images and their nearest neighbours for the encoder."""
    words = words or (
        "Each row starts with an image (framed), followed by its nearest neighbours by cosine "
        "similarity of the encoder's outputs, nearest first."
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
    """The first layer's filters as the bytes of an image file, with a legend for colours."""
    drawn = figure(image(sheet, "The filters of the first layer"))
    if legend is not None:
        wheel = "Colour wheel: one colour per direction"
        drawn = Html(
            figure(image(legend, wheel), "Direction in which the image gets brighter.") + drawn
        )
    return Section("First-layer filters", Html(paragraph(words) + drawn))


def activation_section(walls: Sequence[tuple[str, bytes, Sequence[str]]], words: str) -> Section:
    """What activates a stage: name of a channel, its images as an image file, and their names."""
    drawn = [
        figure(image(sheet, f"Images that activate {name} most: {', '.join(paths)}"), name)
        for name, sheet, paths in walls
    ]
    return Section(
        "Images that activate the last stage", Html(paragraph(words) + grid(drawn, kind="tiles"))
    )


def table_section(rows: Sequence[Row], *, title: str = "Evaluation", words: str = "") -> Section:
    """The evaluation: one table per protocol, split and metric, one row per representation.

    A protocol with many metrics, such as one per stage, is one table with one row per metric.
    Several seeds of a representation become one row: the mean of their values and the widest of
    their intervals.
    """
    if not rows:
        return Section(title, paragraph("No evaluation has been run.", kind="note"))
    words = words or (
        "Points are values, lines are 95 % intervals. The other rows of a table are what this "
        "encoder has to beat."
    )
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.protocol, row.split].append(row)
    parts = [paragraph(words), *labels_figures(rows)]
    for (protocol, split), group in groups.items():
        parts += _long_table(protocol, split, group) if is_long(group) else _tables(group)
    notes = dict.fromkeys(f"{row.protocol}: {row.note}" for row in rows if row.note)
    return Section(title, Html("".join(parts) + (bullets(notes) if notes else "")))


def verdict_sections(sentences: Sequence[str], title: str) -> list[Section]:
    """The verdict on the encoder; no section without sentences."""
    return [Section(f"Verdict: {title}", bullets(sentences))] if sentences else []


def _tables(group: Sequence[Row]) -> list[Html]:
    """A heading and a table per metric of a protocol."""
    by_metric: dict[str, list[Row]] = defaultdict(list)
    for row in group:
        by_metric[row.metric].append(row)
    return [
        Html(
            _heading(f"{of_one[0].protocol}: {metric}", images_in_words(of_one[0].split, of_one))
            + _comparison(of_one)
        )
        for metric, of_one in by_metric.items()
    ]


def _long_table(protocol: str, split: str, group: Sequence[Row]) -> list[Html]:
    """A heading and a table: one row per metric and one column per representation."""
    header, *lines = transposed_table(group)
    drawn = table(header, lines, numbers=range(1, len(header)))
    marks = paragraph(
        "< lower than this encoder's value, > higher: the paired 95 % interval of the difference "
        "excludes 0."
    )
    return [Html(_heading(protocol, images_in_words(split, group)) + drawn + marks)]


def _heading(words: str, split: str) -> str:
    return f"<h3>{text(words)} <small>({text(split)})</small></h3>"


def _comparison(group: Sequence[Row]) -> Html:
    """A table with one row per representation, and its interval on a common scale."""
    by_name: dict[str, list[Row]] = defaultdict(list)
    for row in group:
        by_name[row.representation].append(row)
    bounds = [b for row in group for b in (row.value, row.low, row.high) if b is not None]
    scale, first = (min(bounds), max(bounds)), group[0].representation
    return table(
        ("representation", "value", "", "95 % interval", f"{first} minus this row", "seconds"),
        [_table_row(name, seeds, scale) for name, seeds in by_name.items()],
        numbers=(1, 3, 4, 5),
        marked=(0,),
    )


def _table_row(name: str, seeds: Sequence[Row], scale: tuple[float, float]) -> list[object]:
    value = sum(row.value for row in seeds) / len(seeds)
    lows = [row.low for row in seeds if row.low is not None]
    highs = [row.high for row in seeds if row.high is not None]
    label = f"{name}, mean of {len(seeds)} seeds" if len(seeds) > 1 else name
    seconds = f"{sum(row.seconds for row in seeds):.1f}"
    if not (lows and highs):
        return [label, f"{value:.3f}", "", "", "", seconds]
    low, high = min(lows), max(highs)
    drawn = Markup(plots.interval_plot(value, low, high, scale=scale))
    return [label, f"{value:.3f}", drawn, f"{low:.3f} to {high:.3f}", _difference(seeds), seconds]


def _difference(seeds: Sequence[Row]) -> str:
    """The widest of the paired intervals, if there is one."""
    lows = [row.delta_low for row in seeds if row.delta_low is not None]
    highs = [row.delta_high for row in seeds if row.delta_high is not None]
    return f"{min(lows):+.3f} to {max(highs):+.3f}" if lows and highs else ""


def _points(metrics: Sequence[Mapping[str, Any]], key: str) -> plots.Points:
    """Logged steps and values of one key."""
    logged = [(m["step"], m[key]) for m in metrics if m.get(key) is not None]
    return [float(step) for step, _ in logged], [float(value) for _, value in logged]


def _epochs(metrics: Sequence[Mapping[str, Any]], key: str) -> plots.Points:
    """Epochs, and the last value of one key in each."""
    last = {float(m["epoch"]): float(m[key]) for m in metrics if m.get(key) is not None}
    return list(last), list(last.values())


def _picture(picture: Thumbnail, alt: str) -> Html:
    return figure(image(picture.uri, alt), picture.words)


def _flat_options(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, object]]:
    """Nested options as ("views.size", 64), in order."""
    lines: list[tuple[str, object]] = []
    for key, value in config.items():
        if isinstance(value, Mapping):
            lines += _flat_options(value, f"{prefix}{key}.")
        else:
            lines.append((f"{prefix}{key}", value))
    return lines
