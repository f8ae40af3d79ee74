#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# time limit: 120 s
"""xmem-run: signals and job control, with and without a terminal. Every wait is for an event, with a limit."""

import os
import pty
import select
import signal
import subprocess
import sys
import tempfile
import time

BUILD = os.environ["XMEM_BUILD"]
RUN = [os.path.join(BUILD, "xmem-run"), "--local", "8M", "--"]
LIMIT = 10
failures = []
checks = 0
children = []

# a command that names each signal it gets, and ends at USR2 with status 5 or at a line on its standard input
COMMAND = [sys.executable, "-c", """
import os, signal, sys
def on(s, frame):
    os.write(1, b"got %s\\n" % signal.Signals(s).name.encode())
    if s == signal.SIGUSR2: os._exit(5)
for s in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
          signal.SIGCONT, signal.SIGALRM, signal.SIGRTMIN + 3):
    signal.signal(s, on if s < 32 else lambda s, f: os.write(1, b"got RT3\\n"))
os.write(1, b"ready %d\\n" % os.getpid())
while True: signal.pause()
"""]


def check(what, ok):
    global checks
    checks += 1
    if not ok:
        failures.append(what)
        print("FAILED:", what)


class Reader:
    """Lines of a descriptor, with a time limit."""

    def __init__(self, fd):
        self.fd, self.text = fd, b""

    def until(self, text):
        end = time.monotonic() + LIMIT
        while text not in self.text:
            ready, _, _ = select.select([self.fd], [], [], max(0, end - time.monotonic()))
            try:
                data = os.read(self.fd, 4096) if ready else b""
            except OSError:
                data = b""
            if not data:
                raise SystemExit(f"no {text!r} in {self.text!r}")
            self.text += data
        return self.text


def state(pid):
    with open(f"/proc/{pid}/stat") as f:
        return f.read().rsplit(")", 1)[1].split()[0]


def await_state(pid, wanted):
    """The kernel offers no event for another's child: looks again and again, with a limit."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        if state(pid) in wanted:
            return True
        time.sleep(0.01)
    return False


def start(**kw):
    p = subprocess.Popen(RUN + COMMAND, stdout=subprocess.PIPE, **kw)
    r = Reader(p.stdout.fileno())
    child = int(r.until(b"\n").split()[1])
    children.append(child)
    return p, r, child


def test_signals_sent_to_xmem_run_reach_the_command_once():
    p, r, _ = start(start_new_session=True)
    for s in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGALRM):
        p.send_signal(s)
        r.until(b"got " + s.name.encode())
    p.send_signal(signal.SIGRTMIN + 3)
    r.until(b"got RT3")
    p.send_signal(signal.SIGUSR2)
    text = r.until(b"got SIGUSR2")
    check("the command's status", p.wait(LIMIT) == 5)
    for s in ("TERM", "HUP", "INT", "QUIT", "USR1", "USR2"):
        check(f"SIG{s} once", text.count(b"got SIG" + s.encode()) == 1)


def test_stop_and_continue_without_terminal():
    # a group of its own, but not an orphaned one: the kernel does not stop those by SIGTSTP
    p, r, child = start(process_group=0)
    p.send_signal(signal.SIGTSTP)
    check("SIGTSTP sent to xmem-run stops the command", await_state(child, "T"))
    check("and xmem-run", await_state(p.pid, "T"))
    p.send_signal(signal.SIGCONT)
    check("SIGCONT continues xmem-run", await_state(p.pid, "SR"))
    check("and the command", await_state(child, "SR"))
    r.until(b"got SIGCONT")
    os.kill(child, signal.SIGSTOP)
    check("the command's own stop stops xmem-run", await_state(p.pid, "T"))
    p.send_signal(signal.SIGCONT)
    check("and a SIGCONT continues both", await_state(child, "SR"))
    p.send_signal(signal.SIGUSR2)
    check("ended", p.wait(LIMIT) == 5)


def test_terminal_keys():
    """Below a terminal: the parent is the session's leader, xmem-run its foreground job."""
    pid, master = pty.fork()
    if pid == 0:
        for s in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTOU):
            signal.signal(s, signal.SIG_IGN)

        def job():
            os.setpgid(0, 0)
            os.tcsetpgrp(0, os.getpid())
            for s in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTOU):
                signal.signal(s, signal.SIG_DFL)

        p = subprocess.Popen(RUN + COMMAND, preexec_fn=job)
        while True:
            _, st = os.waitpid(p.pid, os.WUNTRACED)
            if not os.WIFSTOPPED(st):
                break
            os.write(1, b"job stopped\n")
            os.killpg(p.pid, signal.SIGCONT)
        os.write(1, b"job ended %d\n" % (os.WEXITSTATUS(st) if os.WIFEXITED(st) else 1000 + os.WTERMSIG(st)))
        os._exit(0)
    r = Reader(master)
    r.until(b"ready ")
    child = int(r.until(b"\n").split(b"ready ")[1].split()[0])
    children.append(child)
    os.write(master, b"\x03")
    r.until(b"got SIGINT")
    os.write(master, b"\x1c")
    r.until(b"got SIGQUIT")
    os.write(master, b"\x1a")
    r.until(b"job stopped")
    r.until(b"got SIGCONT")
    os.kill(child, signal.SIGUSR2)
    text = r.until(b"job ended")
    r.until(b"job ended 5")
    os.waitpid(pid, 0)
    os.close(master)
    check("Ctrl-C once", text.count(b"got SIGINT") == 1)
    check("Ctrl-\\ once", text.count(b"got SIGQUIT") == 1)
    check("Ctrl-Z stops the job once", text.count(b"job stopped") == 1)
    check("fg continues it once", text.count(b"got SIGCONT") == 1)


def test_death_by_signal_leaves_one_core_at_most():
    with tempfile.TemporaryDirectory() as d:
        p = subprocess.run(RUN + ["sh", "-c", "kill -SEGV $$"], cwd=d, check=False)
        check("dies by the command's signal", p.returncode == -signal.SIGSEGV)
        cores = [f for f in os.listdir(d) if f.startswith("core")]
        check("at most one core", len(cores) <= 1)


def test_dispositions_and_mask_are_the_callers():
    show = "import signal, sys; sys.exit(signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN and " \
           "signal.SIGUSR1 in signal.pthread_sigmask(signal.SIG_BLOCK, []) and " \
           "signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, []) and 3 or 4)"

    def prepare():
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])

    p = subprocess.run(RUN + [sys.executable, "-c", show], preexec_fn=prepare, check=False)
    check("SIGCHLD ignored and SIGUSR1 blocked reach the command", p.returncode == 3)


def run(test):
    try:
        test()
    except (SystemExit, subprocess.TimeoutExpired) as e:
        check(f"{test.__name__}: {e}", False)
    finally:
        while children:
            try:
                os.kill(children.pop(), signal.SIGKILL)
            except ProcessLookupError:
                pass


def main():
    if not os.path.exists(os.path.join(BUILD, "libxmem-preload.so")):
        print("libxmem-preload.so is not built")
        return 77
    for name, test in sorted(globals().items()):
        if name.startswith("test_"):
            print(name, flush=True)
            run(test)
    print(f"{checks} checks, {len(failures)} failed")
    return 1 if failures else 0


sys.exit(main())
