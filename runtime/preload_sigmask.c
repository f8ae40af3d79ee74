/* SPDX-License-Identifier: Apache-2.0 */
/*
 * preload_sigmask.c - SIGBUS and SIGSYS in a process that is meant for fault mode signal. To the program they are its own: its
 * handlers are remembered and called for what is no fault of ours (preload_sigbus.c), and its masks read as it set them.
 * To the kernel they are never blocked: a thread that has one blocked is killed by the fault or the call.
 *
 * Masks that libc sets by itself (pthread_create, posix_spawn) are not seen here: what it touches meanwhile is local, or held.
 * Any thread; no lock: actions are the process's, as they are without us.
 */
#include "runtime/preload_signal.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>

#include "runtime/preload.h"

__thread uint64_t xm_sig_virtual __attribute__((tls_model("initial-exec")));

int xm_sig_install(int sig, const struct sigaction *act, struct sigaction *old)
{
	return XM_NEXT(sigaction)(sig, act, old);
}

static bool is_ours(int sig)
{
	return sig == SIGBUS || sig == SIGSYS;
}

static sigset_t without_ours(const sigset_t *set)
{
	sigset_t s = *set;

	s.__val[0] &= ~XM_SIG_OURS;
	return s;
}

/* ---- actions ------------------------------------------------------------------------------------------------------------------ */

XM_PUBLIC int sigaction(int sig, const struct sigaction *act, struct sigaction *old)
{
	struct sigaction was, new;

	if (xm_in_runtime || !xm_sig_wanted || sig < 1 || sig >= NSIG || sig == SIGKILL || sig == SIGSTOP)
		return XM_NEXT(sigaction)(sig, act, old);
	if (act)
		new = *act; /* copies: the program's may be external, and the same */
	if (is_ours(sig) && xm_load(&xm_sig_on)) {
		was = *xm_sig_action(sig);
		if (act)
			*xm_sig_action(sig) = new;
	} else if (xm_sig_set(sig, act ? &new : NULL, &was) < 0) {
		return -1;
	}
	if (old)
		*old = was;
	return 0;
}

/* The functions of libc that set the action of one signal, without going through the one above. */
static sighandler_t set_simply(int sig, sighandler_t handler, int flags)
{
	struct sigaction act = { .sa_handler = handler, .sa_flags = flags }, old;

	if (!(flags & SA_NODEFER))
		sigaddset(&act.sa_mask, sig);
	return sigaction(sig, &act, &old) < 0 ? SIG_ERR : old.sa_handler;
}

#define ONE_SIGNAL(name, flags)                                         \
	XM_PUBLIC sighandler_t name(int sig, sighandler_t handler)      \
	{                                                               \
		if (xm_in_runtime || !xm_sig_wanted)                    \
			return XM_NEXT(name)(sig, handler);             \
		return set_simply(sig, handler, (flags));               \
	}

sighandler_t __sysv_signal(int sig, sighandler_t handler);
ONE_SIGNAL(signal, SA_RESTART)
ONE_SIGNAL(ssignal, SA_RESTART)
ONE_SIGNAL(__sysv_signal, SA_RESETHAND | SA_NODEFER)
ONE_SIGNAL(sysv_signal, SA_RESETHAND | SA_NODEFER)

/* ---- masks ------------------------------------------------------------------------------------------------------------------------ */

static int change_mask(int how, const sigset_t *set, sigset_t *old)
{
	__typeof__(&pthread_sigmask) real = XM_NEXT(pthread_sigmask);
	uint64_t before = xm_sig_virtual, bits;
	sigset_t ours, was;
	int r;

	if (xm_in_runtime || !xm_sig_wanted)
		return real(how, set, old);
	if (set)
		ours = without_ours(set);
	r = real(how, set ? &ours : NULL, &was);
	if (r)
		return r;
	bits = set ? set->__val[0] & XM_SIG_OURS : before;
	if (set && how != SIG_SETMASK)
		bits = how == SIG_BLOCK ? before | bits : before & ~bits;
	if (bits != before && !xm_pre_in_vfork_child()) /* whose memory is its parent's */
		xm_sig_virtual = bits;
	was.__val[0] = (was.__val[0] & ~XM_SIG_OURS) | before;
	if (old)
		*old = was;
	return 0;
}

XM_PUBLIC int pthread_sigmask(int how, const sigset_t *set, sigset_t *old)
{
	return change_mask(how, set, old);
}

XM_PUBLIC int sigprocmask(int how, const sigset_t *set, sigset_t *old)
{
	int r = change_mask(how, set, old);

	if (!r)
		return 0;
	errno = r;
	return -1;
}

/* The mask for a wait of the program's: NULL stays, and so does one that is not to be changed. */
static const sigset_t *for_wait(const sigset_t *set, sigset_t *room)
{
	if (!set || !xm_sig_wanted)
		return set;
	*room = without_ours(set);
	return room;
}

XM_PUBLIC int sigsuspend(const sigset_t *set)
{
	sigset_t room;

	return XM_NEXT(sigsuspend)(for_wait(set, &room));
}

XM_PUBLIC int ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *set)
{
	sigset_t room;

	return XM_NEXT(ppoll)(fds, n, timeout, for_wait(set, &room));
}

int __ppoll_chk(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *set, size_t bytes);
XM_PUBLIC int __ppoll_chk(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *set, size_t bytes)
{
	sigset_t room;

	return XM_NEXT(__ppoll_chk)(fds, n, timeout, for_wait(set, &room), bytes);
}

XM_PUBLIC int epoll_pwait2(int fd, struct epoll_event *events, int most, const struct timespec *timeout, const sigset_t *set)
{
	sigset_t room;

	return XM_NEXT(epoll_pwait2)(fd, events, most, timeout, for_wait(set, &room));
}

XM_PUBLIC int pselect(int n, fd_set *in, fd_set *out, fd_set *special, const struct timespec *timeout, const sigset_t *set)
{
	sigset_t room;

	return XM_NEXT(pselect)(n, in, out, special, timeout, for_wait(set, &room));
}

XM_PUBLIC int epoll_pwait(int fd, struct epoll_event *events, int most, int timeout, const sigset_t *set)
{
	sigset_t room;

	return XM_NEXT(epoll_pwait)(fd, events, most, timeout, for_wait(set, &room));
}
