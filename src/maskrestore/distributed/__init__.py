"""Work on a cluster of machines, with Ray, and what it costs."""
