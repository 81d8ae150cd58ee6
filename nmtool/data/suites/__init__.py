"""The papers' datasets: what they are (facts with their sources), and how their official layouts are read."""
