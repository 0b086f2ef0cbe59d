"""What Lightning runs: modules, parameter groups, callbacks, strategies."""
