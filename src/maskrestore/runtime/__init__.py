"""What everything runs on: threads, devices, precision, the environment of a result."""
