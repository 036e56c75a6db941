"""The same work on a cluster, by Ray."""
