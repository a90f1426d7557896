"""Protocols on folders of a layout of their own: instance retrieval, and masks through clips.

Neither learns from labels: a table's rows are means over queries, or over objects.
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
from selftaught.data.retrieval_sets import Places, Query, read_places
from selftaught.data.store import Images
from selftaught.encoders.encoder import Encoder
from selftaught.encoders.fits import check_fits
from selftaught.errors import ConfigError, did_you_mean, shown
from selftaught.evaluation.descriptors import DescriptorSettings, cut, learn_whitening
from selftaught.evaluation.judge import Judge, Judged
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
from selftaught.foundation.progress import LONG, meanwhile
from selftaught.foundation.typed_values import checked_value
from selftaught.options.assess import Evaluate
from selftaught.options.assignments import parse_assignments
from selftaught.retrieval.local_features import Cells, Describe, Features, sift
from selftaught.retrieval.verify import Verifier
from selftaught.retrieval.visual_words import Words

S = TypeVar("S")
Encoders = Mapping[str, Encoder]
Answered = Callable[[Representation], ProtocolAnswer]

_WORDS, _EACH = 10_000, 40  # words of SIFT at most; descriptors a word at least


def on_folder(encoders: Encoders, chosen: Evaluate) -> list[Row]:
    """The rows of the one protocol that is asked for; differences are to the first encoder.

    Raises:
        ConfigError: Options contradict each other, or a setting makes no sense.
        DataError: The folder is no such set, or the encoder does not take its images.
        FileError: A file cannot be read.
    """
    (protocol,) = chosen.protocol
    return FOLDERS[protocol](encoders, chosen)


# --- retrieval


def _retrieval(encoders: Encoders, chosen: Evaluate) -> list[Row]:
    """Other images of the object in an image."""
    places, machine = read_places(Path(chosen.labelled)), chosen.machine()
    settings = _settings(
        instance_retrieval.RetrievalSettings, chosen, recipe=_settings(DescriptorSettings, chosen)
    )
    _check_known(chosen, instance_retrieval.RetrievalSettings, DescriptorSettings)
    settings = replace(settings, machine=machine)
    images = open_files([*places.database, *(query.path for query in places.queries)], machine)
    others = _paths(chosen.whiten, images, machine) if chosen.whiten else []
    subjects = _subjects(encoders, images, machine)
    first = settings.reranked
    by_sift = _verifier(places, sift, first) if chosen.verify == "sift" else None

    def answered(subject: Representation) -> ProtocolAnswer:
        ours = _whitened(subject, settings, others)
        rerank = _by_cells(subject, places, first) if chosen.verify == "maps" else by_sift
        answer = instance_retrieval.retrieval(subject, places, ours, rerank=rerank).answer
        lacks = ["verify by"] * (chosen.verify is not None and rerank is None)
        lacks += ["whiten"] * (bool(others) and ours is settings)
        if lacks:
            note = f"{answer.note}; {subject.name} has no maps to {' or '.join(lacks)}"
            answer = replace(answer, note=note)
        return answer

    called = "retrieval" + (f", verified by {chosen.verify}" if chosen.verify else "")
    called += f", whitened on {chosen.whiten}" if chosen.whiten else ""
    contest = [_Entrant.of(subject, answered) for subject in subjects]
    contest.append(_Entrant.of(raw_pixels(images, machine), answered))
    if by_sift:
        words = partial(_words, places, by_sift, chosen.seed)
        contest.append(_Entrant("bag of visual words", words))
    return _table(_called(called, chosen), contest, chosen.seed)


def _whitened(
    subject: Representation, settings: instance_retrieval.RetrievalSettings, others: Sequence[Path]
) -> instance_retrieval.RetrievalSettings:
    """With the whitening of the subject's own regions in other images, where there are such."""
    encoder = subject.encoder
    if not others or encoder is None or not encoder.strides:
        return settings
    whitening = learn_whitening(encoder, others, settings.recipe, settings.machine)
    recipe = replace(settings.recipe, whitening=whitening)
    return replace(settings, recipe=recipe)


