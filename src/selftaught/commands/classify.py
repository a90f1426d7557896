"""The command classify: a classifier trained from named clusters, and images to label next."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from selftaught.classifier import name_classifier
from selftaught.classifier.answers import Answers, answers_by_image, read_answers
from selftaught.classifier.learn import NO_NAME, Members, members, train_classifier
from selftaught.classifier.name_classifier import Predictions
from selftaught.classifier.questions import Question, questions
from selftaught.clusters import clusters as saved
from selftaught.clusters.clusters import Clusters, unit_projection
from selftaught.clusters.names import NAMES, names_differing_in_case, read_names, table_bytes
from selftaught.clusters.origin import vectors_of_clusters
from selftaught.commands.result import Answer, answer
from selftaught.errors import BadImage, ConfigError, printable
from selftaught.foundation.files import shell_word, write_bytes, write_text
from selftaught.foundation.outputs import check_out, new_output
from selftaught.options.use import Classify
from selftaught.reports.classifier.classifier_page import classifier_sections
from selftaught.reports.classifier.questions_page import Asked, questions_page
from selftaught.reports.page import Thumbnail, quantity, write_report
from selftaught.reports.sheets import picture
from selftaught.vectors.open_vectors import absolute_run, check_same_encoder
from selftaught.vectors.vectors import Vectors

if TYPE_CHECKING:
    pass

_ASK, _PAGE = "ask.csv", "ask.html"
_COLUMNS = ("row", "path", "why", "says", "confidence", "label")
_SIDE = 160  # pixels of a thumbnail's side
_UNCERTAIN = "Uncertain", "Two names are almost equally probable."
_UNCOVERED = "Uncovered", "No similar image has a name yet."


def classify(chosen: Classify) -> Answer:
    """Train a classifier from the confident members of named clusters, and write CLASSIFIER.

    Raises:
        ConfigError: There are fewer than two names.
        DataError: No image is usable, the vectors come from another encoder, or the images have
            fewer than two names.
        FileError: The clusters, names.csv or answers are damaged, or --out exists.
    """
    inputs = [str(chosen.clusters), chosen.data, *chosen.answers]
    check_out(chosen.out, "a classifier", overwrite=chosen.overwrite, inputs=inputs)
    clusters = saved.load_clusters(chosen.clusters)
    made_from = [str(clusters.facts.get(name, "")) for name in ("data", "vectors")]
    inputs = [chosen.encoder or clusters.run, *made_from]
    check_out(chosen.out, "a classifier", overwrite=chosen.overwrite, inputs=inputs)
    names = read_names(chosen.clusters, clusters.ids_K)
    given = read_answers(chosen.answers)
    _check_names(chosen.clusters, clusters, {*names.values(), *(line.label for line in given)})
    machine = chosen.machine()
    how = {"data": chosen.data, "encoder": chosen.encoder}
    vectors = vectors_of_clusters(clusters, chosen.clusters, machine, **how)
    check_same_encoder(vectors, clusters.encoder, str(chosen.clusters))
    answers = answers_by_image(given, vectors)
    found = members(vectors.x_ND, clusters, names, answers.labels)
    made = train_classifier(
        vectors,
        found,
        run=absolute_run(chosen.encoder) if chosen.encoder else clusters.run,
        seed=chosen.seed,
        device=machine.device,
    )
    made = replace(made, facts={**made.facts, **_name_counts(found, names, clusters, answers)})
    predictions = made.predict(vectors.x_ND)
    asked = questions(
        unit_projection(vectors.x_ND, None), predictions, found, chosen.ask, seed=chosen.seed
    )
    sections = classifier_sections(
        vectors, made, found, predictions, _sentences(made.facts), asked=len(asked)
    )
    with new_output(chosen.out, "a classifier", overwrite=chosen.overwrite) as part:
        name_classifier.save_classifier(made, part)
        write_report(part, sections, title=f"{chosen.out.name}: names learned from clusters")
        if asked:
            write_bytes(part / _ASK, _ask_table(asked, vectors, predictions, found))
            write_text(part / _PAGE, _ask_page(asked, vectors, predictions, found, chosen.out))
    value = {**made.facts, "temperature": made.temperature, "asked": len(asked)}
    return answer(value, _text(value, chosen.out), as_json=chosen.json)


# --- input


def _check_names(folder: Path, clusters: Clusters, names: set[str]) -> None:
    """Check that there are at least two names.

    Raises:
        ConfigError: There are fewer.
    """
    if len(names) < 2 and len(clusters) < 2:
        found = f"{folder} has only one cluster, but two names are needed"
        raise ConfigError(found, "cluster with --k 2 or more")
    if len(names) < 2:
        found = f"{folder} has {'only one name' if names else 'no names'}, but two are needed"
        ids = clusters.ids_K[:2].tolist()
        lines = ", ".join(f"{id_},NAME" for id_ in ids)
        remedy = f"write {folder / NAMES} with the header cluster,name and one line per cluster"
        raise ConfigError(found, f"{remedy} ({lines})")


# --- output


def _name_counts(
    found: Members, names: Mapping[int, str], clusters: Clusters, answers: Answers
) -> dict[str, Any]:
    """Numbers of images by name, and of clusters, answers and names with peculiarities."""
    K = len(found.names)
    named_N = found.name_N != NO_NAME
    images_K = np.bincount(found.name_N[named_N], minlength=K)
    sure_K = np.bincount(found.name_N[found.reliable_N], minlength=K)
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
        "names_that_differ_in_case": names_differing_in_case({*found.names, *names.values()}),
    }


def _ask_table(
    asked: Sequence[Question], vectors: Vectors, predictions: Predictions, found: Members
) -> bytes:
    """ask.csv: one line per question, with an empty last cell for the answer."""
    lines: list[Sequence[object]] = [_COLUMNS]
    for question in asked:
        i = question.place
        says, confidence = found.names[predictions.first_N[i]], f"{predictions.confidence_N[i]:.3f}"
        row, path = vectors.row_N[i], vectors.paths[i]
        lines.append((row, path, question.why, says, confidence, ""))
    return table_bytes(lines)


def _ask_page(
    asked: Sequence[Question], vectors: Vectors, predictions: Predictions, found: Members, out: Path
) -> str:
    parts = [
        Asked(
            title,
            words,
            [_thumbnail(q, vectors, predictions, found) for q in asked if q.uncertain is which],
        )
        for (title, words), which in ((_UNCERTAIN, True), (_UNCOVERED, False))
    ]
    words = f"Write their names into the column label of {out / _ASK}; skip unclear images."
    return questions_page(f"{out.name}: images to label next", words, parts)


def _thumbnail(
    question: Question, vectors: Vectors, predictions: Predictions, found: Members
) -> Thumbnail:
    """The image with the reason; without pixels if they can no longer be read."""
    i, images = question.place, vectors.images
    name, words = vectors.paths[i], f"{vectors.paths[i]}: {question.why}"
    if not question.uncertain:
        words += f"; {found.names[predictions.first_N[i]]} at {predictions.confidence_N[i]:.0%}"
    if images is None:
        return Thumbnail("", name, words)
    try:
        raw = images.store.read(vectors.row_N[i : i + 1]).image(0)
    except BadImage as error:
        return Thumbnail("", name, f"{words} ({error.reason})")
    return picture(raw, images.checked.intensity, name=name, words=words, side=_SIDE)


def _text(value: Mapping[str, Any], out: Path) -> str:
    names, fitted = len(value["classes"]), value["fitted"]
    lines = [f"{names} names learned from {fitted:,} images: {out}", *_sentences(value)]
    lines.append(f"The report shows images of each name: {out / 'report.html'}")
    if value["asked"]:
        lines.append(f"{quantity(value['asked'], 'image')} to label next: {out / _PAGE}")
        lines.append(f"  Fill in the labels in {out / _ASK} and pass it to --answers.")
    lines.append(f"Next: selftaught assign {shell_word(out)} DATA --out table.csv")
    return "\n".join(lines)


def _sentences(value: Mapping[str, Any]) -> list[str]:
    """Remarks for the user on a classifier."""
    lines = [_unnamed_sentence(value)]
    empty = map(printable, value["names_without_images"])
    lines += [f"No image is in a cluster named {name}." for name in empty]
    lines += map(_case_sentence, value["names_that_differ_in_case"])
    lines += _answer_sentences(value)
    lines += [_agreement_sentence(value["agreement"], "confident members")]
    lines += [_agreement_sentence(value["agreement_of_the_rest"], "other members")]
    if value["answers_against_their_cluster"] or value["names_of_answers_only"]:
        lines.append(
            "Agreement is measured with the names of the clusters. Answers that contradict them, "
            "and names that no cluster has, lower it even if they are right."
        )
    if value["calibration_error"] is not None:
        error = value["calibration_error"]
        lines.append(f"If the clusters are right, probabilities are off by {error:.3f} on average.")
    return lines


def _case_sentence(names: Sequence[str]) -> str:
    number = "two" if len(names) == 2 else f"{len(names):,}"
    spellings = f"{', '.join(map(printable, names[:-1]))} and {printable(names[-1])}"
    return f"{spellings} differ only in case, and count as {number} names."


def _answer_sentences(value: Mapping[str, Any]) -> list[str]:
    """How many answers were used, repeated or left out."""
    lines, against = [], value["answers_against_their_cluster"]
    if value["answers"]:
        answers = quantity(value["answers"], "answer")
        lines.append(f"{answers} used; {against:,} contradict the cluster's name.")
    if value["answered_twice"]:
        images = quantity(value["answered_twice"], "image")
        have = "has" if value["answered_twice"] == 1 else "have"
        lines.append(f"{images} {have} several different answers; the last one counts.")
    if value["answers_missing"]:
        answers = quantity(value["answers_missing"], "answer")
        lines.append(f"{answers} left out, because the image does not exist.")
    return lines


def _unnamed_sentence(value: Mapping[str, Any]) -> str:
    clusters, images = value["clusters_unnamed"], value["images_unnamed"]
    if not clusters:
        return "All clusters have a name."
    have = "cluster has" if clusters == 1 else "clusters have"
    return f"{clusters:,} {have} no name; {images:,} of {value['images']:,} images are left out."


def _agreement_sentence(found: Mapping[str, Any] | None, what: str) -> str:
    if found is None:
        return f"Held-out {what}: too few to evaluate."
    share, low, high = (f"{100 * found[name]:.1f}" for name in ("share", "low", "high"))
    return f"Held-out {what}: {share} % ({low} to {high}) get their cluster's name."
