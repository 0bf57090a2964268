"""Run a command that must not outlive the process that asked for it.

`process.py` starts every child through this file, as a script: it needs no site directory and imports nothing
of the application. It gives up root's rights where an account is named, asks the kernel for a signal at the
parent's death (Linux only), and becomes the command. A `preexec_fn` would do the same, but it runs between
fork and exec, where a parent with threads may deadlock.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: list[str]) -> None:
    """Arguments: the parent's pid, the signal at its death, `uid:gid` or `-`, the command."""
    parent, orphan_signal, account, *command = arguments
    if account != "-":
        uid, gid = map(int, account.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
        os.chdir("/")  # the account may have no access to where we are
    if sys.platform == "linux":
        # After setuid, which clears the setting.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(orphan_signal), 0, 0, 0)
        if os.getppid() != int(parent):  # it died before the request was made
            sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