def _by_cells(subject: Representation, places: Places, first: int) -> Verifier | None:
    """Verification by cells of the subject's maps; None where it has no maps."""
    if subject.encoder is None or not subject.encoder.strides:
        return None
    return _verifier(places, Cells(subject.encoder), first)


def _verifier(places: Places, describe: Describe, first: int) -> Verifier:
    """Local features of queries and database, and what compares them."""
    paths = places.database
    queries = Features(lambda i: _query_pixels(places.queries[i]), len(places.queries), describe)
    database = Features(lambda i: decode_file(paths[i], str(paths[i])), len(paths), describe)
    return Verifier(queries, database, first=first)


def _words(places: Places, verifier: Verifier, seed: int) -> ProtocolAnswer:
    """Philbin et al.'s own way: visual words of SIFT, then the same verification."""
    database = verifier.database
    enough = sum(map(len, database)) // _EACH
    words = Words.fit(database, max(1, min(_WORDS, enough)), seed=seed)
    scores = (words.rank(query) for query in verifier.queries)
    found = (np.argsort(-scores_N, kind="stable") for scores_N in scores)
    ranked_QN = np.stack([verifier(query, found_N) for query, found_N in enumerate(found)])
    note = f"{len(words.centroids_KD):,} words of SIFT, tf-idf; SIFT is computed once, for who asks"
    return instance_retrieval.Retrieved(
        ranked_QN, instance_retrieval.query_scores(places, ranked_QN), note
    ).answer


def _query_pixels(query: Query) -> NDArray[Any]:
    """The part of the image that is asked with."""
    image_HWC = decode_file(query.path, str(query.path))
    if query.box is None:
        return image_HWC
    return cut(image_HWC, query.box, image_HWC.shape[:2])


def _paths(data: str, searched: Images, machine: Machine) -> list[Path]:
    """The files of another set of images.

    Raises:
        ConfigError: They are no files, or among those that are searched.
    """
    checked = open_images_with_notice(data, machine).checked
    root = checked.source.root
    if root is None:
        raise ConfigError(f"the images of --whiten {data} are no files", "give a folder of images")
    paths = [root / checked.source.names[i] for i in checked.index_N.tolist()]
    sums = zip(paths, checked.images["sha256"].to_pylist(), strict=True)
    known = set(searched.checked.images["sha256"].to_pylist())
    both = [path for path, one in sums if one in known]
    if both:
        raise ConfigError(
            f"--whiten {data} holds images that are searched, such as {shown(str(both[0]))}",
            "give other images: whitening must not know those it is judged on",
        )
    return paths


# --- tracking


def _tracking(encoders: Encoders, chosen: Evaluate) -> list[Row]:
    """Masks carried through clips, beside the first mask that stays where it is."""
    clips = read_clips(Path(chosen.labelled))
    settings = _settings(tracking.TrackingSettings, chosen)
    _check_known(chosen, tracking.TrackingSettings)
    frames = [frame for clip in clips for frame in clip.frames]
    machine = chosen.machine()
    images = open_files(frames, machine)
    subjects = _subjects(encoders, images, machine)

    def answered(subject: Representation) -> ProtocolAnswer:
        tracked = tracking.tracking(subject, clips, settings, device=machine.device)
        return replace(_of_objects(tracked), note=_how_tracked(subject, settings))

    first = next(iter(encoders.values()))
    colours = tracking.colours(first, settings, machine)
    contest = [_Entrant.of(subject, answered) for subject in (*subjects, colours)]
    contest.append(_Entrant("no motion", lambda: _of_objects(tracking.no_motion(clips))))
    return _table(_called("tracking", chosen), contest, chosen.seed)


