/* SPDX-License-Identifier: Apache-2.0 */
/*
 * traps_proc [ROW...] - traps of processes: debuggers, other processes that look, core dumps, new
 * programs whose arguments are far away, long chains of exec, shells with traps, children that share
 * pages. Files go into the directory TRAPS_DIR (default "."). See traps.h.
 */
#include "traps.h"

#include <dirent.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>

#define N 256ul
#define LEN (N * PAGE)

extern char **environ;

/* Output of a command (at most max - 1 bytes, terminated), and its status as from wait_for(). */
static int output_of(char *const *args, char *const *env, char *out, size_t max)
{
	posix_spawn_file_actions_t actions;
	size_t n = 0;
	ssize_t r;
	pid_t pid;
	int fd[2];

	FATAL(pipe2(fd, O_CLOEXEC) == 0);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, fd[1], 1);
	posix_spawn_file_actions_adddup2(&actions, fd[1], 2);
	FATAL(posix_spawnp(&pid, args[0], &actions, NULL, args, env) == 0);
	posix_spawn_file_actions_destroy(&actions);
	close(fd[1]);
	while ((r = read(fd[0], out + n, max - 1 - n)) > 0)
		n += (size_t)r;
	out[n] = 0;
	close(fd[0]);
	return wait_for(pid);
}

/* ---- others look ---------------------------------------------------------------------------------------- */

static char debugger_said[16384];

/* What gdb says of the word at p: it cannot be had, or it is right. Never something else. */
static bool said_right(const char *p, uint64_t value)
{
	char start[40], refusal[100];
	const char *at;

	snprintf(refusal, sizeof(refusal), "annot access memory at address %p", (const void *)p);
	if (strstr(debugger_said, refusal))
		return true;
	snprintf(start, sizeof(start), "%p:\t", (const void *)p);
	at = strstr(debugger_said, start);
	return at && strtoull(at + strlen(start), NULL, 0) == value;
}

static void debugger(void)
{
	static char pid[16], ask[2][60];
	char *args[] = { (char *)"timeout",
			 (char *)"60",
			 (char *)"gdb",
			 (char *)"-nx",
			 (char *)"-batch",
			 (char *)"-p",
			 pid,
			 (char *)"-ex",
			 ask[0],
			 (char *)"-ex",
			 ask[1],
			 NULL };
	char *const env[] = { getenv("PATH") ? getenv("PATH") - 5 : (char *)"A=", NULL };
	char *p = map(LEN);
	int status;

	if (access("/usr/bin/gdb", X_OK)) {
		left_out("gdb is not installed");
		return;
	}
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
	fill(p, LEN, 1);
	away(p, LEN);
	((uint64_t *)p)[64] = 4711; /* this page is there, the other is away */
	snprintf(pid, sizeof(pid), "%d", getpid());
	snprintf(ask[0], sizeof(ask[0]), "x/gd %p", (void *)(p + 512));
	snprintf(ask[1], sizeof(ask[1]), "x/gx %p", (void *)(p + 200 * PAGE));
	status = output_of(args, env, debugger_said, sizeof(debugger_said));
	if (strstr(debugger_said, "ptrace: Operation not permitted")) {
		left_out("gdb may not attach here");
		return;
	}
	CHECK(status == 0 || status == 1); /* 1: something could not be read */
	CHECK(said_right(p + 512, 4711) && said_right(p + 200 * PAGE, pattern(1, 200 * PAGE / 8)));
	if (check_failures)
		fprintf(stderr, "%s\n", debugger_said);
	((uint64_t *)p)[64] = pattern(1, 64);
	CHECK(differs(p, LEN, 1) == 0);
	CHECK(munmap(p, LEN) == 0);
}

