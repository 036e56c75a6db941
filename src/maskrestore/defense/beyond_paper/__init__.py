"""Extensions that are not in the paper, one file each. Each can be switched off, and each has an ablation."""
