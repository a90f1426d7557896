"""Does an encoder accept these images?"""

from typing import TYPE_CHECKING

from selftaught.errors import DataError

if TYPE_CHECKING:
    from selftaught.data.store import Images
    from selftaught.encoders.encoder import Encoder


def check_fits(encoder: "Encoder", images: "Images") -> None:
    """Whether the encoder takes such images.

    Raises:
        DataError: They have another number of channels, or values of another range.
    """
    takes, channels = encoder.config.in_channels, images.store.channels
    if takes != channels:
        raise DataError(
            f"the encoder takes images of {takes} channels, these have {channels}",
            "give images like those that it was trained on",
        )
    check_range(encoder, images)


def check_range(encoder: "Encoder", images: "Images") -> None:
    """Whether the values of these images fill the range that the encoder was made for.

    Raises:
        DataError: They would be cut off, or be nearly black: their range is less than half or more
            than twice as wide.
    """
    ours, theirs = encoder.config.intensity, images.checked.intensity
    if not 0.5 <= (theirs.high - theirs.low) / (ours.high - ours.low) <= 2.0:
        raise DataError(
            f"the encoder takes values from {ours.low:g} to {ours.high:g}, "
            f"these images have {theirs.low:g} to {theirs.high:g}",
            "give images of the kind that it was trained on",
        )
