/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xmem.h - external memory by explicit calls: the public C API of libxmem. See xmem(3).
 *
 * A program opens the runtime once, acquires regions on memory appliances ahead of need, and takes portions of
 * them as ordinary pointers. Pages that do not fit the local budget live on the appliance; a touch brings them
 * back. Programs that shall not be changed use xmem-run(1) instead; a program that runs below xmem-run may use this
 * API too and then shares that family's budget and appliances.
 *
 * Conventions: functions return 0 (or a positive figure) on success and a negative errno on failure, or NULL where
 * they return a pointer and set *err; outputs are written on success only. Sizes are bytes. All functions are
 * thread-safe unless said otherwise; none may be called from a signal handler. Structures with a `size` member
 * must have it set to their sizeof, so that older programs work with newer libraries.
 */
#ifndef XMEM_H
#define XMEM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define XMEM_API __attribute__((visibility("default")))
#else
#define XMEM_API
#endif

struct xmem;	    /* the opened runtime: one per process */
struct xmem_region; /* memory acquired on one appliance */

struct xmem_options {
	uint32_t size;		     /* sizeof(struct xmem_options) */
	uint32_t verify;	     /* 1: checksum every page also over links that do not need it */
	uint64_t local_bytes;	     /* local budget: resident external pages, staging; 0: half of RAM; 4 MiB to RAM */
	const char *const *appliances; /* NULL-terminated URIs: "shm:PATH", "tcp:HOST:PORT". At least one, at most 16 */
	const char *evict;	     /* NULL: default; "clock", "s3fifo" */
	const char *prefetch;	     /* NULL: default; "none", "stride", "majority" */
	/* 0 is 10 s in both (xmem-run --stall 0 is SIGBUS at once: here 1 says that) */
	uint64_t stall_ns;	     /* how long a page without room waits before SIGBUS */
	uint64_t lost_timeout_ns;    /* how long a lost appliance is waited for before SIGBUS; see xmem(3) below 100 ms */
};

/* Opens the runtime. NULL and *err (may be NULL): -EINVAL bad option, or a budget above the machine's memory, -ENOMEM
 * budget below 4 MiB or no memory, -EPERM no access to userfaultfd, -EOPNOTSUPP it can do too little in this kernel,
 * -ECONNREFUSED, -EHOSTUNREACH, -ETIMEDOUT, -EACCES appliance not to be reached, or it refuses this user, -EPROTO,
 * -EPROTONOSUPPORT no appliance or of another version, -EALREADY open already; one line on stderr says what and where.
 * Below xmem-run the options are ignored in favour of xmem-run's. Allocates, starts threads, blocks for connections. */
XMEM_API struct xmem *xmem_open(const struct xmem_options *options, int *err);
/* Ends it: every region is released, every mapping is gone (a touch is SIGSEGV). NULL is fine. No other thread may
 * be in a call or touch external memory. */
XMEM_API void xmem_close(struct xmem *x);

/* Acquires a new region of at least `bytes` (rounded up to the appliance's slabs) on appliance number `appliance` (as
 * in the options). name NULL: private, ends with the session. NULL and *err: -EINVAL (0 or too large), -ENOMEM the
 * appliance has no room, -EEXIST name taken, -EUSERS 256 regions, -ENOLINK appliance lost. One round trip to the appliance. */
XMEM_API struct xmem_region *xmem_region_create(struct xmem *x, unsigned appliance, uint64_t bytes, const char *name,
						int *err);
/* Gives the region back to the appliance; its addresses are not present afterwards. NULL is fine. */
XMEM_API void xmem_region_release(struct xmem_region *r);
/* Sets the size (rounded up to slabs). Growing: -ENOMEM no room, or more than the addresses set aside for it (8 times
 * its first size). Shrinking: -EBUSY where portions or mappings lie beyond. State as before on failure. */
