"""The Edge TPU's compiler, and the bundles for a Coral."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ai_edge_litert import interpreter as litert

from converters.convert import ConvertOptions, convert
from converters.edgetpu.compiler import compile_model
from converters.edgetpu.rules import map_ops
from converters.tflite.graph import Node, read_graph, unpack
from edge.inference.model import open_model
from sightline.bundle import Bundle, read_bundle, write_bundle
from sightline.device_config import load_device
from sightline.errors import InterpreterError, ModelError
from tests.conftest import Sightline


def raising(error: Exception) -> Any:
    def call(*_: object) -> None:
        raise error

    return call


def nodes(content: bytes) -> tuple[Node, ...]:
    return read_graph(unpack(content)).nodes


LOG = """Edge TPU Compiler version 16.0.384591198
Started a compilation timeout timer of 180 seconds.

Model compiled successfully in 11 ms.

On-chip memory used for caching model parameters: 3.62MiB
Off-chip memory used for streaming uncached model parameters: 1.00KiB
Number of Edge TPU subgraphs: 1
Total number of operations: 17
"""


SUCCESS = f"""#!/bin/sh
[ "$1 $2" = "-s -o" ] || exit 9
printf edgetpu-custom-op | cat "$4" - > "$3/$(basename "$4" .tflite)_edgetpu.tflite"
cat <<END
{LOG}
END
"""


FAILURE = """#!/bin/sh
echo "Edge TPU Compiler version 16.0.384591198"
echo "ERROR: Didn't find op for builtin opcode 'CONV_2D' version '6'."
echo "Model could not be parsed"
exit 1
"""


HANG = """#!/bin/sh
sleep 60 &
echo $! > "$(dirname "$0")/child"
wait
"""


NOTHING = """#!/bin/sh
cp "$4" "$3/model_edgetpu.tflite"
echo "Number of operations that will run on Edge TPU: 0"
"""


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a script in the compiler's place."""

    def install(script: str) -> None:
        program = tmp_path / "bin" / "edgetpu_compiler"
        program.parent.mkdir(exist_ok=True)
        program.write_text(script, encoding="utf-8")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")

    return install


def test_the_compilers_file_and_output_are_read(compiler: Any) -> None:
    compiler(SUCCESS)
    compiled = compile_model(b"a model", "lamp")
    assert compiled is not None
    assert compiled.content == b"a modeledgetpu-custom-op"
    assert (compiled.mapped_ops, compiled.ops, compiled.version) == (17, 17, "16.0.384591198")
    assert (compiled.on_chip, compiled.streamed) == ("3.62MiB", "1.00KiB")
    compiler(SUCCESS.replace("operations: 17", "operations: 17\nNumber of operations that will run on CPU: 3"))
    assert (partial := compile_model(b"a model", "lamp")) is not None
    assert (partial.mapped_ops, partial.ops) == (14, 17)


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compile_model(b"a model", "lamp") is None


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (FAILURE, r"lamp: edgetpu_compiler failed \(exit code 1\): ERROR: Didn't find op .*(?s:.)*could not be parsed"),
        ("#!/bin/sh\nexit 0\n", r"lamp: edgetpu_compiler failed \(exit code 0\): no output"),
        (NOTHING, "lamp: edgetpu_compiler maps no op"),
        ("not a program", "lamp: .*edgetpu_compiler cannot be run: Exec format error"),
    ],
)
def test_a_compiler_that_fails_is_reported_with_its_reason(compiler: Any, script: str, message: str) -> None:
    compiler(script)
    with pytest.raises(ModelError, match=message):
        compile_model(b"a model", "lamp")


def test_a_compiler_that_hangs_is_ended_with_its_children(compiler: Any, tmp_path: Path) -> None:
    compiler(HANG)
    began = time.monotonic()
    with pytest.raises(ModelError, match=r"lamp: edgetpu_compiler did not finish within 0\.5 s"):
        compile_model(b"a model", "lamp", timeout_s=0.5)
    assert time.monotonic() - began < 20
    child = int((tmp_path / "bin" / "child").read_text(encoding="ascii"))
    for _ in range(50):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]:
            return
        time.sleep(0.1)
    pytest.fail("its child still runs")


