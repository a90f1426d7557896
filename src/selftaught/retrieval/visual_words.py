"""A bag of visual words: images as documents, local descriptors as words, and text retrieval.

Sivic and Zisserman, "Video Google", ICCV 2003, and the baseline of Philbin, Chum, Isard, Sivic,
Zisserman, "Object retrieval with large vocabularies and fast spatial matching", CVPR 2007. Cluster
descriptors by k-means; a word is the nearest centroid. The weight of word w in image i is

    t_iw = n_iw / n_i  log(n / n_w),    n_iw of the image's n_i words; n_w of the n images have it

and the score of two images is the cosine of their t. An inverted file lists, for each word, the
images that contain it, and a query reads the lists of its own words only.

Deviation: the paper finds nearest centroids approximately, with randomised k-d trees, in k-means
and in assignment, which scales to a million words. Here both are exact, at N K D products per
iteration, which suits about 10,000 words.

Shapes:  n images; N descriptors, of which n_i of image i; D dimensions; K words; W words of a
         query.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from selftaught.clustering.kmeans import kmeans
from selftaught.errors import DataError
from selftaught.foundation.rng import Key, permutation
from selftaught.pairwise.neighbours import PreparedVectors, top_k
from selftaught.retrieval.local_features import F64, Features, Local
from selftaught.retrieval.transforms import Rows

F32 = NDArray[np.float32]
Images = Sequence[Local] | Features

_SAMPLE = 256  # descriptors per word that the vocabulary is built from


class Words:
    """An inverted file of images under a vocabulary.

    Args:
        centroids_KD: The vocabulary.
        images: Local features of the images to search.

    Attributes:
        centroids_KD: The vocabulary.
        idf_K: log(n / n_w); 0 for a word without images.
        file_nK: t of each image, scaled to length 1: a sparse array, stored word by word.
    """

    def __init__(self, centroids_KD: F32, images: Images) -> None:
        from scipy.sparse import csc_array

        self.centroids_KD = centroids_KD
        half_K1 = np.square(centroids_KD.astype(np.float64)).sum(1, keepdims=True) / 2
        self._prepared = PreparedVectors(np.hstack([centroids_KD, -half_K1]), "dot")
        counts = [self.count(image) for image in images]
        shape = (len(counts), len(centroids_KD))
        word_E = np.concatenate([word for word, _ in counts])
        image_E = np.repeat(np.arange(len(counts)), [len(word) for word, _ in counts])
        n_K = np.bincount(word_E, minlength=shape[1])
        self.idf_K: F64 = np.where(n_K > 0, np.log(shape[0] / np.maximum(n_K, 1)), 0)
        t_E = np.concatenate([self._weights(*one) for one in counts])
        self.file_nK = csc_array((t_E, (image_E, word_E)), shape=shape)

    @classmethod
    def fit(cls, images: Images, k: int, *, seed: int = 0, iterations: int = 20) -> "Words":
        """Build a vocabulary from the images' own descriptors, and the inverted file.

        Args:
            images: Local features of the images to search; read twice.
            k: Number of words.
            seed: Seed of the choice of descriptors and of k-means.
            iterations: Iterations of k-means.

        Raises:
            DataError: No image has a keypoint.
            UserError: There are fewer descriptors than words.
        """
        share = -(-_SAMPLE * k // max(1, len(images)))
        samples = list(_samples(images, share, seed))
        if not any(map(len, samples)):
            raise DataError("no image has a keypoint", "use larger or sharper images")
        clustering = kmeans(np.concatenate(samples), k, seed=seed, iterations=iterations)
        return cls(clustering.centroids_KD.numpy(), images)

    def assign(self, descriptors_ND: F32) -> Rows:
        """The nearest centroid of each descriptor, (N,): the largest x.c - |c|^2 / 2."""
        x1_NP = np.pad(descriptors_ND, ((0, 0), (0, 1)), constant_values=1)
        return top_k(x1_NP, self._prepared, 1, metric="dot")[1][:, 0]

    def count(self, image: Local) -> tuple[Rows, Rows]:
        """The words of an image, (W,) increasing, and their counts, (W,)."""
        word_W, number_W = np.unique(self.assign(image.descriptors_ND), return_counts=True)
        return word_W, number_W

    def rank(self, query: Local) -> F64:
        """The score of each image for a query, (n,): 1 for its own t, 0 with no word in common."""
        word_W, number_W = self.count(query)
        scores_n: F64 = self.file_nK[:, word_W] @ self._weights(word_W, number_W)
        return scores_n

    def _weights(self, word_W: Rows, number_W: Rows) -> F64:
        """t of an image's words, of length 1; the common factor n_i is left out."""
        t_W = number_W * self.idf_K[word_W]
        length = np.linalg.norm(t_W)
        return t_W / length if length > 0 else t_W


def _samples(images: Images, share: int, seed: int) -> Iterator[F32]:
    """At most `share` random descriptors of each image."""
    for i, image in enumerate(images):
        drawn = permutation(Key(seed, "search/words", view=i), len(image))[:share]
        yield image.descriptors_ND[np.sort(drawn)]
