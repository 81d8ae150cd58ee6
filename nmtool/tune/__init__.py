"""Tuning on noisy pre-trained features: linear probe, MLP, NMTune, and TURN.

Everything but TURN's second half works on features alone: all runs of one call train as stacks of heads over features
that are loaded once. It refuses to extract features, to choose settings by test labels, and to pick an epoch: the last
one counts, the best one is reported as the oracle it is.
"""
