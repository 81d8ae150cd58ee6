"""Stage ``extract``: samples through an encoder, or ready-made features as they are, into a feature store."""
