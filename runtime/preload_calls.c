/* SPDX-License-Identifier: Apache-2.0 */
/*
 * preload_calls.c - which arguments of which system call lead where: a table for x86-64 (kernel headers, and the manual
 * pages of section 2, to Linux 6.16), and a walk that holds what a call reaches of external memory.
 *
 * What is written here is at least what the kernel accesses: more is harmless (a page too much is brought in and held for
 * the call), less is EFAULT where there was none. Pages that cannot be had are left out: what the kernel says to that is the
 * answer. What a call may wait on for long, and can be asked again without effect (futex), is brought in and not held.
 *
 * rt_sigprocmask is trapped by its old mask only: a thread whose stack is the program's restores its first mask from there, with
 * SIGSYS blocked (and with that page pinned, preload_thread.c).
 *
 * Structures that lie in other structures are read by the kernel's copy (process_vm_readv), which answers EFAULT, or, where
 * they are external and held, directly. A call that is not known, or an ioctl, is looked at as memory: one page from
 * each argument on, and one from each word of the first LOOK bytes that is an external address.
 */
#include "runtime/preload_signal.h"

#include <limits.h>
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/uio.h>

#define LOOK 256u
#define PART_PAGES 256u /* of a buffer that may go in parts (preload_wrap.c) */

enum kind {
	NONE = 0,
	PLAIN_IN, PLAIN_OUT,	/* size bytes */
	BUF_IN, BUF_OUT,	/* as many bytes as argument n says, and size */
	ARRAY_IN, ARRAY_OUT,	/* as many as argument n says, of size bytes each */
	SOCKLEN,		/* written; as long as the socklen_t at argument n says */
	STRING, STRINGS,
	IOVEC_IN, IOVEC_OUT,	/* as many as argument n says */
	MSG_IN, MSG_OUT,
	MMSG_IN, MMSG_OUT,	/* as many as argument n says */
	FDSET,			/* argument n descriptors */
	SIGSET_PAIR,		/* of pselect6 */
	IOCBS,			/* argument n pointers to iocbs */
	WAITERS,		/* argument n futex_waitv */
	WORD,			/* a futex word: brought in, not held */
	TIMEOUT,		/* of a futex, or a number, or another word */
	LOOSE,			/* unknown: memory, if it is an address */
};

struct argument {
	uint8_t kind, n;
	uint16_t size;
};

struct call {
	struct argument arg[6];
	bool known;
};

#define N { NONE, 0, 0 }
#define IN(s) { PLAIN_IN, 0, (s) }
#define OUT(s) { PLAIN_OUT, 0, (s) }
#define BIN(n) { BUF_IN, (n), 0 }
#define BOUT(n) { BUF_OUT, (n), 0 }
#define AIN(n, s) { ARRAY_IN, (n), (s) }
#define AOUT(n, s) { ARRAY_OUT, (n), (s) }
#define LEN(n) { SOCKLEN, (n), 0 }
#define STR { STRING, 0, 0 }
#define STRS { STRINGS, 0, 0 }
#define VIN(n) { IOVEC_IN, (n), 0 }
#define VOUT(n) { IOVEC_OUT, (n), 0 }
#define FDS(n) { FDSET, (n), 0 }
#define ANY { LOOSE, 0, 0 }
#define C(nr, ...) [SYS_##nr] = { { __VA_ARGS__ }, true }
#define X(nr, ...) [nr] = { { __VA_ARGS__ }, true } /* newer than the headers of the oldest system */

