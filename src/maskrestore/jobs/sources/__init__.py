"""Sources of named images: pictures in folders, parquet files and tar shards, on the local disk or behind a URL."""

from maskrestore.jobs.sources.image_source import Found, ImageReader, ImageSource, Place

__all__ = ["Found", "ImageReader", "ImageSource", "Place"]
