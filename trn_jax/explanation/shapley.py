"""Shapley values (Shapley, "A Value for n-Person Games", 1953) of the players of any game.

A game gives a value v(S) to every subset S of n players. The value of a player is the mean of
v(S with the player) - v(S) over all orders in which the players can arrive. The values sum to
v(all) - v(none), and players that the game doesn't tell apart have equal values.
"""

import itertools
import math

import numpy as np


def subsets(num_players):
    """All subsets, bool `[2**players, players]`; player i is in subset number m if bit i is set."""
    numbers = np.arange(1 << num_players)
    return (numbers[:, None] >> np.arange(num_players)) & 1 == 1


def exact(values):
    """The values of all players, from those of all subsets.

    Args:
        values: v, `[2**players, ...]`, in the order of `subsets`.

    Returns:
        float64 `[players, ...]`.
    """
    values = np.asarray(values, np.float64)
    num_players = len(values).bit_length() - 1
    numbers = np.arange(len(values))
    sizes = np.bitwise_count(numbers)
    # The share of all orders in which the players of a subset come first, then this one.
    shares = np.array([1 / (n * math.comb(num_players, n)) for n in range(1, num_players + 1)])
    found = []
    for player in range(num_players):
        without = numbers[numbers >> player & 1 == 0]
        gained = values[without | 1 << player] - values[without]
        found.append(np.tensordot(shares[sizes[without]], gained, axes=1))
    return np.stack(found)


def sampled(value_of, num_players, num_orders, rng):
    """Estimate the values from random orders, each followed by its reverse.

    The players that come late in an order come early in its reverse, so that the errors of the two
    partly cancel (antithetic sampling). The estimates sum to v(all) - v(none) exactly.

    Args:
        value_of: v, a function of distinct subsets, bool `[subsets, players]`, whose result is
            `[subsets, ...]`.
        num_players: number of players.
        num_orders: number of orders, even, at least 4.
        rng: NumPy generator.

    Returns:
        The values, float64 `[players, ...]`, and their standard errors.
    """
    forward = np.stack([rng.permutation(num_players) for _ in range(num_orders // 2)])
    orders = np.stack([forward, forward[:, ::-1]], axis=1).reshape(-1, num_players)
    # [orders, players + 1, players]: who is there before each arrival, and at the end.
    arrivals = np.argsort(orders, axis=1)
    there = arrivals[:, None] < np.arange(num_players + 1)[:, None]
    distinct, places = np.unique(there.reshape(-1, num_players), axis=0, return_inverse=True)
    values = np.asarray(value_of(distinct), np.float64)
    rest = values.shape[1:]
    steps = np.diff(values[places.reshape(len(orders), -1)], axis=1)  # [orders, players, ...]
    gained = np.take_along_axis(steps, arrivals.reshape(*arrivals.shape, *[1] * len(rest)), axis=1)
    pairs = gained.reshape(-1, 2, num_players, *rest).mean(axis=1)
    return pairs.mean(axis=0), pairs.std(axis=0, ddof=1) / math.sqrt(len(pairs))


def of_means(contributions):
    """The values of the game v(S) = mean of the contributions of S, v(none) = 0.

    A player who comes first gains its contribution a; one who comes after k others moves their mean
    m to (a + k m) / (k + 1), and gains (a - m) / (k + 1), where m has the mean of all others. The
    mean over k = 0, ..., n - 1 is (a + (h - 1) (a - others)) / n, with h = 1 + 1/2 + ... + 1/n.

    Args:
        contributions: a, `[players, ...]`.

    Returns:
        float64 `[players, ...]`.
    """
    contributions = np.asarray(contributions, np.float64)
    num_players = len(contributions)
    if num_players == 1:
        return contributions
    others = (contributions.sum(axis=0) - contributions) / (num_players - 1)
    harmonic = sum(1 / k for k in range(1, num_players + 1))
    return (contributions + (harmonic - 1) * (contributions - others)) / num_players


def sums_over_subsets(values):
    """For every subset, the sum of `values` over the subsets of it.

    Args:
        values: `[2**players, ...]`, in the order of `subsets`.

    Returns:
        float64, of the same shape. It takes `players * 2**players` additions (Yates, 1937).
    """
    sums = np.array(values, np.float64)
    num_players = len(sums).bit_length() - 1
    for player in range(num_players):
        halves = sums.reshape(-1, 2, 1 << player, *sums.shape[1:])
        halves[:, 1] += halves[:, 0]
    return sums


def of_relations(scores, no_relation, num_players):
    """The game of relations: v(S) = sum over the scales of the mean score of the relations in S.

    A scale that is larger than S has no relation in it, and counts as `no_relation`.

    Args:
        scores: `{scale: [relations, ...]}`, the relations of a scale in lexicographic order.
        no_relation: `{scale: [...]}`.
        num_players: number of frames.

    Returns:
        v, float64 `[2**players, ...]`, in the order of `subsets`.
    """
    sizes = np.bitwise_count(np.arange(1 << num_players))
    total = 0.0
    for scale, found in scores.items():
        tuples = itertools.combinations(range(num_players), scale)
        numbers = [sum(1 << player for player in each) for each in tuples]
        table = np.zeros((1 << num_players, *np.shape(found)[1:]))
        table[numbers] = found
        sums = sums_over_subsets(table)
        counts = np.array([max(math.comb(n, scale), 1) for n in range(num_players + 1)])[sizes]
        counts, sizes_ = (each.reshape(-1, *[1] * (sums.ndim - 1)) for each in (counts, sizes))
        total = total + np.where(sizes_ < scale, no_relation[scale], sums / counts)
    return total
