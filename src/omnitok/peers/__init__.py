"""Other projects' tokenizers behind the same protocol: one file per family."""
