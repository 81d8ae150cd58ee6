"""``hf:``: Hugging Face datasets, read from disk by pyarrow, and from the hub through ``datasets``."""
