"""What the networks learn from: images and noise."""
