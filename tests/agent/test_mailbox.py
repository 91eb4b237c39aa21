"""The mailbox of one camera, and the inbox of several: drops, turns, ends and errors."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from edge.capture.mailbox import SLOTS, Inbox, Mailbox
from sightline.errors import InputError


def put(mailbox: Mailbox, frame_id: int) -> None:
    slot = mailbox.empty_slot()
    assert slot is not None
    slot.frame_id = frame_id
    mailbox.put(slot)


def test_the_newest_frame_wins_and_what_it_displaced_is_counted() -> None:
    mailbox = Mailbox(lossless=False)
    for i in range(5):
        put(mailbox, i)
    slot = mailbox.take(0)
    assert slot is not None
    assert (slot.frame_id, slot.dropped) == (4, {"overwritten": 4})


def test_drops_are_reported_once() -> None:
    mailbox = Mailbox(lossless=False)
    put(mailbox, 0)
    put(mailbox, 1)
    mailbox.count_dropped("corrupt")
    first = mailbox.take(0)
    assert first is not None and first.dropped == {"overwritten": 1, "corrupt": 1}
    mailbox.release(first)
    put(mailbox, 2)
    second = mailbox.take(0)
    assert second is not None and second.dropped == {}


@pytest.mark.parametrize("lossless", [False, True])
def test_slots_go_round_and_none_is_made_for_a_frame(lossless: bool) -> None:
    mailbox = Mailbox(lossless=lossless)
    seen = set()
    for i in range(20):
        put(mailbox, i)
        slot = mailbox.take(0)
        assert slot is not None
        seen.add(id(slot.image))
        mailbox.release(slot)
    assert len(seen) <= SLOTS


def test_a_slot_in_inference_is_not_filled_again() -> None:
    mailbox = Mailbox(lossless=False)
    put(mailbox, 0)
    taken_slot = mailbox.take(0)
    assert taken_slot is not None
    for i in range(1, 10):
        slot = mailbox.empty_slot()
        assert slot is not None and slot is not taken_slot
        slot.frame_id = i
        mailbox.put(slot)
    assert taken_slot.frame_id == 0


def test_a_replay_waits_for_the_reader_and_never_drops() -> None:
    mailbox = Mailbox(lossless=True)
    writer = threading.Thread(target=lambda: [put(mailbox, i) for i in range(40)], daemon=True)
    writer.start()
    seen = []
    while len(seen) < 40:
        slot = mailbox.take(2)
        assert slot is not None, f"nothing after {seen}"
        assert slot.dropped == {}
        seen.append(slot.frame_id)
        time.sleep(0.002)
        mailbox.release(slot)
    assert seen == list(range(40))
    writer.join(2)


def test_a_replays_second_frame_waits_until_the_first_is_taken() -> None:
    mailbox = Mailbox(lossless=True)
    put(mailbox, 0)
    writer = threading.Thread(target=put, args=(mailbox, 1), daemon=True)
    writer.start()
    writer.join(0.2)
    assert writer.is_alive()
    slot = mailbox.take(0)
    assert slot is not None and slot.frame_id == 0
    writer.join(2)
    assert not writer.is_alive()


def test_taking_from_an_empty_mailbox_ends_in_time() -> None:
    mailbox = Mailbox(lossless=False)
    began = time.monotonic()
    assert mailbox.take(0.1) is None
    assert 0.09 < time.monotonic() - began < 1
    assert not mailbox.ended


@pytest.mark.parametrize("waiting_for", ["a frame", "room", "an empty slot"])
def test_closing_wakes_everybody(waiting_for: str) -> None:
    mailbox = Mailbox(lossless=True)
    spare = mailbox.empty_slot()
    assert spare is not None
    if waiting_for == "room":
        put(mailbox, 0)
    if waiting_for == "an empty slot":
        assert all(mailbox.empty_slot() for _ in range(SLOTS - 1))
    wait = {
        "a frame": lambda: mailbox.take(60),
        "room": lambda: mailbox.put(spare),
        "an empty slot": mailbox.empty_slot,
    }
    thread = threading.Thread(target=wait[waiting_for], daemon=True)
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    mailbox.close()
    thread.join(2)
    assert not thread.is_alive()


def test_what_waits_can_be_taken_after_closing() -> None:
    mailbox = Mailbox(lossless=True)
    put(mailbox, 7)
    mailbox.close()
    assert not mailbox.ended
    slot = mailbox.take(0)
    assert slot is not None and slot.frame_id == 7
    assert mailbox.ended
    assert mailbox.take(0) is None
    assert mailbox.empty_slot() is None


def test_the_error_comes_after_the_last_frame_and_once() -> None:
    mailbox = Mailbox(lossless=True)
    put(mailbox, 0)
    mailbox.close(InputError("the clip is cut off"))
    assert mailbox.take(0) is not None
    with pytest.raises(InputError, match="the clip is cut off"):
        mailbox.take(0)
    assert mailbox.take(0) is None


def test_a_frame_that_is_larger_than_most_is_not_kept() -> None:
    mailbox = Mailbox(lossless=False)
    for side, is_kept in ((100, True), (4000, False)):
        slot = mailbox.empty_slot()
        assert slot is not None
        slot.frame = np.empty((side, side, 3), np.uint8)
        mailbox.release(slot)
        assert (slot.frame is not None) == is_kept


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
