"""Detectors of torchvision's on any backbone with stages: levels, pyramid, weights, counts."""
