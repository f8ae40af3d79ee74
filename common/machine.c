/* SPDX-License-Identifier: Apache-2.0 */
/*
 * machine.c - how much memory this process may count on: the machine's, or that of the tightest
 * memory cgroup among its own and their ancestors. Reads /proc and the cgroup file system with raw
 * system calls into buffers on the stack: no allocation, no lock, any thread.
 *
 * /proc/self/cgroup says where we are in a hierarchy ("0::/a/b" for v2, "4:memory:/a/b" for v1),
 * mountinfo says where that hierarchy is mounted and which part of it (its root field: in a
 * container the mount may show only "/a", and "/a/b" is then <mount point>/b). Whatever is missing
 * or unreadable sets no limit.
 */
#include "units.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/sysinfo.h>

#include "fdgate.h"
#include "log.h"
#include "sys.h"
#include "util.h"

#define PATH_BYTES 1024
#define LINE_BYTES \
	1024 /* lines of cgroup mounts are short; longer ones (overlays) are cut and do not match */

struct reader {
	int fd;
	size_t at, len;
	char buf[2048];
};

static int next_byte(struct reader *r)
{
	if (r->at == r->len) {
		ssize_t n = xm_sys_read(r->fd, r->buf, sizeof(r->buf));

		if (n <= 0)
			return -1;
		r->at = 0;
		r->len = (size_t)n;
	}
	return (unsigned char)r->buf[r->at++];
}

/* One line without its newline, cut at LINE_BYTES - 1; false at the end */
static bool next_line(struct reader *r, char *line)
{
	size_t n = 0;
	int c = next_byte(r);

	if (c < 0)
		return false;
	for (; c >= 0 && c != '\n'; c = next_byte(r))
		if (n < LINE_BYTES - 1)
			line[n++] = (char)c;
	line[n] = '\0';
	return true;
}

/* The number in a limit file; UINT64_MAX for "max", no file, or v1's "no limit" (near 2^63) */
static uint64_t read_limit(const char *path)
{
	char text[32];
	uint64_t v = UINT64_MAX;
	ssize_t n;
	int fd;

	fd = xm_sys_openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
	if (fd < 0)
		return UINT64_MAX;
	n = xm_sys_read(fd, text, sizeof(text) - 1);
	xm_sys_close(fd);
	if (n <= 0)
		return UINT64_MAX;
	text[n] = '\0';
	text[strcspn(text, "\n")] = '\0';
	if (xm_parse_u64(text, 0, INT64_MAX / 2, &v))
		return UINT64_MAX;
	return v;
}

/* splits in place at blanks: up to n fields, the last one keeps the rest */
static int split(char *line, char **field, int n)
{
	int i = 0;

	while (i < n && *line) {
		field[i++] = line;
		if (i == n)
			break;
		line += strcspn(line, " ");
		if (*line)
			*line++ = '\0';
	}
	return i;
}

/* whether `word` is an element of a comma-separated list */
static bool list_has(const char *list, const char *word)
{
	size_t len = strlen(word);

	while (list) {
		if (strncmp(list, word, len) == 0 && (list[len] == ',' || list[len] == '\0'))
			return true;
		list = strchr(list, ',');
		if (list)
			list++;
	}
	return false;
}

/* "root", "mount point" of the memory hierarchy of version 1 or 2; false: not mounted */
static bool find_mount(const char *prefix, int version, char *root, char *point)
{
	char path[PATH_BYTES], line[LINE_BYTES];
	struct reader r = { .fd = -1 };
	bool found = false;

	xm_snprintf(path, sizeof(path), "%s/proc/self/mountinfo", prefix);
	r.fd = xm_sys_openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
	if (r.fd < 0)
		return false;
	while (!found && next_line(&r, line)) {
		/* 36 35 98:0 /root /point options [optional...] - fstype source superoptions */
		char *tail = strstr(line, " - "), *head[6], *fs[3];

		if (!tail)
			continue;
		*tail = '\0';
		if (split(line, head, 6) < 5 || split(tail + 3, fs, 3) < 3)
			continue;
		if (version == 2)
			found = strcmp(fs[0], "cgroup2") == 0;
		else
			found = strcmp(fs[0], "cgroup") == 0 && list_has(fs[2], "memory");
		if (found) {
			xm_snprintf(root, PATH_BYTES, "%s", strcmp(head[3], "/") ? head[3] : "");
			xm_snprintf(point, PATH_BYTES, "%s", head[4]);
		}
	}
	xm_sys_close(r.fd);
	return found;
}

/* The tightest limit from `where` (a path in the hierarchy) up to the mount's root */
static uint64_t hierarchy_limit(const char *prefix, int version, const char *where)
{
	const char *file = version == 2 ? "memory.max" : "memory.limit_in_bytes";
	char root[PATH_BYTES], point[PATH_BYTES], rel[PATH_BYTES], path[3 * PATH_BYTES];
	uint64_t limit = UINT64_MAX;
	size_t root_len;

	if (!find_mount(prefix, version, root, point))
		return UINT64_MAX;
	root_len = strlen(root);
	if (strncmp(where, root, root_len) == 0 && (where[root_len] == '/' || where[root_len] == '\0'))
		where += root_len;
	/* "/../x": outside of what our cgroup namespace shows; only the mount's own root can be read */
	if (strncmp(where, "/..", 3) == 0)
		where = "";
	xm_snprintf(rel, sizeof(rel), "%s", where);
	for (;;) {
		char *slash;
		uint64_t here;

		xm_snprintf(path, sizeof(path), "%s%s%s/%s", prefix, point, rel, file);
		here = read_limit(path);
		limit = xm_min(limit, here);
		slash = strrchr(rel, '/');
		if (!slash)
			return limit;
		*slash = '\0';
	}
}

uint64_t xm_cgroup_limit_bytes(const char *prefix)
{
	char path[PATH_BYTES], line[LINE_BYTES];
	struct reader r = { .fd = -1 };
	uint64_t limit = UINT64_MAX;

	xm_snprintf(path, sizeof(path), "%s/proc/self/cgroup", prefix);
	r.fd = xm_sys_openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
	if (r.fd < 0)
		return UINT64_MAX;
	while (next_line(&r, line)) {
		char *controllers = strchr(line, ':'), *where;
		uint64_t here = UINT64_MAX;

		where = controllers ? strchr(controllers + 1, ':') : NULL;
		if (!where)
			continue;
		*controllers++ = '\0';
		*where++ = '\0';
		if (*controllers == '\0')
			here = hierarchy_limit(prefix, 2, where);
		else if (list_has(controllers, "memory"))
			here = hierarchy_limit(prefix, 1, where);
		limit = xm_min(limit, here);
	}
	xm_sys_close(r.fd);
	return limit;
}

uint64_t xm_machine_memory_bytes(void)
{
	struct sysinfo si = { 0 };
	uint64_t machine, limit;

	xm_sys1(SYS_sysinfo, (long)&si);
	machine = (uint64_t)si.totalram * (si.mem_unit ? si.mem_unit : 1);
	xm_fd_borrow();
	limit = xm_cgroup_limit_bytes("");
	xm_fd_return();
	return xm_min(machine, limit);
}
