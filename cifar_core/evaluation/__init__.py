"""What a trained network gets right, how sure it is, how fast it answers."""
