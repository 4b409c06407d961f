"""The cache directory and its files. Compiled code is loaded from there, so no other user may be able to write to it.

Each directory and file is first opened and then judged, through its descriptor, so that nothing can change between the
judgement and the use. Directories further up need not be judged: whoever may write to one of them can put another
directory in the place of ours, but can't make us its owner.
"""

import os
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def directory() -> Path:
    """Return the cache directory: ``$GAP_HF_CACHE``, else ``~/.cache/gap_hf``. It is made if it is not there.

    Raises:
        OSError: it can't be made, or another user can put files into it; the message says how to fix that.
    """
    if sys.platform == "win32":
        raise OSError("on Windows nothing is cached")
    try:
        path = Path(os.environ.get("GAP_HF_CACHE") or "~/.cache/gap_hf").expanduser()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: the user has no home
        raise OSError(f"there is no cache directory ({error}); set GAP_HF_CACHE to one that can be written") from error
    with judged(path):
        return path


@contextmanager
def judged(path: Path) -> Iterator[int]:
    """Open the directory ``path``, judge it, and return its descriptor.

    Raises:
        OSError: it can't be opened, or another user can put files into it.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        status = os.fstat(descriptor)
        if status.st_uid not in (os.geteuid(), 0):
            raise PermissionError(
                f"{path} belongs to another user (uid {status.st_uid}); set GAP_HF_CACHE to a directory of your own"
            )
        # where the sticky bit is set, as in /tmp, others can neither replace nor rename our files
        if writable_by_others(status) and not status.st_mode & stat.S_ISVTX:
            raise PermissionError(
                f"other users can write to {path} (mode {stat.S_IMODE(status.st_mode):04o}); run chmod go-w {path}, or "
                "set GAP_HF_CACHE to a directory of your own"
            )
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def reading(path: Path) -> Iterator[BinaryIO]:
    """Open the file ``path`` for reading, and judge it.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it can't be opened, or another user could have written it or put it there.
    """
    # a symbolic link is refused, and a pipe does not make us wait
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    with (
        judged(path.parent) as inside,
        open(path.name, "rb", opener=lambda name, _: os.open(name, flags, dir_fd=inside)) as file,
    ):
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path} is not a regular file")
        if status.st_uid != os.geteuid():
            raise PermissionError(f"{path} belongs to another user (uid {status.st_uid})")
        if writable_by_others(status):
            raise PermissionError(f"other users can write to {path} (mode {stat.S_IMODE(status.st_mode):04o})")
        yield file


def write(path: Path, content: bytes, mode: int) -> None:
    """Write ``content`` to ``path``, whole or not at all, however many processes do so at the same time.

    Raises:
        OSError: it can't be written, or another user can put files into its directory.
    """
    with judged(path.parent) as inside:
        draft = f".{path.name}.{secrets.token_hex(8)}"
        try:
            with open(draft, "xb", opener=lambda name, flags: os.open(name, flags, mode, dir_fd=inside)) as file:
                os.fchmod(file.fileno(), mode)  # whatever the umask
                file.write(content)
            os.replace(draft, path.name, src_dir_fd=inside, dst_dir_fd=inside)
        except BaseException:
            with suppress(OSError):
                os.unlink(draft, dir_fd=inside)
            raise


def writable_by_others(status: os.stat_result) -> bool:
    """Whether the group or everybody may write. An access control list shows up as the group's permission, too."""
    return bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
