"""The command export: the encoder for another library, after comparing their outputs."""

from pathlib import Path

from selftaught.commands.result import Answer
from selftaught.data.open_images import open_images_with_notice
from selftaught.encoders.export_formats import check_export, export_encoder
from selftaught.encoders.fits import check_fits
from selftaught.encoders.folder import open_encoder
from selftaught.errors import ConfigError
from selftaught.foundation.files import temporary_path
from selftaught.foundation.outputs import check_out, claim
from selftaught.foundation.rng import Key, permutation
from selftaught.options.exchange import Export
from selftaught.recipe.config import read_config

_COMPARED = 16  # images


def export(chosen: Export) -> Answer:
    """Export the encoder to another library, if its outputs there match ours.

    Raises:
        ConfigError: The library cannot express the network.
        FileError: The outputs differ, or --out exists.
    """
    machine, inputs = chosen.machine(), (chosen.run, chosen.data)
    check_out(chosen.out, "an encoder", overwrite=chosen.overwrite, inputs=inputs)
    encoder = open_encoder(chosen.run)
    check_export(encoder, chosen.to)
    images = open_images_with_notice(chosen.data or _training_data(Path(chosen.run)), machine)
    check_fits(encoder, images)
    rows = permutation(Key(0, "export"), len(images.store))[:_COMPARED]
    part = temporary_path(chosen.out)
    difference = export_encoder(encoder, chosen.to, part, images.store.read(rows).images())
    claim(chosen.out, "an encoder", overwrite=chosen.overwrite)  # now that the outputs match
    part.rename(chosen.out)
    text = (
        f"{chosen.out}: exported for {chosen.to}. The outputs for {len(rows)} of the images differ "
        f"by at most {difference:.1e}."
    )
    return Answer({"out": str(chosen.out), "to": chosen.to, "difference": difference}, text)


def _training_data(run: Path) -> str:
    """The images that a run was trained on."""
    path = run / "config.yaml"
    if not path.exists():
        raise ConfigError(f"cannot tell which images {run} was trained on", "pass some with --data")
    return read_config(path).data.path
