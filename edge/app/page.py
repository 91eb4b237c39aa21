"""The live page of a run: opened at once, or a moment later in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from edge.app.state import AgentState, model_info
from edge.inference.model import Model
from edge.monitoring.health import Monitor
from edge.options import PageOptions
from edge.results.publisher import Observer
from edge.results.zones import Zone
from sightline.device_config import DeviceConfig
from sightline.errors import ConfigError, SightlineError

if TYPE_CHECKING:
    from edge.web.live_page import Page
    from edge.web.routes import Web

PORT = 8480
LATER_S = 0.5  # after the first result, or so long after the start


class PageOpener:
    """Opens the page, keeps its facts about the model current, and closes it.

    The opener's thread, or `open`'s caller, writes `_page` and `_web` once and appends the observer; the loop's thread
    reads `_page` in `model_changed`, and the run's thread reads `_web` in `close`, after it has joined the opener.
    """

    def __init__(
        self,
        options: PageOptions,
        config: DeviceConfig,
        device: str,
        state: AgentState,
        zones: Sequence[Zone],
        observers: list[Observer],
    ) -> None:
        """device: name of `config`. observers: of results; the page adds itself."""
        self._options, self._config, self._device, self._state = options, config, device, state
        self._zones = [asdict(zone) for zone in zones]
        self._observers = observers
        self._page: Page | None = None
        self._web: Web | None = None
        self._thread: threading.Thread | None = None

    def open(self, monitor: Monitor, first_result: threading.Event) -> None:
        """Open the page now where its options may be wrong. Otherwise open it soon: it costs 20 ms, and the first
        result need not wait for that. Raises ConfigError and DeviceError."""
        o = self._options
        if not o.page:
            return
        may_fail = o.page_host or o.page_cert or o.page_key or o.new_page_token
        if o.page_port is not None or o.page_address != "127.0.0.1" or may_fail:
            self._open(monitor)
            return

        def open_later() -> None:
            first_result.wait(LATER_S)
            try:
                self._open(monitor)
            except SightlineError as e:
                click.echo(f"warning: no live page: {e}", err=True)

        self._thread = threading.Thread(target=open_later, name="page opener", daemon=True)
        self._thread.start()

    def model_changed(self, model: Model) -> None:
        """The page shows another model from now on."""
        if self._page:
            self._page.info = self._info(model)

    def close(self) -> None:
        if self._thread:
            self._thread.join(5)
        if self._web:
            self._web.close()

    def _open(self, monitor: Monitor) -> None:
        from edge.web.live_page import Page

        state = self._state
        page = Page(
            state.camera_names,
            fps=self._config.page_fps,
            width=self._config.page_width,
            info=self._info(state.results.model),
            status=lambda: asdict(state.page_status()),
            set_threshold=state.set_threshold,
        )
        page.monitor = monitor
        web = serve(page, self._options)
        web.start()
        self._page, self._web = page, web
        self._observers.append(page.observe)
        click.echo(f"live page: {web.url}", err=True)

    def _info(self, model: Model) -> dict[str, Any]:
        return {**model_info(self._device, model, self._state.camera_names), "zones": self._zones}


def serve(page: Page, o: PageOptions) -> Web:
    """The server of the page, not started yet. Raises ConfigError and DeviceError."""
    from edge.web.auth import access_for
    from edge.web.http_server import server_tls
    from edge.web.routes import Web  # http.server costs 20 ms, which `--no-page` need not pay

    access, token = access_for(
        o.page_address, o.page_host, tls=bool(o.page_cert), token_file=o.page_token_file, new=o.new_page_token
    )
    if o.page_key and not o.page_cert:
        raise ConfigError("--page-key: needs --page-cert.")
    tls = server_tls(o.page_cert, o.page_key, "--page-cert, --page-key") if o.page_cert else None
    if not access.encrypted:
        click.echo(
            "warning: the page is not encrypted. Others on the network can read it and its token. Pass --page-cert, or "
            "use a proxy with HTTPS and --page-address 127.0.0.1 --page-host https://NAME.",
            err=True,
        )
    if token:
        click.echo(f"token of the page, shown only once: {token}", err=True)
    if o.page_port is not None:
        return Web(page, o.page_port, address=o.page_address, access=access, tls=tls)
    try:
        return Web(page, PORT, address=o.page_address, access=access, tls=tls)
    except SightlineError:  # another agent has the port
        return Web(page, 0, address=o.page_address, access=access, tls=tls)
