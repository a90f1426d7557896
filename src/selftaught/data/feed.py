"""Batches of views, made ahead of the step by threads, in an order that no thread can change.

Shapes:  N images of the store; B of the global batch; n of this process's part of it; V views.
         A place is a position in the epoch's global order. A draw is a place too: it keys the
         randomness of a view, also where another place's image stands in for a bad one.
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
_QUEUE = 2  # batches that wait beside those that are being made


@dataclass
class Feed:
    """What batches are made of; the same for a whole run.

    Attributes:
        images: What is drawn from.
        specs: The views that are made.
        batch_size: Images a step, over all processes.
        seed: The run's seed.
        threads: Threads that make batches ahead of the step; 0 makes them when they are asked for.
        device: Where the views are wanted.
        intensity: How raw values become the network's input.
        labels: (N,) what `Batch.labels` is taken from.
        compiled: Whether torch compiles the views that a GPU makes.
        replaced: Names of files that went bad since the check, each once.

    Raises:
        ConfigError: There are fewer images than a batch has, or the number of processes does not
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
                f"give --batch-size {len(self.images.store)} or less, or more images",
            )
        if self.batch_size < 1 or self.batch_size % world():
            raise ConfigError(
                f"--batch-size {self.batch_size} does not divide into {world()} equal parts",
                f"give a multiple of {world()}, the number of processes",
            )
        self._health = _Health(self.images, self.replaced)
        self._engine = Engine(self.intensity, self.device, compiled=self.compiled)

    @property
    def steps_per_epoch(self) -> int:
        """Global batches an epoch; the last incomplete one is dropped."""
        return len(self.images.store) // self.batch_size

    @property
    def readable(self) -> "Images":
        """The images, the next good one in the place of each that went bad."""
        from selftaught.data.store import StandIns  # late: it brings all that decodes

        health = self._health
        return replace(
            self.images, store=StandIns(self.images.store, health.good, health.forget_good)
        )

    def epoch(
        self, draws: Draws | None, progress: Progress, *, skip: int = 0
    ) -> Generator[Batch, None, None]:
        """The batches of an epoch; closing the generator ends its threads.

        Args:
            draws: The epoch's global order; None: a permutation keyed by seed and epoch.
            progress: Where the run stands at the epoch's first batch.
            skip: Batches that a resumed run has done already.

        Raises:
            DataError: More than 1 % of the images have gone bad since they were checked.
        """
        order = draws or Draws(self._permutation(progress.epoch))
        assert len(order.rows) == len(self.images.store)

        def begun(index: int) -> _Begun:
            return self._begun(order, replace(progress, step=progress.step + index), index)

        indices = range(skip, self.steps_per_epoch)
        with contextlib.closing(ahead(begun, indices, threads=self.threads)) as made:
            yield from map(self._batch, made)  # holds no batch while the next is made

    def _permutation(self, epoch: int) -> Rows:
        return permutation(Key(self.seed, "order", epoch), len(self.images.store))

    def _begun(self, order: Draws, progress: Progress, index: int) -> "_Begun":
        """This process's part of a global batch, as far as a thread makes it."""
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
        return _Begun(finish, params, rows_nV[:, 0].copy(), draws_n, progress)

    @property
    def _views(self) -> int:
        return sum(spec.count for spec in self.specs)

    def _pixels(self, rows: Rows) -> list[Raw] | None:
        """The pixels of each view, or of all of them, where a draw is one row; None: one is bad."""
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

    def _batch(self, begun: "_Begun") -> Batch:
        """The rest of it: views and labels on the device."""
        labels = None
        if self.labels is not None:
            labels = torch.from_numpy(self.labels[begun.rows_n]).to(self.device)
        return Batch(
            views=begun.finish(),
            params=begun.params,
            rows=torch.from_numpy(begun.rows_n),
            draws=torch.from_numpy(begun.draws_n),
            labels=labels,
            step=begun.progress,
            seed=self.seed,
        )

    def _healthy(self, order: Draws, first: int) -> Rows:
        """The places that a global batch is made from, (B,): where a draw's image is bad, that of
        a stand-in from outside the batch.

        Those that the epoch does not use come first, then the rest of the order. All processes
        look at the whole batch, so they agree without asking each other.
        """
        places_B = np.arange(first, first + self.batch_size)
        used = self.steps_per_epoch * self.batch_size
        outside = [range(used, len(order.rows)), range(first), range(first + len(places_B), used)]
        taken = set(order.rows[places_B].reshape(-1).tolist())
        stand_ins = (place for part in outside for place in part)
        for slot in range(self.batch_size):
            if not self._health.good(order.rows[places_B[slot]]):
                places_B[slot] = self._stand_in(order, stand_ins, taken)
        return places_B

    def _stand_in(self, order: Draws, places: Iterable[int], taken: set[int]) -> int:
        for place in places:
            rows = set(np.atleast_1d(order.rows[place]).tolist())
            if taken.isdisjoint(rows) and self._health.good(order.rows[place]):
                taken |= rows
                return place
        raise DataError(
            f"{self.replaced[0]} has gone bad, and every other image is in the batch already",
            "repair it, or give a smaller --batch-size",
        )


