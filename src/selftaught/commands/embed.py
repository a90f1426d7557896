"""The command embed: one vector per image."""

from selftaught.commands.result import Answer
from selftaught.data.open_images import open_images_with_notice
from selftaught.encoders.fits import check_fits
from selftaught.encoders.folder import open_encoder
from selftaught.foundation.files import write_table
from selftaught.foundation.outputs import check_out, claim
from selftaught.options.use import Embed
from selftaught.vectors.parquet import vector_table


def embed(chosen: Embed) -> Answer:
    """Write one vector per image to a Parquet table.

    Raises:
        DataError: No image is usable.
        FileError: --out exists.
    """
    machine, inputs = chosen.machine(), (chosen.run, chosen.data)
    check_out(chosen.out, "a file", overwrite=chosen.overwrite, inputs=inputs)
    encoder = open_encoder(chosen.run)
    images = open_images_with_notice(chosen.data, machine)
    check_fits(encoder, images)
    table = vector_table(encoder, images, machine)
    claim(chosen.out, "a file", overwrite=chosen.overwrite)
    write_table(chosen.out, table)
    text = f"{table.num_rows:,} vectors of {encoder.dim} dimensions: {chosen.out}"
    return Answer({"out": str(chosen.out), "rows": table.num_rows, "dim": encoder.dim}, text)
