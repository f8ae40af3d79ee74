/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xmem-run-child.c - runs the command as if xmem-run were not there. One thread, signals taken by sigwaitinfo.
 *
 * The command is in xmem-run's process group, as a shell made it. What a terminal sends reaches both, so it is
 * not passed on; what somebody sends to xmem-run alone (kill) is. When the command stops, xmem-run stops; when
 * xmem-run is continued, the command is. When it dies by a signal, xmem-run dies by it, without a second core.
 * A signal sent to the whole group with kill reaches the command twice: the sender cannot be told apart.
 */
#include "runtime/xmem-run.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "log.h"
#include "util.h"

static sigset_t original_mask, waited;
static struct sigaction original_chld;

void run_signals_init(void)
{
	static const int never[] = { SIGKILL, SIGSTOP, SIGSEGV, SIGBUS, SIGFPE,
				     SIGILL,  SIGTRAP, SIGABRT, SIGSYS };
	struct sigaction dfl = { .sa_handler = SIG_DFL };

	sigfillset(&waited);
	for (size_t i = 0; i < XM_ARRAY_SIZE(never); i++)
		sigdelset(&waited, never[i]);
	/* with SIGCHLD ignored, as some parents leave it, there would be no status to wait for */
	sigaction(SIGCHLD, &dfl, &original_chld);
	sigprocmask(SIG_BLOCK, &waited, &original_mask);
}

/* ---- start -------------------------------------------------------------------------------------------- */

/* LD_PRELOAD with our object first, and only once; 0, -ENOMEM */
static int preload_first(const char *preload)
{
	const char *old = getenv("LD_PRELOAD");
	size_t len = strlen(preload), size;
	char *text, *at;

	if (!old || !*old)
		return setenv("LD_PRELOAD", preload, 1) ? -ENOMEM : 0;
	size = len + strlen(old) + 2;
	text = malloc(size);
	if (!text)
		return -ENOMEM;
	at = text + xm_snprintf(text, size, "%s", preload);
	while (*old) {
		size_t n = strcspn(old, ": \t");

		if (n && !(n == len && memcmp(old, preload, len) == 0))
			at += xm_snprintf(at, size - (size_t)(at - text), ":%.*s", (int)n, old);
		old += n + (old[n] != 0);
	}
	len = (size_t)setenv("LD_PRELOAD", text, 1);
	free(text);
	return len ? -ENOMEM : 0;
}

static bool is_elf(const char *path)
{
	char magic[4] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	bool yes = fd >= 0 && read(fd, magic, 4) == 4 && memcmp(magic, "\177ELF", 4) == 0;

	if (fd >= 0)
		close(fd);
	return yes;
}

static void become(struct run_child *c)
{
	char *sh[3] = { (char *)(uintptr_t) "/bin/sh", c->path, NULL };
	int argc = 0;
	char **argv;

	execv(c->path, c->argv);
	if (errno != ENOEXEC)
		return;
	if (is_elf(c->path)) {
		errno = ENOEXEC;
		return;
	}
	/* no program and no #!: the shell's, as execvp has it */
	while (c->argv[argc])
		argc++;
	argv = calloc((size_t)argc + 2, sizeof(*argv));
	if (!argv)
		return;
	argv[0] = sh[0];
	argv[1] = sh[1];
	memcpy(argv + 2, c->argv + 1, (size_t)argc * sizeof(*argv)); /* NULL included */
	execv(argv[0], argv);
}

static void child_main(struct run_child *c, int go, int failed)
{
	int err = 0;
	char byte;

	/* xmem-run was killed before the keeper knew about us */
	if (read(go, &byte, 1) != 1)
		_exit(XM_RUN_FAILED);
	if (setenv(XM_ENV_FAMILY, c->family, 1) ||
	    (c->by_signal ? setenv(XM_ENV_FAULT, "signal", 1) : unsetenv(XM_ENV_FAULT)) ||
	    (c->strict ? setenv(XM_ENV_STRICT, "1", 1) : unsetenv(XM_ENV_STRICT)) || (c->preload && preload_first(c->preload)))
		err = ENOMEM;
	sigaction(SIGCHLD, &original_chld, NULL);
	sigprocmask(SIG_SETMASK, &original_mask, NULL);
	if (!err) {
		become(c);
		err = errno;
	}
	if (write(failed, &err, sizeof(err)) != (ssize_t)sizeof(err))
		_exit(XM_RUN_FAILED);
	_exit(err == ENOENT ? XM_RUN_NOT_FOUND : XM_RUN_NOT_EXECUTABLE);
}

