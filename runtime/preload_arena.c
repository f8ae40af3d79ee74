/* SPDX-License-Identifier: Apache-2.0 */
/*
 * preload_arena.c - the private jemalloc below the malloc family: its settings, its system calls,
 * its external arenas and when they give memory back.
 *
 *   arena 0 ..            jemalloc's automatic arenas: local memory over raw system calls
 *   external arenas       extents from external mappings, metadata local (metadata_use_hooks = false)
 *
 * A program thread is bound to an external arena at its first malloc after the start; from then on
 * its thread cache holds external blocks only, because every local allocation bypasses it. Locks:
 * jemalloc's own. A hook may be called with an arena's growth lock held and takes the map lock
 * below it; the runtime never calls malloc with the map lock held for anything but arena 0.
 * housekeeping_mutex keeps the housekeeping of the reclaim thread out of a fork: it would wait for
 * the allocator's locks while the fork waits for the thread.
 */
#include "runtime/preload.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <jemalloc/jemalloc.h>

#include "log.h"
#include "sys.h"

#define ARENAS_MAX 8
/* Extents of this size give their addresses back too; smaller ones are kept for re-use, their
 * pages dropped. */
#define UNMAP_BYTES (64ull << 20)
/* An arena grows by ever larger extents, which are charged against --size when they are made: not beyond this. */
#define GROW_MAX_BYTES ((size_t)64 << 20)

/* jemalloc reads this after MALLOC_CONF, so that the environment cannot undo it.
 * oversize_threshold:0  large blocks come from the thread's arena, not from a local one of their own
 * dirty_decay_ms:1000   freed pages cost budget and slots: they go back soon
 * dss:disabled          no brk: it would be local memory in an external arena */
extern const char *xm_je_malloc_conf_2_conf_harder;
const char *xm_je_malloc_conf_2_conf_harder =
	"oversize_threshold:0,dirty_decay_ms:1000,muzzy_decay_ms:0,background_thread:false,retain:true,"
	"narenas:4,metadata_thp:disabled,percpu_arena:disabled,dss:disabled";

__thread bool xm_arena_external __attribute__((tls_model("initial-exec")));

static unsigned arena_index[ARENAS_MAX]; /* written once before RUNNING */
static unsigned arenas;
static unsigned arena_turn; /* atomic */
static pthread_mutex_t housekeeping_mutex = PTHREAD_MUTEX_INITIALIZER;

/* ---- jemalloc's system calls -------------------------------------------------------------------------- */

void *xm_je_os_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off);
int xm_je_os_munmap(void *addr, size_t len);
int xm_je_os_madvise(void *addr, size_t len, int advice);
int xm_je_os_mprotect(void *addr, size_t len, int prot);
long xm_je_os_syscall(long nr, ...);
int xm_je_os_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void));
int xm_je_os_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);
int xm_je_os_mutex_init(pthread_mutex_t *m, const pthread_mutexattr_t *attr);

static void (*je_prepare)(void), (*je_parent)(void), (*je_child)(void);

void *xm_je_os_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	long r = xm_pre_mmap(addr, len, prot, flags, fd, off);

	return xm_sys_is_error(r) ? MAP_FAILED : (void *)r;
}

int xm_je_os_munmap(void *addr, size_t len)
{
	return xm_sys_munmap(addr, len) < 0 ? -1 : 0;
}

int xm_je_os_madvise(void *addr, size_t len, int advice)
{
	return xm_sys_madvise(addr, len, advice) < 0 ? -1 : 0;
}

int xm_je_os_mprotect(void *addr, size_t len, int prot)
{
	return xm_sys_mprotect(addr, len, prot) < 0 ? -1 : 0;
}

long xm_je_os_syscall(long nr, ...)
{
	long a[4];
	va_list ap;

	va_start(ap, nr);
	for (int i = 0; i < 4; i++)
		a[i] = va_arg(ap, long);
	va_end(ap);
	return xm_pre_result(xm_sys4(nr, a[0], a[1], a[2], a[3]));
}

/* Kept instead of registered: preload_fork.c calls them at the place where they belong. */
int xm_je_os_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void))
{
	je_prepare = prepare;
	je_parent = parent;
	je_child = child;
	return 0;
}

/* jemalloc's background threads are off; a program's wish for them is accepted and ignored
 * (preload_jeapi.c). */
int xm_je_os_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
	return EAGAIN;
}

/* The interposed pthread_mutex_init looks libc's up by dlsym, which may allocate: not while
 * jemalloc starts. */
int xm_je_os_mutex_init(pthread_mutex_t *m, const pthread_mutexattr_t *attr)
{
	static const pthread_mutex_t plain = PTHREAD_MUTEX_INITIALIZER;
	static const pthread_mutex_t adaptive = PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP;
	int type = PTHREAD_MUTEX_DEFAULT;

	if (attr)
		pthread_mutexattr_gettype(attr, &type);
	*m = type == PTHREAD_MUTEX_ADAPTIVE_NP ? adaptive : plain;
	return 0;
}

/* ---- extents of the external arenas ------------------------------------------------------------------- */

