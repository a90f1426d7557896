"""--probe: kNN accuracy on labelled images while a run trains, never used to choose."""

from pathlib import Path

from selftaught import assemble
from selftaught.config import Config, DataSettings
from selftaught.data.labels import check_classes, label
from selftaught.errors import DataError
from selftaught.evaluation.evaluate import check_fits
from selftaught.evaluation.knn import knn_accuracy
from selftaught.features import features
from selftaught.training.loop import Probe
from selftaught.training.training import Training


def probe(labelled: str, training: Training, threads: int, cache: Path | None) -> Probe:
    """The encoder's kNN accuracy on labelled images, to be watched during training.

    Raises:
        DataError: The images have no labels, or another number of channels.
    """
    images = assemble.opened(Config(data=DataSettings(labelled)), cache, threads)
    check_fits(training.method.encoder, images)
    labels = label(images.checked)
    if not labels.classes:
        raise DataError(f"the labels of --probe {labelled} are numbers", "give classes")
    check_classes(images.checked, labels)

    def measure() -> float:
        vectors_ND = features(
            training.method.encoder, images, device=str(training.device), threads=threads
        )
        return knn_accuracy(vectors_ND, labels.labels_N, labels.train, labels.test)

    return measure
