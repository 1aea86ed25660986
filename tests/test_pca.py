"""The principal components are scikit-learn's, with signs of their own, in single
precision and far from zero too.
"""

import numpy as np
import pytest
import sklearn.decomposition

from common.pca import do_pca, project

EXACT = {"rtol": 1e-9, "atol": 1e-12}


def data(count, dimensions, seed=0):
    """Correlated vectors whose mean drifts from the first to the last."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(count, dimensions)) @ rng.normal(
        size=(dimensions, dimensions)
    )
    return mixed + np.linspace(0, 3, count)[:, None]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("count", "dimensions"), [(2, 1), (20, 3), (5, 8), (5, 40), (400, 6), (20_000, 4)]
)
def test_components_and_projection_are_those_of_scikit_learn_with_the_largest_entry_positive(
    count, dimensions, seed
):
    vectors = data(count, dimensions, seed)
    pca, theirs = (
        do_pca(vectors),
        sklearn.decomposition.PCA(svd_solver="full").fit(vectors),
    )
    rank = min(count - 1, dimensions)
    components = theirs.components_[:rank]
    signs = np.sign([component[np.abs(component).argmax()] for component in components])
    np.testing.assert_allclose(pca.mean, theirs.mean_, **EXACT)
    np.testing.assert_allclose(
        pca.eigenvectors[:, :rank].T, signs[:, None] * components, atol=1e-9
    )
    np.testing.assert_allclose(
        pca.eigenvectors.T @ pca.eigenvectors, np.eye(dimensions), **EXACT
    )
    np.testing.assert_allclose(
        pca.eigenvalues[:rank], theirs.explained_variance_[:rank], **EXACT
    )
    assert (pca.eigenvalues >= 0).all()
    np.testing.assert_allclose(pca.eigenvalues[rank:] / pca.eigenvalues[0], 0, **EXACT)
    np.testing.assert_allclose(
        pca.variance_shares[:rank], theirs.explained_variance_ratio_[:rank], **EXACT
    )
    np.testing.assert_allclose(
        project(vectors, pca, rank),
        signs * theirs.transform(vectors)[:, :rank],
        atol=1e-8,
    )


@pytest.mark.parametrize("offset", [0, 1e4, 1e7])
@pytest.mark.parametrize("count", [50, 20_000])
def test_single_precision_far_from_zero_is_as_good_as_double_precision(count, offset):
    vectors = (data(count, 6) + offset).astype(np.float32)
    pca, exact = do_pca(vectors), do_pca(vectors.astype(np.float64))
    assert {array.dtype for array in pca} == {np.dtype(np.float64)}
    for ours, expected in zip(pca, exact, strict=True):
        np.testing.assert_allclose(
            ours, expected, rtol=1e-6, atol=1e-6 * exact.eigenvalues[0]
        )
    points = project(vectors, pca)
    assert (points.dtype, points.shape) == (np.float32, (count, 2))
    np.testing.assert_allclose(
        points, project(vectors.astype(np.float64), exact), atol=1e-4
    )


def test_integers_are_taken_as_numbers():
    vectors = data(9, 4).astype(np.int8)
    for ours, expected in zip(
        do_pca(vectors), do_pca(vectors.astype(float)), strict=True
    ):
        assert np.array_equal(ours, expected)


def test_vectors_that_are_all_the_same_have_no_variance_and_no_shares():
    pca = do_pca(np.full((4, 3), 7.0))
    assert [*pca.eigenvalues, *pca.variance_shares] == [0] * 6


@pytest.mark.parametrize(
    "vectors", [np.zeros(3), np.zeros((1, 3)), np.array([[1, np.nan], [0, 1]])], ids=str
)
def test_one_vector_and_nan_are_refused(vectors):
    with pytest.raises(ValueError, match="expected"):
        do_pca(vectors)


@pytest.mark.parametrize(("dimensions", "n"), [(3, 2), (4, 0), (4, 5)])
def test_projection_refuses_other_dimensions(dimensions, n):
    with pytest.raises(ValueError, match="expected"):
        project(np.zeros((2, dimensions)), do_pca(data(9, 4)), n)
