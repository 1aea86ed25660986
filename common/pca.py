"""Principal component analysis by hand (sheet, 2.3 and 2.4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

BLOCK_ROWS = 8192  # large enough for the matrix product to run at full speed, small enough to copy


class PCA(NamedTuple):
    """Principal components of N vectors in D dimensions, as `do_pca` returns them.

    `eigenvectors` [D, D]: column k is the k-th component, largest eigenvalue first; the entry of largest magnitude in
    each column is positive. `eigenvalues` [D]: the variance along each. `mean` [D]. All are float64.
    """

    eigenvectors: np.ndarray
    eigenvalues: np.ndarray
    mean: np.ndarray

    @property
    def variance_shares(self) -> np.ndarray:
        """Each component's share of the total variance [D]; zero throughout when all vectors are the same."""
        total = self.eigenvalues.sum()
        return self.eigenvalues / total if total > 0 else np.zeros_like(self.eigenvalues)


def do_pca(vectors: np.ndarray) -> PCA:
    """Return the eigenvectors and eigenvalues of the covariance matrix with 1/(N-1) of `vectors` [N, D].

    The vectors are centred block by block, so that no copy of them all is made and no precision is lost to a large
    mean, and the blocks' products are added up in float64. What they are centred on, the mean of the first block, is
    then made up for: Σ (x - μ)(x - μ)ᵀ = Σ (x - s)(x - s)ᵀ - N (μ - s)(μ - s)ᵀ for any s.

    Raises ValueError unless N ≥ 2 and all entries are finite.
    """
    vectors = _as_matrix(vectors)
    count, dimensions = vectors.shape
    if count < 2:
        raise ValueError(f"expected at least two vectors [N, D], got shape {vectors.shape}")
    scatter, total = np.zeros((dimensions, dimensions)), np.zeros(dimensions)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused below
        shift = vectors[:BLOCK_ROWS].mean(axis=0)
        for block in _shifted_blocks(vectors, shift):
            scatter += block.T @ block
            total += np.ones(len(block), block.dtype) @ block
    if not np.isfinite(scatter).all():
        raise ValueError(f"expected finite vectors of moderate size, got shape {vectors.shape} with NaN or infinity")

    offset = total / count
    scatter -= count * np.outer(offset, offset)
    eigenvalues, eigenvectors = np.linalg.eigh(scatter / (count - 1))  # ascending
    eigenvalues = eigenvalues[::-1].clip(min=0)  # a covariance has none below zero: what is there is rounding
    eigenvectors = eigenvectors[:, ::-1]
    largest = np.abs(eigenvectors).argmax(axis=0)
    signs = np.sign(eigenvectors[largest, np.arange(dimensions)])
    return PCA(eigenvectors * signs, eigenvalues, shift + offset)


def project(vectors: np.ndarray, pca: PCA, n: int = 2) -> np.ndarray:
    """Return the coordinates [N, n] of centred `vectors` [N, D] along the first n components, by the dot product."""
    vectors = _as_matrix(vectors)
    dimensions = len(pca.mean)
    if vectors.shape[1] != dimensions or not 1 <= n <= dimensions:
        raise ValueError(f"expected vectors [N, {dimensions}] and 1 ≤ n ≤ {dimensions}, got {vectors.shape} and n={n}")
    components = pca.eigenvectors[:, :n]
    return np.concatenate([block @ components for block in _shifted_blocks(vectors, pca.mean)])


def _as_matrix(vectors: np.ndarray) -> np.ndarray:
    """Return a 2-D float array; what is not float32 becomes float64."""
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or vectors.size == 0 or vectors.dtype.kind not in "biuf":
        raise ValueError(f"expected real vectors [N, D], got {vectors.dtype} of shape {vectors.shape}")
    return vectors if vectors.dtype == np.float32 else vectors.astype(np.float64, copy=False)


def _shifted_blocks(vectors: np.ndarray, shift: np.ndarray) -> Iterator[np.ndarray]:
    """Yield `vectors` - `shift` block by block, each in the memory of the one before: new memory would cost more."""
    shift = shift.astype(vectors.dtype)
    memory = np.empty((min(BLOCK_ROWS, len(vectors)), len(shift)), vectors.dtype)
    for start in range(0, len(vectors), BLOCK_ROWS):
        block = vectors[start : start + BLOCK_ROWS]
        yield np.subtract(block, shift, out=memory[: len(block)])
