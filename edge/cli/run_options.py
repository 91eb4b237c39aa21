"""The options of `sightline run` for outputs and for the live page."""

from __future__ import annotations

from collections.abc import Callable

import click

from sightline.option_types import NEW_FILE, NEW_FOLDER, READ_FILE, Number, Whole

Command = Callable[..., None]


def file_options(command: Command) -> Command:
    """The file of JSON lines."""
    for option in reversed((
        click.option("--output", type=NEW_FILE, help="Append results to this file as JSON lines."),
        click.option(
            "--rotate-mb", type=Whole(0),
            help="Rename the output file to FILE.1 at this size in MB. 0 never renames it.  "
            "[default: 100 for cameras, 0 for replays]",
        ),
        click.option(
            "--rotate-days", type=Whole(0), default=0, show_default=True,
            help="Rename the output file to FILE.1 after this many days. 0 never renames it.",
        ),
        click.option(
            "--rotate-keep", type=Whole(1), default=5, show_default=True,
            help="Number of renamed output files to keep. Older ones are deleted.",
        ),
    )):  # fmt: skip
        command = option(command)
    return command


def event_options(command: Command) -> Command:
    """What an event is."""
    for option in reversed((
        click.option(
            "--on", "rules", multiple=True, metavar="RULE",
            help="Report an event while this rule holds, such as 'fox>=0.8 for 2s'. Repeatable.",
        ),
        click.option(
            "--zone", "zones", multiple=True, metavar="NAME:POINTS",
            help="Report objects that enter or leave this area, such as 'door: 0,0 0.5,0 0.5,1'. Points are fractions "
            "of the image. Needs --track. Repeatable.",
        ),
        click.option(
            "--line", "lines", multiple=True, metavar="NAME:POINTS",
            help="Report objects that cross this line, such as 'gate: 0.5,0 0.5,1'. Needs --track. Repeatable.",
        ),
        click.option(
            "--snapshots", type=NEW_FOLDER, metavar="DIR", help="Save the first image of each event in this folder."
        ),
        click.option(
            "--snapshots-mb", type=Whole(1), default=500, show_default=True,
            help="Maximum size of the snapshot folder in MB. The oldest snapshots are deleted first.",
        ),
    )):  # fmt: skip
        command = option(command)
    return command


def network_options(command: Command) -> Command:
    """MQTT and webhook."""
    for option in reversed((
        click.option(
            "--send", type=click.Choice(["results", "changes", "events"]),
            help="What --output, --mqtt and --webhook receive: every result, changed results, or events.  "
            "[default: events with --on, --zone or --line; otherwise changes, and results to a file]",
        ),
        click.option(
            "--mqtt", metavar="ADDRESS", help="Publish to this broker: mqtt://${USER}:${PASSWORD}@host or mqtts://host."
        ),
        click.option("--mqtt-ca", type=READ_FILE, help="CA certificate that signed the broker's certificate (PEM)."),
        click.option("--mqtt-cert", type=READ_FILE, help="Client certificate for the broker (PEM)."),
        click.option("--mqtt-key", type=READ_FILE, help="Private key for the client certificate (PEM)."),
        click.option("--mqtt-prefix", default="sightline", show_default=True, help="First level of every topic."),
        click.option(
            "--mqtt-images", type=Number(0, 86400), default=10, show_default=True, metavar="SECONDS",
            help="Publish an image of each camera at this interval. 0 publishes none.",
        ),
        click.option("--webhook", metavar="ADDRESS", help="POST JSON to this address: https://host/path."),
        click.option(
            "--webhook-header", multiple=True, metavar="HEADER",
            help="Send this header with each POST, such as 'Authorization: Bearer ${TOKEN}'. Repeatable.",
        ),
        click.option("--name", help="Name of this agent in topics and messages.  [default: the host name]"),
        click.option(
            "--outbox", type=NEW_FILE,
            help="Keep messages that wait for the network in this file.  "
            "[default: in $STATE_DIRECTORY or ~/.local/state]",
        ),
        click.option(
            "--outbox-mb", type=Whole(1), default=64, show_default=True,
            help="Maximum size of the waiting messages of each output in MB. The oldest are dropped first.",
        ),
    )):  # fmt: skip
        command = option(command)
    return command


def page_options(command: Command) -> Command:
    """Who may see the live page."""
    for option in reversed((
        click.option("--page/--no-page", default=True, show_default=True, help="Serve the live page, or do not."),
        click.option(
            "--page-port", type=Whole(0, 65535),
            help="Port of the live page. 0 takes any free port.  [default: 8480, or any free port]",
        ),
        click.option(
            "--page-address", default="127.0.0.1", show_default=True, metavar="ADDRESS",
            help="Address that the live page listens on. Any other than 127.0.0.1, such as 0.0.0.0, needs a "
            "token.",
        ),
        click.option(
            "--page-host", multiple=True, metavar="HOST",
            help="Host name that browsers use for the live page, or https://NAME of a proxy. Needs a token.",
        ),
        click.option("--page-cert", type=READ_FILE, help="TLS certificate of the live page (PEM)."),
        click.option("--page-key", type=READ_FILE, help="Private key for the page's certificate (PEM)."),
        click.option("--page-token-file", type=NEW_FILE, help="File that keeps the hash of the page's token."),
        click.option("--new-page-token", is_flag=True, help="Make a new token for the live page and show it once."),
    )):  # fmt: skip
        command = option(command)
    return command
