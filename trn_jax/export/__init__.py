"""Exports: ONNX and StableHLO files, web pages, and folders of the Hugging Face hub."""
