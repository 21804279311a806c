"""Loaders: studies and runs from MLflow, result files, published figures, scenarios."""

import sweeps  # noqa: F401  its settings of MLflow hold here too, and must come before MLflow's import
