"""A pool of processes that stand in for torchrun: spawned once, joined by gloo for each call.

`run(3, function, *args)` calls `function(*args)` on three processes that form one group, and
returns what each of them returned. Functions live at the top level of a test module and arguments
can be pickled; `foundation.distributed.rank()` tells a function which part of the data is its own.
"""

import atexit
import multiprocessing
import os
import pickle
import socket
import time
import traceback
import warnings
from collections.abc import Callable
from functools import cache
from multiprocessing.connection import Connection, wait
from typing import Any

MOST = 4  # processes
_NOT_CONNECTED = "connectFullMesh failed"
AFTERMATH = 2.0  # seconds in which the other ranks may say what they know of a failure


class RankFailed(Exception):
    """A function raised, died or took too long on some process; the message has its traceback."""


class Pool:
    """`size` spawned processes. After a failure they are replaced by the next call."""

    def __init__(self, size: int = MOST) -> None:
        self.size = size
        self._members: list[tuple[multiprocessing.process.BaseProcess, Connection]] = []

    def run(
        self, world: int, function: Callable[..., Any], *args: Any, timeout: float = 60.0
    ) -> list[Any]:
        """What `function(*args)` returns on each of the ranks 0 .. world - 1.

        On a machine that is short of time gloo may fail to connect the processes, before the
        function was called at all; they are then started anew, twice at most.

        Raises:
            RankFailed: It raised, died or did not return within `timeout` seconds on some rank.
        """
        for _ in range(2):
            try:
                return self._run(world, function, args, timeout)
            except RankFailed as failed:
                if _NOT_CONNECTED not in str(failed):
                    raise
        return self._run(world, function, args, timeout)

    def _run(
        self, world: int, function: Callable[..., Any], args: tuple[Any, ...], timeout: float
    ) -> list[Any]:
        assert 1 <= world <= self.size
        if not self._members:
            self._members = [_spawn() for _ in range(self.size)]
        port = _free_port()
        pipes = [pipe for _, pipe in self._members[:world]]
        for rank, pipe in enumerate(pipes):
            pipe.send_bytes(pickle.dumps((_environment(rank, world, port), function, args)))
        try:
            return _collect(pipes, time.monotonic() + timeout)
        except RankFailed:
            self.close()  # the other ranks wait for the one that failed
            raise

    def close(self) -> None:
        """End the processes."""
        for process, pipe in self._members:
            process.kill()
            process.join()
            pipe.close()
        self._members = []


@cache
def _shared() -> Pool:
    pool = Pool()
    atexit.register(pool.close)
    return pool


def run(world: int, function: Callable[..., Any], *args: Any, timeout: float = 60.0) -> list[Any]:
    """`Pool.run` on the pool that the whole test run shares."""
    return _shared().run(world, function, *args, timeout=timeout)


def _spawn() -> tuple[multiprocessing.process.BaseProcess, Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _collect(pipes: list[Connection], deadline: float) -> list[Any]:
    results: dict[int, Any] = {}
    failures: dict[int, str] = {}
    while waiting := {
        pipe: rank
        for rank, pipe in enumerate(pipes)
        if rank not in results and rank not in failures
    }:
        ready = wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            break
        for pipe in ready:
            _receive(pipe, waiting[pipe], results, failures)
        if failures:  # the cause may come after the complaint of a rank that lost its peer
            deadline = min(deadline, time.monotonic() + AFTERMATH)
    if failures:
        raise RankFailed("\n".join(failures[rank] for rank in sorted(failures)))
    if waiting:
        raise RankFailed(f"ranks {sorted(waiting.values())} did not return in time")
    return [results[rank] for rank in range(len(pipes))]


def _receive(
    pipe: Connection, rank: int, results: dict[int, Any], failures: dict[int, str]
) -> None:
    """Note what a rank returned, or how it failed."""
    try:
        failure, result = pickle.loads(pipe.recv_bytes())
    except (EOFError, ConnectionResetError):
        failures[rank] = f"rank {rank} died"
        return
    if failure:
        failures[rank] = f"rank {rank} raised\n{failure}"
    else:
        results[rank] = result


def _serve(pipe: Connection) -> None:
    """The life of a process of the pool: calls come in, results or tracebacks go out."""
    import torch

    torch.set_num_threads(1)
    while True:
        try:
            environment, function, args = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        try:
            answer = (None, _in_group(environment, function, args))
        except Exception:
            answer = (traceback.format_exc(), None)
        pipe.send_bytes(pickle.dumps(answer))


def _in_group(environment: dict[str, str], function: Callable[..., Any], args: Any) -> Any:
    import torch

    from selftaught.foundation import distributed

    os.environ.update(environment)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distributed.start(torch.device("cpu"))
        try:
            return function(*args)
        finally:
            distributed.stop()


def _environment(rank: int, world: int, port: int) -> dict[str, str]:
    """What torchrun tells its processes."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