@pytest.mark.slow
def test_without_a_compiler_the_manifest_explains_how_to_continue(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sightline: Sightline
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    lines: list[str] = []
    convert(run_folder, tmp_path / "coral.bundle", ConvertOptions("coral_usb"), log=lines.append)
    bundle = read_bundle(tmp_path / "coral.bundle")
    assert bundle.manifest.metrics["edgetpu"]["compiled"] is False
    assert "is not installed here" in bundle.manifest.metrics["edgetpu"]["reason"]
    assert bundle.manifest.metrics["edgetpu"]["reason"] in lines
    assert map_ops(nodes(bundle.variant()[1])).complete
    done = sightline("run", bundle.path, "--source", "test:", "--frames", 1, "--no-page")
    assert done.returncode == 2
    assert "is compiled for the Edge TPU. Convert with --device coral_usb where edgetpu_compiler" in done.stderr
    assert (
        sightline("run", bundle.path, "--source", "test:", "--frames", 1, "--no-page", "--device", "desktop").returncode
        == 0
    )


@pytest.mark.slow
def test_a_bundle_has_both_and_the_device_decides(
    run_folder: Path, tmp_path: Path, compiler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler(SUCCESS)
    convert(run_folder, tmp_path / "coral.bundle", ConvertOptions("coral_usb"))
    bundle = read_bundle(tmp_path / "coral.bundle")
    assert list(bundle.manifest.variants) == ["static_int8", "static_int8_edgetpu"]
    assert bundle.manifest.default == "static_int8"
    assert bundle.manifest.metrics["edgetpu"]["static_int8_edgetpu"]["mapped_ops"] == 17
    assert bundle.contents["coral.static_int8_edgetpu.tflite"].endswith(b"edgetpu-custom-op")
    model = open_model(bundle, load_device("desktop")[1])
    assert model.scheme == "static_int8"
    # there is no Edge TPU here, but it was the compiled variant that asked for one
    monkeypatch.setattr(litert, "load_delegate", raising(OSError("no such library")))
    with pytest.raises(InterpreterError, match="libedgetpu1-std"):
        open_model(bundle, load_device("coral_usb")[1])
    assert bundle.fitting("edgetpu") == "static_int8_edgetpu"
    assert bundle.fitting("none") == "static_int8"
    with pytest.raises(Exception, match="is not compiled for the Edge TPU"):
        open_model(bundle, load_device("coral_usb")[1], "static_int8")


@pytest.mark.slow
def test_a_bundle_of_compiled_variants_alone_is_refused_on_a_cpu(
    run_folder: Path, tmp_path: Path, compiler: Any
) -> None:
    compiler(SUCCESS)
    convert(run_folder, tmp_path / "coral.bundle", ConvertOptions("coral_usb"))
    both = read_bundle(tmp_path / "coral.bundle")
    only = {"static_int8_edgetpu": "coral.static_int8_edgetpu.tflite"}
    manifest = replace(both.manifest, variants=only, default="static_int8_edgetpu")
    files = {name: both.contents[name] for name in (*only.values(), "golden.npz")}
    write_bundle(tmp_path / "only.bundle", manifest, files)
    bundle: Bundle = read_bundle(tmp_path / "only.bundle")
    with pytest.raises(ModelError, match=r"all of its variants \(static_int8_edgetpu\) are compiled for the Edge TPU"):
        open_model(bundle, load_device("raspberry_pi_5")[1])


@pytest.mark.slow
def test_a_compiler_that_fails_leaves_no_bundle(run_folder: Path, tmp_path: Path, compiler: Any) -> None:
    compiler(FAILURE)
    with pytest.raises(ModelError, match="static_int8: edgetpu_compiler failed"):
        convert(run_folder, tmp_path / "coral.bundle", ConvertOptions("coral_usb"))
    assert not (tmp_path / "coral.bundle").exists()


@pytest.mark.slow
def test_only_integer_variants_are_lowered_and_compiled(run_folder: Path, tmp_path: Path, compiler: Any) -> None:
    compiler(SUCCESS)
    convert(run_folder, tmp_path / "coral.bundle", ConvertOptions("coral_usb", schemes=("float32",)))
    manifest = json.loads((tmp_path / "coral.bundle" / "manifest.json").read_text(encoding="utf-8"))
    assert list(manifest["variants"]) == ["float32"]
    assert manifest["metrics"]["edgetpu"]["reason"] == "only static_int8 can be compiled, not float32"
