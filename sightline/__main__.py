"""`sightline`, and `python -m sightline`: what has to come before the imports, which take a while."""

import os
import signal


def main() -> None:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # nohup, and a shell's `&`, have it ignored
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # nothing is begun yet: there is nothing to undo or say
    from sightline.cli import main

    main()


if __name__ == "__main__":
    main()
