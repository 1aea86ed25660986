"""The principal components are scikit-learn's, with signs of their own, for numbers of
every kind.
"""

import numpy as np
import pytest
import sklearn.decomposition

from common.pca import do_pca, project


def assert_close(ours, expected, tolerance=1e-9):
    np.testing.assert_allclose(ours, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("count", "dimensions"), [(2, 1), (20, 3), (5, 40), (9000, 4)])
def test_components_are_those_of_scikit_learn_with_the_largest_entry_positive(
    count, dimensions
):
    rng = np.random.default_rng(count)
    mixing = rng.normal(size=(dimensions, dimensions))
    vectors = rng.normal(size=(count, dimensions)) @ mixing + 50  # correlated
    pca = do_pca(vectors)
    theirs = sklearn.decomposition.PCA(svd_solver="full").fit(vectors)
    rank = min(count - 1, dimensions)
    components = theirs.components_[:rank]
    signs = np.sign(components.max(axis=1) + components.min(axis=1))
    points = signs * theirs.transform(vectors)[:, :rank]
    columns = pca.eigenvectors
    assert_close(pca.mean, theirs.mean_)
    assert_close(columns[:, :rank], signs * components.T)
    assert_close(columns.T @ columns, np.eye(dimensions))
    assert_close(pca.eigenvalues[:rank], theirs.explained_variance_[:rank])
    assert_close(pca.eigenvalues[rank:], 0)
    assert pca.eigenvalues.min() >= 0
    shares = theirs.explained_variance_ratio_[:rank]
    assert_close(pca.variance_shares[:rank], shares)
    assert_close(project(vectors, pca, rank), points)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_numbers_of_every_kind_give_the_same_to_six_digits(dtype):
    vectors = np.random.default_rng(0).integers(0, [16, 64, 256], (20_000, 3))
    pca = do_pca(vectors.astype(dtype))
    exact = do_pca(vectors.astype(np.float64))
    assert_close(pca.eigenvalues, exact.eigenvalues, 1e-6)
    assert_close(pca.mean, exact.mean)
    assert pca.eigenvectors.dtype == np.float64
    points = project(vectors.astype(dtype), pca)
    assert points.dtype == (dtype if dtype == np.float32 else np.float64)
    assert_close(points, project(vectors, exact), 1e-3)


def test_vectors_that_are_all_the_same_have_no_variance_and_no_shares():
    pca = do_pca(np.full((4, 3), 7.0))
    assert not pca.eigenvalues.any()
    assert not pca.variance_shares.any()


@pytest.mark.parametrize(
    "vectors",
    [[1, 2], [[1, 2]], [[1, np.nan], [0, 1]], [[np.inf], [0]], [["a"], ["b"]]],
)
def test_what_has_no_components_is_refused(vectors):
    with pytest.raises(ValueError, match="expected"):
        do_pca(np.array(vectors))
