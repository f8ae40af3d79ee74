/* SPDX-License-Identifier: Apache-2.0 */
/*
 * family.h - what the processes below one xmem-run share: one sparse shared memory object that every
 * covered process maps whole (the "family object"). It holds the configuration, the local budget, the book
 * of slots on the appliances, and for each process its page table and its statistics, so that a process
 * which dies without a word leaves everything behind that is needed to give its memory back.
 *
 *   offset 0          struct xm_family (configuration, counters, slabs, processes)
 *   XM_FAM_REFS_OFF   u16 per slot: number of page words (of any process) that name it; 0: free
 *   XM_FAM_SUMS_OFF   u32 per slot: checksum of what was written there; 0: unknown
 *   XM_FAM_TOUCH_OFF  per process one byte per 512 page words: not 0 where any may be non-zero (and then a count, see
 *                     track.h). Reading a page table where it was never touched would materialise it: walkers skip
 *                     by this map
 *   XM_FAM_PT_OFF     page tables: XM_MAX_PROCS times XM_PT_BYTES
 *
 * It is a memfd of several TiB of which only what is touched exists. Who makes it: the keeper (a process
 * that xmem-run starts and that lives as long as the family), or the runtime itself when a program uses the
 * API without xmem-run. Who hands it on: fork inherits the mapping; an exec'd program asks the keeper over
 * an abstract unix socket named in XMEM_FAMILY ("@name:token", see keeper protocol below).
 *
 * Synchronisation: each field says its own. "atomic": accessed with xm_load/xm_add/CAS only.
 */
#ifndef XM_FAMILY_H
#define XM_FAMILY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hist.h"
#include "link/link.h"
#include "link/uri.h"
#include "util.h"

#define XM_FAM_MAGIC 0x796c696d61666d78ull /* "xmfamily" */
#define XM_FAM_VERSION 3

/* thread sanitizer leaves mappings 1.5 TiB of addresses: a smaller object there */
#if defined(__SANITIZE_THREAD__)
#define XM_MAX_PROCS 64
#else
#define XM_MAX_PROCS 1024
#endif
#define XM_MAX_APPLIANCES 16
#define XM_BATCH 128			    /* pages of one eviction batch and of a worker's staging */
#define XM_STAGING_BYTES ((size_t)XM_BATCH << XM_PAGE_SHIFT)
#define XM_MAX_SLABS 32768
#define XM_SLAB_SLOT_SHIFT 14 /* slot number = slab number << 14 | page within the slab */
#define XM_SLAB_SLOTS_MAX (1u << XM_SLAB_SLOT_SHIFT)
#define XM_MAX_SLOTS ((uint64_t)XM_MAX_SLABS << XM_SLAB_SLOT_SHIFT)

#if defined(__SANITIZE_THREAD__) /* the thread sanitizer keeps most of the address space for itself */
#define XM_EXT_BASE 0ull	 /* the kernel chooses */
#define XM_EXT_BYTES (1ull << 37)
#else
#define XM_EXT_BASE 0x200000000000ull /* free below mmap_base, also with address sanitizer */
#define XM_EXT_BYTES (1ull << 40)
#endif
#define XM_EXT_PAGES (XM_EXT_BYTES >> XM_PAGE_SHIFT)
#define XM_PT_BYTES (XM_EXT_PAGES * 8)
#define XM_TOUCH_SHIFT 9 /* pages per entry of the touch map: one page of page table */
#define XM_TOUCH_BYTES (XM_EXT_PAGES >> XM_TOUCH_SHIFT)

#define XM_FAM_REFS_OFF (1ull << 30)
#define XM_FAM_SUMS_OFF (XM_FAM_REFS_OFF + XM_MAX_SLOTS * 2)
#define XM_FAM_TOUCH_OFF (XM_FAM_SUMS_OFF + XM_MAX_SLOTS * 4)
#define XM_FAM_PT_OFF (XM_FAM_TOUCH_OFF + (uint64_t)XM_MAX_PROCS * XM_TOUCH_BYTES)
#define XM_FAM_BYTES (XM_FAM_PT_OFF + (uint64_t)XM_MAX_PROCS * XM_PT_BYTES)

/* Features that may be masked for tests (XMEM_MASK=move,poison,...): the older way is then used. */
enum xm_feature {
	XM_FEAT_MOVE = 1 << 0,
	XM_FEAT_POISON = 1 << 1,
	XM_FEAT_WP = 1 << 2,	      /* write-protect: without it every resident page counts as dirty */
	XM_FEAT_MADVISE_VEC = 1 << 3, /* vectored process_madvise on the own process */
};

