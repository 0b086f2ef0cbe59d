"""What the commands share: parsers, short names for common flags, tables, and quiet logs."""

from __future__ import annotations

import logging
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from dynaconv.convert import config_types
from dynaconv.errors import DynaconvError, require
from dynaconv.planning.table import align

SECONDS_BETWEEN_LINES = 30
"""Where a progress bar has no terminal to be drawn on."""
SHORT = {
    "--epochs": "--schedule.epochs",
    "--batch-size": "--loader.batch_size",
    "--image-size": "--loader.image_size",
    "--workers": "--loader.workers",
    "--lr": "--optimizer.lr",
    "--seed": "--run.seed",
    "--precision": "--run.precision",
    "--devices": "--run.devices",
    "--accelerator": "--run.accelerator",
}
"""Short names for the flags most often given."""


def make_parser(
    command: str,
    description: str,
    examples: str,
    usage: str | None = None,
    short: Iterable[str] = (),
) -> Any:
    """A jsonargparse parser whose help ends with examples, and whose errors name the flag that was meant.

    Args:
        command: name of the command.
        description: what it does.
        examples: lines of the shell.
        usage: what follows the command; only "[options]" if None.
        short: short flags that the command expands before it parses.
    """
    jsonargparse = require("jsonargparse", "train")

    class Formatter(jsonargparse.DefaultHelpFormatter):
        """Leaves line breaks of description and examples alone."""

        def _fill_text(self, text: str, width: int, indent: str) -> str:
            return "".join(indent + line for line in text.splitlines(keepends=True))

    class Parser(jsonargparse.ArgumentParser):
        """Names the nearest flag for one that is not known."""

        def error(self, message: str, ex: Exception | None = None) -> None:
            super().error(message + nearest_flags(message, [*self._option_string_actions, *short]), ex)

    return Parser(
        prog=f"dynaconv {command}",
        usage=f"dynaconv {command} [options]" if usage is None else f"dynaconv {command} {usage}",
        description=description,
        epilog="examples:\n" + "".join(f"  {line}\n" for line in examples.strip().splitlines()),
        formatter_class=Formatter,
    )


def nearest_flags(message: str, known: Iterable[str]) -> str:
    """What to add to a parser's error: the flags that those it does not know come closest to.

    Args:
        message: of the parser.
        known: all flags.

    Example:
        >>> nearest_flags("unrecognized arguments: --epoch 3", ["--epochs", "--lr"])
        '; did you mean --epochs?'
    """
    in_file = re.search(r"Group '(.+)' does not accept option '(.+)'", message)
    in_file = in_file or re.search(r"Option '(.+)' is not accepted", message)
    if in_file is not None:
        given = ["--" + ".".join(in_file.groups())]
    elif message.startswith("unrecognized arguments:"):
        given = [word.partition("=")[0] for word in message.split() if word.startswith("--")]
    else:
        return ""
    close = [match for flag in given for match in get_close_matches(flag, known, n=1, cutoff=0.7)]
    return f"; did you mean {', '.join(dict.fromkeys(close))}?" if close else ""


def take_recipe(arguments: Sequence[str], flag: str = "--recipe") -> tuple[list[str], str | None]:
    """Take ``--recipe NAME`` out of the arguments.

    Returns:
        The other arguments, and the name; None where there is none.

    Raises:
        DynaconvError: if the flag is given twice, or without a name.
    """
    rest: list[str] = []
    names: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        head, equals, value = argument.partition("=")
        if head == flag:
            names.append(value if equals else next(waiting, ""))
        else:
            rest.append(argument)
    if len(names) > 1 or "" in names or any(name.startswith("--") for name in names):
        raise DynaconvError(
            f"{flag} {' '.join(names)}: expected it once, with a name of `dynaconv recipes` or a YAML file"
        )
    return rest, names[0] if names else None


def expand_short(arguments: Sequence[str], names: Mapping[str, str] = SHORT) -> list[str]:
    """Replace short flags (``--epochs 3``, ``--epochs=3``) by their full names."""
    expanded = []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        expanded.append(names.get(flag, flag) + equals + value)
    return expanded


