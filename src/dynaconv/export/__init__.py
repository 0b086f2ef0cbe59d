"""Deployment: a network as a file that other runtimes read, checked in those runtimes."""

from dynaconv.export.export import export
from dynaconv.export.report import ExportReport
from dynaconv.export.settings import ExportSettings

__all__ = ["ExportReport", "ExportSettings", "export"]
