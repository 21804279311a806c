"""Sweeps over training recipes: search spaces, the coordinator, workers, tracking and the store."""

import os

# MLflow reads these while it is imported, by whichever module comes first.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # a repeated call makes a second run
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")  # seconds; the default blocks for minutes
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # it would write over the view of a sweep
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
# The model registry is that of the store or of --tracking-uri; with this, clients take another.
os.environ.pop("MLFLOW_REGISTRY_URI", None)
# A setting of servers, with which MLflow refuses stores that have no server.
os.environ.pop("MLFLOW_ENABLE_WORKSPACES", None)
