"""`sightline` and `python -m sightline`: sets up Ctrl-C before the imports, which take a while."""

import _signal  # type: ignore[import-not-found]  # the built-in part: `signal` imports enum, where Ctrl-C shows a traceback

# Ctrl-C ends the process at once: there is nothing to undo yet. nohup and `&` ignore it.
if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)


def main() -> None:
    from sightline.cli import main

    main()


if __name__ == "__main__":
    main()
