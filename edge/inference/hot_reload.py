"""Another model while the agent runs: tried in a child process first, taken between two frames, or refused by name."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from edge.inference.model import Model, Stamp, open_model, stamp_of
from sightline.bare_model import read_model
from sightline.bundle import Manifest
from sightline.device import load_device
from sightline.errors import InputError, SightlineError

LOOK_S = 1.0
AGAIN_S = 5.0  # a bundle that is being copied is whole some seconds later
NICE = 10


class HotReload:
    """Watches the bundle's place. A bundle that changed there is tried in a child; if it may run, it waits in `take`.

    swaps, refusals: how many. refused: why the newest one was not taken; None once one was. again: set it to have the
    bundle looked at now, changed or not (SIGHUP).
    """

    def __init__(
        self,
        bundle: Path,
        device: str,
        scheme: str | None,
        current: Model,
        stamp: Stamp | None,
        *,
        say: Callable[[str], None],
        replaced: Callable[[Model], None],
    ) -> None:
        """stamp: of the bundle that runs, taken before it was read. say: told what became of a new one. replaced:
        called with the one that takes over."""
        self.swaps = self.refusals = 0
        self.refused: str | None = None
        self.again = threading.Event()
        self._bundle, self._device, self._scheme = bundle, device, scheme
        self._say, self._replaced = say, replaced
        self._seen = stamp
        self._current = current
        self._waiting: Model | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="swap", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self.again.set()

    def take(self) -> Model | None:
        """The model to go on with, once. Costs nothing where there is none."""
        if self._waiting is None:
            return None
        model, self._waiting = self._waiting, None
        return model

    def _run(self) -> None:
        while not self._stopping:
            asked = self.again.wait(LOOK_S)
            self.again.clear()
            stamp = stamp_of(self._bundle)
            if self._stopping or not (asked or (stamp is not None and stamp != self._seen)):
                continue
            self._seen = stamp
            reason = self._try()
            if reason and not asked:
                # rather than refuse half a copy: once more, unless it changes first and is looked at anyway
                self.again.wait(AGAIN_S)
                if stamp_of(self._bundle) == stamp and not self._stopping:
                    reason = self._try()
                elif not self._stopping:
                    continue
            if reason:
                self.refusals += 1
                self.refused = reason
                self._say(f"the new model is refused, {self._current.identity.version} goes on: {reason}")

    def _try(self) -> str | None:
        """Why the bundle cannot take over; None when it waits to, or is the one that runs."""
        from edge.inference.self_test import try_in_child  # the agent's start need not pay for it

        try:
            tried = try_in_child(self._bundle, self._device, self._scheme, nice=NICE)
            if tried.error:
                return tried.error
            config = load_device(self._device)[1]
            read = read_model(self._bundle, config.delegate)
            if tried.sha256 == self._current.identity.sha256 and _runs_as(read.manifest, self._current.manifest):
                return None
            model = open_model(read, config, self._scheme)
            if model.identity.sha256 != tried.sha256:
                raise InputError(f"{self._bundle}: changed while it was tried")
        except SightlineError as e:
            return str(e)
        except Exception as e:  # a fault of ours must not end the watch
            return f"{type(e).__name__}: {e}"
        before = self._current
        self.swaps += 1
        self.refused = None
        self._current = self._waiting = model
        self._replaced(model)
        labels = "" if model.manifest.output.labels == before.manifest.output.labels else "; its labels are others"
        self._say(
            f"model {before.identity.version} is replaced by {model.identity.version} "
            f"({tried.p50_ms:.1f} ms an inference here){labels}"
        )
        return None


def _runs_as(one: Manifest, other: Manifest) -> bool:
    """Whether a run takes the same from both: all but what is for people and reports."""
    return replace(one, metrics={}, provenance={}) == replace(other, metrics={}, provenance={})
