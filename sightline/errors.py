"""Everything that Sightline raises on purpose.

    SightlineError
    ├── InputError            what the user gave is wrong: exit code 2
    │   ├── DataError         a data set or a picture
    │   ├── ModelError        a run, a program or a bundle that cannot be used
    │   │   └── IntegrityError   a file is not the one that was written
    │   ├── ConfigError       a device file or an option
    │   └── QualityError      a conversion that got worse than agreed
    └── DeviceError           the machine failed, not the input: exit code 3
        ├── SourceError       a camera
        └── InterpreterError  the runtime or a delegate

Errors are raised where they are known and caught once, in `sightline.cli.main`. A message names the thing, what is
wrong with it, and what would be right.
"""

import errno


class SightlineError(Exception):
    """The root; `exit_code` is what the command line ends with."""

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
    """What an error of the system means that nobody caught where it was known: bad input or a failing machine. None
    for one that says neither, which is a fault of Sightline's own."""
    if isinstance(error, MemoryError):
        return DeviceError("this machine has too little memory for it")
    if error.errno is None or not error.strerror:
        return None
    name = error.filename if isinstance(error.filename, str) else ""
    said = f"{name[:120]}: {error.strerror}" if name else error.strerror
    return fault_type(error)(said) if name else DeviceError(said)


def fault_type(error: OSError, of_input: type[InputError] = InputError) -> type[SightlineError]:
    """Whether an error of the system is about what the user named (`of_input`) or about the machine as it is now, such
    as a disk that is full or a port that is taken: DeviceError, after which it is worth trying again."""
    return of_input if error.errno in _ABOUT_A_PATH else DeviceError


_ABOUT_A_PATH = (
    errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
    errno.EINVAL,
)  # fmt: skip


def reason(error: BaseException) -> str:
    """A foreign library's error in one line: the first that it has, or its type when it says nothing."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)[:300]
