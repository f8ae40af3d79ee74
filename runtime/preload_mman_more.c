/* SPDX-License-Identifier: Apache-2.0 */
/*
 * preload_mman_more.c - the calls that advise on, lock, or ask about ranges: madvise,
 * process_madvise, mincore, msync, mlock and its relatives, System V shared memory.
 *
 * mlockall never reaches the kernel in a process that may have a runtime: it would populate and
 * lock the runtime's own tables (terabytes of sparse address space). External memory is locked,
 * local memory is not. Any thread; segments_lock (a spin lock) guards the table of attached
 * segments.
 */
#include "runtime/preload_mman.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/uio.h>

#include "log.h"
#include "runtime/preload.h"
#include "runtime/preload_signal.h"
#include "sys.h"

#define SEGMENTS_MAX 64
#ifndef MCL_ONFAULT
#define MCL_ONFAULT 4
#endif
#define PIDFD_SELF_THREAD (-10000)
#define PIDFD_SELF_PROCESS (-10001)

static bool is_unaligned(const void *p)
{
	return (uintptr_t)p & (XM_PAGE_SIZE - 1);
}

/* ---- advice ------------------------------------------------------------------------------------------- */

static long ext_advise(void *addr, size_t len, long advice)
{
	return xm_map_advise(addr, len, (int)advice);
}

static long advise(void *addr, size_t len, int advice)
{
	if (!xm_pre_touches(addr, len) || is_unaligned(addr))
		return xm_sys_madvise(addr, len, advice);
	return xm_pre_each(addr, len, ext_advise, SYS_madvise, advice, 0);
}

XM_PUBLIC int madvise(void *addr, size_t len, int advice)
{
	return (int)xm_pre_result(advise(addr, len, advice));
}

XM_PUBLIC int posix_madvise(void *addr, size_t len, int advice)
{
	/* POSIX's DONTNEED keeps the contents, Linux' does not; glibc ignores it too */
	if (advice == POSIX_MADV_DONTNEED)
		return 0;
	return (int)-advise(addr, len, advice);
}

/* Whether the descriptor stands for this process. */
static bool pidfd_is_self(int pidfd)
{
	char path[48], text[512];
	const char *line;
	ssize_t n = -1;
	int fd;

	if (pidfd == PIDFD_SELF_THREAD || pidfd == PIDFD_SELF_PROCESS)
		return true;
	xm_snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
	xm_fd_borrow();
	fd = xm_sys_openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
	if (fd >= 0) {
		n = xm_sys_read(fd, text, sizeof(text) - 1);
		xm_sys_close(fd);
	}
	xm_fd_return();
	text[n > 0 ? n : 0] = '\0';
	line = strstr(text, "Pid:\t");
	return line && atoi(line + 5) == xm_sys_getpid();
}

static bool any_external(const struct iovec *iov, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (xm_pre_touches(iov[i].iov_base, iov[i].iov_len))
			return true;
	return false;
}

XM_PUBLIC ssize_t process_madvise(int pidfd, const struct iovec *iov, size_t n, int advice, unsigned flags)
{
	size_t done = 0;

	if (!xm_pre_active() || n > IOV_MAX || flags || !any_external(iov, n) || !pidfd_is_self(pidfd))
		return xm_pre_result(xm_sys5(SYS_process_madvise, pidfd, (long)iov, (long)n, advice, flags));
	for (size_t i = 0; i < n; i++) {
		long r = advise(iov[i].iov_base, iov[i].iov_len, advice);

		if (r < 0 && !done)
			return xm_pre_result(r);
		if (r < 0)
			break;
		done += iov[i].iov_len;
	}
	return (ssize_t)done;
}

/* ---- questions ---------------------------------------------------------------------------------------- */

/* The answer goes through the stack: vec may lie in external memory, and nobody touches that
 * below the map lock. */
