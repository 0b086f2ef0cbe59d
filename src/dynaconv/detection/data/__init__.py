"""Data in COCO's format: annotations and what is wrong with them, images with their objects, and batches."""
