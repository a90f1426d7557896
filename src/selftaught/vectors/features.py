"""f(x) of a whole store, for clustering, probing, search and reports.

Shapes:  N images of the store; n in this process's share; B in a batch; D = encoder.dim.
"""

import contextlib
import hashlib
import math
import os
import tempfile
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from selftaught.data.feed import make_ahead
from selftaught.encoders.encoder import Encoder, encoder_id
from selftaught.errors import FileError
from selftaught.foundation.distributed import all_gather, any_process, rank, world
from selftaught.foundation.files import load_tensors, save_tensors
from selftaught.foundation.machine import CPU, Machine
from selftaught.views.engine import Engine, Finish
from selftaught.views.policy import Policy, evaluation
from selftaught.views.sample import sample

if TYPE_CHECKING:
    from selftaught.data.store import Images


def features(
    encoder: Encoder,
    images: "Images",
    machine: Machine = CPU,
    *,
    batch_size: int = 256,
    policy: Policy | None = None,
    before_final: bool = False,
    limit: int | None = None,
) -> NDArray[Any]:
    """h = f(x) of every image, (N, D) in row order, in evaluation mode and float32.

    Pixels are streamed. Processes share the work, and each returns all features.

    Args:
        encoder: f. It moves to the device; the modes of its modules are restored.
        images: x.
        machine: Device of f, threads that prepare batches, and the cache for features, keyed by the
            encoder's identity, the images' content and the policy. The cache is not used with
            `before_final`.
        batch_size: B.
        policy: How images become views; None: the evaluation policy. Random numbers are keyed by
            row under seed 0.
        before_final: Return f(x) before the encoder's last activation.
        limit: Bytes of memory for the result; a larger one is float16 in an unnamed file.

    Raises:
        DataError: A file is damaged, missing or has changed since the check.
        FileError: The disk for temporary files is too full.
    """
    policy = policy or evaluation(encoder.config.image_size)
    cache = None if before_final else machine.cache
    path = None if cache is None else _cache_path(cache, encoder, images, policy)
    cached = None if path is None else _cached_features(path, (len(images.store), encoder.dim))
    if not any_process(cached is None):
        assert cached is not None
        return cached
    shape = (len(images.store), encoder.dim)
    small = limit is None or 4 * math.prod(shape) <= limit
    h_ND = torch.empty(shape) if small else float16_buffer(shape, 0)
    encoder = encoder.to(machine.device)
    _compute(h_ND, encoder, images, policy, batch_size, machine.threads, before_final)
    if path is not None and rank() == 0:
        with contextlib.suppress(OSError):  # a full or read-only disk costs time, not the result
            path.parent.mkdir(parents=True, exist_ok=True)
            save_tensors(path, {"features": h_ND})
    return h_ND.numpy()


def _compute(
    h_ND: Tensor,
    encoder: Encoder,
    images: "Images",
    policy: Policy,
    batch_size: int,
    threads: int,
    before_final: bool,
) -> None:
    """Fill h batch by batch: each process computes one range of the rows and receives the rest."""
    N = len(h_ND)
    n = -(-N // world())
    starts = range(0, n, batch_size)
    own_n = np.arange(rank() * n, (rank() + 1) * n).clip(max=N - 1)  # padded with the last row
    views = batch_views(
        encoder, images, [own_n[s : s + batch_size] for s in starts], policy, threads=threads
    )
    f = encoder.before_final if before_final else encoder
    x = next(encoder.parameters(), torch.empty(0))  # the encoder of raw pixels has none
    with (
        evaluation_mode(encoder),
        contextlib.closing(views),
        torch.autocast(x.device.type, enabled=False),
    ):
        for start, x_BCSS in zip(starts, views, strict=True):
            h_BD = f(x_BCSS.to(x.dtype)).float()  # float64 runs too
            for process, part_BD in enumerate(all_gather(h_BD).chunk(world())):
                first = process * n + start
                last = min(first + len(part_BD), (process + 1) * n, N)
                h_ND[first:last] = part_BD[: max(0, last - first)]


def float16_buffer(shape: tuple[int, int], limit: int) -> Tensor:
    """An empty float16 tensor: in memory up to `limit` bytes, else in an unnamed file.

    Raises:
        FileError: The disk for temporary files is too full.
    """
    size = 2 * math.prod(shape)
    if size <= limit:
        return torch.empty(shape, dtype=torch.float16)
    with tempfile.TemporaryFile() as file:
        try:
            if hasattr(os, "posix_fallocate"):  # a disk that fills up later would kill the process
                os.posix_fallocate(file.fileno(), 0, size)
            return torch.from_numpy(np.memmap(file, np.float16, "w+", shape=shape))
        except OSError as error:
            raise FileError(
                f"{tempfile.gettempdir()} cannot hold {size / 2**30:.1f} GiB ({error.strerror})",
                "set TMPDIR to a folder on a disk with more space",
            ) from None


def batch_views(
    encoder: Encoder,
    images: "Images",
    batches: Sequence[NDArray[np.int64]],
    policy: Policy,
    *,
    seed: int = 0,
    epoch: int = 0,
    threads: int = 2,
) -> Generator[Tensor, None, None]:
    """One view per row, as input of this encoder, batch by batch; random numbers are keyed by row.

    Args:
        encoder: Its configuration sets the size and the range; views move to its device.
        images: The images.
        batches: (B,) rows each.
        policy: How images become views.
        seed: Key of the random numbers.
        epoch: Another key of them.
        threads: Threads that prepare batches.

    Yields:
        (B, C, S, S) float32, channels last in memory.
    """
    config, store = encoder.config, images.store
    device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    engine = Engine(config.intensity, device)

    def begin(rows_B: NDArray[np.int64]) -> Finish:
        raw = store.read(rows_B)
        params = sample(
            policy,
            size=config.image_size,
            sizes_N2=raw.sizes_N2,
            draws_N=rows_B,
            seed=seed,
            epoch=epoch,
            channels=store.channels,
        )
        return engine.begin([raw], [(params, policy)])

    with contextlib.closing(make_ahead(begin, batches, threads=threads)) as finishes:
        for finish in finishes:
            (x_BCSS,) = finish()
            yield x_BCSS.contiguous(memory_format=torch.channels_last)


@contextlib.contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every submodule's own mode is restored."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for part, training in modes:
            part.training = training


def _cache_path(cache: Path, encoder: Encoder, images: "Images", policy: Policy) -> Path:
    text = f"{encoder_id(encoder)}/{images.content}/{policy}/{encoder.config.image_size}"
    return cache / "features" / f"{hashlib.sha256(text.encode()).hexdigest()}.safetensors"


def _cached_features(path: Path, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    """The features that an earlier call cached; None if the file is missing or damaged."""
    try:
        h_ND = load_tensors(path).get("features") if path.exists() else None
    except FileError:
        return None
    whole = h_ND is not None and h_ND.shape == shape and h_ND.dtype == torch.float32
    return h_ND.numpy() if h_ND is not None and whole else None
