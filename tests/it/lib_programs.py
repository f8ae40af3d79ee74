# SPDX-License-Identifier: Apache-2.0
"""The real programs of the integration tests. Each makes its input from a fixed seed, gives the command, and
something to compare between an ordinary run and a covered one: its output, unless it has a driver that talks to it
and says what it saw. Peaks are little above 256 MiB: large enough for a quarter of it to hurt."""
import hashlib
import os
import random
import shutil
import socket
import subprocess
import time

import lib_xmem as x

SEED = int(os.environ.get("XMEM_SEED", "20240229"))


class Program:
    """command(): argv. prepare(): makes files in self.dir. drive(p): see lib_xmem.run_plain."""

    name = ""
    need = ()  # commands that must be installed
    version = ()  # argv that prints one
    user = False  # run as an ordinary user in every test
    env = {}
    drive = None
    pins = False  # lets the kernel hold pages while the program goes on

    def __init__(self):
        self.dir = os.path.join(x.work, self.name)
        os.makedirs(self.dir, exist_ok=True)
        os.chmod(self.dir, 0o777)

    def prepare(self):
        pass

    def command(self):
        raise NotImplementedError

    def result(self, out):
        """What is compared: by default the output itself."""
        return out

    def file(self, name, text=None):
        path = os.path.join(self.dir, name)
        if text is not None:
            with open(path, "wb" if isinstance(text, bytes) else "w") as f:
                f.write(text)
            os.chmod(path, 0o644)
        return path

    def version_text(self):
        out = subprocess.run(self.version, capture_output=True, check=False)
        return (out.stdout or out.stderr).decode(errors="replace").split("\n")[0]


class Sort(Program):
    """GNU sort in memory; the lines are long so that the time goes into moving pages, not into strcmp."""

    name, need, version = "sort", ("sort",), ("sort", "--version")

    def prepare(self):
        rng = random.Random(SEED)
        pad = bytes(rng.choice(b"abcdefghijklmnop") for _ in range(1 << 16))
        with open(self.file("in"), "wb") as f:
            for _ in range(70000):
                at = rng.randrange(len(pad) - 4000)
                f.write(b"%016x" % rng.getrandbits(64) + pad[at:at + 3983] + b"\n")

    def command(self):
        return ["/bin/sh", "-c", 'sort --parallel=2 -S 600M "$1" >"$2" && sha256sum <"$2" && rm -f "$2"', "sh",
                self.file("in"), self.file("out")]


class Python(Program):
    name, need, version = "python", ("/usr/bin/python3",), ("/usr/bin/python3", "--version")
    text = """
import gc, hashlib, random
gc.set_threshold(50000, 20, 20)  # every full collection goes over all of it: a few are enough
rng = random.Random(%d)
d = {}
for i in range(200000):
    k = "key%%d" %% i
    d[k] = [i, k * 3, (i, str(i * 7919)), b"%%08d" %% i * 110]
print(len(d), sum(v[0] + len(v[2][1]) for v in d.values()))
for k in rng.sample(range(200000), 2000):
    d["key%%d" %% k][1] = "changed" * 20
for k in range(0, 200000, 5):
    del d["key%%d" %% k]
h = hashlib.sha256()
for k in rng.sample(sorted(d), 1000):
    h.update(d[k][3])
for k, v in d.items():
    h.update(v[1].encode())
print(h.hexdigest())
"""

    def prepare(self):
        self.file("p.py", self.text % SEED)

    def command(self):
        return ["/usr/bin/python3", self.file("p.py")]


class Numpy(Program):
    name, need = "numpy", ("/usr/bin/python3",)
    version = ("/usr/bin/python3", "-c", "import numpy; print('numpy', numpy.__version__)")
    text = """
import hashlib, numpy as np
rng = np.random.default_rng(%d)
a = rng.random(18 << 20, dtype=np.float32)           # 72 MiB, fill
b = np.empty(18 << 20, dtype=np.float32)
np.multiply(a, 2.5, out=b)                           # stream
b += a
c = np.arange(9 << 20, dtype=np.int32)               # 36 MiB
c *= np.int32(-1640531535)
c.sort()
print(float(b[::4097].sum()), int(c[12345]), int(c.astype(np.int64).sum()))
print(hashlib.sha256(b.data).hexdigest(), hashlib.sha256(c.data).hexdigest())
print(float(a[rng.integers(0, len(a), 5000)].sum()))
"""

    def prepare(self):
        self.file("p.py", self.text % SEED)

    def command(self):
        return ["/usr/bin/python3", self.file("p.py")]


