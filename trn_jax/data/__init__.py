"""From videos on disk to batches of clips. Nothing here imports jax or flax."""
