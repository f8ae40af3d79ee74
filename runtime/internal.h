/* SPDX-License-Identifier: Apache-2.0 */
/*
 * internal.h - the one runtime of a process as its own modules see it.
 *
 * Threads: `handlers` fault handler threads (handler.c), which may be joined by fetchers (fetcher.c), one reclaim
 * thread (reclaim.c), and the program's own threads inside mapping calls, fork and the API. Locks in the order of enum xm_lock_rank; the fork gate
 * (fork.c) is entered by handlers, fetchers and the reclaim thread around each piece of work and is outermost.
 *
 *   program thread --fault--> kernel --message--> handler --+-- page words (pagetab, slots): CAS only
 *                                                           +-- worker: links, staging  (remote.c)
 *   program thread --mmap...--> mapping.c (map lock) -------+
 *   reclaim thread --> policy (policy lock) --> window -----+
 */
#ifndef XM_INTERNAL_H
#define XM_INTERNAL_H

#include <pthread.h>
#include <signal.h>

#include "fdgate.h"
#include "lock.h"
#include "rangemap.h"
#include "runtime/early.h"
#include "runtime/family.h"
#include "runtime/mapping.h"
#include "runtime/pagetab.h"
#include "runtime/policy/policy.h"
#include "runtime/runtime.h"
#include "runtime/slots.h"
#include "runtime/stream.h"

#define XM_NO_SLOT UINT64_MAX
#define XM_SIG_OURS ((1ull << (SIGBUS - 1)) | (1ull << (SIGSYS - 1))) /* in fault mode signal */
#define XM_HANDLERS_MAX 8 /* fetchers included */
#define XM_FETCHERS_MAX (XM_HANDLERS_MAX - 2)
#define XM_WORKERS_MAX (XM_HANDLERS_MAX + 10)
#define XM_WORKERS_SPARE 4 /* not for faults in mode signal: reclaim, and mapping calls */
#define XM_HUGE_BYTES (2ull << 20)
#define XM_HUGE_SHARE (XM_HUGE_BYTES / XM_STAGING_BYTES) /* workers whose staging is in one huge page */
#define XM_RECENT_LG 6
#define XM_RECENT (1u << XM_RECENT_LG)
#define XM_STREAMS 32	    /* faulting threads that are told apart */
#define XM_FAULTERS 16	    /* threads that are counted apart where there may be more than handlers */
#define XM_OWN_FDS_MAX 256
#define XM_THREAD_STACK_BYTES (256u << 10)
#define XM_WAITERS 64	    /* threads that wait for another's page, by tid, whose time is measured */

/* What a fault turned out to be; the numbers are in probes (man/xmem-probes.7). */
enum xm_fault_kind {
	XM_FAULT_FETCH = 0, /* the page was on an appliance */
	XM_FAULT_ZERO = 1,  /* first touch */
	XM_FAULT_WRITE = 2, /* write to a clean page */
	XM_FAULT_WAIT = 3,  /* another thread has the page in hand, and wakes the sleeper */
	XM_FAULT_NONE = 4,  /* resolved already */
	XM_FAULT_BAD = 5,   /* SIGBUS */
};

/* The fault in hand: its page, when that was about to be installed (0: it was not), and parts of the time before. */
struct xm_fault_time {
	uint64_t page, until_ns;
	uint64_t wait_ns, fetch_ns;
	int64_t rc; /* what the kernel said of the page's install, if there was one: pages, or -errno */
};

