/* SPDX-License-Identifier: Apache-2.0 */
/*
 * harness.h - for test programs: an appliance as a child process, and the runtime started in this process on a
 * family of its own. Header only, so that unit tests and stress programs share it without a library.
 *
 *   struct test_appliance a;  test_appliance_start(&a, "256M", "shm");     a.uri names it
 *   struct test_config c = { .budget_bytes = ... };  test_runtime_start(&c, &a, 1);  ...  test_runtime_stop();
 *
 * One thread. The appliance dies with the test (PDEATHSIG). What fails here says so and ends the program: a test
 * cannot go on without.
 */
#ifndef XM_TEST_HARNESS_H
#define XM_TEST_HARNESS_H

#include <dirent.h>
#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/internal.h"
#include "runtime/start.h"

struct test_appliance {
	pid_t pid;
	char uri[200];
};

struct test_config {
	uint64_t budget_bytes, size_bytes;
	uint64_t stall_ns, lost_timeout_ns; /* 0: 10 s */
	uint32_t masked_features, verify, handlers, fault_mode;
	const char *evict, *prefetch, *inject;
};

static struct xm_peer *test_peer[XM_MAX_APPLIANCES];

__attribute__((noreturn, format(printf, 1, 2))) static inline void test_die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fprintf(stderr, "test harness: ");
	vfprintf(stderr, fmt, ap);
	fprintf(stderr, "\n");
	va_end(ap);
	exit(1);
}

/* The build directory of this variant: two levels above this program, or XMEM_BUILD. */
static inline void test_program(const char *name, char *out, size_t size)
{
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	self[n > 0 ? n : 0] = 0;
	snprintf(out, size, "%s/%s", dirname(dirname(dirname(self))), name);
	if (access(out, X_OK) != 0 && getenv("XMEM_BUILD"))
		snprintf(out, size, "%s/%s", getenv("XMEM_BUILD"), name);
}

static inline void test_appliance_exec(const char *program, const char *memory, const char *listen, int ready)
{
	char fd[16];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	snprintf(fd, sizeof(fd), "%d", ready);
	execl(program, program, "--memory", memory, "--listen", listen, "--ready-fd", fd, "--slab", "4M", "--warm", "0",
	      "--lease", "20s", "--log-level", "error", (char *)NULL);
	fprintf(stderr, "test harness: cannot run %s: %s\n", program, strerror(errno));
	_exit(127);
}

/* link: "shm", "tcp" (a port of the kernel's choice on loopback) or "verbs" (the device of address XMEM_RDMA_ADDR) */
static inline void test_appliance_start(struct test_appliance *a, const char *memory, const char *link)
{
	static unsigned count;
	char program[PATH_MAX], listen[100], line[400] = "";
	const char *rdma = getenv("XMEM_RDMA_ADDR");
	int ready[2];
	size_t len = 0;
	ssize_t n;

	test_program("xmem-appliance", program, sizeof(program));
	if (strcmp(link, "tcp") == 0)
		snprintf(listen, sizeof(listen), "tcp:127.0.0.1:0");
	else if (strcmp(link, "verbs") == 0 && rdma)
		snprintf(listen, sizeof(listen), strchr(rdma, ':') ? "verbs:[%s]:0" : "verbs:%s:0", rdma);
	else
		snprintf(listen, sizeof(listen), "shm:@xmem-test-%d-%u", (int)getpid(), count++);
	if (pipe(ready) != 0)
		test_die("pipe: %s", strerror(errno));
	a->pid = fork();
	if (a->pid == 0) {
		close(ready[0]);
		test_appliance_exec(program, memory, listen, ready[1]);
	}
	close(ready[1]);
	while (len < sizeof(line) - 1 && !strchr(line, '\n') &&
	       (n = read(ready[0], line + len, sizeof(line) - 1 - len)) > 0)
		line[len += (size_t)n] = 0;
	close(ready[0]);
	line[strcspn(line, " \n")] = 0;
	if (!line[0])
		test_die("the appliance %s did not start", program);
	snprintf(a->uri, sizeof(a->uri), "%.*s", (int)sizeof(a->uri) - 1, line);
}

static inline void test_appliance_kill(struct test_appliance *a)
{
	if (a->pid <= 0)
		return;
	kill(a->pid, SIGKILL);
	waitpid(a->pid, NULL, 0);
	a->pid = 0;
}

