"""The published systems: training them again, and the page that compares the results."""