def expand_method(arguments: Sequence[str]) -> list[str]:
    """Let ``--method odconv`` name a method, beside ``--method.num_kernels 4`` for its fields."""
    known, expanded = config_types(), list(arguments)
    for index, argument in enumerate(expanded):
        flag, equals, value = argument.partition("=")
        if flag != "--method":
            continue
        if not equals and index + 1 < len(expanded):
            value = expanded[index + 1]
        if value in known:
            expanded[index] = f"--method.method{equals}{value if equals else ''}"
        elif value.isidentifier() and value not in ("null", "None"):
            close = get_close_matches(value, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(sorted(known))}"
            raise DynaconvError(f"--method {value}: no such method; {hint}")
    return expanded


def short_help() -> str:
    """The short flags, for a help text."""
    return "short for common flags: " + ", ".join(f"{short} = {full}" for short, full in SHORT.items())


def method_help() -> str:
    """The fields of every method's config with their defaults, for the help of ``--method.*``."""
    texts = []
    for name, config in config_types().items():
        defaults = ((f.name, f.default_factory() if f.default is MISSING else f.default) for f in fields(config))  # type: ignore[misc]
        texts.append(f"{name}: " + ", ".join(f"{field}={_short(value)}" for field, value in defaults))
    return (
        "a method and fields of its config: --method odconv --method.num_kernels 4; KernelWarehouse if only fields are "
        "given. Fields and defaults of " + "; ".join(texts)
    )


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Align columns.

    Args:
        header: names of the columns.
        rows: cells as text.
        left: how many columns are aligned left; the others right.
    """
    lines = align([header, *rows], left)
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def quiet_logs() -> None:
    """Keep Lightning's notes on devices and paths off the terminal; warnings stay."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


SHARES = {
    "train_top1": "train",
    "val_top1": "val",
    "val_top5": "val top-5",
    "val_box_ap": "box AP",
    "val_mask_ap": "mask AP",
}
"""Figures of an epoch that are shares of 1, and what to call them."""


def epoch_line(epochs: int | None, prefix: str = "") -> Callable[[Mapping[str, Any]], None]:
    """A function that prints an epoch's figures in one line.

    Args:
        epochs: of the whole run; None leaves them out.
        prefix: text before.
    """

    def show(row: Mapping[str, Any]) -> None:
        parts = [f"{prefix}epoch {row['epoch']}{f'/{epochs}' if epochs else ''}"]
        for key, label in (("train_loss", "loss"), ("val_loss", "val loss")):
            if row.get(key) is not None:
                parts.append(f"{label} {row[key]:.3f}")
        for key, label in SHARES.items():
            if row.get(key) is not None:
                parts.append(f"{label} {row[key]:.2%}")
        if row.get("tau") is not None:
            parts.append(f"tau {row['tau']:.2f}")
        for key, label in (("unreadable", "unreadable"), ("val_unreadable", "val unreadable")):
            if row.get(key):
                parts.append(f"{label} {row[key]:.0f}")
        print("  ".join([*parts, f"{row['seconds']:.1f} s"]), flush=True)

    return show


def command_name() -> str:
    """How to call the command line from here: by its name where it is on the path, else as it was called just now."""
    called = Path(sys.argv[0])
    return str(called) if called.name == "dynaconv" and not shutil.which("dynaconv") else "dynaconv"


def on_terminal() -> bool:
    """Whether someone is watching, who would like a progress bar."""
    return sys.stdout.isatty()


@contextmanager
def counting(text: str, total: int | None) -> Iterator[Callable[[], None]]:
    """A progress bar on the terminal while the block runs; elsewhere a line every half minute.

    Args:
        text: what is counted.
        total: how many there are; None if it is not known.

    Yields:
        To be called after each.
    """
    if not on_terminal():
        yield _lines(text, total)
        return
    progress = require("rich.progress", "train")
    columns = (*progress.Progress.get_default_columns(), progress.MofNCompleteColumn())
    with progress.Progress(*columns, transient=True) as bar:
        task = bar.add_task(text, total=total)
        yield lambda: bar.advance(task)


def _lines(text: str, total: int | None) -> Callable[[], None]:
    """Counts, and says now and then how far it has come."""
    count, said = 0, time.monotonic()

    def advance() -> None:
        nonlocal count, said
        count += 1
        if (now := time.monotonic()) - said >= SECONDS_BETWEEN_LINES:
            said = now
            print(f"{text}: {count:,}{f' of {total:,}' if total else ''}", file=sys.stderr, flush=True)

    return advance


def duration(seconds: float) -> str:
    """A time that is left, as people say it.

    Example:
        >>> duration(20), duration(600), duration(9000)
        ('20 s', '10 min', '2.5 h')
    """
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"
