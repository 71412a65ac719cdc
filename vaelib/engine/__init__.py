"""What the course stands on: a training run, checkpoints, shards, workers, atomic files, finite numbers, memory."""
