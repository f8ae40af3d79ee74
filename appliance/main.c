/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main.c - xmem-appliance: settings, start, signals, end. The main thread becomes the control thread.
 * Start order: descriptors, pool, sessions, sockets, data and verbs threads; the end is the reverse, but for the
 * RDMA devices, which outlive the slabs that are registered with them.
 */
#include "appliance/notify.h"
#include "appliance/options.h"
#include "appliance/serve.h"
#include "appliance/serve_verbs.h"

#include "units.h"
#include "util.h"

#include <errno.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FD_RESERVE 512u /* descriptors for connections and the daemon itself, beside one a slab */

struct daemon {
	struct xm_options o;
	int argc;
	char **argv;
	struct xm_appliance a;
	struct xm_data *data;
	struct xm_ctl *ctl;
	struct xm_listener listener[XM_LISTEN_MAX];
	int listeners;
	int signal_fd;
	uint64_t fd_limit;
};

static struct daemon d;

static int raise_descriptors(void)
{
	uint64_t slabs = d.o.memory_bytes / d.o.slab_bytes;
	struct rlimit rl;

	if (getrlimit(RLIMIT_NOFILE, &rl) < 0)
		return -errno;
	rl.rlim_cur = rl.rlim_max;
	setrlimit(RLIMIT_NOFILE, &rl);
	getrlimit(RLIMIT_NOFILE, &rl);
	d.fd_limit = rl.rlim_cur;
	if (slabs + FD_RESERVE / 2 > d.fd_limit) {
		xm_err("%llu slabs need as many file descriptors, the limit is %llu (give a larger --slab or raise "
		       "the limit)",
		       (unsigned long long)slabs, (unsigned long long)d.fd_limit);
		return -EMFILE;
	}
	return 0;
}

/* Huge pages that are not there would otherwise be found missing by the first client. */
static int try_memory(void)
{
	struct xm_slab *s;
	int ret;

	if (!d.o.kind.huge_bytes)
		return 0;
	ret = xm_slab_create(&d.o.kind, true, &s);
	if (ret < 0) {
		xm_err("--huge: not one slab of huge pages is free (set them aside: vm.nr_hugepages)");
		return ret;
	}
	xm_slab_destroy(s);
	return 0;
}

static void reload_memory(uint64_t bytes)
{
	if (bytes < d.o.memory_bytes) {
		xm_warn("--memory can only grow while running (restart to lend less)");
	} else if (bytes / d.o.slab_bytes + FD_RESERVE / 2 > d.fd_limit) {
		xm_warn("--memory: the limit of file descriptors does not allow that many slabs, unchanged");
	} else {
		xm_pool_raise(&d.a.pool, bytes);
		d.o.memory_bytes = bytes;
	}
}

static bool same_addresses(const struct xm_opt_list *a, const struct xm_opt_list *b)
{
	for (int i = 0; i < a->n && i < b->n; i++)
		if (strcmp(a->v[i], b->v[i]) != 0)
			return false;
	return a->n == b->n;
}

/* One line for settings that are not what this process was started with and cannot become so. */
static void warn_fixed(const struct xm_options *n)
{
	const struct {
		const char *name;
		bool changed;
	} fixed[] = {
		{ "listen", !same_addresses(&n->listen, &d.o.listen) },
		{ "slab", n->slab_bytes != d.o.slab_bytes },
		{ "warm", n->warm != d.o.warm },
		{ "huge", n->huge != d.o.huge },
		{ "numa", n->kind.numa != d.o.kind.numa },
		{ "name", strcmp(n->name, d.o.name) != 0 },
	};
	char names[64] = "";
	size_t len = 0;

	for (unsigned i = 0; i < XM_ARRAY_SIZE(fixed); i++)
		if (fixed[i].changed)
			len += (size_t)xm_snprintf(names + len, sizeof(names) - len, "%s%s", len ? ", " : "",
						   fixed[i].name);
	if (len)
		xm_warn("%s: changes need a restart", names);
}

static void on_reload(void)
{
	struct xm_options n;
	char text[24];

	if (xm_options_load(&n, d.argc, d.argv) != 0) {
		xm_warn("settings not read again: the old ones stay");
		return;
	}
	xm_log_set_level((enum xm_log_level)n.log_level);
	xm_store(&d.a.lease_ns, n.lease_ns);
	reload_memory(n.memory_bytes);
	warn_fixed(&n);
	xm_info("settings read again: lending %s", xm_format_size(d.o.memory_bytes, text, sizeof(text)));
}

static void on_signal(void *arg)
{
	struct signalfd_siginfo info;

	while (read(d.signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		if (info.ssi_signo == SIGHUP) {
			on_reload();
			continue;
		}
		xm_info("signal %u: ending", info.ssi_signo);
		xm_notify("STOPPING=1");
		xm_ctl_stop(d.ctl);
	}
}

static int catch_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	/* before any thread is made, so that none of them takes a signal */
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return -errno;
	signal(SIGPIPE, SIG_IGN);
	d.signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return d.signal_fd < 0 ? -errno : 0;
}

static bool may_lock_all(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct cap[_LINUX_CAPABILITY_U32S_3] = { 0 };

	return syscall(SYS_capget, &head, cap) == 0 && (cap[0].effective & (1u << CAP_IPC_LOCK));
}

