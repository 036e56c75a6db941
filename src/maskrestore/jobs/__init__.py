"""Streams of files: reading, batching, records, resuming."""
