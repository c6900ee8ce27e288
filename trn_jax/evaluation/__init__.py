"""Evaluation: scores of videos, metrics, files and reports."""
