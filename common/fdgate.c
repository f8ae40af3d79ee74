/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fdgate.c - two counters: threads that borrow a number, and threads that choose one. Never both at a time.
 *
 *   borrow   count in, wait until nobody chooses      choose   count in; somebody borrows? count out, wait, again
 *
 * Each side counts itself before it looks at the other, so of two that come at once at least one sees the other, and it
 * is the chooser who steps back: any number of closes cannot keep a borrower out, while borrowers are few and short.
 *
 * Nobody waits for ever, since a chooser may be a close that hangs in a file system and either may be gone (a handler's
 * siglongjmp, a killed child of vfork). Whoever has waited for its limit gives up those who are inside: the upper bits
 * of the counter change, by which they know, when they come out, that they are not counted any more. One that hangs
 * costs one wait, then. Its number has left the table of descriptors long before: only then does the kernel begin what
 * may take long.
 *
 * A borrower's signals are blocked: a handler could choose the very number, or take its time. One that interrupted a
 * chooser may borrow (fork, mmap) and does not wait then. Nobody who chooses holds a lock of the runtime's.
 */
#include "fdgate.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>

#include "sys.h"
#include "util.h"

#define COUNT ((1u << 22) - 1) /* as many threads as there can be; above it: the turn */

/* atomic, sequentially consistent, futexes; each on a line of its own */
static struct {
	uint32_t n;
} __attribute__((aligned(64))) borrowing_side, choosing_side;

#define borrowing borrowing_side.n
#define choosing choosing_side.n

static __thread struct {
	uint32_t depth, turn; /* of borrowing */
	uint32_t choice; /* the turn of choosing; 0: does not */
	uint64_t mask;	 /* signals that were blocked before */
} mine __attribute__((tls_model("initial-exec")));

static uint32_t load(const uint32_t *side)
{
	return __atomic_load_n(side, __ATOMIC_SEQ_CST);
}

/* The turn, never 0. */
static uint32_t enter(uint32_t *side)
{
	return (__atomic_fetch_add(side, 1, __ATOMIC_SEQ_CST) & ~COUNT) | 1;
}

/* True: the side is empty now. */
static bool leave(uint32_t *side, uint32_t turn)
{
	uint32_t seen = load(side);

	while ((seen & COUNT) && (seen & ~COUNT) == (turn & ~COUNT))
		if (__atomic_compare_exchange_n(side, &seen, seen - 1, false, __ATOMIC_SEQ_CST,
						__ATOMIC_SEQ_CST))
			return (seen & COUNT) == 1;
	return false;
}

static void wake(uint32_t *side)
{
	xm_sys6(SYS_futex, (long)side, FUTEX_WAKE_PRIVATE, INT_MAX, 0, 0, 0);
}

/* Until nobody is on that side; those who still are when the time is over are given up: false. */
static bool wait_empty(uint32_t *side, uint64_t end_ns)
{
	uint32_t seen;

	while ((seen = load(side)) & COUNT) {
		uint64_t now = xm_now_ns();
		struct timespec ts;

		if (now < end_ns) {
			ts.tv_sec = (time_t)((end_ns - now) / 1000000000ull);
			ts.tv_nsec = (long)((end_ns - now) % 1000000000ull);
			xm_sys6(SYS_futex, (long)side, FUTEX_WAIT_PRIVATE, seen, (long)&ts, 0, 0);
		} else if (__atomic_compare_exchange_n(side, &seen, (seen | COUNT) + 1, false,
						       __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
			wake(side);
			return false;
		}
	}
	return true;
}

static uint64_t bit(int sig)
{
	return 1ull << (sig - 1);
}

void xm_fd_borrow(void)
{
	/* what an instruction or a call raises is fatal where it is blocked */
	uint64_t all = ~(bit(SIGSEGV) | bit(SIGBUS) | bit(SIGILL) | bit(SIGFPE) | bit(SIGTRAP) | bit(SIGSYS)),
		 old = 0;

	if (mine.depth) {
		mine.depth++;
		return;
	}
	xm_sys6(SYS_rt_sigprocmask, SIG_BLOCK, (long)&all, (long)&old, 8, 0, 0);
	mine.depth = 1;
	mine.mask = old;
	mine.turn = enter(&borrowing);
	if ((load(&choosing) & COUNT) && !mine.choice)
		wait_empty(&choosing, xm_now_ns() + XM_FD_BORROWER_NS);
}

void xm_fd_return(void)
{
	uint64_t mask = mine.mask;

	if (--mine.depth)
		return;
	if (leave(&borrowing, mine.turn))
		wake(&borrowing);
	xm_sys6(SYS_rt_sigprocmask, SIG_SETMASK, (long)&mask, 0, 8, 0, 0);
}

/* A handler that interrupted this thread's own choice, which counts as long as nobody has given it up. */
static bool chooses_already(void)
{
	uint32_t now = load(&choosing);

	return mine.choice && (now & COUNT) && (now & ~COUNT) == (mine.choice & ~COUNT);
}

uint32_t xm_fd_choose(bool (*apart)(void))
{
	uint64_t end_ns = 0;
	bool in_time = true;

	/* or it is by what the runtime called for its own purposes */
	if (xm_unlikely(mine.depth || (mine.choice && chooses_already())))
		return 0;
	for (;;) {
		uint32_t turn = enter(&choosing);

		mine.choice = turn;
		/* once somebody was given up it goes on: the next ones are not to pay for that */
		if (xm_likely(!(load(&borrowing) & COUNT)) || !in_time)
			return turn;
		xm_fd_chosen(turn);
		if (apart())
			return 0;
		if (!end_ns)
			end_ns = xm_now_ns() + XM_FD_CHOOSER_NS;
		in_time = wait_empty(&borrowing, end_ns);
	}
}

void xm_fd_chosen(uint32_t turn)
{
	if (!turn)
		return;
	mine.choice = 0;
	if (leave(&choosing, turn) && (load(&borrowing) & COUNT))
		wake(&choosing);
}

void xm_fd_gate_forked(void)
{
	/* not 0: a handler that interrupted a close may have forked, and that close is still to come back */
	__atomic_store_n(&borrowing, (load(&borrowing) | COUNT) + 1, __ATOMIC_SEQ_CST);
	__atomic_store_n(&choosing, (load(&choosing) | COUNT) + 1, __ATOMIC_SEQ_CST);
	mine.depth = mine.choice = 0;
}

int xm_fd_read_file(const char *path, char *buf, size_t size)
{
	ssize_t n;
	int fd;

	xm_fd_borrow();
	n = fd = xm_sys_open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		n = xm_sys_read(fd, buf, size - 1);
		xm_sys_close(fd);
	}
	xm_fd_return();
	buf[n > 0 ? n : 0] = 0;
	return (int)n;
}
