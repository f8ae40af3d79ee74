# SPDX-License-Identifier: Apache-2.0
"""What the integration tests share: memory cgroups (v1 or v2, or none when they cannot be made), an
appliance of the test's own, programs run with and without xmem-run, the appliance's protocol as a client
would speak it, and the assertions that a pass-through cannot satisfy.

A test calls init() first; everything started here is killed, by its pid, when the test ends.
"""
import atexit
import ctypes
import json
import os
import resource
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time

MIB = 1 << 20
EXT_LO, EXT_HI = 0x200000000000, 0x200000000000 + (1 << 40)  # where external memory is, if it was free
NOBODY = 65534
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("XMEM_BUILD") or os.path.join(ROOT, "build/release"))
LEVEL = os.environ.get("XMEM_LEVEL", "check")
FAULT = os.environ.get("XMEM_TEST_FAULT", "thread")  # the fault mode of whoever names none
SLACK = 64 * MIB  # of the memory limit, beyond budget and uncovered memory

KILLED = "killed by the kernel, for more than the limit of its memory cgroup"

work = None
failures = []
_cleanup = []


class Failed(Exception):
    """An assertion that did not hold; the message says which."""


class Killed(Failed):
    """By the kernel: the memory cgroup's limit left no way."""


def say(text):
    print(text, flush=True)


def skip(why):
    say(why)
    sys.exit(77)


def check(condition, text):
    if not condition:
        raise Failed(text)


def run_main(main):
    """Runs a script's main(); an assertion that did not hold is one line and status 1."""
    try:
        main()
    except Failed as e:
        say(f"FAILED: {e}")
        sys.exit(1)


def path_of(program):
    return os.path.join(BUILD, program)


def _reachable(path):
    """By everybody, through every folder above it."""
    while path != "/":
        if os.stat(path).st_mode & 0o005 != 0o005:
            return False
        path = os.path.dirname(path)
    return True


def init(need=()):
    """Makes the working directory; skips when a program is missing."""
    global work, BUILD
    for name in need:
        if not shutil.which(name):
            skip(f"{name} is not installed (tools/setup)")
    for name in ("xmem-run", "xmem-appliance", "libxmem-preload.so"):
        if not os.path.exists(path_of(name)):
            skip(f"{path_of(name)} is not built")
    base = os.path.join(BUILD, "it-work")  # a real file system: O_DIRECT does not work everywhere
    if not _reachable(BUILD):
        base = "/var/tmp"
    os.makedirs(base, exist_ok=True)
    work = tempfile.mkdtemp(prefix=os.path.basename(sys.argv[0]).split(".")[0] + "-", dir=base)
    os.chmod(work, 0o755)
    atexit.register(_clean)
    if not _reachable(BUILD):  # an ordinary user could not even execute the programs there
        BUILD = shutil.copytree(BUILD, os.path.join(work, "build"), ignore=shutil.ignore_patterns(
            "obj", "it-work", "unit", "bench", "stress", "fuzz"))
    for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(s, lambda number, frame: sys.exit(128 + number))


def at_exit(fn, *args):
    _cleanup.append((fn, args))


def _clean():
    while _cleanup:
        fn, args = _cleanup.pop()
        try:
            fn(*args)
        except OSError as e:
            say(f"clean-up: {e}")
    shutil.rmtree(work, ignore_errors=True)


def finish():
    """The end of a test that went on after failures."""
    for f in failures:
        say(f"FAILED: {f}")
    sys.exit(1 if failures else 0)


# ---- memory cgroups ----------------------------------------------------------------------------------


def _own_cgroups():
    """(version, mount point, own path) of the hierarchy that has the memory controller, or None."""
    own = {}
    with open("/proc/self/cgroup") as f:
        for line in f:
            _, names, path = line.rstrip("\n").split(":", 2)
            for n in names.split(","):
                own[n] = path
    with open("/proc/mounts") as f:
        mounts = [m.split() for m in f]
    for _, where, kind, options, *_ in mounts:
        if kind == "cgroup" and "memory" in options.split(","):
            return 1, where, own.get("memory", "/")
    for _, where, kind, *_ in mounts:
        if kind == "cgroup2" and os.path.exists(where + "/cgroup.controllers"):
            with open(where + "/cgroup.controllers") as f:
                if "memory" in f.read().split():
                    return 2, where, own.get("", "/")
    return None