/* Who resolves a fault. */
enum xm_fault_mode {
	XM_FAULT_THREAD = 0, /* handler threads, which read messages */
	XM_FAULT_SIGNAL,     /* the faulting thread, in its signal handler: processes with the preload object only */
};

/* Set once by whoever creates the family, then read-only. */
struct xm_family_config {
	uint64_t budget_bytes;	  /* --local */
	uint64_t size_bytes;	  /* --size: limit of charged external memory; 0: what is offered + local */
	uint64_t min_map_bytes;	  /* --min-map: smallest anonymous mmap that becomes external */
	uint64_t stall_ns;	  /* --stall: how long a page without room waits before SIGBUS */
	uint64_t lost_timeout_ns; /* how long a lost appliance is waited for */
	uint32_t masked_features; /* enum xm_feature */
	uint32_t verify;	  /* 1: checksum every page also where the link is direct */
	uint32_t handlers;	  /* fault handler threads per process, at least 2; 0: 2, and fetchers as needed */
	uint32_t log_level;	  /* enum xm_log_level */
	uint32_t fault_mode;	  /* enum xm_fault_mode */
	char evict[16], prefetch[16];
	char inject[160]; /* specification for the inject decorator; "": none */
	uint32_t appliances;
	struct {
		char uri[XM_URI_MAX];
		struct xm_session_id session; /* made by the creator; members attach to it */
	} appliance[XM_MAX_APPLIANCES];
};

/* One counter block per process, written by that process's threads with relaxed adds, read by anyone.
 * JSON and the text block print each under this very name. Sums over processes: counters, histograms and
 * levels add; so do the peaks of levels (an upper bound of the family's own peak, and the right weight for
 * coverage); over_budget_pages_max and fetchers_max are the largest. */
struct xm_proc_stats {
	/* faults by kind */
	uint64_t faults_zero;	  /* first touch of a page: no network */
	uint64_t faults_fetch;	  /* demand fetch from an appliance */
	uint64_t faults_write;	  /* write to a write-protected clean page */
	uint64_t faults_wait;	  /* page was busy: waited for another thread */
	uint64_t faults_spurious; /* already resolved */
	uint64_t faults_by_signal; /* of all: resolved by the faulting thread (fault mode signal) */
	uint64_t calls_trapped;	  /* system calls that the filter found to point into external memory */
	uint64_t faults_bad;	  /* on a range that is not present */
	uint64_t faults_lost;	  /* answered with SIGBUS: the only copy is gone */
	uint64_t faults_handed;	  /* by a handler to a fetcher: no other handler would have read messages meanwhile */
	/* pages */
	uint64_t zero_pages;	/* installed as zeros, run fill included */
	uint64_t fetched_pages; /* installed from an appliance, prefetch included */
	uint64_t prefetched_pages;
	uint64_t prefetch_hit_pages, prefetch_waste_pages; /* as the stream detector judges (manual) */
	uint64_t evicted_pages;				   /* taken away, all kinds */
	uint64_t evicted_dirty_pages;			   /* written to an appliance */
	uint64_t evicted_clean_pages;			   /* dropped without a write */
	uint64_t evicted_zero_pages;	       /* found to be all zeros: dropped without a write */
	uint64_t evict_refused_pages;	       /* pinned by the kernel or taken back meanwhile */
	uint64_t freed_pages;		       /* given back by the program */
	uint64_t fetched_bytes, written_bytes; /* from and to appliances */
	uint64_t checksum_errors, link_errors, link_reconnects;
	uint64_t install_calls;	   /* UFFDIO_COPY/ZEROPAGE calls */
	uint64_t evict_calls;	   /* write-protect, copy, move and drop calls of evictions */
	uint64_t evict_cpu_ns;	   /* processor time of eviction batches */
	uint64_t message_reads;	   /* reads of the userfaultfd */
	uint64_t control_messages; /* to the appliances */
	uint64_t reclaim_direct;   /* batches reclaimed by a faulting thread because no frame was free */
	uint64_t reclaim_background;
	uint64_t over_budget_pages_max;
	uint64_t stalls, stall_ns;
	uint64_t forks;
	uint64_t fetchers_max; /* threads that handed faults were given to */
	/* levels: current and peak */
	uint64_t resident_pages, resident_pages_max;
	uint64_t mapped_pages, mapped_pages_max; /* external mappings, whether touched or not */
	uint64_t remote_pages, remote_pages_max; /* pages whose only copy is remote */
	uint64_t external_pages_max;		 /* resident + remote, peak */
	uint64_t anon_local_bytes; /* private anonymous memory outside: sampled at peaks (coverage) */
	struct xm_hist fetch_ns, zero_ns, write_ns; /* fault handling, from message to the installing call */
	struct xm_hist evict_ns;		    /* one batch */
	/* where the time of faults of all kinds goes (fault_time.c): wait and fetch have the faults that had such a part,
	 * rest has all; install one call of XM_INSTALL_SAMPLE; delivery and return are samples of a fault's own (canary.c) */
#define XM_INSTALL_SAMPLE 256
	struct xm_hist part_delivery_ns, part_wait_ns, part_fetch_ns, part_install_ns, part_rest_ns, part_return_ns;
	/* Of its links to each appliance, added after each transfer: what a process that is killed had under way is
	 * missing. Printed as link_reads ... and their sums. */
	struct xm_link_stats link[XM_MAX_APPLIANCES];
};

