"""Models for other programs, and for other people."""
