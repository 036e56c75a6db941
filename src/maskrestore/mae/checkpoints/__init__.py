"""Load and save weights of masked autoencoders: packaged, official, or from the Hugging Face hub."""
