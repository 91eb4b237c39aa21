"""Cases with wrong values for the options and arguments of every command."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import click

from benchmarks.fuzz_cli.material import Case, Place
from sightline import cli
from sightline.option_types import PathName

TEXTS = [
    "", " ", "x" * 5000, "\udcff", "é" * 300, "a\nb", "${NOPE}", "${", "://", "https://[x", "http://", "mqtt://[::1",
    "mqtt://127.0.0.1:99999", "rtsp://127.0.0.1:x/", "rtsp://127.0.0.1:1/\x7f", "-1", "nan", "%s%n", "../..", "a=b",
    "=", "\x1b[31m", "[", "0", "9" * 5000, "٣", "a: b", "fox>=nan for 2s", "fox>=0.5 for 1e400s", "fox>=0.5 for -1s",
    "door: 0,0 1,nan 1,1", "door: 0,0 1,1", "--", "/dev/video999", "test:9999999x9999999", "test:-1x0", "1" * 25,
    "http://user:p ss@127.0.0.1:1/", "Authorization: \n x", "no-colon", "::", "127.0.0.1", "256.0.0.1", "٢.yaml",
    "/etc/passwd", "a@b@c", "-oProxyCommand=x", "user@", "picamera:x", "file:///etc/passwd", "\ufeff", "\u202e",
]  # fmt: skip
NUMBERS = ["nan", "inf", "-inf", "1e400", "1e-320", "-1", "1e300", "", "x", "1,5", "0x10", "٣", "9" * 5000, "\udcff"]
WHOLES = [*NUMBERS, "-0", "1.5", "99999999999999999999", "2147483648", "1_0"]


def base(place: Place) -> dict[str, list[str]]:
    """Valid arguments for each command, with which it ends soon."""
    bundle, run, images = str(place.bundle), str(place.run), str(place.images)
    train = [
        "--epochs",
        "1",
        "--weights",
        "none",
        "--image-size",
        "32",
        "--batch",
        "8",
        "--arch",
        "resnet18",
        "--out",
        "new",
    ]
    return {
        "train": [images, *train, "--out", "new"],
        "convert": [run, "--device", "desktop", "--out", "new.bundle"],
        "inspect": [bundle],
        "evaluate": [bundle, images],
        "run": [bundle, "--source", str(place.clip), "--frames", "2", "--no-page"],
        "bench": [bundle, "--seconds", "0.1", "--noise", "1000"],
        "service show": [bundle, "--", "--source", "0"],
        "service install": [bundle, "--root", "image", "--", "--source", "0"],
        "service uninstall": ["colours", "--root", "image"],
        "deploy": [bundle, "--to", "pi@127.0.0.1"],
        "export-web": [bundle, "--out", "site"],
        "serve-web": ["site", "--http", "--port", "0", "--address", "127.0.0.1"],
        "devices": [],
    }


def commands() -> dict[str, click.Command]:
    """{words: command} of all commands without subcommands."""
    leaves: dict[str, click.Command] = {}

    def walk(group: click.Group, words: tuple[str, ...]) -> None:
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            if isinstance(command, click.Group):
                walk(command, (*words, name))
            else:
                leaves[" ".join((*words, name))] = command

    walk(cli.cli, ())  # type: ignore[arg-type]
    return leaves


def values(param: click.Parameter, place: Place) -> list[tuple[str, str]]:
    """(description, value) pairs. All values are wrong for this kind or at its limit."""
    kind = param.type
    if isinstance(kind, PathName | click.Path):
        return list(place.special.items())
    if isinstance(kind, click.IntRange) or kind is click.INT:
        return [(v, v) for v in WHOLES]
    if isinstance(kind, click.FloatRange) or kind is click.FLOAT:
        return [(v, v) for v in NUMBERS]
    if isinstance(kind, click.Choice):
        return [(v, v) for v in ("", "x", "\udcff", "X" * 5000)]
    return [(v, v) for v in TEXTS] + [(k, v) for k, v in place.special.items() if len(v) < 5000]


def option_cases(place: Place, names: Iterable[str]) -> Iterator[Case]:
    good, tree = base(place), commands()
    assert set(good) == set(tree), set(good) ^ set(tree)
    for name in names:
        words = good[name]
        for param in tree[name].params:
            for description, value in values(param, place):
                title = f"{name}: {param.human_readable_name} = {description[:40]!r}"
                if isinstance(param, click.Option) and not param.is_flag:
                    cut = words.index("--") if "--" in words else len(words)
                    option = max(param.opts, key=len)
                    yield Case(title, [*name.split(), *words[:cut], f"{option}={value}", *words[cut:]])
                elif isinstance(param, click.Argument) and param.nargs == 1:
                    yield Case(title, [*name.split(), value, *words[1:]])
                    if name == "evaluate":
                        yield Case(title, [*name.split(), words[0], value])
                elif isinstance(param, click.Argument):
                    yield Case(title, [*name.split(), *words, value])
                elif isinstance(param, click.Option):
                    yield Case(title, [*name.split(), *words, f"{param.opts[0]}={value}"])
                    break
            if isinstance(param, click.Option) and param.is_flag:
                yield Case(f"{name}: {param.opts[0]}", [*name.split(), *words, param.opts[0]])
        yield Case(f"{name}: nothing", name.split())
        yield Case(f"{name}: help", [*name.split(), "--help"])
        yield Case(f"{name}: no home", [*name.split(), *words], environment={"HOME": None})
        if name == "run":
            for more in (["--mqtt", "mqtt://127.0.0.1:1"], ["--new-page-token", "--page", "--page-port", "0"]):
                yield Case(f"run: no home, {more[0]}", [name, *words, *more], environment={"HOME": None})
    for text in TEXTS:
        yield Case(f"command {text[:40]!r}", [text])
