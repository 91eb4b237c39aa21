"""Passwords: their sources, and that they are shown nowhere."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from edge.addresses import AddressError, expand, expand_text, parse_address
from edge.env_file import read_env_file, world_readable_warning
from edge.hide_passwords import (
    clear_text_warnings,
    command_line_warnings,
    hidden,
    sends_in_clear,
    shows_credentials,
    without_credentials,
)
from edge.outputs.webhook_client import parse_receiver
from sightline.errors import InputError
from tests.conftest import Sightline

SECRET = "hun/t@er:2?#%é ter"


@pytest.mark.parametrize(
    ("address", "expanded"),
    [
        ("rtsp://${U}:${P}@cam:8554/live?channel=1", "rtsp://admin:p%40ss@cam:8554/live?channel=1"),
        ("rtsp://admin:${P}@cam/live", "rtsp://admin:p%40ss@cam/live"),
        ("rtsp://${BOTH}@cam/live", "rtsp://admin:p%40s%3As@cam/live"),
        ("rtsp://admin:${EMPTY}@cam/live", "rtsp://admin:@cam/live"),
        ("http://cam/video.cgi?user=${U}&pwd=${P}", "http://cam/video.cgi?user=admin&pwd=p%40ss"),
        ("http://${HOST}/${PATH_}", "http://10.0.0.9:81/a/b"),
        ("http://cam/x?${QUERY}", "http://cam/x?a=1&b=2"),
        ("rtsp://cam/live", "rtsp://cam/live"),
        ("clip ${P}.mp4", "clip ${P}.mp4"),
        ("/dev/video0", "/dev/video0"),
    ],
)
def test_a_reference_is_replaced_and_escaped_where_it_must_be(address: str, expanded: str) -> None:
    values = {"U": "admin", "P": "p@ss", "BOTH": "admin:p@s:s", "EMPTY": ""}
    values |= {"HOST": "10.0.0.9:81", "PATH_": "a/b", "QUERY": "a=1&b=2"}
    assert expand(address, values) == expanded


def test_any_password_arrives_as_it_is() -> None:
    parts = urlsplit(expand("rtsp://${U}:${P}@cam/live", {"U": "a@b", "P": SECRET}))
    assert (parts.hostname, parts.path) == ("cam", "/live")
    assert (unquote(parts.username or ""), unquote(parts.password or "")) == ("a@b", SECRET)


@pytest.mark.parametrize(
    ("address", "word"),
    [
        ("rtsp://${U}:${ABSENT}@cam/live", "ABSENT"),
        ("rtsp://${U}:${1P}@cam/live", "NAME"),
        ("rtsp://${U}:${P@cam/live", "NAME"),
        ("rtsp://${U}:${BROKEN}@cam/live", "BROKEN"),
    ],
)
def test_what_cannot_be_replaced_is_named_without_any_value(address: str, word: str) -> None:
    with pytest.raises(InputError, match=word) as raised:
        expand(address, {"U": "admin7", "P": "hunter2", "BROKEN": "hunter2\nHost: x"})
    assert "hunter2" not in str(raised.value) and "admin7" not in str(raised.value)


PORTS = {"rtsp": 554, "https": 443}


def test_an_address_is_parsed_into_its_parts() -> None:
    address = parse_address("https://me:p%40ss@[::1]/a%20b?x=1#y", PORTS)
    assert (address.host, address.port, address.tls) == ("::1", 443, True)
    assert (address.target, address.login, address.netloc) == ("/a%20b?x=1", "me:p@ss", "[::1]:443")
    address = parse_address("rtsp://cam:8554", PORTS)
    assert (address.target, address.login, address.netloc, address.tls) == ("/", "", "cam:8554", False)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("rtsp://u:hunter2@[::1", "the host cannot be read"),
        ("rtsp://u:hun/ter2@cam/", "the port is not a number"),
        ("rtsp://u:hunter2@cam:70000/", "the port is not a number from 0 to 65535"),
        ("ftp://u:hunter2@cam/", "it must begin with rtsp:// or https://"),
        ("rtsp:///live", "it has no valid host"),
        ("rtsp://u:hunter2@cam..local/", "it has no valid host"),
    ],
)
def test_what_is_wrong_with_an_address_is_named_without_its_password(address: str, words: str) -> None:
    with pytest.raises(AddressError, match=words) as raised:
        parse_address(address, PORTS)
    assert "hun" not in str(raised.value) and "ter2" not in str(raised.value)


def test_a_reference_in_a_header_is_replaced_as_it_is() -> None:
    assert (
        expand_text("Authorization: Bearer ${T}", {"T": "a/b@c"}, "--webhook-header") == "Authorization: Bearer a/b@c"
    )
    with pytest.raises(InputError, match=r"--webhook-header: \$\{T\} is not set"):
        expand_text("X: ${T}", {}, "--webhook-header")
    with pytest.raises(InputError, match="--webhook-header: not a valid reference"):
        expand_text("X: ${T", {}, "--webhook-header")


@pytest.mark.parametrize(
    ("address", "shows"),
    [
        ("rtsp://admin:hunter2@cam/live", True),
        ("rtsp://hunter2@cam/live", True),
        ("rtsp://admin:hun/ter2@cam/live", True),
        ("http://cam/x?user=admin&pwd=hunter2", True),
        ("http://cam/x?pwd=hun@ter2", True),
        ("rtsp://admin:@cam/live", False),
        ("rtsp://admin:${P}@cam/live", False),
        ("rtsp://${U}:${P}@cam/live?channel=2&subtype=0", False),
        ("http://cam/x?pwd=${P}", False),
        ("rtsp://cam:8554/live", False),
        ("clip@home.mp4", False),
    ],
)
def test_an_address_with_a_password_is_known_by_it(address: str, shows: bool) -> None:
    assert shows_credentials(address) is shows
    assert "ter2" not in without_credentials(address if "://" in address else f"x://{address}")


HOOK = "https://hooks.slack.com/services/T02ABCDEF/B03ABCDEF/9fQzXk3hunter2LmVbN8wRtY"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        # cameras with a query in their path, parted by & or by _
        ("rtsp://h/user=admin&password=hunter2&channel=1.sdp", "rtsp://h/channel=1.sdp"),
        ("rtsp://h:554/user=admin_password=hunter2_channel=1_stream=0.sdp?real", "rtsp://h:554/channel=1&stream=0.sdp"),
        ("rtsp://h/user=admin&password=hunter2", "rtsp://h/..."),
        ("rtsp://h/user=admin&password=hun/ter2&x=1/ter2", "rtsp://h/.../.../..."),
        ("rtsp://h/user=admin&password=hun@ter2&channel=1.sdp", "rtsp://..."),
        ("rtsp://h/user=admin&password=hun@ter2", "rtsp://..."),
        ("rtsps://10.0.0.1:7441/aB3dEf6hunter2kLm?enableSrtp", "rtsps://10.0.0.1:7441/..."),
        ("http://h/mjpg?key=hunter2;channel=2", "http://h/mjpg?channel=2"),
        # receivers whose path is their password
        (HOOK, "https://hooks.slack.com/services/.../.../..."),
        ("http://homeassistant.local:8123/api/webhook/hunter2", "http://homeassistant.local:8123/api/webhook/..."),
        (
            "https://maker.ifttt.com/trigger/ev/with/key/dQw4w9WgXcQ-_hunter2",
            "https://maker.ifttt.com/trigger/ev/with/key/...",
        ),
        ("https://h/bot123456:AAFF-hunter2_DEF/sendMessage", "https://h/.../sendMessage"),
        ("https://h/api/token/hunter2", "https://h/api/token/..."),
        ("rtsp://h/user:hunter2/ch1", "rtsp://h/.../ch1"),
        # users with their password, and keys under a harmless name
        ("http://h/x?user=admin:hunter2&channel=1", "http://h/x?channel=1"),
        ("http://h/x?user=admin%3Ahunter2", "http://h/x"),
        ("http://h/live?stream=aB3dEf6hunter2kLm&channel=1", "http://h/live?channel=1"),
        ("http://h/x?password=live&unknown=hunter2", "http://h/x"),
        ("https://h/v1/aaaahunter2-not/0f8fad5b-d9cb-469f-a165-70867728950e", "https://h/v1/aaaahunter2-not/..."),
    ],
)
def test_a_password_in_a_path_is_known_and_hidden(address: str, shown: str) -> None:
    assert shows_credentials(address)
    assert without_credentials(address) == shown


def test_the_shown_address_of_a_receiver_has_no_password() -> None:
    assert parse_receiver(HOOK, {}).where == "https://hooks.slack.com:443/..."
    assert parse_receiver("https://ntfy.sh/kitchen", {}).where == "https://ntfy.sh:443/..."
    assert parse_receiver("https://h?topic=kitchen", {}).where == "https://h:443/..."
    assert parse_receiver("https://h", {}).where == "https://h:443/"


@pytest.mark.parametrize(
    "address",
    [
        "rtsp://cam/h264Preview_01_main",
        "rtsp://cam/Streaming/Channels/101",
        "rtsp://cam/cam/realmonitor?channel=1&subtype=0",
        "rtsp://cam/user=admin&password=${P}&channel=1&stream=0.sdp?real_stream",
        "rtsp://cam/user=admin_password=${P}_channel=1.sdp",
        "http://cam/x?user=admin&pwd=${P}",
        "http://receiver:8000/hook",
        "rtsp://cam/livestreammainchannel",
        "rtsp://cam/livestreammainchannel2",
        "http://cam:8080/?action=stream",
        "rtsp://${U}:${P}@cam:554/cam/realmonitor?channel=1&subtype=0&unicast=true&proto=Onvif",
        "rtsp://cam/Streaming/Channels/101?transportmode=unicast&profile=Profile_1",
        "rtsp://cam/onvif-media/media.amp?profile=profile_1_h264&sessiontimeout=60&streamtype=unicast",
        "http://cam/axis-cgi/mjpg/video.cgi?resolution=640x480&compression=30&deinterlacing=on",
        "https://api.example.org/services/ingest/v1",
        "https://ha/x?user=${U}:${P}",
        "https://h/bot${TOKEN}/sendMessage",
        "https://ha/api/webhook/${HOOK}",
        "https://hooks.slack.com/services/${SLACK}",
    ],
)
def test_an_ordinary_path_and_a_reference_are_no_password(address: str) -> None:
    assert not shows_credentials(address)


@pytest.mark.parametrize(
    ("option", "value", "shown"),
    [
        ("webhook_header", "Authorization: Bearer hunter2", "Authorization: ..."),
        ("webhook_header", "X-Api-Key:hunter2", "X-Api-Key: ..."),
        ("webhook_header", "X-Site: 9fQzXk3hunter2LmVbN8wRtY", "X-Site: ..."),
        ("webhook_header", "X-Api: hunter2", "X-Api: ..."),
        ("webhook_header", "X-Site: Bearer hunter2", "X-Site: ..."),
        ("webhook_header", "X-Request-Source: sightlinesouthentrance", None),
        ("webhook_header", "Authorization: Bearer ${TOKEN}", None),
        ("webhook", "https://h/kitchen/api/token/hunter2", "https://h/..."),
        ("webhook", "https://h/kitchen", None),
        ("webhook_header", "X-Site: kitchen", None),
        ("mqtt", "me:hunter2@broker", "mqtt://broker"),
        ("mqtt", "me:${P}@broker", None),
        ("mqtt", "broker:1884", None),
        ("mqtt", "", None),
        ("source", "test:640x480@10", None),
        ("source", "door=rtsp://u:hunter2@cam/live", "door=rtsp://cam/live"),
    ],
)
def test_each_option_hides_its_own_kind_of_password(option: str, value: str, shown: str | None) -> None:
    assert hidden(option, value) == (value if shown is None else shown)


@pytest.mark.parametrize(
    ("address", "clear"),
    [
        ("mqtt://${U}:${P}@broker", True),
        ("me:hunter2@broker", True),
        ("mqtts://${U}:${P}@broker", False),
        ("mqtt://broker", False),
        ("mqtt://${U}:${P}@127.0.0.1", False),
        ("http://ha.local/api/webhook/${HOOK}", True),
        ("http://ha.local/hook?key=${KEY}", True),
        (HOOK, False),
    ],
)
def test_a_password_that_goes_over_the_network_unencrypted_is_known(address: str, clear: bool) -> None:
    assert sends_in_clear(address) is clear


def env_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "cameras.env"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path


def test_an_env_file_is_read_as_systemd_and_docker_read_it(tmp_path: Path) -> None:
    text = """
