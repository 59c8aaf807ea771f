"""The folder of a run (files, lock, checkpoints, weights), and how its figures are named and written.

Start with ``folder.py``, which lists the files. Every file is written completely or not at all, so that a crash leaves
none half-written. ``words.py`` and ``numbers.py`` name the figures and write their values, for the command line and the
report. Nothing here depends on how a run is trained.

May import the core alone.
"""
