"""Signatures of modules: made, read and judged."""
