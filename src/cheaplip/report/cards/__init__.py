"""The cards of a page: what one trained model shows, its steepest pair of inputs and its errors.

Each card is made from the ``report.json`` of a configuration's first run, and says what is missing where it cannot be
made. Start with :mod:`~cheaplip.report.cards.witness`. Imports the table and the plots.
"""
