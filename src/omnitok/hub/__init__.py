"""Models as files: names, folders, released checkpoints, weights of feature networks."""
