"""Make one self-contained HTML page from a folder of JSON results.

The report never loads a model. It imports the standard library, jinja2 and plotly, and of the package only the names,
words and numbers of :mod:`cheaplip.runs`.

Start with :mod:`~cheaplip.report.write`, which finds the results in a folder. :mod:`~cheaplip.report.read` turns them
into a :class:`~cheaplip.report.study.Study`, :mod:`~cheaplip.report.table` into groups of runs and columns of figures,
and :mod:`~cheaplip.report.page` arranges these for the HTML templates with ``sentences/`` (the result in words),
``plots/`` and ``cards/`` (what one model shows: its steepest pair, its errors). ``paper/`` holds the pages of the
paper's experiments.
"""

from cheaplip.report.read import ReportError
from cheaplip.report.write import write_report

__all__ = ["ReportError", "write_report"]
