"""The protocol knn: the k nearest neighbours of each test image vote for its class."""

from selftaught.evaluation.representation import Representation
from selftaught.evaluation.trial import ProtocolAnswer, Trial, classification_answer
from selftaught.pairwise.knn_vote import NEIGHBOURS, knn_vote


def knn(subject: Representation, trial: Trial) -> ProtocolAnswer:
    """Cosine, k = 200, tau = 0.07; k is clipped to the number of training images, with a note."""
    x_ND = subject.vectors(trial.images)
    scores_MK = knn_vote(x_ND[trial.train], trial.labels, x_ND[trial.test], classes=trial.classes)
    n = len(trial.train)
    return classification_answer(
        trial, scores_MK, f"k = {NEIGHBOURS} was clipped to {n}" if n < NEIGHBOURS else ""
    )