static const struct call calls[XM_CALLS_MAX] = {
	/* files */
	C(read, N, BOUT(2)), C(write, N, BIN(2)), C(pread64, N, BOUT(2)), C(pwrite64, N, BIN(2)),
	C(readv, N, VOUT(2)), C(writev, N, VIN(2)), C(preadv, N, VOUT(2)), C(pwritev, N, VIN(2)),
	C(preadv2, N, VOUT(2)), C(pwritev2, N, VIN(2)), C(vmsplice, N, VIN(2)),
	C(open, STR), C(openat, N, STR), C(openat2, N, STR, BIN(3)), C(creat, STR), C(close, N), C(lseek, N),
	C(stat, STR, OUT(144)), C(lstat, STR, OUT(144)), C(fstat, N, OUT(144)), C(newfstatat, N, STR, OUT(144)),
	C(statx, N, STR, N, N, OUT(256)), C(statfs, STR, OUT(120)), C(fstatfs, N, OUT(120)), C(ustat, N, OUT(32)),
	C(access, STR), C(faccessat, N, STR), C(faccessat2, N, STR), C(chmod, STR), C(fchmodat, N, STR),
	C(chown, STR), C(lchown, STR), C(fchownat, N, STR), C(truncate, STR), C(ftruncate, N), C(fallocate, N),
	C(rename, STR, STR), C(renameat, N, STR, N, STR), C(renameat2, N, STR, N, STR),
	C(link, STR, STR), C(linkat, N, STR, N, STR), C(unlink, STR), C(unlinkat, N, STR), C(symlink, STR, STR),
	C(symlinkat, STR, N, STR), C(readlink, STR, BOUT(2)), C(readlinkat, N, STR, BOUT(3)),
	C(mkdir, STR), C(mkdirat, N, STR), C(rmdir, STR), C(mknod, STR), C(mknodat, N, STR),
	C(getcwd, BOUT(1)), C(chdir, STR), C(chroot, STR), C(pivot_root, STR, STR), C(umount2, STR),
	C(mount, STR, STR, STR, N, ANY), C(swapon, STR), C(swapoff, STR), C(acct, STR),
	C(getdents, N, BOUT(2)), C(getdents64, N, BOUT(2)), C(utime, STR, IN(16)), C(utimes, STR, IN(32)),
	C(futimesat, N, STR, IN(32)), C(utimensat, N, STR, IN(32)), C(pipe, OUT(8)), C(pipe2, OUT(8)),
	C(sendfile, N, N, OUT(8)), C(splice, N, OUT(8), N, OUT(8)), C(tee, N), C(copy_file_range, N, OUT(8), N, OUT(8)),
	C(fcntl, N, N, ANY), C(flock, N), C(fsync, N), C(fdatasync, N), C(dup, N), C(dup2, N), C(dup3, N),
	C(setxattr, STR, STR, BIN(3)), C(lsetxattr, STR, STR, BIN(3)), C(fsetxattr, N, STR, BIN(3)),
	C(getxattr, STR, STR, BOUT(3)), C(lgetxattr, STR, STR, BOUT(3)), C(fgetxattr, N, STR, BOUT(3)),
	C(listxattr, STR, BOUT(2)), C(llistxattr, STR, BOUT(2)), C(flistxattr, N, BOUT(2)),
	C(removexattr, STR, STR), C(lremovexattr, STR, STR), C(fremovexattr, N, STR),
	C(inotify_add_watch, N, STR), C(memfd_create, STR), C(name_to_handle_at, N, STR, OUT(136), OUT(4)),
	C(open_by_handle_at, N, IN(136)), C(quotactl, N, STR, N, ANY), C(mount_setattr, N, STR, N, BIN(4)),
	/* waiting for descriptors */
	C(poll, AOUT(1, 8)), C(ppoll, AOUT(1, 8), N, OUT(16), IN(8)),
	C(select, N, FDS(0), FDS(0), FDS(0), OUT(16)),
	C(pselect6, N, FDS(0), FDS(0), FDS(0), OUT(16), { SIGSET_PAIR, 0, 0 }),
	C(epoll_wait, N, AOUT(2, sizeof(struct epoll_event))), C(epoll_ctl, N, N, N, IN(sizeof(struct epoll_event))),
	C(epoll_pwait, N, AOUT(2, sizeof(struct epoll_event)), N, N, IN(8)),
	C(epoll_pwait2, N, AOUT(2, sizeof(struct epoll_event)), N, IN(16), IN(8)),
	C(signalfd, N, IN(8)), C(signalfd4, N, IN(8)), C(eventfd2, N), C(timerfd_settime, N, N, IN(32), OUT(32)),
	C(timerfd_gettime, N, OUT(32)),
	C(io_setup, N, OUT(8)), C(io_destroy, N), C(io_submit, N, N, { IOCBS, 1, 0 }), C(io_cancel, N, IN(64), OUT(32)),
	C(io_getevents, N, N, N, AOUT(2, 32), IN(16)), C(io_pgetevents, N, N, N, AOUT(2, 32), IN(16), ANY),
	C(io_uring_setup, N, OUT(120)), C(io_uring_enter, N, N, N, N, ANY), C(io_uring_register, N, N, ANY),
	/* sockets */
	C(connect, N, BIN(2)), C(bind, N, BIN(2)), C(accept, N, LEN(2), OUT(4)), C(accept4, N, LEN(2), OUT(4)),
	C(getsockname, N, LEN(2), OUT(4)), C(getpeername, N, LEN(2), OUT(4)), C(socketpair, N, N, N, OUT(8)),
	C(sendto, N, BIN(2), N, N, BIN(5)), C(recvfrom, N, BOUT(2), N, N, LEN(5), OUT(4)),
	C(sendmsg, N, { MSG_IN, 0, 0 }), C(recvmsg, N, { MSG_OUT, 0, 0 }), C(sendmmsg, N, { MMSG_IN, 2, 0 }),
	C(recvmmsg, N, { MMSG_OUT, 2, 0 }, N, N, OUT(16)), C(setsockopt, N, N, N, BIN(4)),
	C(getsockopt, N, N, N, LEN(4), OUT(4)), C(shutdown, N), C(listen, N), C(socket, N),
	/* processes, signals, time */
	C(execve, STR, STRS, STRS), C(execveat, N, STR, STRS, STRS), C(wait4, N, OUT(4), N, OUT(144)),
	C(waitid, N, N, OUT(128), N, OUT(144)), C(exit, N), C(exit_group, N), C(kill, N), C(tgkill, N), C(tkill, N),
	C(fork, N), C(vfork, N), C(clone, N), C(clone3, N), /* children return elsewhere: never made for the program */
	C(rt_sigreturn, N), C(rt_sigaction, N, IN(32), OUT(32)), C(rt_sigprocmask, N, IN(8), OUT(8)),
	C(rt_sigpending, OUT(8)), C(rt_sigtimedwait, IN(8), OUT(128), IN(16)), C(rt_sigqueueinfo, N, N, IN(128)),
	C(rt_tgsigqueueinfo, N, N, N, IN(128)), C(pidfd_send_signal, N, N, IN(128)), C(rt_sigsuspend, IN(8)),
	C(sigaltstack, IN(24), OUT(24)), C(restart_syscall, N), C(sched_yield, N), C(getpid, N), C(gettid, N),
	C(nanosleep, IN(16), OUT(16)), C(clock_nanosleep, N, N, IN(16), OUT(16)), C(gettimeofday, OUT(16), OUT(8)),
	C(settimeofday, IN(16), IN(8)), C(time, OUT(8)), C(times, OUT(32)), C(clock_gettime, N, OUT(16)),
	C(clock_settime, N, IN(16)), C(clock_getres, N, OUT(16)), C(adjtimex, OUT(208)), C(clock_adjtime, N, OUT(208)),
	C(getitimer, N, OUT(32)), C(setitimer, N, IN(32), OUT(32)), C(timer_create, N, IN(64), OUT(4)),
	C(timer_settime, N, N, IN(32), OUT(32)), C(timer_gettime, N, OUT(32)),
	C(getrlimit, N, OUT(16)), C(setrlimit, N, IN(16)), C(prlimit64, N, N, IN(16), OUT(16)), C(getrusage, N, OUT(144)),
	C(sysinfo, OUT(112)), C(uname, OUT(390)), C(getcpu, OUT(4), OUT(4)), C(getrandom, BOUT(1)),
	C(getgroups, N, AOUT(0, 4)), C(setgroups, N, AIN(0, 4)), C(getresuid, OUT(4), OUT(4), OUT(4)),
	C(getresgid, OUT(4), OUT(4), OUT(4)), C(capget, OUT(8), OUT(24)), C(capset, IN(8), IN(24)),
	C(sethostname, BIN(1)), C(setdomainname, BIN(1)), C(syslog, N, BOUT(2)), C(prctl, N, ANY, ANY, ANY, ANY),
	C(arch_prctl, N, ANY), C(ptrace, N, N, N, ANY), C(sched_setparam, N, IN(4)), C(sched_getparam, N, OUT(4)),
	C(sched_setscheduler, N, N, IN(4)), C(sched_rr_get_interval, N, OUT(16)), C(sched_setattr, N, IN(56)),
	C(sched_getattr, N, BOUT(2)), C(sched_setaffinity, N, N, BIN(1)), C(sched_getaffinity, N, N, BOUT(1)),
	C(get_robust_list, N, OUT(8), OUT(8)), C(set_robust_list, N), C(set_tid_address, N), C(rseq, N),
	C(seccomp, N, N, ANY), C(bpf, N, BIN(2)), C(perf_event_open, IN(128)), C(finit_module, N, STR),
	C(process_vm_readv, N, VOUT(2), N, AIN(4, 16)), C(process_vm_writev, N, VIN(2), N, AIN(4, 16)),
	/* between processes */
	C(shmctl, N, N, OUT(112)), C(semop, N, AIN(2, 6)), C(semtimedop, N, AIN(2, 6), N, IN(16)), C(semctl, N, N, N, ANY),
	C(msgsnd, N, { BUF_IN, 2, 8 }), C(msgrcv, N, { BUF_OUT, 2, 8 }), C(msgctl, N, N, OUT(120)),
	C(mq_open, STR, N, N, IN(64)), C(mq_unlink, STR), C(mq_timedsend, N, BIN(2), N, N, IN(16)),
	C(mq_timedreceive, N, BOUT(2), N, OUT(4), IN(16)), C(mq_notify, N, IN(64)), C(mq_getsetattr, N, IN(64), OUT(64)),
	C(add_key, STR, STR, BIN(3)), C(request_key, STR, STR, STR), C(keyctl, N, ANY, ANY, ANY, ANY),
	C(futex, { WORD, 0, 0 }, N, N, { TIMEOUT, 0, 0 }, { WORD, 0, 0 }), X(449, { WAITERS, 1, 0 }, N, N, IN(16)),
	X(454, { WORD, 0, 0 }), X(455, { WORD, 0, 0 }, N, N, N, IN(16)), X(456, { WAITERS, 2, 0 }),
	/* addresses are what these are about: the runtime's own, and those that it wraps (preload_mman.c) */
	C(mmap, N), C(munmap, N), C(mremap, N), C(mprotect, N), C(pkey_mprotect, N), C(madvise, N), C(brk, N),
	C(mincore, N, N, ANY), C(msync, N), C(mlock, N), C(mlock2, N), C(munlock, N), C(shmat, N), C(shmdt, N),
	C(remap_file_pages, N), C(mbind, N, N, N, ANY), C(set_mempolicy, N, ANY), C(get_mempolicy, OUT(4), ANY),
	C(move_pages, N, N, AIN(1, 8), AIN(1, 4), AOUT(1, 4)), C(process_madvise, N, AIN(2, 16)),
	/* no pointers at all; unused registers are not to be looked at */
	C(setpgid, N), C(getpgid, N), C(getpgrp, N), C(setsid, N), C(getsid, N), C(getppid, N), C(getuid, N), C(geteuid, N),
	C(getgid, N), C(getegid, N), C(setuid, N), C(setgid, N), C(setreuid, N), C(setregid, N), C(setresuid, N), C(setresgid, N),
	C(setfsuid, N), C(setfsgid, N), C(fchdir, N), C(fchmod, N), C(fchown, N), C(umask, N), C(alarm, N), C(pause, N),
	C(close_range, N), C(personality, N), C(getpriority, N), C(setpriority, N), C(sched_get_priority_max, N),
	C(sched_get_priority_min, N), C(sched_getscheduler, N), C(sync, N), C(syncfs, N), C(sync_file_range, N), C(readahead, N),
	C(fadvise64, N), C(epoll_create, N), C(epoll_create1, N), C(eventfd, N), C(timerfd_create, N), C(inotify_init, N),
	C(inotify_init1, N), C(inotify_rm_watch, N), C(semget, N), C(shmget, N), C(msgget, N), C(timer_getoverrun, N),
	C(timer_delete, N), C(unshare, N), C(setns, N), C(pidfd_open, N), C(pidfd_getfd, N), C(membarrier, N), C(mlockall, N),
	C(munlockall, N), C(ioprio_set, N), C(ioprio_get, N), C(vhangup, N), C(userfaultfd, N), C(kcmp, N), C(ioctl, N, N, ANY),
	/* everything else is not known: LOOSE in all six */
};

