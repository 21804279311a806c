"""The Optuna study of a sweep: its storage, samplers and pruners."""
