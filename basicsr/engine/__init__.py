"""The loop: optimisers, EMA, checkpoints, validation, and the trainer that turns."""
