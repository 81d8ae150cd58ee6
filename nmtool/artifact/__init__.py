"""The on-disk format: keys, staging, commit, reading, verification. Knows nothing of torch, models or images."""
