"""A folder of JSON results in, one self-contained HTML page out; no model is ever loaded here."""

from cheaplip.report.page import write_report
from cheaplip.report.read import ReportError

__all__ = ["ReportError", "write_report"]
