"""Take from a Python process what Linux has and macOS lacks. Has effect if this folder is in PYTHONPATH.

Python imports it at the start, before anything else; the children of the process do so, too.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import io
import os
import resource
import select
import selectors
import socket
import sys
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

#: The beginnings of names that each module has on Linux only.
ONLY_ON_LINUX = {
    fcntl: ("F_ADD_SEALS", "F_GETPIPE_SZ", "F_GET_SEALS", "F_NOTIFY", "F_OFD_", "F_SEAL_", "F_SETPIPE_SZ", "F_SETSIG"),
    os: (
        "CLONE_",
        "EFD_",
        "MFD_",
        "O_DIRECT",
        "O_NOATIME",
        "O_PATH",
        "O_TMPFILE",
        "P_PIDFD",
        "POSIX_FADV_",
        "RWF_",
        "SCHED_BATCH",
        "SPLICE_",
        "copy_file_range",
        "eventfd",
        "getrandom",
        "getxattr",
        "listxattr",
        "memfd_create",
        "pidfd_open",
        "pipe2",
        "posix_fadvise",
        "posix_fallocate",
        "sched_getaffinity",
        "sched_setaffinity",
        "setns",
        "setxattr",
        "splice",
        "unshare",
    ),
    select: ("EPOLL", "POLLRDHUP", "epoll"),
    socket: ("AF_ALG", "AF_NETLINK", "AF_PACKET", "AF_VSOCK", "MSG_CMSG_CLOEXEC", "MSG_NOSIGNAL", "SOCK_CLOEXEC"),
    time: ("CLOCK_BOOTTIME", "CLOCK_TAI", "CLOCK_MONOTONIC_COARSE"),
}
KEPT = ("O_DIRECTORY",)
HIDDEN = ("/proc", "/dev/shm")
MOST_DESCRIPTORS = 10_240


def hide_paths(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, for which the hidden folders do not exist."""

    @wraps(function)
    def call(path: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(path, str | os.PathLike) and str(path).startswith(HIDDEN):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return function(path, *args, **kwargs)

    return call


def limit_descriptors(function: Callable[..., None]) -> Callable[..., None]:
    """Return setrlimit, which refuses more descriptors than macOS gives to a process, whatever the hard limit is."""

    def setrlimit(kind: int, limits: tuple[int, int]) -> None:
        if kind == resource.RLIMIT_NOFILE and limits[0] > MOST_DESCRIPTORS:
            raise ValueError("current limit exceeds maximum limit")
        function(kind, limits)

    return setrlimit


for module, beginnings in ONLY_ON_LINUX.items():
    for name in [name for name in dir(module) if name.startswith(beginnings) and name not in KEPT]:
        delattr(module, name)
selectors.DefaultSelector = selectors.PollSelector  # it was EpollSelector
sys.modules["inotify_simple"] = None  # type: ignore[assignment]
resource.setrlimit = limit_descriptors(resource.setrlimit)
builtins.open = io.open = hide_paths(io.open)
for name in ("listdir", "open", "readlink", "scandir", "stat"):
    setattr(os, name, hide_paths(getattr(os, name)))
_access = os.access
os.access = lambda path, *args, **kwargs: not str(path).startswith(HIDDEN) and _access(path, *args, **kwargs)
