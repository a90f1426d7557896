"""Vectors of images as a table: what `selftaught embed` writes.

Shapes:  N usable images; D size of a vector.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selftaught.encoders.encoder import encoder_id
from selftaught.features import features

if TYPE_CHECKING:
    import pyarrow as pa

    from selftaught.data.check import Checked
    from selftaught.data.store import Images
    from selftaught.encoders.encoder import Encoder

Labels = Mapping[int, Any]
"""A label by row: a name, a class number or a target."""


def embed(
    encoder: "Encoder",
    images: "Images",
    *,
    labels: Labels | None = None,
    device: str = "cpu",
    threads: int = 2,
    cache: Path | None = None,
) -> "pa.Table":
    """A vector for every usable image.

    Args:
        encoder: f; a vector is f(x) of the evaluation view.
        images: The images, of which rejected ones have no row.
        labels: Labels by row. By default those that came along with the images; {} for none.
        device: Where the encoder computes.
        threads: Threads that read and decode.
        cache: Where vectors are kept for the next time, by encoder and content.

    Returns:
        A table of N rows: row (int64), path (string), label (null where a row has none; no such
        column where no row has one), vector (a list of D float32). Its metadata are "encoder_id"
        and "content", which say what the vectors are of.
    """
    import pyarrow as pa

    checked = images.checked
    vectors_ND = features(encoder, images, device=device, threads=threads, cache=cache)
    columns = {"row": checked.images["row"], "path": checked.images["path"]}
    labels = _own_labels(checked) if labels is None else labels
    if labels:
        found = [labels.get(row) for row in range(len(checked))]
        columns["label"] = pa.array(found, from_pandas=True)  # NaN is no label either
    flat = pa.array(vectors_ND.reshape(-1), pa.float32())
    columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, vectors_ND.shape[1])
    table = pa.table(columns)
    return table.replace_schema_metadata(
        {"encoder_id": encoder_id(encoder), "content": images.content}
    )


def _own_labels(checked: "Checked") -> Labels:
    """The column "label" of the source, by row."""
    column = checked.source.columns.get("label")
    return {} if column is None else dict(enumerate(column[checked.index_N].tolist()))
