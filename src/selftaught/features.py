"""f(x) of a whole store: what is clustered, probed, searched and shown.

Shapes:  N images of the store; n of this process's share; B of a batch; D = encoder.dim.
"""

import contextlib
import hashlib
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from selftaught.data.batches import ahead
from selftaught.distributed import agree, all_gather, rank, world
from selftaught.encoders.encoder import Encoder, encoder_id
from selftaught.errors import FileError
from selftaught.files import load_tensors, save_tensors
from selftaught.views.engine import Engine, Finish
from selftaught.views.policy import Policy, evaluation
from selftaught.views.sample import sample

if TYPE_CHECKING:
    from selftaught.data.store import Images


def features(
    encoder: Encoder,
    images: "Images",
    *,
    device: str | torch.device = "cpu",
    batch_size: int = 256,
    threads: int = 2,
    policy: Policy | None = None,
    cache: Path | None = None,
) -> NDArray[np.float32]:
    """h = f(x) of every image, (N, D) in row order, in evaluation mode and float32.

    Pixels are streamed; processes share the work, and each of them gets all of it.

    Args:
        encoder: f. It moves to the device; the modes of its modules are as before afterwards.
        images: x.
        device: Where f computes.
        batch_size: B.
        threads: Threads that make batches ahead.
        policy: How images become views; None: that of evaluation. Where it is random, the numbers
            are keyed by row under seed 0.
        cache: Folder where features are kept, by the encoder's identity, the images' content and
            the policy; None: nowhere.

    Raises:
        DataError: A file is damaged, missing or another than the one that was checked.
    """
    policy = policy or evaluation(encoder.config.image_size)
    path = None if cache is None else _path(cache, encoder, images, policy)
    kept = None if path is None else _kept(path, (len(images.store), encoder.dim))
    if not agree(kept is None):
        assert kept is not None
        return kept
    h_ND = _computed(encoder.to(device), images, policy, torch.device(device), batch_size, threads)
    if path is not None and rank() == 0:
        with contextlib.suppress(OSError):  # a full or read-only disk costs time, not the result
            path.parent.mkdir(parents=True, exist_ok=True)
            save_tensors(path, {"features": h_ND})
    return h_ND.numpy()


def _computed(
    encoder: Encoder,
    images: "Images",
    policy: Policy,
    device: torch.device,
    batch_size: int,
    threads: int,
) -> Tensor:
    """Each process computes one stretch of the rows; the stretches are gathered."""
    N = len(images.store)
    n = -(-N // world())
    rows_n = np.arange(rank() * n, min((rank() + 1) * n, N))
    h_nD = torch.zeros(n, encoder.dim)  # of one length everywhere: the last may end in zeros
    starts = range(0, len(rows_n), batch_size)
    parts = [rows_n[start : start + batch_size] for start in starts]
    made = views(encoder, images, parts, policy, threads=threads)
    with evaluating(encoder), contextlib.closing(made), torch.autocast(device.type, enabled=False):
        for start, x_BCSS in zip(starts, made, strict=True):
            h_BD = encoder(x_BCSS.to(next(encoder.parameters(), x_BCSS).dtype))  # float64 runs too
            h_nD[start : start + len(x_BCSS)] = h_BD
    return all_gather(h_nD)[:N]


def views(
    encoder: Encoder,
    images: "Images",
    batches: Sequence[NDArray[np.int64]],
    policy: Policy,
    *,
    seed: int = 0,
    epoch: int = 0,
    threads: int = 2,
) -> Generator[Tensor, None, None]:
    """One view of each row as this encoder takes it, batch by batch; numbers are keyed by row.

    Args:
        encoder: Its configuration says the size and the range; views come to its device.
        images: What the rows name.
        batches: (B,) rows each.
        policy: What is done.
        seed: Keys the numbers.
        epoch: Keys them too.
        threads: Threads that make batches ahead.

    Yields:
        (B, C, S, S) float32, channels last in memory.
    """
    config, store = encoder.config, images.store
    device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    engine = Engine(config.intensity, device)

    def begun(rows_B: NDArray[np.int64]) -> Finish:
        params = sample(
            policy,
            size=config.image_size,
            sizes_N2=store.sizes_N2[rows_B],
            draws_N=rows_B,
            seed=seed,
            epoch=epoch,
            channels=store.channels,
        )
        return engine.begin([store.read(rows_B)], [(params, policy)])

    with contextlib.closing(ahead(begun, batches, threads=threads)) as made:
        for finish in made:
            (x_BCSS,) = finish()
            yield x_BCSS.contiguous(memory_format=torch.channels_last)


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every submodule's own mode is restored."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for part, training in modes:
            part.training = training


def _path(cache: Path, encoder: Encoder, images: "Images", policy: Policy) -> Path:
    text = f"{encoder_id(encoder)}/{images.content}/{policy}/{encoder.config.image_size}"
    return cache / "features" / f"{hashlib.sha256(text.encode()).hexdigest()}.safetensors"


def _kept(path: Path, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    """What a former call has kept, unless the file is missing or damaged."""
    try:
        h_ND = load_tensors(path).get("features") if path.exists() else None
    except FileError:
        return None
    whole = h_ND is not None and h_ND.shape == shape and h_ND.dtype == torch.float32
    return h_ND.numpy() if h_ND is not None and whole else None
