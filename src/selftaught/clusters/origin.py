"""The vectors that saved clusters were made from, computed or read again."""

from pathlib import Path

from selftaught.clusters.clusters import Clusters
from selftaught.errors import ConfigError, DataError
from selftaught.foundation.machine import Machine
from selftaught.vectors.open_vectors import holds_vectors, is_table, open_vectors, vectors_for
from selftaught.vectors.vectors import Vectors


def vectors_of_clusters(
    clusters: Clusters, folder: Path, machine: Machine, *, data: str = "", encoder: str = ""
) -> Vectors:
    """The vectors of what clusters were made from.

    Args:
        clusters: The clusters.
        folder: Where they are kept, for complaints.
        machine: Where the encoder computes.
        data: The images, or a table of vectors, in place of those; "": those.
        encoder: Where the encoder is now, if it is not where it was.

    Raises:
        UserError: As `vectors_for`, or it is not known, or not there.
    """
    made_from, table = (str(clusters.facts.get(name, "")) for name in ("data", "vectors"))
    wanted, made = data or made_from, str(folder)
    if not wanted:
        raise ConfigError(f"{made} does not say its images", "give --data")
    if not (data or encoder) and Path(table).is_file():
        wanted = table
    elif not data and is_table(wanted) and not Path(wanted).exists():
        found = f"{wanted} does not exist"
        raise DataError(found, f"{made} was made from it; say with --data where it is")
    if not clusters.run and made_from != table and holds_vectors(wanted):
        return _with_pictures(wanted, made_from, machine)
    try:
        return vectors_for(clusters.run, wanted, machine, encoder=encoder, made=made)
    except DataError as error:
        if data or Path(wanted).exists():
            raise
        raise DataError(
            error.what, f"{made} was made from it; say with --data where it is"
        ) from None


def _with_pictures(table: str, images: str, machine: Machine) -> Vectors:
    """The vectors of a table, and their images where those are still there."""
    try:
        return open_vectors(table, images, machine)
    except DataError:
        return open_vectors(table, "", machine)
