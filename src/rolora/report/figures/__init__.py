"""The figures of a run report, one file a section of the page."""

from rolora.report.figures.clients import clients
from rolora.report.figures.labels import labels
from rolora.report.figures.learning import learning
from rolora.report.figures.svg import THEME
from rolora.report.figures.traffic import traffic
from rolora.report.figures.updates import updates

__all__ = ["THEME", "clients", "labels", "learning", "traffic", "updates"]
