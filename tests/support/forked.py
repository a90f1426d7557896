"""The command line in processes that start in a moment: forked from one that has imported it all.

    with Server() as server:
        child = server.start("resume", run)
        child.signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL

Each child is a process of its own with a fresh command line in it; it shares nothing with the next.
A child that has ended keeps its number until `wait`, so that a signal can reach no stranger.
"""

import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.command_line import environment

IMPORTED = (
    "pyarrow.parquet",
    "safetensors.torch",
    "sklearn.datasets",
    "timm",
    "torch._dynamo",
    "selftaught.cli",
    "selftaught.data.check_images",
    "selftaught.data.store",
    "selftaught.methods.simclr",
    "selftaught.options.train",
    "selftaught.commands.pretrain",
    "selftaught.recipe.resolve",
    "tyro",
)
REPOSITORY = Path(__file__).parents[2]


class Server:
    """A process that forks others; one child at a time. `more` is put into the environment."""

    def __init__(self, **more: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env=environment(**more),
        )

    def __enter__(self) -> Self:
        assert self.ask("ready") == "ready"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def start(self, *arguments: object, said: Path | None = None) -> "Child":
        """`selftaught ARGUMENTS`; what it says on both streams is added to a file."""
        where = str(said or os.devnull)
        return Child(self, self.ask("start", where, *map(str, arguments)))

    def ask(self, *words: Any) -> Any:
        """One question to the server, and its answer."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


class Child:
    """A command that runs."""

    def __init__(self, server: Server, pid: int) -> None:
        self._server, self.pid = server, pid

    def ended(self) -> bool:
        """Whether it has ended by itself or by a signal."""
        return bool(self._server.ask("ended", self.pid))

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Its exit code, or minus the number of the signal that killed it."""
        return int(self._server.ask("wait", self.pid))


def _serve() -> None:
    for name in IMPORTED:
        __import__(name)
    for line in sys.stdin:
        word, *rest = json.loads(line)
        print(json.dumps(_ANSWERS[word](*rest)), flush=True)


def _start(said: str, *arguments: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        code = _become(said, arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _become(said: str, arguments: tuple[str, ...]) -> int:
    """In the child: the command, with its own streams."""
    from selftaught import cli

    os.setsid()
    devnull = os.open(os.devnull, os.O_RDWR)
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for old, new in ((devnull, 0), (file, 1), (file, 2)):
        os.dup2(old, new)
    return cli.main(arguments)


def _ended(pid: int) -> bool:
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, pid, options) is not None


def _wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


_ANSWERS = {"ready": lambda: "ready", "start": _start, "ended": _ended, "wait": _wait}

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _serve()
