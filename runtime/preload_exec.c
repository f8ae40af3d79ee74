/* SPDX-License-Identifier: Apache-2.0 */
/*
 * preload_exec.c - what a covered program executes is looked at: a command that no preload object can reach, or that
 * is not given it, is told to the keeper, so that statistics and log say what was not covered. One with another C
 * library is executed without the preload object, which would keep it from starting.
 *
 * The calls themselves are libc's. Any thread; also in a vfork child, which borrows memory: nothing is allocated and
 * nothing but the stack is written (descriptors are its own there: it does not go through fdgate.h's gate). A call from
 * inside libc (system, popen) is not seen here: it runs /bin/sh.
 */
#include "runtime/preload.h"

#include <alloca.h>
#include <errno.h>
#include <limits.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"
#include "runtime/cover.h"
#include "runtime/preload_signal.h"
#include "sys.h"

#define PRELOAD_VAR "LD_PRELOAD="

static bool is_var(const char *entry, const char *name)
{
	return strncmp(entry, name, strlen(name)) == 0;
}

/* Whether the environment makes the dynamic linker load us, and names our family. */
static bool passes_on(char *const envp[])
{
	bool object = false, family = false;

	for (; envp && *envp; envp++) {
		object |= is_var(*envp, PRELOAD_VAR) && strstr(*envp, "libxmem-preload");
		family |= is_var(*envp, XM_ENV_FAMILY "=");
	}
	return object && family;
}

/* Tells the keeper when the command's memory cannot be external. True: it must not see the preload object. */
static bool look(const char *command, char *const envp[])
{
	char path[PATH_MAX], why[XM_COVER_WHY_MAX], text[XM_COVER_WHY_MAX + 128];
	bool apart = xm_pre_in_vfork_child();
	enum xm_cover_verdict v;
	int saved = errno;

	if (!xm_pre_family[0] || !command)
		return false;
	v = xm_cover(command, apart, path, why);
	if (v == XM_COVER_OK && !passes_on(envp)) {
		v = XM_COVER_NOT;
		xm_snprintf(why, sizeof(why), "its environment is without LD_PRELOAD or " XM_ENV_FAMILY);
	}
	if (v == XM_COVER_NOT || v == XM_COVER_HARMFUL) {
		xm_snprintf(text, sizeof(text), "%.100s: %s", command, why);
		xm_family_tell_uncovered(xm_pre_family, apart, text);
	}
	errno = saved;
	return v == XM_COVER_HARMFUL;
}

/* Without a slash execve means the current directory, not PATH. */
static bool look_at_path(const char *path, char *const envp[])
{
	char here[PATH_MAX];

	if (path && *path && !strchr(path, '/')) {
		xm_snprintf(here, sizeof(here), "./%s", path);
		path = here;
	}
	return look(path, envp);
}

static size_t count(char *const list[])
{
	size_t n = 0;

	while (list && list[n])
		n++;
	return n;
}

static char *const *without_preload(char *const envp[], char **out)
{
	size_t n = 0;

	for (; *envp; envp++)
		if (!is_var(*envp, PRELOAD_VAR))
			out[n++] = *envp;
	out[n] = NULL;
	return out;
}

/* In fault mode signal: the kernel, or a child with all signals blocked, reads these, and nobody brings them in. */
static struct xm_call *hold_words(struct xm_call *own, const char *path, char *const argv[], char *const envp[])
{
	static const long none[6];
	struct xm_call *held;

	if (!xm_sig_active())
		return NULL;
	held = xm_call_begin(own, SYS_getpid, none);
	xm_call_hold_string(held, path);
	xm_call_hold_strings(held, argv);
	xm_call_hold_strings(held, envp);
	return held;
}

/*
 * A child of posix_spawn has no handler for what the filter traps, and all signals blocked: what it hands to the kernel itself
 * has to be local. Copies on the caller's stack, where anything is external; what they point to is held, or libc's.
 */
#define LOCAL_TEXT(held, s) ((held) && xm_ext_contains(s) ? strcpy(alloca(strlen(s) + 1), (s)) : (s))
#define LOCAL_LIST(held, list)                                                                                       \
	((held) && xm_ext_contains(list)                                                                         \
		 ? (char *const *)memcpy(alloca((count(list) + 1) * sizeof(char *)), (list), (count(list) + 1) * sizeof(char *)) \
		 : (list))
#define LOCAL_OBJECT(held, p) ((held) && xm_ext_contains(p) ? memcpy(alloca(sizeof(*(p))), (p), sizeof(*(p))) : (p))

static void let_go(struct xm_call *held)
{
	if (held)
		xm_call_end(held);
}

/* envp, or a copy of it on the caller's stack */
#define ENV_FOR(harmful, envp) \
	((harmful) && (envp) ? without_preload((envp), alloca((count(envp) + 1) * sizeof(char *))) : (envp))

