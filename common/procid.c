/* SPDX-License-Identifier: Apache-2.0 */
/*
 * procid.c - reads process identity from /proc with plain system calls.
 * Any thread; no locks, no allocation, no shared state.
 */
#include "procid.h"

#include "fdgate.h"
#include "log.h"
#include "sys.h"

#include <string.h>
#include <sys/stat.h>

static uint64_t hash_text(const char *s)
{
	uint64_t h = 0xcbf29ce484222325ull; /* FNV-1a */

	for (; *s && *s != '\n'; s++)
		h = (h ^ (uint8_t)*s) * 0x100000001b3ull;
	return h;
}

struct proc_stat {
	uint32_t pid;
	char state;
	uint64_t threads, start_time;
};

static uint64_t parse_number(const char *p)
{
	uint64_t v = 0;

	for (; *p >= '0' && *p <= '9'; p++)
		v = v * 10 + (uint64_t)(*p - '0');
	return v;
}

/* The name in field 2 may hold blanks and parentheses: count fields from the last ')'. */
static int parse_stat(const char *text, struct proc_stat *out)
{
	const char *p = strrchr(text, ')');
	int field = 3;

	if (!p || p[1] != ' ')
		return -EPROTO;
	p += 2;
	out->pid = (uint32_t)parse_number(text);
	out->state = *p;
	for (; *p && field < 22; p++) {
		if (*p != ' ')
			continue;
		if (++field == 20)
			out->threads = parse_number(p + 1);
	}
	if (*p < '0' || *p > '9')
		return -EPROTO;
	out->start_time = parse_number(p);
	return 0;
}

static int read_stat(const char *path, struct proc_stat *out)
{
	char text[1024];
	int ret = xm_fd_read_file(path, text, sizeof(text));

	return ret < 0 ? ret : parse_stat(text, out);
}

void xm_procid_self(struct xm_procid *out)
{
	struct proc_stat ps;
	struct stat st;
	char text[80];

	memset(out, 0, sizeof(*out));
	if (xm_fd_read_file("/proc/sys/kernel/random/boot_id", text, sizeof(text)) > 0)
		out->boot_hash = hash_text(text);
	if (stat("/proc/self/ns/pid", &st) == 0)
		out->pidns = st.st_ino;
	/* a /proc of another pid namespace, or none: say nothing rather than something wrong */
	if (read_stat("/proc/self/stat", &ps) < 0 || ps.pid != (uint32_t)xm_sys_getpid())
		return;
	out->pid = ps.pid;
	out->start_time = ps.start_time;
}

/* a leader that has exited shows as a zombie while its other threads live on */
static bool has_ended(const struct proc_stat *ps)
{
	return (ps->state == 'Z' || ps->state == 'X') && ps->threads <= 1;
}

static int read_stat_of(uint32_t pid, struct proc_stat *out)
{
	char path[40];

	xm_snprintf(path, sizeof(path), "/proc/%u/stat", pid);
	return read_stat(path, out);
}

bool xm_pid_gone(int pid)
{
	struct proc_stat ps;

	if (xm_sys3(SYS_kill, pid, 0, 0) == -ESRCH)
		return true;
	if (read_stat_of((uint32_t)pid, &ps) < 0 || !has_ended(&ps))
		return false;
	/* not by a /proc of another pid namespace */
	return read_stat("/proc/self/stat", &ps) == 0 && ps.pid == (uint32_t)xm_sys_getpid();
}

enum xm_proc_state xm_procid_check(const struct xm_procid *self, const struct xm_procid *id)
{
	struct proc_stat ps;
	int ret;

	if (!self->pid || !id->pid || !self->boot_hash || !self->pidns)
		return XM_PROC_UNKNOWN;
	if (self->boot_hash != id->boot_hash || self->pidns != id->pidns)
		return XM_PROC_UNKNOWN;
	ret = read_stat_of(id->pid, &ps);
	if (ret < 0) {
		/* with hidepid another user's process is invisible in /proc, but not to kill() */
		ret = (int)xm_sys3(SYS_kill, id->pid, 0, 0);
		return ret == -ESRCH ? XM_PROC_DEAD : XM_PROC_UNKNOWN;
	}
	return ps.start_time != id->start_time || has_ended(&ps) ? XM_PROC_DEAD : XM_PROC_ALIVE;
}
