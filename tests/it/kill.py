#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# time limit: 240 s
# time limit, all: 1200 s
"""What happens when something dies: the appliance under a program, programs under an appliance, the connection
between them; and that nobody finds in the pool what somebody else has left there.

    tests/it/kill.py [TEST]...
"""
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import lib_xmem as x

SEED = int(os.environ.get("XMEM_SEED", "20240229"))
BUDGET = 16 * x.MIB

# Goes round over 64 MiB for ever.
BUSY = ["/usr/bin/python3", "-c", """
import mmap
n = 16384
m = mmap.mmap(-1, n * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
k = 0
while True:
    for i in range(n):
        m[i * 4096:i * 4096 + 8] = b"%08d" % (i + k)
    k += 1
"""]

ROUND_TRIP = ["/usr/bin/python3", "-c", """
import hashlib
pages = [(b"%08d" % i) * 512 for i in range(12000)]
h = hashlib.sha256()
for turn in range(2):
    for p in pages: h.update(p)
print(h.hexdigest())
"""]


def start(command, uri, options=()):
    argv = [x.path_of("xmem-run"), "--strict", "--local", str(BUDGET), "--appliance", uri, *options, "--", *command]
    p = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         start_new_session=True)
    x.at_exit(lambda: p.poll() is None and os.killpg(p.pid, signal.SIGKILL))
    return p


def appliance_dies(link, mask=None):
    app = x.Appliance(memory="512M", lease="2s")
    p = start([x.path_of("tests/it/victim")], app.uri[link], ["--lost-timeout", "2s"] +
              (["--mask", mask] if mask else []))
    x.check(p.stdout.readline().startswith(b"filled"), "the program did not start")
    app.kill()
    expect_sigbus(p, link + (" without " + mask if mask else ""), 0, 12)


def expect_sigbus(p, what, least, most):
    """After its appliance has gone: system calls fail with EFAULT, a touch is SIGBUS, and one line says why."""
    began = time.monotonic()
    try:
        out, err = p.communicate(b"go\n", timeout=30)
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)
        raise x.Failed(f"{what}: 30 s after the appliance was lost the program still waits") from None
    took, err = time.monotonic() - began, err.decode(errors="replace")
    said = dict(line.rsplit(" ", 1) for line in out.decode().splitlines())
    x.check(said.get("wrong", "0") == "0" and said.get("other errors") == "0", f"{what}: {out!r} {err!r}")
    if what == "shm" and p.returncode == 0:
        x.say(f"  shm: the memory outlives the appliance in its client; {took:.1f} s")
        return
    x.check(p.returncode == -signal.SIGBUS, f"{what}: status {p.returncode}, not SIGBUS; {out!r} {err!r}")
    x.check(least <= took <= most, f"{what}: SIGBUS after {took:.1f} s")
    x.check(int(said["efault"]) > 0, f"{what}: system calls did not fail with EFAULT: {out!r}")
    reason = [line for line in err.split("\n") if "appliance" in line or "lost" in line]
    x.check(reason, f"{what}: no reason on stderr: {err!r}")
    x.say(f"  {what}: SIGBUS after {took:.1f} s: {reason[0]}")


def test_appliance_killed():
    appliance_dies("tcp")
    appliance_dies("tcp", "poison")
    appliance_dies("shm")


def wait_use(app, slabs):
    end = time.monotonic() + 30
    while app.stat()["slabs_used"] < slabs:
        x.check(time.monotonic() < end, "the program does not come to use the appliance")
        time.sleep(0.02)


def test_client_killed():
    """In three ways: the program; the program when xmem-run is gone already; everything at once."""
    rounds = 100 if x.LEVEL == "all" else 12
    app = x.Appliance(memory="512M", lease="1s", slab="4M")
    longest = 0
    for n in range(rounds):
        p = start(BUSY, app.uri["tcp" if n % 2 else "shm"])
        wait_use(app, 6)
        family = x.descendants(p.pid)
        program = [q for q in family if comm(q).startswith("python")]
        x.check(len(program) == 1, f"{len(program)} programs: {[comm(q) for q in family]}")
        if n % 3 == 0:
            os.kill(program[0], signal.SIGKILL)
        elif n % 3 == 1:
            os.kill(p.pid, signal.SIGKILL)
            time.sleep(0.2)
            os.kill(program[0], signal.SIGKILL)
        else:
            for q in family:
                os.kill(q, signal.SIGKILL)
        p.wait(20)
        longest = max(longest, app.wait_empty(8))
    x.say(f"  {rounds} clients killed; the longest wait until their memory was free: {longest:.2f} s")


def comm(pid):
    try:
        with open(f"/proc/{pid}/comm") as f:
            return f.read().strip()
    except OSError:
        return ""


