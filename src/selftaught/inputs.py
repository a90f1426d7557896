"""What RUN and DATA name, opened: images, or vectors from an encoder and images or from a table."""

from pathlib import Path

from selftaught import assemble
from selftaught.config import Config, DataSettings
from selftaught.data.store import Images
from selftaught.encoders.folder import open_encoder
from selftaught.errors import ConfigError
from selftaught.evaluation.evaluate import check_fits
from selftaught.machine import cache_folder, pick_device
from selftaught.options import Machine
from selftaught.resolve import lasting
from selftaught.vectors import Vectors, of_images, of_table


def open_images(data: str, machine: Machine) -> Images:
    """The usable images of DATA.

    Raises:
        DataError: There are none.
    """
    wanted = Config(data=DataSettings(lasting(data)))
    return assemble.opened(wanted, machine.cache, machine.threads)


def open_vectors(run: str, data: str, machine: Machine) -> Vectors:
    """The vectors of DATA by the encoder of RUN; or those of a table, RUN.

    Args:
        run: A run, an encoder folder, timm:NAME, or a table of vectors (.parquet).
        data: Images. Of a table they are those that it was made from, for their pixels; "": none.
        machine: Where the encoder computes.

    Raises:
        ConfigError: There is an encoder without images.
        DataError: No image can be used, the encoder does not take them, or vectors are not finite.
        FileError: There is no such encoder, or the table is none of vectors.
    """
    if is_table(run):
        return of_table(Path(run), open_images(data, machine) if data else None)
    if not data:
        raise ConfigError(f"images are missing for the encoder of {run}", "give DATA after it")
    encoder = open_encoder(run)
    images = open_images(data, machine)
    check_fits(encoder, images)
    return of_images(
        encoder,
        images,
        device=pick_device(machine.device),
        threads=machine.threads,
        cache=cache_folder(machine.cache),
    )


def is_table(run: str) -> bool:
    """Whether RUN is a table of vectors."""
    return run.lower().endswith(".parquet")
