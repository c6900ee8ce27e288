"""Probing: trains a head on features of a frozen backbone, which are computed once."""
