"""`sightline bench`: check a bundle on a machine, and measure it."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from edge.benchmark import check_noise, cold_start_ms, compare_figures, measure, soak_test, subjects
from edge.inference.self_test import try_in_child
from edge.system.benchmark_report import BenchmarkReport
from edge.system.hardware import read_hardware
from sightline import __version__
from sightline.bare_model import read_model
from sightline.bundle import add_evidence
from sightline.device_config import load_device
from sightline.errors import ConfigError, DeviceError
from sightline.option_types import READ, READ_FILE, Number, Whole
from sightline.timestamps import utc_now

# keys of the report that a manifest keeps
_EVIDENCE_KEYS = ("machine", "device", "scheme", "sha256", "figures", "cold_start_ms", "rss_mb", "sustained")


@dataclass(frozen=True)
class BenchOptions:
    """What to measure.

    model, compare: bundles or .tflite files. compare: None = no other one.
    device: name of the device config.
    schemes, threads: all combinations are measured. Empty = the default of the bundle or of the device.
    seconds: duration of each of the 5 rounds of each combination.
    sustained_min: minutes of the soak test; 0 = none.
    noise_percent: largest deviation of a round that is accepted.
    """

    model: Path
    device: str
    schemes: tuple[str, ...]
    threads: tuple[int, ...]
    compare: Path | None
    seconds: float
    sustained_min: float
    noise_percent: float

    def arguments(self) -> list[str]:
        """The same options for `sightline bench` on another machine, without the models."""
        words = ["--device", self.device, "--seconds", f"{self.seconds:g}", "--sustained", f"{self.sustained_min:g}"]
        words += ["--noise", f"{self.noise_percent:g}"]
        words += [word for scheme in self.schemes for word in ("--scheme", scheme)]
        return words + [word for count in self.threads for word in ("--threads", str(count))]


@click.command()
@click.argument("model", type=READ)
@click.option("--device", metavar="NAME",
              help="Device config to run with; see `sightline devices`.  [default: the bundle's]")  # fmt: skip
@click.option("--scheme", "schemes", multiple=True, metavar="SCHEME",
              help="Variant of the bundle to measure. Repeatable.  "
              "[default: the variant that fits the device]")  # fmt: skip
@click.option("--threads", multiple=True, type=Whole(1, 64), metavar="COUNT",
              help="Interpreter threads to measure with. Repeatable.  [default: the device's]")  # fmt: skip
@click.option("--compare", type=READ, metavar="BUNDLE",
              help="Another bundle to compare with. The rounds of both alternate.")  # fmt: skip
@click.option("--seconds", type=Number(0.1, 3600), default=2, show_default=True, metavar="SECONDS",
              help="Duration of each of the 5 rounds.")  # fmt: skip
@click.option("--sustained", type=Number(0, 10080), default=0, show_default=True, metavar="MINUTES",
              help="Duration of a soak test. It shows whether heat slows the machine down. 0 = none.")  # fmt: skip
@click.option("--noise", type=Number(0, 1e6), default=10, show_default=True, metavar="PERCENT",
              help="Fail if a round deviates by more than this percentage from the median.")  # fmt: skip
@click.option("--to", metavar="USER@HOST",
              help="Measure on this machine over SSH, and remove everything from it afterwards.")  # fmt: skip
@click.option("--ssh-config", type=READ_FILE, metavar="FILE", help="Configuration file for ssh, with --to.")
@click.option("--evidence", is_flag=True, help="Write the result into the bundle's manifest.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def bench(
    model: Path, device: str | None, schemes: tuple[str, ...], threads: tuple[int, ...], compare: Path | None,
    seconds: float, sustained: float, noise: float, to: str | None, ssh_config: Path | None, evidence: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Check a bundle on this machine and measure its latency, start time and memory.

    First the self-test checks the file hashes and the golden samples in a process of its own. A running agent does the
    same before it takes a new model. Then 5 rounds measure one inference, and one whole frame of the device's camera.

    The exit code is 3 if the machine computes other results than at conversion, if it is too slow, or if the rounds
    differ too much. --to measures on another machine, which needs only Python and an SSH server.
    """
    device = device or read_model(model).manifest.device
    load_device(device)
    if evidence and not model.is_dir():
        raise ConfigError(f"--evidence: {model} is not a bundle folder, so it has no manifest")
    options = BenchOptions(model, device, schemes, threads, compare, seconds, sustained, noise)
    if to:
        from edge.deploy.remote_benchmark import bench_remotely  # imports ssh, tar and zip code only if needed

        report = bench_remotely(to, ssh_config, model, compare, options.arguments(), 60 * sustained)
    else:
        report = _measure(options)
    document = report.to_json()
    if evidence and not report.trial.error:
        add_evidence(model, {key: document[key] for key in _EVIDENCE_KEYS} | {"at": utc_now(), "version": __version__})
    if as_json:
        click.echo(json.dumps(document))
    if report.trial.error:
        raise DeviceError(f"{model}: {report.trial.error}")
    if not as_json:
        for line in _describe(report):
            click.echo(line)
        if evidence:
            click.echo(f"evidence         written to {model / 'manifest.json'}")


