"""The command line: a group that imports a subcommand's module only when it is called."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from importlib import import_module
from typing import Any, NamedTuple

import click

from sightline import __version__
from sightline.documents import utf8
from sightline.errors import InputError, SightlineError, known
from sightline.stderr import Stderr
from sightline.strict_config import near
from sightline.text import printable


class Entry(NamedTuple):
    """One subcommand.

    target: `module:function`.
    extra: the pip extra that installs its libraries; '' for the base install.
    help: equals the first sentence of the command's own help. It stands here so that `sightline --help` imports none
        of the commands.
    """

    target: str
    extra: str
    help: str


COMMANDS = {
    "train": Entry("trainer.cli:train", "train", "Train a model on labelled images and write a run folder."),
    "convert": Entry(
        "converters.cli.convert:convert",
        "convert",
        "Convert a model for a device, check its accuracy, and write a bundle.",
    ),
    "inspect": Entry(
        "converters.cli.inspect:inspect",
        "",
        "Show what is in a model or in a data set.",
    ),
    "evaluate": Entry(
        "converters.cli.evaluate:evaluate",
        "convert",
        "Measure the accuracy or mAP of models on labelled images, as a device runs them.",
    ),
    "run": Entry("edge.cli.run:run", "", "Run a bundle on a camera, a clip or images, and stream the results."),
    "bench": Entry(
        "edge.cli.bench:bench", "", "Check a bundle on this machine and measure its latency, start time and memory."
    ),
    "service": Entry(
        "edge.cli.service:service",
        "",
        "Run the agent as a hardened systemd service that restarts after a crash or a hang.",
    ),
    "deploy": Entry(
        "edge.cli.deploy:deploy", "", "Install a bundle and its agent on devices over SSH, and start the service."
    ),
    "export-web": Entry(
        "edge.cli.web_export:export_web",
        "",
        "Build a web page that runs a bundle on a phone's own camera, also offline.",
    ),
    "serve-web": Entry(
        "edge.cli.web_export:serve_web",
        "phone",
        "Serve an exported page to phones on this network, over HTTPS and with a QR code.",
    ),
    "devices": Entry(
        "edge.cli.devices:devices", "", "Describe this machine's hardware and list the supported devices."
    ),
}


class BrokenPipe(Exception):
    """Carries a BrokenPipeError past click, which would exit with 1 as if it always came from stdout.

    It may come from another file, and then it is an error to report.
    """


@contextlib.contextmanager
def _broken_pipe_kept() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as e:
        raise BrokenPipe from e


class Group(click.Group):
    """The commands of COMMANDS, each imported when it is called."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for argument in args:
            if not utf8(argument):
                raise InputError(f"{argument[:120]!r} is not UTF-8 text. Rename the file, or write the value as UTF-8")
        return super().parse_args(ctx, args)

    def make_context(self, *arguments: Any, **more: Any) -> click.Context:
        with _broken_pipe_kept():
            return super().make_context(*arguments, **more)

    def invoke(self, ctx: click.Context) -> Any:
        with _broken_pipe_kept():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, function = entry.target.split(":")
        command: click.Command = getattr(import_module(module), function)
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            signal.signal(
                signal.SIGINT, signal.default_int_handler
            )  # KeyboardInterrupt, so that the command can undo its work
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(
                f"no command {args[0]!r}{near(args[0], COMMANDS)}. The commands are: {', '.join(COMMANDS)}"
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])


@click.command(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sightline")
@click.option("--debug", is_flag=True, help="Show a traceback for errors. Works at any place on the command line.")
def cli(debug: bool) -> None:
    """Train image models, quantize them, and run them on cameras and edge devices of your own.

    \b
    sightline train IMAGES --out RUN
    sightline convert RUN --device raspberry_pi_5 --out NAME.bundle
    sightline run NAME.bundle --source 0

    Exit codes: 0 success, 2 bad input, 3 a device failed, 1 a bug in Sightline.
    """


def _not_installed(module: str, arguments: list[str]) -> str:
    """The message for a library that is not installed. Commands import their libraries only when they run."""
    command = next((a for a in arguments if a in COMMANDS), "")
    extra = COMMANDS[command].extra if command else ""
    package = f"sightline[{extra}]" if extra else "sightline"
    return f"`sightline {command}` needs {module.split('.')[0]}, which is not installed: pip install '{package}'"


def main() -> None:
    """Run the command line. Every error becomes one message on stderr and an exit code.

    Errors are caught nowhere else. The exit codes are those in the help text of `cli`.
    """
    _open_standard_files()
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    code, error, stdout_error = 0, None, None
    try:
        result = cli.main(arguments, prog_name="sightline", standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except BaseException as e:
        error = e.__cause__ if isinstance(e, BrokenPipe) else e
    try:
        sys.stdout.flush()
    except OSError as e:  # the interpreter flushes stdout once more when it exits: give it /dev/null
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        stdout_error = e
        if isinstance(error, OSError) and error.errno == e.errno:  # the same failure that ended the command
            error = None
    if error is not None:
        if "--debug" in sys.argv:
            traceback.print_exception(error)
        code = _report_error(error, arguments)
    elif (
        stdout_error is not None and stdout_error.errno != errno.EPIPE
    ):  # EPIPE: a reader such as `head` has read enough
        click.echo(f"error: standard output: {stdout_error.strerror}", err=True)
        code = 3
    if isinstance(sys.stderr, Stderr):
        sys.stderr.drain()
    sys.exit(code)


def _open_standard_files() -> None:
    """Open closed standard files as /dev/null, so that no file opened later becomes stdout or stderr."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
    if sys.stdout is sys.__stdout__:
        # Buffered even under PYTHONUNBUFFERED: text that could not be written stays in the buffer, and the flush at
        # the end reports the error.
        encoding, errors = (sys.stdout.encoding, sys.stdout.errors) if sys.stdout else ("utf-8", "replace")
        sys.stdout = open(1, "w", encoding=encoding, errors=errors, closefd=False)  # noqa: SIM115
    if sys.stderr is sys.__stderr__:
        sys.stderr = Stderr()


def _report_error(error: BaseException, arguments: list[str]) -> int:
    """Print what ended the command. Returns the exit code."""
    match error:
        case SightlineError():
            click.echo(f"error: {printable(str(error))}", err=True)
            return error.exit_code
        case click.ClickException():
            error.show()
            return 2
        case ModuleNotFoundError():
            click.echo(f"error: {_not_installed(error.name or '', arguments)}", err=True)
            return 2
        case KeyboardInterrupt() | click.Abort():
            click.echo("stopped", err=True)
            return 130
        case OSError() | MemoryError() if (translated := known(error)) is not None:
            return _report_error(translated, arguments)
        case Exception():
            text = printable(f"{type(error).__name__}: {error}")
            click.echo(f"internal error: {text}. Run again with --debug to see the traceback.", err=True)
            return 1
    raise error  # SystemExit, from a library
