/* SPDX-License-Identifier: Apache-2.0 */
/*
 * runtime.c - start and stop of the one runtime of a process: joining the family, choosing policies, descriptors,
 * threads. Start runs on whatever thread needs the runtime first, possibly inside malloc; everything here is raw
 * system calls or marks the thread (xm_in_runtime), so that nothing it causes becomes external.
 */
#include "runtime/runtime.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "runtime/internal.h"
#include "runtime/start.h"
#include "runtime/uffd.h"

#define RESERVE_MAX_PAGES 4096u /* 16 MiB: more only keeps frames idle */

#define NO_FDS                                                                                              \
	{ .uffd = -1, .mem_fd = -1, .pidfd = -1, .stop_fd = -1,                                              \
	  .handler = { [0 ... XM_HANDLERS_MAX - 1] = { .epoll_fd = -1 } } }

struct xm_runtime xm_rt = NO_FDS;
__thread int xm_in_runtime __attribute__((tls_model("initial-exec")));
#ifdef XM_CHECKED
__thread uint32_t xm_lock_held __attribute__((tls_model("initial-exec")));
#endif

void *xm_local_alloc(size_t bytes)
{
	return xm_sys_mmap(NULL, xm_round_up(bytes, XM_PAGE_SIZE), PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

void xm_local_free(void *p, size_t bytes)
{
	if (p)
		xm_sys_munmap(p, xm_round_up(bytes, XM_PAGE_SIZE));
}

int xm_runtime_state(void)
{
	return xm_load(&xm_rt.state);
}

void xm_say_lost(struct xm_runtime *rt, unsigned a, const char *what)
{
	uint32_t bit = 1u << a;

	if (__atomic_fetch_or(&rt->appliance_lost, bit, __ATOMIC_RELAXED) & bit)
		return;
	xm_err("process %d (%s): appliance %s is lost: %s; a thread that touches a page which was only there "
	       "gets SIGBUS",
	       rt->pid, rt->me->comm, rt->fam->cfg.appliance[a].uri, what);
}

void xm_say_waits(struct xm_runtime *rt, unsigned a)
{
	static uint32_t said;
	uint32_t bit = 1u << a;

	if (__atomic_fetch_or(&said, bit, __ATOMIC_RELAXED) & bit)
		return;
	xm_warn("process %d (%s): no link to appliance %s can be opened for want of memory or descriptors here, or of "
		"connections there; threads wait for it: see ulimit -n, ulimit -v and, for verbs, ulimit -l",
		rt->pid, rt->me->comm, rt->fam->cfg.appliance[a].uri);
}

void xm_say_page_lost(struct xm_runtime *rt, uint64_t page, int status)
{
	uint64_t bit = 1ull << (-status & 63);

	if (__atomic_fetch_or(&rt->pages_said, bit, __ATOMIC_RELAXED) & bit)
		return;
	xm_err("process %d (%s): the page at 0x%llx cannot be fetched and is given up: %s (%d); the touching thread gets SIGBUS",
	       rt->pid, rt->me->comm, (unsigned long long)xm_page_addr(page), xm_strerror(status), status);
}

void xm_say_full(struct xm_runtime *rt)
{
	static uint32_t said;
	bool own = !rt->env[0]; /* opened by xmem_open, whose options have other names than xmem-run's */

	if (__atomic_exchange_n(&said, 1, __ATOMIC_RELAXED))
		return;
	xm_err("process %d (%s): no appliance has room for another page and none could be freed within %s; the "
	       "touching thread gets SIGBUS; give the appliance more --memory, or add one %s",
	       rt->pid, rt->me->comm, own ? "stall_ns" : "--stall", own ? "to appliances" : "with --appliance");
}

void xm_pins_seen(const char *by)
{
	struct xm_runtime *rt = &xm_rt;

	if (xm_load(&rt->pins))
		return;
	/* an eviction that began without knowing ends before the first page can be pinned */
	xm_in_runtime++;
	xm_lock(&rt->reclaim_lock);
	if (!rt->pins && xm_load(&rt->state) == 1 && !(rt->features & XM_FEAT_MOVE))
		xm_warn("process %d (%s) uses %s, by which the kernel pins pages, and this kernel cannot tell which (no "
			"UFFDIO_MOVE): its pages are not evicted from here on",
			rt->pid, rt->me->comm, by);
	xm_store(&rt->pins, 1);
	xm_unlock(&rt->reclaim_lock);
	xm_in_runtime--;
}

/* ---- descriptors ------------------------------------------------------------------------------------------------ */

/* Whether pages of our own can be dropped many runs at a time. */
static bool madvise_vec_works(struct xm_runtime *rt)
{
	struct iovec v = { rt->zeros, XM_PAGE_SIZE };

	if (rt->fam->cfg.masked_features & XM_FEAT_MADVISE_VEC)
		return false;
	return xm_sys6(SYS_process_madvise, rt->pidfd, (long)&v, 1, MADV_DONTNEED, 0, 0) == (long)XM_PAGE_SIZE;
}

static int open_fds(struct xm_runtime *rt)
{
	int rc = xm_fd_replace(&rt->uffd, xm_uffd_open(rt->fam->cfg.masked_features, rt->by_signal, &rt->features));

	if (rc >= 0)
		rc = xm_handler_open_fds(rt);
	if (rc < 0)
		return rc;
	xm_fd_replace(&rt->mem_fd, xm_sys_open("/proc/self/mem", O_RDONLY | O_CLOEXEC));
	xm_fd_replace(&rt->pidfd, (int)xm_sys3(SYS_pidfd_open, rt->pid, 0, 0));
	return 0;
}

int xm_runtime_open_fds(struct xm_runtime *rt)
{
	bool wp;
	int rc;

	xm_fd_borrow();
	rc = open_fds(rt);
	xm_fd_return();
	if (rc < 0)
		return rc;
	if (rt->pidfd >= 0 && madvise_vec_works(rt))
		rt->features |= XM_FEAT_MADVISE_VEC;
	wp = (rt->features & XM_FEAT_WP) != 0;
	if (!wp && !(rt->features & XM_FEAT_MOVE))
		return -EOPNOTSUPP; /* no way to take a page away without losing a write */
	if (rt->features & XM_FEAT_MOVE)
		rc = xm_uffd_register(rt->uffd, (uint64_t)(uintptr_t)rt->move_area, XM_BATCH * XM_PAGE_SIZE, false);
	return rc < 0 ? rc : 0;
}

/* ---- start -------------------------------------------------------------------------------------------------------- */

static int choose_policies(struct xm_runtime *rt)
{
	const struct xm_family_config *cfg = &rt->fam->cfg;
	uint64_t capacity = rt->fam->budget_pages;

	rt->evict = xm_evict_find(cfg->evict[0] ? cfg->evict : xm_evict_names[0]);
	rt->prefetch = xm_prefetch_find(cfg->prefetch[0] ? cfg->prefetch : xm_prefetch_names[0]);
	if (!rt->evict || !rt->prefetch || rt->prefetch->state_bytes() > sizeof(rt->streams[0].way[0].prefetch))
		return -EINVAL;
	rt->evict_state = xm_local_alloc(rt->evict->state_bytes(capacity));
	if (!rt->evict_state)
		return -ENOMEM;
	rt->evict->init(rt->evict_state, capacity);
	memset(rt->streams, 0, sizeof(rt->streams));
	return 0;
}

static void init_locks(struct xm_runtime *rt)
{
	xm_lock_init(&rt->reclaim_lock, XM_RANK_RECLAIM);
	xm_lock_init(&rt->grow_lock, XM_RANK_GROW);
	xm_lock_init(&rt->policy_lock, XM_RANK_POLICY);
}

int xm_runtime_threads(struct xm_runtime *rt)
{
	uint64_t all = xm_all_signals(rt), old = 0;
	pthread_attr_t attr;
	int rc;

	/* the runtime's threads take no signal of the program's */
	xm_sys6(SYS_rt_sigprocmask, SIG_SETMASK, (long)&all, (long)&old, 8, 0, 0);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, XM_THREAD_STACK_BYTES);
	rc = xm_handler_start(rt, &attr);
	if (rc == 0)
		rc = -pthread_create(&rt->reclaimer, &attr, xm_reclaimer_main, rt);
	pthread_attr_destroy(&attr);
	xm_sys6(SYS_rt_sigprocmask, SIG_SETMASK, (long)&old, 0, 8, 0, 0);
	return rc;
}

/* As it was when the program began: programs clear their environment. */
static char first_env[160];
static bool strict; /* xmem-run --strict: a program that cannot be covered does not run */

__attribute__((constructor)) static void remember_env(void)
{
	const char *env = getenv(XM_ENV_FAMILY);

	xm_snprintf(first_env, sizeof(first_env), "%s", env ? env : "");
	strict = getenv(XM_ENV_STRICT) != NULL;
}

/* One line for what can go wrong at the start. `own`: the program asked by the API, and is told. */
static void say_start_failed(int rc, const char *why, bool own)
{
	const char *then = own ? "" : strict ? "; --strict ends the program" : "; the program runs with local memory only";

	if (why[0])
		xm_err("cannot start: %s%s", why, then);
	else if (rc == -EPERM || rc == -EACCES)
		xm_err("cannot start: no access to userfaultfd: as root, setfacl -m u:%u:rw /dev/userfaultfd, or sysctl "
		       "-w vm.unprivileged_userfaultfd=1 (xmem-run --check tells more)%s",
		       (unsigned)xm_sys3(SYS_getuid, 0, 0, 0), then);
	else if (rc == -EUSERS)
		xm_err("cannot start: %u processes of this family run already%s", XM_MAX_PROCS, then);
	else if (rc == -EOPNOTSUPP)
		xm_err("cannot start: this kernel's userfaultfd has neither write protection nor MOVE (Linux 5.7 or "
		       "newer is needed)%s",
		       then);
	else
		xm_err("cannot start: %s%s", xm_strerror(rc), then);
}

bool (*xm_runtime_by_signal)(char *why, size_t size);

static void choose_mode(struct xm_runtime *rt)
{
	char why[160] = "";

	if (rt->fam->cfg.fault_mode != XM_FAULT_SIGNAL || !xm_runtime_by_signal)
		return;
	rt->by_signal = xm_runtime_by_signal(why, sizeof(why));
	if (!rt->by_signal)
		xm_warn("process %d: fault mode signal is not possible here: %s; mode thread is used", rt->pid, why);
}

static int start_steps(struct xm_runtime *rt, char *why)
{
	int rc;

	init_locks(rt);
	rt->pid = xm_sys_getpid();
	rc = xm_family_proc_claim(rt->fam);
	if (rc < 0)
		return rc;
	rt->proc = (uint32_t)rc;
	rt->me = &rt->fam->proc[rc];
	rt->pt = xm_family_pt(rt->fam, rt->proc);
	rt->touch = xm_family_touch(rt->fam, rt->proc);
	rt->reserve_pages = xm_min(rt->fam->budget_pages / 16, (uint64_t)RESERVE_MAX_PAGES);
	rt->zeros = xm_local_alloc(XM_BATCH * XM_PAGE_SIZE);
	rt->move_area = xm_local_alloc(XM_BATCH * XM_PAGE_SIZE);
	if (!rt->zeros || !rt->move_area)
		return -ENOMEM;
	choose_mode(rt);
	xm_handler_choose(rt);
	rc = choose_policies(rt);
	if (rc == 0)
		rc = xm_mapping_init(rt);
	if (rc == 0 && rt->by_signal && XM_EXT_BASE && xm_ext_lo != XM_EXT_BASE) {
		xm_snprintf(why, 256, "the addresses of external memory are taken, which fault mode signal needs: --fault thread");
		rc = -EADDRINUSE;
	}
	if (rc == 0)
		rc = xm_runtime_open_fds(rt);
	if (rc < 0)
		return rc;
	rc = xm_family_proc_live(rt->fam, rt->proc);
	if (rc == 0)
		rc = xm_remote_open(rt, why);
	if (rc < 0)
		return rc;
	return xm_runtime_threads(rt);
}

/* Everything but threads and the family object; also after a start that got only half way. */
static void release(struct xm_runtime *rt)
{
	xm_remote_close(rt);
	if (xm_ext_hi)
		xm_sys_munmap((void *)xm_ext_lo, xm_ext_hi - xm_ext_lo);
	xm_ext_lo = xm_ext_hi = 0;
	if (rt->me)
		xm_family_proc_drop(rt->fam, rt->proc);
	xm_fd_replace(&rt->uffd, -1);
	xm_handler_close_fds(rt);
	xm_fd_replace(&rt->mem_fd, -1);
	xm_fd_replace(&rt->pidfd, -1);
	if (rt->maps.mem)
		xm_rangemap_fini(&rt->maps);
	if (rt->evict)
		xm_local_free(rt->evict_state, rt->evict->state_bytes(rt->fam->budget_pages));
	xm_local_free(rt->zeros, XM_BATCH * XM_PAGE_SIZE);
	xm_local_free(rt->move_area, XM_BATCH * XM_PAGE_SIZE);
	xm_local_free(rt->canary.page, XM_PAGE_SIZE);
	xm_local_free(rt->patterns, XM_TOUCH_BYTES);
}

int xm_runtime_start(struct xm_family *fam, const char *env)
{
	struct xm_runtime *rt = &xm_rt;
	char why[256] = "";
	int rc;

	xm_log_init("xmem", (enum xm_log_level)fam->cfg.log_level);
	rt->fam = fam;
	xm_snprintf(rt->env, sizeof(rt->env), "%s", env ? env : "");
	rc = start_steps(rt, why);
	if (rc < 0) {
		say_start_failed(rc, why, !env);
		if (rt->handlers_started == 0) { /* threads that run go on running; they find nothing to do */
			release(rt);
			*rt = (struct xm_runtime)NO_FDS;
		}
		xm_store(&rt->state, rc);
		return rc;
	}
	if (env)
		xm_family_tell_keeper(env, rt->proc);
	xm_store(&rt->state, 1);
	return 0;
}

void xm_runtime_not_covered(void)
{
	if (strict)
		xm_sys3(SYS_exit_group, 125, 0, 0);
}

int xm_runtime_start_env(void)
{
	static uint32_t lock; /* 0 nobody, 1 somebody is starting */
	const char *env;
	struct xm_family *fam;
	int rc = xm_load(&xm_rt.state), err = 0;

	if (rc)
		return rc < 0 ? rc : 0;
	xm_in_runtime++;
	while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE))
		xm_sys_sleep(100000);
	rc = xm_load(&xm_rt.state);
	if (rc == 0) {
		if (!first_env[0])
			remember_env();
		env = first_env[0] ? first_env : NULL;
		fam = env ? xm_family_join(env, &err) : NULL;
		if (fam) {
			rc = xm_runtime_start(fam, env);
		} else {
			rc = env ? err : -ENOENT;
			if (env)
				xm_warn("cannot join the family of this xmem-run: %s; %s", xm_strerror(rc),
					strict ? "--strict ends the program"
					       : "the program runs with local memory only");
			xm_store(&xm_rt.state, rc);
		}
		if (rc < 0 && env)
			xm_runtime_not_covered();
	}
	__atomic_store_n(&lock, 0, __ATOMIC_RELEASE);
	xm_in_runtime--;
	return rc < 0 ? rc : 0;
}

void xm_runtime_stop(void)
{
	struct xm_runtime *rt = &xm_rt;

	if (xm_load(&rt->state) != 1)
		return;
	__atomic_store_n(&rt->stopping, 1, __ATOMIC_SEQ_CST); /* before the states of fetchers are looked at */
	xm_add(&rt->me->wake, 1);
	xm_sys6(SYS_futex, (long)&rt->me->wake, 1 /* FUTEX_WAKE */, 1, 0, 0, 0);
	pthread_join(rt->reclaimer, NULL);
	xm_fetcher_stop(rt); /* while handlers answer, since what was handed on may need another page's fault to be */
	xm_handler_stop(rt);
	xm_canary_stop(rt); /* which the reclaim thread may have started just now */
	release(rt);
	xm_family_unmap(rt->fam);
	*rt = (struct xm_runtime)NO_FDS;
}
