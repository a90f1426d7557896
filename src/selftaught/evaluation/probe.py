"""--probe: kNN accuracy on labelled images during training, for monitoring only."""

from selftaught.data.labels import check_classes, label
from selftaught.data.open_images import open_images
from selftaught.encoders.fits import check_fits
from selftaught.errors import DataError
from selftaught.foundation.machine import Machine
from selftaught.pairwise.knn_vote import knn_accuracy
from selftaught.training.loop import Probe
from selftaught.training.training import Training
from selftaught.vectors.features import features


def probe(labelled: str, training: Training, machine: Machine) -> Probe:
    """A function that returns the encoder's kNN accuracy on labelled images.

    Raises:
        DataError: The images have no labels, or another number of channels.
    """
    images = open_images(labelled, machine)
    check_fits(training.method.encoder, images)
    labels = label(images.checked)
    if not labels.classes:
        raise DataError(f"the labels of --probe {labelled} are numbers", "use class labels")
    check_classes(images.checked, labels)

    def measure() -> float:
        vectors_ND = features(
            training.method.encoder,
            images,
            Machine(str(training.device), machine.threads),
        )
        return knn_accuracy(vectors_ND, labels.labels_N, labels.train, labels.test)

    return measure
