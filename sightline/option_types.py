"""Types and decorators that the commands share, for click. Every value is finite and bounded.

The options in agent.yaml are checked by the same types.
"""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path
from typing import Any

import click

from sightline.documents import shortened
from sightline.errors import ConfigError

_MAX_NAME_BYTES = 220  # of a new file: it is first written under a longer name beside it


class PathName(click.ParamType):  # type: ignore[type-arg]  # generic in newer stubs alone
    """A path, as `pathlib.Path`. Raises ConfigError.

    Also refuses paths that no command can look up: a name that is too long, or a folder that this user may not enter.

    exists: whether it must exist.
    new: whether it is written, so that it may be a pipe and need not be readable.
    file, folder: which of them it may be.
    """

    name = "path"

    def __init__(self, *, exists: bool = False, new: bool = False, file: bool = True, folder: bool = True) -> None:
        self.exists, self.new, self.file, self.folder = exists, new, file, folder

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        option = (param.opts[0] if isinstance(param, click.Option) else param.human_readable_name) if param else ""
        if not isinstance(value, str | os.PathLike):
            raise ConfigError(f"{option} {value!r}: a path is needed")
        path = Path(value)
        where = f"{option} {shortened(path)}".strip()
        if not os.fspath(value):
            raise ConfigError(f"{option}: the path is empty")
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError) as e:
            if self.exists:
                raise ConfigError(f"{where}: {e.strerror}") from None
            if self.new and len(os.fsencode(path.name)) > _MAX_NAME_BYTES:
                raise ConfigError(f"{where}: File name too long") from None
            return path
        except OSError as e:
            raise ConfigError(f"{where}: {e.strerror}") from None
        except ValueError as e:
            raise ConfigError(f"{option} {shortened(path)!r}: cannot be a path: {e}") from None
        if stat.S_ISDIR(mode) and not self.folder:
            raise ConfigError(f"{where}: is a folder; a file is needed")
        if stat.S_ISREG(mode) and not self.file:
            raise ConfigError(f"{where}: is a file; a folder is needed")
        if not self.new:
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise ConfigError(f"{where}: is neither a file nor a folder")
            if not os.access(path, os.R_OK | (os.X_OK if stat.S_ISDIR(mode) else 0)):
                raise ConfigError(f"{where}: this user may not read it")
        return path


class Number(click.FloatRange):
    """A finite number. least: smallest value other than 0."""

    def __init__(self, min: float, max: float, *, least: float = 0) -> None:
        super().__init__(min, max)
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(super().convert(value, param, ctx))
        except OverflowError:  # an integer that is too large for a float
            number = math.inf
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        if 0 < number < self.least:
            self.fail(f"{value} is neither 0 nor at least {self.least:g}", param, ctx)
        return number


class Whole(click.IntRange):
    """A whole number in a range that every library accepts."""

    def __init__(self, min: int, max: int = 2**31 - 1) -> None:
        super().__init__(min, max)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, float):  # from agent.yaml
            self.fail(f"{value!r} is not a whole number", param, ctx)
        return int(super().convert(value, param, ctx))


READ = PathName()
READ_FILE = PathName(exists=True, folder=False)
READ_FOLDER = PathName(exists=True, file=False)
NEW_FILE = PathName(new=True, folder=False)
NEW_FOLDER = PathName(new=True, file=False)
SEED = Whole(0, 2**32 - 1)

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
corrupt_option = click.option(
    "--corrupt",
    type=click.Choice(["refuse", "skip"]),
    default="refuse",
    show_default=True,
    help="What to do with images that cannot be read and boxes that are invalid. refuse: stop with an error. skip: "
    "leave them out.",
)
