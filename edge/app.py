"""One run of the agent, from its options to its closing figures."""

from __future__ import annotations

import errno
import faulthandler
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cv2

from edge import agent
from edge.capture.capture import NO_MOTION, STREAMING, Capture
from edge.capture.mailbox import Inbox
from edge.capture.sources.base import Source
from edge.capture.sources.factory import make_names_unique, make_source
from edge.capture.sources.recording import Recording, ReplayOptions
from edge.config import AgentConfig, CameraConfig
from edge.credentials import clear_text_warnings, expand, read_env_file, world_readable_warning
from edge.inference.hot_reload import HotReload
from edge.inference.model import Model, open_model, stamp_of
from edge.outputs.event_log import Events, Log
from edge.outputs.file_sinks import JsonLines, Text
from edge.outputs.recorder import Recorder
from edge.results.counters import Counters
from edge.results.publisher import Observer, Results
from edge.results.sink import Sink
from edge.system.sd_notify import Watchdog
from sightline.bare_model import read_for
from sightline.device import DeviceConfig
from sightline.errors import ConfigError, DeviceError, SightlineError, fault_type
from sightline.files import write_file
from sightline.stderr import Stderr
from sightline.text import one_line
from sightline.timestamps import utc_now

if TYPE_CHECKING:
    from edge.outputs.factory import Outputs
    from edge.web.live_page import Page
    from edge.web.routes import Web

_NAMED = re.compile(r"([A-Za-z][\w-]*)=(.+)", re.DOTALL)


