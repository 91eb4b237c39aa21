"""The command line: a group whose subcommands are named as texts and imported only when called."""

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
    target: str  # module:function
    extra: str  # of pip, '' for the base install
    help: str  # equals the command's own; here so that `sightline --help` imports none of them


COMMANDS = {
    "train": Entry("trainer.cli:train", "train", "Train a model on labelled pictures; leaves a run folder."),
    "convert": Entry(
        "converters.cli.convert:convert", "convert", "Quantize a run for a device, verify it, leave a bundle."
    ),
    "inspect": Entry(
        "converters.cli.inspect:inspect",
        "",
        "Show a model's tensors, ops and memory, and what each delegate takes; or what a folder of boxes holds.",
    ),
    "evaluate": Entry(
        "converters.cli.evaluate:evaluate",
        "convert",
        "Measure models on labelled pictures, as a device runs them: accuracy, or mAP.",
    ),
    "run": Entry("edge.cli.run:run", "", "Run a bundle on cameras, a clip or images, and stream the results."),
    "bench": Entry("edge.cli.bench:bench", "", "Try a bundle on this machine: hashes, golden samples, latency."),
    "service": Entry(
        "edge.cli.service:service",
        "",
        "Run the agent as a systemd service: watched, restarted, hardened.",
    ),
    "deploy": Entry(
        "edge.cli.deploy:deploy", "", "Install a bundle with its agent on devices, over ssh, and start it there."
    ),
    "export-web": Entry(
        "edge.cli.web_export:export_web",
        "",
        "Make a page of a bundle that runs it on a phone's own camera, also without a network.",
    ),
    "serve-web": Entry(
        "edge.cli.web_export:serve_web",
        "phone",
        "Show a site to phones on this network: HTTPS, and the address as a QR code.",
    ),
    "devices": Entry(
        "edge.cli.devices:devices", "", "Say what this machine is, and list the devices that Sightline knows."
    ),
}


class BrokenPipe(Exception):
    """click takes every BrokenPipeError for stdout's and ends with 1; it may be that of another file."""


@contextlib.contextmanager
def _broken_pipe_kept() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as e:
        raise BrokenPipe from e


class Group(click.Group):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for argument in args:
            if not utf8(argument):
                raise InputError(f"{argument[:120]!r} is not UTF-8 text; rename the file, or write it as UTF-8")
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
            signal.signal(signal.SIGINT, signal.default_int_handler)  # it may have work to undo from here on
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(
                f"no command {args[0]!r}{near(args[0], COMMANDS)}; the commands are: {', '.join(COMMANDS)}"
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])


@click.command(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sightline")
@click.option("--debug", is_flag=True, help="Show tracebacks; may stand anywhere on the line.")
def cli(debug: bool) -> None:
    """From pictures to a camera that answers, on hardware that you own.

    \b
    sightline train PICTURES --out RUN
    sightline convert RUN --device raspberry_pi_5 --out NAME.bundle
    sightline run NAME.bundle --source 0

    Exit codes: 0 done, 2 bad input, 3 a device failed, 1 a fault of Sightline's own.
    """


def _not_installed(module: str, arguments: list[str]) -> str:
    """Commands import their libraries when they run, so here is where it shows that one was not installed."""
    command = next((a for a in arguments if a in COMMANDS), "")
    extra = COMMANDS[command].extra if command else ""
    package = f"sightline[{extra}]" if extra else "sightline"
    return f"`sightline {command}` needs {module.split('.')[0]}, which is not installed: pip install '{package}'"


def main() -> None:
    """The only place where errors are caught: one message on stderr, and the exit code that says whose fault it is."""
    _open_standard_files()
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    code, error, unwritten = 0, None, None
    try:
        result = cli.main(arguments, prog_name="sightline", standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except BaseException as e:
        error = e.__cause__ if isinstance(e, BrokenPipe) else e
    try:
        sys.stdout.flush()
    except OSError as e:  # give the interpreter another stdout to flush on its way out
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        unwritten = e
        if isinstance(error, OSError) and error.errno == e.errno:  # it is what ended the command
            error = None
    if error is not None:
        if "--debug" in sys.argv:
            traceback.print_exception(error)
        code = _tell(error, arguments)
    elif unwritten is not None and unwritten.errno != errno.EPIPE:  # `sightline run ... | head` has what it wanted
        click.echo(f"error: standard output: {unwritten.strerror}", err=True)
        code = 3
    if isinstance(sys.stderr, Stderr):
        sys.stderr.drain()
    sys.exit(code)


def _open_standard_files() -> None:
    """A closed one becomes /dev/null: the next file that somebody opens must not be taken for stdout or stderr."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if sys.stdout is sys.__stdout__:
        # with a buffer, whatever PYTHONUNBUFFERED says: what could not be written is still in it, and shows at the end
        encoding, errors = (sys.stdout.encoding, sys.stdout.errors) if sys.stdout else ("utf-8", "replace")
        sys.stdout = open(1, "w", encoding=encoding, errors=errors, closefd=False)  # noqa: SIM115
    if sys.stderr is sys.__stderr__:
        sys.stderr = Stderr()


def _tell(error: BaseException, arguments: list[str]) -> int:
    """Say what ended the command; returns its exit code."""
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
        case OSError() | MemoryError() if (meant := known(error)) is not None:
            return _tell(meant, arguments)
        case Exception():
            what = f"{type(error).__name__}: {error}"
            click.echo(f"internal error: {printable(what)} (run again with --debug for the traceback)", err=True)
            return 1
    raise error  # SystemExit, from a library
