"""Stage ``spectrum``: singular values of features, and the two numbers that the first paper reads off them."""