class Cgroup:
    """A memory cgroup, without swap unless asked for. make() answers None where none can be made (not root, no controller)."""

    count = 0

    def __init__(self, version, path):
        self.version, self.path = version, path

    @classmethod
    def make(cls, limit=None, swap=False):
        found = _own_cgroups()
        if not found:
            return None
        version, mount, own = found
        for parent in (mount + own, mount):
            cls.count += 1
            path = os.path.join(parent, f"xmem-test-{os.getpid()}-{cls.count}")
            try:
                os.mkdir(path)
            except OSError:
                continue
            g = cls(version, path)
            if os.path.exists(path + ("/memory.limit_in_bytes" if version == 1 else "/memory.max")):
                at_exit(g.remove)
                g.limit(limit, swap)
                return g
            os.rmdir(path)
        return None

    def _write(self, name, value, must=True):
        try:
            with open(f"{self.path}/{name}", "w") as f:
                f.write(str(value))
        except OSError:
            if must:
                raise

    def limit(self, bytes_, swap):
        if self.version == 1:
            if not swap:
                self._write("memory.swappiness", 0, must=False)
            if bytes_:
                self._write("memory.limit_in_bytes", bytes_)
            if bytes_ and not swap:
                self._write("memory.memsw.limit_in_bytes", bytes_, must=False)
        else:
            if not swap:
                self._write("memory.swap.max", 0, must=False)
            if bytes_:
                self._write("memory.max", bytes_)

    def enter(self):
        self._write("cgroup.procs", 0)

    def pids(self):
        try:
            with open(self.path + "/cgroup.procs") as f:
                return [int(p) for p in f.read().split()]
        except OSError:
            return []

    def _stat(self, name):
        """A figure of memory.stat, with everything below."""
        with open(self.path + "/memory.stat") as f:
            s = dict(line.split() for line in f)
        return int(s["total_" + name if self.version == 1 else name])

    def anon(self):
        """Bytes of anonymous memory now."""
        return self._stat("rss" if self.version == 1 else "anon")

    def held(self):
        """Bytes that count against the limit now and cannot be given back by forgetting what is in files."""
        with open(self.path + ("/memory.usage_in_bytes" if self.version == 1 else "/memory.current")) as f:
            usage = int(f.read())
        return usage - self._stat("active_file") - self._stat("inactive_file")

    def killed_for_memory(self):
        try:
            with open(self.path + ("/memory.oom_control" if self.version == 1 else "/memory.events")) as f:
                s = dict(line.split() for line in f)
            return int(s.get("oom_kill", 0))
        except (OSError, ValueError):
            return 0

    def remove(self):
        """Ends what is left in it (only what this test started can be) and removes it."""
        for _ in range(100):
            for pid in self.pids():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            try:
                os.rmdir(self.path)
                return
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.05)


# ---- an appliance ------------------------------------------------------------------------------------

HEADER, HELLO, BYE, STAT = struct.Struct("<IHHIi"), 1, 3, 48
REGION_CREATE, BYE = 16, 3
MAGIC = 0x4D454D58
STAT_NAMES = ("total_bytes free_bytes warm_bytes slab_bytes sessions regions slabs_used slabs_backed connections "
              "data_connections reads writes atomics refused read_bytes write_bytes uptime_ns").split()


