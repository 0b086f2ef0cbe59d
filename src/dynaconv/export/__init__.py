"""Deployment: a network as a file that other runtimes read, checked in those runtimes."""

from dynaconv.export.export import export
from dynaconv.export.report import ExportReport
from dynaconv.export.runtimes import Session, open_session
from dynaconv.export.settings import ExportSettings
from dynaconv.export.weights import StoredWeights, store_weights

__all__ = [
    "ExportReport",
    "ExportSettings",
    "Session",
    "StoredWeights",
    "export",
    "open_session",
    "store_weights",
]
