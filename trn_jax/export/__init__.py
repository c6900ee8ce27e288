"""Models for other runtimes, without this package or JAX."""
