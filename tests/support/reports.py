"""A report of a made-up run over two real photographs, with hostile file names in every place."""

import io
import math
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_sample_images

from selftaught.evaluation.table import Row
from selftaught.reports.page import Section, Thumbnail, image, write_report
from selftaught.reports.run.sections import (
    Neighbourhood,
    health_section,
    loss_section,
    neighbours_section,
    table_section,
    trained_section,
    views_section,
)

HOSTILE = [
    "<img src=x onerror=alert(1)>.jpg",
    '"><script>alert(2)</script>.png',
    "' onload='alert(3).png",
    "</style></title><script>alert(4)</script>",
    "invoice\u202egpj.exe",
    "two\nlines\x00.png",
    "not-utf8-\udcff.png",
    "{{7*7}}${7*7}&lt;&#x3c;script&#x3e;.png",
]


def metrics(steps: int = 40) -> list[dict[str, float | None]]:
    """Lines of a metrics.jsonl: a loss that falls from chance, and its health."""
    return [
        {
            "step": 5 * step,
            "epoch": step // 10,
            "loss": 3.1 + 2.4 * math.exp(-step / 10),
            "chance": 5.541,
            "lr": 2e-3 * (1 - step / steps),
            "images_per_second": 600.0 + step % 3,
            "spread": 0.3 + step / 80,
            "effective_rank": 5.0 + step,
            "contrastive_accuracy": step / 80,
        }
        for step in range(steps)
    ]


def photograph(number: int, side: int = 64) -> bytes:
    """A square of one of scikit-learn's two photographs, as the bytes of a WebP file."""
    left = 11 * number % 300
    square = Image.fromarray(load_sample_images().images[number % 2]).crop(
        (left, 100, left + 200, 300)
    )
    sink = io.BytesIO()
    square.resize((side, side)).save(sink, "WEBP")
    return sink.getvalue()


def rows() -> list[Row]:
    """An evaluation: this encoder, three random inits, raw pixels."""
    values = {"this encoder": [0.735], "random init": [0.647, 0.65, 0.641], HOSTILE[0]: [0.62]}
    return [
        Row(
            representation=name,
            protocol=protocol,
            split="test",
            metric="accuracy",
            seed=seed,
            value=value,
            low=value - 0.03,
            high=value + 0.025,
            seconds=1.5,
            note="k = 200 was clipped to 131" if protocol == "knn" else "",
            delta_low=None if name == "this encoder" else 0.051,
            delta_high=None if name == "this encoder" else 0.122,
        )
        for protocol in ("knn", "linear")
        for name, seeds in values.items()
        for seed, value in enumerate(seeds)
    ]


def sections() -> list[Section]:
    """Every kind of section, with a hostile name wherever a name can stand."""
    config = {"data": HOSTILE[1], "encoder": {"architecture": "resnet8", HOSTILE[2]: HOSTILE[3]}}
    rejected = [(name, f"truncated: {name}") for name in HOSTILE] * 10
    neighbourhoods = [
        Neighbourhood(
            _picture(number, HOSTILE[number % 8]),
            [_picture(number + k, HOSTILE[(number + k) % 8]) for k in range(1, 7)],
        )
        for number in range(12)
    ]
    return [
        trained_section(config, {"data": HOSTILE[0]}, notes=HOSTILE, rejected=rejected),
        loss_section(metrics()),
        health_section(metrics(), [f"Collapsed on {HOSTILE[0]}."]),
        views_section(photograph(1, 400), words=HOSTILE[4]),
        neighbours_section(neighbourhoods),
        table_section(rows()),
        Section(HOSTILE[3], image(photograph(2), HOSTILE[2])),
    ]


def write(run: Path) -> Path:
    """The report of such a run, written into `run`."""
    return write_report(run, sections(), title=HOSTILE[3])


def _picture(number: int, name: str) -> Thumbnail:
    data = image(photograph(number), "").split('"')[1]
    return Thumbnail(data, name, words=name)
