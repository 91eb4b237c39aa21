"""One run of the agent, from its options to its closing figures."""

from __future__ import annotations

import errno
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import click
import cv2

from edge import agent
from edge.app.cameras import Cameras, open_cameras, read_environment
from edge.app.page import PageOpener
from edge.app.state import AgentState
from edge.app.summary import recording_text, summary_text, write_summary
from edge.capture.sources.recording import ReplayOptions
from edge.hide_passwords import clear_text_warnings
from edge.inference.hot_reload import HotReload, WatchedBundle
from edge.inference.model import Model, Stamp, open_model, stamp_of
from edge.monitoring.health import Monitor
from edge.options import RunOptions
from edge.outputs.event_log import Events, Log
from edge.outputs.file_sinks import JsonLines, Text
from edge.outputs.recorder import Recorder
from edge.results.counters import Counters
from edge.results.publisher import Observer, ResultOptions, Results
from edge.results.sink import Sink
from edge.results.zones import Zone
from edge.system.sd_notify import Watchdog
from sightline.bare_model import read_for
from sightline.device_config import DeviceConfig
from sightline.errors import ConfigError, DeviceError, fault_type
from sightline.stderr import Stderr
from sightline.text import one_line
from sightline.timestamps import utc_now


@dataclass(frozen=True)
class Setup:
    """What the parts of a run share.

    device: name of `config`.
    environment: values of `${NAME}` in addresses.
    sinks, observers: of results; parts add their own while the run opens.
    """

    options: RunOptions
    device: str
    config: DeviceConfig
    environment: Mapping[str, str]
    cameras: Cameras
    watchdog: Watchdog = field(default_factory=Watchdog)
    counters: Counters = field(default_factory=Counters)
    log: Log = field(default_factory=Log)
    stopping: threading.Event = field(default_factory=threading.Event)
    sinks: list[Sink] = field(default_factory=list)
    observers: list[Observer] = field(default_factory=list)


def run_agent(options: RunOptions) -> None:
    """Run until every source has ended, or a signal or an error ends it. Raises what ends it before its time."""
    _prepare_process()
    stamp = stamp_of(options.model.model)
    bundle, device, config = read_for(options.model.model, options.model.device)
    _check(options, device, config, bundle.manifest.provenance.get("assumed", ()))
    environment = read_environment(options.cameras.env_file)
    cameras = open_cameras(options.cameras, config, environment)
    if cameras.recording:
        options = replace(options, predictions=replace(options.predictions, **asdict(cameras.recording.options)))
    options = replace(options, model=replace(options.model, device=options.model.device or bundle.manifest.device))
    setup = Setup(options, device, config, environment, cameras)
    with ExitStack() as stack:  # closes in reverse order, each part even if another one fails
        stack.callback(_print_summary, setup)
        recorder = _open_recorder(setup, stack)
        _stop_on_signals(setup.stopping)
        cameras.start()  # a camera takes seconds to open: meanwhile the model loads
        stack.callback(cameras.stop)
        model = open_model(bundle, config, options.model.scheme)
        results = _open_results(setup, model)
        state = AgentState(results, cameras, setup.sinks, setup.counters)
        zones = _open_outputs(setup, state, stack)
        setup.observers.extend([recorder.observe] if recorder else [])
        setup.observers.extend([cameras.recording.compare] if cameras.recording else [])
        page = PageOpener(options.page, config, device, state, zones, setup.observers)
        stack.callback(page.close)
        reload = _open_reload(setup, state, page, model, stamp)
        stack.callback(reload.stop)
        monitor = Monitor(results, cameras.captures, setup.sinks, setup.counters, reload, device)
        page.open(monitor, results.first_result_published)
        stack.callback(setup.watchdog.stopping)
        setup.watchdog.status = state.systemd_status
        setup.watchdog.ready(model.inference_s)
        loop = agent.LoopOptions(cameras.max_age_ms, on_turn=setup.watchdog.progress, take_model=reload.take)
        agent.run(model, cameras.captures, cameras.inbox, results, setup.stopping, loop)
    _report(setup, model)


def _prepare_process() -> None:
    if isinstance(sys.stderr, Stderr):
        sys.stderr.never_wait()
    faulthandler.enable()  # a crash, or whoever ends a stuck process, shows where it was
    cv2.setNumThreads(1)  # the cores are the interpreter's


def _check(options: RunOptions, device: str, config: DeviceConfig, assumptions: Sequence[str]) -> None:
    """What can be refused or warned of before anything is opened."""
    for assumption in assumptions:
        click.echo(one_line(f"note: {assumption}"), err=True)
    if config.runner != "agent":
        raise ConfigError(
            f"{device}: `sightline run` does not run on this device; its {config.runner} does. To try the bundle here, "
            "pass --device desktop."
        )
    for path, option in ((options.outputs.file.output, "--output"), (options.summary, "--summary")):
        if path:
            check_writable(path, option)
    outputs = options.outputs
    for warning in clear_text_warnings({"mqtt": outputs.mqtt.mqtt, "webhook": outputs.webhook.webhook}):
        click.echo(f"warning: {warning}", err=True)


