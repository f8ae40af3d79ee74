/* SPDX-License-Identifier: Apache-2.0 */
/*
 * preload_pin.c - the calls by which a program makes the kernel pin its pages: O_DIRECT, AIO,
 * io_uring, vmsplice, zero-copy sends, memory registration. Each tells the runtime before anything
 * can be pinned, and goes on to the original. From then on pages are evicted in a way that a pinned
 * page refuses.
 *
 * Told by the first use, not by each buffer: which pages a ring or a direct read holds cannot be
 * seen from here. A library that issues the raw calls by itself (fio's io_uring engine) is caught
 * when it opens its file with O_DIRECT, or by the kernel's own refusal to move a pinned page. Any
 * thread; nothing is locked.
 */
#include "runtime/preload.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "log.h"
#include "runtime/preload_signal.h"
#include "sys.h"

#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60
#endif
#define SOL_XDP_LEVEL 283
#define XDP_UMEM_REG_OPTION 4

static const char *announced; /* atomic: the first thing seen */
static uint32_t told;	      /* atomic: the runtime knows; a fork's child inherits both */

void xm_pre_pins_announce(const char *by)
{
	if (xm_load(&told) || xm_in_runtime)
		return;
	/* the start turns the state and then looks here: one of the two sees the other */
	__atomic_store_n(&announced, by, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&xm_pre_state_word, __ATOMIC_SEQ_CST) == XM_PRE_RUNNING)
		xm_pre_pins_replay();
}

void xm_pre_pins_replay(void)
{
	const char *by = __atomic_load_n(&announced, __ATOMIC_SEQ_CST);

	if (!by)
		return;
	xm_pins_seen(by);
	xm_store(&told, 1);
}

/* ---- O_DIRECT ---------------------------------------------------------------------------------------- */

static int open_at(int dir, const char *path, int flags, mode_t mode)
{
	__typeof__(&openat64) real = XM_NEXT(openat64);

	if (flags & O_DIRECT)
		xm_pre_pins_announce("O_DIRECT");
	return real(dir, path, flags, mode);
}

/* the mode is there only with flags that create */
#define OPEN_MODE(mode, flags)                                               \
	do {                                                                 \
		if (((flags)&O_CREAT) || ((flags)&O_TMPFILE) == O_TMPFILE) { \
			va_list ap;                                          \
			va_start(ap, flags);                                 \
			mode = va_arg(ap, mode_t);                           \
			va_end(ap);                                          \
		}                                                            \
	} while (0)

XM_PUBLIC int open(const char *path, int flags, ...)
{
	mode_t mode = 0;

	OPEN_MODE(mode, flags);
	return open_at(AT_FDCWD, path, flags, mode);
}

XM_PUBLIC int openat(int dir, const char *path, int flags, ...)
{
	mode_t mode = 0;

	OPEN_MODE(mode, flags);
	return open_at(dir, path, flags, mode);
}

XM_PUBLIC int open64(const char *path, int flags, ...) __attribute__((alias("open")));
XM_PUBLIC int openat64(int dir, const char *path, int flags, ...) __attribute__((alias("openat")));

/* what _FORTIFY_SOURCE makes of an open without a mode */
XM_PUBLIC int __open_2(const char *path, int flags);
XM_PUBLIC int __open64_2(const char *path, int flags);
XM_PUBLIC int __openat_2(int dir, const char *path, int flags);
XM_PUBLIC int __openat64_2(int dir, const char *path, int flags);

int __open_2(const char *path, int flags)
{
	if (flags & O_DIRECT)
		xm_pre_pins_announce("O_DIRECT");
	return XM_NEXT(__open_2)(path, flags);
}

int __open64_2(const char *path, int flags)
{
	if (flags & O_DIRECT)
		xm_pre_pins_announce("O_DIRECT");
	return XM_NEXT(__open64_2)(path, flags);
}

int __openat_2(int dir, const char *path, int flags)
{
	if (flags & O_DIRECT)
		xm_pre_pins_announce("O_DIRECT");
	return XM_NEXT(__openat_2)(dir, path, flags);
}

int __openat64_2(int dir, const char *path, int flags)
{
	if (flags & O_DIRECT)
		xm_pre_pins_announce("O_DIRECT");
	return XM_NEXT(__openat64_2)(dir, path, flags);
}

XM_PUBLIC int fcntl(int fd, int cmd, ...)
{
	__typeof__(&fcntl) real = XM_NEXT(fcntl);
	va_list ap;
	long arg;

	va_start(ap, cmd);
	arg = va_arg(ap, long);
	va_end(ap);
	if (cmd == F_SETFL && (arg & O_DIRECT))
		xm_pre_pins_announce("O_DIRECT");
	return real(fd, cmd, arg);
}

XM_PUBLIC int fcntl64(int fd, int cmd, ...) __attribute__((alias("fcntl")));

/* ---- sockets and pipes -------------------------------------------------------------------------------- */

XM_PUBLIC int setsockopt(int fd, int level, int option, const void *value, socklen_t len)
{
	if (level == SOL_SOCKET && option == SO_ZEROCOPY)
		xm_pre_pins_announce("SO_ZEROCOPY");
	else if (level == SOL_XDP_LEVEL && option == XDP_UMEM_REG_OPTION)
		xm_pre_pins_announce("XDP_UMEM_REG");
	return XM_NEXT(setsockopt)(fd, level, option, value, len);
}

XM_PUBLIC ssize_t vmsplice(int fd, const struct iovec *iov, size_t n, unsigned flags)
{
	xm_pre_pins_announce("vmsplice");
	if (xm_sig_active())
		return xm_sig_call(SYS_vmsplice, fd, (long)iov, (long)n, flags, 0, 0);
	return XM_NEXT(vmsplice)(fd, iov, n, flags);
}

