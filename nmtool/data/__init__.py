"""Where samples come from: data URIs, their splits and rows, and the safe decoding of images."""
