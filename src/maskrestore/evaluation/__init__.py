"""Measure defenses: metrics with intervals, reproducible runs, records and the tables made of them."""
