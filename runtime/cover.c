/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cover.c - finds a command as execvp would and says whether a preload object can reach it: not when it
 * is static, of another machine, linked with another C library, or privileged (then the dynamic linker ignores
 * preload objects). A script is judged by its interpreter. Reads file headers only; no malloc; any thread, also in a
 * vfork child.
 */
#include "runtime/cover.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "fdgate.h"
#include "log.h"
#include "sys.h"
#include "util.h"

#define WHY_MAX XM_COVER_WHY_MAX
#define HEAD_BYTES (256 + 1)
#define SCRIPT_DEPTH 4 /* as the kernel's: an interpreter may be a script itself */

#if defined(__x86_64__)
#define OWN_MACHINE EM_X86_64
#elif defined(__aarch64__)
#define OWN_MACHINE EM_AARCH64
#endif

/* ---- finding ------------------------------------------------------------------------------------------ */

static const char *reason(int err)
{
	return err == EACCES ? "not executable (chmod +x, or a directory on the way is closed)" : xm_strerror(err);
}

static enum xm_cover_verdict probe(const char *path, char *why)
{
	struct stat st;

	if (stat(path, &st) != 0) {
		enum xm_cover_verdict v = errno == ENOENT || errno == ENOTDIR ? XM_COVER_NOT_FOUND
									   : XM_COVER_NOT_EXECUTABLE;

		xm_snprintf(why, WHY_MAX, "%s",
			    v == XM_COVER_NOT_FOUND ? "command not found" : reason(errno));
		return v;
	}
	if (S_ISDIR(st.st_mode)) {
		xm_snprintf(why, WHY_MAX, "is a directory");
		return XM_COVER_NOT_EXECUTABLE;
	}
	if (access(path, X_OK) != 0) {
		xm_snprintf(why, WHY_MAX, "%s", reason(errno));
		return XM_COVER_NOT_EXECUTABLE;
	}
	return XM_COVER_OK;
}

static enum xm_cover_verdict find(const char *command, char *path, char *why)
{
	const char *dirs = getenv("PATH"), *end;
	enum xm_cover_verdict best = XM_COVER_NOT_FOUND, v;
	char said[WHY_MAX];

	if (strchr(command, '/')) {
		xm_snprintf(path, PATH_MAX, "%s", command);
		return probe(path, why);
	}
	xm_snprintf(why, WHY_MAX, "command not found");
	if (!*command)
		return XM_COVER_NOT_FOUND;
	for (dirs = dirs ? dirs : "/bin:/usr/bin"; dirs; dirs = *end ? end + 1 : NULL) {
		end = strchrnul(dirs, ':');
		/* an empty element is the current directory */
		xm_snprintf(path, PATH_MAX, "%.*s%s%s", (int)(end - dirs), dirs, end == dirs ? "./" : "/",
			    command);
		v = probe(path, said);
		if (v == XM_COVER_OK)
			return v;
		/* what exists but cannot run is remembered while the search goes on */
		if (v == XM_COVER_NOT_EXECUTABLE) {
			best = v;
			xm_snprintf(why, WHY_MAX, "%s", said);
		}
	}
	return best;
}

/* ---- judging ------------------------------------------------------------------------------------------ */

static enum xm_cover_verdict privileged(const char *path, char *why)
{
	struct stat st;
	const char *what = NULL;

	if (stat(path, &st) != 0)
		return XM_COVER_OK;
	if ((st.st_mode & S_ISUID) && st.st_uid != geteuid())
		what = "it is setuid";
	else if ((st.st_mode & S_ISGID) && (st.st_mode & S_IXGRP) && st.st_gid != getegid())
		what = "it is setgid";
	else if (getuid() != 0 && getxattr(path, "security.capability", NULL, 0) > 0)
		what = "it has file capabilities";
	if (!what)
		return XM_COVER_OK;
	xm_snprintf(why, WHY_MAX, "%s, and the dynamic linker then ignores preload objects", what);
	return XM_COVER_NOT;
}

static enum xm_cover_verdict judge_interp(const char *interp, char *why)
{
	if (!strstr(interp, "musl"))
		return XM_COVER_OK;
	xm_snprintf(why, WHY_MAX, "it uses another C library (%.80s)", interp);
	return XM_COVER_HARMFUL;
}

static enum xm_cover_verdict judge_elf64(int fd, const Elf64_Ehdr *eh, const char *path, char *why)
{
	const char *base = strrchr(path, '/');
	char interp[128];
	Elf64_Phdr ph;

