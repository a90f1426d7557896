"""The command report: the HTML report of a run or of clusters, rebuilt."""

import dataclasses
from pathlib import Path

import numpy as np

from selftaught.clusters import clusters as saved
from selftaught.clusters.fit import restored_clusters
from selftaught.clusters.match import cluster_by_path, read_assignments
from selftaught.clusters.names import read_names
from selftaught.clusters.origin import vectors_of_clusters
from selftaught.clusters.standouts import find_standouts_with_notice
from selftaught.commands.result import Answer
from selftaught.data.open_images import open_images
from selftaught.encoders.folder import open_encoder
from selftaught.errors import DataError, FileError
from selftaught.evaluation.record import recorded_rows
from selftaught.foundation.machine import Machine
from selftaught.options.assess import Report
from selftaught.recipe.build import view_specs
from selftaught.recipe.config import read_config, to_dict
from selftaught.reports.clusters.clusters_page import clustering_sections, write_group_report
from selftaught.reports.page import write_report
from selftaught.reports.run.run_page import run_sections
from selftaught.vectors.open_vectors import check_same_encoder


def report(chosen: Report) -> Answer:
    """Rebuild RUN/report.html or CLUSTERS/report.html, one self-contained file.

    Raises:
        FileError: The folder is neither a run nor clusters.
    """
    is_clusters = (chosen.run / saved.FACTS).exists()
    write = _write_clusters_report if is_clusters else _write_run_report
    path = write(chosen.run, chosen.machine())
    return Answer(str(path), f"Report: {path}")


def _write_run_report(run: Path, machine: Machine) -> Path:
    if not (run / "config.yaml").exists():
        raise FileError(
            f"{run} is not a run folder (config.yaml is missing)",
            "pass the output folder of selftaught pretrain",
        )
    resolved = read_config(run / "config.yaml")
    images = open_images(resolved.data, machine)
    sections = run_sections(
        run,
        open_encoder(str(run)),
        images,
        machine,
        config=to_dict(resolved),
        specs=view_specs(resolved),
        rows=recorded_rows(run),
    )
    return write_report(run, sections)


def _write_clusters_report(folder: Path, machine: Machine) -> Path:
    """Write the report with the names in names.csv, from the clustered images.

    Raises:
        DataError: The images or their vectors have changed since they were clustered.
        FileError: The clusters are damaged.
    """
    clusters, table = saved.load_clusters(folder), read_assignments(folder)
    vectors = vectors_of_clusters(clusters, folder, machine)
    check_same_encoder(vectors, clusters.encoder, str(folder))
    own = cluster_by_path(table)
    if set(own) != set(vectors.paths):
        raise DataError(
            f"the images that {folder} was made from have changed",
            f"cluster again with --match {folder}",
        )
    if "label" in table.column_names:
        labels = dict(zip(own, table["label"].to_pylist(), strict=True))
        vectors = dataclasses.replace(vectors, labels=tuple(labels[p] for p in vectors.paths))
    place = {id_: k for k, id_ in enumerate(clusters.ids_K.tolist())}
    own_N = np.array([place[own[path]] for path in vectors.paths], np.int64)
    found = restored_clusters(vectors, clusters, own_N, names=read_names(folder, clusters.ids_K))
    sections = clustering_sections(found, find_standouts_with_notice(vectors))
    return write_group_report(folder, sections, f"{folder.name}: clusters")
