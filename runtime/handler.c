/* SPDX-License-Identifier: Apache-2.0 */
/*
 * handler.c - the threads that answer faults: how they wait for messages, where they run, how they end.
 *
 *   pinned      as many handlers as processors, each on its own, all of them in a blocking read(): a fault wakes all, the
 *               one on the faulting thread's own processor is there first, without an interrupt to another processor, and
 *               the others go back to sleep inside the kernel. A fault costs one read and one install
 *   not pinned  fewer handlers than processors: a read that does not block, and an epoll of which one handler is woken
 *
 * A message may be in hand while a fork closes the gate: it is answered after it, by the page table as it is then.
 *
 * Where nobody said how many handlers there are to be, and more threads than they need links, one of them listens: the
 * last that would have to wait for a link hands its message to a fetcher (fetcher.c). Not strictly: while no fetcher is
 * idle it waits itself, as it does for room in the budget, and where a page leaves by the slot of the one that came. Which
 * handlers wait is counted in readers_away: from before a fetch, or a wait for room, until its page has come. It is not
 * "how many are inside read()": a handler that has woken a thread often loses its processor to it before it reads again,
 * and is there all the same when the next fault comes.
 *
 * A thread in a blocking read() is ended by a fault: of the canary's page, by whoever ends the runtime. Each handler
 * answers at least one message between `handlers_end` and its end, and the last takes the page's registration back: the
 * touch always comes back.
 */
#include "runtime/internal.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "runtime/probes.h"
#include "runtime/uffd.h"

/* Longer than it takes until all threads of a crowd have had their turn: at a link that takes 20 ms to answer, 8 threads by
 * two handlers. */
#define CROWD_NS 100000000ull

/* ---- descriptors ------------------------------------------------------------------------------------------------ */

static int make_epoll(struct xm_runtime *rt)
{
	struct epoll_event ev = { .events = EPOLLIN | EPOLLEXCLUSIVE };
	int fd = (int)xm_sys3(SYS_epoll_create1, EPOLL_CLOEXEC, 0, 0);

	if (fd < 0)
		return fd;
	xm_sys6(SYS_epoll_ctl, fd, EPOLL_CTL_ADD, rt->uffd, (long)&ev, 0, 0);
	ev.events = EPOLLIN;
	xm_sys6(SYS_epoll_ctl, fd, EPOLL_CTL_ADD, rt->stop_fd, (long)&ev, 0, 0);
	return fd;
}

int xm_handler_open_fds(struct xm_runtime *rt)
{
	bool canary;
	int rc;

	if (rt->by_signal) /* nobody reads messages: there are none */
		return 0;
	canary = xm_canary_register(rt);

	rt->handlers_block = rt->handlers_pinned && canary && xm_sys3(SYS_fcntl, rt->uffd, F_SETFL, 0) == 0;
	if (rt->handlers_block)
		return 0;
	rc = xm_fd_replace(&rt->stop_fd, (int)xm_sys3(SYS_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK, 0));
	for (int i = 0; i < rt->nhandlers && rc >= 0; i++)
		rc = xm_fd_replace(&rt->handler[i].epoll_fd, make_epoll(rt));
	return rc < 0 ? rc : 0;
}

void xm_handler_close_fds(struct xm_runtime *rt)
{
	for (int i = 0; i < XM_HANDLERS_MAX; i++)
		xm_fd_replace(&rt->handler[i].epoll_fd, -1);
	xm_fd_replace(&rt->stop_fd, -1);
}

/* ---- a message ---------------------------------------------------------------------------------------------------- */

/* As far as can be told: the page may be somebody else's in a moment. */
static bool waits_for_link(struct xm_runtime *rt, uint64_t page)
{
	xm_pte word;

	if (!xm_load_relaxed(&rt->touch[page >> XM_TOUCH_SHIFT]))
		return false;
	word = xm_pg_load(&rt->pt[page]);
	return xm_pg_state(word) == XM_PG_REMOTE &&
	       (rt->waits & (1u << xm_slot_slab(rt->fam, xm_pg_slot(word))->appliance));
}

/* Leaves, if another handler listens meanwhile. In one step: those that come at the same time, as they do where a link
 * takes the same time always, would all believe it. */
static bool leaves_others(struct xm_runtime *rt, struct xm_worker *w)
{
	if ((int)xm_add(&rt->readers_away, 1) + 1 < rt->nhandlers)
		w->away = true;
	else
		xm_sub(&rt->readers_away, 1);
	return w->away;
}

/* Threads that need links by turns are more than handlers. */
static bool crowded(struct xm_runtime *rt, uint64_t now_ns)
{
	int n = 0;

	for (int i = 0; i < XM_FAULTERS; i++)
		n += xm_load_relaxed(&rt->link_fault_ns[i]) + CROWD_NS > now_ns;
	return n > rt->nhandlers;
}

bool xm_reader_may_leave(struct xm_runtime *rt, struct xm_worker *w, uint64_t now_ns)
{
	if (leaves_others(rt, w))
		return true;
	if (crowded(rt, now_ns))
		return false;
	xm_reader_leaves(rt, w);
	return true;
}

/* To a fetcher, if it has to be; else this handler waits itself. */
static bool hand_on(struct xm_runtime *rt, struct xm_worker *w, const struct xm_message *m)
{
	__atomic_store_n(&rt->link_fault_ns[m->tid % XM_FAULTERS], m->read_ns, __ATOMIC_RELAXED);
	if (xm_reader_may_leave(rt, w, m->read_ns))
		return false;
	if (xm_fetcher_hand(rt, m))
		return true;
	xm_reader_leaves(rt, w);
	return false;
}

