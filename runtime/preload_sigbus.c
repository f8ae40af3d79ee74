/* SPDX-License-Identifier: Apache-2.0 */
/*
 * preload_sigbus.c - fault mode signal: its start, and SIGBUS.
 *
 * The kernel sends SIGBUS to a thread that touches an absent page of a userfaultfd with UFFD_FEATURE_SIGBUS, or writes to a
 * protected one. The handler resolves the fault where it is (fault_here.c) and returns: the access is made again. What
 * is no fault of ours (a file that has become shorter, a page that is lost, a signal that somebody sent) is the program's:
 * its handler is called, or SIGBUS ends it where it stands. An address of the range that the runtime cannot serve is
 * tried once more before that: it may have been unmapped just now, and then the kernel's answer is another.
 *
 * Handlers run on the thread's own local stack (preload_sigthread.c). While a fault is resolved all signals are blocked; while
 * a call is prepared (preload_trap.c) all but SIGBUS.
 *
 * The mode is refused where it would not be right, with one line, and faults are then answered by handler threads: a Java
 * machine (it looks at its own faults, and blocks what it likes), Go (blocks all signals by calls of its own).
 */
#include "runtime/preload_signal.h"

#include <errno.h>
#include <link.h>
#include <string.h>
#include <sys/mman.h>

#include "runtime/preload.h"

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

#define X86_PROTECTION 1 /* bits of a page fault's error code (Intel SDM, volume 3, 4.7) */
#define X86_WRITE 2

bool xm_sig_wanted;
uint32_t xm_sig_on;

uint32_t xm_sig_tid(void)
{
	return xm_sig_self ? xm_sig_self->tid : (uint32_t)xm_sys_gettid();
}

/* ---- the program's signals ------------------------------------------------------------------------------------------------ */

/* The default: the signal is pending, and comes when the handler returns. */
void xm_sig_by_default(int sig, const siginfo_t *info, ucontext_t *uc)
{
	struct sigaction dfl = { .sa_handler = SIG_DFL };

	xm_sig_install(sig, &dfl, NULL);
	uc->uc_sigmask.__val[0] &= ~(1ull << (sig - 1));
	/* a fault happens again by itself */
	if (info->si_code <= 0 || (sig != SIGBUS && sig != SIGSEGV && sig != SIGFPE && sig != SIGILL && sig != SIGTRAP))
		xm_sys3(SYS_tgkill, xm_sys_getpid(), xm_sys_gettid(), sig);
}

void xm_sig_forward(int sig, siginfo_t *info, ucontext_t *uc)
{
	const struct sigaction *act = xm_sig_action(sig);

	if (act->sa_handler == SIG_IGN && info->si_code <= 0)
		return;
	if (act->sa_handler == SIG_DFL || act->sa_handler == SIG_IGN)
		xm_sig_by_default(sig, info, uc);
	else
		xm_sig_deliver(sig, info, uc);
}

static void on_bus(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	uint64_t addr = (uint64_t)(uintptr_t)info->si_addr;
	uint64_t code = (uint64_t)uc->uc_mcontext.gregs[REG_ERR];
	struct xm_sig_thread *t = xm_sig_self;
	bool write = code & X86_WRITE;

	if (info->si_code > 0 && xm_load(&xm_sig_on) && xm_ext_contains((void *)addr)) {
		if (xm_fault_here(&xm_rt, xm_page_of((void *)addr), xm_sig_tid(), write, write && (code & X86_PROTECTION)) == 0) {
			if (t)
				t->refused = 0;
			return;
		}
		if (t && t->refused != addr) {
			t->refused = addr;
			return;
		}
	}
	xm_sig_forward(sig, info, uc);
}

/* ---- start ---------------------------------------------------------------------------------------------------------------------- */

static void install(int sig, void (*handler)(int, siginfo_t *, void *), uint64_t open)
{
	struct sigaction act = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART };

	memset(&act.sa_mask, 0xff, sizeof(act.sa_mask)); /* libc's own two signals as well: a thread may be cancelled later */
	act.sa_mask.__val[0] &= ~open;
	xm_sig_take_over(sig, &act);
}

