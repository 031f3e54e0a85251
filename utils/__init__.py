"""Parts around the network: augmentation, loading, schedule, checkpoints, logging, results and drawing."""
