"""Batches of views, prepared by threads ahead of the step; the order does not depend on threads.

Shapes:  N images of the store; B of the global batch; n of this process's part of it; V views.
         A place is a position in the epoch's global order. A draw is a place that keys the
         randomness of a view, even if the image of another place replaces a bad one.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from selftaught.data.batch import Batch, Draws, Progress
from selftaught.errors import BadImage, ConfigError, DataError
from selftaught.foundation.distributed import rank, world
from selftaught.foundation.rng import Key, permutation
from selftaught.views.engine import Engine, Finish
from selftaught.views.policy import Intensity, ViewSpec
from selftaught.views.raw import Raw
from selftaught.views.sample import ViewParams, sample

if TYPE_CHECKING:
    from selftaught.data.store import Images

Item = TypeVar("Item")
Made = TypeVar("Made")
Rows = NDArray[np.int64]

_UNKNOWN, _GOOD, _BAD = 0, 1, 2
_TOLERATED = 0.01  # share of images that may go bad during a run
_QUEUE = 2  # finished batches that may wait, in addition to those in progress


@dataclass
class Feed:
    """The source of all batches of a run.

    Attributes:
        images: The images to draw from.
        specs: The views to make.
        batch_size: Images per step, over all processes.
        seed: The run's seed.
        threads: Threads that prepare batches ahead of the step; 0 prepares them on request.
        device: Device of the views.
        intensity: How raw values become the network's input.
        labels: (N,) labels for `Batch.labels`.
        compiled: Whether torch compiles the views made on a GPU.
        replaced: Names of files that went bad since the check, each once.

    Raises:
        ConfigError: A batch has more images than the data, or the number of processes does not
            divide the batch.
    """

    images: "Images"
    _: KW_ONLY
    specs: tuple[ViewSpec, ...]
    batch_size: int
    seed: int
    threads: int = 2
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    intensity: Intensity = field(default_factory=Intensity)
    labels: NDArray[Any] | None = None
    compiled: bool = False
    replaced: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.batch_size > len(self.images.store):
            raise ConfigError(
                f"--batch-size {self.batch_size} is more than the {len(self.images.store)} images",
                f"pass --batch-size {len(self.images.store)} or less, or add images",
            )
        if self.batch_size < 1 or self.batch_size % world():
            raise ConfigError(
                f"--batch-size {self.batch_size} does not divide into {world()} equal parts",
                f"pass a multiple of {world()}, the number of processes",
            )
        self._health = _Health(self.images, self.replaced)
        self._engine = Engine(self.intensity, self.device, compiled=self.compiled)

    @property
    def steps_per_epoch(self) -> int:
        """Global batches per epoch; the last incomplete one is dropped."""
        return len(self.images.store) // self.batch_size

    @property
    def readable(self) -> "Images":
        """The images, with the next good image replacing each one that went bad."""
        from selftaught.data.store import StandIns  # late, because it imports all decoders

        health = self._health
        return replace(
            self.images, store=StandIns(self.images.store, health.is_good, health.forget_good)
        )

    def epoch(
        self, draws: Draws | None, progress: Progress, *, skip: int = 0
    ) -> Generator[Batch, None, None]:
        """The batches of an epoch; closing the generator ends its threads.

        Args:
            draws: The epoch's global order; None: a permutation keyed by seed and epoch.
            progress: Progress at the epoch's first batch.
            skip: Batches that a resumed run has already done.

        Raises:
            DataError: More than 1 % of the images have gone bad since they were checked.
        """
        order = draws or Draws(self._permutation(progress.epoch))
        assert len(order.rows) == len(self.images.store)

        def prepare(index: int) -> _PreparedBatch:
            return self._prepare(order, replace(progress, step=progress.step + index), index)

        indices = range(skip, self.steps_per_epoch)
        with contextlib.closing(make_ahead(prepare, indices, threads=self.threads)) as batches:
            yield from map(self._batch, batches)  # holds no batch while the next is made

    def _permutation(self, epoch: int) -> Rows:
        return permutation(Key(self.seed, "order", epoch), len(self.images.store))

    def _prepare(self, order: Draws, progress: Progress, index: int) -> "_PreparedBatch":
        """This process's part of a global batch, as far as threads prepare it."""
        n = self.batch_size // world()
        part = slice(rank() * n, (rank() + 1) * n)
        first = index * self.batch_size
        draws_n = np.arange(first, first + self.batch_size)[part]
        places_n = draws_n
        if self._health.any_bad(order.rows[draws_n]):
            places_n = self._healthy(order, first)[part]
        while (pixels := self._pixels(order.rows[places_n])) is None:
            places_n = self._healthy(order, first)[part]
        rows_nV = _columns(order.rows[places_n], self._views)
        boxes_nV4 = None if order.boxes is None else order.boxes[places_n]
        params = self._params(rows_nV, draws_n, boxes_nV4, progress.epoch)
        policies = [spec.policy for spec in self._spec_of_view()]
        finish = self._engine.begin(pixels, list(zip(params, policies, strict=True)))
        return _PreparedBatch(finish, params, rows_nV[:, 0].copy(), draws_n, progress)

    @property
    def _views(self) -> int:
        return sum(spec.count for spec in self.specs)

    def _pixels(self, rows: Rows) -> list[Raw] | None:
        """The pixels of each view, or of all views if a draw is one row; None if any is bad."""
        columns = rows[:, None] if rows.ndim == 1 else rows
        try:
            return [self.images.store.read(rows_n) for rows_n in columns.T]
        except BadImage:
            self._health.forget_good()
            return None

    def _params(
        self, rows_nV: Rows, draws_n: Rows, boxes_nV4: Rows | None, epoch: int
    ) -> list[ViewParams]:
        return [
            sample(
                spec.policy,
                size=spec.size,
                sizes_N2=self.images.store.sizes_N2[rows_nV[:, view]],
                draws_N=draws_n,
                seed=self.seed,
                epoch=epoch,
                view=view,
                boxes_N4=None if boxes_nV4 is None else boxes_nV4[:, view],
                channels=self.images.store.channels,
            )
            for view, spec in enumerate(self._spec_of_view())
        ]

    def _spec_of_view(self) -> list[ViewSpec]:
        return [spec for spec in self.specs for _ in range(spec.count)]

    def _batch(self, prepared: "_PreparedBatch") -> Batch:
        """Finish a batch: views and labels on the device."""
        labels = None
        if self.labels is not None:
            labels = torch.from_numpy(self.labels[prepared.rows_n]).to(self.device)
        return Batch(
            views=prepared.finish(),
            params=prepared.params,
            rows=torch.from_numpy(prepared.rows_n),
            draws=torch.from_numpy(prepared.draws_n),
            labels=labels,
            step=prepared.progress,
            seed=self.seed,
        )

    def _healthy(self, order: Draws, first: int) -> Rows:
        """The places of a global batch, (B,), with stand-ins from outside the batch for bad images.

        Places that the epoch does not use come first, then the rest of the order. Every process
        checks the whole batch, so all agree without communication.
        """
        places_B = np.arange(first, first + self.batch_size)
        used = self.steps_per_epoch * self.batch_size
        outside = [range(used, len(order.rows)), range(first), range(first + len(places_B), used)]
        taken = set(order.rows[places_B].reshape(-1).tolist())
        stand_ins = (place for part in outside for place in part)
        for slot in range(self.batch_size):
            if not self._health.is_good(order.rows[places_B[slot]]):
                places_B[slot] = self._stand_in(order, stand_ins, taken)
        return places_B

    def _stand_in(self, order: Draws, places: Iterable[int], taken: set[int]) -> int:
        for place in places:
            rows = set(np.atleast_1d(order.rows[place]).tolist())
            if taken.isdisjoint(rows) and self._health.is_good(order.rows[place]):
                taken |= rows
                return place
        raise DataError(
            f"{self.replaced[0]} has gone bad, and the batch already uses every other image",
            "repair it, or pass a smaller --batch-size",
        )


