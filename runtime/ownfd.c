/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ownfd.c - descriptors of the runtime that the program must not close or overwrite by accident. They are moved
 * up, out of the way of programs that count from 3 or close everything, and remembered in a small table that the
 * preload object's close and dup2 ask. Until they are there, the gate of fdgate.h keeps the program's calls apart.
 * Any thread; reads are lock-free, changes under a lock.
 */
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "runtime/internal.h"

#define FLOOR_BELOW 64	 /* how far below the limit the runtime's numbers begin */
#define FLOOR_LIMIT 1024 /* the kernel's table grows with the highest number: do not go higher */

static struct xm_lock own_lock = { 0, XM_RANK_FD };

static struct own_fd {
	int number; /* + 1; 0: free. Atomic, set last */
	dev_t dev;
	ino_t inode;
} own[XM_OWN_FDS_MAX];

static int own_used; /* atomic: entries from here on were never used */

/* Links close their sockets without telling; a number that names something else by now is not ours any more.
 * (Anonymous inodes are all the same: those descriptors are forgotten explicitly.) Only looks: in a child of vfork the
 * number may be closed, and in the parent, whose table this is, open. */
static bool still_ours(const struct own_fd *o)
{
	int number = xm_load(&o->number);
	struct stat st;

	if (!number)
		return false;
	return xm_sys2(SYS_fstat, number - 1, &st) == 0 && st.st_ino == o->inode && st.st_dev == o->dev;
}

static struct own_fd *find(int fd)
{
	for (int i = 0, n = xm_load(&own_used); fd >= 0 && i < n; i++)
		if (xm_load_relaxed(&own[i].number) == fd + 1 && still_ours(&own[i]))
			return &own[i];
	return NULL;
}

static int dup_high(int fd)
{
	struct rlimit rl = { FLOOR_LIMIT, FLOOR_LIMIT };
	long floor, n;

	xm_sys6(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, (long)&rl, 0, 0);
	floor = (long)xm_min(rl.rlim_cur, (rlim_t)FLOOR_LIMIT) - FLOOR_BELOW;
	for (; floor > 2; floor -= FLOOR_BELOW) {
		n = xm_sys3(SYS_fcntl, fd, F_DUPFD_CLOEXEC, floor);
		if (n >= 0)
			return (int)n;
	}
	return -EMFILE;
}

/* Also clears what is out of date. */
static void remember(int fd)
{
	struct own_fd *to = NULL;
	struct stat st = { 0 };

	xm_sys2(SYS_fstat, fd, &st);
	xm_lock(&own_lock);
	for (int i = 0; i < own_used; i++) {
		struct own_fd *o = &own[i];

		if (o->number && (o->number == fd + 1 || !still_ours(o)))
			xm_store(&o->number, 0);
		if (!o->number && !to)
			to = o;
	}
	if (!to && own_used < XM_OWN_FDS_MAX)
		to = &own[own_used];
	if (to) {
		to->dev = st.st_dev;
		to->inode = st.st_ino;
		xm_store(&to->number, fd + 1);
		if (to == &own[own_used])
			xm_store(&own_used, own_used + 1);
	}
	xm_unlock(&own_lock);
}

int xm_fd_place(int fd)
{
	int n = fd;

	xm_fd_borrow();
	if (!find(fd)) { /* else: of a library's object that two users share */
		n = dup_high(fd);
		if (n >= 0)
			xm_sys_close(fd);
		else
			n = fd; /* no better place: it stays, unless the program closes it */
		remember(n);
	}
	xm_fd_return();
	return n;
}

void xm_fd_forget(int fd)
{
	struct own_fd *o = find(fd);

	if (o)
		xm_store(&o->number, 0);
}

void xm_fd_forked(void)
{
	xm_lock_init(&own_lock, XM_RANK_FD);
}

bool xm_fd_is_ours(int fd)
{
	return find(fd) != NULL;
}

int xm_fd_next_ours(int from)
{
	int best = -1;

	for (int i = 0, n = xm_load(&own_used); i < n; i++) {
		int fd = xm_load_relaxed(&own[i].number) - 1;

		if (fd >= from && (best < 0 || fd < best) && still_ours(&own[i]))
			best = fd;
	}
	return best;
}

bool xm_fd_any_in(unsigned lo, unsigned hi)
{
	int fd = lo <= INT_MAX ? xm_fd_next_ours((int)lo) : -1;

	return fd >= 0 && (unsigned)fd <= hi;
}

int xm_fd_move_away(int fd)
{
	/* Handlers and links use the number at this very moment; nobody could tell when they have stopped. dup2 is
	 * allowed to say so. */
	return xm_fd_is_ours(fd) ? -EBUSY : 0;
}

int xm_fd_replace(int *slot, int fd)
{
	xm_fd_borrow(); /* between the two of these it is not ours, and still open */
	if (*slot >= 0) {
		xm_fd_forget(*slot);
		xm_sys_close(*slot);
	}
	*slot = fd < 0 ? -1 : xm_fd_place(fd);
	xm_fd_return();
	return fd < 0 ? fd : *slot;
}