class Cutter:
    """A proxy that resets every connection after some bytes, seldom on a boundary of anything; without a generator
    of random numbers only when it dies."""

    def __init__(self, uri, rng):
        host, port = uri.split(":", 1)[1].rsplit(":", 1)
        self.to, self.rng, self.cuts, self.moved = (host, int(port)), rng, 0, 0
        self.s = socket.create_server(("127.0.0.1", 0))
        self.uri = f"tcp:127.0.0.1:{self.s.getsockname()[1]}"
        self.dead = False
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                client, _ = self.s.accept()
                server = socket.create_connection(self.to)
            except OSError:
                return
            left = self.rng.randrange(200000, 12000000) if self.rng else 1 << 60
            threading.Thread(target=self.pump, args=(client, server, left), daemon=True).start()

    def pump(self, a, b, left):
        other = {a: b, b: a}
        try:
            while left > 0 and not self.dead:
                for s in select.select([a, b], [], [], 0.1)[0]:
                    data = s.recv(1 << 16)
                    if not data:
                        left = -1
                        break
                    other[s].sendall(data[:left] if left > 0 else b"")
                    left -= len(data)
                    self.moved += len(data)
            if left != -1:
                self.cuts += 1
        except OSError:
            pass
        for s in (a, b):
            try:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST, not FIN
                s.close()
            except OSError:
                pass


    def die(self):
        self.dead = True
        self.s.shutdown(socket.SHUT_RDWR)
        self.s.close()


def test_appliance_unreachable():
    """It lives, but the network is gone for good: nothing tells the client, only the time that passes."""
    app = x.Appliance(memory="512M", lease="2s")
    proxy = Cutter(app.uri["tcp"], None)
    p = start([x.path_of("tests/it/victim")], proxy.uri, ["--lost-timeout", "2s"])
    x.check(p.stdout.readline().startswith(b"filled"), "the program did not start")
    proxy.die()
    expect_sigbus(p, "unreachable", 1.5, 12)
    app.wait_empty(10)


def test_connection_reset():
    """The program never notices."""
    plain = x.run_plain(ROUND_TRIP)
    app = x.Appliance(memory="512M", lease="20s")
    cutter = Cutter(app.uri["tcp"], random.Random(SEED))
    r = x.run_xmem(ROUND_TRIP, BUDGET, ["--appliance", cutter.uri], seconds=120)
    t = r.stats["family"]["total"]
    x.check(r.out == plain.out, f"wrong output {r.out!r} after {cutter.cuts} resets")
    x.check(cutter.cuts >= 5, f"only {cutter.cuts} resets were made")
    x.check(t["faults_lost"] == 0, f"{t['faults_lost']} pages lost")
    cutter.die()
    app.wait_empty(25)
    x.say(f"  {cutter.cuts} resets in {cutter.moved // x.MIB} MiB, {t['link_reconnects']} links re-established, "
          f"{r.seconds:.1f} s")


def session(app):
    control = x.Client(app.uri["tcp"])
    data = x.Client(app.uri["tcp"], role=2, session=control.session, token=control.token)
    return control, data


def read_pool(app, size):
    """Every byte of the pool, as a new client gets it: how many pages are not zero."""
    control, data = session(app)
    region = control.region(size)
    zero, dirty = bytes(4096), 0
    for at in range(0, size, x.MIB):
        block = data.data(1, region, at, x.MIB)
        if block.count(0) != len(block):
            dirty += sum(block[i:i + 4096] != zero for i in range(0, len(block), 4096))
    data.close()
    control.close()
    return dirty


def test_reused_page_is_zero():
    size = 128 * x.MIB
    app = x.Appliance(memory="128M", lease="1s", slab="4M")
    control, data = session(app)
    region = control.region(size)
    secret = b"secret--" * (x.MIB // 8)
    for at in range(0, size, x.MIB):
        data.data(2, region, at, x.MIB, secret)
    x.check(data.data(1, region, 5 * x.MIB, 4096) == secret[:4096], "what was written cannot be read back")
    data.close()
    control.close()
    app.wait_empty(8)
    dirty = read_pool(app, size)
    x.check(dirty == 0, f"{dirty} pages of a client that left are readable by the next one")
    app.wait_empty(8)
    p = start(BUSY, app.uri["shm"])
    wait_use(app, 10)
    time.sleep(1)
    for q in x.descendants(p.pid):
        os.kill(q, signal.SIGKILL)
    p.wait(20)
    app.wait_empty(8)
    dirty = read_pool(app, size)
    x.check(dirty == 0, f"{dirty} pages of a client that was killed are readable by the next one")
    x.say(f"  twice {size // x.MIB} MiB of used memory read as zeros by another client")


def main():
    x.init()
    x.say(f"seed {SEED} (XMEM_SEED)")
    tests = {n: f for n, f in globals().items() if n.startswith("test_")}
    for name in sys.argv[1:] or tests:
        x.say(name)
        try:
            tests[name]()
        except (x.Failed, OSError, subprocess.TimeoutExpired) as e:
            x.failures.append(f"{name}: {e}")
            x.say(f"FAILED {name}: {e}")
    x.finish()


if __name__ == "__main__":
    main()
