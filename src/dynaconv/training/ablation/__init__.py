"""The KernelWarehouse paper's ablations: its variants trained again on any data, beside its own figures."""
