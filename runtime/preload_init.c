/* SPDX-License-Identifier: Apache-2.0 */
/*
 * preload_init.c - when a process gets a runtime, and where libc's own functions are.
 *
 * Starting is lazy: a shell, `true` or a compiler driver never pass XM_PRE_START_BYTES and pay for
 * two comparisons a call. Any program thread may start the runtime, from inside malloc or mmap;
 * start_mutex is taken before every lock of the allocator and of the runtime, and fork holds it, so
 * a child never inherits half a start.
 *
 * Nothing here may call malloc before the thread is marked as inside the runtime: dlsym and
 * dl_iterate_phdr may.
 */
#include "runtime/preload.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"
#include "runtime/internal.h"
#include "runtime/preload_signal.h"
#include "sys.h"

uint32_t xm_pre_state_word;
pid_t xm_pre_pid;
struct xm_pre_text xm_pre_libc, xm_pre_ldso;

static pthread_mutex_t start_mutex = PTHREAD_MUTEX_INITIALIZER;
static int64_t local_bytes; /* atomic: what the program took before the start */
static __thread int32_t local_bytes_delta __attribute__((tls_model("initial-exec")));

long xm_pre_result(long ret)
{
	if (!xm_sys_is_error(ret))
		return ret;
	errno = (int)-ret;
	return -1;
}

char xm_pre_family[160];

void xm_pre_start_lock(void)
{
	pthread_mutex_lock(&start_mutex);
}

void xm_pre_start_unlock(void)
{
	pthread_mutex_unlock(&start_mutex);
}

bool xm_pre_in_vfork_child(void)
{
	return xm_pre_pid && xm_sys_getpid() != xm_pre_pid;
}

uint64_t xm_pre_min_map(void)
{
	return xm_rt.fam->cfg.min_map_bytes;
}

void *xm_pre_next(void **slot, const char *name, const char *lib)
{
	void *p = xm_load(slot);
	int saved = errno;

	if (xm_likely(p))
		return p;
	xm_in_runtime++;
	p = dlsym(RTLD_NEXT, name);
	if (!p && lib) {
		void *handle = dlopen(lib, RTLD_LAZY | RTLD_NOLOAD);

		if (handle) {
			p = dlsym(handle, name);
			dlclose(handle);
		}
	}
	xm_in_runtime--;
	if (p)
		xm_store(slot, p);
	errno = saved;
	return p;
}

static void note_text(struct xm_pre_text *text, const struct dl_phdr_info *info)
{
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *ph = &info->dlpi_phdr[i];

		if (ph->p_type != PT_LOAD || !(ph->p_flags & PF_X))
			continue;
		text->lo = info->dlpi_addr + ph->p_vaddr;
		text->bytes = ph->p_memsz;
		return;
	}
}

static int find_text(struct dl_phdr_info *info, size_t size, void *arg)
{
	const char *base = strrchr(info->dlpi_name, '/');

	base = base ? base + 1 : info->dlpi_name;
	if (!strcmp(base, "libc.so.6"))
		note_text(&xm_pre_libc, info);
	else if (!strncmp(base, "ld-linux", 8) || !strncmp(base, "ld-2.", 5))
		note_text(&xm_pre_ldso, info);
	return xm_pre_libc.lo && xm_pre_ldso.lo;
}

/* With start_mutex held and the thread marked as inside the runtime. */
static enum xm_pre_state start_locked(void)
{
	int err;

	if (!xm_pre_libc.lo)
		dl_iterate_phdr(find_text, NULL);
	xm_pre_register_atfork();
	err = xm_runtime_start_env();
	if (err)
		return XM_PRE_NATIVE;
	err = xm_arena_create();
	if (err) {
		xm_err("heap: cannot make external arenas: %s; memory stays local", xm_strerror(err));
		xm_runtime_not_covered();
		return XM_PRE_NATIVE;
	}
	return XM_PRE_RUNNING;
}

bool xm_pre_start(void)
{
	int saved = errno;

	if (xm_pre_state() != XM_PRE_OFF)
		return xm_pre_state() == XM_PRE_RUNNING;
	/* environ is NULL while ld.so is still relocating; XMEM_FAMILY may not be looked for
	 * before */
	if (xm_in_runtime || !environ || !xm_pre_pid || xm_pre_in_vfork_child())
		return false;
	xm_in_runtime++;
	xm_pre_start_lock();
	if (xm_pre_state() == XM_PRE_OFF) {
		__atomic_store_n(&xm_pre_state_word, start_locked(), __ATOMIC_SEQ_CST);
		if (xm_pre_state() == XM_PRE_RUNNING)
			xm_pre_pins_replay();
	}
	xm_pre_start_unlock();
	xm_in_runtime--;
	errno = saved;
	return xm_pre_state() == XM_PRE_RUNNING;
}

bool xm_pre_count(ssize_t bytes)
{
	int64_t sum;

	if (bytes > INT32_MAX / 2)
		bytes = INT32_MAX / 2;
	local_bytes_delta += (int32_t)xm_max(bytes, (ssize_t)INT32_MIN / 2);
	/* threads add up rarely: the sum may lag by this much for each */
	if (local_bytes_delta < 16384 && local_bytes_delta > -16384)
		return false;
	sum = xm_add(&local_bytes, (int64_t)local_bytes_delta) + local_bytes_delta;
	if (sum < 0) { /* frees of blocks that were not counted: libc's, or the runtime's */
		xm_sub(&local_bytes, sum);
		sum = 0;
	}
	local_bytes_delta = 0;
	return sum >= XM_PRE_START_BYTES && xm_pre_start();
}

/* Faults of this family are to be resolved by the faulting thread: each thread needs a stack for that, from its beginning. */
static void meant_for_signal(void)
{
	const char *mode = getenv(XM_ENV_FAULT);

	if (!xm_pre_family[0] || !mode || strcmp(mode, "signal") != 0)
		return;
	xm_sig_wanted = true;
	xm_sig_thread_enter();
	xm_runtime_by_signal = xm_sig_start;
}

/*
 * The libraries that the program is linked with have run their constructors before this one, and
 * malloc was called long before; nothing depends on it having run but the decision to start.
 */
__attribute__((constructor)) static void preload_init(void)
{
	xm_in_runtime++;
	xm_pre_pid = xm_sys_getpid();
	dl_iterate_phdr(find_text, NULL);
	xm_pre_register_atfork();
	if (getenv(XM_ENV_FAMILY))
		xm_snprintf(xm_pre_family, sizeof(xm_pre_family), "%s", getenv(XM_ENV_FAMILY));
	else
		xm_store(&xm_pre_state_word, XM_PRE_NATIVE);
	meant_for_signal();
	xm_in_runtime--;
}
