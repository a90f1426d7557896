"""The command assign: images assigned to saved clusters, or to the names of a classifier."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selftaught.classifier import name_classifier
from selftaught.classifier.name_classifier import Classifier, Predictions
from selftaught.clusters import clusters as saved
from selftaught.clusters.clusters import Assignment, Clusters
from selftaught.clusters.fit import assignments_table
from selftaught.clusters.folders import check_folders, sort_into_folders
from selftaught.clusters.match import cluster_by_path, matched_ids, read_assignments
from selftaught.clusters.names import (
    NAMES,
    cluster_number,
    label_text,
    merged_ids,
    read_names,
    single_blanks,
)
from selftaught.clusters.standouts import new_outlier_columns
from selftaught.commands.result import Answer, answer
from selftaught.errors import ConfigError, DataError, printable
from selftaught.foundation.files import write_bytes
from selftaught.foundation.outputs import check_out, check_suffix, claim
from selftaught.options.use import Assign
from selftaught.vectors.open_vectors import check_same_encoder, open_matching_vectors, with_labels
from selftaught.vectors.vectors import Vectors

if TYPE_CHECKING:
    import pyarrow as pa

_LISTED = 20  # clusters that the text lists
_LABELS = 3  # labels that a note lists


def assign(chosen: Assign) -> Answer:
    """Assign images to saved clusters, or to a classifier's names, and write a table.

    Raises:
        ConfigError: --match is given with a classifier.
        DataError: No image is usable, or the vectors come from another encoder.
        FileError: The folder is missing or damaged, or --out exists.
    """
    if (chosen.clusters / name_classifier.FACTS).exists():
        return _assign_names(chosen)
    return _assign_clusters(chosen)


def _assign_clusters(chosen: Assign) -> Answer:
    _check_outputs(chosen)
    clusters = saved.load_clusters(chosen.clusters)
    names = read_names(chosen.clusters, clusters.ids_K)
    vectors = _labelled_vectors(clusters, chosen)
    start = time.perf_counter()
    if chosen.match is not None:
        clusters, names = _with_older_ids(clusters, names, chosen.match, chosen.clusters)
    assigned = clusters.assign(vectors.x_ND, merged_ids(names))
    seconds = time.perf_counter() - start
    table = assignments_table(
        vectors, assigned, names, new_outlier_columns(vectors, clusters.reference_BD)
    )
    folders = _folder_names(assigned, names)
    _write(vectors, table, folders, chosen)
    value: dict[str, Any] = {"images": len(vectors), "clusters": dict(Counter(folders))}
    value["notes"] = []
    if names:
        own = [names.get(id_) for id_ in assigned.cluster_N.tolist()]
        value |= _agreement(vectors, own, list(names.values()))
    elif chosen.label is not None:
        value["notes"] = [f"No cluster has a name: write {chosen.clusters / NAMES} to compare."]
    value |= {"out": str(chosen.out), "seconds": seconds}
    return answer(value, _text(value, chosen.out, "clusters"), as_json=chosen.json)


def _assign_names(chosen: Assign) -> Answer:
    if chosen.match is not None:
        found = f"{chosen.clusters} is a classifier, and its names have no ids to match"
        raise ConfigError(found, "drop --match")
    _check_outputs(chosen)
    classifier = name_classifier.load_classifier(chosen.clusters)
    vectors = _labelled_vectors(classifier, chosen)
    start = time.perf_counter()
    predictions = classifier.predict(vectors.x_ND)
    seconds = time.perf_counter() - start
    names = [classifier.names[k] for k in predictions.first_N.tolist()]
    _write(vectors, _name_table(vectors, predictions, classifier.names), names, chosen)
    value: dict[str, Any] = {"images": len(vectors), "names": dict(Counter(names)), "notes": []}
    value |= _agreement(vectors, names, classifier.names)
    value |= {"out": str(chosen.out), "seconds": seconds}
    return answer(value, _text(value, chosen.out, "names"), as_json=chosen.json)


# --- what is read


def _check_outputs(chosen: Assign) -> None:
    """Whether everything that is asked for can be written, before any work.

    Raises:
        FileError: --out is not a table, or something is in the way.
    """
    check_suffix(chosen.out, ".csv", ".parquet")
    inputs = [str(chosen.clusters), chosen.data, chosen.encoder, str(chosen.match or "")]
    check_out(chosen.out, "a file", overwrite=chosen.overwrite, inputs=inputs)
    check_folders({"--copy-to": chosen.copy_to, "--link-to": chosen.link_to}, chosen.data)


def _labelled_vectors(made_with: Clusters | Classifier, chosen: Assign) -> Vectors:
    """The vectors of DATA by the encoder of the clusters or classifier, with the labels asked for.

    Raises:
        UserError: As `open_matching_vectors`, `with_labels` and `check_same_encoder`.
    """
    made, machine = str(chosen.clusters), chosen.machine()
    vectors = open_matching_vectors(
        made_with.run, chosen.data, machine, encoder=chosen.encoder, made=made
    )
    check_same_encoder(vectors, made_with.encoder, made)
    return with_labels(vectors, chosen.label)


def _with_older_ids(
    clusters: Clusters, names: Mapping[int, str], older: Path, newer: Path
) -> tuple[Clusters, dict[int, str]]:
    """The clusters under the ids of the older ones where they share most images, and their names.

    A name that is only a number is dropped: it would contradict the new id.
    """
    ids_K, _ = matched_ids(
        cluster_by_path(read_assignments(older)),
        cluster_by_path(read_assignments(newer)),
        clusters.ids_K,
    )
    renamed = dict(zip(clusters.ids_K.tolist(), ids_K.tolist(), strict=True))
    words = {renamed[k]: name for k, name in names.items() if cluster_number(name) is None}
    return clusters.with_ids(ids_K), words


# --- what is written


def _write(vectors: Vectors, table: "pa.Table", folders: Sequence[str], chosen: Assign) -> None:
    """Sort images into folders, where that is asked for, and write the table.

    Raises:
        DataError: The images are not files, or are missing.
        FileError: Something is in the way.
    """
    if chosen.copy_to is not None:
        sort_into_folders(_root(vectors), vectors.files, folders, chosen.copy_to, "copy")
    if chosen.link_to is not None:
        sort_into_folders(_root(vectors), vectors.files, folders, chosen.link_to, "link")
    claim(chosen.out, "a file", overwrite=chosen.overwrite)
    write_bytes(chosen.out, _table_bytes(table, chosen.out))


def _root(vectors: Vectors) -> Path:
    """The folder that contains the images.

    Raises:
        DataError: They are not files.
    """
    if vectors.root is None:
        raise DataError("these images are not files", "drop --copy-to and --link-to")
    return vectors.root


def _folder_names(assigned: Assignment, names: Mapping[int, str]) -> list[str]:
    """The folder of each image: its cluster's name, or `cluster ID`, which no name can be."""
    return [names.get(id_, f"cluster {id_}") for id_ in assigned.cluster_N.tolist()]


