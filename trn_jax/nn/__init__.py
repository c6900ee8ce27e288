"""Layers with PyTorch's numerics, in the form that is fast on each device."""
