"""Protocols on folders with their own layout: instance retrieval, and tracking masks in clips.

Neither learns from labels: the figures are means over queries or objects.
"""

import time
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from selftaught.data.clips import read_clips
from selftaught.data.decode import decode_file
from selftaught.data.open_images import open_files, open_images_with_notice
from selftaught.data.retrieval_sets import Query, RetrievalSet, read_retrieval_set
from selftaught.data.store import Images
from selftaught.encoders.encoder import Encoder
from selftaught.encoders.fits import check_fits
from selftaught.errors import ConfigError, did_you_mean, printable
from selftaught.evaluation.descriptors import DescriptorSettings, crop_to_box, learn_whitening
from selftaught.evaluation.judge import Judge, Judgement
from selftaught.evaluation.protocols import instance_retrieval, tracking
from selftaught.evaluation.representation import (
    RANDOM_SEEDS,
    EncoderRepresentation,
    Representation,
    random_init,
    raw_pixels,
)
from selftaught.evaluation.table import Row
from selftaught.evaluation.trial import ProtocolAnswer
from selftaught.foundation.machine import Machine
from selftaught.foundation.progress import LONG, notice_if_slow
from selftaught.foundation.typed_values import checked_value
from selftaught.options.assess import Evaluate
from selftaught.options.assignments import parse_assignments
from selftaught.retrieval.local_features import Cells, Describe, Features, sift
from selftaught.retrieval.verify import Verifier
from selftaught.retrieval.visual_words import Words

S = TypeVar("S")
Encoders = Mapping[str, Encoder]
AnswerOf = Callable[[Representation], ProtocolAnswer]

_WORDS, _PER_WORD = 10_000, 40  # most words of SIFT; fewest descriptors per word


def evaluate_folder(encoders: Encoders, chosen: Evaluate) -> list[Row]:
    """The rows of the chosen protocol; differences are relative to the first encoder.

    Raises:
        ConfigError: Options contradict each other, or a setting is out of range.
        DataError: The folder has another layout, or the encoder does not accept its images.
        FileError: A file cannot be read.
    """
    (protocol,) = chosen.protocol
    return FOLDERS[protocol](encoders, chosen)


# --- retrieval


def _retrieval_rows(encoders: Encoders, chosen: Evaluate) -> list[Row]:
    """Rows of instance retrieval: other images of the object in a query."""
    places, machine = read_retrieval_set(Path(chosen.labelled)), chosen.machine()
    settings = _settings(
        instance_retrieval.RetrievalSettings, chosen, recipe=_settings(DescriptorSettings, chosen)
    )
    _check_known(chosen, instance_retrieval.RetrievalSettings, DescriptorSettings)
    settings = replace(settings, machine=machine)
    images = open_files([*places.database, *(query.path for query in places.queries)], machine)
    others = _whitening_paths(chosen.whiten, images, machine) if chosen.whiten else []
    subjects = _subjects(encoders, images, machine)
    first = settings.reranked
    by_sift = _verifier(places, sift, first) if chosen.verify == "sift" else None

    def answer_of(subject: Representation) -> ProtocolAnswer:
        ours = _with_whitening(subject, settings, others)
        rerank = _cell_verifier(subject, places, first) if chosen.verify == "maps" else by_sift
        answer = instance_retrieval.retrieval(subject, places, ours, rerank=rerank).answer
        lacks = ["verify by"] * (chosen.verify is not None and rerank is None)
        lacks += ["whiten"] * (bool(others) and ours is settings)
        if lacks:
            note = f"{answer.note}; {subject.name} has no maps to {' or '.join(lacks)}"
            answer = replace(answer, note=note)
        return answer

    title = "retrieval" + (f", verified by {chosen.verify}" if chosen.verify else "")
    title += f", whitened on {chosen.whiten}" if chosen.whiten else ""
    contest = [_Entrant.of(subject, answer_of) for subject in subjects]
    contest.append(_Entrant.of(raw_pixels(images, machine), answer_of))
    if by_sift:
        words = partial(_visual_words_answer, places, by_sift, chosen.seed)
        contest.append(_Entrant("bag of visual words", words))
    return _contest_rows(_title(title, chosen), contest, chosen.seed)