/* What one thread needs to move pages; used by one thread at a time. Local memory. */
struct xm_worker {
	struct xm_link *link[XM_MAX_APPLIANCES]; /* opened when first used */
	struct xm_link_stats told[XM_MAX_APPLIANCES]; /* of them: what the process's statistics have */
	char *staging;			/* XM_BATCH pages */
	uint32_t staged;		/* of which so many have been touched and are charged to the budget */
	uint32_t link_pages;		/* of the links' own buffers: charged too */
	uint32_t slot_hint;
	uint32_t busy;			/* atomic: free, taken, or a handler rests (remote.c) */
	/* scratch of one fetch or one batch */
	uint64_t page[XM_BATCH];
	xm_pte word[XM_BATCH];
	uint64_t slot[XM_BATCH];
	int32_t status[XM_BATCH];
	uint8_t mark[XM_BATCH];
	char *copy[XM_BATCH];		/* of an eviction: where the page is copied to, staging or its slot */
	struct xm_fault_time spent;
	uint32_t installs;		/* calls so far: one of XM_INSTALL_SAMPLE is timed */
	bool full;			/* no slot is free: only pages that have one are victims */
	bool unfenced;			/* a connection was given up that no other has replaced */
	bool huge;			/* staging is part of a huge page: the same */
	bool lent;			/* a link has registered the staging: none of it can be given back */
	bool reader;			/* a handler's, where fetchers may take messages from it */
	bool away;			/* its handler waits, or is about to: counted in readers_away */
};

enum xm_fetcher_state {
	XM_FETCHER_NONE = 0,
	XM_FETCHER_STARTS,
	XM_FETCHER_IDLE,
	XM_FETCHER_CHOSEN,
	XM_FETCHER_GIVEN,
	XM_FETCHER_ENDED
};

/* A fault to be answered. */
struct xm_message {
	uint64_t page, read_ns;		/* when a handler had it */
	uint32_t tid;
	bool write, wp;
};

struct xm_runtime {
	int state;			/* atomic: 0, 1 running, -errno */
	struct xm_family *fam;
	uint32_t proc;			/* our entry */
	struct xm_proc *me;
	xm_pte *pt;
	uint8_t *touch;
	uint8_t *patterns; /* atomic; NULL: nobody gave such advice (pattern.h) */
	int pid;
	char env[160];			/* value of XMEM_FAMILY; "" when there is no keeper */

	int uffd, mem_fd;		/* mem_fd: /proc/self/mem, for pages that may not be read */
	uint32_t features;		/* enum xm_feature in use */
	bool by_signal;			/* fault mode signal: there are no handlers */
	uint32_t pins;			/* atomic: the kernel may hold pages of ours */
	char *move_area;		/* XM_BATCH pages, registered, absent: where MOVE puts victims */
	char *zeros;			/* XM_BATCH pages of zeros, never written */

	struct xm_peer *peer[XM_MAX_APPLIANCES];
	uint32_t appliance_lost;	/* atomic bit per appliance */
	uint64_t pages_said;		/* atomic bit per status for which a page was given up */
	uint32_t verify;		/* bit per appliance: checksum its pages */
	uint32_t waits;			/* bit per appliance: its pages are waited for, not copied from where they are */
	struct xm_worker worker[XM_WORKERS_MAX];
	struct xm_peer_staging staging; /* how theirs is to be made */
	char *huge[(XM_WORKERS_MAX + XM_HUGE_SHARE - 1) / XM_HUGE_SHARE]; /* atomic; of huge pages */

	struct xm_lock map_lock, reclaim_lock, grow_lock, policy_lock;
	struct xm_rangemap maps;	/* by address; map lock */
	uint64_t fit_cursor;
	int lock_future;		/* mlockall(MCL_FUTURE) */
	uint64_t pinned_pages;		/* atomic */

	const struct xm_evict_ops *evict;
	void *evict_state;
	uint64_t inserted;		/* insertion clock; policy lock */
	uint64_t recent[XM_RECENT];	/* atomic: number of a page + 1 that was asked for a moment ago; by its hash */
	struct xm_early early;
	const struct xm_prefetch_ops *prefetch;
	struct xm_streams streams[XM_STREAMS]; /* by a hash of the thread's id */

