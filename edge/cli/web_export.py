"""`sightline export-web` and `sightline serve-web`."""

from __future__ import annotations

import contextlib
import html
import io
import json
import re
import socket
from dataclasses import asdict
from pathlib import Path

import click

from sightline.directories import program_folder
from sightline.errors import ConfigError
from sightline.options import NEW_FOLDER, READ, READ_FILE, READ_FOLDER, Whole


@click.command()
@click.argument("bundle", type=READ)
@click.option("--out", type=NEW_FOLDER, required=True, help="Folder; an older site is replaced.")
@click.option("--scheme", help="Variant, with float input and output.  [default: static_int8_float_io, else what fits]")
@click.option("--post", default="", metavar="ADDRESS", help="Where the page may send what it sees, if asked to.")
@click.option("--runtime-dir", type=READ_FOLDER,
              help="With LiteRT.js' archives.  [default: npm fetches them, once]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def export_web(bundle: Path, out: Path, scheme: str | None, post: str, runtime_dir: Path | None, as_json: bool) -> None:
    """Make a page of a bundle that runs it on a phone's own camera, also without a network.

    Static files for any host with HTTPS; `sightline serve-web SITE` shows them to a phone on this network.
    """
    from edge.web_export.export import export
    from sightline.bundle import read_bundle

    done = export(read_bundle(bundle), out, scheme=scheme, post=post, runtime=runtime_dir)
    if as_json:
        click.echo(json.dumps(asdict(done)))
        return
    click.echo(
        f"{out}: {done.scheme}, {done.files} files, {done.total / 1e6:.1f} MB; a phone fetches at most "
        f"{done.first_load / 1e6:.1f} MB, once\nnext: sightline serve-web {out}"
    )


@click.command()
@click.argument("site", type=READ)
@click.option("--port", type=Whole(0, 65535), default=8443, show_default=True, help="0 = any.")
@click.option("--address", default="0.0.0.0", show_default=True, help="Where it answers.")
@click.option("--cert", type=READ_FILE, help="Certificate.  [default: one that is made, and kept]")
@click.option("--key", type=READ_FILE, help="Key of it.")
@click.option("--http", is_flag=True, help="Without TLS: the camera works on this machine alone, by localhost.")
@click.option("--json", "as_json", is_flag=True, help="Print the address as one JSON object, instead of the QR code.")
def serve_web(
    site: Path, port: int, address: str, cert: Path | None, key: Path | None, http: bool, as_json: bool
) -> None:
    """Show a site to phones on this network: HTTPS, and the address as a QR code. Ctrl-C ends it."""
    from edge.web_export.serve import addresses, certificate, make_server

    index = site / "index.html"
    if not index.is_file() or not (site / "app.webmanifest").is_file():
        raise ConfigError(f"{site}: is no site; `sightline export-web BUNDLE --out {site}` makes one")
    if bool(cert) != bool(key) or (http and cert):
        raise ConfigError("--cert and --key come together, and not with --http")
    found = re.search(r'Content-Security-Policy" content="([^"]*)"', index.read_text())
    policy = html.unescape(found[1]) if found else ""
    name = "localhost" if http else addresses()[0] if address in ("0.0.0.0", "::") else address
    tls = (cert, key) if cert else None
    if not http and not tls:
        state = program_folder("state", "--cert and --key")
        names = [*addresses(), "127.0.0.1", "localhost", f"{socket.gethostname().partition('.')[0]}.local"]
        names += [] if address in ("0.0.0.0", "::") else [address]
        tls = certificate(state, list(dict.fromkeys(names))), None
    server = make_server(site, address, port, policy, tls)
    name = f"[{name}]" if ":" in name else name
    url = f"http{'' if http else 's'}://{name}:{server.server_address[1]}/"
    if as_json:
        click.echo(json.dumps({"address": url}))
    else:
        click.echo(_code(url), nl=False)
        click.echo(url)
        if tls and not cert:
            click.echo("the phone warns of the certificate, which is this machine's own: allow it for this address")
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
    server.server_close()


def _code(url: str) -> str:
    """For a phone's camera; '' where segno is not installed."""
    try:
        import segno
    except ModuleNotFoundError:
        return ""
    out = io.StringIO()
    segno.make(url, micro=False).terminal(out, compact=True)
    return out.getvalue()