def run_agent(
    model: Path, source: tuple[str, ...], device: str | None, scheme: str | None, as_json: bool, o: dict[str, Any]
) -> None:
    """o: the other options of `sightline run`. Raises what ends it before its time."""
    if isinstance(sys.stderr, Stderr):
        sys.stderr.never_wait()
    faulthandler.enable()  # a crash, or whoever ends a process that is stuck, shows where it was
    watchdog = Watchdog()
    stamp = stamp_of(model)
    bundle, device_name, config = read_for(model, device)
    for note in bundle.manifest.provenance.get("assumed", ()):
        click.echo(one_line(f"note: {note}"), err=True)
    if config.runner != "agent":
        raise ConfigError(
            f"{device_name} is not run by `sightline run` but by its {config.runner}; to try the bundle here: "
            "--device desktop"
        )
    for option in ("output", "summary"):
        if o[option]:
            _check_place(o[option], f"--{option}")
    cv2.setNumThreads(1)  # the cores are the interpreter's
    agent_config = _cameras(source, o)
    environment = _environment(o["env_file"])
    for warning in clear_text_warnings(o):
        click.echo(f"warning: {warning}", err=True)
    sources = [_source(name, c, config, environment, o) for name, c in agent_config.cameras.items()]
    make_names_unique(sources)
    names = [s.name for s in sources]
    if len({s.live for s in sources}) > 1:
        raise ConfigError("cameras and replays cannot run together; with --realtime a clip is a camera")
    if not sources[0].live and (o["max_fps"] or o["motion"]):
        raise ConfigError(
            "--max-fps and --motion are for cameras: a replay looks at every frame; --realtime makes a camera of a clip"
        )
    recording = next((s for s in sources if isinstance(s, Recording)), None)
    if recording:
        if len(sources) > 1:
            raise ConfigError(f"{recording.where}: a recording is replayed alone")
        o |= asdict(recording.options)
    lossless = not sources[0].live
    recorder = None
    if o["record"]:
        options = ReplayOptions(o["top"], o["threshold"], o["track"])
        recorder = Recorder(o["record"], lossless=lossless, options=options)
    inbox = Inbox([not s.live for s in sources])
    cameras = [
        Capture(s, mailbox, c.watch)
        for s, mailbox, c in zip(sources, inbox.mailboxes, agent_config.cameras.values(), strict=True)
    ]
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    for camera in cameras:
        camera.start()  # it takes seconds to open: meanwhile the model loads
    sinks: list[Sink] = []
    outputs: Outputs | None = None
    page: Page | None = None
    web: Web | None = None
    showing: threading.Thread | None = None
    swap: HotReload | None = None
    counters, log = Counters(), Log()
    try:
        opened = open_model(bundle, config, scheme)
        if o["track"] and opened.manifest.output.task != "detect":
            raise ConfigError(f"--track: boxes are followed, and this model is there to {opened.manifest.output.task}")
        if as_json:
            sinks.append(JsonLines(None, lossless=lossless, stopping=stopping))
        else:
            sinks.append(Text(lossless=lossless, stopping=stopping))
        if o["output"] or o["mqtt"] or o["webhook"] or o["rules"] or o["zones"] or o["lines"]:
            from edge.outputs.factory import Agent, Outputs, default_name  # SQLite and paho-mqtt cost 80 ms

            def facts() -> dict[str, Any]:
                from edge.system.machine import read_machine

                celsius = read_machine().celsius
                return {"fps": round(counters.recent_fps, 1), "temperature": celsius, "threshold": results.threshold,
                        "model": f"{results.model.identity.name} {results.model.identity.version}",
                        "dropped": sum(counters.dropped.values())}  # fmt: skip

            about = Agent(
                o["name"] or default_name(), names, opened.manifest.output.labels,
                lambda: results.model.identity, facts, lambda value: setattr(results, "threshold", value),
            )  # fmt: skip
            outputs = Outputs(o, about, log, environment, lossless=lossless, stopping=stopping)
            sinks += outputs.sinks
        places = {"places": [asdict(place) for place in outputs.places] if outputs else []}
        observers: list[Observer] = [] if lossless else [Events(log)]
        observers += outputs.observers if outputs else []
        observers += [recorder.observe] if recorder else []
        observers += [recording.compare] if recording else []
        results = Results(
            opened,
            cameras,
            sinks,
            counters,
            device=device_name,
            latency_budget_ms=config.latency_budget_ms,
            top=o["top"] or 0,
            threshold=o["threshold"],
            frames=o["frames"],
            observers=observers,
            track=o["track"],
        )
        for sink in sinks:
            sink.start()

        def replaced(by: Model) -> None:
            watchdog.allow(by.inference_s)
            if o["threshold"] is None and results.threshold == results.model.manifest.output.threshold:
                results.threshold = by.manifest.output.threshold  # the page has not set another one
            if page:
                page.info = _info(device_name, by, names) | places

        swap = HotReload(
            model, device or bundle.manifest.device, scheme, opened, stamp,
            say=lambda line: log.tell("model", line), replaced=replaced,
        )  # fmt: skip
        terminal = os.isatty(1)

        def hung_up(*_: object) -> None:
            if terminal and not os.isatty(1):  # the reader of stdout is gone, as with `| head`
                stopping.set()
            else:
                swap.again.set()

        signal.signal(signal.SIGHUP, hung_up)
        if not lossless:  # a replay is of one model
            swap.start()

        def show_page(after_s: float) -> None:
            nonlocal page, web
            results.first_result_published.wait(after_s)
            from edge.monitoring.health import Monitor
            from edge.web.live_page import Page

            def status() -> dict[str, Any]:
                return {
                    "fps": round(counters.recent_fps, 1),
                    "frames": counters.frames,
                    "dropped": dict(counters.dropped),
                    "threshold": results.threshold,
                    "cameras": {
                        c.source.name: None if c.state in (STREAMING, NO_MOTION) else c.state.text for c in cameras
                    },
                    "outputs": {sink.name: sink.problem for sink in sinks},
                }

            page = Page(
                names,
                fps=config.page_fps,
                width=config.page_width,
                info=_info(device_name, results.model, names) | places,
                status=status,
                set_threshold=lambda value: setattr(results, "threshold", value),
            )
            page.monitor = Monitor(results, cameras, sinks, counters, swap, device_name)
            web = _served(page, o)
            web.start()
            observers.append(page.observe)
            click.echo(f"live page: {web.url}", err=True)

        def show_page_later() -> None:
            try:
                show_page(0.5)
            except SightlineError as e:
                click.echo(f"warning: no live page: {e}", err=True)

        # it costs 20 ms, which the first prediction need not wait for
        risky = ("page_host", "page_cert", "page_key", "new_page_token")  # with which something may be wrong
        if o["page"] and o["page_port"] is None and o["page_address"] == "127.0.0.1" and not any(map(o.get, risky)):
            showing = threading.Thread(target=show_page_later, name="page opener", daemon=True)
            showing.start()
        elif o["page"]:
            show_page(0)
        watchdog.status = lambda: _status(counters, cameras)
        watchdog.ready(opened.inference_s)
        agent.run(
            opened,
            cameras,
            inbox,
            results,
            stopping,
            max_age_ms=agent_config.max_age_ms,
            progress=watchdog.progress,
            replacement=swap.take,
        )
    finally:
        watchdog.stopping()
        if swap:
            swap.stop()
        for camera in cameras:
            camera.stop()
        if outputs:
            outputs.stop(utc_now())
        for sink in sinks:
            sink.close()
        if outputs:
            outputs.close()
        if showing:
            showing.join(5)
        if web:
            web.close()
        if recorder:
            recorder.close()
            click.echo(_recorded(recorder), err=True)
        if counters.frames or counters.not_inferred:
            click.echo(_summary(counters, cameras, sinks, config.latency_budget_ms), err=True)
    if o["summary"]:
        reconnects = sum(sum(camera.reconnects.values()) for camera in cameras)
        figures = {**counters.to_json(), "reconnects": reconnects, "scheme": opened.scheme, "device": device_name}
        write_file(o["summary"], (json.dumps(figures, indent=2) + "\n").encode())
    if recording:
        click.echo(recording.verdict, err=True)
        if recording.different:
            raise DeviceError(f"{recording.where}: this run is not what was recorded")
    if any(sink.stuck for sink in sinks):
        if isinstance(sys.stderr, Stderr):
            sys.stderr.drain()
        os._exit(0)  # a thread that waits for stdout's reader holds its lock: an ordinary exit would wait as well