class Client:
    """A connection to an appliance that speaks the protocol of xmem-protocol(7), independently of the C code."""

    def __init__(self, uri, role=1, session=0, token=bytes(16)):
        kind, where = uri.split(":", 1)
        if kind == "shm":
            self.s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.s.settimeout(20)
            self.s.connect("\0" + where[1:] if where.startswith("@") else where)
        else:
            host, port = where.rsplit(":", 1)
            self.s = socket.create_connection((host, int(port)), timeout=20)
        self.seq = 0
        hello = struct.pack("<IHHHIQ16s", MAGIC, 1, 0, role, 0, session, token)
        hello += struct.pack("<IQQQ", os.getpid(), 0, 0, 0) + b"xmem-test".ljust(32, b"\0")
        body = self.call(HELLO, hello)
        self.session, self.token = struct.unpack_from("<Q16s", body, 8)
        self.slab_bytes = struct.unpack_from("<Q", body, 48)[0]

    def _read(self, n):
        out = b""
        while len(out) < n:
            got = self.s.recv(n - len(out))
            check(got, "the appliance closed the connection")
            out += got
        return out

    def call(self, kind, body=b""):
        self.seq += 1
        self.s.sendall(HEADER.pack(HEADER.size + len(body), kind, 0, self.seq, 0) + body)
        length, kind2, _, seq, status = HEADER.unpack(self._read(HEADER.size))
        reply = self._read(length - HEADER.size)
        check(kind2 == kind and seq == self.seq, f"answer {kind2}/{seq} to request {kind}/{self.seq}")
        if status < 0:
            raise OSError(-status, reply[12:].split(b"\0")[0].decode(errors="replace"))
        return reply

    def stat(self):
        return dict(zip(STAT_NAMES, struct.unpack_from("<17Q", self.call(STAT, struct.pack("<IQ", 0, 0)))))

    def region(self, size):
        body = self.call(REGION_CREATE, struct.pack("<QIIQ64s", size, 1, 0, 0, b""))
        return struct.unpack_from("<Q", body)[0]

    def data(self, op, region, offset, length, payload=b""):
        """READ (1) or WRITE (2) on a data connection: the bytes read."""
        self.s.sendall(struct.pack("<BBHIQQQ", op, 0, 0, length, region, offset, 7) + payload)
        status, n, cookie, _ = struct.unpack("<iIQQ", self._read(24))
        check(cookie == 7, f"answer with cookie {cookie}")
        if status < 0:
            raise OSError(-status, os.strerror(-status))
        return self._read(n)

    def close(self):
        self.s.close()

    def leave(self):
        """The session ends now, not when its lease is over."""
        self.call(BYE)
        self.close()


class Appliance:
    """xmem-appliance on a free loopback port and an abstract socket; outside of any cgroup of the test's."""

    count = 0

    def __init__(self, memory="3G", lease="10s", slab="16M", user=None):
        Appliance.count += 1
        name = f"@xmem-test-{os.getpid()}-{Appliance.count}"
        ready, give = os.pipe()
        argv = [path_of("xmem-appliance"), "--listen", f"shm:{name}", "--listen", "tcp:127.0.0.1:0", "--memory",
                memory, "--lease", lease, "--slab", slab, "--log-level", "warn", "--ready-fd", str(give)]
        if user is not None:
            argv = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"] + argv
        self.p = subprocess.Popen(argv, pass_fds=[give], stdin=subprocess.DEVNULL, preexec_fn=end_with_parent)
        self.user = user
        at_exit(self.kill)
        os.close(give)
        with os.fdopen(ready) as f:
            line = f.readline()
        uris = [w for w in line.split() if w.startswith(("shm:", "tcp:"))]
        check(len(uris) == 2, f"the appliance did not start, or said {line!r}")
        self.uri = {u.split(":", 1)[0]: u for u in uris}
        self.asker = None

    def stat(self):
        if not self.asker:
            self.asker = Client(self.uri["tcp"])
        return self.asker.stat()

    def wait_empty(self, seconds):
        """Until no client holds memory. The time it took; fails after `seconds`."""
        start = time.monotonic()
        while True:
            st = self.stat()
            if st["slabs_used"] == 0 and st["sessions"] <= 1:
                return time.monotonic() - start
            check(time.monotonic() - start < seconds, f"after {seconds} s the appliance still holds "
                  f"{st['slabs_used']} slabs for {st['sessions'] - 1} sessions")
            time.sleep(0.02)

    def kill(self):
        if self.p.poll() is None:
            self.p.kill()
        self.p.wait()


# ---- running programs --------------------------------------------------------------------------------


def prctl(option, value):
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def no_huge_pages():
    prctl(41, 1)  # PR_SET_THP_DISABLE: what is measured is what is used


def end_with_parent():
    prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: also when the test is killed


class Sampler(threading.Thread):
    """Looks at a cgroup (or a process) every few milliseconds while a program runs."""

    def __init__(self, look, every):
        super().__init__(daemon=True)
        self.look, self.every, self.peak, self.stop = look, every, 0, threading.Event()

    def run(self):
        while not self.stop.wait(self.every):
            try:
                self.peak = max(self.peak, self.look())
            except (OSError, KeyError, ValueError):
                pass

    def result(self):
        self.stop.set()
        self.join()
        return self.peak


def descendants(pid):
    out, todo = [], [pid]
    while todo:
        p = todo.pop()
        out.append(p)
        try:
            for t in os.listdir(f"/proc/{p}/task"):
                with open(f"/proc/{p}/task/{t}/children") as f:
                    todo += [int(c) for c in f.read().split()]
        except OSError:
            pass
    return out


