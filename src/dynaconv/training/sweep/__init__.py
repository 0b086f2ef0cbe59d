"""Sweeps: methods, values of any recipe's fields, and seeds, trained as a comparison's runs are."""
