"""Where training runs: one protocol, and the ways to carry it out."""
