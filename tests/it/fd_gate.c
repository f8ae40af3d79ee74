/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fd_gate [MIB [SEED]] - a program that overwrites and closes numbers that are not open, over and over, while another
 * thread of it touches memory: each number is the program's alone. A system that opens descriptors of its own inside the
 * process may have the lowest free number for moments; this program must not notice. In the process and in a child of
 * fork. FD_GATE_TOUCHES: pages that are touched in each.
 */
#include "check.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define OURS 20 /* far above what is free */

static char *area;
static size_t pages;
static unsigned seed;
static unsigned long touches;
static int touching; /* atomic */
static ino_t inode;

static void *touch(void *arg)
{
	unsigned state = seed;

	for (unsigned long i = 0; i < touches; i++) {
		uint64_t *word = (uint64_t *)(area + (size_t)rand_r(&state) % pages * PAGE);

		*word += *word ? 1 : 2; /* there and written */
	}
	__atomic_store_n(&touching, 0, __ATOMIC_RELEASE);
	return arg;
}

static bool is_own(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && st.st_ino == inode;
}

/* Looks at number fd, which is free; how often it was not as expected. */
static int look_at(int fd)
{
	int wrong = 0;

	errno = 0;
	wrong += close(fd) == 0 || errno != EBADF;
	wrong += dup2(OURS, fd) != fd;
	for (int i = 0; i < 20; i++) /* somebody else's close of it may come now */
		wrong += !is_own(fd);
	wrong += close(fd) != 0;
	wrong += dup3(OURS, fd, O_CLOEXEC) != fd || !is_own(fd);
	wrong += close_range((unsigned)fd, (unsigned)fd, 0) != 0;
	wrong += dup(OURS) != 3; /* the lowest that is free */
	wrong += close(3) != 0;
	return wrong;
}

static unsigned long look(void)
{
	unsigned long rounds = 0, wrong = 0;
	pthread_t thread;

	touching = 1;
	FATAL(pthread_create(&thread, NULL, touch, NULL) == 0);
	while (__atomic_load_n(&touching, __ATOMIC_ACQUIRE))
		wrong += (unsigned long)look_at(3 + (int)(rounds++ % 3));
	pthread_join(thread, NULL);
	fprintf(stderr, "fd_gate: %lu rounds, %lu wrong\n", rounds, wrong);
	CHECK(wrong == 0);
	return rounds;
}

int main(int argc, char **argv)
{
	size_t bytes = check_bytes(argc, argv, 16);
	struct stat st;
	pid_t pid;

	seed = check_seed(argc, argv);
	touches = getenv("FD_GATE_TOUCHES") ? strtoul(getenv("FD_GATE_TOUCHES"), NULL, 0) : 6000;
	pages = bytes / PAGE;
	area = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	FATAL(area != MAP_FAILED);
	closefrom(3);
	FATAL(dup2(open("/proc/self/exe", O_RDONLY), OURS) == OURS);
	FATAL(close(3) == 0);
	FATAL(fstat(OURS, &st) == 0);
	inode = st.st_ino;
	fill(area, bytes, seed);
	look();
	pid = fork();
	if (!pid) {
		look();
		_exit(check_failures ? 1 : 0);
	}
	CHECK(wait_for(pid) == 0);
	return check_finish("fd_gate");
}
