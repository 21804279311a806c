"""Pages of runs, or of scenarios, side by side."""
