"""Measure our encoders on Imagenette and on a corridor, against a supervised one.

    python -m benchmarks.transfer --data DIR [--mobilenet FILE] [--seconds 300] [--keep DIR]

DIR holds imagenette_128 and vpr_corridor as `unpack.py` unpacks them. SimCLR and DeepCluster train
on Imagenette's training images for --seconds each, at 64 px, and are evaluated on its val images
with every protocol for labels; fine-tuning with 1 % of the labels is compared with training the
same network from scratch. The corridor is walked twice, and each query asks which place it shows.
FILE holds torchvision's MobileNetV2, trained with ImageNet's labels, which include Imagenette's
classes.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import selftaught
from benchmarks.measure import hardware, publish
from selftaught.evaluation.table import Row, as_dicts, as_text
from selftaught.evaluation.verdict import verdict
from selftaught.foundation import files

RESULTS = Path(__file__).parents[1] / "docs/results.md"
SIDE = 64
SETTINGS = {"simclr": {}, "deepcluster": {"method": "deepcluster"}}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, evaluate, print, and write the section of docs/results.md."""
    chosen = parser().parse_args(arguments)
    with tempfile.TemporaryDirectory() as passing:
        folder = (chosen.keep or Path(passing)).resolve()
        folder.mkdir(exist_ok=True)
        first, *others = encoders(chosen, folder)
        labelled, places = (str(chosen.data / name) for name in ("imagenette_128", "vpr_corridor"))
        rows = []
        for name, how in questions(others, chosen).items():
            work = partial(evaluation_rows, first, labelled, seed=chosen.seed, **how)
            rows += stored_rows(folder / f"{name}.json", work)
        work = partial(corridor_rows, first, places, others)
        corridor = stored_rows(folder / "corridor.json", work)
    text = page(rows, corridor, chosen)
    print(text)
    publish(RESULTS, "transfer", text)


def parser() -> argparse.ArgumentParser:
    """The script's options."""
    as_written = argparse.RawDescriptionHelpFormatter
    options = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    options.add_argument("--data", type=Path, required=True, help="folder of the unpacked sets")
    options.add_argument("--mobilenet", type=Path, help="torchvision's MobileNetV2 weights")
    options.add_argument("--seconds", type=float, default=300, help="training time per method")
    options.add_argument("--tuned", nargs="+", default=["1%"], help="labels to fine-tune with")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument(
        "--keep",
        type=Path,
        help="folder for the encoders; existing ones are not trained again",
    )
    return options


def encoders(chosen: argparse.Namespace, folder: Path) -> list[str]:
    """The encoders to evaluate, SimCLR first."""
    train = str(chosen.data / "imagenette_128/train")
    found = []
    for name, settings in SETTINGS.items():
        how: dict[str, Any] = {"image_size": SIDE, "seconds": chosen.seconds, **settings}
        if not (folder / name / "encoder").exists():
            selftaught.pretrain(train, out=folder / name, seed=chosen.seed, **how)
        found.append(str(folder / name))
    if chosen.mobilenet:
        out = folder / "mobilenet"
        if not out.exists():
            selftaught.import_(chosen.mobilenet, out=out, image_size=128)
        found.append(str(out))
    return found


def questions(others: Sequence[str], chosen: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The evaluations on Imagenette's labels, in order.

    An encoder trained with all of ImageNet's labels is not fine-tuned.
    """
    frozen = ("knn", "linear", "fewshot", "clusters")
    return {
        "frozen": {"protocol": frozen, "against": others},
        "worth": {"protocol": ("worth",), "against": others},
        "tuned": {"protocol": ("finetune",), "against": others[:1], "few": tuple(chosen.tuned)},
    }


def evaluation_rows(run: str, labelled: str, **how: Any) -> list[Row]:
    """The rows of an evaluation."""
    return [Row(**row) for row in selftaught.evaluate(run, labelled, **how).value]


def stored_rows(path: Path, work: Callable[[], list[Row]]) -> list[Row]:
    """The rows that an interrupted run has stored there; otherwise do the work and store them.

    Encoders are named after the last part of their paths.
    """
    if not path.exists():
        files.write_json(path, as_dicts(work()))
    rows = [Row(**row) for row in json.loads(path.read_text())]
    return [replace(row, representation=Path(row.representation).name) for row in rows]


def corridor_rows(first: str, folder: str, others: Sequence[str]) -> list[Row]:
    """Place recognition, without and with verification."""
    how: dict[str, Any] = {"protocol": ("retrieval",), "against": others, "set": ("longest=256",)}
    plain = evaluation_rows(first, folder, **how)
    return plain + evaluation_rows(first, folder, verify="sift", **how)


def page(rows: Sequence[Row], corridor: Sequence[Row], chosen: argparse.Namespace) -> str:
    """The section of docs/results.md."""
    budget = (
        f"{hardware()}, seed {chosen.seed}. SimCLR (this encoder) and DeepCluster were trained on "
        f"Imagenette's training images for {chosen.seconds:g} s each, resnet8 at {SIDE} px."
    )
    command = "Reproduce with `python -m benchmarks.transfer`."
    parts = [
        "## Encoders compared",
        budget,
        "\n".join(f"* {sentence}" for sentence in verdict(rows)),
        f"```\n{as_text(rows)}\n```",
        "A corridor, walked twice (111 queries, 256 px on the longer side):",
        f"```\n{as_text(corridor)}\n```",
        command,
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