@dataclass(frozen=True)
class _PreparedBatch:
    """A batch whose views may be unfinished."""

    finish: Finish
    params: list[ViewParams]
    rows_n: Rows
    draws_n: Rows
    progress: Progress


class _Health:
    """Which images can still be read; shared by several threads."""

    def __init__(self, images: "Images", replaced: list[str]) -> None:
        self._store, self._replaced = images.store, replaced
        self._state_N = np.zeros(len(images.store), np.int8)
        self._lock = threading.Lock()

    def any_bad(self, rows: Rows) -> bool:
        """Whether any of the rows is known to be bad."""
        return bool((self._state_N[rows] == _BAD).any())

    def forget_good(self) -> None:
        """Recheck good images on next use, since some may have gone bad."""
        with self._lock:
            self._state_N[self._state_N == _GOOD] = _UNKNOWN

    def is_good(self, rows: Rows | int) -> bool:
        """Whether all of the rows can be read; each is tried once."""
        return all(self._state(int(row)) == _GOOD for row in np.atleast_1d(rows))

    def _state(self, row: int) -> int:
        if self._state_N[row] == _UNKNOWN:
            try:
                self._store.read(np.array([row]))
                self._note_good(row)
            except BadImage as error:
                self._note_bad(row, error)
        return int(self._state_N[row])

    def _note_good(self, row: int) -> None:
        with self._lock:  # another thread may have found it bad in between
            if self._state_N[row] == _UNKNOWN:
                self._state_N[row] = _GOOD

    def _note_bad(self, row: int, error: BadImage) -> None:
        with self._lock:
            if self._state_N[row] != _BAD:
                self._state_N[row] = _BAD
                self._replaced.append(error.what)
            bad, total = len(self._replaced), len(self._state_N)
        if bad > max(1, _TOLERATED * total):
            raise DataError(
                f"{bad} of {total} images have gone bad since they were checked, "
                f"first {self._replaced[0]} ({error.reason})",
                "repair them, or check the disk",
            )


def _columns(rows: Rows, views: int) -> Rows:
    return np.broadcast_to(rows[:, None], (len(rows), views)) if rows.ndim == 1 else rows


# --- threads


def make_ahead(
    make: Callable[[Item], Made], items: Iterable[Item], *, threads: int
) -> Generator[Made, None, None]:
    """`make(item)` of each item, in order, computed ahead by threads with a bounded queue.

    Each thread uses one core: several batches at once use the cores better than one batch on all
    cores, and results cannot depend on the number of cores. Closing the generator, or an exception
    in `make`, ends each thread after its current item.
    """
    pool = _pool(max(1, threads))
    waiting, most = deque[Future[Made]](), threads + _QUEUE if threads else 0
    try:
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _pool(threads: int) -> ThreadPoolExecutor:
    """A pool of threads in which torch uses one core.

    `torch.set_num_threads` affects both the calling thread and, in part, the whole process, so the
    caller's number is restored after every thread has set its own.
    """
    before, ready = torch.get_num_threads(), threading.Barrier(threads + 1)

    def begin() -> None:
        torch.get_num_threads()  # a thread's first call sets its number to that of the process
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(threads, thread_name_prefix="batches", initializer=begin)
    for _ in range(threads):
        pool.submit(int)
    ready.wait()
    torch.set_num_threads(before)
    return pool