static bool is_known(long nr)
{
	return nr >= 0 && nr < XM_CALLS_MAX && calls[nr].known;
}

unsigned xm_call_pointers(long nr)
{
	unsigned mask = 0;

	if (!is_known(nr))
		return 63;
	if (nr == SYS_rt_sigprocmask)
		return 1u << 2;
	for (unsigned i = 0; i < 6; i++)
		if (calls[nr].arg[i].kind != NONE)
			mask |= 1u << i;
	return mask;
}

/* ---- holding ------------------------------------------------------------------------------------------------------ */

/* Of one call: the rest is the kernel's to refuse, or to leave undone. */
static uint64_t pages_most(void)
{
	return xm_max(xm_rt.fam->budget_pages / 2, 256ull);
}

size_t xm_call_part_bytes(void)
{
	return xm_min((uint64_t)PART_PAGES, xm_max(xm_rt.fam->budget_pages / 16, 16ull)) << XM_PAGE_SHIFT;
}

/* Remembers the span; false: there is no memory for that, and nothing is held. */
static bool note(struct xm_call *c, uint64_t page, uint64_t n)
{
	struct xm_span *list = c->more ? c->more : c->span, *grown;
	uint64_t room = c->more ? c->more_bytes / sizeof(*list) : XM_SIG_SPANS;

	if (c->n && list[c->n - 1].page + list[c->n - 1].n == page) {
		list[c->n - 1].n += n;
		return true;
	}
	if (c->n == room) {
		grown = xm_local_alloc(4 * room * sizeof(*list));
		if (!grown)
			return false;
		memcpy(grown, list, c->n * sizeof(*list));
		if (c->more)
			xm_local_free(c->more, c->more_bytes);
		c->more = list = grown;
		c->more_bytes = xm_round_up(4 * room * sizeof(*list), XM_PAGE_SIZE);
	}
	list[c->n++] = (struct xm_span){ page, n };
	return true;
}

