"""nmtool: Noisy Model Learning from the command line.

Importing this package imports nothing heavy: torch, timm, zarr and scikit-learn are loaded by the code that needs them,
when it runs.
"""

__version__ = "0.1.0"