enum xm_proc_entry_state {
	XM_PROC_FREE = 0,
	XM_PROC_STARTING = 1, /* claimed; being filled by its process or by fork's parent */
	XM_PROC_LIVE = 2,
	XM_PROC_REAPING = 3, /* dead; somebody gives its slots back */
	XM_PROC_ENDED = 4,   /* all given back; statistics still readable; may be re-used */
};

enum xm_proc_flag {
	XM_PROC_FOREIGN = 1, /* pid is of another pid namespace than the family's: cannot be looked up */
	XM_PROC_EXECED = 2,  /* of a former program of a process that lives on */
};

struct xm_proc {
	uint32_t state; /* atomic, enum xm_proc_entry_state */
	int32_t pid;	/* in the pid namespace of the family's creator where known, else own; while
				STARTING: of the process that claimed the entry */
	int32_t ppid;
	uint32_t flags;	     /* atomic, enum xm_proc_flag */
	int32_t owner;	     /* atomic: pid of who changes the entry (claims, reaps); 0: nobody; negative: of
				another pid namespace. A lock that survives its owner: a dead one is replaced */
	uint32_t wake;	     /* futex of its reclaim thread: bumped by whoever wants it to give frames back */
	uint32_t in_hand;    /* atomic: 1 while it takes slots that no page word names yet (slots.h) */
	uint64_t start_time; /* field 22 of /proc/PID/stat: tells a re-used pid */
	uint64_t exe_dev, exe_ino;    /* of the program: another one later means that it exec'd */
	uint64_t joined_ns, ended_ns; /* CLOCK_MONOTONIC; ended: first seen dead */
	uint64_t pt_pages_high;	      /* atomic: pages [0, high) of its page table may be non-zero */
	uint64_t resident;	      /* atomic: pages charged to the budget by this process */
	uint64_t committed;	      /* atomic: pages charged against --size */
	uint64_t answered_ns;	      /* atomic: CLOCK_MONOTONIC; when its reclaim thread last ended a round */
	char comm[16];
	char exe[112];
	struct xm_proc_stats stats;
};

enum xm_slab_state {
	XM_SLAB_NONE = 0,
	XM_SLAB_POOL = 1 /* slots for eviction */,
	XM_SLAB_EXPLICIT = 2,
	XM_SLAB_LOST = 3
};

struct xm_slab_desc {
	uint32_t state;	    /* atomic, enum xm_slab_state; set last */
	uint16_t appliance; /* index into config.appliance */
	uint16_t pad;
	uint32_t index; /* slab within the region */
	uint32_t slots; /* usable slots, <= XM_SLAB_SLOTS_MAX */
	uint64_t region;
	uint32_t free; /* atomic: slots with reference count 0 (a hint that may lag) */
	uint32_t hint; /* atomic: where to look next */
};

/* What an appliance last said of itself; written by the keeper at the start, at the end and while somebody
 * watches (xmem-top). valid is set last. */
struct xm_family_appliance {
	uint32_t valid; /* atomic */
	int32_t status; /* 0; -errno: not reachable when it was last asked */
	struct xm_appliance_stat stat;
	uint64_t asked_ns;
	struct xm_link_path path; /* device "": none; written by the keeper before the command starts */
	/* What the device has sent again since then, of all its connections; -1: it does not count that. Atomic. */
	int64_t retries;
};

struct xm_drift {
	int64_t pages; /* atomic: the sum less its parts, when last looked at */
	uint64_t since_ns;
};

