"""What a Raspberry Pi loads, and what the command line says of itself."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from sightline.cli import COMMANDS, cli
from tests.conftest import Sightline

HEAVY = ("torch", "torchvision", "timm", "tensorflow", "jax", "litert_torch", "ai_edge_quantizer", "safetensors")


def python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A program in a fresh process, where nothing has been imported yet."""
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=120)


def command(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


def everything_on_the_device(first: str) -> set[str]:
    """Every package that is loaded when all of sightline and edge is, after `first`."""
    done = python(
        """
import importlib, pkgutil, sys
importlib.import_module(sys.argv[1])
import edge, sightline
names = [m.name for p in (sightline, edge) for m in pkgutil.walk_packages(p.__path__, p.__name__ + ".")]
for name in names:
    importlib.import_module(name)
print(len(names), *sorted({m.split(".")[0] for m in sys.modules}))
""",
        first,
    )
    assert done.returncode == 0, done.stderr
    count, *modules = done.stdout.split()
    assert int(count) > 15, "the modules were not found, so nothing was imported"
    assert {"sightline", "edge", "numpy", "cv2"} <= set(modules)
    return set(modules)


@pytest.mark.slow
def test_the_device_side_imports_no_library_of_training_or_conversion() -> None:
    assert not set(HEAVY) & everything_on_the_device("sys")
    assert set(HEAVY) & everything_on_the_device("safetensors") == {"safetensors"}, "it would not have been noticed"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["nothing-like-it"]])
def test_the_command_line_answers_without_numpy_and_opencv(arguments: list[str]) -> None:
    done = python(
        """
import sys
from sightline.cli import main
try:
    main()
except SystemExit as e:
    print()
    print("code", e.code, *sorted({m.split(".")[0] for m in sys.modules}))
""",
        *arguments,
    )
    _, code, *modules = done.stdout.splitlines()[-1].split()
    assert code == ("2" if arguments == ["nothing-like-it"] else "0"), done.stderr
    assert "sightline" in modules
    assert not {"numpy", "cv2", "yaml", "trainer", "converters", "edge", *HEAVY} & set(modules)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_overview_says_of_each_command_what_it_says_of_itself(name: str) -> None:
    assert command(name).get_short_help_str(limit=1000) == COMMANDS[name].help


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help_text(name: str) -> None:
    found = command(name)
    ones = list(found.commands.values()) if isinstance(found, click.Group) else [found]
    for one in ones:
        options = [p for p in one.params if isinstance(p, click.Option)]
        assert options, one.name
        for option in options:
            assert option.help, option.opts
            assert option.help.endswith((".", "]", ":", ")")), f"{option.opts}: {option.help}"


# what stands behind `service` is for the agent that it starts, whose own --json it is
@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"service"}))
def test_every_command_can_speak_json(name: str) -> None:
    assert any("--json" in p.opts for p in command(name).params)


@pytest.mark.parametrize(("name", "library"), [("train", "torch"), ("train", "timm"), ("convert", "ai_edge_quantizer")])
def test_a_command_whose_libraries_are_not_installed_says_how_to_install_them(name: str, library: str) -> None:
    done = python(
        f"""
import sys
sys.modules[{library!r}] = None  # as if it were not installed
from sightline.cli import main
main()
""",
        *[name, "nothing", *(["--device", "desktop"] if name == "convert" else []), "--out", "nothing.bundle"],
    )
    assert f"pip install 'sightline[{name}]'" in done.stderr, done.stderr
    assert done.returncode == 2


def test_an_unknown_command_is_told_with_its_neighbour(sightline: Sightline) -> None:
    done = sightline("covert", "x")
    assert done.returncode == 2
    assert (
        "no command 'covert' (did you mean convert?). The commands are: train, convert, inspect, evaluate, run"
        in done.stderr
    )


def test_debug_shows_the_traceback_and_without_it_there_is_none(sightline: Sightline) -> None:
    plain = sightline("run", "absent.bundle", "--source", "test:")
    assert plain.returncode == 2
    assert plain.stderr.startswith("error: absent.bundle: no such bundle")
    assert "Traceback" not in plain.stderr
    assert "Traceback" in sightline("run", "absent.bundle", "--source", "test:", "--debug").stderr