static bool is_external(uint64_t a, uint64_t len)
{
	return len && a >= xm_ext_lo && a < xm_ext_hi;
}

/* Whether a span of the call has the page already: one call must not use up a page's holds. */
static bool has(const struct xm_call *c, uint64_t page)
{
	const struct xm_span *list = c->more ? c->more : c->span;

	for (uint32_t i = c->n; i > 0; i--)
		if (page - list[i - 1].page < list[i - 1].n)
			return true;
	return false;
}

/* What has an effect although it says EFAULT: something was taken out of a queue. */
static bool has_effect(long nr)
{
	static const short those[] = { SYS_read, SYS_readv, SYS_recvfrom, SYS_recvmsg, SYS_recvmmsg, SYS_accept, SYS_accept4,
				       SYS_mq_timedreceive, SYS_msgrcv, SYS_io_getevents, SYS_wait4, SYS_waitid,
				       SYS_rt_sigtimedwait, SYS_pipe, SYS_pipe2, SYS_socketpair };

	for (size_t i = 0; i < XM_ARRAY_SIZE(those); i++)
		if (nr == those[i])
			return true;
	return false;
}

/* One page; false: it cannot be had. */
static bool hold_page(struct xm_call *c, uint64_t page, bool write)
{
	if (has(c, page))
		return xm_fault_bring(&xm_rt, page, write, c->tid) == 0;
	if (xm_fault_hold(&xm_rt, xm_page_addr(page), 1, write, c->tid)) {
		if (note(c, page, 1)) {
			c->pages++;
			return true;
		}
		xm_fault_release(&xm_rt.pt[page]);
	}
	if (xm_fault_bring(&xm_rt, page, write, c->tid) < 0)
		return false;
	/* more calls hold it than can be counted: it is here now, and if it leaves, the call is made again */
	c->again |= !has_effect(c->nr);
	return true;
}

