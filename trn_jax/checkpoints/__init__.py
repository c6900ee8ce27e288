"""Checkpoints: written, found, read, and their integrity."""
