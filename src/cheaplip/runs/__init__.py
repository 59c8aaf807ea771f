"""The folder of a run: its files, its lock, its checkpoints, its weights.

Start with ``folder.py``, which lists the files. Every file is written completely or not at all, so that a crash leaves
none half-written. Nothing here depends on how a run is trained.

May import the core alone.
"""
