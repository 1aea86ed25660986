"""The two moons."""

import numpy as np
import pytest

from common.data import moons, random_moons


def test_moons_without_noise_lie_on_half_circles():
    x, y = random_moons(20_001, 0, np.random.default_rng(1))
    assert np.bincount(y).tolist() == [10_001, 10_000]
    for moon, side in ((x[y == 0], 1), (x[y == 1] - [1, 0.5], -1)):
        np.testing.assert_allclose(np.linalg.norm(moon, axis=1), 1, rtol=1e-12)
        angles = np.arctan2(side * moon[:, 1], moon[:, 0])
        quarters = np.histogram(angles, 4, (0, np.pi))[0] / len(moon)
        np.testing.assert_allclose(
            quarters, 0.25, atol=0.02
        )  # four standard deviations and more


def test_both_splits_are_scaled_by_the_train_split():
    data, exact = moons(101, 5000, 0.08), moons(20_000, 300, noise=0)
    np.testing.assert_allclose(
        [data.x_train.min(axis=0), data.x_train.max(axis=0)],
        [[-1, -1], [1, 1]],
        rtol=1e-12,
    )
    for x, y in (
        exact[:2],
        exact[2:],
    ):  # back from [-1, 1] to where a moon has radius one
        distances = np.linalg.norm(
            (x + 1) / 2 * [3, 1.5] + [-1, -0.5] - np.outer(y, [1, 0.5]), axis=1
        )
        np.testing.assert_allclose(distances, 1, atol=1e-5)


def standardized(x):
    return (x - x.mean(axis=0)) / x.std(axis=0)


def test_the_splits_of_the_moons_come_from_streams_of_their_own():
    data, longer, wider = (
        moons(300, 300, seed=1),
        moons(400, 300, seed=1),
        moons(300, 400, seed=1),
    )
    assert np.abs(standardized(data.x_train) - standardized(data.x_test)).max() > 1
    np.testing.assert_allclose(
        standardized(longer.x_test), standardized(data.x_test), rtol=1e-9
    )
    assert np.array_equal(wider.x_train, data.x_train)
    assert not np.isin(moons(300, 300, seed=2).x_train, data.x_train).all(axis=1).any()


@pytest.mark.parametrize(
    "arguments", [(1, 5), (5, 1), (5, 5, -0.1), (5, 5, np.nan), (5, 5, np.inf)], ids=str
)
def test_moons_that_cannot_be_made_are_refused(arguments):
    with pytest.raises(ValueError, match="expected at least two points"):
        moons(*arguments)