struct xm_family {
	uint64_t magic;
	uint32_t version, header_bytes; /* sizeof(struct xm_family): a mismatch is refused */
	struct xm_family_config cfg;
	int32_t keeper_pid;
	uint32_t pad;
	char command[16]; /* as the kernel calls it, kept by the keeper; "": not known yet */
	/* the local budget, in pages; atomic */
	uint64_t budget_pages;
	uint64_t resident_pages, resident_pages_max;
	/* charge against --size, in pages; atomic */
	uint64_t commit_limit_pages, committed_pages, committed_pages_max;
	/* slots; atomic */
	uint64_t slots_used, slots_used_max;
	uint32_t nslabs;    /* slab[0..nslabs) are valid */
	int32_t grow_owner; /* pid of the process that grows the book of slabs; 0: none (a lock that
					survives its owner: a dead owner is replaced) */
	uint64_t region_id[XM_MAX_APPLIANCES]; /* the growing pool region on each; 0: none yet */
	uint64_t uncovered;	    /* execs that could not be covered (static, setuid ...): atomic count */
	struct xm_proc_stats ended; /* sums of processes whose entries were re-used */
	uint64_t ended_procs;
	uint32_t procs_high;	 /* atomic: proc[0..procs_high) may be other than FREE */
	uint32_t procs_live_max; /* atomic: most processes at once */
	uint64_t pidns;		 /* inode of the creator's pid namespace; 0: unknown */
	uint64_t created_ns;
	/* slots (not frames) of the dead rest so long: what they had sent over a network may still be on its way */
	uint64_t reap_grace_ns;
	uint64_t external_pages_max; /* atomic: resident + remote of all, sampled by the keeper */
	/* sums seen to differ from their parts (family_reap.c) */
	struct xm_drift resident_drift, committed_drift;
	struct xm_family_appliance appliance[XM_MAX_APPLIANCES];
	struct xm_slab_desc slab[XM_MAX_SLABS];
	struct xm_proc proc[XM_MAX_PROCS];
};

/* ---- keeper protocol (one unix SOCK_SEQPACKET message each way) ---------------------------------------
 * request:  struct xm_keeper_request; reply: struct xm_keeper_reply with the family memfd by SCM_RIGHTS
 * for XM_KEEPER_GET. XM_KEEPER_JOIN, sent by the process itself, tells the keeper that proc[index] is the
 * sender (it watches the pid by pidfd and reaps the entry; it also learns the pid in its own namespace); no
 * reply. XM_KEEPER_TOP: like GET but needs no token, answered with a read-only descriptor to the same user
 * and to root (xmem-top); while such a connection stays open the keeper keeps asking the appliances for
 * their figures. XM_KEEPER_UNCOVERED: text goes to the log, no reply.
 * An abstract socket belongs to a network namespace: a program that enters a new one and then execs is not
 * covered from there on. */
enum xm_keeper_op { XM_KEEPER_GET = 1, XM_KEEPER_JOIN = 2, XM_KEEPER_TOP = 3, XM_KEEPER_UNCOVERED = 4 };

struct xm_keeper_request {
	uint32_t op;
	uint32_t index;
	uint8_t token[16];
	char text[160]; /* UNCOVERED: what and why */
};

struct xm_keeper_reply {
	int32_t status; /* 0 or -errno */
	uint32_t version;
	uint64_t bytes;
};

/* name and token as in XMEM_FAMILY: "@xmem-<pid>-<random>:<32 hex digits>" */
#define XM_ENV_FAMILY "XMEM_FAMILY"
#define XM_ENV_FAULT "XMEM_FAULT"   /* "signal": what the family's fault_mode says, for who has not joined it */
#define XM_ENV_STRICT "XMEM_STRICT" /* set: a process that cannot be covered ends with 125 */

/* ---- functions ---------------------------------------------------------------------------------------- */

/* Makes a memfd of XM_FAM_BYTES, maps it and fills magic, version and *cfg; budget_pages from cfg. Returns the
 * mapping and *fd (CLOEXEC; may be NULL: closed). NULL and *err = -errno. Lifts nothing: RLIMIT_FSIZE below
 * the size is -EFBIG. */
