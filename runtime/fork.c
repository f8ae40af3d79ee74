/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fork.c - a child that sees its memory as it was at the fork.
 *
 *   prepare (parent)  signals blocked, libio's list lock, map lock, gate closed: no page is BUSY. The child's page
 *                     table is written into its own entry of the family object: remote pages name the same
 *                     slots (one reference more), resident ones become dirty and slotless, since the child inherits
 *                     their frames copy-on-write and nobody will have watched its writes
 *   child             opens a userfaultfd of its own and registers every mapping before anything touches them (an
 *                     absent page touched earlier would be zeros for ever), new links, then threads
 *   parent            gate and locks open; if there is no child after all, its entry is taken back
 *
 * A parent that evicts a dirty page whose slot the child names too finds the reference count above one and takes
 * another slot (evict.c).
 *
 * The gate: handlers, fetchers and the reclaim thread are inside it while they work. It is closed only between prepare and
 * parent/child. Libio's list lock is taken before, since fork takes it afterwards and a thread may hold it while
 * its fault waits at the gate. One that is inside may want it, too (rdma-core opens files): who forks waits for those inside
 * for a limited time, and lets go of all that for a while before it tries again.
 */
#include <limits.h>
#include <linux/futex.h>
#include <string.h>

#include "runtime/internal.h"
#include "runtime/uffd.h"

#define REST_MAX_NS 100000000ull

extern void _IO_list_lock(void) __attribute__((weak));
extern void _IO_list_unlock(void) __attribute__((weak));

void xm_gate_enter(struct xm_runtime *rt)
{
	for (;;) {
		if (!__atomic_load_n(&rt->gate_closed, __ATOMIC_SEQ_CST)) {
			__atomic_fetch_add(&rt->gate_active, 1, __ATOMIC_SEQ_CST);
			if (!__atomic_load_n(&rt->gate_closed, __ATOMIC_SEQ_CST))
				return;
			xm_gate_leave(rt);
		}
		xm_sys6(SYS_futex, (long)&rt->gate_closed, FUTEX_WAIT_PRIVATE, 1, 0, 0, 0);
	}
}

void xm_gate_leave(struct xm_runtime *rt)
{
	__atomic_fetch_sub(&rt->gate_active, 1, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&rt->gate_closed, __ATOMIC_SEQ_CST))
		xm_sys6(SYS_futex, (long)&rt->gate_active, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
}

/* False: not all have left in time. It is closed all the same. */
static bool gate_close(struct xm_runtime *rt, uint64_t wait_ns)
{
	uint64_t end = xm_now_ns() + wait_ns, now;
	uint32_t n;

	__atomic_store_n(&rt->gate_closed, 1, __ATOMIC_SEQ_CST);
	while ((n = __atomic_load_n(&rt->gate_active, __ATOMIC_SEQ_CST)) != 0 && (now = xm_now_ns()) < end) {
		struct timespec ts = { (time_t)((end - now) / 1000000000ull), (long)((end - now) % 1000000000ull) };

		xm_sys6(SYS_futex, (long)&rt->gate_active, FUTEX_WAIT_PRIVATE, n, (long)&ts, 0, 0);
	}
	return n == 0;
}

static void gate_open(struct xm_runtime *rt)
{
	__atomic_store_n(&rt->gate_closed, 0, __ATOMIC_SEQ_CST);
	xm_sys6(SYS_futex, (long)&rt->gate_closed, FUTEX_WAKE_PRIVATE, INT_MAX, 0, 0, 0);
}

/* ---- the child's page table --------------------------------------------------------------------------------- */

struct copy {
	xm_pte *pt;
	uint8_t *touch;
	uint64_t resident;
};

