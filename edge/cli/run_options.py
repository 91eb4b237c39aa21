"""The options of `sightline run` that say where results go; `edge.outputs.factory` makes of them what they say."""

from __future__ import annotations

from collections.abc import Callable

import click

from sightline.options import NEW_FILE, NEW_FOLDER, READ_FILE, Number, Whole


def output_options(command: Callable[..., None]) -> Callable[..., None]:
    """Those of `sightline run` that say where results go."""
    for option in reversed(
        (
            click.option("--output", type=NEW_FILE, help="File to append JSON lines to."),
            click.option(
                "--rotate-mb",
                type=Whole(0),
                help="Of --output, before it becomes FILE.1; 0 = never.  [default: 100 of a camera]",
            ),
            click.option(
                "--rotate-days",
                type=Whole(0),
                default=0,
                show_default=True,
                help="The same by age; 0 = never.",
            ),
            click.option("--rotate-keep", type=Whole(1), default=5, show_default=True, help="FILE.1 to FILE.5 stay."),
            click.option(
                "--on",
                "rules",
                multiple=True,
                metavar="RULE",
                help="When it is an event: 'fox>=0.8 for 2s'; may be given more than once.",
            ),
            click.option(
                "--zone",
                "zones",
                multiple=True,
                help="With --track, who comes and goes: 'door: 0,0 0.5,0 0.5,1'.",
            ),
            click.option("--line", "lines", multiple=True, help="With --track, who goes across: 'gate: 0.5,0 0.5,1'."),
            click.option(
                "--send",
                type=click.Choice(["results", "changes", "events"]),
                help="What goes to --output, --mqtt and --webhook.  [default: with --on events; else changes, "
                "but results to a file]",
            ),
            click.option(
                "--snapshots",
                type=NEW_FOLDER,
                help="Folder for the picture that each event begins with.",
            ),
            click.option("--snapshots-mb", type=Whole(1), default=500, show_default=True, help="Of it; the oldest go."),
            click.option("--mqtt", metavar="ADDRESS", help="Broker: mqtt://${USER}:${PASSWORD}@host, mqtts://host."),
            click.option("--mqtt-ca", type=READ_FILE, help="Certificate that the broker's is checked with."),
            click.option("--mqtt-cert", type=READ_FILE, help="Certificate of this client."),
            click.option("--mqtt-key", type=READ_FILE, help="Key of it."),
            click.option("--mqtt-prefix", default="sightline", show_default=True, help="What all topics begin with."),
            click.option(
                "--mqtt-pictures",
                type=Number(0, 86400),
                default=10,
                show_default=True,
                help="Seconds between two pictures of a camera; 0 = none.",
            ),
            click.option("--webhook", metavar="ADDRESS", help="Address to POST JSON to: https://host/path."),
            click.option("--webhook-header", multiple=True, help="Such as 'Authorization: Bearer ${TOKEN}'."),
            click.option("--name", help="Of this agent, in topics.  [default: the host's name]"),
            click.option(
                "--outbox",
                type=NEW_FILE,
                help="For messages that wait.  [default: in $STATE_DIRECTORY or ~/.local/state]",
            ),
            click.option("--outbox-mb", type=Whole(1), default=64, show_default=True, help="Of it, for each of them."),
        )
    ):
        command = option(command)
    return command


def page_options(command: Callable[..., None]) -> Callable[..., None]:
    """Those that say who may see the live page."""
    port = Whole(0, 65535)
    for option in reversed(
        (
            click.option("--page/--no-page", default=True, show_default=True, help="The live page."),
            click.option("--page-port", type=port, help="Of the page; 0 = any.  [default: 8480, or any]"),
            click.option(
                "--page-address",
                default="127.0.0.1",
                show_default=True,
                help="Where it answers; any other, such as 0.0.0.0, demands a token.",
            ),
            click.option(
                "--page-host",
                multiple=True,
                help="Its name elsewhere, or https://NAME at a proxy: demands a token; repeatable.",
            ),
            click.option("--page-cert", type=READ_FILE, help="Certificate, for https."),
            click.option("--page-key", type=READ_FILE, help="Key of it."),
            click.option("--page-token-file", type=NEW_FILE, help="Where the token's hash is kept."),
            click.option("--new-page-token", is_flag=True, help="Make a new token, and show it."),
        )
    ):
        command = option(command)
    return command