/* In a child: the parent's memory by the calls that debuggers and profilers use. */
static int looks_at(pid_t parent, char *p)
{
	static char page[PAGE * 4];
	struct iovec mine = { page, sizeof(page) }, theirs = { p, sizeof(page) };
	char path[40];
	int fd;

	for (size_t i = 0; i < N; i += 4) {
		theirs.iov_base = p + i * PAGE;
		CHECK(process_vm_readv(parent, &mine, 1, &theirs, 1, 0) == sizeof(page));
		CHECK(((uint64_t *)page)[64] == pattern(2, i * PAGE / 8 + 64));
		CHECK(((uint64_t *)page)[3 * PAGE / 8] == pattern(2, (i + 3) * PAGE / 8));
	}
	snprintf(path, sizeof(path), "/proc/%d/mem", parent);
	fd = open(path, O_RDWR);
	CHECK(fd >= 0);
	for (size_t i = 0; i < N; i++) { /* the data, or no data */
		ssize_t r = pread(fd, page, PAGE, (off_t)(uintptr_t)(p + LEN + i * PAGE));

		if (r == (ssize_t)PAGE)
			CHECK(((uint64_t *)page)[64] == pattern(3, i * PAGE / 8 + 64));
		else
			CHECK(r < 0 && errno == EIO);
	}
	mine.iov_len = theirs.iov_len = 8;
	*(uint64_t *)page = 99;
	theirs.iov_base = p + 7 * PAGE + 8;
	CHECK(process_vm_writev(parent, &mine, 1, &theirs, 1, 0) == 8);
	return check_failures ? 1 : 0;
}

static void other_process_reads(void)
{
	char *p = map(2 * LEN), c;
	int fd[2];
	pid_t pid;

	if (in_mode("signal")) {
		left_out("in fault mode signal the kernel waits for no page, whoever asks");
		return;
	}
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
	FATAL(pipe(fd) == 0);
	fill(p, LEN, 2);
	fill(p + LEN, LEN, 3);
	pid = fork();
	if (!pid) {
		if (read(fd[0], &c, 1) != 1)
			_exit(90);
		_exit(looks_at(getppid(), p));
	}
	((uint64_t *)p)[1] = 5; /* own pages again, where a fork shares them */
	away(p, 2 * LEN);
	CHECK(write(fd[1], "x", 1) == 1);
	CHECK(wait_for(pid) == 0);
	CHECK(((uint64_t *)(p + 7 * PAGE))[1] == 99);
	CHECK(differs(p, LEN, 2) == 0 && differs(p + LEN, LEN, 3) == 0);
	close(fd[0]);
	close(fd[1]);
	CHECK(munmap(p, 2 * LEN) == 0);
}

/* ---- core dumps ------------------------------------------------------------------------------------------------ */

#define CORE_MAX (2ul << 30)

static void dies_with_core(const char *dir)
{
	struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };
	char *p = map(4 * LEN);

	if (chdir(dir))
		_exit(91);
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	if (setrlimit(RLIMIT_CORE, &all)) {
		getrlimit(RLIMIT_CORE, &all);
		all.rlim_cur = all.rlim_max;
		setrlimit(RLIMIT_CORE, &all);
	}
	fill(p, 4 * LEN, 4);
	away(p, 4 * LEN);
	p[0] = 1;
	abort();
}

/* The core's size, -1 when there is none; the directory is emptied and removed. */
static off_t core_size(const char *dir)
{
	DIR *d = opendir(dir);
	const struct dirent *e;
	off_t size = -1;

	FATAL(d);
	while ((e = readdir(d))) {
		struct stat st;

		if (e->d_name[0] == '.' || fstatat(dirfd(d), e->d_name, &st, 0))
			continue;
		if (!strncmp(e->d_name, "core", 4))
			size = st.st_size;
		unlinkat(dirfd(d), e->d_name, 0);
	}
	closedir(d);
	rmdir(dir);
	return size;
}

/* Pages that are away are not in it: the kernel takes what is present. */
static void core_dump(void)
{
	const char *base = getenv("TRAPS_DIR");
	char dir[4000];
	off_t size;
	pid_t pid;

	snprintf(dir, sizeof(dir), "%s/core-XXXXXX", base ? base : ".");
	FATAL(mkdtemp(dir));
	press();
	pid = fork();
	if (!pid)
		dies_with_core(dir);
	CHECK(wait_for(pid) == -SIGABRT);
	size = core_size(dir);
	if (size < 0)
		left_out("no core file is written here (/proc/sys/kernel/core_pattern)");
	fprintf(stderr, "core_dump: %ld KiB\n", (long)(size >> 10));
	CHECK(size < (off_t)CORE_MAX);
	press();
}

