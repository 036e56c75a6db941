"""What the paper does not have, one file each; every one is an option with an ablation."""
