"""`sightline export-web` and `sightline serve-web`: a bundle as a web page for phones."""

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
from sightline.option_types import NEW_FOLDER, READ, READ_FILE, READ_FOLDER, Whole


@click.command()
@click.argument("bundle", type=READ)
@click.option("--out", type=NEW_FOLDER, required=True, metavar="FOLDER",
              help="Folder to write the page to. An earlier exported page there is replaced.")  # fmt: skip
@click.option("--scheme", metavar="SCHEME",
              help="Variant with float input and output.  "
              "[default: static_int8_float_io, else dynamic_int8, float16 or float32]")  # fmt: skip
@click.option("--post", default="", metavar="ADDRESS",
              help="Address that the page may send results to, if its user asks for that.")  # fmt: skip
@click.option("--runtime-dir", type=READ_FOLDER, metavar="FOLDER",
              help="Folder with the archives of LiteRT.js.  [default: npm downloads them once]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def export_web(bundle: Path, out: Path, scheme: str | None, post: str, runtime_dir: Path | None, as_json: bool) -> None:
    """Build a web page that runs a bundle on a phone's own camera, also offline.

    The page consists of static files for any host with HTTPS. `sightline serve-web FOLDER` serves them to phones on
    this network.
    """
    from edge.web_export.export import export
    from sightline.bundle import read_bundle

    site = export(read_bundle(bundle), out, scheme=scheme, post=post, runtime=runtime_dir)
    if as_json:
        click.echo(json.dumps(asdict(site)))
        return
    click.echo(
        f"{out}: {site.scheme}, {site.files} files, {site.total / 1e6:.1f} MB. A phone downloads at most "
        f"{site.first_load / 1e6:.1f} MB, once.\nNext: sightline serve-web {out}"
    )


@click.command()
@click.argument("site", type=READ)
@click.option("--port", type=Whole(0, 65535), default=8443, show_default=True, metavar="PORT",
              help="Port to serve on. 0 = any free port.")  # fmt: skip
@click.option("--address", default="0.0.0.0", show_default=True, metavar="ADDRESS",
              help="Address of this machine to serve on. 0.0.0.0 = all.")  # fmt: skip
@click.option("--cert", type=READ_FILE, metavar="FILE",
              help="TLS certificate (PEM).  [default: a self-signed one, made once and kept]")  # fmt: skip
@click.option("--key", type=READ_FILE, metavar="FILE", help="Private key for the TLS certificate (PEM).")
@click.option("--http", is_flag=True,
              help="Serve without TLS. Browsers then allow the camera only on this machine, at localhost.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the address as one JSON object instead of the QR code.")
def serve_web(
    site: Path, port: int, address: str, cert: Path | None, key: Path | None, http: bool, as_json: bool
) -> None:
    """Serve an exported page to phones on this network, over HTTPS and with a QR code.

    Ctrl-C stops the server.
    """
    from edge.web_export.serve import addresses, certificate, make_server

    index = site / "index.html"
    if not index.is_file() or not (site / "app.webmanifest").is_file():
        raise ConfigError(f"{site}: not an exported page. Make one with `sightline export-web BUNDLE --out {site}`")
    if bool(cert) != bool(key) or (http and cert):
        raise ConfigError("--cert and --key: pass both or none, and none with --http")
    meta = re.search(r'Content-Security-Policy" content="([^"]*)"', index.read_text())
    policy = html.unescape(meta[1]) if meta else ""
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
        click.echo(_qr_code(url), nl=False)
        click.echo(url)
        if tls and not cert:
            click.echo("The phone warns about the self-signed certificate. Accept it for this address.")
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
    server.server_close()


def _qr_code(url: str) -> str:
    """A QR code in terminal characters; '' if segno is not installed."""
    try:
        import segno
    except ModuleNotFoundError:
        return ""
    out = io.StringIO()
    segno.make(url, micro=False).terminal(out, compact=True)
    return out.getvalue()
