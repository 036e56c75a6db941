"""Faster forms of the networks' layers, for inference. The plain layers remain the reference."""