struct xm_family *xm_family_create(const struct xm_family_config *cfg, int *fd, int *err);
/* Maps an existing object by descriptor (left open). NULL and *err: -EPROTO foreign or other version. */
struct xm_family *xm_family_map(int fd, bool writable, int *err);
/* Asks the keeper named by env (value of XMEM_FAMILY) for the family and maps it. Blocks <= 5 s. */
struct xm_family *xm_family_join(const char *env, int *err);
/* Sends JOIN for proc[index]; ignores failure (the keeper also scans). */
void xm_family_tell_keeper(const char *env, uint32_t index);
/* Tells the keeper, for its log, that something could not be covered; ignores failure. apart: from a child of vfork. */
void xm_family_tell_uncovered(const char *env, bool apart, const char *text);
void xm_family_unmap(struct xm_family *f);

static inline uint16_t *xm_family_refs(struct xm_family *f)
{
	return (uint16_t *)((char *)f + XM_FAM_REFS_OFF);
}

static inline uint32_t *xm_family_sums(struct xm_family *f)
{
	return (uint32_t *)((char *)f + XM_FAM_SUMS_OFF);
}

static inline uint64_t *xm_family_pt(struct xm_family *f, uint32_t proc)
{
	return (uint64_t *)((char *)f + XM_FAM_PT_OFF + (uint64_t)proc * XM_PT_BYTES);
}

static inline uint8_t *xm_family_touch(struct xm_family *f, uint32_t proc)
{
	return (uint8_t *)f + XM_FAM_TOUCH_OFF + (uint64_t)proc * XM_TOUCH_BYTES;
}

/* Claims a process entry (state STARTING, statistics zeroed). Index, or -EUSERS. Reaps dead ones if it must. */
int xm_family_proc_claim(struct xm_family *f);
/* Fills pid, start time, comm, exe of the calling process and sets LIVE. Entries of the same process from
 * before an exec are given back. 0; -ESTALE when the entry was taken away meanwhile (the parent died between
 * claim and fork more than XM_STARTING_GRACE_NS ago): nothing may then be touched through it. */
int xm_family_proc_live(struct xm_family *f, uint32_t index);
/* Gives an entry back at once without looking whether anybody is dead: one that was claimed for a child when
 * fork failed, or the caller's own when nothing touches its external memory any more. */
void xm_family_proc_drop(struct xm_family *f, uint32_t index);
/* True when the entry's process exists no more: no such pid, another start time, or a zombie without other
 * threads. False when that cannot be known (no /proc, another pid namespace). */
bool xm_family_proc_dead(struct xm_family *f, uint32_t index);
/* Gives back slots, budget and charge of a dead process and clears its page table (LIVE/STARTING ->
 * REAPING -> ENDED). One caller wins, the others return false; false as well while the grace time of a dead
 * process lasts (reap_grace_ns; STARTING: at least XM_STARTING_GRACE_NS). Takes over from a reaper that died.
 * A page word with HAS_SLOT is one reference: a slot must be in a page word before anything is written to it,
 * or it is lost with its process. Keeper, or any member under pressure. */
#define XM_STARTING_GRACE_NS (10 * 1000000000ull)
bool xm_family_reap(struct xm_family *f, uint32_t index);
/* The same for a process that lives but has replaced its program (exec) by one that does not use the family;
 * the caller knows. */
bool xm_family_reap_image(struct xm_family *f, uint32_t index);
/* Reaps every entry whose process is dead; returns how many. */
int xm_family_reap_dead(struct xm_family *f);
/* Compares the family's sums of resident and charged pages with those of its processes, and puts right what has
 * been off by the same number for XM_TRUE_UP_NS (a process was killed between its two additions). Thread-safe. */
#define XM_TRUE_UP_NS 100000000ull
void xm_family_true_up(struct xm_family *f);
/* Adds statistics, as described at struct xm_proc_stats. Atomic adds; any number of callers. */
void xm_proc_stats_merge(struct xm_proc_stats *into, const struct xm_proc_stats *from);

/* Adds what `now` is above `before`; NULL: all of it. Atomic adds; any number of callers. */
static inline void xm_link_stats_merge(struct xm_link_stats *into, const struct xm_link_stats *now,
				       const struct xm_link_stats *before)
{
	const uint64_t *src = (const uint64_t *)now, *old = (const uint64_t *)before;
	uint64_t *dst = (uint64_t *)into;

	for (size_t i = 0; i < sizeof(*now) / sizeof(uint64_t); i++) {
		uint64_t v = xm_load_relaxed(&src[i]) - (old ? old[i] : 0);

		if (v)
			xm_add(&dst[i], v);
	}
}

/* Charge pages against --size. 0, -ENOMEM. */
int xm_family_commit(struct xm_family *f, uint32_t index, uint64_t pages);
void xm_family_uncommit(struct xm_family *f, uint32_t index, uint64_t pages);

#endif