void xm_call_hold(struct xm_call *c, const void *addr, uint64_t len, bool write)
{
	uint64_t a = (uint64_t)(uintptr_t)addr, most = pages_most(), page, end;

	if (!is_external(a, len))
		return;
	page = xm_page_of(addr);
	end = (xm_min(len, xm_ext_hi - a) + a - 1 - xm_ext_lo) >> XM_PAGE_SHIFT;
	while (page <= end && c->pages < most && hold_page(c, page, write))
		page++;
}

/* For calls that say EFAULT before they do anything, and may sleep for ever after that. */
static void bring_in(struct xm_call *c, uint64_t a)
{
	c->again = true;
	if (is_external(a, 4))
		xm_fault_bring(&xm_rt, xm_page_of((void *)a), true, c->tid);
}

/* Copies len bytes from the program's memory, which have been held where they are external. */
static bool copy_in(void *to, const void *from, size_t len)
{
	struct iovec local = { to, len }, remote = { (void *)(uintptr_t)from, len };

	return xm_sys_vm_readv(&local, 1, &remote, 1) == (ssize_t)len;
}

void xm_call_hold_string(struct xm_call *c, const char *s)
{
	uint64_t a = (uint64_t)(uintptr_t)s;

	while (is_external(a, 1)) {
		uint64_t end = xm_round_down(a, XM_PAGE_SIZE) + XM_PAGE_SIZE;

		if (!hold_page(c, xm_page_of((void *)a), false) || memchr((void *)a, 0, end - a))
			return;
		a = end;
	}
}

