"""The command cluster: groups of images, kept with a report; and that report, written anew."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from selftaught.clusters import clusters as kept
from selftaught.clusters.fit import Grouping, check_cluster_input, group, table_of
from selftaught.clusters.match import ASSIGNMENTS, assignments, by_path, kept_names, matched_ids
from selftaught.clusters.names import read_names, write_names
from selftaught.clusters.standouts import Apart, apart_with_notice
from selftaught.commands.result import Answer, answer
from selftaught.data.open_images import rejected_sentence
from selftaught.data.sources import absolute_name
from selftaught.errors import ConfigError, shown
from selftaught.foundation.files import quoted, write_table
from selftaught.foundation.outputs import check_out, new_output
from selftaught.options.use import Cluster
from selftaught.reports.clusters.clusters_page import clustering_sections, write_group_report
from selftaught.vectors.open_vectors import absolute_run, is_table, open_vectors, with_labels
from selftaught.vectors.vectors import Vectors

_SHOWN = 20  # clusters that the text lists


def cluster(chosen: Cluster) -> Answer:
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
    machine, fits = chosen.machine(), partial(check_cluster_input, chosen.by)
    vectors = with_labels(open_vectors(chosen.run, chosen.data, machine, fits), chosen.label)
    found = group(
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
        found = _matched(found, older)
    stands = apart_with_notice(vectors)
    found = dataclasses.replace(
        found, notes=(*found.notes, *_notes(vectors, found, stands, chosen))
    )
    table = table_of(vectors, found.assigned, found.names, stands.columns(vectors))
    with new_output(chosen.out, "clusters", overwrite=chosen.overwrite) as part:
        kept.save_clusters(found.clusters, part)
        write_table(part / ASSIGNMENTS, table)
        if found.names:
            write_names(part, found.names)
        write_group_report(part, clustering_sections(found, stands), f"{chosen.out.name}: clusters")
    value = _told(found, stands)
    return answer(value, _cluster_text(found, value, chosen.out), as_json=chosen.json)


# --- cluster


def _check_k(chosen: Cluster) -> None:
    if chosen.by == "max-margin" and chosen.k not in ("auto", 2):
        raise ConfigError(f"max-margin makes 2 clusters, not {chosen.k}", "leave --k out")
    if chosen.by == "power-iteration" and chosen.k != "auto":
        raise ConfigError(f"{chosen.by} finds the number of clusters itself", "leave --k out")


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
    return _Older(folder, clusters, read_names(folder, kept.load_clusters(folder).ids_K))


def _notes(vectors: Vectors, found: Grouping, stands: Apart, chosen: Cluster) -> Iterator[str]:
    """What people should know besides how clusters came about."""
    if vectors.images is not None and (words := rejected_sentence(vectors.images.checked)):
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
