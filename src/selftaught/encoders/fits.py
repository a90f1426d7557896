"""Checks that an encoder accepts images."""

from typing import TYPE_CHECKING

from selftaught.errors import DataError

if TYPE_CHECKING:
    from selftaught.data.store import Images
    from selftaught.encoders.encoder import Encoder


def check_fits(encoder: "Encoder", images: "Images") -> None:
    """Check that the encoder accepts these images.

    Raises:
        DataError: Their number of channels or the range of their values does not match.
    """
    takes, channels = encoder.config.in_channels, images.store.channels
    if takes != channels:
        raise DataError(
            f"the encoder takes images with {takes} channels, these have {channels}",
            "use images like those it was trained on",
        )
    check_range(encoder, images)


def check_range(encoder: "Encoder", images: "Images") -> None:
    """Check that the range of these images' values is close to the encoder's.

    Raises:
        DataError: Values would be clipped, or be nearly black: their range is less than half or
            more than twice as wide.
    """
    ours, theirs = encoder.config.intensity, images.checked.intensity
    if not 0.5 <= (theirs.high - theirs.low) / (ours.high - ours.low) <= 2.0:
        raise DataError(
            f"the encoder takes values from {ours.low:g} to {ours.high:g}, "
            f"these images have {theirs.low:g} to {theirs.high:g}",
            "use images like those it was trained on",
        )
