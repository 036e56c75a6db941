"""Masked autoencoders: two architectures, their weights and training, and the restorer that wraps them."""
