"""Stage ``report``: artifacts in, one self-contained page out, and the same tables for papers and for programs."""
