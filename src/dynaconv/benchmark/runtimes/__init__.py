"""Exported files in their runtimes: a preset against its static network, in each."""
