"""Loaders: studies and runs from MLflow, result files, published figures, scenarios."""

import os

import sweeps  # noqa: F401  its settings of MLflow hold here too, and must come before MLflow's import

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