# a comment
; another
A=plain and spaces
  B='single "quotes" \\ kept'
C="double 'quotes' # no comment"
D=
E=a=b'c
A=the last one counts
"""
    assert read_env_file(env_file(tmp_path, text)) == {
        "A": "the last one counts",
        "B": 'single "quotes" \\ kept',
        "C": "double 'quotes' # no comment",
        "D": "",
        "E": "a=b'c",
    }
    assert read_env_file(env_file(tmp_path, "\ufeffA=1\r\nB=2\r\n")) == {"A": "1", "B": "2"}


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("hunter2", "expected NAME=value"),
        ("export P=hunter2", "export"),
        ("P =hunter2", "directly before the ="),
        ("P= hunter2", "P: remove the space"),
        ("1P=hunter2", "letters, digits"),
        ("P='hunter2", "P: a quotation mark"),
        ('P="hunter2" x', "P: a quotation mark"),
        ("P=hunt\\er2", r"P: systemd and Docker read a \\ differently"),
        ('P="hunt\\"er2"', r"P: systemd and Docker read a \\ differently"),
    ],
)
def test_what_is_wrong_in_an_env_file_is_named_by_its_line_and_never_shown(
    tmp_path: Path, line: str, word: str
) -> None:
    with pytest.raises(InputError, match=rf"cameras\.env, line 3: .*{word}") as raised:
        read_env_file(env_file(tmp_path, f"A=1\n\n{line}\n"))
    assert "hunt" not in str(raised.value)


def test_an_env_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.env: cannot be read: No such file"):
        read_env_file(tmp_path / "absent.env")
    (tmp_path / "x.env").write_bytes(b"A=\xff\xfe\n")
    with pytest.raises(InputError, match=r"x\.env: not UTF-8"):
        read_env_file(tmp_path / "x.env")


def test_an_env_file_that_every_user_can_read_is_warned_of(tmp_path: Path) -> None:
    path = env_file(tmp_path, "A=1")
    assert world_readable_warning(path) is None
    path.chmod(0o644)
    assert "chmod 600" in str(world_readable_warning(path))


def test_a_password_on_the_command_line_is_warned_of_without_showing_it() -> None:
    values = {
        "source": ["a.mp4", "rtsp://admin:hunter2@10.0.0.9:8554/live?channel=1"],
        "mqtt": ["me:hunter3@broker"],
        "webhook": [""],
        "webhook_header": ["X-Site: kitchen", "Authorization: Bearer hunter4"],
    }
    hint = "the password is visible to other users of this machine in the process list. Put it into a file and use "
    assert command_line_warnings(values) == [
        f"--{name}: {hint}--env-file." for name in ("source", "mqtt", "webhook-header")
    ]
    assert command_line_warnings({"source": ["rtsp://${U}:${P}@10.0.0.9/live"], "mqtt": [""]}) == []


def test_a_run_warns_of_a_password_on_its_command_line(bundle: Path, sightline: Sightline) -> None:
    header = "Authorization: Bearer hunter4"
    done = sightline("run", bundle, "--source", "test:", "--frames", 1, "--no-page", "--webhook-header", header)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[0].startswith("warning: --webhook-header: the password is visible to other users")
    assert "hunter" not in done.stderr + done.stdout


def test_a_password_that_goes_out_unencrypted_is_warned_of() -> None:
    warnings = clear_text_warnings(
        {"mqtt": "mqtt://me:hunter2@broker", "webhook": "http://host/?key=hunter2", "on": ()}
    )  # type: ignore[dict-item]
    hint = "others on the network can read the password. Use"
    assert warnings == [f"--mqtt: {hint} mqtts:// to encrypt it.", f"--webhook: {hint} https:// to encrypt it."]
    assert clear_text_warnings({"mqtt": "mqtts://me:hunter2@broker", "webhook": None}) == []
    assert clear_text_warnings({"mqtt": "mqtt://me:hunter2@127.0.0.1", "webhook": "http://host/hook"}) == []
