"""Training of small image classifiers: recipes, data, models, the training loop, checkpoints and metrics."""

import os
from pathlib import Path

try:
    Path.home()
except RuntimeError:
    # A user whom the system does not know, as in some containers. Libraries fail without a home folder when they are
    # imported; container engines set this one.
    os.environ["HOME"] = "/"

if "OMP_WAIT_POLICY" not in os.environ:
    # How often a thread of torch's OpenMP looks for work before it sleeps; the default is 300,000 times. Two trainings
    # that shared the cores took two to seven times as long with it. OpenMP reads this when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