/* ---- new programs ------------------------------------------------------------------------------------------------- */

/* A vector of strings, each on a page of its own, as is the vector. */
static char **far_vector(char *at, const char *const *text)
{
	char **v = (char **)at;
	int n = 0;

	for (; text[n]; n++) {
		v[n] = at + (n + 2) * (int)PAGE - 2; /* across a border */
		strcpy(v[n], text[n]);
	}
	v[n] = NULL;
	return v;
}

static void spawn_from_absent(void)
{
	static const char *const words[] = { "sh", "-c", "echo \"$1 $FAR\"; cat <&7", "zero", "first", NULL };
	static const char *const vars[] = { "FAR=environment", "PATH=/usr/bin:/bin", NULL };
	char *p = map(64 * PAGE), line[100] = "", **args = far_vector(p, words);
	char **env = far_vector(p + 20 * PAGE, vars), *path = strcpy(p + 40 * PAGE - 3, "/dev/null");
	posix_spawn_file_actions_t *actions = (void *)(p + 48 * PAGE);
	posix_spawnattr_t *attr = (void *)(p + 52 * PAGE);
	pid_t *pid = (pid_t *)(p + 56 * PAGE);
	sigset_t *set = (sigset_t *)(p + 57 * PAGE);
	int fd[2];

	for (int way = 0; way < 3; way++) {
		FATAL(pipe(fd) == 0);
		CHECK(!posix_spawn_file_actions_init(actions) && !posix_spawnattr_init(attr));
		CHECK(!posix_spawn_file_actions_adddup2(actions, fd[1], 1));
		CHECK(!posix_spawn_file_actions_addopen(actions, 7, path, O_RDONLY, 0));
		sigemptyset(set);
		CHECK(!posix_spawnattr_setsigmask(attr, set));
		CHECK(!posix_spawnattr_setflags(attr, POSIX_SPAWN_SETSIGMASK));
		away(p, 64 * PAGE);
		if (way == 0) {
			CHECK(posix_spawn(pid, "/bin/sh", actions, attr, args, env) == 0);
		} else {
			*pid = way == 1 ? fork() : vfork();
			if (!*pid) {
				dup2(fd[1], 1);
				if (open("/dev/null", O_RDONLY) != 7)
					dup2(open("/dev/null", O_RDONLY), 7);
				execve("/bin/sh", args, env);
				_exit(94);
			}
		}
		close(fd[1]);
		CHECK(wait_for(*pid) == 0);
		CHECK(read(fd[0], line, sizeof(line)) == 18 && !memcmp(line, "first environment\n", 18));
		close(fd[0]);
		posix_spawn_file_actions_destroy(actions);
		posix_spawnattr_destroy(attr);
	}
	CHECK(munmap(p, 64 * PAGE) == 0);
}

static void exec_chain(void)
{
	static char chain[] = "[ $1 -gt 0 ] && exec sh -c \"$0\" \"$0\" $(($1 - 1)); echo the end $X";
	static char nest[] =
		"[ $1 -gt 0 ] && { sh -c \"$0\" \"$0\" $(($1 - 1)); exit $?; }; echo innermost; exit 3";
	char *one[] = { (char *)"sh", (char *)"-c", chain, chain, (char *)"100", NULL };
	char *two[] = { (char *)"sh", (char *)"-c", nest, nest, (char *)"12", NULL };
	char out[200];

	setenv("X", "of all", 1);
	press();
	CHECK(output_of(one, environ, out, sizeof(out)) == 0);
	CHECK(!strcmp(out, "the end of all\n"));
	CHECK(output_of(two, environ, out, sizeof(out)) == 3);
	CHECK(!strcmp(out, "innermost\n"));
	press();
}