/* lint: 7 params (jemalloc's) */
static void *extent_alloc(extent_hooks_t *hooks, void *new_addr, size_t size, size_t alignment, bool *zero,
			  bool *commit, unsigned arena)
{
	void *p;

	xm_in_runtime++;
	if (new_addr)
		p = xm_map_fixed(new_addr, size, PROT_READ | PROT_WRITE, XM_MAP_HEAP, true);
	else
		p = xm_map_new(size, alignment, PROT_READ | PROT_WRITE, XM_MAP_HEAP);
	xm_in_runtime--;
	if (xm_sys_is_error((long)p))
		return NULL;
	*zero = true;
	*commit = true;
	return p;
}

/* true: not done, jemalloc keeps the addresses and drops the pages by extent_purge */
static bool extent_dalloc(extent_hooks_t *hooks, void *addr, size_t size, bool committed, unsigned arena)
{
	int r;

	if (size < UNMAP_BYTES)
		return true;
	xm_in_runtime++;
	r = xm_map_unmap(addr, size);
	xm_in_runtime--;
	return r < 0;
}

static bool extent_purge(extent_hooks_t *hooks, void *addr, size_t size, size_t offset, size_t length,
			 unsigned arena)
{
	int r;

	xm_in_runtime++;
	r = xm_map_discard((char *)addr + offset, length);
	xm_in_runtime--;
	return r < 0;
}

/* lint: 7 params (jemalloc's) */
static bool extent_split(extent_hooks_t *hooks, void *addr, size_t size, size_t a, size_t b, bool committed,
			 unsigned arena)
{
	return false;
}

/* lint: 7 params (jemalloc's) */
static bool extent_merge(extent_hooks_t *hooks, void *a, size_t size_a, void *b, size_t size_b,
			 bool committed, unsigned arena)
{
	return false;
}

static extent_hooks_t external_hooks = {
	.alloc = extent_alloc,
	.dalloc = extent_dalloc,
	.purge_forced = extent_purge,
	.split = extent_split,
	.merge = extent_merge,
};

/* jemalloc's arena_config_t, which its header lacks: argument of experimental.arenas_create_ext. */
struct arena_config {
	extent_hooks_t *extent_hooks;
	bool metadata_use_hooks;
};

static void limit_growth(unsigned arena)
{
	size_t limit = GROW_MAX_BYTES;
	char name[48];

	xm_snprintf(name, sizeof(name), "arena.%u.retain_grow_limit", arena);
	xm_je_mallctl(name, NULL, NULL, &limit, sizeof(limit));
}

int xm_arena_create(void)
{
	struct arena_config config = { .extent_hooks = &external_hooks, .metadata_use_hooks = false };
	unsigned want;
	long cpus;

	xm_fd_borrow(); /* libc reads it from a file */
	cpus = sysconf(_SC_NPROCESSORS_ONLN);
	xm_fd_return();
	want = (unsigned)xm_min(xm_max(cpus, 1l) * 2, (long)ARENAS_MAX);
	while (arenas < want) {
		size_t len = sizeof(arena_index[0]);
		int err = xm_je_mallctl("experimental.arenas_create_ext", &arena_index[arenas], &len, &config,
					sizeof(config));

		if (err)
			return arenas ? 0 : -err;
		limit_growth(arena_index[arenas++]);
	}
	return 0;
}

bool xm_arena_enter(void)
{
	unsigned turn = __atomic_fetch_add(&arena_turn, 1, __ATOMIC_RELAXED);
	unsigned arena = arena_index[turn % arenas];
	int saved = errno;
	int err;

	xm_in_runtime++;
	/* what the cache holds now is local; afterwards it is filled from the external arena
	 * only */
	xm_je_mallctl("thread.tcache.flush", NULL, NULL, NULL, 0);
	err = xm_je_mallctl("thread.arena", NULL, NULL, &arena, sizeof(arena));
	xm_in_runtime--;
	xm_arena_external = !err;
	errno = saved;
	return !err;
}

static void each_arena(const char *what)
{
	for (unsigned i = 0; i < arenas; i++) {
		char name[48];

		xm_snprintf(name, sizeof(name), "arena.%u.%s", arena_index[i], what);
		xm_je_mallctl(name, NULL, NULL, NULL, 0);
	}
}

void xm_arena_purge(bool everything)
{
	if (xm_pre_state() != XM_PRE_RUNNING)
		xm_je_mallctl("arena.0.purge", NULL, NULL, NULL, 0);
	else
		each_arena(everything ? "purge" : "decay");
}

void xm_preload_housekeeping(void)
{
	if (xm_pre_state() != XM_PRE_RUNNING || pthread_mutex_trylock(&housekeeping_mutex))
		return;
	each_arena("decay");
	pthread_mutex_unlock(&housekeeping_mutex);
	xm_pre_threads_check();
}

void xm_arena_prefork(void)
{
	pthread_mutex_lock(&housekeeping_mutex);
	if (je_prepare)
		je_prepare();
}

void xm_arena_postfork_parent(void)
{
	if (je_parent)
		je_parent();
	pthread_mutex_unlock(&housekeeping_mutex);
}

void xm_arena_postfork_child(void)
{
	if (je_child)
		je_child();
	pthread_mutex_unlock(&housekeeping_mutex);
}
