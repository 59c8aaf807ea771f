"""A run's folder: its files, each written whole or not at all, its lock, its checkpoints, its weights.

``folder.py`` is where to start reading. Imports the core alone; nothing here knows what training is.
"""