void xm_call_hold_strings(struct xm_call *c, char *const *list)
{
	char *s;

	for (; list; list++) {
		xm_call_hold(c, list, sizeof(*list), false);
		if (!copy_in(&s, list, sizeof(s)) || !s)
			return;
		xm_call_hold_string(c, s);
	}
}

/* ---- what lies in structures ---------------------------------------------------------------------------------------- */

static void hold_iovecs(struct xm_call *c, const struct iovec *iov, uint64_t n, bool write)
{
	struct iovec part[16];

	n = xm_min(n, (uint64_t)IOV_MAX);
	xm_call_hold(c, iov, n * sizeof(*iov), false);
	for (uint64_t i = 0; i < n; i += XM_ARRAY_SIZE(part)) {
		uint64_t k = xm_min(n - i, (uint64_t)XM_ARRAY_SIZE(part));

		if (!copy_in(part, iov + i, k * sizeof(*part)))
			return;
		for (uint64_t j = 0; j < k; j++)
			xm_call_hold(c, part[j].iov_base, part[j].iov_len, write);
	}
}

static void hold_message(struct xm_call *c, const struct msghdr *at, bool write)
{
	struct msghdr m;

	xm_call_hold(c, at, sizeof(*at), write);
	if (!copy_in(&m, at, sizeof(m)))
		return;
	xm_call_hold(c, m.msg_name, m.msg_namelen, write);
	xm_call_hold(c, m.msg_control, m.msg_controllen, write);
	hold_iovecs(c, m.msg_iov, m.msg_iovlen, write);
}

static void hold_messages(struct xm_call *c, const struct mmsghdr *at, uint64_t n, bool write)
{
	n = xm_min(n, (uint64_t)IOV_MAX);
	xm_call_hold(c, at, n * sizeof(*at), true);
	for (uint64_t i = 0; i < n; i++)
		hold_message(c, &at[i].msg_hdr, write);
}

static void hold_iocb(struct xm_call *c, const struct iocb *at)
{
	bool in, vector;
	struct iocb io;

	xm_call_hold(c, at, sizeof(*at), true);
	if (!copy_in(&io, at, sizeof(io)))
		return;
	in = io.aio_lio_opcode == IOCB_CMD_PWRITE || io.aio_lio_opcode == IOCB_CMD_PWRITEV;
	vector = io.aio_lio_opcode == IOCB_CMD_PREADV || io.aio_lio_opcode == IOCB_CMD_PWRITEV;
	if (vector)
		hold_iovecs(c, (void *)(uintptr_t)io.aio_buf, io.aio_nbytes, !in);
	else if (in || io.aio_lio_opcode == IOCB_CMD_PREAD)
		xm_call_hold(c, (void *)(uintptr_t)io.aio_buf, io.aio_nbytes, !in);
}

static void hold_iocbs(struct xm_call *c, struct iocb *const *list, uint64_t n)
{
	struct iocb *at;

	xm_call_hold(c, list, n * sizeof(*list), false);
	for (uint64_t i = 0; i < n && copy_in(&at, &list[i], sizeof(at)); i++)
		hold_iocb(c, at);
}

