"""Training: configuration, the step of each model kind, and the loop."""
