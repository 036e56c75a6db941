"""Masked autoencoders: two architectures, their weights, their training, and the restorer that wraps them."""
