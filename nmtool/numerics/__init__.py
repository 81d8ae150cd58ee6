"""Pure functions on arrays and tensors: no paths, clocks, prints or global randomness.

Names carry shapes where it helps: N samples, B rows of a batch, D feature dimensions, C classes, K heads of a stack.
"""