def _with_whitening(
    subject: Representation, settings: instance_retrieval.RetrievalSettings, others: Sequence[Path]
) -> instance_retrieval.RetrievalSettings:
    """The settings with whitening learned on the subject's regions of other images, if any."""
    encoder = subject.encoder
    if not others or encoder is None or not encoder.strides:
        return settings
    whitening = learn_whitening(encoder, others, settings.recipe, settings.machine)
    recipe = replace(settings.recipe, whitening=whitening)
    return replace(settings, recipe=recipe)


def _cell_verifier(subject: Representation, places: RetrievalSet, first: int) -> Verifier | None:
    """Verification by cells of the subject's maps; None if it has no maps."""
    if subject.encoder is None or not subject.encoder.strides:
        return None
    return _verifier(places, Cells(subject.encoder), first)


def _verifier(places: RetrievalSet, describe: Describe, first: int) -> Verifier:
    """Verifier with the local features of queries and database."""
    paths = places.database
    queries = Features(lambda i: _query_pixels(places.queries[i]), len(places.queries), describe)
    database = Features(lambda i: decode_file(paths[i], str(paths[i])), len(paths), describe)
    return Verifier(queries, database, first=first)


def _visual_words_answer(places: RetrievalSet, verifier: Verifier, seed: int) -> ProtocolAnswer:
    """Philbin et al.'s method: visual words of SIFT, then the same verification."""
    database = verifier.database
    enough = sum(map(len, database)) // _PER_WORD
    words = Words.fit(database, max(1, min(_WORDS, enough)), seed=seed)
    scores = (words.rank(query) for query in verifier.queries)
    found = (np.argsort(-scores_N, kind="stable") for scores_N in scores)
    ranked_QN = np.stack([verifier(query, found_N) for query, found_N in enumerate(found)])
    note = f"{len(words.centroids_KD):,} words of SIFT, tf-idf"
    note += "; SIFT is computed once, for the first that needs it"
    return instance_retrieval.RetrievalResult(
        ranked_QN, instance_retrieval.query_scores(places, ranked_QN), note
    ).answer


def _query_pixels(query: Query) -> NDArray[Any]:
    """The query's part of its image."""
    image_HWC = decode_file(query.path, str(query.path))
    if query.box is None:
        return image_HWC
    return crop_to_box(image_HWC, query.box, image_HWC.shape[:2])


def _whitening_paths(data: str, searched: Images, machine: Machine) -> list[Path]:
    """The files of another set of images.

    Raises:
        ConfigError: They are not files, or are among the images to search.
    """
    checked = open_images_with_notice(data, machine).checked
    root = checked.source.root
    if root is None:
        raise ConfigError(f"the images of --whiten {data} are not files", "pass a folder of images")
    paths = [root / checked.source.names[i] for i in checked.index_N.tolist()]
    sums = zip(paths, checked.images["sha256"].to_pylist(), strict=True)
    known = set(searched.checked.images["sha256"].to_pylist())
    shared = [path for path, checksum in sums if checksum in known]
    if shared:
        raise ConfigError(
            f"--whiten {data} contains images to search, such as {printable(str(shared[0]))}",
            "pass other images, because whitening must not be learned on test images",
        )
    return paths


# --- tracking


def _tracking_rows(encoders: Encoders, chosen: Evaluate) -> list[Row]:
    """Rows of tracking: masks propagated through clips, compared with the unmoved first mask."""
    clips = read_clips(Path(chosen.labelled))
    settings = _settings(tracking.TrackingSettings, chosen)
    _check_known(chosen, tracking.TrackingSettings)
    frames = [frame for clip in clips for frame in clip.frames]
    machine = chosen.machine()
    images = open_files(frames, machine)
    subjects = _subjects(encoders, images, machine)

    def answer_of(subject: Representation) -> ProtocolAnswer:
        tracked = tracking.tracking(subject, clips, settings, device=machine.device)
        return replace(_objects_answer(tracked), note=_tracking_note(subject, settings))

    first = next(iter(encoders.values()))
    colours = tracking.colours(first, settings, machine)
    contest = [_Entrant.of(subject, answer_of) for subject in (*subjects, colours)]
    contest.append(_Entrant("no motion", lambda: _objects_answer(tracking.no_motion(clips))))
    return _contest_rows(_title("tracking", chosen), contest, chosen.seed)


