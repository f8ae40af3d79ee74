/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xmem-run-check.c - `xmem-run --check`: one line for each thing that a covered program needs from the machine,
 * tried as this user and not guessed from version numbers, each missing one with the command that mends it.
 *
 *   ok       works            note     works in an older or slower way, or only sometimes
 *   MISSING  commands cannot be run: exit status 125
 */
#include "runtime/xmem-run.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "log.h"
#include "runtime/family.h"
#include "runtime/uffd.h"
#include "runtime/uffd_abi.h"
#include "sys.h"
#include "units.h"

struct check {
	const struct run_options *opt;
	int missing, notes;
	char user[64];
	uint64_t features; /* of userfaultfd; 0: no access */
};

enum verdict { OK, NOTE, MISSING };

static void say(struct check *c, enum verdict v, const char *what, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

static void say(struct check *c, enum verdict v, const char *what, const char *fmt, ...)
{
	static const char *const names[] = { "ok", "note", "MISSING" };
	char text[512], line[640];
	va_list ap;
	int n;

	va_start(ap, fmt);
	xm_vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	n = xm_snprintf(line, sizeof(line), "%-8s %-20s %s\n", names[v], what, text);
	n = xm_min(n, (int)sizeof(line) - 1);
	if (write(1, line, (size_t)n) != n)
		c->missing++;
	c->missing += v == MISSING;
	c->notes += v == NOTE;
}

/* first line of a small file; "" when it cannot be read */
static const char *read_line(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, size - 1);

	if (fd >= 0)
		close(fd);
	buf[n > 0 ? n : 0] = 0;
	buf[strcspn(buf, "\n")] = 0;
	return buf;
}

/* ---- kernel ------------------------------------------------------------------------------------------- */

static void check_kernel(struct check *c)
{
	struct utsname u;
	int major, minor;
	char *end;

	uname(&u);
	major = (int)strtol(u.release, &end, 10);
	minor = *end == '.' ? (int)strtol(end + 1, NULL, 10) : 0;
	if (major > 5 || (major == 5 && minor >= 7))
		say(c, OK, "kernel", "%s", u.release);
	else
		say(c, MISSING, "kernel",
		    "%s; 5.7 is the oldest with write-protect faults: upgrade the kernel", u.release);
}

/* A userfaultfd by either way; the errno of each that failed. */
static int open_uffd(int *dev_err, int *call_err)
{
	int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC), fd;

	*dev_err = *call_err = 0;
	if (dev >= 0) {
		fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		*dev_err = fd < 0 ? errno : 0;
		close(dev);
		if (fd >= 0)
			return fd;
	} else {
		*dev_err = errno;
	}
	fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	*call_err = fd < 0 ? errno : 0;
	return fd;
}

static void check_uffd(struct check *c)
{
	struct uffdio_api api = { .api = UFFD_API };
	int dev_err, call_err, fd = open_uffd(&dev_err, &call_err);

	if (fd >= 0) {
		say(c, OK, "userfaultfd", "access by %s", dev_err ? "the system call" : "/dev/userfaultfd");
		if (ioctl(fd, UFFDIO_API, &api) == 0)
			c->features = api.features;
		close(fd);
	} else if (call_err == ENOSYS) {
		say(c, MISSING, "userfaultfd", "the kernel has none: build it with CONFIG_USERFAULTFD=y");
	} else if (dev_err == ENOENT) {
		say(c, MISSING, "userfaultfd",
		    "not permitted, and no /dev/userfaultfd (a container? start it with --device /dev/userfaultfd and "
		    "a seccomp profile that allows userfaultfd): sysctl -w vm.unprivileged_userfaultfd=1");
	} else {
		say(c, MISSING, "userfaultfd",
		    "not permitted: setfacl -m u:%s:rw /dev/userfaultfd    (or: sysctl -w "
		    "vm.unprivileged_userfaultfd=1)    (or: --fault signal, which needs neither)",
		    c->user);
	}
}

