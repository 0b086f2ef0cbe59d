"""A saved network as one page: what it is, costs, gets right, attends to. Figures are gathered, then rendered."""

from dynaconv.training.report.write import report

__all__ = ["report"]