int run_child_start(struct run_child *c)
{
	int go[2], failed[2];

	if (pipe2(go, O_CLOEXEC))
		return -errno;
	if (pipe2(failed, O_CLOEXEC)) {
		close(go[0]);
		close(go[1]);
		return -EMFILE;
	}
	c->pid = fork();
	if (c->pid == 0) {
		close(go[1]);
		close(failed[0]);
		child_main(c, go[0], failed[1]);
	}
	close(go[0]);
	close(failed[1]);
	c->go = go[1];
	c->failed = failed[0];
	return c->pid < 0 ? -errno : 0;
}

int run_child_go(struct run_child *c)
{
	int err = 0;
	ssize_t n;

	if (write(c->go, "", 1) != 1)
		return -EPIPE;
	close(c->go);
	/* closed by a successful exec */
	do {
		n = read(c->failed, &err, sizeof(err));
	} while (n < 0 && errno == EINTR);
	close(c->failed);
	return n == (ssize_t)sizeof(err) ? -err : 0;
}

/* ---- while it runs ------------------------------------------------------------------------------------ */

/* true and *status: it has ended */
static bool look_after(struct run_child *c, bool *stopped, int *status)
{
	int st;
	pid_t pid;

	while ((pid = waitpid(-1, &st, WNOHANG | WUNTRACED | WCONTINUED)) != 0) {
		if (pid < 0 && errno == EINTR)
			continue;
		if (pid < 0) {
			/* cannot happen while nobody else waits for it */
			*status = XM_RUN_FAILED << 8;
			return true;
		}
		if (pid != c->pid)
			continue; /* the keeper, dead: found out at the end */
		if (WIFSTOPPED(st)) {
			*stopped = true;
			/* the shell sees its job stop; whatever continues us continues the group or comes as SIGCONT */
			kill(getpid(), SIGSTOP);
		} else if (WIFCONTINUED(st)) {
			*stopped = false;
		} else {
			*status = st;
			return true;
		}
	}
	return false;
}

static bool sent_by_somebody(const siginfo_t *si)
{
	return si->si_code == SI_USER || si->si_code == SI_QUEUE || si->si_code == SI_TKILL;
}

static void pass_on(struct run_child *c, const siginfo_t *si, bool stopped)
{
	if (si->si_signo == SIGCONT) {
		/* fg continues the whole group, kill -CONT only us */
		if (stopped)
			kill(c->pid, SIGCONT);
		return;
	}
	if (!sent_by_somebody(si) || si->si_pid == c->pid)
		return;
	if (si->si_code == SI_QUEUE)
		sigqueue(c->pid, si->si_signo, si->si_value);
	else
		kill(c->pid, si->si_signo);
}

int run_child_wait(struct run_child *c)
{
	bool stopped = false;
	int status = 0;
	siginfo_t si;

	while (!look_after(c, &stopped, &status)) {
		if (sigwaitinfo(&waited, &si) < 0)
			continue;
		if (si.si_signo != SIGCHLD)
			pass_on(c, &si, stopped);
	}
	return status;
}

void run_exit_like(int status)
{
	struct rlimit no_core = { 0, 0 };
	struct sigaction dfl = { .sa_handler = SIG_DFL };
	sigset_t one;

	if (!WIFSIGNALED(status))
		_exit(WEXITSTATUS(status));
	setrlimit(RLIMIT_CORE, &no_core);
	sigaction(WTERMSIG(status), &dfl, NULL);
	sigemptyset(&one);
	sigaddset(&one, WTERMSIG(status));
	sigprocmask(SIG_UNBLOCK, &one, NULL);
	kill(getpid(), WTERMSIG(status));
	/* a signal that does not kill, such as one sent to a pid namespace's init */
	_exit(128 + WTERMSIG(status));
}
