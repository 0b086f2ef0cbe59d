"""Lightning's Trainer for a recipe: devices, strategy, precision."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynaconv.errors import DynaconvError
from dynaconv.training._lightning import (
    Callback,
    ModelParallelStrategy,
    SLURMEnvironment,
    Strategy,
    TensorBoardLogger,
    Trainer,
)
from dynaconv.training.config import FULLY_SHARDED, RunRecipe
from dynaconv.training.runs.sealed import SealedCheckpointIO
from dynaconv.training.schedule import accumulation


def make_trainer(
    recipe: RunRecipe, folder: Path, callbacks: Sequence[Callback], progress_bar: bool, first_step: int = 0
) -> Trainer:
    """A Trainer that does what ``recipe.run`` says.

    Args:
        recipe: of the run.
        folder: of the run; TensorBoard's logs go there.
        callbacks: in the order in which they act.
        progress_bar: show Lightning's.
        first_step: optimiser steps done before; TensorBoard forgets what a killed process logged after them.

    Raises:
        DynaconvError: if Lightning refuses what is asked for, or the devices can not make the recipe's global batch.
    """
    run = recipe.run
    plugins: list[Any] = [SealedCheckpointIO()]
    if SLURMEnvironment.detect():  # its requeueing would save elsewhere; `--auto-resume` does without
        plugins.append(SLURMEnvironment(auto_requeue=False))
    logger = TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False, purge_step=first_step)
    try:
        trainer = Trainer(
            max_epochs=recipe.schedule.epochs,
            accelerator=run.accelerator,
            devices=run.devices,
            num_nodes=run.num_nodes,
            strategy=_strategy(run.strategy),
            precision=run.precision,  # pyright: ignore[reportArgumentType]  (Lightning checks it)
            gradient_clip_val=recipe.optimizer.clip_norm,
            callbacks=list(callbacks),
            default_root_dir=folder,
            plugins=plugins,
            logger=logger,
            log_every_n_steps=1,
            num_sanity_val_steps=0,
            enable_checkpointing=True,
            enable_model_summary=False,
            enable_progress_bar=progress_bar,
            use_distributed_sampler=False,
        )
    except Exception as error:  # Lightning's MisconfigurationException is nothing more special
        hint = "" if run.accelerator in ("auto", "cpu") else "; run.accelerator=auto takes what there is"
        raise DynaconvError(
            f"Lightning's Trainer refuses run.accelerator={run.accelerator!r} with run.devices={run.devices!r}, "
            f"run.strategy={run.strategy!r} and run.precision={run.precision!r}: {error}{hint}"
        ) from error
    processes = trainer.num_devices * trainer.num_nodes
    trainer.accumulate_grad_batches = accumulation(
        recipe.optimizer, recipe.loader.batch_size, run.accumulate, processes
    )
    return trainer


def make_judge(accelerator: str, precision: str, progress_bar: bool, limit: int | float | None = None) -> Trainer:
    """A Trainer that judges a network on one device, and writes nothing.

    Args:
        accelerator: Lightning's.
        precision: Lightning's.
        progress_bar: show Lightning's.
        limit: validation batches to judge; all if None.

    Raises:
        DynaconvError: if Lightning refuses accelerator or precision.
    """
    try:
        return Trainer(
            accelerator=accelerator,
            precision=precision,  # pyright: ignore[reportArgumentType]  (Lightning checks it)
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=progress_bar,
            use_distributed_sampler=False,
            limit_val_batches=limit,
        )
    except Exception as error:  # Lightning's MisconfigurationException is nothing more special
        raise DynaconvError(
            f"Lightning's Trainer refuses accelerator={accelerator!r}, precision={precision!r}: {error}"
        ) from error


def _strategy(name: str) -> str | Strategy:
    """Lightning's strategy of that name; its own "fsdp" is FSDP1, which neither takes CPUs nor shares parameters."""
    return ModelParallelStrategy(save_distributed_checkpoint=False) if name == FULLY_SHARDED else name