/* What is registered with a device counts as locked. */
static void raise_memlock(void)
{
	char size[24], limit[24];
	struct rlimit rl;

	if (may_lock_all() || getrlimit(RLIMIT_MEMLOCK, &rl) < 0)
		return;
	rl.rlim_cur = rl.rlim_max;
	setrlimit(RLIMIT_MEMLOCK, &rl);
	getrlimit(RLIMIT_MEMLOCK, &rl);
	if (rl.rlim_cur != RLIM_INFINITY && rl.rlim_cur < d.o.memory_bytes)
		xm_warn("verbs: %s of --memory %s may be locked: clients will be refused the rest (raise ulimit -l)",
			xm_format_size(rl.rlim_cur, limit, sizeof(limit)),
			xm_format_size(d.o.memory_bytes, size, sizeof(size)));
}

static int open_verbs(const char *uri, struct xm_listener *l, char *why)
{
	if (!d.a.verbs && xm_verbs_create(&d.a, &d.a.verbs) == 0)
		raise_memlock();
	return xm_verbs_listen(d.a.verbs, uri, l, why);
}

static int open_listeners(void)
{
	char why[XM_WHY_MAX];

	for (; d.listeners < d.o.listen.n; d.listeners++) {
		const char *uri = d.o.listen.v[d.listeners];
		bool verbs = strncmp(uri, "verbs:", 6) == 0;
		int ret = (verbs ? open_verbs : xm_listen)(uri, &d.listener[d.listeners], why);

		if (ret < 0) {
			xm_err("%s", why);
			return ret;
		}
	}
	return 0;
}

static int start_data(void)
{
	bool tcp = false;
	int ret;

	for (int i = 0; i < d.listeners; i++)
		tcp = tcp || (!d.listener[i].local && !d.listener[i].verbs);
	if (!tcp)
		return 0;
	ret = xm_data_create(&d.a, &d.data);
	if (ret < 0)
		xm_err("tcp needs io_uring, which this environment refuses: %s (allow it, see "
		       "kernel.io_uring_disabled and the container's seccomp profile, or listen on shm: only)",
		       xm_strerror(ret));
	return ret;
}

static int start_verbs(void)
{
	int ret = d.a.verbs ? xm_verbs_start(d.a.verbs) : 0;

	if (ret < 0)
		xm_err("cannot serve RDMA: %s", xm_strerror(ret));
	return ret;
}

static int start_control(void)
{
	uint64_t slabs = d.o.memory_bytes / d.o.slab_bytes;
	struct xm_ctl_limits limits = { .connections = (unsigned)xm_min(d.fd_limit - slabs - 64, 8192ull),
					.strangers = 256,
					.hello_ns = 5000000000ull,
					.stall_ns = 10000000000ull };
	int ret = xm_ctl_create(&d.a, d.data, &limits, &d.ctl);

	if (ret == 0)
		ret = xm_ctl_watch(d.ctl, d.signal_fd, on_signal, NULL);
	for (int i = 0; ret == 0 && i < d.listeners; i++)
		ret = xm_ctl_listen(d.ctl, &d.listener[i]);
	if (ret < 0)
		xm_err("cannot serve: %s", xm_strerror(ret));
	return ret;
}

static void tell_ready(void)
{
	char line[XM_LISTEN_MAX * 170] = "", size[24], slab[24];
	size_t len = 0;

	for (int i = 0; i < d.listeners; i++)
		len += (size_t)xm_snprintf(line + len, sizeof(line) - len, "%s%s", i ? " " : "",
					   d.listener[i].uri);
	xm_info("lending %s in slabs of %s at %s", xm_format_size(d.o.memory_bytes, size, sizeof(size)),
		xm_format_size(d.o.slab_bytes, slab, sizeof(slab)), line);
	if (d.o.ready_fd != XM_READY_FD_NONE) {
		ssize_t n;

		line[len++] = '\n';
		n = write((int)d.o.ready_fd, line, len);
		if (n != (ssize_t)len)
			xm_warn("--ready-fd %llu: cannot write there", (unsigned long long)d.o.ready_fd);
		close((int)d.o.ready_fd);
	}
	xm_notify("READY=1");
}

static int serve(void)
{
	int ret = xm_pool_init(&d.a.pool, &d.o.kind, d.o.memory_bytes, (unsigned)d.o.warm);

	if (ret < 0) {
		xm_err("cannot start: %s", xm_strerror(ret));
		return ret;
	}
	ret = xm_appliance_init(&d.a, d.o.name, d.o.lease_ns);
	if (ret < 0) {
		xm_err("cannot start: %s", xm_strerror(ret));
		goto fini_pool;
	}
	ret = open_listeners();
	if (ret == 0)
		ret = start_data();
	if (ret == 0)
		ret = start_verbs();
	if (ret == 0)
		ret = start_control();
	if (ret == 0) {
		tell_ready();
		xm_ctl_run(d.ctl);
	}
	while (d.listeners > 0)
		xm_unlisten(&d.listener[--d.listeners]);
	xm_data_destroy(d.data);
	xm_ctl_destroy(d.ctl);
	xm_verbs_stop(d.a.verbs);
	xm_appliance_fini(&d.a);
fini_pool:
	xm_pool_fini(&d.a.pool);
	xm_verbs_destroy(d.a.verbs);
	return ret;
}

int main(int argc, char **argv)
{
	int ret;

	xm_log_init("xmem-appliance", XM_LOG_INFO);
	ret = xm_options_load(&d.o, argc, argv);
	if (ret != 0)
		return ret < 0 ? 2 : 0;
	xm_log_set_level((enum xm_log_level)d.o.log_level);
	d.argc = argc;
	d.argv = argv;
	ret = catch_signals();
	if (ret == 0)
		ret = raise_descriptors();
	if (ret == 0)
		ret = try_memory();
	if (ret == 0)
		ret = serve();
	return ret < 0 ? 1 : 0;
}
