"""Sweeps over CIFAR-10 training recipes: search spaces, the coordinator, workers, tracking and the store."""
