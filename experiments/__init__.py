"""What was measured, set beside what was published: results, figures and the build-vs-buy report."""