static void shell_with_traps(void)
{
	static char script[] =
		"n=0; trap 'n=$((n+1))' USR1; trap 'echo exit $n' EXIT; trap 'echo term' TERM\n"
		"for i in 1 2 3 4 5; do kill -USR1 $$; done; kill -TERM $$\n"
		"a=(); for i in {1..20000}; do a+=(\"element $i of a list that needs memory\"); done\n"
		"echo ${#a[@]} ${a[19999]}\n"
		"(trap 'echo sub; exit 4' USR2; kill -USR2 $BASHPID; echo never); echo $?\n"
		"{ sleep 0.01; exit 9; } & wait $!; echo $?\n"
		"x=$(for i in 1 2 3; do (echo \"${a[i]}\" | cat); done); echo \"$x\" | tail -n 1\n"
		"trap - TERM; (trap '' INT; kill -INT $BASHPID; echo ignored)\n"
		"trap 'echo failed' ERR; false; coproc cat; echo word >&${COPROC[1]}; read w <&${COPROC[0]}; echo $w\n"
		"s=x; for i in {1..18}; do s=$s$s; done; echo ${#s}; exit 7\n";
	static const char want[] = "term\n20000 element 20000 of a list that needs memory\nsub\n4\n9\n"
				   "element 4 of a list that needs memory\nignored\nfailed\nword\n262144\n"
				   "exit 5\n";
	char *args[] = { (char *)"bash", (char *)"--norc", (char *)"-c", script, NULL };
	static char out[2000];

	if (access("/bin/bash", X_OK)) {
		left_out("bash is not installed");
		return;
	}
	press();
	CHECK(output_of(args, environ, out, sizeof(out)) == 7);
	CHECK(!strcmp(out, want));
	if (strcmp(out, want))
		fprintf(stderr, "bash said:\n%s", out);
}

/* ---- children that share pages --------------------------------------------------------------------------------------- */

static int child_unaffected(char *p, const int *from_parent, const int *to_parent)
{
	char c;

	CHECK(differs(p, LEN / 2, 5) == 0);
	for (int i = 0; i < 2; i++) {
		CHECK(write(to_parent[1], "x", 1) == 1);
		CHECK(read(from_parent[0], &c, 1) == 1); /* the parent's pages have been away, and changed */
		CHECK(differs(p, LEN, 5) == 0);
	}
	fill(p, LEN, 6);
	away(p, LEN);
	CHECK(differs(p, LEN, 6) == 0);
	return check_failures ? 1 : 0;
}

static void shared_with_child(void)
{
	int down[2], up[2];

	for (int round = 0; round < 3; round++) {
		char *p = map(LEN), c;
		pid_t pid;

		FATAL(pipe(down) == 0 && pipe(up) == 0);
		fill(p, LEN, 5);
		if (round)
			away(p, LEN);
		if (round == 2) /* clean and resident: shared, with a copy on the appliance */
			CHECK(differs(p, LEN, 5) == 0);
		pid = fork();
		if (!pid)
			_exit(child_unaffected(p, down, up));
		FATAL(read(up[0], &c, 1) == 1);
		away(p, LEN);
		CHECK(differs(p, LEN, 5) == 0);
		CHECK(write(down[1], "x", 1) == 1);
		FATAL(read(up[0], &c, 1) == 1);
		fill(p, LEN, 7);
		away(p, LEN);
		CHECK(write(down[1], "x", 1) == 1);
		CHECK(wait_for(pid) == 0);
		CHECK(differs(p, LEN, 7) == 0);
		fill(p, LEN, 8); /* the child has gone: pages that were shared are ordinary ones */
		away(p, LEN);
		CHECK(differs(p, LEN, 8) == 0);
		for (int i = 0; i < 2; i++) {
			close(down[i]);
			close(up[i]);
		}
		CHECK(munmap(p, LEN) == 0);
	}
}

int main(int argc, char **argv)
{
	static const struct row rows[] = {
		{ "debugger", debugger },
		{ "other_process_reads", other_process_reads },
		{ "core_dump", core_dump },
		{ "spawn_from_absent", spawn_from_absent },
		{ "exec_chain", exec_chain },
		{ "shell_with_traps", shell_with_traps },
		{ "shared_with_child", shared_with_child },
		{ NULL, NULL },
	};

	return traps_main(rows, argc, argv);
}