/* ---- libaio, liburing, libibverbs: libraries that not every program has --------------------------------- */

XM_PUBLIC int io_setup(int maxevents, void **ctx);
XM_PUBLIC int io_submit(void *ctx, long n, void **iocbs);
XM_PUBLIC int io_queue_init(int maxevents, void **ctx);
XM_PUBLIC int io_uring_queue_init(unsigned entries, void *ring, unsigned flags);
XM_PUBLIC int io_uring_queue_init_params(unsigned entries, void *ring, void *params);
XM_PUBLIC int io_uring_queue_init_mem(unsigned entries, void *ring, void *params, void *buf, size_t size);
XM_PUBLIC int io_uring_setup(unsigned entries, void *params);
XM_PUBLIC void *ibv_reg_mr(void *pd, void *addr, size_t len, int access);
XM_PUBLIC void *ibv_reg_mr_iova(void *pd, void *addr, size_t len, uint64_t iova, int access);
XM_PUBLIC void *ibv_reg_mr_iova2(void *pd, void *addr, size_t len, uint64_t iova, unsigned access);

#define AIO "libaio.so.1"
#define URING "liburing.so.2"
#define VERBS "libibverbs.so.1"

int io_setup(int maxevents, void **ctx)
{
	__typeof__(&io_setup) real = XM_NEXT_IN(io_setup, AIO);

	xm_pre_pins_announce("io_setup");
	return real ? real(maxevents, ctx) : (int)xm_sys2(SYS_io_setup, maxevents, (long)ctx);
}

int io_submit(void *ctx, long n, void **iocbs)
{
	__typeof__(&io_submit) real = XM_NEXT_IN(io_submit, AIO);

	xm_pre_pins_announce("io_submit");
	if (xm_sig_active()) { /* what it points to is in structures, and libaio makes the call itself */
		long r = xm_sig_call(SYS_io_submit, (long)ctx, n, (long)iocbs, 0, 0, 0);

		return r < 0 ? -errno : (int)r;
	}
	return real ? real(ctx, n, iocbs) : (int)xm_sys3(SYS_io_submit, (long)ctx, n, (long)iocbs);
}

int io_queue_init(int maxevents, void **ctx)
{
	__typeof__(&io_queue_init) real = XM_NEXT_IN(io_queue_init, AIO);

	xm_pre_pins_announce("io_setup");
	return real ? real(maxevents, ctx) : -ENOSYS;
}

/* In fault mode signal: the kernel reads a ring that no call shows, and does not wait for the pages that it names. */
bool xm_pre_no_rings(void)
{
	static uint32_t said;

	if (!xm_sig_active())
		return false;
	if (!__atomic_exchange_n(&said, 1, __ATOMIC_RELAXED))
		xm_warn("process %d: io_uring is refused (ENOSYS) in fault mode signal: run it with --fault thread", xm_sys_getpid());
	return true;
}

int io_uring_queue_init(unsigned entries, void *ring, unsigned flags)
{
	__typeof__(&io_uring_queue_init) real = XM_NEXT_IN(io_uring_queue_init, URING);

	if (xm_pre_no_rings())
		return -ENOSYS;
	xm_pre_pins_announce("io_uring");
	return real ? real(entries, ring, flags) : -ENOSYS;
}

int io_uring_queue_init_params(unsigned entries, void *ring, void *params)
{
	__typeof__(&io_uring_queue_init_params) real = XM_NEXT_IN(io_uring_queue_init_params, URING);

	if (xm_pre_no_rings())
		return -ENOSYS;
	xm_pre_pins_announce("io_uring");
	return real ? real(entries, ring, params) : -ENOSYS;
}

int io_uring_queue_init_mem(unsigned entries, void *ring, void *params, void *buf, size_t size)
{
	__typeof__(&io_uring_queue_init_mem) real = XM_NEXT_IN(io_uring_queue_init_mem, URING);

	if (xm_pre_no_rings())
		return -ENOSYS;
	xm_pre_pins_announce("io_uring");
	return real ? real(entries, ring, params, buf, size) : -ENOSYS;
}

int io_uring_setup(unsigned entries, void *params)
{
	__typeof__(&io_uring_setup) real = XM_NEXT_IN(io_uring_setup, URING);

	if (xm_pre_no_rings())
		return -ENOSYS;
	xm_pre_pins_announce("io_uring");
	return real ? real(entries, params) : (int)xm_sys2(SYS_io_uring_setup, entries, (long)params);
}

void *ibv_reg_mr(void *pd, void *addr, size_t len, int access)
{
	__typeof__(&ibv_reg_mr) real = XM_NEXT_IN(ibv_reg_mr, VERBS);

	xm_pre_pins_announce("ibv_reg_mr");
	if (real)
		return real(pd, addr, len, access);
	errno = ENOSYS;
	return NULL;
}

void *ibv_reg_mr_iova(void *pd, void *addr, size_t len, uint64_t iova, int access)
{
	__typeof__(&ibv_reg_mr_iova) real = XM_NEXT_IN(ibv_reg_mr_iova, VERBS);

	xm_pre_pins_announce("ibv_reg_mr");
	if (real)
		return real(pd, addr, len, iova, access);
	errno = ENOSYS;
	return NULL;
}

void *ibv_reg_mr_iova2(void *pd, void *addr, size_t len, uint64_t iova, unsigned access)
{
	__typeof__(&ibv_reg_mr_iova2) real = XM_NEXT_IN(ibv_reg_mr_iova2, VERBS);

	xm_pre_pins_announce("ibv_reg_mr");
	if (real)
		return real(pd, addr, len, iova, access);
	errno = ENOSYS;
	return NULL;
}
