"""What the launchers of all servers need: ports, users, processes."""

import contextlib
import ctypes
import os
from pathlib import Path
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import warnings

# Servers live outside a normal user's PATH.
PATH = os.pathsep.join(
    [os.environ.get('PATH', '/usr/bin:/bin'), '/usr/sbin', '/sbin']
)

PR_SET_PDEATHSIG = 1

MEMORY = '/dev/shm'  # noqa: S108


class ServerMissing(Exception):
    """A server's program is not on this machine; says what to install."""


class ServerFailed(Exception):
    """A server did not start or stop; carries the end of its log."""


class Temporary:
    """What runs while a block does; derived classes ``start`` and ``stop``."""

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_):
        self.stop()


def in_memory(room=4 << 30):
    """Return a folder in memory for temporary files, or None.

    Nothing in them has to survive, and whoever commits to a disk waits for
    it.  None where ``TMPDIR`` names a folder, where there is not *room* for
    three databases of several processes (a container may have 64 MB), and
    where no program could be run from it.
    """
    try:
        found = os.statvfs(MEMORY)
    except OSError:
        return None
    if (
        os.environ.get('TMPDIR')
        or found.f_bavail * found.f_frsize < room
        or found.f_flag & (os.ST_NOEXEC | os.ST_RDONLY)
        or not os.access(MEMORY, os.W_OK)
    ):
        return None
    return MEMORY


def find_program(*names):
    """Return the path of the first of ``names`` that exists, or None."""
    for name in names:
        if path := shutil.which(name, path=PATH):
            return path
    return None


def free_ports(count):
    """Return ``count`` ports of 127.0.0.1 that nobody uses.

    They are below the range from which the kernel takes ports for outgoing
    connections: a server may bind its port seconds from now, and by then one
    out of that range could be somebody's source port.  Random, so that two
    test runs at once do not meet.
    """
    try:
        text = Path('/proc/sys/net/ipv4/ip_local_port_range').read_text()
        end = int(text.split()[0])
    except OSError:
        end = 32768
    possible = range(max(1024, end - 16000), end)
    if len(possible) < 4000:
        # "1024 65535", say.  Linux takes each other one first.
        possible = range(end + 1, end + 16001, 2)
    sockets, ports = [], []
    try:
        for port in random.SystemRandom().sample(possible, 4000):
            candidate = socket.socket()
            sockets.append(candidate)
            with contextlib.suppress(OSError):
                candidate.bind(('127.0.0.1', port))
                ports.append(port)
            if len(ports) == count:
                return ports
    finally:
        for candidate in sockets:
            candidate.close()
    raise ServerFailed('no free port on 127.0.0.1')


def launch_somewhere(server):
    """Call ``server.launch()`` with a ``server.port`` that is free."""
    # Somebody may take the port between its choice and the start.
    for attempt in range(5):
        (server.port,) = free_ports(1)
        try:
            server.launch()
            return
        except ServerFailed:
            if attempt == 4:
                raise


def unprivileged(*names):
    """Return what ``Popen`` needs to drop root; nothing if we are not root.

    PostgreSQL refuses to run as root, and so does Galera's state transfer.
    """
    if os.geteuid():
        return {}
    for name in (*names, 'nobody'):
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            return {
                'user': user.pw_uid,
                'group': user.pw_gid,
                'extra_groups': [],
            }
    raise ServerFailed(f'running as root, and no user {names} to change to')


def give_to(path, identity):
    """Make the user of ``unprivileged()`` the owner of ``path``."""
    if identity:
        os.chown(path, identity['user'], identity['group'])


def run(command, **kwargs):
    """Run a set-up program to its end; its output is in the error."""
    done = subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors='replace',
        **kwargs,
    )
    if done.returncode:
        raise ServerFailed(f'{command[0]} failed:\n{done.stdout[-3000:]}')
    return done.stdout


def spawn(command, log, *, death_signal, **kwargs):
    """Start a server; it gets ``death_signal`` when the tests die.

    To be called in the main thread: the kernel watches the thread that
    started the process, not the process of that thread.
    """
    preexec = None
    if sys.platform == 'linux':
        # Loaded here: between fork and exec nothing may be imported.
        libc = ctypes.CDLL(None)

        def preexec():
            libc.prctl(PR_SET_PDEATHSIG, death_signal)

    with open(log, 'ab') as output, warnings.catch_warnings():
        # Python 3.12 warns of preexec_fn in a process with threads, which
        # pytest plugins may have; ours makes one system call.
        warnings.simplefilter('ignore', DeprecationWarning)
        return subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for pytest, which then stops the server.
            start_new_session=True,
            preexec_fn=preexec,
            **kwargs,
        )


def stop_process(process, number=signal.SIGKILL, timeout=10):
    """Signal a process that we started and wait until it is gone."""
    if process is None or process.poll() is not None:
        return
    process.send_signal(number)
    # A stopped process (SIGSTOP) takes no other signal than SIGKILL.
    process.send_signal(signal.SIGCONT)
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def tail(path, lines=25):
    """Return the last lines of a log for an error message."""
    try:
        text = Path(path).read_text(errors='replace')
    except OSError:
        return f'(no log at {path})'
    return '\n'.join(text.splitlines()[-lines:])