def _measure(options: BenchOptions) -> BenchmarkReport:
    """Measure on this machine. Raises InputError, and DeviceError if the rounds differ too much."""
    hardware = read_hardware()
    machine = f"{hardware.board}, {hardware.cores} cores, {hardware.system}, {hardware.architecture}"
    budget_ms = load_device(options.device)[1].latency_budget_ms
    trial = try_in_child(options.model, options.device, options.schemes[0] if options.schemes else None)
    if trial.error:
        return BenchmarkReport(machine, options.device, budget_ms, trial)
    chosen = subjects(options.model, options.device, options.schemes, options.threads)
    count = len(chosen)
    if options.compare:
        chosen += subjects(options.compare, options.device, (), options.threads[:1])
    figures = measure(chosen, options.seconds)
    check_noise(figures, options.noise_percent / 100)
    cold_ms = cold_start_ms(options.model, options.device, trial.scheme)  # before the soak test heats the machine
    return BenchmarkReport(
        machine, options.device, budget_ms, trial, tuple(figures),
        compared=compare_figures(figures[0], figures[count]) if options.compare else None,
        cold_start_ms=round(cold_ms, 1),
        sustained=soak_test(chosen[0], options.sustained_min, _show_minutes) if options.sustained_min else None,
    )  # fmt: skip


def _describe(report: BenchmarkReport) -> list[str]:
    """The report as lines of text."""
    trial = report.trial
    width = max(len(f.name) for f in report.figures)
    lines = [
        report.machine,
        f"{trial.name} {trial.version} as {report.device}: golden samples match; the latency budget is "
        f"{report.latency_budget_ms} ms a frame",
        f"{'':{width}}  {'inference':>16}  {'whole frame':>16}  {'frames/s':>8}",
        *(
            f"{f.name:{width}}  {_format(f.model_ms, f.model_spread)}  {_format(f.whole_ms, f.whole_spread)}  "
            f"{1000 / f.whole_ms:>8.1f}"
            for f in report.figures
        ),
        f"cold start       {report.cold_start_ms:.0f} ms from the start of the process to the first result",
        f"memory           {trial.rss_mb:.0f} MB",
    ]
    return lines + _describe_extras(report)


def _describe_extras(report: BenchmarkReport) -> list[str]:
    lines = []
    if c := report.compared:
        differs = abs(c.ratio - 1) > c.uncertainty
        verdict = f"{c.name} takes" if differs else "no significant difference:"
        lines.append(f"compared         {verdict} {c.ratio:.3f} ± {c.uncertainty:.3f} times the duration")
    if s := report.sustained:
        heat = f"{s.hottest:.0f} °C at most" if s.hottest is not None else "no temperature sensor"
        power = f"; {', '.join(s.power)}" if s.power else ""
        lines.append(
            f"sustained        {s.minutes:.1f} min: {s.first_ms:.2f} ms a frame at first, {s.last_ms:.2f} ms at last, "
            f"{heat}{power}"
        )
    return lines


def _format(ms: float, spread: float) -> str:
    return f"{ms:>8.2f} ms ±{spread:>3.0%}"


def _show_minutes(minutes: float) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{minutes:.1f} min", nl=False, err=True)
