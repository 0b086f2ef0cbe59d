"""Speed and memory of the presets, against the static network, the textbook's way, and what the machine could do.

Plain PyTorch loops, without Lightning. Networks come from timm (extra ``train``), pictures from matplotlib.
"""

from dynaconv.benchmark.bench import BenchResult, results_of, run_bench
from dynaconv.benchmark.settings import BenchSettings

__all__ = ["BenchResult", "BenchSettings", "results_of", "run_bench"]
