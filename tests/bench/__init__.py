"""Speed beside a plain implementation, measured in the same run: ``python -m tests.bench``.

It prints rates, ratios and shares of a limit, and judges none of them: no thresholds, nothing fails for being slow.
pytest collects nothing here.
"""
