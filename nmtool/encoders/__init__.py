"""Models that turn samples into features: resolved to a specification first (light), loaded only when they are run."""
