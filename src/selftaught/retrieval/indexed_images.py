"""The images of an index, if they can still be read.

Shapes:  H, W, C of an image on disk.
"""

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from selftaught.data.check_images import listed_path
from selftaught.data.decode import decode_file
from selftaught.data.sources import Source, find_images
from selftaught.errors import UserError
from selftaught.retrieval.vector_index import Part, VectorIndex


class IndexedImages:
    """Reads images by their rows in the index.

    Args:
        index: The index.
    """

    def __init__(self, index: VectorIndex) -> None:
        self.index = index
        self._sources: dict[str, Source | None] = {}

    def file(self, row: int) -> Path | None:
        """The image's file; None if it came from an array."""
        root = self.index.part(row).root
        return None if root is None else listed_path(root, self.index.path(row))

    def is_missing(self, row: int) -> bool:
        """Whether the image was a file that no longer exists."""
        file = self.file(row)
        return file is not None and not file.is_file()

    def read(self, row: int) -> NDArray[Any] | None:
        """The image, (H, W, C); None if it cannot be read."""
        file, path = self.file(row), self.index.path(row)
        if file is None:
            return self._from_array(self.index.part(row), path)
        try:
            return decode_file(file, path)
        except UserError:
            return None

    def _from_array(self, part: Part, path: str) -> NDArray[Any] | None:
        source = self._source(part)
        if source is None or source.array is None or path not in source.names:
            return None
        image_HWC: NDArray[Any] = source.array[source.names.index(path)]
        return image_HWC

    def _source(self, part: Part) -> Source | None:
        """The source of a part's images; None without images, or if it no longer exists."""
        if part.data not in self._sources:
            try:
                self._sources[part.data] = find_images(part.data) if part.data else None
            except UserError:
                self._sources[part.data] = None
        return self._sources[part.data]
