"""The principal components are scikit-learn's, ordered, orthonormal and of a definite sign."""

import numpy as np
import pytest
import sklearn.decomposition

from common.pca import PCA, do_pca, project

EXACT = {"rtol": 1e-9, "atol": 1e-12}


def data(count, dimensions, seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(dimensions, dimensions))
    return (rng.normal(size=(count, dimensions)) @ mixing + rng.normal(size=dimensions)).astype(dtype)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("count", "dimensions"), [(2, 1), (20, 3), (5, 8), (400, 6)])
def test_pca_agrees_with_scikit_learn(count, dimensions, seed):
    vectors = data(count, dimensions, seed)
    pca = do_pca(vectors)
    theirs = sklearn.decomposition.PCA(svd_solver="full").fit(vectors)
    rank = min(count - 1, dimensions)
    np.testing.assert_allclose(pca.mean, theirs.mean_, **EXACT)
    np.testing.assert_allclose(pca.eigenvalues[:rank], theirs.explained_variance_[:rank], **EXACT)
    np.testing.assert_allclose(pca.eigenvalues[rank:] / pca.eigenvalues[0], 0, **EXACT)
    np.testing.assert_allclose(pca.variance_shares[:rank], theirs.explained_variance_ratio_[:rank], **EXACT)
    cosines = np.abs((pca.eigenvectors.T[:rank] * theirs.components_[:rank]).sum(axis=1))
    np.testing.assert_allclose(cosines, 1, **EXACT)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_eigenvectors_are_orthonormal_sorted_and_signed(dtype):
    pca = do_pca(data(50, 7, 1, dtype))
    assert {array.dtype for array in pca} == {np.dtype(np.float64)}
    np.testing.assert_allclose(pca.eigenvectors.T @ pca.eigenvectors, np.eye(7), **EXACT)
    assert (np.diff(pca.eigenvalues) <= 0).all()
    assert (pca.eigenvectors[np.abs(pca.eigenvectors).argmax(axis=0), np.arange(7)] > 0).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_mean_a_thousand_times_the_spread_costs_no_precision(dtype):
    vectors = (data(9000, 60, 2) + 1e4).astype(dtype)
    exact = np.linalg.eigvalsh(np.cov(vectors.astype(np.float64).T))[::-1]
    np.testing.assert_allclose(do_pca(vectors).eigenvalues, exact, atol=1e-6 * exact[0])


def test_no_variance_is_below_zero():
    assert (do_pca(data(5, 40, 6)).eigenvalues >= 0).all()


def test_vectors_that_are_all_the_same_have_no_variance_and_no_shares():
    pca = do_pca(np.full((4, 3), 7.0))
    assert not pca.eigenvalues.any()
    assert pca.variance_shares.tolist() == [0, 0, 0]


def test_projection_takes_dot_products_with_the_first_components_after_centring():
    turned = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]])  # column k is component k
    pca = PCA(turned, np.array([3.0, 2, 1]), mean=np.array([1.0, 1, 1]))
    np.testing.assert_allclose(project(np.array([[2, 1, 5]]), pca), [[0.6, -0.8]], **EXACT)


def test_projection_has_the_variances_of_the_components():
    vectors = data(500, 6, 3)
    pca = do_pca(vectors)
    points = project(vectors, pca, n=4)
    assert points.shape == (500, 4)
    np.testing.assert_allclose(points.mean(axis=0), 0, **EXACT)
    np.testing.assert_allclose(
        np.cov(points.T) / pca.eigenvalues[0], np.diag(pca.eigenvalues[:4] / pca.eigenvalues[0]), **EXACT
    )


def test_all_components_together_restore_the_vectors():
    vectors = data(30, 5, 4)
    pca = do_pca(vectors)
    np.testing.assert_allclose(project(vectors, pca, n=5) @ pca.eigenvectors.T + pca.mean, vectors, **EXACT)


def test_single_precision_is_projected_in_single_precision():
    vectors = data(30, 5, 4, np.float32)
    points = project(vectors, do_pca(vectors))
    assert points.dtype == np.float32
    np.testing.assert_allclose(points, project(vectors.astype(np.float64), do_pca(vectors)), rtol=1e-5, atol=1e-5)


UNUSABLE = {
    "one vector": (np.zeros(3), "expected real vectors"),
    "one row": (np.zeros((1, 3)), "expected at least two vectors"),
    "no rows": (np.zeros((0, 3)), "expected real vectors"),
    "NaN": (np.array([[1.0, np.nan], [0, 1]]), "expected finite vectors"),
    "infinity": (np.full((2, 2), np.inf), "expected finite vectors"),
}


@pytest.mark.parametrize(("vectors", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_unusable_vectors_are_refused(vectors, message):
    with pytest.raises(ValueError, match=message):
        do_pca(vectors)


@pytest.mark.parametrize(("dimensions", "n"), [(3, 2), (4, 0), (4, 5)])
def test_projection_refuses_other_dimensions(dimensions, n):
    with pytest.raises(ValueError, match="expected"):
        project(np.zeros((2, dimensions)), do_pca(data(9, 4, 5)), n)