static bool is_go_note(const struct dl_phdr_info *info, const ElfW(Phdr) *ph)
{
	const char *p = (const char *)(info->dlpi_addr + ph->p_vaddr), *end = p + ph->p_memsz;

	while (p + sizeof(ElfW(Nhdr)) + 4 <= end) {
		const ElfW(Nhdr) *note = (const void *)p;

		if (note->n_namesz == 4 && memcmp(p + sizeof(*note), "Go\0", 4) == 0)
			return true;
		p += sizeof(*note) + xm_round_up(note->n_namesz, 4u) + xm_round_up(note->n_descsz, 4u);
	}
	return false;
}

static int is_foreign(struct dl_phdr_info *info, size_t size, void *arg)
{
	const char *base = strrchr(info->dlpi_name, '/');
	const char **why = arg;

	base = base ? base + 1 : info->dlpi_name;
	if (!strcmp(base, "libjvm.so") || !strcmp(base, "libjli.so"))
		*why = "a Java machine looks at its faults itself";
	for (int i = 0; i < info->dlpi_phnum && !*why; i++)
		if (info->dlpi_phdr[i].p_type == PT_NOTE && is_go_note(info, &info->dlpi_phdr[i]))
			*why = "Go blocks signals by system calls of its own";
	return *why != NULL;
}

/* Whether a call on external memory is trapped: by writing none of it to no descriptor. By an instruction of ours. */
static bool is_trapped(void)
{
	uint32_t before = xm_load(&xm_sig_traps);

	xm_sys3(SYS_write, -1, XM_EXT_BASE, 0);
	return xm_load(&xm_sig_traps) != before;
}

static bool installed; /* both handlers */

/* Before anything is there for good. */
static bool range_is_free(void)
{
	void *at = xm_sys_mmap((void *)XM_EXT_BASE, XM_EXT_BYTES, PROT_NONE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);

	if (at)
		xm_sys_munmap(at, XM_EXT_BYTES);
	return at == (void *)XM_EXT_BASE;
}

static const char *start(int *err)
{
	uint64_t ours = XM_SIG_OURS;

	if (!range_is_free())
		return "the addresses of external memory are taken";
	*err = xm_sig_map_page();
	if (*err < 0)
		return "the address of its call instruction is taken";
	/* before its beginning in mode signal there may have been other masks: of a parent, or of a raw call */
	xm_sys4(SYS_rt_sigprocmask, SIG_UNBLOCK, &ours, 0, 8);
	install(SIGSYS, xm_sig_on_sys, 1ull << (SIGBUS - 1));
	install(SIGBUS, on_bus, 0);
	installed = true;
	if (!is_trapped())
		*err = xm_sig_install_filter();
	if (*err < 0)
		return "the kernel refuses a seccomp filter";
	return is_trapped() ? NULL : "its seccomp filter has no effect";
}

bool xm_sig_start(char *why, size_t size)
{
	const char *reason = NULL;
	int err = 0;

	if (!xm_sig_wanted)
		return false;
	dl_iterate_phdr(is_foreign, &reason);
	if (!reason && !XM_EXT_BASE)
		reason = "this build has no fixed place for external memory";
	if (!reason)
		reason = start(&err);
	if (reason) {
		if (err < 0)
			xm_snprintf(why, size, "%s (%s)", reason, xm_strerror(err));
		else
			xm_snprintf(why, size, "%s", reason);
		for (int i = 0; i < 2 && installed; i++)
			xm_sig_set(i ? SIGSYS : SIGBUS, xm_sig_action(i ? SIGSYS : SIGBUS), NULL);
		xm_sig_wanted = false;
		return false;
	}
	xm_sys_gate = XM_SIG_PAGE; /* the runtime's own calls are not looked at */
	xm_store(&xm_sig_on, 1);
	return true;
}
