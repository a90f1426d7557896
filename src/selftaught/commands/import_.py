"""The command import: another library's checkpoint as an encoder folder."""

from selftaught.commands.result import Answer
from selftaught.encoders.folder import save_encoder
from selftaught.encoders.imported.checkpoint_file import read_checkpoint
from selftaught.foundation.outputs import check_out, claim
from selftaught.options.exchange import Import


def import_(chosen: Import) -> Answer:
    """Convert another library's checkpoint to an encoder folder.

    Raises:
        FileError: The file is damaged or unsafe, its layout is unknown, or --out exists.
        ConfigError: --encoder is not a network, or cannot take images of --image-size.
    """
    check_out(chosen.out, "an encoder", overwrite=chosen.overwrite, inputs=[str(chosen.file)])
    found = read_checkpoint(
        chosen.file,
        image_size=chosen.image_size,
        encoder=chosen.encoder,
        pixels=chosen.pixels,
    )
    shape = found.encoder.config
    claim(chosen.out, "an encoder", overwrite=chosen.overwrite)
    origin = f"Imported from {chosen.file.name}, {found.layout}."
    save_encoder(found.encoder, chosen.out, card=" ".join([origin, *found.notes]))
    text = f"{chosen.out}: {shape.architecture} for {shape.image_size} px, front {shape.front}."
    value = {"out": str(chosen.out), "encoder": shape.architecture, "notes": list(found.notes)}
    return Answer(value, "\n".join([text, *found.notes, found.licence]))
