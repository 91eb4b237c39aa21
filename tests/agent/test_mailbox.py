"""Several cameras' mailboxes before one interpreter: turns, ends and errors."""

from __future__ import annotations

import threading
import time

import pytest

from edge.capture.mailbox import Inbox, Mailbox
from sightline.errors import InputError


def put(mailbox: Mailbox, frame_id: int) -> None:
    slot = mailbox.empty_slot()
    assert slot is not None
    slot.frame_id = frame_id
    mailbox.put(slot)


def test_cameras_take_turns_however_fast_one_of_them_is() -> None:
    inbox = Inbox([False, False, False])
    fast, slow, silent = inbox.mailboxes
    taken = []
    for i in range(12):
        put(fast, i)
        if i % 3 == 0:
            put(slow, i)
        slot = inbox.take(0)
        assert slot is not None
        taken.append(slot.camera)
        inbox.release(slot)
    assert taken.count(1) == 4, "the slow one never waits for more than one frame of the fast one"
    assert taken[:2] == [0, 1]
    assert silent.take(0) is None


def test_each_camera_has_its_own_drops() -> None:
    inbox = Inbox([False, False])
    for i in range(3):
        put(inbox.mailboxes[0], i)
    put(inbox.mailboxes[1], 0)
    first, second = inbox.take(0), inbox.take(0)
    assert first is not None and second is not None
    assert (first.camera, first.frame_id, first.dropped) == (0, 2, {"overwritten": 2})
    assert (second.camera, second.dropped) == (1, {})


def test_a_frame_of_any_camera_wakes_the_loop() -> None:
    inbox = Inbox([False, False])
    threading.Timer(0.1, put, (inbox.mailboxes[1], 5)).start()
    began = time.monotonic()
    slot = inbox.take(5)
    assert slot is not None and slot.frame_id == 5
    assert time.monotonic() - began < 2


def test_one_that_ended_does_not_end_the_others() -> None:
    inbox = Inbox([True, True])
    put(inbox.mailboxes[0], 0)
    inbox.mailboxes[0].close()
    assert inbox.take(0) is not None
    assert not inbox.ended
    began = time.monotonic()
    assert inbox.take(0.2) is None
    assert time.monotonic() - began >= 0.19, "it waits for the other one, and does not spin"
    inbox.mailboxes[1].close()
    assert inbox.ended


def test_an_error_is_raised_and_wakes_the_loop() -> None:
    inbox = Inbox([True, True])
    threading.Timer(0.1, inbox.mailboxes[1].close, (InputError("cut off"),)).start()
    with pytest.raises(InputError, match="cut off"):
        inbox.take(5)
    assert not inbox.ended, "the other one goes on, if the loop does"
