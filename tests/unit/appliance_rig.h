/* SPDX-License-Identifier: Apache-2.0 */
/*
 * appliance_rig.h - runs a whole appliance in a child process, for tests of links and of the appliance.
 * The child is made by fork, so that it can be killed like the daemon; it dies with the test. A header, because
 * only programs that link the appliance's objects may use it.
 */
#ifndef XM_APPLIANCE_RIG_H
#define XM_APPLIANCE_RIG_H

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "appliance/serve.h"
#include "appliance/serve_verbs.h"
#include "link/link.h"
#include "log.h"
#include "util.h"

#define RIG_SLAB (1ull << 20)
#define RIG_WAIT_NS 30000000000ull /* no condition here takes longer, even under sanitizers or emulation */

struct rig_options {
	uint64_t memory_bytes, lease_ns;
	unsigned connections, strangers;
	uint64_t hello_ns, stall_ns;
	const char *shm, *tcp; /* NULL: made up; "": none */
};

struct rig {
	pid_t pid;
	char shm[160], tcp[160], verbs[160]; /* verbs: empty without a device (XMEM_RDMA_ADDR) */
};

static inline struct rig_options rig_defaults(void)
{
	return (struct rig_options){ .memory_bytes = 64 * RIG_SLAB,
				     .lease_ns = 30000000000ull,
				     .connections = 1024,
				     .strangers = 64,
				     .hello_ns = 5000000000ull,
				     .stall_ns = 5000000000ull };
}

static inline void rig_die(const char *what)
{
	fprintf(stderr, "rig: %s\n", what);
	_exit(3);
}

static inline void rig_child(const struct rig_options *o, const char *shm, int ready)
{
	static struct xm_appliance a;
	struct xm_slab_kind kind = { .bytes = RIG_SLAB, .numa = XM_NUMA_OFF };
	struct xm_ctl_limits limits = { o->connections, o->strangers, o->hello_ns, o->stall_ns };
	struct xm_listener l[3] = { { .fd = -1 }, { .fd = -1 }, { .fd = -1 } };
	const char *rdma = getenv("XMEM_RDMA_ADDR");
	struct xm_data *data;
	struct xm_ctl *ctl;
	char why[XM_WHY_MAX], line[340], verbs[160];
	int n;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	xm_log_init("rig", getenv("RIG_DEBUG") ? XM_LOG_DEBUG : XM_LOG_ERROR);
	signal(SIGPIPE, SIG_IGN);
	if (xm_pool_init(&a.pool, &kind, o->memory_bytes, 2) < 0 ||
	    xm_appliance_init(&a, "rig", o->lease_ns) < 0)
		rig_die("cannot start");
	if (xm_data_create(&a, &data) < 0)
		rig_die("no io_uring");
	if (xm_ctl_create(&a, data, &limits, &ctl) < 0)
		rig_die("no control");
	if ((shm[0] && xm_listen(shm, &l[0], why) < 0) ||
	    xm_listen(o->tcp ? o->tcp : "tcp:0", &l[1], why) < 0)
		rig_die(why);
	if (rdma) {
		snprintf(verbs, sizeof(verbs), strchr(rdma, ':') ? "verbs:[%s]:0" : "verbs:%s:0", rdma);
		if (xm_verbs_create(&a, &a.verbs) < 0 || xm_verbs_listen(a.verbs, verbs, &l[2], why) < 0 ||
		    xm_verbs_start(a.verbs) < 0)
			rig_die(why);
	}
	for (int i = 0; i < 3; i++)
		if (l[i].fd >= 0 && xm_ctl_listen(ctl, &l[i]) < 0)
			rig_die("cannot listen");
	n = snprintf(line, sizeof(line), "%s %s", l[1].uri, l[2].uri);
	if (write(ready, line, (size_t)n) != n)
		rig_die("nobody waits");
	close(ready);
	xm_ctl_run(ctl);
	_exit(0);
}

static inline void rig_start(struct rig *r, const struct rig_options *o)
{
	static unsigned count;
	char line[340] = "";
	int fds[2];
	ssize_t n;

	memset(r, 0, sizeof(*r));
	if (o->shm)
		snprintf(r->shm, sizeof(r->shm), "%s", o->shm);
	else
		snprintf(r->shm, sizeof(r->shm), "shm:@xmem-rig-%d-%u", (int)getpid(), ++count);
	assert_int_equal(pipe(fds), 0);
	fflush(NULL);
	r->pid = fork();
	assert_true(r->pid >= 0);
	if (r->pid == 0) {
		close(fds[0]);
		rig_child(o, r->shm, fds[1]);
	}
	close(fds[1]);
	n = read(fds[0], line, sizeof(line) - 1);
	assert_true(n > 0);
	close(fds[0]);
	assert_in_range(sscanf(line, "%159s %159s", r->tcp, r->verbs), 1, 2);
}

static inline void rig_kill(struct rig *r)
{
	if (r->pid <= 0)
		return;
	kill(r->pid, SIGKILL);
	waitpid(r->pid, NULL, 0);
	r->pid = 0;
}

/* Repeats until the expression holds; fails the test if it never does. */
#define rig_until(expression)                                       \
	do {                                                        \
		uint64_t end_ = xm_now_ns() + RIG_WAIT_NS;          \
		while (!(expression)) {                             \
			if (xm_now_ns() > end_)                     \
				fail_msg("never: %s", #expression); \
			usleep(500);                                \
		}                                                   \
	} while (0)

/* Processor time of a thread of this process. */
static inline uint64_t rig_cpu_ns(pthread_t thread)
{
	struct timespec ts;
	clockid_t clock;

	assert_int_equal(pthread_getcpuclockid(thread, &clock), 0);
	assert_int_equal(clock_gettime(clock, &ts), 0);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static inline struct xm_peer *rig_peer_with(const char *uri, struct xm_peer_config cfg)
{
	char why[XM_WHY_MAX] = "";
	struct xm_peer *p = NULL;

	cfg.uri = uri;
	if (!cfg.connect_timeout_ns) /* who tests no timeout shall not depend on the machine's speed */
		cfg.connect_timeout_ns = RIG_WAIT_NS;
	if (xm_peer_open(&cfg, &p, why) < 0)
		fail_msg("%s: %s", uri, why);
	return p;
}

static inline struct xm_peer *rig_peer(const char *uri)
{
	return rig_peer_with(uri, (struct xm_peer_config){ .client_name = "test" });
}

/* What the appliance says to somebody else. */
static inline struct xm_appliance_stat rig_stat(struct rig *r)
{
	struct xm_appliance_stat st = { 0 };
	struct xm_peer *p = rig_peer(r->tcp);

	assert_int_equal(xm_peer_appliance_stat(p, &st), 0);
	xm_peer_close(p);
	return st;
}

#endif