class Sqlite(Program):
    name, need, version = "sqlite", ("sqlite3",), ("/usr/bin/sqlite3", "--version")
    text = """
CREATE TABLE t(id INTEGER PRIMARY KEY, k INT, v TEXT);
CREATE TABLE s(k INT, id INT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 54000)
INSERT INTO t SELECT i, (i * 2654435761) % 1000003, printf('%d-%.*c', i * 7919, 2600, char(97 + i % 26)) FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 54000)
INSERT INTO s SELECT (i * 2654435761) % 1000003, i FROM n;
CREATE INDEX sk ON s(k);
SELECT count(*), sum(k), sum(length(v)), min(v), max(substr(v, 1, 12)) FROM t;
UPDATE t SET v = 'x' || v WHERE id BETWEEN 9000 AND 14000;
DELETE FROM t WHERE id % 3 = 1 AND id BETWEEN 30000 AND 40000;
SELECT count(*), sum(length(v)) FROM t WHERE id IN (SELECT id FROM s ORDER BY k LIMIT 1000);
SELECT k % 7, count(*), sum(id) FROM s GROUP BY 1 ORDER BY 1;
INSERT INTO t SELECT id + 1000000, k + 1, v FROM t WHERE id BETWEEN 50000 AND 53000;
SELECT count(*), sum(k * length(v)), max(id) FROM t;
"""

    def prepare(self):
        self.file("p.sql", self.text)

    def command(self):
        return ["/usr/bin/sqlite3", "-batch", ":memory:", f".read {self.file('p.sql')}"]


class RedisClient:
    def __init__(self, path, seconds=90, watch=None):
        """watch: the process that listens; when it has ended there is nothing to wait for."""
        end = time.monotonic() + 30
        while True:
            self.s = socket.socket(socket.AF_UNIX)
            try:
                self.s.connect(path)
                break
            except OSError:
                self.s.close()
                x.check(time.monotonic() < end and not (watch and watch.poll() is not None), "redis-server does not listen")
                time.sleep(0.02)
        self.s.settimeout(seconds)
        self.f = self.s.makefile("rb", 1 << 16)

    def _reply(self):
        line = self.f.readline()
        x.check(line.endswith(b"\r\n"), "redis closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise x.Failed(f"redis: {rest.decode(errors='replace')}")
        if kind == b"$":
            return None if rest == b"-1" else self.f.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self._reply() for _ in range(int(rest))]
        return rest

    def pipeline(self, commands, batch=64):
        replies = []
        for at in range(0, len(commands), batch):
            part = commands[at:at + batch]
            out = bytearray()
            for c in part:
                out += b"*%d\r\n" % len(c)
                for a in c:
                    a = a if isinstance(a, bytes) else str(a).encode()
                    out += b"$%d\r\n%b\r\n" % (len(a), a)
            self.s.sendall(out)
            replies += [self._reply() for _ in part]
        return replies

    def __call__(self, *command):
        return self.pipeline([command])[0]


