"""Weights of masked autoencoders: packaged, official, from the Hugging Face hub."""
