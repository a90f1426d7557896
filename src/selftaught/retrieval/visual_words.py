"""A bag of visual words: images as documents, local descriptors as words, and text retrieval.

Sivic and Zisserman, "Video Google", ICCV 2003, and the baseline of Philbin, Chum, Isard, Sivic,
Zisserman, "Object retrieval with large vocabularies and fast spatial matching", CVPR 2007. Cluster
descriptors by k-means; a word is the nearest centroid. In image i word w counts

    t_iw = n_iw / n_i  log(n / n_w),    n_iw of the image's n_i words; n_w of the n images have it

and the score of two images is the cosine of their t. An inverted file has, for each word, the
images where it occurs, and a query looks at those of its own words only.

What differs: the paper finds nearest centroids with randomised k-d trees, approximately, in k-means
and in assignment, which takes it to a million words. Here both are exact, at N K D products an
iteration: right for 10,000 words or so.

Shapes:  n images; N descriptors, of which n_i of image i; D their size; K words; W words of a
         query.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from selftaught.clustering.kmeans import kmeans
from selftaught.errors import DataError
from selftaught.foundation.rng import Key, permutation
from selftaught.pairwise.neighbours import Prepared, top_k
from selftaught.retrieval.local_features import F64, Features, Local
from selftaught.retrieval.transforms import Rows

F32 = NDArray[np.float32]
Images = Sequence[Local] | Features

_SAMPLE = 256  # descriptors a word from which the vocabulary is made


class Words:
    """An inverted file of images under a vocabulary.

    Args:
        centroids_KD: The vocabulary.
        images: What is searched, by local features.

    Attributes:
        centroids_KD: As given.
        idf_K: log(n / n_w); 0 for a word that no image has.
        file_nK: t of each image, scaled to length 1: a sparse array that lies word by word.
    """

    def __init__(self, centroids_KD: F32, images: Images) -> None:
        from scipy.sparse import csc_array

        self.centroids_KD = centroids_KD
        half_K1 = np.square(centroids_KD.astype(np.float64)).sum(1, keepdims=True) / 2
        self._prepared = Prepared(np.hstack([centroids_KD, -half_K1]), "dot")
        counted = [self.count(image) for image in images]
        shape = (len(counted), len(centroids_KD))
        word_E = np.concatenate([word for word, _ in counted])
        image_E = np.repeat(np.arange(len(counted)), [len(word) for word, _ in counted])
        n_K = np.bincount(word_E, minlength=shape[1])
        self.idf_K: F64 = np.where(n_K > 0, np.log(shape[0] / np.maximum(n_K, 1)), 0)
        t_E = np.concatenate([self._weighted(*one) for one in counted])
        self.file_nK = csc_array((t_E, (image_E, word_E)), shape=shape)

    @classmethod
    def fit(cls, images: Images, k: int, *, seed: int = 0, iterations: int = 20) -> "Words":
        """Make a vocabulary of the images' own descriptors, and the inverted file.

        Args:
            images: What is searched; it is gone through twice.
            k: Words.
            seed: Keys the choice of descriptors and the start of k-means.
            iterations: Of k-means.

        Raises:
            DataError: No image has a keypoint.
            UserError: There are fewer descriptors than words.
        """
        share = -(-_SAMPLE * k // max(1, len(images)))
        samples = list(_samples(images, share, seed))
        if not any(map(len, samples)):
            raise DataError("no image has a keypoint", "take larger or sharper images")
        clustering = kmeans(np.concatenate(samples), k, seed=seed, iterations=iterations)
        return cls(clustering.centroids_KD.numpy(), images)

    def assign(self, descriptors_ND: F32) -> Rows:
        """The nearest centroid of each descriptor, (N,): the largest x.c - |c|^2 / 2."""
        x1_NP = np.pad(descriptors_ND, ((0, 0), (0, 1)), constant_values=1)
        return top_k(x1_NP, self._prepared, 1, metric="dot")[1][:, 0]

    def count(self, image: Local) -> tuple[Rows, Rows]:
        """Which words an image has, (W,) rising, and how often, (W,)."""
        word_W, number_W = np.unique(self.assign(image.descriptors_ND), return_counts=True)
        return word_W, number_W

    def rank(self, query: Local) -> F64:
        """The score of each image for a query, (n,): 1 for its own t, 0 with no word in common."""
        word_W, number_W = self.count(query)
        scores_n: F64 = self.file_nK[:, word_W] @ self._weighted(word_W, number_W)
        return scores_n

    def _weighted(self, word_W: Rows, number_W: Rows) -> F64:
        """t of an image's words, of length 1; n_i, which all share, is left out."""
        t_W = number_W * self.idf_K[word_W]
        length = np.linalg.norm(t_W)
        return t_W / length if length > 0 else t_W


def _samples(images: Images, share: int, seed: int) -> Iterator[F32]:
    """At most so many descriptors of each image, drawn at random."""
    for i, image in enumerate(images):
        drawn = permutation(Key(seed, "search/words", view=i), len(image))[:share]
        yield image.descriptors_ND[np.sort(drawn)]
