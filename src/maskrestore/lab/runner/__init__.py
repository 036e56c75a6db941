"""What is to do and who does it."""