def _cameras(sources: tuple[str, ...], o: dict[str, Any]) -> AgentConfig:
    """What --config says, or the same of each --source. A source without a name gets none: it keeps its own."""
    if bool(sources) == bool(o["config"]):
        raise ConfigError("either --source (once or more) or --config agent.yaml is needed")
    if o["config"]:
        if o["max_fps"] or o["motion"]:
            raise ConfigError("--max-fps and --motion go with --source; with --config they are keys of each camera")
        config: AgentConfig = o["config"]
        return config
    cameras: dict[str, CameraConfig] = {}
    for i, text in enumerate(sources):
        named = None if Path(text).exists() else _NAMED.fullmatch(text)
        name, source = named.groups() if named else (f"#{i}", text)
        if name in cameras:
            raise ConfigError(f"--source: two cameras are called {name!r}")
        cameras[name] = CameraConfig(source, max_fps=o["max_fps"], motion=o["motion"])
    return AgentConfig(cameras)


def _environment(env_file: Path | None) -> Mapping[str, str]:
    """What `${NAME}` in an address may stand for."""
    if env_file is None:
        return os.environ
    values = read_env_file(env_file)
    if warning := world_readable_warning(env_file):
        click.echo(f"warning: {warning}", err=True)
    return {**os.environ, **values}


def _source(
    name: str, camera: CameraConfig, config: DeviceConfig, environment: Mapping[str, str], o: dict[str, Any]
) -> Source:
    source = make_source(expand(camera.source, environment), config, realtime=o["realtime"], loop=o["loop"])
    if not name.startswith("#"):
        source.name = name
    return source


def _check_place(path: Path, option: str) -> None:
    """Refuse now what would be lost later. The file itself is not opened: it may be a pipe, or its disk full today."""
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


