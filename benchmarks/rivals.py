"""Other libraries' SimCLR views, each in its documented form, with the numbers of our own policy.

A rival is a function of n: it makes two ready-to-train views of each of n images and discards them.
lightly, torchvision and albumentations process one image at a time, in a DataLoader: in this
process on one core, with one worker per core on several. kornia works on batches, with torch's
threads.

The libraries do not do quite the same: OpenCV resizes without antialiasing, Pillow blurs with
boxes, and all but kornia and ours round to 8 bits after each operation.

Shapes:  B images of a batch; S side of a view.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from selftaught.views.policy import Blur, Flip, Gray, Intensity, Jitter, Policy, RandomCrop

Make = Callable[[int], object]
"""Makes two views of each of n images."""

Pictures = Sequence[NDArray[np.uint8]] | Sequence[Path]
"""Decoded images (H, W, 3), or JPEG files."""

MEAN, STD = Intensity().mean, Intensity().std


def rivals(
    pictures: Pictures, policy: Policy, size: int, *, batch: int, cores: int
) -> dict[str, Make]:
    """Every library's version of a policy, by name.

    Args:
        pictures: Images to make views of.
        policy: A random crop, and some of flip, jitter, grey and blur.
        size: S.
        batch: B; a worker's batch is a quarter of it, so that all workers get some.
        cores: Number of usable cores.
    """
    per_image = {
        "lightly SimCLRTransform": (as_pillow, lightly_views(policy, size)),
        "torchvision v2 on PIL": (as_pillow, two_views(torchvision_view(policy, size))),
        "torchvision v2 on tensors": (as_tensor, two_views(torchvision_view(policy, size))),
        "albumentations": (as_array, two_views(albumentations_view(policy, size))),
    }
    worker_batch = batch if cores == 1 else max(1, batch // 4)
    makers: dict[str, Make] = {
        name: _Loader(Views(pictures, load, transform), worker_batch, cores)
        for name, (load, transform) in per_image.items()
    }
    return makers | {"kornia, batched": _Kornia(pictures, policy, size, batch, cores)}


# --- how each library reads an image


def as_pillow(picture: Any) -> Image.Image:
    """An image as torchvision's and lightly's data sets read it."""
    if isinstance(picture, Path):
        return Image.open(picture).convert("RGB")
    return Image.fromarray(picture)


def as_tensor(picture: Any) -> Tensor:
    """(3, H, W) uint8; files are read by torchvision's own decoder."""
    if isinstance(picture, Path):
        from torchvision.io import ImageReadMode, decode_image

        return decode_image(str(picture), ImageReadMode.RGB)
    return torch.from_numpy(picture).permute(2, 0, 1)


def as_array(picture: Any) -> NDArray[np.uint8]:
    """(H, W, 3) uint8; files are read by OpenCV."""
    if isinstance(picture, Path):
        import cv2

        return cv2.cvtColor(cv2.imread(str(picture)), cv2.COLOR_BGR2RGB)
    return picture


# --- how each library makes a view


def lightly_views(policy: Policy, size: int) -> Callable[[Image.Image], list[Tensor]]:
    """Both views, by lightly's SimCLRTransform."""
    from lightly.transforms import SimCLRTransform

    jitter, blur = _operation(policy, Jitter), _operation(policy, Blur)
    return SimCLRTransform(
        input_size=size,
        cj_prob=jitter.p,
        cj_strength=1.0,
        cj_bright=jitter.brightness,
        cj_contrast=jitter.contrast,
        cj_sat=jitter.saturation,
        cj_hue=jitter.hue,
        min_scale=_crop(policy).scale[0],
        random_gray_scale=_operation(policy, Gray).p,
        gaussian_blur=blur.p,
        sigmas=blur.sigma,
        hf_prob=_operation(policy, Flip).p,
        normalize={"mean": list(MEAN), "std": list(STD)},
    )