static void handle(struct xm_runtime *rt, struct xm_worker *w, const struct xm_uffd_event *ev)
{
	uint64_t before = xm_now_ns(), addr = xm_round_down(ev->addr, XM_PAGE_SIZE);
	struct xm_message m = { .read_ns = before, .tid = ev->tid, .write = ev->write, .wp = ev->wp };

	if (!ev->fault || xm_canary_fault(rt, addr, before) || addr < xm_ext_lo || addr >= xm_ext_hi)
		return;
	m.page = (addr - xm_ext_lo) >> XM_PAGE_SHIFT;
	if (w->reader && waits_for_link(rt, m.page) && hand_on(rt, w, &m))
		return;
	xm_fault_answer(rt, w, &m);
	xm_reader_is_back(rt, w);
}

/* Waits for a message: 1, 0 look again, or -errno. One at a time: the next is for another handler. */
static int wait_for_message(struct xm_runtime *rt, const struct xm_handler *me, struct xm_uffd_event *ev)
{
	struct epoll_event ready;
	int n = xm_uffd_read(rt->uffd, ev, 1);

	xm_stat_add(rt, message_reads, 1);
	if (n == 0 && !rt->handlers_block)
		xm_sys6(SYS_epoll_pwait, me->epoll_fd, (long)&ready, 1, -1, 0, 8);
	return n;
}

/* ---- threads ------------------------------------------------------------------------------------------------------- */

/* To the index-th processor that this thread may use. A fault answered on the faulting thread's own processor is
 * up to twice as fast: no wake-up crosses processors (README.md has the figures). */
static void pin_to_nth_cpu(long index)
{
	cpu_set_t may, one;

	CPU_ZERO(&may);
	CPU_ZERO(&one);
	if (xm_sys3(SYS_sched_getaffinity, 0, sizeof(may), &may) < 0)
		return;
	for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &may) || index-- > 0)
			continue;
		CPU_SET(cpu, &one);
		xm_sys3(SYS_sched_setaffinity, 0, sizeof(one), &one);
		return;
	}
}

static void *handler_main(void *arg)
{
	struct xm_runtime *rt = &xm_rt;
	const struct xm_handler *me = arg;
	struct xm_uffd_event ev;
	struct xm_worker *w;
	int n = 0;

	xm_in_runtime = 1;
	xm_sys6(SYS_prctl, PR_SET_NAME, (long)"xmem-fault", 0, 0, 0, 0);
	if (rt->handlers_pinned)
		pin_to_nth_cpu(me - rt->handler);
	w = xm_worker_get(rt);
	xm_assert(w);
	w->reader = rt->fetchers_most > 0;
	while (n >= 0 && !xm_load(&rt->handlers_end)) {
		xm_worker_rest(w);
		n = wait_for_message(rt, me, &ev);
		xm_worker_resume(w);
		if (n <= 0)
			continue;
		xm_gate_enter(rt);
		handle(rt, w, &ev);
		xm_gate_leave(rt);
	}
	w->reader = false;
	xm_worker_put(w);
	if (xm_sub(&rt->handlers_live, 1) == 1) /* the last */
		xm_canary_unregister(rt);
	return NULL;
}

void xm_handler_choose(struct xm_runtime *rt)
{
	uint32_t n = rt->fam->cfg.handlers ? rt->fam->cfg.handlers : 2;
	cpu_set_t set;

	rt->handlers_pinned = rt->handlers_grow = false;
	rt->nhandlers = 0;
	if (rt->by_signal)
		return;
	rt->handlers_grow = !rt->fam->cfg.handlers; /* then there are two, and XM_FETCHERS_MAX may follow */
	/* never one: a handler that reclaims may need another to answer it (fault.c, BUSY) */
	rt->nhandlers = (int)xm_min(xm_max(n, 2u), (uint32_t)XM_HANDLERS_MAX);
	CPU_ZERO(&set);
	rt->handlers_pinned = xm_sys3(SYS_sched_getaffinity, 0, sizeof(set), &set) > 0 &&
			      CPU_COUNT(&set) == rt->nhandlers;
}

int xm_handler_start(struct xm_runtime *rt, const void *attr)
{
	int rc = 0;

	xm_store(&rt->handlers_live, 0);
	xm_store(&rt->handlers_end, 0);
	rt->fetchers_most = rt->handlers_grow && rt->waits ? XM_FETCHERS_MAX : 0;
	for (int i = 0; i < rt->nhandlers && rc == 0; i++) {
		xm_add(&rt->handlers_live, 1);
		rc = -pthread_create(&rt->handler[i].thread, attr, handler_main, &rt->handler[i]);
		rt->handlers_started |= rc == 0;
	}
	return rc;
}

void xm_handler_stop(struct xm_runtime *rt)
{
	uint64_t one = 1;

	xm_store(&rt->handlers_end, 1);
	if (rt->by_signal)
		return;
	if (rt->handlers_block)
		while (xm_load(&rt->handlers_live))
			xm_canary_nudge(rt);
	else
		xm_sys3(SYS_write, rt->stop_fd, &one, sizeof(one));
	for (int i = 0; i < rt->nhandlers; i++)
		pthread_join(rt->handler[i].thread, NULL);
}
