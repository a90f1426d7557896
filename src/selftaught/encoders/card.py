"""README.md of an encoder folder: the model card."""

from selftaught.encoders.encoder import Encoder, crop_fraction
from selftaught.encoders.timm_models import timm_mismatch


def model_card(encoder: Encoder, card: str = "") -> str:
    """The text of README.md: what the encoder is, its input, and how to load it."""
    config = encoder.config
    low, high = config.intensity.low, config.intensity.high
    lacks = timm_mismatch(config)
    in_timm = _NOT_IN_TIMM.format(lacks) if lacks else _IN_TIMM
    return _CARD.format(
        library="selftaught" if lacks else "timm",
        name=config.architecture,
        dim=encoder.dim,
        side=config.image_size,
        channels=config.in_channels,
        card=card.strip() or "An encoder made by selftaught.",
        percent=100 * crop_fraction(config.image_size),
        range=f"{low:g} to {high:g}",
        mean=", ".join(f"{m:.4g}" for m in config.intensity.mean),
        std=", ".join(f"{s:.4g}" for s in config.intensity.std),
        in_timm=in_timm,
    )


_CARD = """\
---
library_name: {library}
tags:
- image-feature-extraction
---
# {name}, an image encoder

{card}

It maps an image of {side} x {side} pixels and {channels} channel(s) to a vector of {dim}
numbers. It has no classifier. The weights belong to whoever trained them.

## Preprocessing

The central {percent:g} % of the shorter side, resized to {side} x {side} (bilinear, antialiased);
raw values from {range} become 0 to 1, then (x - mean) / std with mean {mean} and std {std}.
`encoder.preprocess` does all of it.

## Loading

```python
import selftaught

encoder = selftaught.load("FOLDER")
vectors = encoder(encoder.preprocess(images))
```

{in_timm}"""

_IN_TIMM = """\
```python
import timm

model = timm.create_model("local-dir:FOLDER", pretrained=True)
```

gives the same network; without `pretrained=True` timm builds it with random weights.
"""

_NOT_IN_TIMM = """\
timm cannot express this network ({}), so only selftaught loads it.
"""
