/* SPDX-License-Identifier: Apache-2.0 */
/*
 * preload_signal.h - fault mode signal, as far as it is the preload object's: what its files share.
 *
 *   preload_sigbus.c     SIGBUS: absent pages are resolved by the thread that met them; the start of the mode
 *   preload_filter.c     the seccomp filter, and the one instruction that it lets through
 *   preload_trap.c       SIGSYS: a call on external memory: its pages are held while it is made
 *   preload_calls.c      which arguments of which system call lead where
 *   preload_wrap.c       libc's functions whose calls the filter cannot see, or that are called often
 *   preload_trap_done.c  the way back from such a call
 *   preload_sigmask.c    the program's own masks, and actions for the two signals
 *   preload_sigframe.c   the program's handlers, on the stack that it means
 *   preload_sigthread.c  a stack for handlers, and what is known of calls in progress, a thread
 *
 * A process is meant for this mode from its beginning (xm_sig_wanted): its threads get their stacks, and the two signals are
 * never blocked. It is in it (xm_sig_on) from the start of its runtime on.
 */
#ifndef XM_PRELOAD_SIGNAL_H
#define XM_PRELOAD_SIGNAL_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <ucontext.h>

#include "runtime/internal.h"

/* Where the call instruction of covered processes is: one address in all of them and in all versions, since a filter is
 * inherited by what a program executes. */
#define XM_SIG_PAGE 0x1ffffffe0000ull
#define XM_SIG_SPANS 12
#define XM_SIG_CALLS 8

struct xm_span {
	uint64_t page;
	uint64_t n;
};

/* A system call in progress, and the pages that are held for it. */
struct xm_call {
	uint64_t sp; /* the program's stack when it began; 0: the entry is free */
	long nr, arg[6];
	uint32_t tid;
	uint32_t n;
	uint64_t pages;
	bool again; /* EFAULT has no effect: it may be made once more */
	struct xm_span span[XM_SIG_SPANS];
	struct xm_span *more; /* local memory of more_bytes; NULL: span[] has all */
	uint64_t more_bytes;
};

/* Of one thread: at the top of the memory that its handlers' stack lies in. */
struct xm_sig_thread {
	char *stack; /* the kernel's alternate stack */
	size_t stack_bytes;
	stack_t program; /* what the program believes to be its alternate stack */
	uint32_t tid;
	uint32_t tries;	     /* of the same call that said EFAULT */
	uint64_t refused;    /* the address of a fault that could not be resolved: a second time it is the program's */
	struct xm_call call[XM_SIG_CALLS];
	struct xm_sig_thread *next; /* in the list of free ones */
};

extern bool xm_sig_wanted;	/* written once, before there are threads; or cleared when the mode is not possible */
extern uint32_t xm_sig_on;	/* atomic */
extern __thread struct xm_sig_thread *xm_sig_self __attribute__((tls_model("initial-exec"))); /* NULL: made by a raw call */
extern __thread uint64_t xm_sig_virtual __attribute__((tls_model("initial-exec"))); /* of the two: blocked, to the program */

/* ---- preload_sigbus.c ---- */
/* By the starting thread: true: external memory will be served by signal; else why (one clause). */
bool xm_sig_start(char *why, size_t size);
/* The signal is the program's: its handler is called, or its default comes to pass when this returns. */
void xm_sig_forward(int sig, siginfo_t *info, ucontext_t *uc);
/* The default, when this returns. */
void xm_sig_by_default(int sig, const siginfo_t *info, ucontext_t *uc);
uint32_t xm_sig_tid(void);

/* ---- preload_sigthread.c ---- */
/* Gives the calling thread its stack, unless it has one; without memory it has none. */
void xm_sig_thread_enter(void);
void xm_sig_thread_forked(void); /* in the child of fork */
/* A thread's function and argument, to be passed to pthread_create in their place: *fn and *arg are replaced. */
void xm_sig_thread_wrap(void *(**fn)(void *), void **arg);
void xm_sig_thread_unwrap(void *arg); /* it was not created */

/* sp is on the thread's handlers' stack. */
static inline bool xm_sig_on_stack(const struct xm_sig_thread *t, uint64_t sp)
{
	return sp - (uint64_t)(uintptr_t)t->stack < t->stack_bytes;
}

/* ---- preload_sigmask.c ---- */
/* The kernel's own, by libc's function. */
int xm_sig_install(int sig, const struct sigaction *act, struct sigaction *old);

/* ---- preload_sigframe.c ---- */
/* The program's action, 1 <= sig < NSIG. */
struct sigaction *xm_sig_action(int sig);
/* sigaction, of signals that the kernel gives to the program: not of the two that are ours while the mode is on. */
int xm_sig_set(int sig, const struct sigaction *act, struct sigaction *old);
/* From now on the signal is ours, and the program's action only remembered. */
void xm_sig_take_over(int sig, const struct sigaction *act);
/* Calls the program's handler, on the program's stack; returns only where it could not leave ours. */
void xm_sig_deliver(int sig, siginfo_t *info, ucontext_t *uc);

/* ---- preload_filter.c ---- */
/* Maps the page with the instruction. 0 or -errno. */
int xm_sig_map_page(void);
/* Installs the filter for all threads. 0 or -errno. */
int xm_sig_install_filter(void);
/* The system call, by that instruction: never trapped. */
long xm_sig_fixed(long nr, long a, long b, long c, long d, long e, long f);

/* ---- preload_calls.c ---- */
/* Bit i: argument i of the call may point to memory that the kernel accesses. Unknown calls: all. */
unsigned xm_call_pointers(long nr);
#define XM_CALLS_MAX 480
/* Holds what the call in c reaches of external memory. */
void xm_call_prepare(struct xm_call *c);
/* In what parts a large buffer goes, where it may: a small share of the local budget is held at a time. */
size_t xm_call_part_bytes(void);
/* The same for pieces: [addr, addr + len); a string; an array of strings, NULL at its end. */
void xm_call_hold(struct xm_call *c, const void *addr, uint64_t len, bool write);
void xm_call_hold_string(struct xm_call *c, const char *s);
void xm_call_hold_strings(struct xm_call *c, char *const *list);

/* ---- preload_trap.c ---- */
void xm_sig_on_sys(int sig, siginfo_t *info, void *context);
extern uint32_t xm_sig_traps; /* atomic */
/* A call that is made here, by a function whose frame *own is in: what it reaches is held until xm_call_end() of what this
 * returns (an entry of the thread's, or own). */
struct xm_call *xm_call_begin(struct xm_call *own, long nr, const long arg[6]);
void xm_call_end(struct xm_call *c);
/* lint: 7 params (the kernel's number of them) */
/* The system call with its pages held, as libc's function makes it: -1 and errno; a cancellation point where that is one. */
long xm_sig_call(long nr, long a, long b, long c, long d, long e, long f);
/* lint: 7 params (the same) */
/* As syscall() makes it: no cancellation point. */
long xm_sig_call_raw(long nr, long a, long b, long c, long d, long e, long f);

/* ---- preload_trap_done.c ---- */
/* Where a call returns to that was made for the program (assembly). */
void xm_trap_return(void);

static inline bool xm_sig_active(void)
{
	return xm_load_relaxed(&xm_sig_on) && !xm_in_runtime;
}

#endif