def _status(counters: Counters, cameras: list[Capture]) -> str:
    away = [f"{c.source.name}: {c.state.text}" for c in cameras if c.state not in (STREAMING, NO_MOTION)]
    return "; ".join([*away, f"{counters.recent_fps:.1f} frames a second"])


def _info(device: str, model: Model, sources: list[str]) -> dict[str, Any]:
    """What the page says of the model that runs."""
    metrics = model.manifest.metrics.get(model.scheme) or {}
    metric, title = model.manifest.output.metric
    return {
        "device": device,
        "source": ", ".join(sources),
        "scheme": model.scheme,
        "metric": title,
        "quality": metrics.get(metric),
        "model": {"name": model.identity.name, "version": model.identity.version, "sha256": model.identity.sha256},
    }


def _served(page: Page, o: Mapping[str, Any]) -> Web:
    from edge.web.auth import access_for
    from edge.web.http_server import server_tls
    from edge.web.routes import Web  # http.server costs 20 ms, which `--no-page` need not pay

    address = o["page_address"]
    access, token = access_for(
        address, o["page_host"], tls=bool(o["page_cert"]), token_file=o["page_token_file"], new=o["new_page_token"]
    )
    if o["page_key"] and not o["page_cert"]:
        raise ConfigError("--page-key: goes with --page-cert")
    tls = server_tls(o["page_cert"], o["page_key"], "--page-cert, --page-key") if o["page_cert"] else None
    if not access.encrypted:
        click.echo(
            "warning: without --page-cert others on the network can read the page and its token; behind a proxy that "
            "speaks HTTPS: --page-address 127.0.0.1 --page-host https://NAME",
            err=True,
        )
    if token:
        click.echo(f"the page's token, shown this once: {token}", err=True)
    port = o["page_port"]
    if port is not None:
        return Web(page, port, address=address, access=access, tls=tls)
    try:
        return Web(page, 8480, address=address, access=access, tls=tls)
    except SightlineError:  # another agent has it
        return Web(page, 0, address=address, access=access, tls=tls)


def _recorded(recorder: Recorder) -> str:
    left_out = f"; {recorder.dropped} left out, for writing did not keep up" if recorder.dropped else ""
    ended = f"; stopped: {recorder.failed}" if recorder.failed else ""
    return f"recorded {recorder.frames} frames in {recorder.folder}, {recorder.bytes / 1e6:.1f} MB{left_out}{ended}"


def _summary(counters: Counters, cameras: list[Capture], sinks: list[Sink], budget_ms: float) -> str:
    lines = [
        f"{counters.frames} frames in {counters.seconds:.1f} s: {counters.fps:.1f} a second; "
        f"{counters.over_budget} later than {budget_ms:g} ms after capture",
        f"{'ms':12}{'p50':>9}{'p95':>9}{'p99':>9}",
    ]
    for stage, h in counters.latency.items():
        lines.append(f"{stage:12}" + "".join(f"{h.percentile(p):>9.2f}" for p in (50, 95, 99)))
    dropped = ", ".join(f"{n} {cause}" for cause, n in counters.dropped.items()) or "none"
    lines.append(f"dropped: {dropped}")
    if len(cameras) > 1:
        lines.append("by camera: " + ", ".join(f"{c.source.name} {counters.cameras[c.source.name]}" for c in cameras))
    for code, n in counters.not_inferred.items():
        lines.append(f"not inferred ({n}): {code}, such as: {counters.examples[code]}")
    for camera in cameras:
        if camera.reconnects:
            causes = ", ".join(f"{n} {code}" for code, n in camera.reconnects.items())
            lines.append(f"{camera.source.name} was opened again {sum(camera.reconnects.values())} times ({causes})")
        if camera.resized:
            lines.append(f"{camera.source.name} changed its size {camera.resized} times")
    for sink in sinks:
        if sink.lost or sink.problem:
            lines.append(f"{sink.name}: {sink.lost} results lost{f' ({sink.problem})' if sink.problem else ''}")
        if sink.note:
            lines.append(f"{sink.name}: {sink.note}")
    return "\n".join(map(one_line, lines))