/* One mapping's words; no word is BUSY (gate) and none is taken (map lock). */
static void copy_words(struct xm_runtime *rt, struct copy *c, uint64_t page, uint64_t end)
{
	for (page = xm_pte_skip(rt, page, end); page < end; page = xm_pte_skip(rt, page + 1, end)) {
		xm_pte word = xm_pg_load(&rt->pt[page]) & ~(XM_PG_WAITER | XM_PG_PREV_MASK | XM_PG_PINNED);

		if (!word)
			continue;
		if (xm_pg_state(word) == XM_PG_RESIDENT) {
			word = xm_pg_without_slot(word) | XM_PG_DIRTY;
			c->resident++;
		} else if (word & XM_PG_HAS_SLOT) {
			xm_slots_get(rt->fam, xm_pg_slot(word));
		}
		c->touch[page >> XM_TOUCH_SHIFT] = 1;
		c->pt[page] = word;
	}
}

static void make_child(struct xm_runtime *rt)
{
	int index = xm_family_proc_claim(rt->fam);
	struct xm_proc *child;
	struct copy c;

	rt->fork_child_proc = index;
	if (index < 0)
		return;
	child = &rt->fam->proc[index];
	c = (struct copy){ xm_family_pt(rt->fam, (uint32_t)index), xm_family_touch(rt->fam, (uint32_t)index), 0 };
	child->ppid = rt->pid;
	xm_store(&child->pt_pages_high, rt->me->pt_pages_high);
	for (size_t i = 0; i < rt->maps.n; i++) {
		struct xm_range *r = &rt->maps.r[i];

		/* value layout: flags in the upper half (mapping_internal.h) */
		if ((r->value[0] >> 32) & (XM_MAP_DONTFORK | XM_MAP_WIPEONFORK | XM_MAP_FOREIGN))
			continue;
		copy_words(rt, &c, (r->start - xm_ext_lo) >> XM_PAGE_SHIFT, (r->end - xm_ext_lo) >> XM_PAGE_SHIFT);
	}
	child->stats.mapped_pages = child->stats.mapped_pages_max = rt->me->stats.mapped_pages;
	child->stats.remote_pages = rt->me->stats.remote_pages;
	xm_store(&child->resident, c.resident);
	xm_add(&rt->fam->resident_pages, c.resident);
	/* its charge against --size: the same as ours, without asking: fork is not where memory is refused */
	xm_store(&child->committed, xm_load(&rt->me->committed));
	xm_add(&rt->fam->committed_pages, child->committed);
}

/* ---- the three parts ------------------------------------------------------------------------------------------ */

static void restore_signals(uint64_t mask)
{
	xm_sys6(SYS_rt_sigprocmask, SIG_SETMASK, (long)&mask, 0, 8, 0, 0);
}

/* Takes back what xm_fork_prepare() has taken. */
static void let_go(struct xm_runtime *rt)
{
	uint64_t mask = rt->fork_mask;

	gate_open(rt);
	xm_unlock(&rt->map_lock);
	if (_IO_list_lock && _IO_list_unlock)
		_IO_list_unlock();
	xm_in_runtime--;
	restore_signals(mask);
}

bool xm_fork_prepare(uint64_t wait_ns)
{
	struct xm_runtime *rt = &xm_rt;
	uint64_t all = xm_all_signals(rt), old = 0;

	if (xm_load(&rt->state) != 1)
		return true;
	xm_sys6(SYS_rt_sigprocmask, SIG_SETMASK, (long)&all, (long)&old, 8, 0, 0);
	xm_in_runtime++;
	if (_IO_list_lock && _IO_list_unlock)
		_IO_list_lock();
	xm_lock(&rt->map_lock);
	rt->fork_mask = old; /* not before: another thread may be forking */
	if (!gate_close(rt, wait_ns)) {
		let_go(rt);
		return false;
	}
	make_child(rt);
	xm_mapping_let_fork(rt, true);
	xm_stat_add(rt, forks, 1);
	errno = 0; /* what fork sets tells the parent's part whether there is a child */
	return true;
}

/* The pause is not only politeness: locks that were let go and are taken again at once go to nobody else, since who slept on
 * one has to wake up first. */
