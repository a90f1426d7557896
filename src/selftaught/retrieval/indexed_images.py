"""Pictures of an index's images, where these can still be read.

Shapes:  H, W, C of an image as it lies on disk.
"""

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from selftaught.data.check_images import found_as
from selftaught.data.decode import decode_file
from selftaught.data.sources import Source, find_images
from selftaught.errors import UserError
from selftaught.retrieval.vector_index import Part, VectorIndex


class Pictures:
    """Reads images by their rows in the index.

    Args:
        index: The index.
    """

    def __init__(self, index: VectorIndex) -> None:
        self.index = index
        self._sources: dict[str, Source | None] = {}

    def file(self, row: int) -> Path | None:
        """The image's file; None where it was none."""
        root = self.index.part(row).root
        return None if root is None else found_as(root, self.index.path(row))

    def gone(self, row: int) -> bool:
        """Whether the image was a file that is not there any more."""
        file = self.file(row)
        return file is not None and not file.is_file()

    def read(self, row: int) -> NDArray[Any] | None:
        """The image, (H, W, C); None where it cannot be read."""
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
        """The images that were added with it; None where there are none, or no longer."""
        if part.data not in self._sources:
            try:
                self._sources[part.data] = find_images(part.data) if part.data else None
            except UserError:
                self._sources[part.data] = None
        return self._sources[part.data]
