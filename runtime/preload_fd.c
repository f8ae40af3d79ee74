/* SPDX-License-Identifier: Apache-2.0 */
/*
 * preload_fd.c - the runtime's descriptors are kept out of the program's way.
 *
 * To the program they do not exist: closing one is EBADF, a range is closed around them, and a
 * number that the program wants by dup2 is vacated first. What the runtime is just opening has a
 * number that the program may name: the calls go through the gate of fdgate.h, also while the
 * runtime starts. A vfork child has a descriptor table of its own and borrows the memory only:
 * there the calls go straight to the kernel. Any thread; async-signal-safe, as close is.
 */
#include "runtime/preload.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <stdlib.h>
#include <unistd.h>

#include "sys.h"

/* Before one looks whether a number is ours: until chosen() it does not become so. */
static uint32_t choose(void)
{
	return xm_in_runtime || !xm_pre_family[0] ? 0 : xm_fd_choose(xm_pre_in_vfork_child);
}

/* The call's result as libc gives it. */
static int chosen(uint32_t turn, long r)
{
	xm_fd_chosen(turn);
	return (int)xm_pre_result(r);
}

static bool is_hidden(int fd)
{
	return fd >= 0 && xm_pre_active() && xm_fd_is_ours(fd) && !xm_pre_in_vfork_child();
}

XM_PUBLIC int close(int fd)
{
	uint32_t turn = choose();

	return chosen(turn, is_hidden(fd) ? -EBADF : xm_sys1(SYS_close, fd));
}

/* Closes [first, last] but for what is ours. UNSHARE, where wanted, is done by the first call. Each call goes through the
 * gate by itself: what is ours may change between them. */
static long close_around(unsigned first, unsigned last, int flags)
{
	bool called = false;
	long r = 0;

	for (;;) {
		uint32_t turn = choose();
		int ours = first <= INT32_MAX ? xm_fd_next_ours((int)first) : -1;
		bool end = ours < 0 || (unsigned)ours > last;
		unsigned stop = end ? last : (unsigned)ours - 1;

		if (end || (unsigned)ours > first) {
			r = xm_sys3(SYS_close_range, first, stop, flags);
			called = true;
			flags &= ~(int)CLOSE_RANGE_UNSHARE;
		}
		xm_fd_chosen(turn);
		if (r < 0 || end || (unsigned)ours == last)
			break;
		first = (unsigned)ours + 1;
	}
	if (!called && (flags & CLOSE_RANGE_UNSHARE))
		r = xm_sys1(SYS_unshare, 0x400 /* CLONE_FILES */);
	return r;
}

XM_PUBLIC int close_range(unsigned first, unsigned last, int flags)
{
	/* CLOEXEC does no harm: all of ours have it */
	if (first > last || (flags & CLOSE_RANGE_CLOEXEC) || (flags & ~(int)CLOSE_RANGE_UNSHARE) ||
	    !xm_pre_active() || xm_pre_in_vfork_child())
		return chosen(choose(), xm_sys3(SYS_close_range, first, last, flags));
	return (int)xm_pre_result(close_around(first, last, flags));
}

XM_PUBLIC void closefrom(int first)
{
	int saved = errno;

	if (close_range((unsigned)xm_max(first, 0), ~0u, 0) == 0) {
		errno = saved;
		return;
	}
	/* a kernel or a container without close_range */
	for (long fd = xm_max(first, 0), end = sysconf(_SC_OPEN_MAX); fd < end; fd++)
		close((int)fd);
	errno = saved;
}

/* 0, or -errno where the number cannot be vacated. */
static int vacate(int fd)
{
	return is_hidden(fd) ? xm_fd_move_away(fd) : 0;
}

XM_PUBLIC int dup2(int old, int new)
{
	uint32_t turn = choose();
	int r = is_hidden(old) ? -EBADF : old == new ? 0 : vacate(new);

	return chosen(turn, r < 0 ? r : xm_sys2(SYS_dup2, old, new));
}

XM_PUBLIC int dup3(int old, int new, int flags)
{
	uint32_t turn = choose();
	int r = is_hidden(old) ? -EBADF : old == new ? 0 : vacate(new);

	return chosen(turn, r < 0 ? r : xm_sys3(SYS_dup3, old, new, flags));
}

XM_PUBLIC int dup(int old)
{
	uint32_t turn = choose(); /* after a close it is to give the number that was closed */

	return chosen(turn, is_hidden(old) ? -EBADF : xm_sys1(SYS_dup, old));
}
