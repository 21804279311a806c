"""What recipes and searches are worth: trainings on the real data whose accuracies are collected in files."""