def _how_tracked(subject: Representation, settings: tracking.TrackingSettings) -> str:
    """Whose map it was, and how fine."""
    if subject.name == tracking.COLOURS:
        return f"{subject.name}: mean pixels of each position of this encoder's map"
    assert subject.encoder is not None
    strides = subject.encoder.strides
    stage = tracking.chosen_stage(strides, settings.stage, called=subject.name)
    cell, side = strides[stage], settings.side
    return f"{subject.name}: {stage}, cells of {cell} px in frames whose shorter side is {side}"


def _of_objects(tracked: Sequence[tracking.Tracked]) -> ProtocolAnswer:
    objects = len(tracked)
    figures = tracking.tracking_figures(tracked)
    split = f"{objects} object{'s' * (objects != 1)} in clips"
    return ProtocolAnswer(np.arange(objects), figures, split=split)


FOLDERS: Mapping[str, Callable[[Encoders, Evaluate], list[Row]]] = {
    "retrieval": _retrieval,
    "tracking": _tracking,
}
"""By the name of the protocol."""


# --- both


def _subjects(encoders: Encoders, images: Images, machine: Machine) -> list[Representation]:
    """The encoders, and the first one's network at random init (its norms have seen the images).

    Raises:
        DataError: An encoder does not take such images.
    """
    for encoder in encoders.values():
        check_fits(encoder, images)
    named = [
        EncoderRepresentation(name, encoder, machine=machine) for name, encoder in encoders.items()
    ]
    config, rows = named[0].encoder.config, np.arange(len(images.store))
    return [*named, *(random_init(config, images, rows, machine, seed=s) for s in RANDOM_SEEDS)]


class _Entrant(NamedTuple):
    """Who answers: the name in the table, how, and the seed of random weights."""

    name: str
    answer: Callable[[], ProtocolAnswer]
    seed: int | None = None

    @staticmethod
    def of(subject: Representation, answered: Answered) -> "_Entrant":
        return _Entrant(subject.name, partial(answered, subject), subject.seed)


def _table(called: str, contest: Sequence[_Entrant], seed: int) -> list[Row]:
    """The rows of all, compared with the first."""
    rows: list[Row] = []
    first: Judged | None = None
    for entrant in contest:
        start = time.perf_counter()
        with meanwhile(f"{called}: {entrant.name}.", after=LONG):
            answer = entrant.answer()
        seconds = time.perf_counter() - start
        figures = Judge(np.zeros(len(answer.rows), np.int64)).figures([answer], seed)
        own = seed if entrant.seed is None else entrant.seed
        judged = Judged(entrant.name, own, figures, answer, None, seconds)
        rows += judged.rows(called, "", first)
        first = first or judged
    return rows


def _called(name: str, chosen: Evaluate) -> str:
    """The protocol with its settings: rows of other settings answer another question."""
    return ", ".join((name, *chosen.set))


def _settings(kind: type[S], chosen: Evaluate, **others: Any) -> S:
    """An instance of a dataclass, with those values of --set that it has.

    Raises:
        ConfigError: A value has another type.
    """
    hints = _options(kind)
    values = parse_assignments(chosen.set, hints.get)
    given = {
        name: checked_value(hint, _listed(hint, values[name]), f"--set {name}")
        for name, hint in hints.items()
        if name in values
    }
    return kind(**given, **others)


def _options(kind: type[Any]) -> dict[str, Any]:
    """The fields that a user may set, those of plain values, with their types."""
    plain = (int, float, str, str | None, tuple[float, ...])
    return {n: hint for n, hint in typing.get_type_hints(kind).items() if hint in plain}


def _listed(hint: Any, value: Any) -> Any:
    """A single value where several are declared, as a list."""
    several = typing.get_origin(hint) is tuple and not isinstance(value, list)
    return [value] if several else value


def _check_known(chosen: Evaluate, *kinds: type[Any]) -> None:
    """Whether every --set is of one of these.

    Raises:
        ConfigError: One is not.
    """
    known = [name for kind in kinds for name in _options(kind)]
    for name in parse_assignments(chosen.set):
        if name not in known:
            raise ConfigError(f"there is no setting {name!r}", did_you_mean(name, known))
