"""Prediction: videos, folders, lists and streams -> class scores with times."""
