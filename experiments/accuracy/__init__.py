"""Trainings on CIFAR-10 that compare recipes, lengths of runs, and searches; accuracies are kept in JSON files."""
