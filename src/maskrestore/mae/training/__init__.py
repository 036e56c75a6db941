"""Pre-training of masked autoencoders."""
