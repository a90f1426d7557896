"""Other libraries' SimCLR views, each in its documented form, with the numbers of our own policy.

A rival is a function of n: it makes two views of each of n images, ready to train on, and throws
them away. lightly, torchvision and albumentations work on one image at a time, in a DataLoader: in
this process on one core, in a worker a core on more. kornia works on batches, with torch's threads.

What the libraries do is not quite the same: OpenCV resizes without antialiasing, Pillow blurs with
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
"""Makes two views of each of so many images."""

Pictures = Sequence[NDArray[np.uint8]] | Sequence[Path]
"""Decoded images (H, W, 3), or JPEG files."""

MEAN, STD = Intensity().mean, Intensity().std


def rivals(
    pictures: Pictures, policy: Policy, size: int, *, batch: int, cores: int
) -> dict[str, Make]:
    """Every library's form of a policy, by name.

    Args:
        pictures: What views are made of.
        policy: A random crop, and some of flip, jitter, grey and blur.
        size: S.
        batch: B; a worker's batch is a quarter of it, so that all workers have some.
        cores: Those that may be used.
    """
    apart = {
        "lightly SimCLRTransform": (as_pillow, lightly_views(policy, size)),
        "torchvision v2 on PIL": (as_pillow, twice(torchvision_view(policy, size))),
        "torchvision v2 on tensors": (as_tensor, twice(torchvision_view(policy, size))),
        "albumentations": (as_array, twice(albumentations_view(policy, size))),
    }
    of_a_worker = batch if cores == 1 else max(1, batch // 4)
    makers: dict[str, Make] = {
        name: _Loader(Views(pictures, load, transform), of_a_worker, cores)
        for name, (load, transform) in apart.items()
    }
    return makers | {"kornia, batched": _Kornia(pictures, policy, size, batch, cores)}


# --- how each library reads an image


def as_pillow(picture: Any) -> Image.Image:
    """As torchvision's and lightly's data sets read it."""
    if isinstance(picture, Path):
        return Image.open(picture).convert("RGB")
    return Image.fromarray(picture)


def as_tensor(picture: Any) -> Tensor:
    """(3, H, W) uint8, files with torchvision's own decoder."""
    if isinstance(picture, Path):
        from torchvision.io import ImageReadMode, decode_image

        return decode_image(str(picture), ImageReadMode.RGB)
    return torch.from_numpy(picture).permute(2, 0, 1)


def as_array(picture: Any) -> NDArray[np.uint8]:
    """(H, W, 3) uint8, files with OpenCV."""
    if isinstance(picture, Path):
        import cv2

        return cv2.cvtColor(cv2.imread(str(picture)), cv2.COLOR_BGR2RGB)
    return picture


# --- how each library makes a view


def lightly_views(policy: Policy, size: int) -> Callable[[Image.Image], list[Tensor]]:
    """Both views, by lightly's SimCLRTransform."""
    from lightly.transforms import SimCLRTransform

    jitter, blur = _of(policy, Jitter), _of(policy, Blur)
    return SimCLRTransform(
        input_size=size,
        cj_prob=jitter.p,
        cj_strength=1.0,
        cj_bright=jitter.brightness,
        cj_contrast=jitter.contrast,
        cj_sat=jitter.saturation,
        cj_hue=jitter.hue,
        min_scale=_crop(policy).scale[0],
        random_gray_scale=_of(policy, Gray).p,
        gaussian_blur=blur.p,
        sigmas=blur.sigma,
        hf_prob=_of(policy, Flip).p,
        normalize={"mean": list(MEAN), "std": list(STD)},
    )


