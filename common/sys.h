/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sys.h - system calls that bypass the C library's symbols.
 *
 * The preload object replaces mmap, close, poll and friends for the program. Links and peers run inside the
 * same object and on threads that resolve page faults, so they must neither meet those replacements nor
 * disturb errno. Every function here returns what the kernel returns: a value, or a negative errno.
 * No state, no locks, async-signal-safe.
 */
#ifndef XM_SYS_H
#define XM_SYS_H

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* Where calls are made instead, if not 0: the address of a `syscall; ret` that a seccomp filter lets through (fault mode
 * signal). Written once, before the filter is there. */
extern uintptr_t xm_sys_gate;

/* lint: 7 params (the kernel's number of them) */
static inline long xm_sys6(long nr, long a, long b, long c, long d, long e, long f)
{
#if defined(__x86_64__)
	uintptr_t gate = xm_sys_gate; /* first: a sanitizer makes a call of it, which has other uses for these registers */
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	if (__builtin_expect(gate != 0, 0)) /* the return address goes below the red zone */
		__asm__ volatile("sub $128, %%rsp\n\tcall *%%rcx\n\tadd $128, %%rsp"
				 : "=a"(ret), "+c"(gate)
				 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
				 : "r11", "cc", "memory");
	else
		__asm__ volatile("syscall"
				 : "=a"(ret)
				 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
				 : "rcx", "r11", "memory");
	return ret;
#else
	int saved = errno;
	long ret = syscall(nr, a, b, c, d, e, f);

	if (ret < 0)
		ret = -errno;
	errno = saved;
	return ret;
#endif
}

#define xm_sys0(nr) xm_sys6((nr), 0, 0, 0, 0, 0, 0)
#define xm_sys1(nr, a) xm_sys6((nr), (long)(a), 0, 0, 0, 0, 0)
#define xm_sys2(nr, a, b) xm_sys6((nr), (long)(a), (long)(b), 0, 0, 0, 0)
#define xm_sys3(nr, a, b, c) xm_sys6((nr), (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define xm_sys4(nr, a, b, c, d) xm_sys6((nr), (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define xm_sys5(nr, a, b, c, d, e) xm_sys6((nr), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)

/* Whether a raw value is an error: an address may look negative, but never this much. */
static inline int xm_sys_is_error(long ret)
{
	return (unsigned long)ret > -4096ul;
}

/* An address, or NULL when the kernel refused (who needs to know why calls xm_sys6). */
static inline void *xm_sys_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	long ret = xm_sys6(SYS_mmap, (long)addr, (long)len, prot, flags, fd, (long)off);

	return ret < 0 && ret > -4096 ? NULL : (void *)ret;
}

static inline int xm_sys_munmap(void *addr, size_t len)
{
	return (int)xm_sys3(SYS_munmap, addr, len, 0);
}

static inline int xm_sys_madvise(void *addr, size_t len, int advice)
{
	return (int)xm_sys3(SYS_madvise, addr, len, advice);
}

/* Pages of [addr, addr + len) shall come from this NUMA node (-1: anywhere) where it has some, also those that are
 * there already. Best effort: placement is no condition for anything. */
static inline void xm_sys_prefer_node(void *addr, size_t len, int node)
{
	unsigned long mask[16] = { 0 };

	if (node < 0 || node >= (int)(sizeof(mask) * 8))
		return;
	mask[node / 64] = 1ul << node % 64;
	xm_sys6(SYS_mbind, (long)addr, (long)len, 1 /* MPOL_PREFERRED */, (long)mask, sizeof(mask) * 8 + 1,
		2 /* MPOL_MF_MOVE */);
}

static inline int xm_sys_mprotect(void *addr, size_t len, int prot)
{
	return (int)xm_sys3(SYS_mprotect, addr, len, prot);
}

/* The new address, or a negative errno (xm_sys_is_error); new_addr counts with MREMAP_FIXED or _DONTUNMAP. */
static inline long xm_sys_mremap(void *addr, size_t old_len, size_t new_len, int flags, void *new_addr)
{
	return xm_sys5(SYS_mremap, addr, old_len, new_len, flags, new_addr);
}