XM_PUBLIC int execve(const char *path, char *const argv[], char *const envp[])
{
	bool harmful = look_at_path(path, envp);
	char *const *env = ENV_FOR(harmful, envp);

	if (xm_sig_active())
		return (int)xm_sig_call(SYS_execve, (long)path, (long)argv, (long)env, 0, 0, 0);
	return (int)xm_pre_result(xm_sys3(SYS_execve, (long)path, (long)argv, (long)env));
}

XM_PUBLIC int execv(const char *path, char *const argv[])
{
	return execve(path, argv, environ);
}

XM_PUBLIC int execvpe(const char *file, char *const argv[], char *const envp[])
{
	__typeof__(&execvpe) next = XM_NEXT(execvpe);
	bool harmful = look(file, envp);
	struct xm_call own, *held;
	int r;

	held = hold_words(&own, file, argv, envp);
	r = next(file, argv, ENV_FOR(harmful, envp));
	let_go(held);
	return r;
}

XM_PUBLIC int execvp(const char *file, char *const argv[])
{
	return execvpe(file, argv, environ);
}

XM_PUBLIC int fexecve(int fd, char *const argv[], char *const envp[])
{
	__typeof__(&fexecve) next = XM_NEXT(fexecve);
	struct xm_call own, *held;
	char path[64];
	bool harmful;
	int r;

	xm_snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	harmful = look(path, envp);
	held = hold_words(&own, NULL, argv, envp);
	r = next(fd, argv, ENV_FOR(harmful, envp));
	let_go(held);
	return r;
}

XM_PUBLIC int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
			  const posix_spawnattr_t *attr, char *const argv[], char *const envp[])
{
	__typeof__(&posix_spawn) next = XM_NEXT(posix_spawn);
	bool harmful = look_at_path(path, envp);
	struct xm_call own, *held;
	pid_t child;
	int r;

	held = hold_words(&own, path, argv, envp);
	path = LOCAL_TEXT(held, path);
	actions = LOCAL_OBJECT(held, actions);
	attr = LOCAL_OBJECT(held, attr);
	argv = LOCAL_LIST(held, argv);
	envp = LOCAL_LIST(held, envp);
	envp = ENV_FOR(harmful, envp);
	r = next(pid ? &child : NULL, path, actions, attr, argv, envp); /* it is stored with all signals blocked */
	let_go(held);
	if (!r && pid)
		*pid = child;
	return r;
}

XM_PUBLIC int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
			   const posix_spawnattr_t *attr, char *const argv[], char *const envp[])
{
	__typeof__(&posix_spawnp) next = XM_NEXT(posix_spawnp);
	bool harmful = look(file, envp);
	struct xm_call own, *held;
	pid_t child;
	int r;

	held = hold_words(&own, file, argv, envp);
	file = LOCAL_TEXT(held, file);
	actions = LOCAL_OBJECT(held, actions);
	attr = LOCAL_OBJECT(held, attr);
	argv = LOCAL_LIST(held, argv);
	envp = LOCAL_LIST(held, envp);
	envp = ENV_FOR(harmful, envp);
	r = next(pid ? &child : NULL, file, actions, attr, argv, envp); /* it is stored with all signals blocked */
	let_go(held);
	if (!r && pid)
		*pid = child;
	return r;
}

/* ---- the variants with a list of arguments -------------------------------------------------------------- */

/* The arguments as an array on the stack of the function whose `first` and `list` these are. */
#define ARGV_OF(argv, first, list)                                    \
	do {                                                          \
		size_t n = 1;                                         \
		va_start(list, first);                                \
		while (va_arg(list, char *))               \
			n++;                                          \
		va_end(list);                                         \
		(argv) = alloca((n + 1) * sizeof(char *));            \
		va_start(list, first);                                \
		(argv)[0] = (char *)(uintptr_t)(first);               \
		for (size_t i = 1; i <= n; i++)            \
			(argv)[i] = va_arg(list, char *);             \
	} while (0)

XM_PUBLIC int execl(const char *path, const char *arg, ...)
{
	char **argv;
	va_list list;

	ARGV_OF(argv, arg, list);
	va_end(list);
	return execve(path, argv, environ);
}

XM_PUBLIC int execlp(const char *file, const char *arg, ...)
{
	char **argv;
	va_list list;

	ARGV_OF(argv, arg, list);
	va_end(list);
	return execvpe(file, argv, environ);
}

XM_PUBLIC int execle(const char *path, const char *arg, ...)
{
	char *const *envp;
	char **argv;
	va_list list;

	ARGV_OF(argv, arg, list);
	envp = va_arg(list, char *const *);
	va_end(list);
	return execve(path, argv, envp);
}
