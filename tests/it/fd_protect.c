/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fd_protect [MIB] - programs that close every descriptor they do not know, or take any number they
 * like, work, and their memory goes on working afterwards. A system may keep a few numbers for
 * itself: dup2 onto those says EBUSY.
 */
#include "check.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <spawn.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>

static char *area;
static size_t area_bytes;

/* Memory still comes and goes: reads everything, writes everything. */
static void use_memory(void)
{
	static uint64_t seed = 1;

	CHECK(differs(area, area_bytes, seed) == 0);
	seed++;
	fill(area, area_bytes, seed);
	CHECK(differs(area, area_bytes, seed) == 0);
}

static void test_close_loop(void)
{
	int fd = open("/dev/null", O_RDWR);

	CHECK(fd >= 3);
	for (int i = 3; i < 2048; i++) {
		errno = 0;
		if (close(i))
			CHECK(errno == EBADF);
		else
			CHECK(i < 2048);
	}
	CHECK_ERR(close(fd), EBADF);
	CHECK_ERR(close(-1), EBADF);
	use_memory();
}

static void test_close_range(void)
{
	int fd = open("/dev/null", O_RDWR);

	CHECK(close_range(3, ~0u, 0) == 0);
	CHECK_ERR(close(fd), EBADF);
	CHECK(close_range(5, INT32_MAX, 0) == 0); /* python's subprocess */
	CHECK(syscall(SYS_close_range, 3, ~0u, 0) == 0);
	CHECK_ERR(close_range(9, 3, 0), EINVAL);
	CHECK_ERR(close_range(3, 9, 0x4000), EINVAL);
	use_memory();
	fd = open("/dev/null", O_RDWR);
	CHECK(close_range(3, ~0u, CLOSE_RANGE_CLOEXEC) == 0);
	CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC);
	closefrom(3);
	CHECK_ERR(fcntl(fd, F_GETFD), EBADF);
	use_memory();
	CHECK(close_range(3, ~0u, CLOSE_RANGE_UNSHARE) == 0);
	use_memory();
}

#define KEPT_MAX 64

static void test_dup_onto_every_number(void)
{
	static bool kept[1024];
	struct rlimit limit;
	int fd = open("/dev/null", O_RDWR), max, refused = 0;

	CHECK(fd >= 3);
	getrlimit(RLIMIT_NOFILE, &limit);
	max = (int)(limit.rlim_cur < 1024 ? limit.rlim_cur : 1024);
	for (int i = 3; i < max; i++) {
		int r = i % 2 || i == fd ? dup2(fd, i) : dup3(fd, i, O_CLOEXEC);

		kept[i] = r < 0 && errno == EBUSY;
		refused += kept[i];
		CHECK(r == i || kept[i]);
		if (i % 97 == 0)
			use_memory();
	}
	use_memory();
	for (int i = 3; i < max; i++)
		CHECK(kept[i] || write(i, "x", 1) == 1);
	for (int i = 3; i < max; i++)
		CHECK(kept[i] || close(i) == 0);
	CHECK(refused <= KEPT_MAX);
	use_memory();
}

static void test_small_table(void)
{
	struct rlimit limit, small;
	int n = 0, fd;

	getrlimit(RLIMIT_NOFILE, &limit);
	small = limit;
	small.rlim_cur = 256;
	CHECK(setrlimit(RLIMIT_NOFILE, &small) == 0);
	while ((fd = open("/dev/null", O_RDONLY)) >= 0)
		n++;
	CHECK(errno == EMFILE && n >= 200);
	use_memory();
	closefrom(3);
	use_memory();
	CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

static void test_child_closes_all(void)
{
	pid_t pid = fork();

	if (!pid) {
		closefrom(3);
		for (int i = 3; i < 300; i++)
			close(i);
		use_memory();
		for (int i = 3; i < 300; i++)
			if (dup2(1, i) != i && errno != EBUSY)
				_exit(90);
		use_memory();
		_exit(check_failures ? 1 : 0);
	}
	CHECK(wait_for(pid) == 0);
	use_memory();
}

static void test_exec_after_closing(void)
{
	char *const args[] = { "sh", "-c", "exit 7", NULL };
	posix_spawn_file_actions_t actions;
	extern char **environ;
	pid_t pid = vfork();

	if (!pid) {
		/* on the parent's memory, with descriptors of its own */
		for (int i = 3; i < 2 * 1100; i++) /* what is closed already, too */
			close(i % 1100 + 3);
		dup2(1, 77);
		close_range(5, INT32_MAX, 0);
		execv("/bin/sh", args);
		_exit(91);
	}
	CHECK(wait_for(pid) == 7);
	use_memory();
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addclosefrom_np(&actions, 3);
	CHECK(posix_spawn(&pid, "/bin/sh", &actions, NULL, args, environ) == 0);
	CHECK(wait_for(pid) == 7);
	posix_spawn_file_actions_destroy(&actions);
	use_memory();
	test_close_loop(); /* nothing of what the child closed has changed here */
}

/* Everything that /proc/self/fd lists is closed, as daemons do. */
static void test_close_what_proc_lists(void)
{
	for (int i = 3; i < 1024; i++) {
		char path[40], target[64];

		snprintf(path, sizeof(path), "/proc/self/fd/%d", i);
		if (readlink(path, target, sizeof(target)) > 0)
			close(i);
	}
	use_memory();
}

int main(int argc, char **argv)
{
	area_bytes = check_bytes(argc, argv, 32);
	area = mmap(NULL, area_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	FATAL(area != MAP_FAILED);
	fill(area, area_bytes, 1);
	test_close_loop();
	test_close_range();
	test_dup_onto_every_number();
	test_small_table();
	test_child_closes_all();
	test_exec_after_closing();
	test_close_what_proc_lists();
	return check_finish("fd_protect");
}
