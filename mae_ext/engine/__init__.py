"""One engine for every modality and every task: steps, checkpoints, ranks, logs."""
