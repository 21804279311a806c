"""Loaders: studies and runs from MLflow, result files, published figures, scenarios."""
