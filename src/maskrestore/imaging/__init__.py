"""Image files, batches, resizing, patches and structural similarity."""