@dataclass(frozen=True)
class _Begun:
    """A batch whose views may still have to be finished."""

    finish: Finish
    params: list[ViewParams]
    rows_n: Rows
    draws_n: Rows
    progress: Progress


class _Health:
    """Which images can still be read; asked by several threads."""

    def __init__(self, images: "Images", replaced: list[str]) -> None:
        self._store, self._replaced = images.store, replaced
        self._state_N = np.zeros(len(images.store), np.int8)
        self._lock = threading.Lock()

    def any_bad(self, rows: Rows) -> bool:
        """Whether one of them is known to be bad."""
        return bool((self._state_N[rows] == _BAD).any())

    def forget_good(self) -> None:
        """An image that was good may be bad by now."""
        with self._lock:
            self._state_N[self._state_N == _GOOD] = _UNKNOWN

    def good(self, rows: Rows | int) -> bool:
        """Whether all of them can be read: each is tried once."""
        return all(self._try(int(row)) == _GOOD for row in np.atleast_1d(rows))

    def _try(self, row: int) -> int:
        if self._state_N[row] == _UNKNOWN:
            try:
                self._store.read(np.array([row]))
                self._note_good(row)
            except BadImage as error:
                self._note(row, error)
        return int(self._state_N[row])

    def _note_good(self, row: int) -> None:
        with self._lock:  # another thread may have found it bad meanwhile
            if self._state_N[row] == _UNKNOWN:
                self._state_N[row] = _GOOD

    def _note(self, row: int, error: BadImage) -> None:
        with self._lock:
            if self._state_N[row] != _BAD:
                self._state_N[row] = _BAD
                self._replaced.append(error.what)
            bad, total = len(self._replaced), len(self._state_N)
        if bad > max(1, _TOLERATED * total):
            raise DataError(
                f"{bad} of {total} images have gone bad since they were checked, "
                f"the first is {self._replaced[0]} ({error.reason})",
                "repair them, or check the disk",
            )


def _columns(rows: Rows, views: int) -> Rows:
    return np.broadcast_to(rows[:, None], (len(rows), views)) if rows.ndim == 1 else rows


# --- threads


def ahead(
    make: Callable[[Item], Made], items: Iterable[Item], *, threads: int
) -> Generator[Made, None, None]:
    """`make(item)` of each item, in order, made ahead by threads with a bounded queue.

    Threads compute with one core each: several batches at once use the cores better than one batch
    on all of them, and results cannot depend on how many there are. Closing the generator, or an
    exception in `make`, ends the threads once each has finished what it is at.
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
    """Threads in which torch uses one core.

    `torch.set_num_threads` is in part a setting of the calling thread and in part one of the whole
    process, so the caller's number is set again once every thread has set its own.
    """
    before, ready = torch.get_num_threads(), threading.Barrier(threads + 1)

    def begin() -> None:
        torch.get_num_threads()  # a thread's first question would set the process's number here
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(threads, thread_name_prefix="batches", initializer=begin)
    for _ in range(threads):
        pool.submit(int)
    ready.wait()
    torch.set_num_threads(before)
    return pool
