"""`sightline convert`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from sightline.device import SCHEMES, load_device


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--device", required=True, help="A device of `sightline devices`, or a .yaml of your own.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Bundle to write: NAME.bundle.")
@click.option(
    "--scheme",
    "schemes",
    multiple=True,
    type=click.Choice(SCHEMES),
    help="Quantization; several times for several variants, the first runs by default.  [default: the device's]",
)
@click.option("--max-drop", type=click.FloatRange(0, 100), default=0.5, show_default=True,
              help="Points of accuracy that may be lost against float32.")  # fmt: skip
@click.option("--data", type=click.Path(path_type=Path), help="The data set, if it moved; needed for a .pt2.")
@click.option("--calibration", type=click.Path(path_type=Path), help="Pictures, or .npz, instead of the run's own.")
@click.option(
    "--resize", type=click.Choice(["letterbox", "center_crop", "stretch"]), help="For a .pt2.  [default: letterbox]"
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def convert(source: Path, out: Path, device: str, as_json: bool, **options: Any) -> None:
    """Quantize a run for a device, verify it, leave a bundle.

    SOURCE is a run folder, or a .pt2 program (float32 [1, height, width, 3] in, RGB 0..255) with --data. The bundle is
    written only if it lost no more than --max-drop on pictures that training never saw.
    """
    load_device(device)  # before the libraries, which take seconds
    from converters.convert import convert as run

    began = time.monotonic()
    bar = _Bar()
    result = run(source, out, device=device, say=lambda line: click.echo(line, err=True), progress=bar, **options)
    seconds = time.monotonic() - began
    if as_json:
        variants = {
            s: {"accuracy": m.accuracy, "agreement": m.agreement, "drop": m.drop, "bytes": m.bytes}
            for s, m in result.measured.items()
        }
        summary = {
            "bundle": str(out),
            "device": result.device,
            "pictures": result.pictures,
            "seconds": round(seconds, 1),
        }
        float32 = {"accuracy": result.accuracy, "bytes": result.float_bytes}
        click.echo(json.dumps({**summary, "float32": float32, "variants": variants}))
        return
    click.echo(f"{'':22}{'size':>10}{'accuracy':>10}{'points':>8}{'as float':>10}")
    if "float32" not in result.measured:
        click.echo(f"{'float32':22}{result.float_bytes / 1024:>6,.0f} KiB{result.accuracy:>10.2%}")
    for m in result.measured.values():
        click.echo(
            f"{m.scheme:22}{m.bytes / 1024:>6,.0f} KiB{m.accuracy:>10.2%}{0 - m.drop:>+8.2f}{m.agreement:>10.2%}"
        )
    click.echo(f"{out}: verified on {result.pictures} held-out pictures, in {seconds:.0f} s; see {out / 'report.html'}")
    click.echo(f"next: sightline run {out} --source 0")


class _Bar:
    """A line that grows on a terminal; nothing elsewhere."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        if self.terminal and (done == total or done % 20 == 0):
            end = "\r\x1b[2K" if done == total else "\r"
            click.echo(f"verifying {done}/{total}{end}", nl=False, err=True)
