"""Starts a Sightline module in its own Python process, which never imports from the current folder.

`python -m` and `python -c` search the current folder first, so a `cv2.py` there would run. `-P` prevents this, but only
Python 3.11 and later have it. `-I` prevents it too, but also hides PYTHONPATH and the user's own packages. A script
searches its own folder first, which this file removes from the path.
"""

import os
import sys


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs `module` of this installation as `python -m` would."""
    return [sys.executable, __file__, module, *arguments]


if __name__ == "__main__":
    import _signal  # type: ignore[import-not-found]

    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:  # as in __main__.py: no traceback of an import
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    del sys.path[0]  # this folder: its modules are called `sightline.NAME`, never NAME
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH120, PTH100  pathlib costs 5 ms
    if root not in sys.path:  # a clone that is not installed
        sys.path.insert(0, root)
    import runpy

    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
