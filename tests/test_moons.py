"""The two moons, and the limit that no classifier of them gets below."""

import numpy as np
import pytest
from scipy.stats import norm

from common.data import bayes_loss, half_circles, moon_densities, moons, random_moons


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


def test_a_density_is_the_mean_over_the_half_circle_of_a_normal_distribution():
    across, up = np.array([-0.9, 0.4, 1.9]), np.array([-0.3, 0.8])
    for density, arc in zip(
        moon_densities(across, up, 0.2),
        half_circles(np.linspace(0, np.pi, 20_001)),
        strict=True,
    ):
        parts = norm(arc[:, :1, None], 0.2).pdf(across[:, None]) * norm(
            arc[:, 1:, None], 0.2
        ).pdf(up)
        np.testing.assert_allclose(density, parts.mean(axis=0), rtol=1e-3)


@pytest.mark.parametrize("noise", [0.15, 0.3, 1.0])
def test_the_bayes_loss_is_that_of_bayes_theorem_on_points_of_a_moon_with_noise(noise):
    nodes, weights = np.polynomial.hermite_e.hermegauss(
        12
    )  # of a standard normal distribution
    angle = (np.arange(200) + 0.5) * np.pi / 200
    upper = np.stack(
        [np.cos(angle), np.sin(angle)], axis=1
    )  # by symmetry the other moon has the same limit
    x = upper[:, None, None] + noise * np.stack(
        np.meshgrid(nodes, nodes), axis=-1
    )  # [200, 12, 12, 2]
    squares = [
        ((x[..., None, :] - moon) ** 2).sum(axis=-1)
        for moon in (upper, [1, 0.5] - upper)
    ]
    densities = [np.exp(-square / (2 * noise**2)).sum(axis=-1) for square in squares]
    right = densities[0] / sum(densities)
    share = np.outer(weights, weights) / (2 * np.pi * len(angle))
    assert bayes_loss(noise) == pytest.approx(-(share * np.log(right)).sum(), rel=2e-3)


@pytest.mark.parametrize(("noise", "loss"), [(0.02, 0), (200, np.log(2))])
def test_the_bayes_loss_reaches_from_certainty_to_a_guess(noise, loss):
    assert bayes_loss(noise) == pytest.approx(loss, abs=1e-3)
