"""Checkpoints: saving, finding and loading them, and their integrity."""
