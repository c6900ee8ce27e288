"""Scores of videos: computed, stored, measured and reported."""