def torchvision_view(policy: Policy, size: int) -> Callable[[Any], Tensor]:
    """torchvision's transforms, version 2, for PIL images and for uint8 tensors."""
    from torchvision.transforms import v2

    jitter, blur, crop = _of(policy, Jitter), _of(policy, Blur), _crop(policy)
    colours = v2.ColorJitter(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    steps = [
        v2.RandomResizedCrop(size, crop.scale, crop.ratio, antialias=True),
        v2.RandomHorizontalFlip(_of(policy, Flip).p),
        v2.RandomApply([colours], jitter.p),
        v2.RandomGrayscale(_of(policy, Gray).p),
        *([v2.RandomApply([v2.GaussianBlur(blur.width(size), blur.sigma)], blur.p)] * (blur.p > 0)),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(MEAN, STD),
    ]
    return v2.Compose(steps)


def albumentations_view(policy: Policy, size: int) -> Callable[[NDArray[np.uint8]], Tensor]:
    """albumentations on OpenCV."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations as A
    from albumentations.pytorch import ToTensorV2

    jitter, blur, crop = _of(policy, Jitter), _of(policy, Blur), _crop(policy)
    width = blur.width(size)
    factors = [
        (max(0.0, 1 - s), 1 + s) for s in (jitter.brightness, jitter.contrast, jitter.saturation)
    ]
    steps = [
        A.RandomResizedCrop((size, size), crop.scale, crop.ratio),
        A.HorizontalFlip(p=_of(policy, Flip).p),
        A.ColorJitter(*factors, (-jitter.hue, jitter.hue), p=jitter.p),
        A.ToGray(p=_of(policy, Gray).p),
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
    """kornia's crop, and what follows it; both on float batches in [0, 1]."""
    from kornia import augmentation as K

    jitter, blur, crop = _of(policy, Jitter), _of(policy, Blur), _crop(policy)
    width = blur.width(size)
    factors = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    rest = [
        K.RandomHorizontalFlip(p=_of(policy, Flip).p),
        K.ColorJitter(*factors, p=jitter.p),
        K.RandomGrayscale(p=_of(policy, Gray).p),
        *([K.RandomGaussianBlur((width, width), blur.sigma, p=blur.p)] * (blur.p > 0)),
        K.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
    ]
    first = K.RandomResizedCrop(
        (size, size), crop.scale, crop.ratio, cropping_mode="resample"
    )  # its faster form
    return first, nn.Sequential(*rest)


def twice(view: Callable[[Any], Tensor]) -> Callable[[Any], list[Tensor]]:
    """Two views of an image."""
    return lambda image: [view(image), view(image)]


def _of(policy: Policy, kind: type[Any]) -> Any:
    """The policy's operation of a kind, or one that never happens."""
    return next((o for o in policy.operations if isinstance(o, kind)), kind(p=0.0))


def _crop(policy: Policy) -> RandomCrop:
    assert isinstance(policy.box, RandomCrop)
    return policy.box


# --- how views become batches


class Views(Dataset[Any]):
    """A data set as the libraries' tutorials write it: read an image, transform it."""

    def __init__(
        self, pictures: Pictures, load: Callable[[Any], Any], transform: Callable[[Any], Any]
    ) -> None:
        self.pictures, self.load, self.transform = pictures, load, transform

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Any:
        return self.transform(self.load(self.pictures[index]))


class _Cycle(Sampler[int]):
    """Images over and over, as many as are asked for."""

    def __init__(self, images: int) -> None:
        self.images, self.n = images, 0

    def __iter__(self) -> Iterator[int]:
        return (i % self.images for i in range(self.n))


class _Loader:
    """Views through a DataLoader whose workers stay."""

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
    """A worker is a process of its own: OpenCV shall not start more threads in it."""
    import cv2

    cv2.setNumThreads(1)


class _Kornia:
    """Images are read by a DataLoader and become views here, a batch at a time.

    Images of many sizes are no batch before they are cropped, so they are cropped one by one.
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
                    self.rest(self._cropped(images))

    def _cropped(self, images: list[Tensor]) -> Tensor:
        """(B, 3, S, S) float32 in [0, 1]."""
        if len({image.shape for image in images}) == 1:
            cropped: Tensor = self.crop(torch.stack(images).float() / 255)
            return cropped
        return torch.cat([self.crop(image[None].float() / 255) for image in images])
