"""The pages of the paper's experiments, made from the rows that ``cheaplip reproduce`` leaves.

:mod:`~cheaplip.report.paper.parts` says what a page is made of. The tables (``tables``, ``published``, ``verdict``)
share the template of a comparison; each other experiment has a file of its own. Imports the table, the plots, the
pictures of the cards and the headline.
"""