def _tracking_note(subject: Representation, settings: tracking.TrackingSettings) -> str:
    """A note on the map that was used: its stage and cell size."""
    if subject.name == tracking.COLOURS:
        return f"{subject.name}: mean pixels of each cell of this encoder's map"
    assert subject.encoder is not None
    strides = subject.encoder.strides
    stage = tracking.chosen_stage(strides, settings.stage, name=subject.name)
    cell, side = strides[stage], settings.side
    return f"{subject.name}: {stage}, cells of {cell} px, frames of {side} px on the shorter side"


def _objects_answer(tracked: Sequence[tracking.TrackedObject]) -> ProtocolAnswer:
    objects = len(tracked)
    figures = tracking.tracking_figures(tracked)
    split = f"{objects} object{'s' * (objects != 1)} in clips"
    return ProtocolAnswer(np.arange(objects), figures, split=split)


FOLDERS: Mapping[str, Callable[[Encoders, Evaluate], list[Row]]] = {
    "retrieval": _retrieval_rows,
    "tracking": _tracking_rows,
}
"""By protocol name."""


# --- both


def _subjects(encoders: Encoders, images: Images, machine: Machine) -> list[Representation]:
    """The encoders, and the first one's network at random init (norms calibrated on the images).

    Raises:
        DataError: An encoder does not accept the images.
    """
    for encoder in encoders.values():
        check_fits(encoder, images)
    given = [
        EncoderRepresentation(name, encoder, machine=machine) for name, encoder in encoders.items()
    ]
    config, rows = given[0].encoder.config, np.arange(len(images.store))
    return [*given, *(random_init(config, images, rows, machine, seed=s) for s in RANDOM_SEEDS)]


class _Entrant(NamedTuple):
    """A participant: name in the table, function that answers, and seed of random weights."""

    name: str
    answer: Callable[[], ProtocolAnswer]
    seed: int | None = None

    @staticmethod
    def of(subject: Representation, answer_of: AnswerOf) -> "_Entrant":
        return _Entrant(subject.name, partial(answer_of, subject), subject.seed)


def _contest_rows(title: str, contest: Sequence[_Entrant], seed: int) -> list[Row]:
    """The rows of all participants, compared with the first."""
    rows: list[Row] = []
    first: Judgement | None = None
    for entrant in contest:
        start = time.perf_counter()
        with notice_if_slow(f"{title}: {entrant.name}.", after=LONG):
            answer = entrant.answer()
        seconds = time.perf_counter() - start
        figures = Judge(np.zeros(len(answer.rows), np.int64)).figures([answer], seed)
        own = seed if entrant.seed is None else entrant.seed
        judgement = Judgement(entrant.name, own, figures, answer, None, seconds)
        rows += judgement.rows(title, "", first)
        first = first or judgement
    return rows


def _title(name: str, chosen: Evaluate) -> str:
    """The protocol with its settings: other settings make another question."""
    return ", ".join((name, *chosen.set))


def _settings(kind: type[S], chosen: Evaluate, **others: Any) -> S:
    """An instance of a dataclass, with the values of --set for its fields.

    Raises:
        ConfigError: A value has the wrong type.
    """
    hints = _setting_types(kind)
    values = parse_assignments(chosen.set, hints.get)
    given = {
        name: checked_value(hint, _as_list(hint, values[name]), f"--set {name}")
        for name, hint in hints.items()
        if name in values
    }
    return kind(**given, **others)


def _setting_types(kind: type[Any]) -> dict[str, Any]:
    """The fields that --set can change (plain values only), with their types."""
    plain = (int, float, str, str | None, tuple[float, ...])
    return {n: hint for n, hint in typing.get_type_hints(kind).items() if hint in plain}


def _as_list(hint: Any, value: Any) -> Any:
    """The value, as a list if the field is a tuple."""
    several = typing.get_origin(hint) is tuple and not isinstance(value, list)
    return [value] if several else value


def _check_known(chosen: Evaluate, *kinds: type[Any]) -> None:
    """Check that every --set names a field of these classes.

    Raises:
        ConfigError: One does not.
    """
    known = [name for kind in kinds for name in _setting_types(kind)]
    for name in parse_assignments(chosen.set):
        if name not in known:
            raise ConfigError(f"there is no setting {name!r}", did_you_mean(name, known))