static void bring_waiters(struct xm_call *c, uint64_t at, uint64_t n)
{
	struct {
		uint64_t value, address;
		uint32_t flags, reserved;
	} w;

	n = xm_min(n, 128ull); /* FUTEX_WAITV_MAX */
	xm_call_hold(c, (void *)at, n * sizeof(w), false);
	for (uint64_t i = 0; i < n && copy_in(&w, (void *)(at + i * sizeof(w)), sizeof(w)); i++)
		bring_in(c, w.address);
}

static void hold_sigset_pair(struct xm_call *c, const void *at)
{
	void *pair[2];

	xm_call_hold(c, at, sizeof(pair), false);
	if (copy_in(pair, at, sizeof(pair)))
		xm_call_hold(c, pair[0], 8, false);
}

static void hold_loose(struct xm_call *c, uint64_t a)
{
	uint64_t word[LOOK / 8];
	struct iovec local = { word, sizeof(word) }, remote = { (void *)a, sizeof(word) };
	ssize_t got;

	xm_call_hold(c, (void *)a, LOOK, true);
	got = xm_sys_vm_readv(&local, 1, &remote, 1); /* as much as there is */
	for (ssize_t i = 0; i < got / 8; i++)
		if (is_external(word[i], 1))
			xm_call_hold(c, (void *)word[i], XM_PAGE_SIZE, true);
}

/* ---- one argument ----------------------------------------------------------------------------------------------------- */

static bool holds_memory(struct xm_call *c, const struct argument *is, const void *p)
{
	uint64_t n = (uint64_t)c->arg[is->n];
	uint32_t len;

	switch ((enum kind)is->kind) {
	case PLAIN_IN:
	case PLAIN_OUT: xm_call_hold(c, p, is->size, is->kind == PLAIN_OUT); return true;
	case BUF_IN:
	case BUF_OUT: xm_call_hold(c, p, n + is->size, is->kind == BUF_OUT); return true;
	case ARRAY_IN:
	case ARRAY_OUT: xm_call_hold(c, p, xm_min(n, 1ull << 32) * is->size, is->kind == ARRAY_OUT); return true;
	case FDSET: xm_call_hold(c, p, xm_min(n, 1ull << 24) / 8 + 8, true); return true;
	case STRING: xm_call_hold_string(c, p); return true;
	case STRINGS: xm_call_hold_strings(c, (char *const *)p); return true;
	case SOCKLEN:
		xm_call_hold(c, (void *)c->arg[is->n], 4, true);
		if (p && copy_in(&len, (void *)c->arg[is->n], 4))
			xm_call_hold(c, p, len, true);
		return true;
	default: return false;
	}
}

static void hold_argument(struct xm_call *c, const struct argument *is, long value)
{
	void *p = (void *)value;
	uint64_t n = (uint64_t)c->arg[is->n];

	if (is->kind == NONE || !p || holds_memory(c, is, p))
		return;
	switch ((enum kind)is->kind) {
	case IOVEC_IN:
	case IOVEC_OUT: hold_iovecs(c, p, n, is->kind == IOVEC_OUT); break;
	case MSG_IN:
	case MSG_OUT: hold_message(c, p, is->kind == MSG_OUT); break;
	case MMSG_IN:
	case MMSG_OUT: hold_messages(c, p, n, is->kind == MMSG_OUT); break;
	case IOCBS: hold_iocbs(c, p, xm_min(n, 65536ull)); break;
	case WAITERS: bring_waiters(c, (uint64_t)value, n); break;
	case SIGSET_PAIR: hold_sigset_pair(c, p); break;
	case WORD:
	case TIMEOUT: bring_in(c, (uint64_t)value); break;
	default: hold_loose(c, (uint64_t)value); break;
	}
}

void xm_call_prepare(struct xm_call *c)
{
	static const struct argument loose = { LOOSE, 0, 0 };
	bool known = is_known(c->nr);

	for (unsigned i = 0; i < 6; i++) {
		const struct argument *is = known ? &calls[c->nr].arg[i] : &loose;

		if (known || is_external((uint64_t)c->arg[i], 1))
			hold_argument(c, is, c->arg[i]);
	}
}
