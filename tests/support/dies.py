"""The command line, which kills itself at a chosen point of DeepCluster's second epoch.

    DIES=clustering python -m tests.support.dies pretrain ...

SIGKILL comes from the process itself, so that it comes at that point and at no other. Clustering
takes at least a second here, as it does where there are many images.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from selftaught import cli
from selftaught.clustering import kmeans
from selftaught.data.batch import Batch, Progress
from selftaught.methods.deepcluster import DeepCluster
from selftaught.training import checkpoint
from selftaught.training.training import Training

POINTS = ("clustering", "saving", "training")
"""Within k-means; within the writing of the checkpoint after it, when that of the same step is set
aside; before the first step."""
EPOCH = 1


def main(point: str) -> int:
    """Run the command line."""
    cluster, means, take, aside = (
        DeepCluster._cluster,
        kmeans._new_centroids,
        Training.take,
        checkpoint._set_aside,
    )
    epoch, rounds = -1, 0

    def die(here: str, now: bool) -> None:
        if here == point and now and epoch == EPOCH:
            os.kill(os.getpid(), signal.SIGKILL)

    def slow_cluster(method: Any, features: Any, labels: Any, progress: Progress) -> None:
        nonlocal epoch, rounds
        epoch, rounds = progress.epoch, 0
        time.sleep(1)
        cluster(method, features, labels, progress)

    def mortal_means(*arguments: Any) -> Any:
        nonlocal rounds
        rounds += 1
        die("clustering", rounds == 2)
        return means(*arguments)

    def mortal_aside(path: Path) -> None:
        replaced = path.exists()
        aside(path)
        die("saving", replaced)

    def mortal_take(training: Training, batch: Batch) -> None:
        die("training", True)
        take(training, batch)

    DeepCluster._cluster = slow_cluster  # type: ignore[method-assign]
    kmeans._new_centroids = mortal_means
    Training.take = mortal_take  # type: ignore[method-assign]
    checkpoint._set_aside = mortal_aside
    return cli.main()


if __name__ == "__main__":
    sys.exit(main(os.environ["DIES"]))
