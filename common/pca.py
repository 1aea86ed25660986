"""Principal component analysis (sheet, 2.3 and 2.4)."""

from typing import NamedTuple

import numpy as np


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
    """Return the principal components of `vectors` [N, D], N ≥ 2.

    The sheet provides a `do_pca`; this is our own. It computes the eigenvectors of the
    covariance matrix, which has 1/(N-1). Raises ValueError as `as_matrix` does.
    """
    vectors = as_matrix(vectors, least=2)
    mean = vectors.mean(axis=0, dtype=np.float64)  # [D]
    centred = vectors - mean.astype(vectors.dtype)  # [N, D]
    covariance = centred.T @ centred / (len(vectors) - 1)  # [D, D]
    eigenvalues, eigenvectors = np.linalg.eigh(covariance.astype(np.float64))
    eigenvalues = eigenvalues[::-1].clip(min=0)  # largest first; below 0 is rounding
    eigenvectors = eigenvectors[:, ::-1]
    # An eigenvector is unique up to its sign: its largest entry shall be positive.
    rows = np.abs(eigenvectors).argmax(axis=0)
    signs = np.sign(eigenvectors[rows, np.arange(len(rows))])
    return PCA(eigenvectors * signs, eigenvalues, mean)


def project(vectors: np.ndarray, pca: PCA, n: int = 2) -> np.ndarray:
    """Centre `vectors` [N, D] and return their coordinates [N, n] on the first n
    components, by the dot product.
    """
    vectors = as_matrix(vectors)
    mean = pca.mean.astype(vectors.dtype)
    components = pca.eigenvectors[:, :n].astype(vectors.dtype)
    return (vectors - mean) @ components


def components_for_90(shares: np.ndarray) -> int:
    """Return how many of the first components, by their shares of the variance [D], it
    takes to hold 90 per cent of it.
    """
    return int((np.cumsum(shares)[:-1] < 0.9).sum()) + 1


def as_matrix(vectors: np.ndarray, least: int = 1) -> np.ndarray:
    """Return vectors [N, D] as floats: float32 stays, all others become float64.

    Raises ValueError unless they are real, finite and at least so many.
    """
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or len(vectors) < least or vectors.dtype.kind not in "biuf":
        expected = f"expected at least {least} real vectors [N, D]"
        raise ValueError(f"{expected}, got {vectors.dtype} of shape {vectors.shape}")
    if vectors.dtype != np.float32:
        vectors = vectors.astype(np.float64)
    if not np.isfinite(vectors).all():
        raise ValueError("expected finite vectors, got NaN or infinity")
    return vectors
