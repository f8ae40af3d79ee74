/* SPDX-License-Identifier: Apache-2.0 */
/*
 * preload_syscall.c - syscall(): a program's raw calls take the same way as the functions they
 * stand for.
 *
 * Calls that make a process without sharing memory get the fork steps by hand, provided that the
 * child returns on the caller's stack; with a stack of its own, or sharing memory, the call must be
 * the caller's last one on this stack anyway and goes straight through. Calls that no library
 * function makes (an inline system call instruction) are not seen here; the userfaultfd's events
 * are the second net.
 */
#include "runtime/preload.h"
#include "runtime/preload_signal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "sys.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

static bool is_fork_like(long nr, const long *a)
{
	switch (nr) {
	case SYS_fork:
	case SYS_vfork: /* through this function its child would return into a frame that it then destroys */
		return true;
	case SYS_clone: return !(a[0] & CLONE_VM) && !a[1];
	case SYS_clone3:
		return a[1] >= (long)CLONE_ARGS_SIZE_VER0 &&
		       !(((struct clone_args *)a[0])->flags & CLONE_VM) &&
		       !((struct clone_args *)a[0])->stack;
	default: return false;
	}
}

/* As in clone(): descriptors are copied, not shared. */
static long clone3_copying(const long *a)
{
	struct clone_args args = { 0 };
	size_t size = xm_min((size_t)a[1], sizeof(args));

	memcpy(&args, (void *)a[0], size);
	args.flags &= ~(uint64_t)CLONE_FILES;
	return xm_sys2(SYS_clone3, &args, size);
}

static long forked(long nr, const long *a)
{
	long pid;

	xm_pre_fork_prepare();
	if (nr == SYS_clone3)
		pid = clone3_copying(a);
	else if (nr == SYS_clone)
		pid = xm_sys5(SYS_clone, a[0] & ~(long)CLONE_FILES, a[1], a[2], a[3], a[4]);
	else
		pid = xm_sys0(SYS_fork);
	pid = xm_pre_result(pid);
	if (pid)
		xm_pre_fork_parent();
	else
		xm_pre_fork_child();
	return pid;
}

/* Memory calls. True: *r is the result, as libc's function gives it. */
static bool memory_call(long nr, const long *a, long *r)
{
	void *p = (void *)a[0];
	size_t len = (size_t)a[1];

	switch (nr) {
	case SYS_mmap: *r = (long)mmap(p, len, (int)a[2], (int)a[3], (int)a[4], a[5]); return true;
	case SYS_munmap: *r = munmap(p, len); return true;
	case SYS_mremap: *r = (long)mremap(p, len, (size_t)a[2], (int)a[3], (void *)a[4]); return true;
	case SYS_mprotect: *r = mprotect(p, len, (int)a[2]); return true;
	case SYS_pkey_mprotect: *r = pkey_mprotect(p, len, (int)a[2], (int)a[3]); return true;
	case SYS_madvise: *r = madvise(p, len, (int)a[2]); return true;
	case SYS_process_madvise:
		*r = process_madvise((int)a[0], (void *)a[1], (size_t)a[2], (int)a[3], (unsigned)a[4]);
		return true;
	case SYS_mincore: *r = mincore(p, len, (void *)a[2]); return true;
	case SYS_msync: *r = msync(p, len, (int)a[2]); return true;
	case SYS_mlock: *r = mlock(p, len); return true;
	case SYS_mlock2: *r = mlock2(p, len, (unsigned)a[2]); return true;
	case SYS_munlock: *r = munlock(p, len); return true;
	case SYS_mlockall: *r = mlockall((int)a[0]); return true;
	case SYS_munlockall: *r = munlockall(); return true;
	case SYS_shmat: *r = (long)shmat((int)a[0], (void *)a[1], (int)a[2]); return true;
	case SYS_shmdt: *r = shmdt(p); return true;
	default: return false;
	}
}

/* Descriptors, and what pins pages. */
static bool descriptor_call(long nr, const long *a, long *r)
{
	switch (nr) {
	case SYS_close: *r = close((int)a[0]); return true;
	case SYS_close_range: *r = close_range((unsigned)a[0], (unsigned)a[1], (int)a[2]); return true;
	case SYS_dup: *r = dup((int)a[0]); return true;
	case SYS_dup2: *r = dup2((int)a[0], (int)a[1]); return true;
	case SYS_dup3: *r = dup3((int)a[0], (int)a[1], (int)a[2]); return true;
	case SYS_fcntl: *r = fcntl((int)a[0], (int)a[1], a[2]); return true;
	case SYS_open: *r = open((const char *)a[0], (int)a[1], (mode_t)a[2]); return true;
	case SYS_openat: *r = openat((int)a[0], (const char *)a[1], (int)a[2], (mode_t)a[3]); return true;
	case SYS_vmsplice: *r = vmsplice((int)a[0], (void *)a[1], (size_t)a[2], (unsigned)a[3]); return true;
	case SYS_setsockopt:
		*r = setsockopt((int)a[0], (int)a[1], (int)a[2], (void *)a[3], (socklen_t)a[4]);
		return true;
	default: return false;
	}
}

/* The kernel waits here for a page to come, and to be writable. */
static void bring(long addr)
{
	if (xm_ext_contains((void *)addr))
		xm_sys_madvise((void *)xm_round_down((uint64_t)addr, XM_PAGE_SIZE), XM_PAGE_SIZE, MADV_POPULATE_WRITE);
}

/* Operations that change a word (FUTEX_WAKE_OP, FUTEX_LOCK_PI, ...) do not wait for an absent page, nor for a clean one
 * to become writable: they say EFAULT. The page may leave again before the second try. */
static long futex_call(const long *a)
{
	long r = xm_sys6(SYS_futex, a[0], a[1], a[2], a[3], a[4], a[5]);

	for (int i = 0; i < 20 && r == -EFAULT && (xm_ext_contains((void *)a[0]) || xm_ext_contains((void *)a[4])); i++) {
		bring(a[0]);
		bring(a[4]);
		r = xm_sys6(SYS_futex, a[0], a[1], a[2], a[3], a[4], a[5]);
	}
	return xm_pre_result(r);
}

XM_PUBLIC long syscall(long nr, ...)
{
	long a[6], r;
	va_list ap;

	/* as many as there can be: what the caller did not pass is read and handed on unused */
	va_start(ap, nr);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(ap, long);
	va_end(ap);

	if (!xm_in_runtime) {
		if (memory_call(nr, a, &r) || descriptor_call(nr, a, &r))
			return r;
		if (is_fork_like(nr, a))
			return forked(nr, a);
		if (nr == SYS_futex && !xm_sig_active())
			return futex_call(a);
		if (nr == SYS_io_uring_setup && xm_pre_no_rings())
			return xm_pre_result(-ENOSYS);
		if (nr == SYS_io_setup || nr == SYS_io_submit || nr == SYS_io_uring_setup ||
		    nr == SYS_io_uring_register)
			xm_pre_pins_announce("syscall");
	}
	if (xm_sig_active() && xm_call_pointers(nr))
		return xm_sig_call_raw(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
	return xm_pre_result(xm_sys6(nr, a[0], a[1], a[2], a[3], a[4], a[5]));
}
