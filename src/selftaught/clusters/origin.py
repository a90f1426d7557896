"""The vectors that saved clusters were made from, computed or read again."""

from pathlib import Path

from selftaught.clusters.clusters import Clusters
from selftaught.errors import ConfigError, DataError
from selftaught.foundation.machine import Machine
from selftaught.vectors.open_vectors import (
    holds_vectors,
    is_table,
    open_matching_vectors,
    open_vectors,
)
from selftaught.vectors.vectors import Vectors


def vectors_of_clusters(
    clusters: Clusters, folder: Path, machine: Machine, *, data: str = "", encoder: str = ""
) -> Vectors:
    """The vectors that clusters were made from.

    Args:
        clusters: The clusters.
        folder: Folder of the clusters, for errors.
        machine: Where the encoder computes.
        data: Images, or a table of vectors, to use instead of the originals; "": the originals.
        encoder: New location of the encoder, if it has moved.

    Raises:
        UserError: As `open_matching_vectors`, or it is not known, or not there.
    """
    made_from, table = (str(clusters.facts.get(name, "")) for name in ("data", "vectors"))
    wanted, made = data or made_from, str(folder)
    if not wanted:
        raise ConfigError(f"cannot tell which images {made} was made from", "pass --data")
    if not (data or encoder) and Path(table).is_file():
        wanted = table
    elif not data and is_table(wanted) and not Path(wanted).exists():
        found = f"{wanted}, from which {made} was made, does not exist"
        raise DataError(found, "pass its new location with --data")
    if not clusters.run and made_from != table and holds_vectors(wanted):
        return _vectors_with_images(wanted, made_from, machine)
    try:
        return open_matching_vectors(clusters.run, wanted, machine, encoder=encoder, made=made)
    except DataError as error:
        if data or Path(wanted).exists():
            raise
        what = f"{error.what} ({made} was made from it)"
        raise DataError(what, "pass its new location with --data") from None


def _vectors_with_images(table: str, images: str, machine: Machine) -> Vectors:
    """The vectors of a table, and their images if they still exist."""
    try:
        return open_vectors(table, images, machine)
    except DataError:
        return open_vectors(table, "", machine)
