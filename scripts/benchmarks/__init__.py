"""What `scripts/benchmark.py` measures, one part after the other."""
