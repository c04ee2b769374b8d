"""Encoded images by row: folders, Parquet and tar shards."""
