"""Shapley values: the axioms, brute force over all orders, closed form and estimates."""

import itertools

import numpy as np
import pytest

from trn_jax.explanation import shapley


def brute_force(values, num_players):
    """The mean gain over all orders of arrival, by the definition."""
    found = np.zeros((num_players, *values.shape[1:]))
    orders = np.array(list(itertools.permutations(range(num_players))))
    before = np.zeros(len(orders), np.int64)
    for position in range(num_players):
        after = before | 1 << orders[:, position]
        np.add.at(found, orders[:, position], values[after] - values[before])
        before = after
    return found / len(orders)


def value_of(table):
    def values(subsets):
        return table[subsets @ (1 << np.arange(subsets.shape[1]))]

    return values


@pytest.mark.smoke
@pytest.mark.parametrize("num_players", [1, 4, 8])
def test_exact_values_are_those_of_all_orders(rng, num_players):
    table = rng.normal(size=(2**num_players, 3))
    found = shapley.exact(table)
    np.testing.assert_allclose(found, brute_force(table, num_players), atol=1e-12)
    np.testing.assert_allclose(found.sum(axis=0), table[-1] - table[0], atol=1e-12)


def test_players_that_the_game_does_not_tell_apart_have_equal_values(rng):
    by_size = rng.normal(size=9)
    table = by_size[shapley.subsets(8).sum(axis=1)]
    found = shapley.exact(table)
    np.testing.assert_allclose(found, np.full(8, (by_size[8] - by_size[0]) / 8), atol=1e-12)


def test_a_player_that_adds_nothing_has_no_value(rng):
    subsets = shapley.subsets(5)
    table = rng.normal(size=32)[(subsets & (np.arange(5) != 2)) @ (1 << np.arange(5))]
    assert abs(shapley.exact(table)[2]) < 1e-12


def test_closed_form_of_means(rng):
    for num_players in (1, 2, 5):
        contributions = rng.normal(size=(num_players, 2))
        subsets = shapley.subsets(num_players)
        table = subsets @ contributions / np.maximum(subsets.sum(axis=1), 1)[:, None]
        found = shapley.of_means(contributions)
        np.testing.assert_allclose(found, brute_force(table, num_players), atol=1e-12)


def test_estimates_sum_up_and_lie_within_their_errors(rng):
    table = rng.normal(size=2**8)
    expected = shapley.exact(table)
    found, errors = shapley.sampled(value_of(table), 8, 400, rng)
    np.testing.assert_allclose(found.sum(), table[-1] - table[0], atol=1e-12)
    assert (abs(found - expected) < 5 * errors).all() and (errors < 0.2).all() and errors.min() > 0


def test_estimates_of_a_sum_are_exact(rng):
    contributions = rng.normal(size=6)
    found, errors = shapley.sampled(lambda subsets: subsets @ contributions, 6, 4, rng)
    np.testing.assert_allclose(found, contributions, atol=1e-12)
    np.testing.assert_allclose(errors, 0, atol=1e-12)


def test_estimates_ask_for_every_subset_once(rng):
    asked = []

    def value(subsets):
        asked.append(subsets)
        return subsets.sum(axis=1)

    shapley.sampled(value, 3, 100, rng)
    assert len(asked) == 1 and len(np.unique(asked[0], axis=0)) == len(asked[0]) <= 8


def test_sums_over_subsets(rng):
    values = rng.normal(size=(16, 2))
    contained = [[j for j in range(16) if j & i == j] for i in range(16)]
    expected = np.stack([values[each].sum(axis=0) for each in contained])
    np.testing.assert_allclose(shapley.sums_over_subsets(values), expected, atol=1e-12)


def test_relations_among_the_frames_of_a_subset(rng):
    scores = {2: rng.normal(size=(6, 1)), 3: rng.normal(size=(4, 1)), 4: rng.normal(size=(1, 1))}
    nothing = {scale: rng.normal(size=1) for scale in scores}
    values = shapley.of_relations(scores, nothing, 4)
    for subset, value in zip(shapley.subsets(4), values, strict=True):
        frames = set(np.flatnonzero(subset))
        expected = 0.0
        for scale, each in scores.items():
            tuples = itertools.combinations(range(4), scale)
            inside = [s for s, t in zip(each, tuples, strict=True) if frames.issuperset(t)]
            expected = expected + (np.mean(inside) if inside else nothing[scale])
        np.testing.assert_allclose(value, expected, atol=1e-12)