static long ext_mincore(char *addr, size_t len, unsigned char *vec)
{
	unsigned char answer[512];

	while (len) {
		size_t bytes = xm_min(len, sizeof(answer) * XM_PAGE_SIZE);
		long r = xm_map_mincore(addr, bytes, answer);

		if (r < 0)
			return r;
		if (vec) {
			memcpy(vec, answer, (bytes + XM_PAGE_SIZE - 1) / XM_PAGE_SIZE);
			vec += bytes / XM_PAGE_SIZE;
		}
		addr += bytes;
		len -= bytes;
	}
	return 0;
}

static long mincore_pieces(char *addr, size_t len, unsigned char *vec)
{
	while (len) {
		bool foreign;
		size_t n = xm_pre_piece(addr, len, &foreign);
		long r = foreign ? xm_sys3(SYS_mincore, addr, n, vec) : ext_mincore(addr, n, vec);

		if (r < 0)
			return r;
		vec += n / XM_PAGE_SIZE;
		addr += n;
		len -= n;
	}
	return 0;
}

XM_PUBLIC int mincore(void *addr, size_t len, unsigned char *vec)
{
	struct xm_pre_part part[3];
	long r = 0;
	int n;

	if (!xm_pre_touches(addr, len) || is_unaligned(addr))
		return xm_sig_active() ? (int)xm_sig_call(SYS_mincore, (long)addr, (long)len, (long)vec, 0, 0, 0)
				       : (int)xm_pre_result(xm_sys3(SYS_mincore, (long)addr, (long)len, (long)vec));
	n = xm_pre_split(addr, len, part);
	for (int i = 0; i < n && r >= 0; i++) {
		unsigned char *at = vec + (part[i].addr - (char *)addr) / XM_PAGE_SIZE;

		r = part[i].external ? mincore_pieces(part[i].addr, part[i].bytes, at)
				     : xm_sys3(SYS_mincore, part[i].addr, part[i].bytes, at);
	}
	return (int)xm_pre_result(r);
}

XM_PUBLIC int msync(void *addr, size_t len, int flags)
{
	struct xm_pre_part part[3];
	long r = xm_sys3(SYS_msync, (long)addr, (long)len, flags);
	int n;

	if (r < 0 || !xm_pre_touches(addr, len))
		return (int)xm_pre_result(r);
	/* the kernel sees the whole reserved range as mapped: holes are known here only */
	n = xm_pre_split(addr, len, part);
	for (int i = 0; i < n && r >= 0; i++)
		if (part[i].external)
			r = ext_mincore(part[i].addr, part[i].bytes, NULL);
	return (int)xm_pre_result(r);
}

/* ---- locks -------------------------------------------------------------------------------------------- */

static long ext_lock(void *addr, size_t len, long unused)
{
	return xm_map_lock(addr, len);
}

static long ext_unlock(void *addr, size_t len, long unused)
{
	return xm_map_unlock(addr, len);
}

XM_PUBLIC int mlock(const void *addr, size_t len)
{
	if (!xm_pre_touches(addr, len))
		return (int)xm_pre_result(xm_sys2(SYS_mlock, (long)addr, (long)len));
	return (int)xm_pre_result(xm_pre_each((void *)addr, len, ext_lock, SYS_mlock, 0, 0));
}

XM_PUBLIC int mlock2(const void *addr, size_t len, unsigned flags)
{
	/* ONFAULT is taken for a full lock: external pages are locked by making them resident */
	if (!xm_pre_touches(addr, len) || (flags & ~(unsigned)MLOCK_ONFAULT))
		return (int)xm_pre_result(xm_sys3(SYS_mlock2, (long)addr, (long)len, flags));
	return (int)xm_pre_result(xm_pre_each((void *)addr, len, ext_lock, SYS_mlock2, flags, 0));
}

XM_PUBLIC int munlock(const void *addr, size_t len)
{
	if (!xm_pre_touches(addr, len))
		return (int)xm_pre_result(xm_sys2(SYS_munlock, (long)addr, (long)len));
	return (int)xm_pre_result(xm_pre_each((void *)addr, len, ext_unlock, SYS_munlock, 0, 0));
}

