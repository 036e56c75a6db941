"""Faster forms of the networks' layers; the plain ones stay the reference."""
