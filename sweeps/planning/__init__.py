"""The plan of a sweep: its compute, its search space, and an estimate of its time."""
