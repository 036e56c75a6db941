"""BDMAE, stage by stage: scores, refinement, restoration, and the class that composes them."""
