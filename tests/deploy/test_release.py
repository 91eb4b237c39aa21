"""The options that deploy adds for the live page."""

from __future__ import annotations

import pytest

from edge.deploy.release import PAGE_PORT, PageOptions, page_options
from sightline.errors import ConfigError


def test_the_page_is_open_to_the_network_with_a_token_on_the_first_free_port() -> None:
    port = str(PAGE_PORT + 1)
    added = ("--page-address", "0.0.0.0", "--page-port", port)
    assert page_options((), (PAGE_PORT,)) == PageOptions(added, token=True, local=False, port=port, tls=False)


def test_options_of_the_page_are_kept() -> None:
    local = page_options(("--page-address", "127.0.0.1", "--page-port=9000"), ())
    assert local == PageOptions((), token=False, local=True, port="9000", tls=False)
    options = ("--page-address=0.0.0.0", "--page-port=9000", "--page-token-file=t", "--page-cert=c.pem")
    assert page_options(options, ()) == PageOptions((), token=False, local=False, port="9000", tls=True)
    assert page_options(("--no-page",), ()).port is None


def test_a_port_that_changes_at_each_start_is_refused() -> None:
    with pytest.raises(ConfigError, match="--page-port 0: the port would change at each start"):
        page_options(("--page-port", "0"), ())
