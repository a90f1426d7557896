"""Advice: from the findings of `check` to a configuration, with a one-line reason per choice."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selftaught.data.check_images import Checked
from selftaught.errors import DataError
from selftaught.recipe.config import Config, Overrides, join_layers
from selftaught.recipe.presets import preset
from selftaught.recipe.view_settings import policy_settings
from selftaught.views.policy import simclr_gray

CPU_IMAGES = 600_000  # 32 px images processed in one run: about ten minutes of resnet8 on two cores
GPU_SIZES = (32, 64, 96, 128, 160, 224)


@dataclass(frozen=True)
class Advice:
    """One choice of a recipe.

    Attributes:
        changes: The values of the configuration that it sets.
        what: The choice in a few words.
        why: The reason, one line.
    """

    changes: Overrides
    what: str
    why: str


def check_image_count(checked: Checked) -> None:
    """Check that there are enough images to learn from.

    Raises:
        DataError: Fewer than four images are usable.
    """
    number = len(checked.images)
    if number < 4:
        raise DataError(
            f"{number} usable image{'s' * (number != 1)} cannot train an encoder",
            "use at least 4 images, preferably several hundred",
        )


def recommend(checked: Checked, device: str, *, image_size: int | None = None) -> list[Advice]:
    """A recipe for these images on this device, in the order in which it is printed.

    Args:
        checked: The findings of `check`.
        device: Where training will run.
        image_size: The views' side, if the user has chosen it.
    """
    number = max(4, len(checked.images))  # fewer can be previewed, but not trained on
    gpu = device.startswith("cuda")
    size = image_size or _image_size(_median_side(checked), gpu)
    return [
        Advice(preset("small"), "preset small", "optimizer, temperature and head for one machine"),
        _size_advice(checked, size, gpu),
        _encoder_advice(number, size, gpu),
        _batch_advice(number, size, gpu),
        _epochs_advice(number, size, gpu),
        _blur_advice(size),
        _colour_advice(checked.channels),
    ]


def advised_config(advice: Sequence[Advice]) -> Config:
    """The configuration that a recipe describes."""
    return join_layers(*(choice.changes for choice in advice), where="recipe")


def advice_text(advice: Sequence[Advice]) -> str:
    """The recipe as printed: one line per choice."""
    width = max(len(choice.what) for choice in advice)
    return "\n".join(f"  {choice.what:<{width}}  {choice.why}" for choice in advice)


def _median_side(checked: Checked) -> int:
    heights, widths = checked.images["height"].to_numpy(), checked.images["width"].to_numpy()
    return int(np.median(np.minimum(heights, widths)))


def _image_size(side: int, gpu: bool) -> int:
    if not gpu:
        return 32 if side <= 48 else 64
    return max(size for size in GPU_SIZES if size <= max(side, GPU_SIZES[0]))


def _size_advice(checked: Checked, size: int, gpu: bool) -> Advice:
    side = _median_side(checked)
    why = f"the median shorter side is {side} px"
    if side > size:
        why += "; larger views would take too long without a GPU" if not gpu else ""
    changes: Overrides = {"network.image_size": size}
    if side > 2 * size:
        # Crops of a fifth of the area still have about as many pixels as a view.
        changes["data.store_size"] = 2 * size
        why += f"; stored at {2 * size} px"
    return Advice(changes, f"image size {size}", why)


def _encoder_advice(number: int, size: int, gpu: bool) -> Advice:
    if not gpu:
        changes = {"network.encoder": "resnet8", "network.width": 16, "network.stem_stride": 2}
        why = "the smallest that learns; resnet18 takes 60 times as long without a GPU"
        return Advice(changes, "encoder resnet8", why)
    name = "resnet50" if number >= 100_000 and size >= 128 else "resnet18"
    changes = {"network.encoder": name, "network.width": None, "network.stem_stride": None}
    stem = "small stem (3x3, no pooling)" if size <= 64 else "standard stem (7x7, pooling)"
    why = f"{number:,} images of {size} px"
    why += "; larger encoders need more or larger images" * (name == "resnet18")
    return Advice(changes, f"encoder {name}, {stem}", why)


def _batch_advice(number: int, size: int, gpu: bool) -> Advice:
    wanted = 512 if gpu and size <= 64 else 256
    batch = min(wanted, 2 ** int(np.log2(number // 2)))
    why = "more negatives make the task harder; this many fit on one machine"
    if batch < wanted:
        why = f"at least two batches per epoch from {number:,} images"
    return Advice({"loop.batch_size": batch}, f"batch {batch}", why)


def _epochs_advice(number: int, size: int, gpu: bool) -> Advice:
    if gpu:
        return Advice({"loop.epochs": 200}, "epochs 200", "longer training gains little more")
    epochs = int(np.clip(CPU_IMAGES * (32 / size) ** 2 // number, 10, 400))
    why = f"processes {epochs * number:,} images of {size} px in total"
    return Advice({"loop.epochs": epochs}, f"epochs {epochs}", why)


def _blur_advice(size: int) -> Advice:
    if size > 64:
        return Advice({"views.blur": 0.5}, "blur on", "as in the paper, for large views")
    return Advice({"views.blur": 0.0}, "blur off", f"views of {size} px have no detail to spare")


def _colour_advice(channels: int) -> Advice:
    if channels == 3:
        return Advice(
            {}, "colour jitter and drop", "as in the paper, so that colour alone is not enough"
        )
    changes = policy_settings(simclr_gray())
    changes = {name: changes[name] for name in ("views.saturation", "views.hue", "views.gray")}
    why = f"{channels} channel{'s' * (channels != 1)}: brightness and contrast only"
    return Advice(changes, "no colour operations", why)
