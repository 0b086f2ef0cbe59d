"""Judging detectors: their outputs as COCO's results, COCO's scores of them, files and pictures."""
