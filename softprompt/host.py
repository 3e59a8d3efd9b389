"""Faults of the machine that a job runs on, which are none of the job's: another may do it, or this one later."""

import errno
import platform
import re

from softprompt.errors import HostUnusable, in_short

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
FAULTS_OF_A_DISK = (*DISK_FULL, errno.EIO, errno.EROFS, errno.ESTALE)
_OF_A_DISK_OR_SYSTEM = (*FAULTS_OF_A_DISK, errno.EACCES, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_OF_A_GPU = re.compile(
    r"(CUDA|cuda|display) driver|[Nn]o CUDA|busy or unavailable|uncorrectable|no kernel image|initialization error|"
    r"system not yet initialized|_NOT_INITIALIZED|CUDA error: unknown error|unsupported toolchain|"
    r"NCCL error(?!.*remote process exited)"
)
"""Of CUDA's words those that say that a device is not to be used; others a network may be to blame for."""


def fault_of_host(error: Exception) -> HostUnusable | None:
    """What to raise in its place if the machine is to blame: it lacks a library, or its disk or its GPU fails."""
    is_of_system = isinstance(error, OSError) and error.errno in _OF_A_DISK_OR_SYSTEM  # libraries' own have no number
    if not (isinstance(error, ImportError) or is_of_system or _OF_A_GPU.search(str(error))):
        return None
    reason = in_short(f"{type(error).__name__}: {error}")
    return HostUnusable(f"{platform.node()} cannot do the job ({reason}); mend that, and a later look does it.")
