"""The commands that learn the names of clusters and give them to images: classify, and assign."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from selftaught.classifier import name_classifier as kept
from selftaught.classifier.answers import Answers, of_images, read_answers
from selftaught.classifier.learn import NOBODY, Members, learn, members
from selftaught.classifier.name_classifier import Said
from selftaught.classifier.questions import Question, questions
from selftaught.clusters import clusters as kept_clusters
from selftaught.clusters.clusters import Clusters, projected
from selftaught.clusters.names import NAMES, differ_in_case, read_names, table_bytes
from selftaught.clusters.origin import vectors_of_clusters
from selftaught.commands.result import Answer, answer
from selftaught.errors import BadImage, ConfigError, shown
from selftaught.foundation.files import quoted, write_bytes, write_text
from selftaught.foundation.outputs import check_out, new_output
from selftaught.options.use import Classify
from selftaught.reports.classifier.classifier_page import classifier_sections
from selftaught.reports.classifier.questions_page import Asked, questions_page
from selftaught.reports.page import Thumbnail, many, write_report
from selftaught.reports.sheets import picture
from selftaught.vectors.open_vectors import absolute_run, same_encoder
from selftaught.vectors.vectors import Vectors

if TYPE_CHECKING:
    pass

_ASK, _PAGE = "ask.csv", "ask.html"
_COLUMNS = ("row", "path", "why", "says", "confidence", "label")
_SIDE = 160  # pixels of a picture
_UNCERTAIN = "Uncertain", "Two names are nearly as probable."
_UNCOVERED = "Uncovered", "Nothing like them has a name yet."


def classify(chosen: Classify) -> Answer:
    """Learn the names of clusters from their confident members, and write CLASSIFIER.

    Raises:
        ConfigError: Fewer than two names are given.
        DataError: No image can be used, the vectors are of another encoder, or the images have
            fewer than two names.
        FileError: The clusters, names.csv or answers are damaged, or --out is in the way.
    """
    inputs = [str(chosen.clusters), chosen.data, *chosen.answers]
    check_out(chosen.out, "a classifier", overwrite=chosen.overwrite, inputs=inputs)
    clusters = kept_clusters.load_clusters(chosen.clusters)
    made_from = [str(clusters.facts.get(name, "")) for name in ("data", "vectors")]
    inputs = [chosen.encoder or clusters.run, *made_from]
    check_out(chosen.out, "a classifier", overwrite=chosen.overwrite, inputs=inputs)
    names = read_names(chosen.clusters, clusters.ids_K)
    given = read_answers(chosen.answers)
    _check_names(chosen.clusters, clusters, {*names.values(), *(said.label for said in given)})
    machine = chosen.machine()
    how = {"data": chosen.data, "encoder": chosen.encoder}
    vectors = vectors_of_clusters(clusters, chosen.clusters, machine, **how)
    same_encoder(vectors, clusters.encoder, str(chosen.clusters))
    answers = of_images(given, vectors)
    found = members(vectors.x_ND, clusters, names, answers.labels)
    made = learn(
        vectors,
        found,
        run=absolute_run(chosen.encoder) if chosen.encoder else clusters.run,
        seed=chosen.seed,
        device=machine.device,
    )
    made = replace(made, facts={**made.facts, **_told(found, names, clusters, answers)})
    said = made.say(vectors.x_ND)
    asked = questions(projected(vectors.x_ND, None), said, found, chosen.ask, seed=chosen.seed)
    sections = classifier_sections(
        vectors, made, found, said, _sentences(made.facts), asked=len(asked)
    )
    with new_output(chosen.out, "a classifier", overwrite=chosen.overwrite) as part:
        kept.save_classifier(made, part)
        write_report(part, sections, title=f"{chosen.out.name}: names learnt from clusters")
        if asked:
            write_bytes(part / _ASK, _ask_table(asked, vectors, said, found))
            write_text(part / _PAGE, _ask_page(asked, vectors, said, found, chosen.out))
    value = {**made.facts, "temperature": made.temperature, "asked": len(asked)}
    return answer(value, _text(value, chosen.out), as_json=chosen.json)


# --- classify: what is read


def _check_names(folder: Path, clusters: Clusters, names: set[str]) -> None:
    """Whether there are two names.

    Raises:
        ConfigError: There are fewer.
    """
    if len(names) < 2 and len(clusters) < 2:
        found = f"{folder} has one cluster, and two names are needed"
        raise ConfigError(found, "cluster with --k 2 or more")
    if len(names) < 2:
        found = (
            f"{folder} has {len(names) or 'no'} name{'s' * (len(names) != 1)}, and two are needed"
        )
        ids = clusters.ids_K[:2].tolist()
        lines = ", ".join(f"{id_},NAME" for id_ in ids)
        remedy = f"write {folder / NAMES}: the line cluster,name, then a line a cluster ({lines})"
        raise ConfigError(found, remedy)


# --- classify: what is written


def _told(
    found: Members, names: Mapping[int, str], clusters: Clusters, answers: Answers
) -> dict[str, Any]:
    """Counts of images by name and by what is known of them."""
    K = len(found.names)
    named_N = found.name_N != NOBODY
    images_K = np.bincount(found.name_N[named_N], minlength=K)
    sure_K = np.bincount(found.name_N[found.sure_N], minlength=K)
    empty = sorted(set(names.values()) - set(found.names))
    return {
        "classes": {
            name: {"images": int(many), "sure": int(sure)}
            for name, many, sure in zip(found.names, images_K, sure_K, strict=True)
        },
        "clusters_named": len(names),
        "clusters_unnamed": len(clusters) - len(names),
        "images_unnamed": int((~named_N).sum()),
        "names_without_images": empty,
        "answers": int(found.answered_N.sum()),
        "answers_against_their_cluster": found.contradicted,
        "answered_twice": answers.twice,
        "answers_missing": answers.missing,
        "names_of_answers_only": sorted(set(found.names) - set(names.values())),
        "names_that_differ_in_case": differ_in_case({*found.names, *names.values()}),
    }


def _ask_table(asked: Sequence[Question], vectors: Vectors, said: Said, found: Members) -> bytes:
    """ask.csv: a line a question, whose last cell waits for an answer."""
    lines: list[Sequence[object]] = [_COLUMNS]
    for question in asked:
        i = question.place
        says, confidence = found.names[said.first_N[i]], f"{said.confidence_N[i]:.3f}"
        row, path = vectors.row_N[i], vectors.paths[i]
        lines.append((row, path, question.why, says, confidence, ""))
    return table_bytes(lines)


def _ask_page(
    asked: Sequence[Question], vectors: Vectors, said: Said, found: Members, out: Path
) -> str:
    parts = [
        Asked(
            title, words, [_shown(q, vectors, said, found) for q in asked if q.uncertain is which]
        )
        for (title, words), which in ((_UNCERTAIN, True), (_UNCOVERED, False))
    ]
    words = f"Write what they are into the column label of {out / _ASK}; leave out what is unclear."
    return questions_page(f"{out.name}: what to look at next", words, parts)


def _shown(question: Question, vectors: Vectors, said: Said, found: Members) -> Thumbnail:
    """The image with the reason; without pixels where they cannot be read any more."""
    i, images = question.place, vectors.images
    name, words = vectors.paths[i], f"{vectors.paths[i]}: {question.why}"
    if not question.uncertain:
        words += f"; {found.names[said.first_N[i]]} at {said.confidence_N[i]:.0%}"
    if images is None:
        return Thumbnail("", name, words)
    try:
        raw = images.store.read(vectors.row_N[i : i + 1]).image(0)
    except BadImage as error:
        return Thumbnail("", name, f"{words} ({error.reason})")
    return picture(raw, images.checked.intensity, name=name, words=words, side=_SIDE)


def _text(value: Mapping[str, Any], out: Path) -> str:
    names, fitted = len(value["classes"]), value["fitted"]
    lines = [f"{names} names, learnt from {fitted:,} images: {out}", *_sentences(value)]
    lines.append(f"The report, {out / 'report.html'}, shows images of each name.")
    if value["asked"]:
        lines.append(f"Look at {value['asked']} images next: {out / _PAGE}")
        lines.append(f"  and fill in the labels in {out / _ASK}, for --answers")
    lines.append(f"Next: selftaught assign {quoted(out)} DATA --out table.csv")
    return "\n".join(lines)


def _sentences(value: Mapping[str, Any]) -> list[str]:
    """What to know of a classifier."""
    lines = [_unnamed(value)]
    empty = map(shown, value["names_without_images"])
    lines += [f"No image is in a cluster named {name}." for name in empty]
    lines += map(_alike, value["names_that_differ_in_case"])
    lines += _answered(value)
    lines += [_share(value["agreement"], "confident members")]
    lines += [_share(value["agreement_of_the_rest"], "other members")]
    if value["answers_against_their_cluster"] or value["names_of_answers_only"]:
        lines.append(
            "Agreement is with the names of the clusters: answers against them, and names that no "
            "cluster has, lower it even where they are right."
        )
    if value["calibration_error"] is not None:
        error = value["calibration_error"]
        lines.append(f"Its probabilities are off by {error:.3f} on average, if clusters are right.")
    return lines


def _alike(names: Sequence[str]) -> str:
    number = "two" if len(names) == 2 else f"{len(names):,}"
    spelt = f"{', '.join(map(shown, names[:-1]))} and {shown(names[-1])}"
    return f"{spelt} differ in case only: they are {number} names."


def _answered(value: Mapping[str, Any]) -> list[str]:
    """What became of the answers."""
    lines, against = [], value["answers_against_their_cluster"]
    if value["answers"]:
        lines.append(f"{many(value['answers'], 'answer')} used, {against:,} against their cluster.")
    if value["answered_twice"]:
        were = "was" if value["answered_twice"] == 1 else "were"
        images = many(value["answered_twice"], "image")
        lines.append(f"{images} {were} answered twice, differently: the last answer counts.")
    if value["answers_missing"]:
        lines.append(f"{many(value['answers_missing'], 'answer')} left out: no such image.")
    return lines


def _unnamed(value: Mapping[str, Any]) -> str:
    clusters, images = value["clusters_unnamed"], value["images_unnamed"]
    if not clusters:
        return "All clusters have a name."
    have = "cluster has" if clusters == 1 else "clusters have"
    return f"{clusters:,} {have} no name; {images:,} of {value['images']:,} images are left out."


def _share(found: Mapping[str, Any] | None, what: str) -> str:
    if found is None:
        return f"Held-out {what}: too few to judge."
    share, low, high = (f"{100 * found[name]:.1f}" for name in ("share", "low", "high"))
    return f"Held-out {what}: {share} % ({low} to {high}) get their cluster's name."
