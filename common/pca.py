"""Principal component analysis by hand (sheet, 2.3 and 2.4)."""

from typing import NamedTuple

import numpy as np

BLOCK_ROWS = (
    8192  # a centred copy of all vectors at once takes longer to store than to multiply
)


class PCA(NamedTuple):
    """Principal components of vectors in D dimensions, as `do_pca` returns them; all
    arrays are float64.

    `eigenvectors` [D, D]: column k is the k-th component, largest eigenvalue first; the
    entry of largest magnitude in each column is positive. `eigenvalues` [D]: the
    variance along each. `mean` [D].
    """

    eigenvectors: np.ndarray
    eigenvalues: np.ndarray
    mean: np.ndarray

    @property
    def variance_shares(self) -> np.ndarray:
        """Each component's share of the total variance [D], from 0 to 1; all zero when
        all vectors are the same.
        """
        return self.eigenvalues / (self.eigenvalues.sum() or 1)


def do_pca(vectors: np.ndarray) -> PCA:
    """Return the PCA of `vectors` [N, D], covariance by 1/(N-1); raise ValueError for N
    < 2, NaN or infinity.
    """
    vectors = as_matrix(vectors)
    count, dimensions = vectors.shape
    if count < 2:
        raise ValueError(
            f"expected at least two vectors [N, D], got shape {vectors.shape}"
        )
    total, products = np.zeros(dimensions), np.zeros((dimensions, dimensions))
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # what is not finite is refused below
        # A guess of the mean, in the precision of the vectors; its error is small and
        # is corrected below.
        guess = (
            vectors[:BLOCK_ROWS].mean(axis=0, dtype=np.float64).astype(vectors.dtype)
        )
        for block in np.array_split(vectors, -(-count // BLOCK_ROWS)):
            centred = block - guess
            total += np.ones(len(block), vectors.dtype) @ centred
            products += centred.T @ centred
        offset = total / count
        covariance = (products - count * np.outer(offset, offset)) / (count - 1)
    if not np.isfinite(covariance).all():
        raise ValueError(
            f"expected finite vectors of moderate size, got shape {vectors.shape} with NaN or infinity"
        )
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)  # in ascending order
    eigenvalues, eigenvectors = (
        eigenvalues[::-1].clip(min=0),
        eigenvectors[:, ::-1],
    )  # below 0 is a rounding error
    largest = eigenvectors[np.abs(eigenvectors).argmax(axis=0), np.arange(dimensions)]
    return PCA(eigenvectors * np.sign(largest), eigenvalues, guess + offset)


def project(vectors: np.ndarray, pca: PCA, n: int = 2) -> np.ndarray:
    """Centre `vectors` [N, D] and return their coordinates [N, n] on the first n
    components, by the dot product.
    """
    vectors = as_matrix(vectors)
    dimensions = len(pca.mean)
    if vectors.shape[1] != dimensions or not 1 <= n <= dimensions:
        raise ValueError(
            f"expected vectors [N, {dimensions}] and 1 ≤ n ≤ {dimensions}, got {vectors.shape} and n={n}"
        )
    components = pca.eigenvectors[:, :n].astype(vectors.dtype)
    guess = pca.mean.astype(vectors.dtype)
    return (vectors - guess) @ components - (
        (pca.mean - guess) @ pca.eigenvectors[:, :n]
    ).astype(vectors.dtype)


def as_matrix(vectors: np.ndarray) -> np.ndarray:
    """Return vectors as a float array, float32 or else float64; raise ValueError unless
    they are real and [N, D].
    """
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or vectors.size == 0 or vectors.dtype.kind not in "biuf":
        raise ValueError(
            f"expected real vectors [N, D], got {vectors.dtype} of shape {vectors.shape}"
        )
    return (
        vectors
        if vectors.dtype == np.float32
        else vectors.astype(np.float64, copy=False)
    )
