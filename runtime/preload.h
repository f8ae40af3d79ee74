/* SPDX-License-Identifier: Apache-2.0 */
/*
 * preload.h - what the files of libxmem-preload.so share. The object interposes libc's allocator
 * and the calls that must know of external memory; the runtime itself (everything not named
 * preload*) knows nothing of it.
 *
 * States of a process: OFF until its heap is worth it (small programs cost nothing), then RUNNING,
 * or NATIVE for good when it was not started by xmem-run or the runtime could not start. Every
 * wrapper first asks whether the calling thread is inside the runtime (xm_in_runtime): such calls
 * go straight to the kernel, such memory is local.
 */
#ifndef XM_PRELOAD_H
#define XM_PRELOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "fdgate.h"
#include "runtime/mapping.h"
#include "runtime/runtime.h"
#include "sys.h"
#include "util.h"

#define XM_PUBLIC __attribute__((visibility("default")))
#define XM_CALLER() __builtin_extract_return_addr(__builtin_return_address(0))

/* ---- preload_init.c: state, start, libc's originals -------------------------------------------------- */

enum xm_pre_state { XM_PRE_OFF = 0, XM_PRE_RUNNING = 1, XM_PRE_NATIVE = 2 };

extern uint32_t xm_pre_state_word; /* atomic, enum xm_pre_state; leaves OFF once */
extern pid_t xm_pre_pid;	   /* of the process whose memory this is: differs in a vfork child */

/* Executable ranges whose callers get local memory. Written once before RUNNING. */
struct xm_pre_text {
	uintptr_t lo, bytes;
};
extern struct xm_pre_text xm_pre_libc, xm_pre_ldso;

/* What libc allocates for itself and up to this size is local; beyond it, it is data of the program
 * (getdelim of a huge line, open_memstream). */
#define XM_PRE_LIBC_LOCAL_MAX (128u << 10)
/* Local heap (and mappings) after which a process is worth a runtime. */
#define XM_PRE_START_BYTES (512 << 10)

static inline enum xm_pre_state xm_pre_state(void)
{
	return (enum xm_pre_state)xm_load(&xm_pre_state_word);
}

/* True when interposed calls have anything to do for this thread. */
static inline bool xm_pre_active(void)
{
	return xm_pre_state() == XM_PRE_RUNNING && !xm_in_runtime;
}

static inline bool xm_pre_caller_is_libc(const void *caller, size_t size)
{
	uintptr_t a = (uintptr_t)caller;

	if (a - xm_pre_libc.lo < xm_pre_libc.bytes)
		return size <= XM_PRE_LIBC_LOCAL_MAX;
	return a - xm_pre_ldso.lo < xm_pre_ldso.bytes;
}

/* Starts the runtime unless that was decided already. True: RUNNING. Any thread outside the
 * runtime; blocks while another thread starts it. False in a vfork child, which must not start
 * threads in its parent's memory. */
bool xm_pre_start(void);
/* Accounts bytes of local memory that the program took (negative: gave back) before the start,
 * and starts the runtime when it is worth it. True: RUNNING. */
bool xm_pre_count(ssize_t bytes);
/* XMEM_FAMILY as the process was given it, whatever it makes of its environment; "": not covered. */
extern char xm_pre_family[160];
/* --min-map of this process. Valid when RUNNING. */
uint64_t xm_pre_min_map(void);
/* Taken while the runtime starts; fork holds it so that a child never inherits half a start. */
void xm_pre_start_lock(void);
void xm_pre_start_unlock(void);
/* The next definition of name after this object, NULL when there is none; *slot caches it. lib:
 * soname to look in when the global scope has none (a plugin's private dependency), or NULL. */
void *xm_pre_next(void **slot, const char *name, const char *lib);
/* Whether this is a child of vfork that borrows its parent's memory. */
bool xm_pre_in_vfork_child(void);
/* Registers the fork handlers, before any other library's. Idempotent. preload_fork.c */
void xm_pre_register_atfork(void);
/* The program is about to use what makes the kernel pin pages; also before the start.
 * preload_pin.c */
void xm_pre_pins_announce(const char *by);
/* Fault mode signal: io_uring is not to be had; says so, once. */
bool xm_pre_no_rings(void);
/* The runtime is RUNNING now: tells it what was announced earlier. preload_pin.c */
void xm_pre_pins_replay(void);

