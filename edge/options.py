"""The options of `sightline run` that say where results go; `edge.outputs` makes of them what they say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click


def output_options(command: Callable[..., None]) -> Callable[..., None]:
    """Those of `sightline run` that say where results go."""
    file = click.Path(path_type=Path, exists=True, dir_okay=False)
    for option in reversed(
        (
            click.option("--output", type=click.Path(path_type=Path), help="File to append JSON lines to."),
            click.option(
                "--rotate-mb",
                type=click.IntRange(0),
                help="Of --output, before it becomes FILE.1; 0 = never.  [default: 100 of a camera]",
            ),
            click.option(
                "--rotate-days",
                type=click.IntRange(0),
                default=0,
                show_default=True,
                help="The same by age; 0 = never.",
            ),
            click.option(
                "--rotate-keep", type=click.IntRange(1), default=5, show_default=True, help="FILE.1 to FILE.5 stay."
            ),
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
                type=click.Path(path_type=Path),
                help="Folder for the picture that each event begins with.",
            ),
            click.option(
                "--snapshots-mb", type=click.IntRange(1), default=500, show_default=True, help="Of it; the oldest go."
            ),
            click.option("--mqtt", metavar="ADDRESS", help="Broker: mqtt://${USER}:${PASSWORD}@host, mqtts://host."),
            click.option("--mqtt-ca", type=file, help="Certificate that the broker's is checked with."),
            click.option("--mqtt-cert", type=file, help="Certificate of this client."),
            click.option("--mqtt-key", type=file, help="Key of it."),
            click.option("--mqtt-prefix", default="sightline", show_default=True, help="What all topics begin with."),
            click.option(
                "--mqtt-pictures",
                type=click.FloatRange(0),
                default=10,
                show_default=True,
                help="Seconds between two pictures of a camera; 0 = none.",
            ),
            click.option("--webhook", metavar="ADDRESS", help="Address to POST JSON to: https://host/path."),
            click.option("--webhook-header", multiple=True, help="Such as 'Authorization: Bearer ${TOKEN}'."),
            click.option("--name", help="Of this agent, in topics.  [default: the host's name]"),
            click.option(
                "--outbox",
                type=click.Path(path_type=Path),
                help="For messages that wait.  [default: in $STATE_DIRECTORY or ~/.local/state]",
            ),
            click.option(
                "--outbox-mb", type=click.IntRange(1), default=64, show_default=True, help="Of it, for each of them."
            ),
        )
    ):
        command = option(command)
    return command


def page_options(command: Callable[..., None]) -> Callable[..., None]:
    """Those that say who may see the live page."""
    file = click.Path(path_type=Path, exists=True, dir_okay=False)
    port = click.IntRange(0, 65535)
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
            click.option("--page-host", multiple=True, help="A name that it may be called by; repeatable."),
            click.option("--page-cert", type=file, help="Certificate, for https."),
            click.option("--page-key", type=file, help="Key of it."),
            click.option("--page-token-file", type=click.Path(path_type=Path), help="Where the token's hash is kept."),
            click.option("--new-page-token", is_flag=True, help="Make a new token, and show it."),
        )
    ):
        command = option(command)
    return command
