/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trapped.c - whether this process has inherited the filter of fault mode signal (preload_filter.c) from a program that executed
 * it. A filter is for good: in a process that does not serve it, a system call on memory at the usual place of external memory
 * would be the end; its external memory has to be somewhere else.
 *
 * Asked by the starting thread, once: writes nothing, from that place, to no descriptor, with a handler of its own for the moment.
 */
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <ucontext.h>

#include "runtime/internal.h"

static volatile sig_atomic_t trapped;

static void on_sys(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;

	trapped = 1;
	uc->uc_mcontext.gregs[REG_RAX] = -EBADF;
}

bool xm_calls_are_trapped(void)
{
	struct sigaction act = { .sa_sigaction = on_sys, .sa_flags = SA_SIGINFO }, old;
	uint64_t mask = 1ull << (SIGSYS - 1), was = 0;

	if (xm_sys5(SYS_prctl, PR_GET_SECCOMP, 0, 0, 0, 0) == 0 || sigaction(SIGSYS, &act, &old) < 0)
		return false;
	trapped = 0;
	xm_sys4(SYS_rt_sigprocmask, SIG_UNBLOCK, &mask, &was, 8);
	xm_sys3(SYS_write, -1, XM_EXT_BASE, 0);
	xm_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &was, 0, 8);
	sigaction(SIGSYS, &old, NULL);
	return trapped;
}