def _table_bytes(table: "pa.Table", path: Path) -> bytes:
    """The table as CSV or Parquet, whichever the file's name asks for."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    sink = pa.BufferOutputStream()
    write = csv.write_csv if path.suffix.lower() == ".csv" else parquet.write_table
    write(table, sink)
    return bytes(sink.getvalue().to_pybytes())


def _name_table(vectors: Vectors, predictions: Predictions, names: Sequence[str]) -> "pa.Table":
    """One row per image: row, path, label if known, name, its probability, second choice."""
    import pyarrow as pa

    columns: dict[str, Any] = {"row": vectors.row_N, "path": list(vectors.paths)}
    if vectors.labels is not None:
        columns["label"] = pa.array(vectors.labels)
    columns["name"] = [names[k] for k in predictions.first_N.tolist()]
    columns["confidence"] = predictions.confidence_N
    columns["second"] = [names[k] for k in predictions.second_N.tolist()]
    return pa.table(columns)


def _agreement(
    vectors: Vectors, found: Sequence[str | None], names: Sequence[str]
) -> dict[str, Any]:
    """How often the name is the label, among images that have both.

    Args:
        vectors: Vectors of images, with their labels.
        found: The name of each image.
        names: All names there are.
    """
    if vectors.labels is None:
        return {}
    label_N = [None if a is None else single_blanks(label_text(a)) for a in vectors.labels]
    pairs = zip(label_N, found, strict=True)
    same = [a == b for a, b in pairs if a is not None and b is not None]
    value = {"agreement": sum(same) / max(1, len(same)), "compared": len(same)}
    labels = sorted({a for a in label_N if a is not None})
    if not labels or set(labels) & set(names):
        return value
    few = ", ".join([*map(printable, labels[:_LABELS]), *["..."] * (len(labels) > _LABELS)])
    note = f"No name is one of the labels ({few}): name clusters like the labels to compare."
    return value | {"notes": [note]}


def _text(value: Mapping[str, Any], out: Path, kind: str) -> str:
    """What assign prints: the largest clusters, and how well they agree with labels."""
    counts = sorted(value[kind].items(), key=lambda pair: -pair[1])
    lines = [f"{value['images']:,} images in {len(counts):,} {kind}: {out}"]
    lines += [f"  {printable(name):<20} {count:>9,}" for name, count in counts[:_LISTED]]
    if len(counts) > _LISTED:
        lines.append(f"  and {len(counts) - _LISTED:,} others")
    lines += value["notes"]
    if "agreement" in value and not value["notes"]:
        share, compared = value["agreement"], value["compared"]
        lines.append(f"The name is the label for {share:.1%} of the {compared:,} that have both.")
    return "\n".join(lines)
