"""The command cluster: groups of images, kept with a report; and that report, written anew."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from selftaught import group_options, options
from selftaught.answer import Answer, answer
from selftaught.errors import ConfigError, DataError, shown
from selftaught.files import quoted, write_table
from selftaught.groups import clusters as kept
from selftaught.groups.apart import Apart, apart
from selftaught.groups.fit import Grouping, again, check_size, group, table_of
from selftaught.groups.match import ASSIGNMENTS, assignments, by_path, kept_names, matched_ids
from selftaught.groups.names import (
    read_names,
    write_names,
)
from selftaught.inputs import (
    is_table,
    left_out,
    open_vectors,
    same_encoder,
    vectors_of_clusters,
    with_labels,
)
from selftaught.machine import pick_device
from selftaught.meanwhile import meanwhile
from selftaught.outputs import check_out, new_output
from selftaught.report.page import Section
from selftaught.report.walls import Curve, group_sections, write_group_report
from selftaught.resolve import lasting
from selftaught.vectors import Vectors

if TYPE_CHECKING:
    pass

_SHOWN = 20  # clusters that the text lists


def cluster(chosen: group_options.Cluster) -> Answer:
    """Group images, and write CLUSTERS: what assigns new images, a table and a report.

    Raises:
        DataError: No image can be used, or there are fewer images than clusters.
        UserError: There are too many images for the algorithm.
        ConfigError: Options contradict each other.
        FileError: --out is in the way, or --match are no clusters.
    """
    _check_k(chosen)
    inputs = [chosen.run, chosen.data, str(chosen.match or "")]
    check_out(chosen.out, "clusters", overwrite=chosen.overwrite, inputs=inputs)
    older = None if chosen.match is None else _older(chosen.match)
    fits = partial(check_size, chosen.by)
    vectors = with_labels(open_vectors(chosen.run, chosen.data, chosen, fits), chosen.label)
    found = group(
        vectors,
        None if chosen.k == "auto" else chosen.k,
        by=chosen.by,
        space=chosen.space,
        run=lasting_run(chosen.run),
        data=lasting(chosen.data or chosen.run),
        table=lasting(chosen.run) if is_table(chosen.run) else "",
        seed=chosen.seed,
        device=pick_device(chosen.device),
    )
    if older is not None:
        found = _matched(found, older)
    with meanwhile(f"Looking for near-duplicates and outliers in {len(vectors):,} images."):
        stands = apart(vectors)
    found = dataclasses.replace(
        found, notes=(*found.notes, *_notes(vectors, found, stands, chosen))
    )
    table = table_of(vectors, found.assigned, found.names, stands.columns(vectors))
    with new_output(chosen.out, "clusters", overwrite=chosen.overwrite) as part:
        kept.save(found.clusters, part)
        write_table(part / ASSIGNMENTS, table)
        if found.names:
            write_names(part, found.names)
        write_group_report(part, _sections(found, stands), f"{chosen.out.name}: clusters")
    value = _told(found, stands)
    return answer(value, _cluster_text(found, value, chosen.out), as_json=chosen.json)


def renew_report(chosen: options.Report) -> Answer:
    """Write CLUSTERS/report.html anew: with the names of names.csv, of the images as they were.

    Raises:
        DataError: The images, or their vectors, are not those that were clustered.
        FileError: The clusters are damaged.
    """
    folder = chosen.run
    clusters, table = kept.load(folder), assignments(folder)
    vectors = vectors_of_clusters(clusters, folder, chosen)
    same_encoder(vectors, clusters.encoder, str(folder))
    own = by_path(table)
    if set(own) != set(vectors.paths):
        raise DataError(
            f"the images of {folder} are not those that it was made from any more",
            f"cluster anew, with --match {folder}",
        )
    if "label" in table.column_names:
        labels = dict(zip(own, table["label"].to_pylist(), strict=True))
        vectors = dataclasses.replace(vectors, labels=tuple(labels[p] for p in vectors.paths))
    place = {id_: k for k, id_ in enumerate(clusters.ids_K.tolist())}
    own_N = np.array([place[own[path]] for path in vectors.paths], np.int64)
    found = again(vectors, clusters, own_N, names=read_names(folder, clusters.ids_K))
    with meanwhile(f"Looking for near-duplicates and outliers in {len(vectors):,} images."):
        stands = apart(vectors)
    path = write_group_report(folder, _sections(found, stands), f"{folder.name}: clusters")
    return Answer(str(path), f"The report: {path}")


# --- cluster


def _check_k(chosen: group_options.Cluster) -> None:
    if chosen.by == "max-margin" and chosen.k not in ("auto", 2):
        raise ConfigError(f"max-margin makes 2 clusters, not {chosen.k}", "leave --k out")
    if chosen.by == "power-iteration" and chosen.k != "auto":
        raise ConfigError(f"{chosen.by} finds the number of clusters itself", "leave --k out")


def lasting_run(run: str) -> str:
    """Where the encoder will be found from any folder; "" of a table."""
    if is_table(run):
        return ""
    return run if run.startswith("timm:") else str(Path(run).resolve())


@dataclass(frozen=True)
class _Older:
    """A clustering whose ids and names shall be kept: cluster by path, and name by cluster."""

    folder: Path
    clusters: dict[str, int]
    names: dict[int, str]


def _older(folder: Path) -> _Older:
    """What is kept of it.

    Raises:
        FileError: The folder holds no clusters, or a file in it is damaged.
    """
    clusters = by_path(assignments(folder))
    return _Older(folder, clusters, read_names(folder, kept.load(folder).ids_K))


def _notes(
    vectors: Vectors, found: Grouping, stands: Apart, chosen: group_options.Cluster
) -> Iterator[str]:
    """What people should know besides how clusters came about."""
    if vectors.images is not None and (words := left_out(vectors.images.checked)):
        yield words
    zeros = int((~vectors.x_ND.any(axis=1)).sum())
    if zeros:
        are = "vector is" if zeros == 1 else "vectors are"
        yield f"{zeros:,} {are} all 0: without a direction, the cluster means nothing."
    if chosen.k != "auto" and len(found.clusters) < chosen.k:
        yield f"There are not {chosen.k} different vectors: {len(found.clusters)} clusters."
    if stands.note:
        yield stands.note


def _matched(found: Grouping, older: _Older) -> Grouping:
    """The same groups under the ids, and the names, of the older ones."""
    clusters = found.clusters
    new = dict(zip(found.vectors.paths, found.assigned.cluster_N.tolist(), strict=True))
    ids_K, share = matched_ids(older.clusters, new, clusters.ids_K)
    renamed = dict(zip(clusters.ids_K.tolist(), ids_K.tolist(), strict=True))
    names = kept_names(older.names, older.clusters, {p: renamed[k] for p, k in new.items()})
    common, images = len(older.clusters.keys() & new.keys()), len(older.clusters)
    which = "the images" if common == images else f"the {common:,} images (of {images:,})"
    note = f"{share:.0%} of {which} of {older.folder.name} that are here too keep their id."
    lost = sorted(set(older.names.values()) - set(names.values()))
    if lost:
        note += f" Not kept, for want of images in common: {', '.join(map(shown, lost))}."
    return found.under(ids_K, names, note)


def _sections(found: Grouping, stands: Apart) -> list[Section]:
    choice, curve = found.choice, None
    if choice is not None and choice.points:
        columns = zip(*map(dataclasses.astuple, choice.points), strict=True)
        k, stability, silhouette, _, entropy, _ = map(list, columns)
        curve = Curve(k, stability, silhouette, entropy, choice.k, choice.sentence)
    return group_sections(
        found,
        outlier_N=stands.score_N,
        odd_N=stands.odd_N,
        duplicates=[group.tolist() for group in stands.duplicates],
        curve=curve,
    )


def _told(found: Grouping, stands: Apart) -> dict[str, Any]:
    sizes = dict(zip(found.clusters.ids_K.tolist(), found.sizes_K.tolist(), strict=True))
    return {
        **found.clusters.facts,
        "sizes": sizes,
        "outliers": None if stands.odd_N is None else int(stands.odd_N.sum()),
        "near_duplicates": sum(map(len, stands.duplicates)),
        "notes": list(found.notes),
    }


def _cluster_text(found: Grouping, value: Mapping[str, Any], out: Path) -> str:
    order = (-found.sizes_K).argsort(kind="stable")[:_SHOWN]
    ids_K, sizes_K = found.clusters.ids_K, found.sizes_K
    lines = [f"{len(found.vectors):,} images in {len(ids_K):,} clusters: {out}", *value["notes"]]
    lines += [f"  {_called(int(ids_K[k]), found.names):<20} {sizes_K[k]:>9,}" for k in order]
    if len(ids_K) > _SHOWN:
        lines.append(f"  and {len(ids_K) - _SHOWN:,} smaller ones")
    standing = f"{value['near_duplicates']:,} images look like another"
    if value["outliers"] is not None:
        standing += f", {value['outliers']:,} are unlike all others"
    lines.append(f"{standing}: the report, {out / 'report.html'}, shows them.")
    encoder = "" if found.clusters.run else " --encoder RUN"
    lines.append(f"Next: selftaught assign {quoted(out)} DATA{encoder} --out table.csv")
    return "\n".join(lines)


def _called(id_: int, names: Mapping[int, str]) -> str:
    return f"{id_} {shown(names[id_])}" if id_ in names else str(id_)
