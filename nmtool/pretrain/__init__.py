"""Stage ``pretrain``: train an architecture from scratch on clean or noisy labels, into a ``backbone`` artifact."""
