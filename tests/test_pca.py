"""The principal components are scikit-learn's, ordered, orthonormal and of a definite sign."""

import numpy as np
import pytest
import sklearn.decomposition

from common.pca import BLOCK_ROWS, do_pca, project


def data(count, dimensions, seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(dimensions, dimensions))
    return (rng.normal(size=(count, dimensions)) @ mixing + rng.normal(size=dimensions)).astype(dtype)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("count", "dimensions"), [(2, 1), (20, 3), (5, 8), (BLOCK_ROWS + 3, 6)])
def test_pca_agrees_with_scikit_learn(count, dimensions, seed):
    vectors = data(count, dimensions, seed)
    pca = do_pca(vectors)
    theirs = sklearn.decomposition.PCA(svd_solver="full").fit(vectors)
    rank = min(count - 1, dimensions)
    np.testing.assert_allclose(pca.mean, theirs.mean_, atol=1e-12)
    np.testing.assert_allclose(pca.eigenvalues[:rank], theirs.explained_variance_[:rank], rtol=1e-9)
    np.testing.assert_allclose(pca.eigenvalues[rank:], 0, atol=1e-12 * pca.eigenvalues[0])
    cosines = np.abs((pca.eigenvectors.T[:rank] * theirs.components_[:rank]).sum(axis=1))
    np.testing.assert_allclose(cosines, 1, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_eigenvectors_are_orthonormal_sorted_and_signed(dtype):
    pca = do_pca(data(50, 7, 1, dtype))
    np.testing.assert_allclose(pca.eigenvectors.T @ pca.eigenvectors, np.eye(7), atol=1e-12)
    assert (np.diff(pca.eigenvalues) <= 0).all()
    assert (pca.eigenvectors[np.abs(pca.eigenvectors).argmax(axis=0), np.arange(7)] > 0).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_mean_a_thousand_times_the_spread_costs_no_precision(dtype):
    vectors = (data(9000, 60, 2) + 1e4).astype(dtype)
    exact = np.linalg.eigvalsh(np.cov(vectors.astype(np.longdouble).astype(np.float64).T))[::-1]
    np.testing.assert_allclose(do_pca(vectors).eigenvalues, exact, atol=1e-6 * exact[0])


def test_projection_has_the_variances_of_the_components():
    vectors = data(500, 6, 3)
    pca = do_pca(vectors)
    points = project(vectors, pca, n=4)
    assert points.shape == (500, 4)
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(np.cov(points.T), np.diag(pca.eigenvalues[:4]), atol=1e-12 * pca.eigenvalues[0])


def test_all_components_together_restore_the_vectors():
    vectors = data(30, 5, 4)
    pca = do_pca(vectors)
    np.testing.assert_allclose(project(vectors, pca, n=5) @ pca.eigenvectors.T + pca.mean, vectors, atol=1e-12)


@pytest.mark.parametrize(
    "vectors",
    [np.zeros(3), np.zeros((1, 3)), np.zeros((0, 3)), np.array([[1.0, np.nan], [0, 1]]), np.full((2, 2), np.inf)],
)
def test_unusable_vectors_are_refused(vectors):
    with pytest.raises(ValueError, match="expected"):
        do_pca(vectors)


@pytest.mark.parametrize(("dimensions", "n"), [(3, 2), (4, 0), (4, 5)])
def test_projection_refuses_other_dimensions(dimensions, n):
    with pytest.raises(ValueError, match="expected"):
        project(np.zeros((2, dimensions)), do_pca(data(9, 4, 5)), n)
