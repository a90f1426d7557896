"""The command cluster: cluster images, and save the clusters with a report."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from selftaught.clusters import clusters as saved
from selftaught.clusters.fit import (
    ClusteredImages,
    assignments_table,
    check_cluster_input,
    cluster_vectors,
)
from selftaught.clusters.match import (
    ASSIGNMENTS,
    cluster_by_path,
    matched_ids,
    read_assignments,
    surviving_names,
)
from selftaught.clusters.names import read_names, write_names
from selftaught.clusters.standouts import Standouts, find_standouts_with_notice
from selftaught.commands.result import Answer, answer
from selftaught.data.open_images import rejected_sentence
from selftaught.data.sources import absolute_name
from selftaught.errors import ConfigError, printable
from selftaught.foundation.files import shell_word, write_table
from selftaught.foundation.outputs import check_out, new_output
from selftaught.options.use import Cluster
from selftaught.reports.clusters.clusters_page import clustering_sections, write_group_report
from selftaught.vectors.open_vectors import absolute_run, is_table, open_vectors, with_labels
from selftaught.vectors.vectors import Vectors

_LISTED = 20  # clusters that the text lists


def cluster(chosen: Cluster) -> Answer:
    """Cluster images, and write the folder CLUSTERS: the clusters, a table and a report.

    Raises:
        DataError: No image is usable, or there are fewer images than clusters.
        UserError: There are too many images for the algorithm.
        ConfigError: Options contradict each other.
        FileError: --out exists, or --match does not hold clusters.
    """
    _check_k(chosen)
    inputs = [chosen.run, chosen.data, str(chosen.match or "")]
    check_out(chosen.out, "clusters", overwrite=chosen.overwrite, inputs=inputs)
    older = None if chosen.match is None else _older_clusters(chosen.match)
    machine, fits = chosen.machine(), partial(check_cluster_input, chosen.by)
    vectors = with_labels(open_vectors(chosen.run, chosen.data, machine, fits), chosen.label)
    found = cluster_vectors(
        vectors,
        None if chosen.k == "auto" else chosen.k,
        by=chosen.by,
        space=chosen.space,
        run=absolute_run(chosen.run),
        data=absolute_name(chosen.data or chosen.run),
        table=absolute_name(chosen.run) if is_table(chosen.run) else "",
        seed=chosen.seed,
        device=machine.device,
    )
    if older is not None:
        found = _with_older_ids(found, older)
    standouts = find_standouts_with_notice(vectors)
    found = dataclasses.replace(
        found, notes=(*found.notes, *_notes(vectors, found, standouts, chosen))
    )
    table = assignments_table(vectors, found.assigned, found.names, standouts.columns(vectors))
    with new_output(chosen.out, "clusters", overwrite=chosen.overwrite) as part:
        saved.save_clusters(found.clusters, part)
        write_table(part / ASSIGNMENTS, table)
        if found.names:
            write_names(part, found.names)
        write_group_report(
            part, clustering_sections(found, standouts), f"{chosen.out.name}: clusters"
        )
    value = _facts(found, standouts)
    return answer(value, _cluster_text(found, value, chosen.out), as_json=chosen.json)


def _check_k(chosen: Cluster) -> None:
    if chosen.by == "max-margin" and chosen.k not in ("auto", 2):
        raise ConfigError(f"max-margin makes 2 clusters, not {chosen.k}", "drop --k")
    if chosen.by == "power-iteration" and chosen.k != "auto":
        raise ConfigError(f"{chosen.by} finds the number of clusters itself", "drop --k")


@dataclass(frozen=True)
class _OlderClusters:
    """Older clusters whose ids and names the new ones keep: cluster by path, name by cluster."""

    folder: Path
    clusters: dict[str, int]
    names: dict[int, str]


def _older_clusters(folder: Path) -> _OlderClusters:
    """Read the older clusters from their folder.

    Raises:
        FileError: The folder does not hold clusters, or a file in it is damaged.
    """
    clusters = cluster_by_path(read_assignments(folder))
    return _OlderClusters(folder, clusters, read_names(folder, saved.load_clusters(folder).ids_K))


def _notes(
    vectors: Vectors, found: ClusteredImages, standouts: Standouts, chosen: Cluster
) -> Iterator[str]:
    """Further remarks for the user."""
    if vectors.images is not None and (words := rejected_sentence(vectors.images.checked)):
        yield words
    zeros = int((~vectors.x_ND.any(axis=1)).sum())
    if zeros:
        are = "vector is" if zeros == 1 else "vectors are"
        yield f"{zeros:,} {are} all zeros and have no direction, so the cluster is meaningless."
    if chosen.k != "auto" and len(found.clusters) < chosen.k:
        few = f"Fewer than {chosen.k} vectors are different"
        yield f"{few}, so there are only {len(found.clusters)} clusters."
    if standouts.note:
        yield standouts.note


def _with_older_ids(found: ClusteredImages, older: _OlderClusters) -> ClusteredImages:
    """The same clusters with the ids and the names of the older ones."""
    clusters = found.clusters
    new = dict(zip(found.vectors.paths, found.assigned.cluster_N.tolist(), strict=True))
    ids_K, share = matched_ids(older.clusters, new, clusters.ids_K)
    renamed = dict(zip(clusters.ids_K.tolist(), ids_K.tolist(), strict=True))
    names = surviving_names(older.names, older.clusters, {p: renamed[k] for p, k in new.items()})
    common, images = len(older.clusters.keys() & new.keys()), len(older.clusters)
    which = f"the images of {older.folder.name}"
    if common != images:
        which = f"the {common:,} images shared with {older.folder.name} (which has {images:,})"
    note = f"{share:.0%} of {which} keep their cluster id."
    lost = sorted(set(older.names.values()) - set(names.values()))
    if lost:
        note += f" Names dropped, because too few images match: {', '.join(map(printable, lost))}."
    return found.with_ids(ids_K, names, note)


def _facts(found: ClusteredImages, standouts: Standouts) -> dict[str, Any]:
    sizes = dict(zip(found.clusters.ids_K.tolist(), found.sizes_K.tolist(), strict=True))
    return {
        **found.clusters.facts,
        "sizes": sizes,
        "outliers": None if standouts.outlier_N is None else int(standouts.outlier_N.sum()),
        "near_duplicates": sum(map(len, standouts.duplicates)),
        "notes": list(found.notes),
    }


def _cluster_text(found: ClusteredImages, value: Mapping[str, Any], out: Path) -> str:
    order = (-found.sizes_K).argsort(kind="stable")[:_LISTED]
    ids_K, sizes_K = found.clusters.ids_K, found.sizes_K
    lines = [f"{len(found.vectors):,} images in {len(ids_K):,} clusters: {out}", *value["notes"]]
    lines += [f"  {_display_name(int(ids_K[k]), found.names):<20} {sizes_K[k]:>9,}" for k in order]
    if len(ids_K) > _LISTED:
        lines.append(f"  and {len(ids_K) - _LISTED:,} smaller ones")
    counts = f"Near-duplicates: {value['near_duplicates']:,}"
    if value["outliers"] is not None:
        counts += f", outliers: {value['outliers']:,}"
    lines.append(f"{counts}. The report shows them: {out / 'report.html'}")
    encoder = "" if found.clusters.run else " --encoder RUN"
    lines.append(f"Next: selftaught assign {shell_word(out)} DATA{encoder} --out table.csv")
    return "\n".join(lines)


def _display_name(id_: int, names: Mapping[int, str]) -> str:
    return f"{id_} {printable(names[id_])}" if id_ in names else str(id_)