#define XM_NEXT_IN(name, lib)                                             \
	({                                                                \
		static void *next_slot;                                   \
		(__typeof__(&(name)))xm_pre_next(&next_slot, #name, lib); \
	})
#define XM_NEXT(name) XM_NEXT_IN(name, NULL)

/* Result of a raw system call as libc gives it: -1 and errno. */
long xm_pre_result(long ret);

/* mmap(2) itself: the address or -errno. */
static inline long xm_pre_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	return xm_sys6(SYS_mmap, (long)addr, (long)len, prot, flags, fd, (long)off);
}

/* ---- preload_arena.c: the private jemalloc ----------------------------------------------------------- */

void *xm_je_malloc(size_t size);
void *xm_je_calloc(size_t n, size_t size);
void *xm_je_realloc(void *p, size_t size);
void xm_je_free(void *p);
void *xm_je_mallocx(size_t size, int flags);
void *xm_je_rallocx(void *p, size_t size, int flags);
size_t xm_je_xallocx(void *p, size_t size, size_t extra, int flags);
size_t xm_je_sallocx(const void *p, int flags);
void xm_je_dallocx(void *p, int flags);
void xm_je_sdallocx(void *p, size_t size, int flags);
size_t xm_je_nallocx(size_t size, int flags);
size_t xm_je_malloc_usable_size(void *p);
int xm_je_mallctl(const char *name, void *oldp, size_t *oldlenp, void *newp, size_t newlen);
int xm_je_mallctlnametomib(const char *name, size_t *mib, size_t *miblen);
int xm_je_mallctlbymib(const size_t *mib, size_t miblen, void *oldp, size_t *oldlenp, void *newp,
		       size_t newlen);
void xm_je_malloc_stats_print(void (*write_cb)(void *, const char *), void *opaque, const char *opts);

#define XM_JE_ALIGN_LG(lg) ((int)(lg))
#define XM_JE_ZERO 0x40
#define XM_JE_TCACHE_NONE (1 << 8)
#define XM_JE_TCACHE_MASK (0xfff << 8)
#define XM_JE_ARENA(a) (((int)(a) + 1) << 20)
#define XM_JE_ARENA_MASK (~0xfffff)
/* Local memory once the runtime runs: arena 0, and never through the thread's cache, which holds
 * external blocks. */
#define XM_JE_LOCAL (XM_JE_ARENA(0) | XM_JE_TCACHE_NONE)

/* True once this thread's jemalloc arena is an external one. Thread-local. */
extern __thread bool xm_arena_external __attribute__((tls_model("initial-exec")));

/* Makes the external arenas. 0, -ENOMEM. Once, at the start, on a thread inside the runtime. */
int xm_arena_create(void);
/* Gives the calling thread an external arena and an empty cache. False: it stays local (no
 * memory for that). */
bool xm_arena_enter(void);
/* Returns idle memory of the external arenas (everything: also what was freed just now). */
void xm_arena_purge(bool everything);
/* jemalloc's own fork handlers, where it registered any. */
void xm_arena_prefork(void);
void xm_arena_postfork_parent(void);
void xm_arena_postfork_child(void);
/* Called about once a second by the runtime's reclaim thread: what was freed goes back although
 * the program sleeps. Skips rather than waits while a fork is under way. */
void xm_preload_housekeeping(void);

/* ---- preload_malloc.c -------------------------------------------------------------------------------- */

/* size bytes aligned to align (power of two, 0: default), for a call from caller. NULL: errno is
 * ENOMEM. */
void *xm_heap_alloc(size_t size, size_t align, bool zero, const void *caller);
void *xm_heap_realloc(void *p, size_t size, const void *caller);
void xm_heap_free(void *p);
/* Which flags an allocation by caller must carry: 0 for the thread's own arena, else
 * XM_JE_LOCAL. May start the runtime. */
int xm_heap_flags(size_t size, const void *caller);

/* ---- preload_thread.c --------------------------------------------------------------------------------- */

/* Ends the process when its main thread has called pthread_exit and only the runtime's threads
 * are left, as libc does when the last thread ends. From housekeeping. */
void xm_pre_threads_check(void);
/* In the child of fork: the runtime's threads of the parent are not there. */
void xm_pre_threads_after_fork(void);

/* ---- calls that syscall() routes to ------------------------------------------------------------------ */

/* fork by hand around a raw call that makes a process: in this order before, and then one of the
 * two. */
void xm_pre_fork_prepare(void);
void xm_pre_fork_parent(void);
void xm_pre_fork_child(void);

#endif
