"""f(x) of a whole store: what is clustered, probed, searched and shown.

Shapes:  N images of the store; n of this process's share; B of a batch; D = encoder.dim.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from selftaught.data.batches import Raw, ahead, as_tensors, to_device
from selftaught.distributed import agree, all_gather, rank, world
from selftaught.encoders.encoder import Encoder, encoder_id
from selftaught.errors import FileError
from selftaught.files import load_tensors, save_tensors
from selftaught.views.policy import Policy, evaluation
from selftaught.views.sample import ViewParams, sample
from selftaught.views.tensors import apply

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
    parts = [rows_n[start : start + batch_size] for start in range(0, len(rows_n), batch_size)]
    read = ahead(partial(_read, encoder, images, policy, device), parts, threads=threads)
    with evaluating(encoder), contextlib.closing(read), torch.autocast(device.type, enabled=False):
        for start, (raw, params) in zip(range(0, len(rows_n), batch_size), read, strict=True):
            if device.type != "cpu":
                raw = apply(to_device(raw, device), params, policy, encoder.config.intensity)
            assert isinstance(raw, Tensor)
            raw = raw.to(next(encoder.parameters(), raw).dtype)  # float64 runs are probed too
            h_BD = encoder(raw.contiguous(memory_format=torch.channels_last))
            h_nD[start : start + len(raw)] = h_BD
    return all_gather(h_nD)[:N]


def _read(
    encoder: Encoder,
    images: "Images",
    policy: Policy,
    device: torch.device,
    rows_B: NDArray[np.int64],
) -> tuple[Raw, ViewParams]:
    """Some rows as views; on a GPU as pixels, which become views there."""
    sizes_B2, size = images.store.sizes_N2[rows_B], encoder.config.image_size
    params = sample(policy, size=size, sizes_N2=sizes_B2, draws_N=rows_B, seed=0)
    raw = as_tensors(images.store.read(rows_B), device)
    if device.type == "cpu":
        raw = apply(raw, params, policy, encoder.config.intensity)
    return raw, params


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
