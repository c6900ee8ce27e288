"""Multi-head self-attention."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from trn_jax.nn.layers import storage_dtype


def self_attention(qkv, num_heads):
    """Multi-head self-attention, before the output projection.

    Args:
        qkv: queries, keys and values side by side, `[..., tokens, 3 * channels]`.
        num_heads: number of heads.

    Returns:
        The values, weighted, `[..., tokens, channels]`.
    """
    heads = jnp.moveaxis(qkv.reshape(*qkv.shape[:-1], 3 * num_heads, -1), -2, -3)
    parts = lax.split(heads, 3 * (num_heads,), axis=heads.ndim - 3)
    mixed = jnp.moveaxis(attention(*parts), -3, -2)
    return mixed.reshape(*qkv.shape[:-1], -1)


def attention(query, key, value, biases=()):
    """Attention of each head; softmax in float32.

    Args:
        query: `[..., heads, tokens, channels of a head]`.
        key: of the same shape.
        value: of the same shape.
        biases: added to the scores one after the other, of a shape that broadcasts to
            `[..., heads, query tokens, key tokens]`.

    Returns:
        The values, weighted, of the same shape.
    """
    query = query * query.shape[-1] ** -0.5
    scores = _scores(query, key, storage_dtype(query.dtype))
    for bias in biases:
        scores = scores + bias
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("...qk,...kc->...qc", weights, value)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _scores(query, key, dtype):
    """Products of queries and keys in `dtype`, with gradients in the dtype of the queries.

    JAX would widen queries and keys for them.
    """
    return jnp.einsum("...qc,...kc->...qk", query, key, preferred_element_type=dtype)


def _scores_forward(query, key, dtype):
    return _scores(query, key, dtype), (query, key)


def _scores_backward(_dtype, saved, gradient):
    query, key = saved
    gradient = gradient.astype(query.dtype)
    of_query = jnp.einsum("...qk,...kc->...qc", gradient, key)
    return of_query, jnp.einsum("...qk,...qc->...kc", gradient, query)


_scores.defvjp(_scores_forward, _scores_backward)
