"""The command assign: images sorted into clusters, and tables and folders of them."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selftaught import group_options
from selftaught.answer import Answer, answer
from selftaught.errors import DataError, FileError, shown
from selftaught.files import write_bytes
from selftaught.groups import clusters as kept
from selftaught.groups.apart import among
from selftaught.groups.classifier import Classifier
from selftaught.groups.clusters import Assigned, Clusters
from selftaught.groups.fit import table_of
from selftaught.groups.folders import check_folders, lay_out
from selftaught.groups.match import assignments, by_path, matched_ids
from selftaught.groups.names import (
    NAMES,
    as_name,
    groups_of,
    numbered,
    read_names,
    single_blanks,
)
from selftaught.inputs import (
    same_encoder,
    vectors_for,
    with_labels,
)
from selftaught.outputs import check_out, claim
from selftaught.vectors import Vectors

if TYPE_CHECKING:
    import pyarrow as pa

_SHOWN = 20  # groups that the text lists
_LABELS = 3  # that a note lists


def assign(chosen: group_options.Assign) -> Answer:
    """Sort images into clusters, and write a table.

    Raises:
        DataError: No image can be used, or the vectors are of another encoder.
        FileError: The clusters are missing or damaged, or --out is in the way.
    """
    check_assign(chosen)
    clusters = kept.load(chosen.clusters)
    names = read_names(chosen.clusters, clusters.ids_K)
    vectors = labelled_vectors(clusters, chosen)
    start = time.perf_counter()
    if chosen.match is not None:
        older, newer = assignments(chosen.match), assignments(chosen.clusters)
        ids_K, _ = matched_ids(by_path(older), by_path(newer), clusters.ids_K)
        renamed = dict(zip(clusters.ids_K.tolist(), ids_K.tolist(), strict=True))
        named = {k: name for k, name in names.items() if numbered(name) is None}
        clusters, names = clusters.renamed(ids_K), {renamed[k]: named[k] for k in named}
    assigned = clusters.assign(vectors.x_ND, groups_of(names))
    seconds = time.perf_counter() - start
    table = table_of(vectors, assigned, names, among(vectors, clusters.reference_BD))
    called = _folders(assigned, names)
    write_sorted(vectors, table, called, chosen)
    value: dict[str, Any] = {"images": len(vectors), "clusters": counted(called), "notes": []}
    if names:
        own = [names.get(id_) for id_ in assigned.cluster_N.tolist()]
        value |= agreement(vectors, own, list(names.values()))
    elif chosen.label is not None:
        value["notes"] = [f"No cluster has a name: write {chosen.clusters / NAMES} to compare."]
    value |= {"out": str(chosen.out), "seconds": seconds}
    return answer(value, assign_text(value, chosen.out), as_json=chosen.json)


def check_assign(chosen: group_options.Assign) -> None:
    """Whether all that is asked can be written, before any work.

    Raises:
        ConfigError: --out is no table.
        FileError: Something is in the way.
    """
    if chosen.out.suffix.lower() not in (".csv", ".parquet"):
        raise FileError(f"--out {chosen.out} is no table", "let it end in .parquet or .csv")
    inputs = [str(chosen.clusters), chosen.data, chosen.encoder, str(chosen.match or "")]
    check_out(chosen.out, "a file", overwrite=chosen.overwrite, inputs=inputs)
    check_folders({"--copy-to": chosen.copy_to, "--link-to": chosen.link_to}, chosen.data)


def labelled_vectors(made_with: Clusters | Classifier, chosen: group_options.Assign) -> Vectors:
    """The vectors of DATA by the encoder of what is kept, with the labels that are asked for.

    Raises:
        UserError: As `vectors_for`, `with_labels` and `same_encoder`.
    """
    made = str(chosen.clusters)
    vectors = vectors_for(made_with.run, chosen.data, chosen, encoder=chosen.encoder, made=made)
    same_encoder(vectors, made_with.encoder, made)
    return with_labels(vectors, chosen.label)


def _root(vectors: Vectors) -> Path:
    """The folder that the images lie in.

    Raises:
        DataError: They are no files.
    """
    if vectors.root is None:
        raise DataError("these images are no files", "leave --copy-to and --link-to out")
    return vectors.root


def _folders(assigned: Assigned, names: Mapping[int, str]) -> list[str]:
    """What each image's cluster is called: one without a name never like the name of another."""
    return [names.get(id_, f"cluster {id_}") for id_ in assigned.cluster_N.tolist()]


def write_sorted(
    vectors: Vectors, table: "pa.Table", called: Sequence[str], chosen: group_options.Assign
) -> None:
    """Lay images out in folders as they are called, where that is asked for, and write the table.

    Raises:
        DataError: Images that shall be laid out are no files, or are missing.
        FileError: Something is in the way.
    """
    if chosen.copy_to is not None:
        lay_out(_root(vectors), vectors.files, called, chosen.copy_to, "copy")
    if chosen.link_to is not None:
        lay_out(_root(vectors), vectors.files, called, chosen.link_to, "link")
    claim(chosen.out, "a file", overwrite=chosen.overwrite)
    write_bytes(chosen.out, _file_of(table, chosen.out))


def _file_of(table: "pa.Table", path: Path) -> bytes:
    """The bytes of a table as its name asks for them."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    sink = pa.BufferOutputStream()
    write = csv.write_csv if path.suffix.lower() == ".csv" else parquet.write_table
    write(table, sink)
    return bytes(sink.getvalue().to_pybytes())


def counted(called: Sequence[str]) -> dict[str, int]:
    """How many images are called what."""
    return dict(Counter(called))


def agreement(
    vectors: Vectors, called: Sequence[str | None], names: Sequence[str]
) -> dict[str, Any]:
    """How often an image is called what its label says, of those that have a name and a label.

    Args:
        vectors: Of images.
        called: What each is called.
        names: All that there are.
    """
    if vectors.labels is None:
        return {}
    label_N = [None if a is None else single_blanks(as_name(a)) for a in vectors.labels]
    pairs = zip(label_N, called, strict=True)
    same = [a == b for a, b in pairs if a is not None and b is not None]
    value = {"agreement": sum(same) / max(1, len(same)), "compared": len(same)}
    labels = sorted({a for a in label_N if a is not None})
    if not labels or set(labels) & set(names):
        return value
    few = ", ".join([*map(shown, labels[:_LABELS]), *["..."] * (len(labels) > _LABELS)])
    note = f"No name is one of the labels ({few}): name clusters as labels are called to compare."
    return value | {"notes": [note]}


def assign_text(value: Mapping[str, Any], out: Path, kind: str = "clusters") -> str:
    """What assign prints: the largest groups, and how they agree with labels."""
    counts = sorted(value[kind].items(), key=lambda pair: -pair[1])
    lines = [f"{value['images']:,} images in {len(counts):,} {kind}: {out}"]
    lines += [f"  {shown(name):<20} {many:>9,}" for name, many in counts[:_SHOWN]]
    if len(counts) > _SHOWN:
        lines.append(f"  and {len(counts) - _SHOWN:,} others")
    lines += value["notes"]
    if "agreement" in value and not value["notes"]:
        share, many = value["agreement"], value["compared"]
        lines.append(f"The name is the label of {share:.1%} of the {many:,} that have both.")
    return "\n".join(lines)
