"""Layers with the numerics of PyTorch, in the form that is fast on each device."""