	uint32_t gate_closed, gate_active; /* fork.c */
	int nhandlers;
	int handlers_started;
	uint32_t handlers_live;		/* atomic */
	uint32_t handlers_end;		/* atomic: set later than `stopping`, when nobody else needs them */
	bool handlers_pinned;		/* one a processor; else the scheduler places them */
	bool handlers_block;		/* in read(); else each waits by its epoll_fd */
	struct xm_handler {
		pthread_t thread;
		int epoll_fd;		/* for the userfaultfd and stop_fd */
	} handler[XM_HANDLERS_MAX];
	bool handlers_grow;		/* by fetchers: nobody said how many there are to be */
	uint32_t readers_away;		/* atomic: handlers that read no message, since they wait for a link or for room */
	uint64_t link_fault_ns[XM_FAULTERS]; /* atomic; by a hash of the thread's id: when it last needed a link */
	uint32_t fetchers;		/* atomic: threads made; by the reclaim thread */
	uint32_t fetchers_most;		/* 0 where no fault waits for a link, or somebody said how many handlers there are */
	uint32_t fetcher_missed;	/* atomic: one more is wanted */
	uint64_t fetchers_not_before_ns; /* atomic: one could not be made, or have its links */
	struct xm_fetcher {		/* fetcher.c */
		pthread_t thread;
		uint32_t state;		/* atomic, futex: enum xm_fetcher_state */
		struct xm_message message;
	} fetcher[XM_FETCHERS_MAX];
	pthread_t reclaimer;
	struct xm_canary {		/* canary.c */
		pthread_t thread;
		char *page;		/* registered, never kept */
		uint32_t state;		/* atomic: 0 no thread, 1 it runs, 2 none could be started */
		uint32_t wake;		/* futex: bumped when it is up, and to end it */
		uint64_t read_ns, done_ns; /* atomic; by the handler: message in hand, answered */
	} canary;
	struct xm_waiter {		/* fault_time.c */
		uint64_t page;		/* atomic: number of the page + 1; 0: nobody */
		uint64_t since_ns;	/* atomic */
	} waiter[XM_WAITERS];
	int stop_fd;			/* eventfd: ends the threads */
	uint32_t stopping;
	uint64_t fork_mask;		/* map lock: signals that the forking thread had blocked */
	int fork_child_proc;		/* entry made for the child, -1: none */
	uint64_t reserve_pages;		/* frames that background reclaim keeps free */
	uint32_t reclaimer_sleeps;	/* atomic */
	uint32_t evictor_tid;		/* atomic: the thread that copies pages out right now; 0: none */
	uint32_t no_room;		/* atomic: no slot was free, and the appliances said that they are full */
	uint64_t no_victim_until_ns;	/* atomic: nothing may leave; faults do not wait for it until then */
	uint64_t no_victim_pages;	/* atomic: frames of the family when that was found */
	uint64_t grow_not_before_ns;	/* a full appliance is not asked at every batch; grow lock */
	int grow_answer;		/* what it said; grow lock */
	int pidfd;			/* of this process, for process_madvise */
};

extern struct xm_runtime xm_rt;

#define xm_stat_add(rt, field, n) xm_add(&(rt)->me->stats.field, (n))
#define xm_stat_max(rt, field, v)                                                                            \
	do {                                                                                                 \
		uint64_t v_ = (v);                                                                           \
		if (v_ > xm_load_relaxed(&(rt)->me->stats.field))                                            \
			__atomic_store_n(&(rt)->me->stats.field, v_, __ATOMIC_RELAXED);                      \
	} while (0)

static inline uint64_t xm_page_of(const void *addr)
{
	return ((uint64_t)(uintptr_t)addr - xm_ext_lo) >> XM_PAGE_SHIFT;
}

static inline uint64_t xm_page_addr(uint64_t page)
{
	return xm_ext_lo + (page << XM_PAGE_SHIFT);
}