/* Ends it by SIGTERM; its exit status, or 128 + signal. */
static inline int test_appliance_stop(struct test_appliance *a)
{
	int status = 0;

	if (a->pid <= 0)
		return -1;
	kill(a->pid, SIGTERM);
	waitpid(a->pid, &status, 0);
	a->pid = 0;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Stops it for a while (SIGCONT ends that): when this returns none of its threads runs. A signal alone takes its time. */
static inline bool test_appliance_pause(const struct test_appliance *a)
{
	int status = 0;

	return kill(a->pid, SIGSTOP) == 0 && waitpid(a->pid, &status, WUNTRACED) == a->pid && WIFSTOPPED(status);
}

static inline void test_text(char *to, size_t size, const char *from)
{
	snprintf(to, size, "%s", from ? from : "");
}

static inline void test_fill_config(struct xm_family_config *cfg, const struct test_config *c)
{
	memset(cfg, 0, sizeof(*cfg));
	cfg->budget_bytes = c->budget_bytes;
	cfg->size_bytes = c->size_bytes;
	cfg->stall_ns = c->stall_ns ? c->stall_ns : 10000000000ull;
	cfg->lost_timeout_ns = c->lost_timeout_ns ? c->lost_timeout_ns : 10000000000ull;
	cfg->masked_features = c->masked_features;
	cfg->verify = c->verify;
	cfg->handlers = c->handlers;
	cfg->fault_mode = c->fault_mode;
	cfg->log_level = XM_LOG_WARN;
	test_text(cfg->evict, sizeof(cfg->evict), c->evict);
	test_text(cfg->prefetch, sizeof(cfg->prefetch), c->prefetch);
	test_text(cfg->inject, sizeof(cfg->inject), c->inject);
}

static inline void test_leave_sessions(void)
{
	for (unsigned i = 0; i < XM_MAX_APPLIANCES; i++) {
		xm_peer_close(test_peer[i]);
		test_peer[i] = NULL;
	}
}

/* 0, or what the runtime answered. */
static inline int test_runtime_try(const struct test_config *c, const struct test_appliance *a, unsigned n)
{
	struct xm_family_config cfg;
	struct xm_family *fam;
	char why[256] = "";
	int rc, err = 0;

	test_fill_config(&cfg, c);
	cfg.appliances = n;
	for (unsigned i = 0; i < n; i++) {
		struct xm_peer_config pc = { .uri = a[i].uri, .client_name = "test",
					     .lost_timeout_ns = cfg.lost_timeout_ns };
		struct xm_peer_info info;

		if (xm_peer_open(&pc, &test_peer[i], why) < 0)
			test_die("%s", why);
		xm_peer_info(test_peer[i], &info);
		test_text(cfg.appliance[i].uri, sizeof(cfg.appliance[i].uri), a[i].uri);
		cfg.appliance[i].session = info.session;
	}
	fam = xm_family_create(&cfg, NULL, &err);
	if (!fam)
		test_die("no family object: %s", strerror(-err));
	xm_in_runtime++;
	rc = xm_runtime_start(fam, NULL);
	xm_in_runtime--;
	return rc;
}

static inline void test_runtime_start(const struct test_config *c, const struct test_appliance *a, unsigned n)
{
	int rc = test_runtime_try(c, a, n);

	if (rc < 0)
		test_die("the runtime did not start: %s", strerror(-rc));
}

static inline void test_runtime_stop(void)
{
	xm_in_runtime++;
	xm_runtime_stop();
	xm_in_runtime--;
	test_leave_sessions();
}

/* fork() as the preload object makes it. */
#ifdef __SANITIZE_ADDRESS__
/* A thread that is just starting may hold a lock of the sanitizer's allocator, which gcc 12's does not release in a
 * child: none of the runtime's threads may be so young at a fork. They have their names when they are past it. */
static inline void test_threads_are_up(void)
{
	int up;

	do {
		DIR *dir = opendir("/proc/self/task");
		const struct dirent *e;

		for (up = 0; dir && (e = readdir(dir));) {
			char path[300], comm[16] = "";
			FILE *f;

			snprintf(path, sizeof(path), "/proc/self/task/%s/comm", e->d_name);
			f = fopen(path, "re");
			if (f && fgets(comm, sizeof(comm), f))
				up += !strncmp(comm, "xmem-", 5);
			if (f)
				fclose(f);
		}
		if (dir)
			closedir(dir);
	} while (up < xm_rt.nhandlers + 1 + (int)xm_load(&xm_rt.fetchers));
}
#else
static inline void test_threads_are_up(void)
{
}
#endif

static inline pid_t test_fork(void)
{
	pid_t pid;

	fflush(NULL);
	test_threads_are_up();
	for (uint64_t wait_ns = XM_FORK_WAIT_NS; !xm_fork_prepare(wait_ns);)
		wait_ns = xm_fork_rest(wait_ns);
	pid = fork();
	if (pid == 0) {
		xm_fork_child();
		xm_fork_child_threads();
		return 0;
	}
	xm_fork_parent();
	return pid;
}

/* Exit status of a child, 128 + signal if it was killed. */
static inline int test_wait(pid_t pid)
{
	int status = 0;

	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* ---- pages ------------------------------------------------------------------------------------------------- */

static inline uint64_t test_value(uint64_t seed, uint64_t page, unsigned i)
{
	return (seed + 1) * 0x9e3779b97f4a7c15ull + page * 0x100000001b3ull + i;
}

static inline void test_fill(void *at, uint64_t pages, uint64_t seed)
{
	for (uint64_t p = 0; p < pages; p++)
		for (unsigned i = 0; i < XM_PAGE_SIZE / 8; i++)
			((uint64_t *)at)[p * (XM_PAGE_SIZE / 8) + i] = test_value(seed, p, i);
}

/* Pages that do not hold what test_fill put there; first_page: number of the first one at that time. */
static inline uint64_t test_wrong(const void *at, uint64_t pages, uint64_t seed, uint64_t first_page)
{
	uint64_t wrong = 0;

	for (uint64_t p = 0; p < pages; p++) {
		for (unsigned i = 0; i < XM_PAGE_SIZE / 8; i++) {
			if (((const uint64_t *)at)[p * (XM_PAGE_SIZE / 8) + i] != test_value(seed, first_page + p, i)) {
				wrong++;
				break;
			}
		}
	}
	return wrong;
}

static inline uint64_t test_not_zero(const void *at, uint64_t pages)
{
	uint64_t n = 0;

	for (uint64_t p = 0; p < pages; p++) {
		for (unsigned i = 0; i < XM_PAGE_SIZE / 8; i++) {
			if (((const uint64_t *)at)[p * (XM_PAGE_SIZE / 8) + i]) {
				n++;
				break;
			}
		}
	}
	return n;
}

static inline uint64_t test_pages_in(const void *at, uint64_t pages, enum xm_page_state state)
{
	uint64_t first = xm_page_of(at), n = 0;

	for (uint64_t p = first; p < first + pages; p++)
		n += xm_load(&xm_rt.touch[p >> XM_TOUCH_SHIFT]) ? xm_pg_state(xm_pg_load(&xm_rt.pt[p])) == state :
							state == XM_PG_EMPTY;
	return n;
}

/* The same, once it is `want` or two seconds have passed: a page is settled a moment after its first use. */
static inline uint64_t test_pages_become(const void *at, uint64_t pages, enum xm_page_state state, uint64_t want)
{
	uint64_t n;

	for (int tries = 0; (n = test_pages_in(at, pages, state)) != want && tries < 1000; tries++)
		usleep(2000);
	return n;
}

/* Evicts every page of the range; how many would not go. A page may be settled a moment after its first use. */
static inline uint64_t test_evict(void *at, uint64_t pages)
{
	uint64_t left = 1;

	for (int tries = 0; left && tries < 1000; tries++) {
		xm_map_advise(at, pages * XM_PAGE_SIZE, 21 /* MADV_PAGEOUT */);
		left = pages - test_pages_in(at, pages, XM_PG_REMOTE) - test_pages_in(at, pages, XM_PG_EMPTY);
		if (left)
			usleep(1000);
	}
	return left;
}

static sigjmp_buf test_back;

static inline void test_on_signal(int sig)
{
	siglongjmp(test_back, sig);
}

/* The signal that one access to *p raises, or 0. */
static inline int test_signal_of(volatile char *p, bool write)
{
	struct sigaction sa = { .sa_handler = test_on_signal }, segv, bus;
	int sig;

	sigaction(SIGSEGV, &sa, &segv);
	sigaction(SIGBUS, &sa, &bus);
	sig = sigsetjmp(test_back, 1);
	if (sig == 0) {
		if (write)
			*p = 1;
		else
			(void)*p;
	}
	sigaction(SIGSEGV, &segv, NULL);
	sigaction(SIGBUS, &bus, NULL);
	return sig;
}

/* Words of this process's page table that are more than a mark of the policy: what nobody has cleaned up. */
static inline uint64_t test_words_left(void)
{
	uint64_t left = 0;

	for (uint64_t page = xm_pte_skip(&xm_rt, 0, XM_EXT_PAGES); page < XM_EXT_PAGES;
	     page = xm_pte_skip(&xm_rt, page + 1, XM_EXT_PAGES))
		left += (xm_pg_load(&xm_rt.pt[page]) & ~XM_PG_QUEUED) != 0;
	return left;
}

/* Staging memory of the workers counts against the budget while it is in use. */
/* Memory of the runtime's own, staging and buffers of links, which counts against the budget while it is in use. */
static inline uint64_t test_own_pages(void)
{
	uint64_t own = 0;

	for (unsigned i = 0; i < XM_WORKERS_MAX; i++)
		own += xm_load_relaxed(&xm_rt.worker[i].staged) + xm_load_relaxed(&xm_rt.worker[i].link_pages);
	return own;
}

/* Processes that the test has killed: each may have left one slot taken (runtime/slots.c). */
static uint64_t test_kills;

static inline uint64_t test_slots_left(void)
{
	uint64_t n = xm_slots_count(xm_rt.fam);

	return n > test_kills ? n - test_kills : 0;
}

/* What is left of external memory when every mapping is gone; 0 when nothing is. Says what it finds. */
static inline unsigned test_look_for_leftovers(bool say)
{
	struct xm_runtime *rt = &xm_rt;
	uint64_t own = test_own_pages();
	const struct {
		const char *what;
		uint64_t left;
	} left[] = {
		{ "resident pages of the process", xm_load(&rt->me->resident) - own },
		{ "resident pages of the family", xm_load(&rt->fam->resident_pages) - own },
		{ "remote pages", xm_load(&rt->me->stats.remote_pages) },
		{ "mapped pages", xm_load(&rt->me->stats.mapped_pages) },
		{ "slots", test_slots_left() },
		{ "pinned pages", xm_load(&rt->pinned_pages) },
		{ "charged pages", xm_load(&rt->fam->committed_pages) },
		{ "page words", test_words_left() },
	};
	unsigned bad = 0;

	for (unsigned i = 0; i < XM_ARRAY_SIZE(left); i++) {
		if (!left[i].left)
			continue;
		if (say)
			fprintf(stderr, "left over: %lld %s\n", (long long)left[i].left, left[i].what);
		bad++;
	}
	return bad;
}

/* The runtime's threads may have something in hand that settles in a moment. */
static inline unsigned test_left_over(void)
{
	for (int tries = 0; tries < 500; tries++) {
		if (!test_look_for_leftovers(false))
			return 0;
		if (test_kills)
			xm_family_true_up(xm_rt.fam);
		usleep(2000);
	}
	return test_look_for_leftovers(true);
}

static inline bool test_is_error(const void *p)
{
	return (intptr_t)p < 0 && (intptr_t)p > -4096;
}

#if defined(__SANITIZE_THREAD__)
/* Threads start in the children of a process with threads: that is what is tested. */
__attribute__((visibility("default"))) const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
	return "die_after_fork=0";
}
#endif

/* XMEM_MASK: names separated by commas */
static inline uint32_t test_mask(const char *text)
{
	static const struct {
		const char *name;
		uint32_t bit;
	} known[] = { { "move", XM_FEAT_MOVE }, { "poison", XM_FEAT_POISON }, { "wp", XM_FEAT_WP },
		      { "madvise_vec", XM_FEAT_MADVISE_VEC } };
	uint32_t mask = 0;

	while (text && *text) {
		size_t n = strcspn(text, ","), i;

		for (i = 0; i < XM_ARRAY_SIZE(known); i++)
			if (strlen(known[i].name) == n && strncmp(known[i].name, text, n) == 0)
				break;
		if (i == XM_ARRAY_SIZE(known))
			test_die("XMEM_MASK: no such feature: %s", text);
		mask |= known[i].bit;
		text += n + (text[n] == ',');
	}
	return mask;
}

#endif
