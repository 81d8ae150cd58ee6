"""``python -m nmtool``: the same command line as the console script."""

from nmtool.cli import main

if __name__ == "__main__":
    main()