def anon_of(pids):
    total = 0
    for p in pids:
        try:
            with open(f"/proc/{p}/status") as f:
                total += sum(int(line.split()[1]) << 10 for line in f if line.startswith("RssAnon"))
        except OSError:
            pass
    return total


def uncovered_of(pids):
    """Anonymous memory outside the external range, from the kernel's own account; what processes share after a fork
    counts once."""
    total = 0
    for p in pids:
        inside, share = False, 0
        try:
            with open(f"/proc/{p}/smaps") as f:
                for line in f:
                    if line[0] in "0123456789abcdef":
                        inside = EXT_LO <= int(line.split("-", 1)[0], 16) < EXT_HI
                    elif line.startswith("Pss:"):
                        share = int(line.split()[1])
                    elif line.startswith("Anonymous:") and not inside:
                        total += min(share, int(line.split()[1])) << 10
        except OSError:
            pass
    return total


def as_user(argv):
    """argv run as `nobody`, with a userfaultfd node of its own; the machine's node is left alone."""
    node = os.stat("/dev/userfaultfd")
    check(stat.S_ISCHR(node.st_mode), "/dev/userfaultfd is no device")
    script = ("mount --make-rprivate / && mount -t tmpfs -o mode=755,dev none /mnt && "
              f"mknod -m 666 /mnt/userfaultfd c {os.major(node.st_rdev)} {os.minor(node.st_rdev)} && "
              "mount --bind /mnt/userfaultfd /dev/userfaultfd && "
              f'HOME=/nonexistent exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups -- "$@"')
    return ["unshare", "-m", "sh", "-ec", script, "sh"] + argv


def user_possible():
    """None, or why programs cannot be run as an ordinary user here."""
    if os.geteuid() != 0:
        return "not root: cannot make a device node of the test's own"
    if not os.path.exists("/dev/userfaultfd"):
        return "no /dev/userfaultfd here"
    if subprocess.run(as_user(["test", "-x", path_of("xmem-run")]), stderr=subprocess.DEVNULL).returncode:
        return f"no mount namespace, or {BUILD} cannot be reached by an ordinary user"
    return None


class Result:
    """What a run left: its output, how long it took, and for xmem-run the statistics."""

    def __init__(self, out, err, clock, peak=0, stats=None, uncovered=0):
        self.out, self.err, self.peak, self.stats, self.uncovered = out, err, peak, stats, uncovered
        self.seconds, self.cpu = clock.read()


class Clock:
    """Time that passes, and processor time of processes that have been waited for."""

    def __init__(self):
        self.start, self.start_cpu = time.monotonic(), self.children()

    @staticmethod
    def children():
        r = resource.getrusage(resource.RUSAGE_CHILDREN)
        return r.ru_utime + r.ru_stime

    def read(self):
        return time.monotonic() - self.start, self.children() - self.start_cpu


def _launch(argv, group, user=False, cwd=None, env=None, huge=False):
    def before():
        if group:
            group.enter()
        if not huge:
            no_huge_pages()
        end_with_parent()

    argv = as_user(argv) if user else argv
    full = dict(os.environ, LC_ALL="C", **(env or {}))
    return subprocess.Popen(argv, cwd=cwd, env=full, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, preexec_fn=before, start_new_session=True)


