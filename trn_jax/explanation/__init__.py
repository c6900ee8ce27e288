"""Explains predictions: values of frames, the effect of their order, and activation maps."""
