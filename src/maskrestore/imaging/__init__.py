"""Pixels: files, batches, sizes, patches and structural similarity."""
