"""Stage ``inject-noise``: labels (or captions) made wrong on purpose, exactly, and on record.

Never touches the data.
"""