uint64_t xm_fork_rest(uint64_t wait_ns)
{
	xm_sys_sleep(wait_ns < REST_MAX_NS ? wait_ns : REST_MAX_NS);
	return 2 * wait_ns; /* longer than anybody stays inside, in the end */
}

void xm_fork_parent(void)
{
	struct xm_runtime *rt = &xm_rt;
	bool failed = errno != 0;

	if (xm_load(&rt->state) != 1)
		return;
	if (failed && rt->fork_child_proc >= 0)
		xm_family_proc_drop(rt->fam, (uint32_t)rt->fork_child_proc);
	xm_mapping_let_fork(rt, false);
	let_go(rt);
}

static void die_in_child(const char *what, int err)
{
	xm_err("a forked child of process %d cannot be served: %s (%s); it ends here rather than see wrong memory",
	       xm_rt.me ? xm_rt.me->ppid : 0, what, xm_strerror(err));
	xm_sys3(SYS_exit_group, 125, 0, 0);
}

/* The runtime of the child: the same book of mappings, everything else its own. */
static void reset_for_child(struct xm_runtime *rt)
{
	rt->pid = xm_sys_getpid();
	rt->proc = (uint32_t)rt->fork_child_proc;
	rt->me = &rt->fam->proc[rt->proc];
	rt->pt = xm_family_pt(rt->fam, rt->proc);
	rt->touch = xm_family_touch(rt->fam, rt->proc);
	xm_lock_init(&rt->map_lock, XM_RANK_MAP);
	xm_lock_init(&rt->reclaim_lock, XM_RANK_RECLAIM);
	xm_lock_init(&rt->grow_lock, XM_RANK_GROW);
	xm_lock_init(&rt->policy_lock, XM_RANK_POLICY);
	xm_fd_forked();
#ifdef XM_CHECKED
	xm_lock_held = 0;
#endif
	rt->gate_closed = rt->gate_active = 0;
	rt->reclaimer_sleeps = 0;
	rt->pinned_pages = 0;
	rt->lock_future = 0;
	rt->evictor_tid = 0;
	rt->pages_said = 0;
	/* what the parent found is not what the child will: it has other pages, and other slots */
	rt->no_room = 0;
	rt->no_victim_until_ns = rt->no_victim_pages = rt->grow_not_before_ns = 0;
	rt->canary.state = 0;
	xm_fetcher_forked(rt);
	memset(rt->waiter, 0, sizeof(rt->waiter));
	for (int i = 0; i < XM_STREAMS; i++)
		xm_streams_forked(&rt->streams[i]);
}

void xm_fork_child(void)
{
	struct xm_runtime *rt = &xm_rt;
	char why[200] = "";
	int rc;

	if (xm_load(&rt->state) != 1)
		return;
	if (rt->fork_child_proc < 0)
		die_in_child("all process entries of the family are taken", rt->fork_child_proc);
	reset_for_child(rt);
	/* from here on the entry is this process's, if it dies before it lives */
	rt->me->start_time = 0;
	__atomic_store_n(&rt->me->pid, rt->pid, __ATOMIC_RELEASE);
	rc = xm_runtime_open_fds(rt);
	if (rc < 0)
		die_in_child("no userfaultfd", rc);
	rc = xm_mapping_after_fork(rt);
	if (rc < 0)
		die_in_child("its mappings could not be registered", rc);
	rc = xm_family_proc_live(rt->fam, rt->proc);
	if (rc < 0)
		die_in_child("its entry was taken back", rc);
	rc = xm_remote_after_fork(rt, why);
	if (rc < 0)
		die_in_child(why, rc);
}

void xm_fork_child_threads(void)
{
	struct xm_runtime *rt = &xm_rt;
	int rc;

	if (xm_load(&rt->state) != 1)
		return;
	rc = xm_runtime_threads(rt);
	if (rc < 0)
		die_in_child("no thread could be started", rc);
	if (rt->env[0])
		xm_family_tell_keeper(rt->env, rt->proc);
	xm_in_runtime--;
	restore_signals(rt->fork_mask);
}