	for (unsigned i = 0; i < eh->e_phnum; i++) {
		off_t at = (off_t)(eh->e_phoff + (uint64_t)i * eh->e_phentsize);
		ssize_t n;

		if (xm_sys6(SYS_pread64, fd, (long)&ph, sizeof(ph), at, 0, 0) != (long)sizeof(ph))
			break;
		if (ph.p_type != PT_INTERP)
			continue;
		n = xm_sys6(SYS_pread64, fd, (long)interp, (long)xm_min(ph.p_filesz, sizeof(interp) - 1), (long)ph.p_offset, 0,
			    0);
		interp[n > 0 ? n : 0] = 0;
		return judge_interp(interp, why);
	}
	/* the dynamic linker called as a command names no interpreter, and honours preload objects */
	if (strncmp(base ? base + 1 : path, "ld-linux", 8) == 0)
		return XM_COVER_OK;
	xm_snprintf(why, WHY_MAX, "it is statically linked");
	return XM_COVER_NOT;
}

static bool is_elf64(const unsigned char *head, ssize_t n)
{
	return n >= (ssize_t)sizeof(Elf64_Ehdr) && memcmp(head, ELFMAG, SELFMAG) == 0;
}

static enum xm_cover_verdict judge_elf(int fd, const unsigned char *head, const char *path, char *why)
{
	Elf64_Ehdr eh;

	if (head[EI_CLASS] != ELFCLASS64) {
		xm_snprintf(why, WHY_MAX, "it is a %s program",
			    head[EI_CLASS] == ELFCLASS32 ? "32-bit" : "foreign");
		return XM_COVER_NOT;
	}
	memcpy(&eh, head, sizeof(eh));
	if (head[EI_DATA] != ELFDATA2LSB || eh.e_machine != OWN_MACHINE) {
		xm_snprintf(why, WHY_MAX, "it is for another architecture (ELF machine %u)", eh.e_machine);
		return XM_COVER_NOT;
	}
	return judge_elf64(fd, &eh, path, why);
}

/* The interpreter named by "#! PATH [ARG]", in place; NULL: none */
static char *script_interpreter(char *head)
{
	char *p = head + 2, *end;

	p += strspn(p, " \t");
	end = p + strcspn(p, " \t\r\n");
	*end = 0;
	return *p ? p : NULL;
}

/* Reads the file's first bytes, and judges it by them if it is a program. How many; below 0: none could be read. */
static ssize_t look_inside(const char *path, unsigned char head[HEAD_BYTES], enum xm_cover_verdict *v, char *why)
{
	int fd = (int)xm_sys6(SYS_openat, AT_FDCWD, (long)path, O_RDONLY | O_CLOEXEC, 0, 0, 0);
	ssize_t n;

	if (fd < 0)
		return -1;
	n = xm_sys3(SYS_read, fd, (long)head, HEAD_BYTES - 1);
	if (is_elf64(head, n))
		*v = judge_elf(fd, head, path, why);
	xm_sys_close(fd);
	return xm_max(n, (ssize_t)0);
}

static enum xm_cover_verdict judge(const char *path, bool apart, int depth, char *why)
{
	enum xm_cover_verdict v = XM_COVER_OK, p;
	unsigned char head[HEAD_BYTES] = { 0 };
	char *interp, next[256];
	ssize_t n;

	if (!apart)
		xm_fd_borrow();
	n = look_inside(path, head, &v, why);
	if (!apart)
		xm_fd_return();
	/* executable but not readable: whoever may run it cannot look inside; nor can a preload object's check */
	if (n < 0)
		return privileged(path, why);
	if (is_elf64(head, n)) {
		p = privileged(path, why);
		return p == XM_COVER_OK ? v : p;
	}
	if (n < 2 || head[0] != '#' || head[1] != '!')
		return XM_COVER_OK; /* given to /bin/sh, as execvp does, or refused by exec */
	interp = script_interpreter((char *)head);
	if (!interp || depth == SCRIPT_DEPTH) {
		xm_snprintf(why, WHY_MAX, "its first line names no interpreter that can be found");
		return XM_COVER_NOT_EXECUTABLE;
	}
	xm_snprintf(next, sizeof(next), "%s", interp);
	v = probe(next, why);
	if (v != XM_COVER_OK) {
		xm_snprintf(why, WHY_MAX, "its interpreter %.100s: %s", next,
			    v == XM_COVER_NOT_FOUND ? "not found" : "cannot be executed");
		return v == XM_COVER_NOT_FOUND ? XM_COVER_NOT_FOUND : XM_COVER_NOT_EXECUTABLE;
	}
	return judge(next, apart, depth + 1, why);
}

bool xm_cover_is_object(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	Elf64_Ehdr eh = { 0 };
	ssize_t n = fd < 0 ? -1 : read(fd, &eh, sizeof(eh));

	if (fd >= 0)
		close(fd);
	return n == (ssize_t)sizeof(eh) && memcmp(eh.e_ident, ELFMAG, SELFMAG) == 0 &&
	       eh.e_ident[EI_CLASS] == ELFCLASS64 && eh.e_type == ET_DYN && eh.e_machine == OWN_MACHINE;
}

enum xm_cover_verdict xm_cover(const char *command, bool apart, char *path, char *why)
{
	enum xm_cover_verdict v;

	why[0] = 0;
	v = find(command, path, why);
	return v == XM_COVER_OK ? judge(path, apart, 0, why) : v;
}