static void check_features(struct check *c)
{
	static const struct {
		const char *name;
		uint64_t bit;
		enum verdict without;
		const char *what;
	} f[] = {
		{ "write-protect", UFFD_FEATURE_PAGEFAULT_FLAG_WP, NOTE,
		  "none: every resident page counts as dirty and is written when evicted (kernel 5.7+ on x86-64)" },
		{ "MOVE", UFFD_FEATURE_MOVE, NOTE,
		  "none: pages that the kernel has pinned cannot be recognised; direct I/O keeps its pages local "
		  "(kernel 6.8+)" },
		{ "POISON", UFFD_FEATURE_POISON, NOTE,
		  "none: lost pages are made unreadable by mapping a truncated object (kernel 6.6+)" },
	};

	for (size_t i = 0; c->features && i < XM_ARRAY_SIZE(f); i++)
		say(c, c->features & f[i].bit ? OK : f[i].without, f[i].name, "%s",
		    c->features & f[i].bit ? "yes" : f[i].what);
}

static void check_process_madvise(struct check *c)
{
	char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct iovec iov = { p, 4096 };
	int fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	long ret = fd < 0 || p == MAP_FAILED ? -1
					     : syscall(SYS_process_madvise, fd, &iov, 1ul, MADV_DONTNEED, 0);

	if (ret >= 0)
		say(c, OK, "process_madvise", "drops scattered pages in one call");
	else
		say(c, NOTE, "process_madvise",
		    "does not drop pages (%s): one call a run instead (kernel 6.13+)", xm_strerror(errno));
	if (fd >= 0)
		close(fd);
	if (p != MAP_FAILED)
		munmap(p, 4096);
}

/* ---- limits ------------------------------------------------------------------------------------------- */

static const char *limit_text(rlim_t v, char *buf)
{
	return v == RLIM_INFINITY ? "unlimited" : xm_format_size(v, buf, 32);
}

static void check_limits(struct check *c)
{
	struct rlimit l;
	char a[32];

	getrlimit(RLIMIT_NOFILE, &l);
	if (l.rlim_cur >= 256)
		say(c, OK, "open files", "%llu", (unsigned long long)l.rlim_cur);
	else
		say(c, NOTE, "open files", "only %llu: ulimit -n 256", (unsigned long long)l.rlim_cur);
	getrlimit(RLIMIT_FSIZE, &l);
	if (l.rlim_cur < XM_FAM_BYTES)
		say(c, MISSING, "file size limit",
		    "%s is less than the (sparse) shared object of a family: ulimit -f "
		    "unlimited",
		    limit_text(l.rlim_cur, a));
	getrlimit(RLIMIT_AS, &l);
	if (l.rlim_cur < XM_FAM_BYTES + XM_EXT_BYTES)
		say(c, MISSING, "address space limit", "%s: ulimit -v unlimited", limit_text(l.rlim_cur, a));
	else
		say(c, OK, "address space limit", "%s", limit_text(l.rlim_cur, a));
}

static void check_settings(struct check *c)
{
	char text[128];
	long v;

	read_line("/proc/sys/vm/overcommit_memory", text, sizeof(text));
	if (strcmp(text, "2") == 0)
		say(c, MISSING, "overcommit",
		    "strict accounting counts external memory as local: sysctl -w "
		    "vm.overcommit_memory=0");
	else
		say(c, OK, "overcommit", "mode %s", text[0] ? text : "unknown");
	v = strtol(read_line("/proc/sys/vm/max_map_count", text, sizeof(text)), NULL, 10);
	if (v && v < 65530)
		say(c, NOTE, "max_map_count",
		    "%ld is little for programs with many mappings: sysctl -w "
		    "vm.max_map_count=65530",
		    v);
	else
		say(c, OK, "max_map_count", "%ld", v);
	read_line("/sys/kernel/mm/transparent_hugepage/enabled", text, sizeof(text));
	say(c, OK, "huge pages", "%s (external memory uses 4 KiB pages in any mode)",
	    text[0] ? text : "none");
	say(c, OK, "memory", "%s in this machine or cgroup",
	    xm_format_size(xm_machine_memory_bytes(), text, 32));
}

