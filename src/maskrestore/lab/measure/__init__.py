"""Measure one cell of a table: run the defense, compute metrics and costs, write the record."""
