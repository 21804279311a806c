"""CIFAR-10 training and nothing else: recipes, data, models, the training loop, checkpoints and metrics."""
