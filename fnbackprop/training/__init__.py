"""Training: one compiled step, the loop around it, its metrics, its progress line and its plot."""