def _kill_session(p):
    try:
        os.killpg(p.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _drive(p, drive, seconds, what, group=None):
    """Lets the program run to its end, with a driver that talks to it or without: its output."""
    watchdog = threading.Timer(seconds, _kill_session, [p])
    watchdog.start()
    try:
        said = drive(p) if drive else b""
        out, err = p.communicate()
    except BaseException as e:
        _kill_session(p)
        out, err = p.communicate()
        if isinstance(e, Exception) and group and group.killed_for_memory():
            raise Killed(f"{what}: {KILLED}") from None
        sys.stderr.write(err.decode(errors="replace")[-2000:])
        raise
    finally:
        late = not watchdog.is_alive()
        watchdog.cancel()
    check(not late, f"{what}: not at its end after {seconds} s\n{err.decode(errors='replace')[-2000:]}")
    if p.returncode and group and group.killed_for_memory():
        raise Killed(f"{what}: {KILLED}")
    check(p.returncode == 0, f"{what}: status {p.returncode}\n{err.decode(errors='replace')[-2000:]}"
          f"{out.decode(errors='replace')[-600:]}")
    return said + out, err.decode(errors="replace")


def run_in(group, argv, drive=None, seconds=120, **how):
    """A program from start to end in a cgroup, which is left to the caller; how: see _launch. Its output and errors."""
    return _drive(_launch(argv, group, **how), drive, seconds, "run of " + argv[0], group)


def run_plain(argv, user=False, cwd=None, env=None, drive=None, seconds=120):
    """An ordinary run: output and the peak of its anonymous memory."""
    group = Cgroup.make()
    clock = Clock()
    p = _launch(argv, group, user, cwd, env)
    look = group.anon if group else lambda: anon_of(descendants(p.pid))
    sampler = Sampler(look, 0.005 if group else 0.02)
    sampler.start()
    try:
        out, err = _drive(p, drive, seconds, "ordinary run of " + argv[0])
    finally:
        peak = sampler.result()
        if group:
            group.remove()
    return Result(out, err, clock, peak)


def run_xmem(argv, budget, options=(), limit=None, measure=False, user=False, cwd=None, env=None, drive=None,
             seconds=180):
    """The same under xmem-run with a budget in bytes; limit: of the memory cgroup, where one can be made."""
    group = Cgroup.make(limit) if limit or measure else None
    stats = tempfile.NamedTemporaryFile(prefix="stats-", suffix=".json", dir=work)
    os.chmod(stats.name, 0o666)
    full = [path_of("xmem-run"), "--fault", FAULT, "--strict", "--local", str(budget), f"--stats={stats.name}", *options,
            "--"] + argv
    clock = Clock()
    p = _launch(full, group, user, cwd, env)
    sampler = None
    if measure:
        sampler = Sampler(lambda: uncovered_of(group.pids() if group else descendants(p.pid)), 0.1)
        sampler.start()
    try:
        out, err = _drive(p, drive, seconds, "xmem-run of " + argv[0], group)
    finally:
        uncovered = sampler.result() if sampler else 0
        if group:
            group.remove()
    with open(stats.name) as f:
        text = f.read()
    check(text, "xmem-run wrote no statistics")
    return Result(out, err, clock, stats=json.loads(text), uncovered=uncovered)


# ---- what a pass-through fails -----------------------------------------------------------------------


def travelled(result, before, after, link):
    """(bytes evicted, bytes fetched): over tcp as the appliance counted them, over shm as the links did."""
    if link == "tcp":
        return after["write_bytes"] - before["write_bytes"], after["read_bytes"] - before["read_bytes"]
    t = result.stats["family"]["total"]
    return t["written_bytes"], t["fetched_bytes"]


def check_travelled(result, peak, budget, before, after, link):
    evicted, fetched = travelled(result, before, after, link)
    want = (peak - budget) // 2
    check(want > 0, f"the budget of {budget // MIB} MiB is no less than the peak of {peak // MIB} MiB")
    check(evicted >= want, f"only {evicted // MIB} MiB went to the appliance, at least {want // MIB} must have")
    check(fetched >= want, f"only {fetched // MIB} MiB came from the appliance, at least {want // MIB} must have")


def check_covered(result):
    f = result.stats["family"]
    t = f["total"]
    external = t["external_pages_max"] * 4096
    local = max(t["anon_local_bytes"], result.uncovered)
    share = external / max(external + local, 1)
    check(share >= 0.9, f"coverage {share:.1%}: {external // MIB} MiB external, {local // MIB} MiB not")
    check(f["uncovered_commands"] == 0, f"{f['uncovered_commands']} commands were not covered")


def check_budget(result, budget):
    """The family kept to its budget. Where nothing can leave for a moment it may be exceeded by the reserve of free frames
    (a sixteenth) and once more, and by what each handler has in hand then (reclaim.c). After a fork the child's resident
    pages count a second time although parent and child share them: there the memory cgroup is the judge."""
    t = result.stats["family"]["total"]
    over = t["over_budget_pages_max"]
    if not t["forks"]:
        check(over * 4096 <= max(budget // 8 + MIB, 4 * MIB), f"{over} pages over the budget of {budget // 4096}")
    bad = {k: t[k] for k in ("checksum_errors", "faults_lost", "link_errors") if t[k]}
    check(not bad, f"errors in a run without any: {bad}\n{result.err[-2000:]}")
