"""Memory bandwidth of a device."""

import time

import jax
import jax.numpy as jnp

NUM_BYTES = {"cpu": 1 << 28}  # much larger than the caches
_ON_ACCELERATORS = 1 << 30
_CALLS, _TRIES = 10, 5


def measure_bandwidth(device: jax.Device) -> float:
    """Bytes per second read and written by adding 1 to a large array; the best of five."""
    size = NUM_BYTES.get(device.platform, _ON_ACCELERATORS)
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = add(jax.device_put(jnp.zeros(size // 4, jnp.float32), device))
    seconds = []
    for _ in range(_TRIES):
        start = time.perf_counter()
        for _ in range(_CALLS):
            x = add(x)
        x.block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * size * _CALLS / min(seconds)