static inline int xm_sys_close(int fd)
{
	return (int)xm_sys3(SYS_close, fd, 0, 0);
}

static inline int xm_sys_getpid(void)
{
	return (int)xm_sys3(SYS_getpid, 0, 0, 0);
}

static inline int xm_sys_gettid(void)
{
	return (int)xm_sys0(SYS_gettid);
}

static inline int xm_sys_socket(int family, int type, int protocol)
{
	return (int)xm_sys3(SYS_socket, family, type, protocol);
}

static inline int xm_sys_connect(int fd, const struct sockaddr *addr, socklen_t len)
{
	return (int)xm_sys3(SYS_connect, fd, addr, len);
}

static inline int xm_sys_setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
	return (int)xm_sys6(SYS_setsockopt, fd, level, name, (long)value, len, 0);
}

static inline int xm_sys_getsockopt(int fd, int level, int name, void *value, socklen_t *len)
{
	return (int)xm_sys6(SYS_getsockopt, fd, level, name, (long)value, (long)len, 0);
}

static inline ssize_t xm_sys_send(int fd, const void *buf, size_t len, int flags)
{
	return xm_sys6(SYS_sendto, fd, (long)buf, (long)len, flags, 0, 0);
}

static inline ssize_t xm_sys_recv(int fd, void *buf, size_t len, int flags)
{
	return xm_sys6(SYS_recvfrom, fd, (long)buf, (long)len, flags, 0, 0);
}

static inline ssize_t xm_sys_recvmsg(int fd, struct msghdr *msg, int flags)
{
	return xm_sys3(SYS_recvmsg, fd, msg, flags);
}

/* timeout_ns UINT64_MAX: for ever. Number of ready descriptors, 0 at the time limit, -EINTR. */
static inline int xm_sys_poll(struct pollfd *fds, unsigned n, uint64_t timeout_ns)
{
	struct timespec ts = { (time_t)(timeout_ns / 1000000000ull), (long)(timeout_ns % 1000000000ull) };

	return (int)xm_sys6(SYS_ppoll, (long)fds, n, timeout_ns == UINT64_MAX ? 0 : (long)&ts, 0, 8, 0);
}

static inline void xm_sys_sleep(uint64_t ns)
{
	struct timespec ts = { (time_t)(ns / 1000000000ull), (long)(ns % 1000000000ull) };

	xm_sys3(SYS_nanosleep, &ts, 0, 0);
}

static inline int xm_sys_open(const char *path, int flags)
{
	return (int)xm_sys6(SYS_openat, -100 /* AT_FDCWD */, (long)path, flags, 0, 0, 0);
}

static inline ssize_t xm_sys_read(int fd, void *buf, size_t len)
{
	return xm_sys3(SYS_read, fd, buf, len);
}

static inline int xm_sys_openat(int dirfd, const char *path, int flags, mode_t mode)
{
	return (int)xm_sys4(SYS_openat, dirfd, path, flags, mode);
}

static inline ssize_t xm_sys_write(int fd, const void *buf, size_t len)
{
	return xm_sys3(SYS_write, fd, buf, len);
}

/* local <- remote and local -> remote, both of this process: a copy that answers -EFAULT, never a signal. The process is
 * named by the calling thread: by its pid it could not be found (-ESRCH) once its first thread has ended. */
static inline ssize_t xm_sys_vm_readv(const struct iovec *local, unsigned nl,
				      const struct iovec *remote, unsigned nr)
{
	return xm_sys6(SYS_process_vm_readv, xm_sys_gettid(), (long)local, nl, (long)remote, nr, 0);
}

static inline ssize_t xm_sys_vm_writev(const struct iovec *local, unsigned nl,
				       const struct iovec *remote, unsigned nr)
{
	return xm_sys6(SYS_process_vm_writev, xm_sys_gettid(), (long)local, nl, (long)remote, nr, 0);
}

#endif
