"""What encoders are worth on Imagenette and on a corridor, beside a supervised one.

    python -m benchmarks.transfer --data DIR [--mobilenet FILE] [--seconds 300] [--keep DIR]

DIR holds imagenette_128 and vpr_corridor as `unpack.py` lays them out. SimCLR and DeepCluster train
on Imagenette's training images for --seconds each, at 64 px, and are judged on its val images by
every protocol on labels; fine-tuning with 1 % of the labels stands beside the same network from
scratch. The corridor is walked twice: which place is it? FILE holds torchvision's MobileNetV2,
whose labels were ImageNet's: it has seen Imagenette's classes.
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
from selftaught import files
from selftaught.evaluation.row import Row, as_dicts, as_text
from selftaught.evaluation.verdict import verdict

RESULTS = Path(__file__).parents[1] / "docs/results.md"
SIDE = 64
SETTINGS = {"simclr": {}, "deepcluster": {"method": "deepcluster"}}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, judge, print, and write the section of docs/results.md."""
    chosen = parser().parse_args(arguments)
    with tempfile.TemporaryDirectory() as passing:
        folder = (chosen.keep or Path(passing)).resolve()
        folder.mkdir(exist_ok=True)
        first, *others = encoders(chosen, folder)
        labelled, places = (str(chosen.data / name) for name in ("imagenette_128", "vpr_corridor"))
        rows = []
        for name, how in questions(others, chosen).items():
            asked = partial(evaluated, first, labelled, seed=chosen.seed, **how)
            rows += kept(folder / f"{name}.json", asked)
        corridor = kept(folder / "corridor.json", lambda: on_corridor(first, places, others))
    text = page(rows, corridor, chosen)
    print(text)
    publish(RESULTS, "transfer", text)


def parser() -> argparse.ArgumentParser:
    """The script's options."""
    as_written = argparse.RawDescriptionHelpFormatter
    options = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    options.add_argument("--data", type=Path, required=True, help="where the sets lie unpacked")
    options.add_argument("--mobilenet", type=Path, help="torchvision's weights")
    options.add_argument("--seconds", type=float, default=300, help="of each training")
    options.add_argument("--tuned", nargs="+", default=["1%"], help="labels to fine-tune with")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument(
        "--keep",
        type=Path,
        help="a folder for the encoders; those that are there are not made again",
    )
    return options


def encoders(chosen: argparse.Namespace, folder: Path) -> list[str]:
    """What is judged: SimCLR first."""
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
    """What is asked on Imagenette's labels, one after the other.

    What has learnt from all of ImageNet's labels is not fine-tuned.
    """
    frozen = ("knn", "linear", "fewshot", "clusters")
    return {
        "frozen": {"protocol": frozen, "against": others},
        "worth": {"protocol": ("worth",), "against": others},
        "tuned": {"protocol": ("finetune",), "against": others[:1], "few": tuple(chosen.tuned)},
    }


def evaluated(run: str, labelled: str, **how: Any) -> list[Row]:
    """The rows of an evaluation."""
    return [Row(**row) for row in selftaught.evaluate(run, labelled, **how).value]


def kept(path: Path, work: Callable[[], list[Row]]) -> list[Row]:
    """Rows that an interrupted run has left there, or else those of the work, left there.

    Encoders are called by the last part of their paths.
    """
    if not path.exists():
        files.write_json(path, as_dicts(work()))
    rows = [Row(**row) for row in json.loads(path.read_text())]
    return [replace(row, representation=Path(row.representation).name) for row in rows]


def on_corridor(first: str, folder: str, others: Sequence[str]) -> list[Row]:
    """Places that are found again, without and with verification."""
    how: dict[str, Any] = {"protocol": ("retrieval",), "against": others, "set": ("longest=256",)}
    return evaluated(first, folder, **how) + evaluated(first, folder, verify="sift", **how)


def page(rows: Sequence[Row], corridor: Sequence[Row], chosen: argparse.Namespace) -> str:
    """What docs/results.md says."""
    budget = (
        f"{hardware()}, seed {chosen.seed}. SimCLR (this encoder) and DeepCluster trained on "
        f"Imagenette's training images for {chosen.seconds:g} s each, resnet8 at {SIDE} px."
    )
    again = "`python -m benchmarks.transfer` measures it anew."
    parts = [
        "## What encoders are worth",
        budget,
        "\n".join(f"* {sentence}" for sentence in verdict(rows)),
        f"```\n{as_text(rows)}\n```",
        "A corridor, walked twice (111 queries, 256 px on the longer side):",
        f"```\n{as_text(corridor)}\n```",
        again,
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
