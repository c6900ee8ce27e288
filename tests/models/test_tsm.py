"""The temporal shift against a loop over frames, and the head of TSM and TIN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from trn_jax.errors import UserError
from trn_jax.models import tsm
from trn_jax.models.tsm import TemporalShift, TSMHead


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def shifted(x, *, num_segments, shift_div=8, causal=False):
    """The shift, one channel of one frame after the other."""
    fold = x.shape[-1] // shift_div
    clips = x.reshape(-1, num_segments, *x.shape[1:])
    y = np.zeros_like(clips)
    for t in range(num_segments):
        for channel in range(x.shape[-1]):
            step = 0
            if channel < fold:
                step = -1 if causal else 1
            elif channel < 2 * fold and not causal:
                step = -1
            if 0 <= t + step < num_segments:
                y[:, t, ..., channel] = clips[:, t + step, ..., channel]
    return y.reshape(x.shape)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("channels", "num_segments", "shift_div"), [(16, 4, 8), (13, 3, 4), (6, 2, 2), (8, 1, 8)]
)
def test_shift_is_that_of_the_loop(channels, num_segments, shift_div, causal):
    options = dict(num_segments=num_segments, shift_div=shift_div, causal=causal)
    x = draw(2 * num_segments, 3, 2, channels)
    found = TemporalShift(channels, **options)(jnp.asarray(x))
    np.testing.assert_array_equal(found, shifted(x, **options))


@pytest.mark.parametrize("steps", [(1,), (-1, 1)])
def test_all_forms_of_the_shift_and_their_gradients_are_equal(steps):
    x, dy = (jnp.asarray(draw(2, 4, 3, 2, 13, seed=seed)) for seed in (0, 1))
    (y, back), *others = (
        jax.vjp(lambda x, form=form: form(x, steps=steps, width=3), x)
        for form in (tsm.shift, tsm.shift_by_slices, tsm.shift_by_selection)
    )
    for other_y, other_back in others:
        np.testing.assert_array_equal(y, other_y)
        np.testing.assert_array_equal(back(dy)[0], other_back(dy)[0])


def test_directions_and_zeros_at_the_ends():
    x = jnp.broadcast_to(jnp.array([1.0, 2, 3])[:, None, None, None], (3, 1, 1, 4))
    y = np.asarray(TemporalShift(4, num_segments=3, shift_div=4)(x))[:, 0, 0]
    np.testing.assert_array_equal(y.T, [[2, 3, 0], [0, 1, 2], [1, 2, 3], [1, 2, 3]])
    y = np.asarray(TemporalShift(4, num_segments=3, shift_div=4, causal=True)(x))[:, 0, 0]
    np.testing.assert_array_equal(y.T, [[0, 1, 2], [1, 2, 3], [1, 2, 3], [1, 2, 3]])


@pytest.mark.parametrize("shift_div", [2, 3, 4, 8])
def test_the_share_of_channels_that_stay(shift_div):
    x = draw(8, 1, 1, 24)
    for directions, causal in ((2, False), (1, True)):
        op = TemporalShift(24, num_segments=4, shift_div=shift_div, causal=causal)
        stay = (np.asarray(op(jnp.asarray(x))) == x).all((0, 1, 2))
        assert stay.mean() == pytest.approx(1 - directions / shift_div)


def test_features_may_move_inside_parts_of_a_clip():
    x = draw(2 * 6, 1, 1, 16)
    found = TemporalShift(16, num_segments=6, shift_segments=3)(jnp.asarray(x))
    np.testing.assert_array_equal(found, shifted(x, num_segments=3))
    assert (np.asarray(found) != shifted(x, num_segments=6)).any()


def test_causal_shift_never_looks_ahead():
    op = TemporalShift(8, num_segments=4, shift_div=2, causal=True)
    x = draw(4, 1, 1, 8)
    later = x.copy()
    later[2:] += 1
    found = op(jnp.asarray(x)), op(jnp.asarray(later))
    np.testing.assert_array_equal(found[0][:2], found[1][:2])


def test_the_shift_keeps_the_dtype_and_leaves_few_channels_alone():
    x = jnp.asarray(draw(4, 1, 1, 16), jnp.bfloat16)
    assert TemporalShift(16, num_segments=4)(x).dtype == jnp.bfloat16
    few = x[..., :7]
    assert TemporalShift(7, num_segments=4)(few) is few


def test_the_shift_copies_no_slices_into_place():
    op = TemporalShift(16, num_segments=4)
    program = jax.make_jaxpr(jax.grad(lambda x: (op(x) ** 2).sum()))(draw(4, 1, 1, 16))
    assert not any(word in str(program) for word in ("scatter", "gather", "dynamic_update"))


def test_shifts_that_cannot_work_are_explained():
    with pytest.raises(UserError, match=r"shift_div=1 must be at least 2"):
        TemporalShift(16, num_segments=4, shift_div=1)
    with pytest.raises(UserError, match=r"shift_segments=3 must divide num_segments=8"):
        TemporalShift(16, num_segments=8, shift_segments=3)
    with pytest.raises(UserError, match=r"6 frames.*num_segments=4"):
        TemporalShift(16, num_segments=4)(jnp.zeros((6, 1, 1, 16)))


# The head


def test_the_head_averages_the_scores_of_frames():
    head = nnx.eval_shape(lambda: TSMHead(6, 5, rngs=nnx.Rngs(0)))
    kernel, bias = draw(6, 5), draw(5, seed=1)
    head.fc.kernel.set_value(jnp.asarray(kernel))
    head.fc.bias.set_value(jnp.asarray(bias))
    for num_frames in (1, 3):
        x = draw(2, num_frames, 2, 2, 6)
        expected = (x.mean((2, 3)) @ kernel + bias).mean(1)
        np.testing.assert_allclose(head(jnp.asarray(x)), expected, rtol=1e-5, atol=1e-5)
    assert head.merge_views == "probabilities"


def test_the_head_drops_features_of_every_frame_by_itself():
    head = nnx.eval_shape(lambda: TSMHead(64, 64, rngs=nnx.Rngs(0)))
    head.fc.kernel.set_value(jnp.eye(64))
    head.fc.bias.set_value(jnp.zeros(64))

    @nnx.jit
    def run(head, x):
        return head(x, train=True, rngs=nnx.Rngs(dropout=0), clip_index=jnp.arange(4))

    # Each of two frames is kept or dropped: the mean of 0 or 2 times a feature of 1.
    kept = np.asarray(run(head, jnp.ones((4, 2, 1, 1, 64))))
    values, counts = np.unique(kept, return_counts=True)
    np.testing.assert_allclose(values, [0, 1, 2])
    np.testing.assert_allclose(counts / kept.size, [0.25, 0.5, 0.25], atol=0.08)
    assert (kept[0] != kept[1]).any()


def test_the_head_starts_out_undecided():
    head = TSMHead(64, 50, rngs=nnx.Rngs(0))
    assert float(head.fc.kernel[...].std()) == pytest.approx(1e-3, rel=0.1)
    assert not head.fc.bias[...].any()