/* The page's word, for writing: notes that this part of the page table is in use. */
static inline xm_pte *xm_pte_touch(struct xm_runtime *rt, uint64_t page)
{
	uint8_t *t = &rt->touch[page >> XM_TOUCH_SHIFT];

	if (!xm_load_relaxed(t)) {
		uint64_t high = xm_load(&rt->me->pt_pages_high), want = page + (1u << XM_TOUCH_SHIFT);

		while (high < want && !__atomic_compare_exchange_n(&rt->me->pt_pages_high, &high, want, true,
								   __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
			;
		xm_store(t, 1);
	}
	return &rt->pt[page];
}

/* A handler is about to wait: true, unless that is known. By another thread: nothing. */
static inline bool xm_reader_leaves(struct xm_runtime *rt, struct xm_worker *w)
{
	if (!w->reader || w->away)
		return false;
	w->away = true;
	xm_add(&rt->readers_away, 1);
	return true;
}

/* A reader that is not away is about to wait for a link. False, and it is not away: it would be the last that listens, and
 * threads that need links by turns are more than handlers. With no more of them nobody waits for a handler. */
bool xm_reader_may_leave(struct xm_runtime *rt, struct xm_worker *w, uint64_t now_ns);

/* It will read messages again in a moment. */
static inline void xm_reader_is_back(struct xm_runtime *rt, struct xm_worker *w)
{
	if (!w->away)
		return;
	w->away = false;
	xm_sub(&rt->readers_away, 1);
}

/* The first page >= page and < end whose part of the page table was ever touched, or end. */
static inline uint64_t xm_pte_skip(struct xm_runtime *rt, uint64_t page, uint64_t end)
{
	while (page < end && !xm_load_relaxed(&rt->touch[page >> XM_TOUCH_SHIFT]))
		page = ((page >> XM_TOUCH_SHIFT) + 1) << XM_TOUCH_SHIFT;
	return page < end ? page : end;
}

/* ---- local memory of the runtime: raw mmap, never external, not inherited by accident ---- */
void *xm_local_alloc(size_t bytes); /* zeroed; NULL */
void xm_local_free(void *p, size_t bytes);

/* ---- ownfd.c: own descriptors ---- */
void xm_fd_forget(int fd); /* about to be closed by us */
void xm_fd_forked(void);   /* in the child of fork: nobody else is at the table */
/* Closes *slot, unless -1, and puts fd there, placed. fd < 0: -1, and fd is returned. */
int xm_fd_replace(int *slot, int fd);

/* ---- remote.c ---- */
/* Opens the peers named in the family's configuration; why: one line on failure. */
int xm_remote_open(struct xm_runtime *rt, char *why);
void xm_remote_close(struct xm_runtime *rt);
int xm_remote_after_fork(struct xm_runtime *rt, char *why);
struct xm_worker *xm_worker_get(struct xm_runtime *rt); /* from the pool; NULL: all in use */
/* The same, but for the last ones: those that fault must not keep out who makes room for them. */
struct xm_worker *xm_worker_get_for_fault(struct xm_runtime *rt);
/* One that nobody has used a link by, and that nobody gets first: for long, and to put links into. NULL: there is none now. */
struct xm_worker *xm_worker_get_unused(struct xm_runtime *rt);
void xm_worker_put(struct xm_worker *w);
/* Nothing that they had is charged any more but staging, until it is trimmed. */
void xm_worker_close_links(struct xm_runtime *rt, struct xm_worker *w);
/* The first n pages of staging are about to be used: charges what has not been yet. */
void xm_worker_stage(struct xm_runtime *rt, struct xm_worker *w, int n);
/* By a handler or fetcher: its worker stays its own while it waits for a message, but may be trimmed; in use again. */
void xm_worker_rest(struct xm_worker *w);
void xm_worker_resume(struct xm_worker *w);
/* Gives touched staging back: of all workers that nobody uses just now. */
void xm_worker_trim_idle(struct xm_runtime *rt);
/* Opens its links to the appliances whose pages are waited for, but those that are lost. -errno: one cannot be had now. */
int xm_remote_ready(struct xm_runtime *rt, struct xm_worker *w);
/* Reads n slots into staging (page i of the batch at staging + i * 4096), verified; status[i] 0 or -errno.
 * Blocks up to the lost timeout when an appliance is away. */
void xm_remote_read(struct xm_runtime *rt, struct xm_worker *w, const uint64_t *slot, int32_t *status, int n);
/* The same way out; sets the checksums. Entries with slot XM_NO_SLOT are skipped (status 0). */
void xm_remote_write(struct xm_runtime *rt, struct xm_worker *w, const uint64_t *slot, int32_t *status, int n);
/* Memory from which n neighbouring slots can be installed directly, or (writing) to which they can be written, by a system
 * call that answers EFAULT; or NULL. */
void *xm_remote_direct(struct xm_runtime *rt, struct xm_worker *w, uint64_t slot, int n, bool writing);
/* Adds at least one slab to the book of slots: 0; -ENOMEM every appliance is full or lost; -EBUSY another process is at
 * it; -ENOLINK and others: one could not be asked just now. After a failure the same for 100 ms, without asking. */
int xm_remote_grow(struct xm_runtime *rt);
/* The same for whoever found no free slot: notes in no_room whether there is no room anywhere. */
int xm_remote_find_room(struct xm_runtime *rt);
/* The right to change the book of slabs, in this process and between processes: 0, -EBUSY. */
int xm_remote_grow_lock(struct xm_runtime *rt);
void xm_remote_grow_unlock(struct xm_runtime *rt);
/* A write to the slot found no link: no more slots of its slab are given out if its appliance is gone. One that only
 * this process cannot reach is others' all the same. */
void xm_remote_lost(struct xm_runtime *rt, uint64_t slot);
/* Background: notices lost and regained appliances. */
void xm_remote_tick(struct xm_runtime *rt);

/* ---- settle.c ---- */
/* By the owner of a BUSY page: sets its final word, puts the slot that the word named and does not name any more, wakes
 * its sleepers. */
void xm_page_settle(struct xm_runtime *rt, uint64_t page, xm_pte to);
/* The same for a page that is unmapped: EMPTY, without pins and holds. */
void xm_page_forget(struct xm_runtime *rt, uint64_t page);
/* Wakes who sleeps on the page, whose word has been settled: WAITER was set. */
void xm_page_wake(struct xm_runtime *rt, uint64_t page);
/* Batch entries page[], word[] ascending by page, so that runs can be handled by one call. */
void xm_worker_sort(struct xm_worker *w, int n);

/* ---- fault.c ---- */
/* Resolves one fault; w->spent grows. Called by handlers and fetchers; shared by every fault mode. */
enum xm_fault_kind xm_fault_resolve(struct xm_runtime *rt, struct xm_worker *w, uint64_t page, uint32_t tid,
				    bool write, bool wp);
/* Answers a message, and accounts it. Inside the gate; handlers, fetchers, and in fault mode signal the faulting thread. */
enum xm_fault_kind xm_fault_answer(struct xm_runtime *rt, struct xm_worker *w, const struct xm_message *m);
/* Fetches pages ahead of use (advice WILLNEED); bounded by free frames. Returns pages fetched. */
uint64_t xm_fault_prefetch(struct xm_runtime *rt, struct xm_worker *w, uint64_t page, uint64_t n);

/* ---- fault_here.c: fault mode signal ---- */
/* By a thread that has met an absent or write-protected page, or is about to hand it to the kernel: resolves it, or waits
 * until who has it in hand is done: the page may have gone again, or not have come: the access decides. 0; -EFAULT: there is
 * nothing to be had at this address (the page is lost, freed, or memory is not ours). Signals blocked, or nothing of the
 * runtime held; errno is kept. */
int xm_fault_here(struct xm_runtime *rt, uint64_t page, uint32_t tid, bool write, bool wp);
/* Makes [addr, addr + len), which lies in the external range, present (writable where write) and holds the pages, so that the
 * kernel may access them: no page leaves, or is protected, until xm_fault_release. Pages held from the first on; fewer than
 * there are (or 0) where a page is not to be had. Nothing waits for another process; errno is kept. */
uint64_t xm_fault_hold(struct xm_runtime *rt, uint64_t addr, uint64_t len, bool write, uint32_t tid);
/* One page, which need not be held: it is here, and may be written if it is to be, for this moment. 0, -EFAULT. Any thread that
 * holds nothing of the runtime; its signals may be open. */
int xm_fault_bring(struct xm_runtime *rt, uint64_t page, bool write, uint32_t tid);
/* Wakes who sleeps on the page in xm_fault_here. */
void xm_fault_wake(struct xm_runtime *rt, uint64_t page);

/* One hold less, of a page that may have been unmapped since. No call, no vector registers: for code that runs where the
 * program's registers are live. */
static inline void xm_fault_release(xm_pte *p)
{
	xm_pte seen = xm_pg_load(p);

	while ((seen & XM_PG_HOLD_MASK) && (seen & XM_PG_HOLD_MASK) != XM_PG_HOLD_MASK &&
	       !__atomic_compare_exchange_n(p, &seen, seen - XM_PG_HOLD_ONE, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		;
}

/* What is blocked where no signal of the program's may come: all, but in fault mode signal those two by which faults and calls on
 * external memory come. */
static inline uint64_t xm_all_signals(const struct xm_runtime *rt)
{
	return rt->by_signal ? ~XM_SIG_OURS : ~0ull;
}

/* ---- handler.c ---- */
/* How many, and whether each has a processor of its own. */
void xm_handler_choose(struct xm_runtime *rt);
/* What they wait by, for a new userfaultfd; also registers the canary. 0 or -errno. */
int xm_handler_open_fds(struct xm_runtime *rt);
void xm_handler_close_fds(struct xm_runtime *rt);
/* attr: pthread_attr_t of the threads. 0 or -errno; some may run then. */
int xm_handler_start(struct xm_runtime *rt, const void *attr);
/* Ends and joins them; the reclaim thread and the fetchers have ended. */
void xm_handler_stop(struct xm_runtime *rt);

/* ---- fetcher.c ---- */
/* By a handler: gives the message to a fetcher, if one is idle. Never waits. */
bool xm_fetcher_hand(struct xm_runtime *rt, const struct xm_message *m);
/* By the reclaim thread, outside the gate: makes one more, if one was missed. */
void xm_fetcher_tick(struct xm_runtime *rt);
/* Ends and joins them, each after the message that it was given; `stopping` is set, the reclaim thread has ended. */
void xm_fetcher_stop(struct xm_runtime *rt);
/* In a fork's child: there are none. */
void xm_fetcher_forked(struct xm_runtime *rt);

/* ---- fault_time.c ---- */
/* Accounts a fault: ns from its message until its page was about to be installed, of which w->spent. Any thread; no lock. */
void xm_fault_account(struct xm_runtime *rt, const struct xm_worker *w, enum xm_fault_kind kind, uint64_t ns);
/* Thread tid begins to wait for the page, or does not after all. Before WAITER is set, so that whoever wakes it finds
 * this; a second thread with the same hash takes the place of the first, which is then not measured. */
void xm_waiter_begin(struct xm_runtime *rt, uint32_t tid, uint64_t page);
void xm_waiter_cancel(struct xm_runtime *rt, uint32_t tid, uint64_t page);
/* The page's waiters are about to be woken. */
void xm_waiters_end(struct xm_runtime *rt, uint64_t page);

/* ---- canary.c: delivery and return of faults, by sample ---- */
/* Registers the canary's page with the userfaultfd; false: there are no samples, and no handler can be nudged. */
bool xm_canary_register(struct xm_runtime *rt);
/* Takes that back: who sleeps on the page goes on. */
void xm_canary_unregister(struct xm_runtime *rt);
/* One fault on the page, for one handler to wake up; returns when it was answered. */
void xm_canary_nudge(struct xm_runtime *rt);
/* By the reclaim thread, inside the gate: starts the canary's thread when there have been faults. */
void xm_canary_tick(struct xm_runtime *rt);
/* By a handler, now_ns after its message came: true if addr is the canary's; it is answered then. */
bool xm_canary_fault(struct xm_runtime *rt, uint64_t addr, uint64_t now_ns);
/* Takes one sample, blocks as long as a fault does; false: there was none to be had. One thread at a time, not inside the gate. */
bool xm_canary_look(struct xm_runtime *rt);
/* Ends the thread; the handlers may have stopped before. */
void xm_canary_stop(struct xm_runtime *rt);

/* ---- evict.c: one batch of locked pages leaves ---- */
/* Takes the n pages w->page[] (sorted, words w->word[] as they were when locked EVICTING) away: written where dirty,
 * dropped, words settled. Returns how many left; the others are resident again and told to the policy. */
int xm_evict_batch(struct xm_runtime *rt, struct xm_worker *w, int n);
/* Pieces of that, for pages that the caller has locked (reclaim lock held): the n pages w->page[], ascending, are
 * write-protected and copied to staging; returns how many could not be: zeros are staged for them, their mark[] is not
 * 0, and drop, which takes the others from the kernel, leaves them. */
int xm_evict_stage(struct xm_runtime *rt, struct xm_worker *w, int n);
void xm_evict_drop(struct xm_runtime *rt, struct xm_worker *w, int n);
/* The page's frame becomes its own, where a fork child shares it; contents as they are. */
void xm_evict_unshare(uint64_t addr);

/* ---- reclaim.c ---- */
/* Accounts n frames to this process; true when the family is then within its budget. */
bool xm_frame_charge(struct xm_runtime *rt, uint64_t n);
void xm_frame_uncharge(struct xm_runtime *rt, uint64_t n);
/* Free frames right now (0 when over budget). */
uint64_t xm_frame_free(struct xm_runtime *rt);
/* Evicts about `want` pages; returns how many frames became free. 0: nothing could leave. -EBUSY: another thread's
 * batch was under way (the reclaim lock is waited for 100 ms), or every worker is in use. */
int xm_reclaim_batch(struct xm_runtime *rt, uint64_t want);
/* Evicts what it can of [page, page + n): for advice; returns pages evicted. */
uint64_t xm_reclaim_range(struct xm_runtime *rt, uint64_t page, uint64_t n);
/* The same until every page of the range has left: 0; -EBUSY pinned ones stay; -ENOLINK others could not be written. */
int xm_reclaim_all(struct xm_runtime *rt, uint64_t page, uint64_t n);
/* A faulting thread has charged frames and the family is over its budget: reclaims here and now. -ENOMEM when for the
 * stall limit nothing left and every appliance was full; else 0, if need be with the budget exceeded. wait: for room on
 * an appliance (a page that comes in brings its own room: no need). */
int xm_reclaim_for_fault(struct xm_runtime *rt, bool wait);
/* Wakes this process's reclaim thread, if it sleeps; or those of all members. */
void xm_reclaim_kick(struct xm_runtime *rt);
void xm_reclaim_kick_others(struct xm_runtime *rt);
void *xm_reclaimer_main(void *arg);
/* Tells the policy about pages that became resident. */
void xm_reclaim_inserted(struct xm_runtime *rt, const uint64_t *page, int n, bool refault);
uint8_t xm_reclaim_epoch(struct xm_runtime *rt);
/* A page that a thread waits for is about to be here: it is not taken with a window before that thread has touched it. */
void xm_reclaim_expect(struct xm_runtime *rt, uint64_t page);

/* ---- fork.c ---- */
void xm_gate_enter(struct xm_runtime *rt);
void xm_gate_leave(struct xm_runtime *rt);

/* ---- trapped.c ---- */
/* System calls on memory at XM_EXT_BASE are trapped by a filter that somebody else has installed. One thread; at the start. */
bool xm_calls_are_trapped(void);

/* ---- mapping.c ---- */
int xm_mapping_init(struct xm_runtime *rt);
/* Mappings are not inherited but by a fork that goes through fork.c (on between its parts): a child of a raw clone
 * system call, which nobody can serve, dies of SIGSEGV instead of reading zeros. Map lock held. */
void xm_mapping_let_fork(struct xm_runtime *rt, bool on);
/* In the child: registers every mapping with the child's userfaultfd. 0 or -errno. */
int xm_mapping_after_fork(struct xm_runtime *rt);

/* ---- runtime.c ---- */
/* One line once per reason about an appliance that is gone for good. */
void xm_say_lost(struct xm_runtime *rt, unsigned appliance, const char *what);
/* One line once per appliance: faults wait for a link that this process cannot open. */
void xm_say_waits(struct xm_runtime *rt, unsigned appliance);
/* One line once per status: a page is given up because fetching it failed so. */
void xm_say_page_lost(struct xm_runtime *rt, uint64_t page, int status);
/* One line once: a page found no room on any appliance. */
void xm_say_full(struct xm_runtime *rt);
int xm_runtime_threads(struct xm_runtime *rt);
/* Opens the descriptors that belong to one process: userfaultfd, epoll, /proc/self/mem, pidfd; registers the move
 * area. In the child of fork the inherited ones are closed first. 0 or -errno. */
int xm_runtime_open_fds(struct xm_runtime *rt);

#endif