XM_PUBLIC int mlockall(int flags)
{
	if (xm_in_runtime || !xm_pre_start())
		return (int)xm_pre_result(xm_sys1(SYS_mlockall, flags));
	if (!flags || (flags & ~(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT)) || flags == MCL_ONFAULT)
		return (int)xm_pre_result(-EINVAL);
	return (int)xm_pre_result(xm_map_lock_all(flags));
}

XM_PUBLIC int munlockall(void)
{
	if (!xm_pre_active())
		return (int)xm_pre_result(xm_sys0(SYS_munlockall));
	return (int)xm_pre_result(xm_map_unlock_all());
}

/* ---- System V shared memory at external addresses -------------------------------------------------------- */

static struct segment {
	const void *addr; /* NULL: free entry */
	size_t bytes;
} segments[SEGMENTS_MAX];
static bool segments_lock;

static void lock_segments(void)
{
	while (__atomic_test_and_set(&segments_lock, __ATOMIC_ACQUIRE))
		xm_cpu_relax();
}

static void unlock_segments(void)
{
	__atomic_clear(&segments_lock, __ATOMIC_RELEASE);
}

static bool segment_add(const void *addr, size_t bytes)
{
	bool added = false;

	lock_segments();
	for (int i = 0; i < SEGMENTS_MAX && !added; i++) {
		if (segments[i].addr)
			continue;
		segments[i] = (struct segment){ addr, bytes };
		added = true;
	}
	unlock_segments();
	return added;
}

static size_t segment_remove(const void *addr)
{
	size_t bytes = 0;

	lock_segments();
	for (int i = 0; i < SEGMENTS_MAX && !bytes; i++) {
		if (segments[i].addr != addr)
			continue;
		bytes = segments[i].bytes;
		segments[i].addr = NULL;
	}
	unlock_segments();
	return bytes;
}

static long attach_external(int id, void *addr, size_t bytes, int flags)
{
	bool replace = flags & SHM_REMAP;
	long r, tmp;

	if (!replace) {
		r = (long)xm_map_fixed(addr, bytes, PROT_NONE, XM_MAP_NORESERVE, true);
		if (xm_sys_is_error(r))
			return -EINVAL;
	}
	tmp = xm_sys3(SYS_shmat, id, 0, flags & ~(SHM_REMAP | SHM_RND));
	r = xm_sys_is_error(tmp) ? tmp : xm_pre_put_foreign((void *)tmp, bytes, addr);
	if (xm_sys_is_error(r) && !replace)
		xm_map_unmap(addr, bytes);
	if (!xm_sys_is_error(r) && !segment_add(addr, bytes))
		xm_warn("shmat: more than %d segments at external addresses: the addresses of this one stay in use",
			SEGMENTS_MAX);
	return r;
}

XM_PUBLIC void *shmat(int id, const void *addr, int flags)
{
	char *at = (char *)addr;
	struct shmid_ds info;

	if (flags & SHM_RND)
		at = (char *)((uintptr_t)at & ~(uintptr_t)(XM_PAGE_SIZE - 1));
	if (!at || is_unaligned(at) || !xm_pre_touches(at, 1) ||
	    xm_sys3(SYS_shmctl, id, IPC_STAT, (long)&info) < 0)
		return (void *)xm_pre_result(xm_sys3(SYS_shmat, id, (long)addr, flags));
	return (void *)xm_pre_result(
		attach_external(id, at, xm_round_up(info.shm_segsz, XM_PAGE_SIZE), flags));
}

XM_PUBLIC int shmdt(const void *addr)
{
	long r = xm_sys1(SYS_shmdt, (long)addr);

	if (r >= 0 && addr && xm_pre_touches(addr, 1)) {
		size_t bytes = segment_remove(addr);

		if (bytes)
			xm_map_unmap((void *)addr, bytes);
	}
	return (int)xm_pre_result(r);
}
