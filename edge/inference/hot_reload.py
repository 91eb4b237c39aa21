"""Replaces the model while the agent runs: a child process tries the new bundle, the loop takes it between frames."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edge.inference.model import Model, Stamp, open_model, stamp_of
from sightline.bare_model import read_model
from sightline.bundle import Manifest
from sightline.device_config import load_device
from sightline.errors import InputError, SightlineError

if TYPE_CHECKING:
    from edge.inference.self_test import Trial

POLL_S = 1.0  # between two checks for a changed bundle
RETRY_S = 5.0  # before a refused bundle is tried again: a bundle that is being copied is complete some seconds later
NICE = 10  # added to the child's niceness: the agent goes first


@dataclass(frozen=True)
class WatchedBundle:
    """The bundle that runs, and how it is opened.

    path: its folder, or the file of a bare model.
    device: name or path of the device config.
    scheme: variant; None = the one that fits the device.
    stamp: of the bundle that runs, taken before it was read.
    """

    path: Path
    device: str
    scheme: str | None
    stamp: Stamp | None


def _try_in_child(bundle: WatchedBundle) -> Trial:
    from edge.inference.self_test import try_in_child  # the agent's start need not pay for this import

    return try_in_child(bundle.path, bundle.device, bundle.scheme, nice=NICE)


class HotReload:
    """Watches the place of the bundle. A changed bundle is tried, and waits in `take` if it passes.

    Threads: the reload thread (or the caller of `reload`) writes all attributes. Other threads read `reloads`,
    `refusals` and `refusal`, each one value. The agent loop calls `take`; `_lock` protects `_next_model`, which both
    write. Any thread may call `request_reload` and `stop`: they set an event and a flag.

    reloads: number of models that took over.
    refusals: number of models that were refused.
    refusal: why the newest model was refused; None after one took over.
    """

    def __init__(
        self,
        bundle: WatchedBundle,
        current: Model,
        *,
        log: Callable[[str], None],
        on_reload: Callable[[Model], None],
        try_bundle: Callable[[WatchedBundle], Trial] = _try_in_child,
    ) -> None:
        """current: the model that runs.
        log: called with one line about each new model.
        on_reload: called with the model that takes over, before `take` returns it.
        try_bundle: tests the bundle without risk for this process. Raises SightlineError."""
        self.reloads = self.refusals = 0
        self.refusal: str | None = None
        self._bundle, self._stamp = bundle, bundle.stamp
        self._log, self._on_reload, self._try_bundle = log, on_reload, try_bundle
        self._current = current
        self._next_model: Model | None = None
        self._lock = threading.Lock()
        self._requested = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="hot reload", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._requested.set()

    def request_reload(self) -> None:
        """Try the bundle now, changed or not (SIGHUP)."""
        self._requested.set()

    def take(self) -> Model | None:
        """The model that takes over, once. None without a new one, which costs almost nothing."""
        if self._next_model is None:
            return None
        with self._lock:
            model, self._next_model = self._next_model, None
        return model

    def _run(self) -> None:
        while not self._stopping:
            is_request = self._requested.wait(POLL_S)
            self._requested.clear()
            stamp = stamp_of(self._bundle.path)
            if self._stopping or not (is_request or (stamp is not None and stamp != self._stamp)):
                continue
            self._stamp = stamp
            reason = self.reload()
            if reason and not is_request:
                # it may be half a copy: try again, unless it changes first, which starts another attempt anyway
                self._requested.wait(RETRY_S)
                if stamp_of(self._bundle.path) == stamp and not self._stopping:
                    reason = self.reload()
                elif not self._stopping:
                    continue
            if reason:
                self.refusals += 1
                self.refusal = reason
                version = self._current.identity.version
                self._log(f"the new model is refused, and version {version} keeps running: {reason}")

    def reload(self) -> str | None:
        """Try the bundle, and let it take over. Returns why it cannot; None if it does, or is the current one."""
        path = self._bundle.path
        try:
            trial = self._try_bundle(self._bundle)
            if trial.error:
                return trial.error
            config = load_device(self._bundle.device)[1]
            bundle = read_model(path, config.delegate)
            current = self._current
            if trial.sha256 == current.identity.sha256 and _runs_alike(bundle.manifest, current.manifest):
                return None
            model = open_model(bundle, config, self._bundle.scheme)
            if model.identity.sha256 != trial.sha256:
                raise InputError(f"{path}: changed during its self-test")
        except SightlineError as e:
            return str(e)
        except Exception as e:  # a fault of this code must not end the thread
            return f"{type(e).__name__}: {e}"
        self.reloads += 1
        self.refusal = None
        self._current = model
        with self._lock:
            self._next_model = model
        self._on_reload(model)
        labels = "" if model.manifest.output.labels == current.manifest.output.labels else "; the labels changed"
        self._log(
            f"model {current.identity.version} is replaced by {model.identity.version} "
            f"({trial.p50_ms:.1f} ms per inference){labels}"
        )
        return None


def _runs_alike(one: Manifest, other: Manifest) -> bool:
    """Whether a run uses the same of both: all but the parts for people and reports."""
    return replace(one, metrics={}, provenance={}) == replace(other, metrics={}, provenance={})
