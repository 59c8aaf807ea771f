"""Data, models, training and evaluation behind the command line."""
