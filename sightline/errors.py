"""The exceptions that Sightline raises on purpose.

    SightlineError
    ├── InputError            the input is wrong: exit code 2
    │   ├── DataError         a data set or an image
    │   ├── ModelError        a run, a program or a bundle that cannot be used
    │   │   └── IntegrityError   a file that has changed since it was written
    │   ├── ConfigError       a device file or an option
    │   └── QualityError      a conversion that lost more accuracy than allowed
    └── DeviceError           the machine failed: exit code 3
        ├── SourceError       a camera
        └── InterpreterError  the runtime or a delegate

Errors are raised where they occur and caught once, in `sightline.cli.main`. A message names the file or option, what is
wrong with it, and what would be right.
"""

import errno


class SightlineError(Exception):
    """The root. exit_code: of the command line."""

    exit_code = 1


class InputError(SightlineError):
    exit_code = 2


class DataError(InputError):
    pass


class ModelError(InputError):
    pass


class IntegrityError(ModelError):
    pass


class ConfigError(InputError):
    pass


class QualityError(InputError):
    pass


class DeviceError(SightlineError):
    exit_code = 3


class SourceError(DeviceError):
    pass


class InterpreterError(DeviceError):
    pass


def known(error: OSError | MemoryError) -> SightlineError | None:
    """A system error that was not caught earlier, as bad input or as a failing machine.

    None if it is neither: then it is a bug in Sightline.
    """
    if isinstance(error, MemoryError):
        return DeviceError("this machine has too little memory for this")
    if error.errno is None or not error.strerror:
        return None
    name = error.filename if isinstance(error.filename, str) else ""
    message = f"{name[:120]}: {error.strerror}" if name else error.strerror
    return fault_type(error)(message) if name else DeviceError(message)


def fault_type(error: OSError, of_input: type[InputError] = InputError) -> type[SightlineError]:
    """The exception for a system error: `of_input` if it is about a path that the user named, DeviceError otherwise.

    A DeviceError is about the state of the machine, such as a full disk or a port in use: a retry may succeed.
    """
    return of_input if error.errno in _ABOUT_A_PATH else DeviceError


_ABOUT_A_PATH = (
    errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
    errno.EINVAL,
)  # fmt: skip


def reason(error: BaseException) -> str:
    """The first line of another library's error message, or the error's type if it has no message."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)[:300]
