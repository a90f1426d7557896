"""Pictures of an index's images, where these can still be read.

Shapes:  H, W, C of an image as it lies on disk.
"""

from typing import Any

from numpy.typing import NDArray

from selftaught.data.decode import decode_file
from selftaught.data.images import Source, find
from selftaught.errors import UserError
from selftaught.search.index import Index, Part


class Pictures:
    """Reads images by their rows in the index.

    Args:
        index: The index.
    """

    def __init__(self, index: Index) -> None:
        self.index = index
        self._sources: dict[str, Source | None] = {}

    def gone(self, row: int) -> bool:
        """Whether the image was a file that is not there any more."""
        root = self.index.part(row).root
        return root is not None and not (root / self.index.path(row)).is_file()

    def read(self, row: int) -> NDArray[Any] | None:
        """The image, (H, W, C); None where it cannot be read."""
        part, path = self.index.part(row), self.index.path(row)
        try:
            if part.root is not None:
                return decode_file(part.root / path, path)
        except UserError:
            return None
        return self._from_array(part, path)

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
                self._sources[part.data] = find(part.data) if part.data else None
            except UserError:
                self._sources[part.data] = None
        return self._sources[part.data]