/* ---- parts of xmem and appliances --------------------------------------------------------------------- */

static void check_family(struct check *c)
{
	struct xm_family_config cfg = { .budget_bytes = XM_RUN_LOCAL_MIN };
	struct xm_family *f;
	int err = 0;

	f = xm_family_create(&cfg, NULL, &err);
	if (f)
		say(c, OK, "shared object", "yes");
	else
		say(c, MISSING, "shared object", "cannot be made: %s", xm_strerror(err));
	xm_family_unmap(f);
}

static void check_preload(struct check *c)
{
	char path[PATH_MAX];
	int ret = run_find_preload(path);

	if (ret == 0)
		say(c, OK, "preload object", "%.300s", path);
	else if (ret == -ENOEXEC)
		say(c, MISSING, "preload object", "%.200s is none: name libxmem-preload.so by XMEM_PRELOAD", path);
	else
		say(c, MISSING, "preload object",
		    "%.200s: not there: build or install xmem, or name it by XMEM_PRELOAD", path);
}

/* Reaches an appliance and has a slab from it for a moment. */
static void check_appliance(struct check *c, const char *name, const char *uri)
{
	struct xm_peer_config pc = { .uri = uri, .client_name = "xmem-run --check" };
	struct xm_region_info region;
	struct xm_link_path path;
	struct xm_peer_info info;
	struct xm_peer *peer;
	char why[256] = "", total[32];
	int ret = xm_peer_open(&pc, &peer, why);

	if (ret) {
		say(c, MISSING, name, "%s", why[0] ? why : xm_strerror(ret));
		return;
	}
	ret = xm_peer_check(peer, 3, XM_STAGING_BYTES, &path, why);
	if (ret < 0) {
		say(c, MISSING, name, "%s", why);
		goto out;
	}
	if (ret)
		say(c, NOTE, name, "%s (pages are copied once more)", why);
	if (path.device[0])
		say(c, OK, "RDMA path", "by %s port %u, GID %u, path MTU %u", path.device, path.port, path.gid_index,
		    path.mtu_bytes);
	xm_peer_info(peer, &info);
	ret = xm_peer_region_create(peer, info.slab_bytes, "", 0, &region);
	if (ret)
		say(c, MISSING, name, "%.120s: no region of one slab: %s (more --memory, or fewer clients)",
		    uri, xm_strerror(ret));
	else
		say(c, OK, name, "%.120s, lends %s", uri,
		    xm_format_size(info.total_bytes, total, sizeof(total)));
out:
	xm_peer_close(peer);
}

static void check_private(struct check *c)
{
	struct xm_private_appliance a;
	char path[PATH_MAX], why[256];

	run_find_appliance(path);
	if (xm_private_appliance_start(path, 2 * XM_SLAB_SIZE, &a, why)) {
		say(c, c->opt->appliances.n ? NOTE : MISSING, "private appliance", "%s", why);
		return;
	}
	check_appliance(c, "private appliance", a.uri);
	xm_private_appliance_stop(&a);
}

/* ---- RDMA ------------------------------------------------------------------------------------------------ */

static bool wants_rdma(const struct check *c)
{
	for (int i = 0; i < c->opt->appliances.n; i++)
		if (strncmp(c->opt->appliances.v[i], "verbs:", 6) == 0)
			return true;
	return false;
}