class Redis(Program):
    """Loads, reads back, saves by a fork while writes go on. The file that the child wrote, loaded by a redis without
    xmem, must have the digest that the data had at the fork."""

    name, need, version = "redis", ("redis-server",), ("redis-server", "--version")
    keys, size = 26000, 8192

    def value(self, i, salt=0):
        return hashlib.md5(b"%d-%d" % (i, salt)).digest() * (self.size // 16)

    def options(self):
        return ["--port", "0", "--unixsocket", self.file("sock"), "--dir", self.dir, "--save", "", "--appendonly",
                "no", "--dbfilename", "dump.rdb", "--enable-debug-command", "yes", "--rdbcompression", "no",
                "--logfile", self.file("log")]

    def command(self):
        for name in ("sock", "dump.rdb", "log"):
            if os.path.exists(self.file(name)):
                os.unlink(self.file(name))
        return ["redis-server"] + self.options()

    def drive(self, p):
        r = RedisClient(self.file("sock"))
        r.pipeline([("SET", f"key:{i}", self.value(i)) for i in range(self.keys)])
        r.pipeline([("RPUSH", f"list:{i % 50}", f"item{i}") for i in range(5000)])
        rng = random.Random(SEED)
        for i in rng.sample(range(self.keys), 1000):
            x.check(r("GET", f"key:{i}") == self.value(i), f"key:{i} has another value")
        r("CLIENT", "PAUSE", "60000", "WRITE")
        at_fork = r("DEBUG", "DIGEST")
        r("BGSAVE")
        r("CLIENT", "UNPAUSE")
        for k in range(1200):
            i = rng.randrange(self.keys)
            r.pipeline([("SET", f"key:{i}", self.value(i, 1)), ("DEL", f"key:{(i * 7) % self.keys}")])
        self.wait_saved(r)
        after = r("DEBUG", "DIGEST")
        x.check(at_fork != after, "the writes after the fork changed nothing")
        r.pipeline([("GET", "key:1")])
        r.s.sendall(b"*2\r\n$8\r\nSHUTDOWN\r\n$6\r\nNOSAVE\r\n")
        saved = self.digest_of_file()
        x.check(saved == at_fork, f"the file of the fork has digest {saved!r}, at the fork it was {at_fork!r}")
        return at_fork + b" " + after

    def wait_saved(self, r):
        end = time.monotonic() + 90
        while True:
            info = dict(line.split(b":", 1) for line in r("INFO", "persistence").split(b"\r\n") if b":" in line)
            if info[b"rdb_bgsave_in_progress"] == b"0":
                break
            x.check(time.monotonic() < end, "BGSAVE does not end")
            time.sleep(0.05)
        x.check(info[b"rdb_last_bgsave_status"] == b"ok", "BGSAVE failed: " + self.log_tail())

    def log_tail(self):
        with open(self.file("log"), errors="replace") as f:
            return f.read()[-1500:]

    def digest_of_file(self):
        """As an ordinary redis-server sees the file."""
        plain = os.path.join(self.dir, "plain")
        os.makedirs(plain, exist_ok=True)
        shutil.copy(self.file("dump.rdb"), plain)
        sock = os.path.join(plain, "sock")
        p = subprocess.Popen(["redis-server", "--port", "0", "--unixsocket", sock, "--dir", plain, "--save", "",
                              "--enable-debug-command", "yes"], stdout=subprocess.DEVNULL)
        try:
            r = RedisClient(sock)
            while b"loading:1" in r("INFO", "persistence"):
                time.sleep(0.02)
            return r("DEBUG", "DIGEST")
        finally:
            p.kill()
            p.wait()
            shutil.rmtree(plain)

    def result(self, out):
        return out.split(b"\n")[0]


class Gcc(Program):
    """cc1 on a file with large tables of strings and numbers, and functions."""

    name, need, version = "gcc", ("gcc",), ("gcc", "--version")

    def prepare(self):
        rng = random.Random(SEED)
        pad = "".join(rng.choice("abcdefghijklmnop0123456789") for _ in range(70000))
        with open(self.file("big.c"), "w") as f:
            f.write("const char *const table[] = {\n")
            for k in range(17000):
                at = rng.randrange(60000)
                f.write(f'"{k} {pad[at:at + 2400]}",\n')
            f.write("};\nconst int numbers[] = {\n")
            for _ in range(20000):
                f.write(",".join(str(rng.getrandbits(30)) for _ in range(8)) + ",\n")
            f.write("};\n")
            for n in range(150):
                f.write(f"int f{n}(int a, int b)\n{{\n")
                for k in range(16):
                    f.write(f"\ta = (a * {rng.randrange(1, 9999)}) ^ (b + {rng.randrange(9999)});\n"
                            f"\tif (a > {k} + b) b -= a >> {rng.randrange(1, 9)};\n")
                f.write("\treturn a + b;\n}\n")
        os.chmod(self.file("big.c"), 0o644)

    def command(self):
        return ["/bin/sh", "-c", 'gcc -O1 -S -o "$2" "$1" && sha256sum <"$2"', "sh", self.file("big.c"),
                self.file("big.s")]


class Jvm(Program):
    name, need, version = "jvm", ("java", "javac"), ("java", "-version")
    text = """
import java.util.*;
public class Work {
    static final class Node { final long key; final byte[] data; Node next; Node(long k, byte[] d) { key = k; data = d; } }
    public static void main(String[] a) {
        Random rng = new Random(%dL);
        HashMap<Long, Node> map = new HashMap<>();
        Node head = null;
        for (int i = 0; i < 132000; i++) {
            byte[] d = new byte[1500 + rng.nextInt(200)];
            Arrays.fill(d, (byte) (i * 31 + 7));
            Node n = new Node(i * 2654435761L %% 1000003L * 131072L + i, d);
            n.next = head;
            head = n;
            map.put(n.key, n);
        }
        long sum = 0;
        for (Node n = head; n != null; n = n.next) sum = sum * 31 + n.data[n.data.length / 2] + n.key;
        for (int i = 0; i < 30000; i++) { byte[] garbage = new byte[2000]; garbage[i %% 2000] = 1; sum += garbage[0]; }
        int removed = 0;
        for (Iterator<Map.Entry<Long, Node>> it = map.entrySet().iterator(); it.hasNext();)
            if (it.next().getKey() %% 3 == 0) { it.remove(); removed++; }
        for (Node n : map.values()) sum ^= n.key * n.data.length + n.data[17];
        System.out.println(sum + " " + removed + " " + map.size());
    }
}
"""

    def prepare(self):
        self.file("Work.java", self.text % SEED)
        subprocess.run(["javac", "-d", self.dir, self.file("Work.java")], check=True)

    def command(self):
        return ["java", "-Xms320m", "-Xmx320m", "-Xmn24m", "-XX:+UseSerialGC", "-cp", self.dir, "Work"]


class Node(Program):
    name, need, version = "node", ("node",), ("node", "--version")
    text = """
const crypto = require('crypto');
let s = %d >>> 0;
const rnd = () => { s = (Math.imul(s, 1664525) + 1013904223) >>> 0; return s; };
const m = new Map(), big = [];
for (let i = 0; i < 130; i++) {
  const b = new Float64Array(128 * 1024);
  for (let k = 0; k < b.length; k++) b[k] = i * 1.5 + k;
  big.push(b);
}
for (let i = 0; i < 400000; i++) m.set('k' + i, { id: i, name: 'n' + rnd(), list: [i, i + 1, rnd() %% 1000], next: null });
let sum = 0;
for (const v of m.values()) sum += v.list[2] + v.name.length;
for (let i = 0; i < 400000; i += 3) m.delete('k' + i);
for (let n = 0; n < 4000; n++) { const b = big[rnd() %% big.length]; sum += b[rnd() %% b.length]; }
const h = crypto.createHash('sha256');
for (const b of big) h.update(new Uint8Array(b.buffer));
console.log(sum, m.size, h.digest('hex'));
"""

    def prepare(self):
        self.file("p.js", self.text % SEED)

    def command(self):
        return ["node", "--max-old-space-size=800", self.file("p.js")]


class Pipeline(Program):
    """A shell whose children are covered without knowing, all within one budget."""

    name, need = "pipeline", ("awk", "sort")
    version = ("sh", "-c", "sort --version | head -1; awk -W version 2>&1 | head -1")
    text = """
awk 'BEGIN { s = %d; p = sprintf("%%3600s", "x"); gsub(/ /, "y", p)
  for (i = 0; i < 68000; i++) { s = (s * 16807) %% 2147483647; print s, i, p } }' |
sort -S 300M -n |
awk '{ n[$1 %% 30000] = n[$1 %% 30000] substr($3, 1, 400); c += NF } END { for (k in n) t += length(n[k]); print c, t }
     NR %% 1000 == 0 { print $1, $2 }' | sha256sum
"""

    def prepare(self):
        self.file("p.sh", self.text % (SEED % 2147483647))

    def command(self):
        return ["/bin/sh", self.file("p.sh")]


class Fio(Program):
    """Direct I/O into buffers that do not fit the budget: pages that the kernel holds must not move."""

    need, version, engine = ("fio",), ("fio", "--version"), ""
    pins = True

    def command(self, memory="malloc", extra=()):
        return ["fio", "--name=t", f"--ioengine={self.engine}", "--direct=1", "--rw=randwrite", "--bs=1M",
                "--iodepth=272", "--size=384M", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--thread",
                f"--mem={memory}", f"--randseed={SEED}", f"--filename={self.file('data')}", "--output-format=terse",
                "--group_reporting", *extra]

    def result(self, out):
        fields = out.decode().strip().split(";")
        x.check(len(fields) > 50 and fields[4] == "0", f"fio: {out[:300]!r}")
        return f"error {fields[4]}, read {fields[5]} KiB, written {fields[46]} KiB".encode()


class FioAio(Fio):
    name, engine = "fio-libaio", "libaio"


class FioUring(Fio):
    name, engine = "fio-io_uring", "io_uring"


class StressNg(Program):
    name, need, version = "stress-ng", ("stress-ng",), ("stress-ng", "--version")
    user = True

    def command(self):
        # Little for mmap: it asks for stacks and for the low 4 GiB too, which stay local. A bound for malloc, which
        # else allocates all that there is, touches little of it, and leaves ENOMEM to the others. Each does so much,
        # not so long: what it needs and moves must not depend on how busy the machine is. Nor on its third-level cache, of
        # whose size (480 MiB on some) it has a shared buffer, which --fork-vm fills.
        parts = {"vm": ("256m", 60), "mmap": ("12m", 4), "mremap": ("64m", 2), "malloc": ("16m", 4000), "madvise": (None, 16),
                 "fork": (None, 40)}
        argv = ["stress-ng", "--verify", "--seed", str(SEED), "-t", "100s", "--temp-path", self.dir, "--fork-vm",
                "--malloc-max", "64", "--cache-level", "1"]
        for name, (size, ops) in parts.items():
            argv += ["--" + name, "1", f"--{name}-ops", str(ops)]
            argv += [f"--{name}-bytes", size] if size else []
        return argv

    def result(self, out):
        x.check(b"fail" not in out.replace(b"failed: 0", b""), out.decode(errors="replace")[-1500:])
        return b"verified"


ALL = [Sort, Python, Numpy, Sqlite, Redis, Gcc, Jvm, Node, Pipeline, FioAio, FioUring, StressNg]
