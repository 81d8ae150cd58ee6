"""``wds:``: WebDataset shards, read in place."""
