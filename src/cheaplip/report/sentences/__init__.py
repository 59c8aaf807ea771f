"""The result of a study in plain words, made from its figures alone.

Start with :mod:`~cheaplip.report.sentences.headline`. It chooses what to speak about, with
:mod:`~cheaplip.report.sentences.choice`, and leaves the wording to one file for each task. Imports the table and the
study, no plots.
"""
