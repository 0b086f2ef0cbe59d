"""Deployment: a network as a file that other runtimes read, checked in those runtimes."""
