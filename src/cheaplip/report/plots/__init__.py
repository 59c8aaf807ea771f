"""The plots of a page, as plain data that plotly.js draws in the browser.

Start with :mod:`~cheaplip.report.plots.figure`, which says what a plot is. Imports the table; never plotly itself.
"""
