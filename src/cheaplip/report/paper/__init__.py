"""Pages of the paper's experiments, as ``cheaplip reproduce`` leaves their rows."""
