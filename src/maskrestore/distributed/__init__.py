"""Work on a cluster of machines, with Ray."""
