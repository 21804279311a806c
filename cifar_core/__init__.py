"""Training of small image classifiers: recipes, data, models, the training loop, checkpoints and metrics."""

import os
from pathlib import Path

try:
    Path.home()
except RuntimeError:
    # A user whom the system does not know, as in some containers. Libraries fail without a home folder when they are
    # imported; container engines set this one.
    os.environ["HOME"] = "/"