/* Ports of one device. How many are active. */
static int check_rdma_device(struct check *c, const char *name)
{
	char path[PATH_MAX], state[64], link[64], netdev[64];
	int active = 0;

	for (int port = 1; port < 256; port++) {
		xm_snprintf(path, sizeof(path), "/sys/class/infiniband/%s/ports/%d/state", name, port);
		if (!*read_line(path, state, sizeof(state)))
			break;
		xm_snprintf(path, sizeof(path), "/sys/class/infiniband/%s/ports/%d/link_layer", name, port);
		read_line(path, link, sizeof(link));
		xm_snprintf(path, sizeof(path), "/sys/class/infiniband/%s/ports/%d/gid_attrs/ndevs/0", name, port);
		read_line(path, netdev, sizeof(netdev));
		if (strncmp(state, "4:", 2) == 0) {
			active++;
			say(c, OK, "RDMA device", "%s port %d active (%s%s%s)", name, port, link, netdev[0] ? ", on " : "",
			    netdev);
		} else {
			say(c, NOTE, "RDMA device", "%s port %d is %s: ip link set %s up, or look at the cable", name, port,
			    state + strspn(state, "0123456789: "), netdev[0] ? netdev : "DEVICE");
		}
	}
	return active;
}

/* Each worker of a process has a link with 640 KiB and its queues that the device must reach. */
static void check_locked(struct check *c)
{
	struct rlimit l;
	char a[32];

	getrlimit(RLIMIT_MEMLOCK, &l);
	if (l.rlim_cur >= 64ull << 20)
		say(c, OK, "locked memory", "%s", limit_text(l.rlim_cur, a));
	else if (geteuid() != 0)
		say(c, NOTE, "locked memory", "%s is little for verbs: addresses (1 MiB a thread that serves faults): "
		    "ulimit -l 65536", limit_text(l.rlim_cur, a));
}

static void check_rdma(struct check *c)
{
	DIR *dir = opendir("/sys/class/infiniband");
	const struct dirent *e;
	int active = 0;

	while (dir && (e = readdir(dir)))
		if (e->d_name[0] != '.')
			active += check_rdma_device(c, e->d_name);
	if (dir)
		closedir(dir);
	if (active)
		check_locked(c);
	else if (wants_rdma(c))
		say(c, MISSING, "RDMA",
		    "no active device for a verbs: address: use tcp:, or make a soft-RoCE one: rdma link add rxe0 type rxe "
		    "netdev DEVICE");
	else
		say(c, OK, "RDMA", "no active device; only verbs: addresses need one");
}

static void user_name(char *buf, size_t size)
{
	struct passwd *pw = getpwuid(geteuid());

	if (pw)
		xm_snprintf(buf, size, "%s", pw->pw_name);
	else
		xm_snprintf(buf, size, "%u", geteuid());
}

int run_check_access(uint32_t masked_features, bool by_signal)
{
	uint32_t features = 0;
	char user[64];
	int fd = xm_uffd_open(masked_features, by_signal, &features);

	if (fd >= 0)
		close(fd);
	if (fd >= 0 && (features & (XM_FEAT_WP | XM_FEAT_MOVE)))
		return 0;
	user_name(user, sizeof(user));
	if (fd == -EPERM || fd == -EACCES)
		xm_err("no access to userfaultfd: as root, setfacl -m u:%s:rw /dev/userfaultfd, or sysctl -w "
		       "vm.unprivileged_userfaultfd=1; or run it with --fault signal (xmem-run --check tells more)",
		       user);
	else if (fd >= 0)
		xm_err("this kernel's userfaultfd has neither write protection nor MOVE: Linux 5.7 or newer is needed");
	else
		xm_err("userfaultfd: %s (xmem-run --check tells more)", xm_strerror(fd));
	return fd < 0 ? fd : -EOPNOTSUPP;
}

int run_check(const struct run_options *o)
{
	struct check c = { .opt = o };

	user_name(c.user, sizeof(c.user));
	check_kernel(&c);
	check_uffd(&c);
	check_features(&c);
	check_process_madvise(&c);
	check_limits(&c);
	check_settings(&c);
	check_family(&c);
	check_preload(&c);
	check_rdma(&c);
	check_private(&c);
	for (int i = 0; i < o->appliances.n; i++)
		check_appliance(&c, "appliance", o->appliances.v[i]);
	if (c.missing)
		xm_err("%d thing%s missing: commands cannot be run like this", c.missing,
		       c.missing == 1 ? " is" : "s are");
	return c.missing ? XM_RUN_FAILED : 0;
}
