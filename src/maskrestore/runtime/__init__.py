"""Threads, devices, precision, hashing, files, and a description of the environment of a result."""
