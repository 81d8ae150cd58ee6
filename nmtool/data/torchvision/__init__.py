"""``torchvision:``: torchvision's datasets, with its own row order, decoded by nmtool."""