def torchvision_view(policy: Policy, size: int) -> Callable[[Any], Tensor]:
    """torchvision's v2 transforms, for PIL images and for uint8 tensors."""
    from torchvision.transforms import v2

    jitter, blur, crop = _operation(policy, Jitter), _operation(policy, Blur), _crop(policy)
    colours = v2.ColorJitter(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    steps = [
        v2.RandomResizedCrop(size, crop.scale, crop.ratio, antialias=True),
        v2.RandomHorizontalFlip(_operation(policy, Flip).p),
        v2.RandomApply([colours], jitter.p),
        v2.RandomGrayscale(_operation(policy, Gray).p),
        *([v2.RandomApply([v2.GaussianBlur(blur.width(size), blur.sigma)], blur.p)] * (blur.p > 0)),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(MEAN, STD),
    ]
    return v2.Compose(steps)


def albumentations_view(policy: Policy, size: int) -> Callable[[NDArray[np.uint8]], Tensor]:
    """albumentations' transforms, based on OpenCV."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations as A
    from albumentations.pytorch import ToTensorV2

    jitter, blur, crop = _operation(policy, Jitter), _operation(policy, Blur), _crop(policy)
    width = blur.width(size)
    factors = [
        (max(0.0, 1 - s), 1 + s) for s in (jitter.brightness, jitter.contrast, jitter.saturation)
    ]
    steps = [
        A.RandomResizedCrop((size, size), crop.scale, crop.ratio),
        A.HorizontalFlip(p=_operation(policy, Flip).p),
        A.ColorJitter(*factors, (-jitter.hue, jitter.hue), p=jitter.p),
        A.ToGray(p=_operation(policy, Gray).p),
        *([A.GaussianBlur((width, width), blur.sigma, p=blur.p)] * (blur.p > 0)),
        A.Normalize(MEAN, STD),
        ToTensorV2(),
    ]
    view = A.Compose(steps)

    def transform(image: NDArray[np.uint8]) -> Tensor:
        done: Tensor = view(image=image)["image"]
        return done

    return transform


def kornia_steps(policy: Policy, size: int) -> tuple[nn.Module, nn.Module]:
    """kornia's crop and the remaining operations, both on float batches in [0, 1]."""
    from kornia import augmentation as K

    jitter, blur, crop = _operation(policy, Jitter), _operation(policy, Blur), _crop(policy)
    width = blur.width(size)
    factors = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    rest = [
        K.RandomHorizontalFlip(p=_operation(policy, Flip).p),
        K.ColorJitter(*factors, p=jitter.p),
        K.RandomGrayscale(p=_operation(policy, Gray).p),
        *([K.RandomGaussianBlur((width, width), blur.sigma, p=blur.p)] * (blur.p > 0)),
        K.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
    ]
    first = K.RandomResizedCrop(
        (size, size), crop.scale, crop.ratio, cropping_mode="resample"
    )  # the faster mode
    return first, nn.Sequential(*rest)


def two_views(view: Callable[[Any], Tensor]) -> Callable[[Any], list[Tensor]]:
    """Two views per image."""
    return lambda image: [view(image), view(image)]


def _operation(policy: Policy, kind: type[Any]) -> Any:
    """The policy's operation of a kind, or one with probability 0."""
    return next((o for o in policy.operations if isinstance(o, kind)), kind(p=0.0))


def _crop(policy: Policy) -> RandomCrop:
    assert isinstance(policy.box, RandomCrop)
    return policy.box


# --- how views become batches


class Views(Dataset[Any]):
    """A data set as in the libraries' tutorials: read an image, transform it."""

    def __init__(
        self, pictures: Pictures, load: Callable[[Any], Any], transform: Callable[[Any], Any]
    ) -> None:
        self.pictures, self.load, self.transform = pictures, load, transform

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Any:
        return self.transform(self.load(self.pictures[index]))


class _Cycle(Sampler[int]):
    """The images in a cycle, as many as requested."""

    def __init__(self, images: int) -> None:
        self.images, self.n = images, 0

    def __iter__(self) -> Iterator[int]:
        return (i % self.images for i in range(self.n))


class _Loader:
    """Views through a DataLoader with persistent workers."""

    def __init__(self, data: Views, batch: int, cores: int, **more: Any) -> None:
        workers = cores if cores > 1 else 0
        self.order = _Cycle(len(data))
        self.loader = DataLoader(
            data,
            batch,
            sampler=self.order,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=one_thread,
            **more,
        )

    def __call__(self, n: int) -> None:
        for batch in self.batches(n):
            del batch

    def batches(self, n: int) -> Iterator[Any]:
        """The batches of n images."""
        self.order.n = n
        return iter(self.loader)


def one_thread(worker: int) -> None:
    """Keep OpenCV to one thread in a worker process."""
    import cv2

    cv2.setNumThreads(1)


class _Kornia:
    """A DataLoader reads images, and they become views here, one batch at a time.

    Images of different sizes cannot form a batch before the crop, so they are cropped one by one.
    """

    def __init__(
        self, pictures: Pictures, policy: Policy, size: int, batch: int, cores: int
    ) -> None:
        self.crop, self.rest = kornia_steps(policy, size)
        data = Views(pictures, as_tensor, lambda x: x)
        self.loader = _Loader(
            data, batch, cores if isinstance(pictures[0], Path) else 1, collate_fn=list
        )

    def __call__(self, n: int) -> None:
        with torch.inference_mode():
            for images in self.loader.batches(n):
                for _ in range(2):
                    self.rest(self._crop_images(images))

    def _crop_images(self, images: list[Tensor]) -> Tensor:
        """Crops, (B, 3, S, S) float32 in [0, 1]."""
        if len({image.shape for image in images}) == 1:
            cropped: Tensor = self.crop(torch.stack(images).float() / 255)
            return cropped
        return torch.cat([self.crop(image[None].float() / 255) for image in images])
