"""Pictures of what a defense saw, suspected and removed: an HTML report and a PNG panel.

Nothing here asks a classifier or computes a result: everything is read from a ``Purification``.
"""

from maskrestore.reporting.entries import Evidence, ReportEntry, entries_from
from maskrestore.reporting.figure import write_figure
from maskrestore.reporting.html import Metric, ReportSummary, write_report
from maskrestore.reporting.names import printable, read_class_names

__all__ = [
    "Evidence",
    "Metric",
    "ReportEntry",
    "ReportSummary",
    "entries_from",
    "printable",
    "read_class_names",
    "write_figure",
    "write_report",
]
