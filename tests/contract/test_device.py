"""Device files: all that ship are read, each key of them does something, and a typing error is told with its cure."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from sightline import device_config as device
from sightline.device_config import FOLDER, SCHEMES, DeviceConfig, device_names, load_device
from sightline.errors import ConfigError

FIELDS = [f.name for f in dataclasses.fields(DeviceConfig)]
ROOT = FOLDER.parent


def test_there_are_devices() -> None:
    assert {"desktop", "raspberry_pi_5", "coral_usb", "android"} <= set(device_names())
    assert device_names() == sorted(device_names())


@pytest.mark.parametrize("name", device_names())
def test_a_shipped_device_is_read_under_its_own_name(name: str) -> None:
    found, config = load_device(name)
    assert found == name
    assert config.title
    assert config.scheme in SCHEMES


def settings(name: str) -> list[str]:
    """The lines of a shipped file that are neither comments nor empty."""
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.lstrip().startswith("#")]


@pytest.mark.parametrize("name", device_names())
def test_a_shipped_file_is_flat_and_in_the_order_of_the_fields(name: str) -> None:
    assert [line.split(":")[0] for line in settings(name)] == FIELDS


def test_the_reference_device_explains_each_key() -> None:
    for line in settings("desktop")[1:]:
        assert re.search(r"  # \w.+", line), line


@pytest.mark.parametrize("name", [n for n in device_names() if load_device(n)[1].delegate == "edgetpu"])
def test_what_the_edge_tpu_compiler_cannot_take_is_not_asked_of_it(name: str) -> None:
    config = load_device(name)[1]
    assert (config.scheme, config.fully_connected) == ("static_int8", "per_tensor")


@pytest.mark.parametrize("field", FIELDS)
def test_every_key_is_read_by_some_code(field: str) -> None:
    """A key that nothing reads is a promise that nothing keeps."""
    sources = [*ROOT.glob("converters/**/*.py"), *ROOT.glob("edge/**/*.py")]
    # what holds a DeviceConfig is called `config`, or `c` for short, everywhere
    read = re.compile(rf"(?<![a-z])(?:config|c)\.{field}\b")
    assert any(read.search(path.read_text(encoding="utf-8")) for path in sources)


def own(tmp_path: Path, **changes: object) -> str:
    """A file of one's own: the desktop's, changed; None takes a key out."""
    data = yaml.safe_load((FOLDER / "desktop.yaml").read_text(encoding="utf-8")) | changes
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in data.items() if v is not None}), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("suffix", [".yaml", ".yml"])
def test_a_file_of_ones_own_is_a_device(tmp_path: Path, suffix: str) -> None:
    path = Path(own(tmp_path, threads=7)).rename(tmp_path / f"mine{suffix}")
    name, config = load_device(str(path))
    assert (name, config.threads) == ("mine", 7)
    assert dataclasses.replace(config, threads=2) == load_device("desktop")[1]


def test_an_unknown_device_is_told_with_its_neighbours_and_all_that_are_known() -> None:
    with pytest.raises(ConfigError, match=r"unknown device 'raspbery_pi5' \(did you mean raspberry_pi_5") as e:
        load_device("raspbery_pi5")
    for name in device_names():
        assert name in str(e.value)


@pytest.mark.parametrize("name", ["", "../README", "nothing/like/it", "desktop.yaml"])
def test_what_is_no_device_is_told_with_those_that_are(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"unknown device '{name}'.*the devices are: .*desktop"):
        load_device(name)


def test_an_unknown_key_is_told_with_its_neighbour_and_all_that_are_valid(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mine\.yaml: unknown key 'thread' \(did you mean threads") as e:
        load_device(own(tmp_path, thread=3))
    for key in FIELDS:
        assert key in str(e.value)


@pytest.mark.parametrize("key", FIELDS)
def test_every_key_is_needed(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=f"missing key '{key}'"):
        load_device(own(tmp_path, **{key: None}))


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("threads", 0, "threads must be at least 1, not 0"),
        ("threads", True, "threads: a whole number is needed, found True"),
        ("threads", "2", "threads: a whole number is needed, found '2'"),
        ("camera_fps", 29.97, "camera_fps: a whole number is needed"),
        ("camera_width", -1, "camera_width must be at least 1"),
        ("latency_budget_ms", 0, "latency_budget_ms must be at least 1"),
        ("page_fps", 0, "page_fps must be at least 1"),
        ("page_width", 10, "max_model_kib .* page_width at least 64"),
        ("max_model_kib", -1, "max_model_kib must be at least 0"),
        ("scheme", "static_int", r"scheme: 'static_int' is not one of float32, .*\(did you mean static_int8"),
        ("delegate", "gpu", "delegate: 'gpu' is not one of xnnpack, none, edgetpu"),
        ("runner", "phone", "runner: 'phone' is not one of agent, browser, android"),
        ("title", 5, "title: a text is needed"),
    ],
)
def test_a_value_out_of_range_is_told_with_its_key(tmp_path: Path, key: str, value: object, why: str) -> None:
    with pytest.raises(ConfigError, match=rf"mine\.yaml: {why}"):
        load_device(own(tmp_path, **{key: value}))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "found NoneType"),
        ("- a\n- b\n", "found list"),
        ("a: [1\n", "not valid YAML"),
        ("a: !x 1\n", "is not supported"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"mine\.yaml: .*{why}"):
        load_device(str(path))


def test_the_shipped_folder_is_where_the_package_looks() -> None:
    assert device.FOLDER.is_dir()
    assert (device.FOLDER / "desktop.yaml").is_file()
