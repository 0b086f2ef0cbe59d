"""Lightning's names that training builds on, or an error that says which extra brings them."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from dynaconv.errors import require

require("lightning.pytorch", "train")

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment  # noqa: E402
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer  # noqa: E402
from lightning.pytorch.callbacks import Checkpoint, RichProgressBar  # noqa: E402
from lightning.pytorch.loggers import TensorBoardLogger  # noqa: E402
from lightning.pytorch.plugins import TorchCheckpointIO  # noqa: E402
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy  # noqa: E402
from lightning.pytorch.utilities import rank_zero_only  # noqa: E402
from lightning.pytorch.utilities.exceptions import SIGTERMException  # noqa: E402

__all__ = [
    "Callback",
    "Checkpoint",
    "LightningDataModule",
    "LightningModule",
    "ModelParallelStrategy",
    "RichProgressBar",
    "SIGTERMException",
    "SLURMEnvironment",
    "Strategy",
    "TensorBoardLogger",
    "TorchCheckpointIO",
    "Trainer",
    "quiet_lightning",
    "rank_zero_only",
]


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Leave out Lightning's advice on matters this package has decided."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*available but not used.*")
        warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")  # what stands still
        # Said of what every process judges by itself; what is judged together is summed over all.
        warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
        # Lightning 2.6 asks torch 2.14's trees in a way they call old.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        yield
