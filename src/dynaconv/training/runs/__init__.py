"""A run and its folder: fitting, stopping, resuming, saving, figures."""