XMEM_API int xmem_region_resize(struct xmem_region *r, uint64_t bytes);
/* Bytes now; never fails. */
XMEM_API uint64_t xmem_region_bytes(const struct xmem_region *r);

/* Makes bytes [offset, offset+len) of the region addressable (page multiples); the address is the same for
 * the same offset as long as the region lives. Contents are what was last written there; zeros if never.
 * NULL and *err: -EINVAL not page multiples or beyond the end, -EEXIST part of it is mapped or allocated already. */
XMEM_API void *xmem_map(struct xmem_region *r, uint64_t offset, uint64_t len, int *err);
/* The pages are written back and not present afterwards; the region keeps the contents. -EINVAL not a mapping of
 * this region; -ENOLINK could not be written. */
XMEM_API int xmem_unmap(struct xmem_region *r, void *addr, uint64_t len);

/* Takes a portion of at least `bytes` (rounded up to pages of 4096) inside the region, chosen by this process at
 * this moment: nobody is asked, no message is sent. Zeros. NULL and *err: -EINVAL (0), -ENOMEM no gap is large enough. */
XMEM_API void *xmem_alloc(struct xmem_region *r, uint64_t bytes, int *err);
/* Gives a portion back, whole: its addresses read as zeros when allocated again. -EINVAL not a portion's start. */
XMEM_API int xmem_free(struct xmem_region *r, void *portion);

enum xmem_advice {
	XMEM_PREFETCH = 1,   /* bring in what fits */
	XMEM_EVICT = 2,	     /* write back and drop now */
	XMEM_COLD = 3,	     /* leaves sooner when room is needed */
	XMEM_SEQUENTIAL = 4, /* read ahead from the first fault on; like the next two in steps of 2 MiB, by their middle */
	XMEM_RANDOM = 5,     /* read nothing ahead */
	XMEM_NORMAL = 6,     /* read ahead what faults say, as in the beginning */
	XMEM_DISCARD = 7,    /* contents are not wanted any more: zeros */
	XMEM_FLUSH = 8,	     /* the appliance has the contents on return (pages may leave local memory) */
};

/* Advice on [addr, addr+len), page multiples, inside external memory. 0; -EINVAL; -ENOMEM not mapped. XMEM_FLUSH
 * also: -EBUSY pinned pages stay, -ENOLINK some could not be written. */
XMEM_API int xmem_advise(struct xmem *x, void *addr, uint64_t len, enum xmem_advice advice);
/* Keeps pages resident (counts against the budget, of which a quarter must stay free: -ENOMEM), or lets them go. The
 * range is rounded outwards to pages. */
XMEM_API int xmem_pin(struct xmem *x, void *addr, uint64_t len);
XMEM_API int xmem_unpin(struct xmem *x, void *addr, uint64_t len);

struct xmem_stats {
	uint32_t size; /* sizeof(struct xmem_stats), set by the caller */
	uint32_t reserved;
	uint64_t budget_bytes, resident_bytes, resident_bytes_max; /* of all processes that share the budget */
	uint64_t remote_bytes;			    /* of this process, as are those below */
	uint64_t faults_zero, faults_fetch, faults_write;
	uint64_t fetched_pages, prefetched_pages;
	uint64_t evicted_pages, evicted_dirty_pages, evicted_clean_pages, evicted_zero_pages;
	uint64_t fetched_bytes, written_bytes;	    /* from and to appliances */
	uint64_t install_calls;
	uint64_t control_messages;		    /* sent to appliances since the start */
	uint64_t fetch_p50_ns, fetch_p99_ns, fetch_max_ns;
};

/* A snapshot. -EINVAL size not known. */
XMEM_API int xmem_get_stats(struct xmem *x, struct xmem_stats *out);

/* Constant text for a negative errno of this library. Never NULL; async-signal-safe. */
XMEM_API const char *xmem_strerror(int err);
/* "0.1.0" */
XMEM_API const char *xmem_version(void);

#ifdef __cplusplus
}
#endif

#endif