def check_writable(path: Path, option: str) -> None:
    """Refuse a file now whose content would be lost later. It is not opened: it may be a pipe, or its disk full today.

    Raises ConfigError, and DeviceError for a read-only file system.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise fault_type(e, ConfigError)(f"{option} {path}: its folder cannot be made: {e.strerror}") from None
    if path.is_dir():
        raise ConfigError(f"{option} {path}: is a folder; a file is needed")
    place = path if path.exists() else path.parent
    if not os.access(place, os.W_OK):
        if os.statvfs(place).f_flag & os.ST_RDONLY:  # so Linux leaves a file system with errors
            raise DeviceError(f"{option} {path}: cannot be written: {os.strerror(errno.EROFS)}")
        raise ConfigError(f"{option} {path}: this user may not write there")


def _stop_on_signals(stopping: threading.Event) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())


def _open_recorder(setup: Setup, stack: ExitStack) -> Recorder | None:
    options = setup.options
    if not options.record:
        return None
    replay = ReplayOptions(options.predictions.top, options.predictions.threshold, options.predictions.track)
    recorder = Recorder(options.record, lossless=setup.cameras.lossless, options=replay)
    stack.callback(lambda: click.echo(recording_text(recorder), err=True))
    stack.callback(recorder.close)
    return recorder


def _open_results(setup: Setup, model: Model) -> Results:
    options = setup.options.predictions
    if options.track and model.manifest.output.task != "detect":
        raise ConfigError(f"--track: needs a detector. The task of this model is {model.manifest.output.task}.")
    result_options = ResultOptions(
        setup.device, setup.config.latency_budget_ms, top=options.top or 0, threshold=options.threshold,
        frames=options.frames, track=options.track,
    )  # fmt: skip
    return Results(
        model, setup.cameras.captures, setup.sinks, setup.counters, result_options, observers=setup.observers
    )


def _open_outputs(setup: Setup, state: AgentState, stack: ExitStack) -> Sequence[Zone]:
    """Adds sinks and observers to the setup, and starts the sinks. Returns the zones and lines."""
    lossless, stopping, options = setup.cameras.lossless, setup.stopping, setup.options
    if options.as_json:
        setup.sinks.append(JsonLines(None, lossless=lossless, stopping=stopping))
    else:
        setup.sinks.append(Text(lossless=lossless, stopping=stopping))
    if not lossless:
        setup.observers.append(Events(setup.log))
    outputs = None
    if options.outputs.has_outputs or options.outputs.has_events:
        from edge.outputs.factory import Agent, Outputs, default_name  # SQLite and paho-mqtt cost 80 ms

        who = Agent(
            options.outputs.name or default_name(), setup.cameras.names, state.results.model.manifest.output.labels,
            lambda: state.results.model.identity, lambda: asdict(state.facts()), state.set_threshold,
        )  # fmt: skip
        outputs = Outputs(
            options.outputs, who, setup.log, setup.environment, track=options.predictions.track, lossless=lossless,
            stopping=stopping,
        )  # fmt: skip
        stack.callback(outputs.close)
        setup.sinks.extend(outputs.sinks)
        setup.observers.extend(outputs.observers)
    for sink in setup.sinks:
        stack.callback(sink.close)
        sink.start()
    if outputs is None:
        return ()
    stack.callback(lambda: outputs.stop(utc_now()))  # open events end before the sinks close
    return outputs.zones


def _open_reload(setup: Setup, state: AgentState, page: PageOpener, model: Model, stamp: Stamp | None) -> HotReload:
    """Watches for a new bundle, and looks at once upon SIGHUP. stamp: of the bundle that runs."""
    options, results = setup.options, state.results

    def replaced(new: Model) -> None:
        setup.watchdog.allow(new.inference_s)
        if options.predictions.threshold is None and results.threshold == results.model.manifest.output.threshold:
            results.threshold = new.manifest.output.threshold  # unless the page or MQTT has set another one
        page.model_changed(new)

    assert options.model.device is not None
    watched = WatchedBundle(options.model.model, options.model.device, options.model.scheme, stamp)
    reload = HotReload(watched, model, log=lambda line: setup.log.event("model", line), on_reload=replaced)
    terminal = os.isatty(1)

    def hung_up(*_: object) -> None:
        if terminal and not os.isatty(1):  # the terminal is gone
            setup.stopping.set()
        else:
            reload.request_reload()

    signal.signal(signal.SIGHUP, hung_up)
    if not setup.cameras.lossless:  # a replay is of one model
        reload.start()
    return reload


def _print_summary(setup: Setup) -> None:
    if setup.counters.frames or setup.counters.not_inferred:
        text = summary_text(setup.counters, setup.cameras, setup.sinks, setup.config.latency_budget_ms)
        click.echo(text, err=True)


def _report(setup: Setup, model: Model) -> None:
    """After a run that nothing ended before its time. Raises DeviceError for a replay that differs."""
    if setup.options.summary:
        write_summary(setup.options.summary, setup.counters, setup.cameras, model, setup.device)
    recording = setup.cameras.recording
    if recording:
        click.echo(recording.verdict, err=True)
        if recording.different:
            raise DeviceError(f"{recording.where}: this run differs from the recorded one.")
    if any(sink.stuck for sink in setup.sinks):
        if isinstance(sys.stderr, Stderr):
            sys.stderr.drain()
        os._exit(0)  # a thread that waits for stdout's reader holds its lock: an ordinary exit would wait as well
