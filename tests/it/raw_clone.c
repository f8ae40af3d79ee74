/* SPDX-License-Identifier: Apache-2.0 */
/*
 * raw_clone.c - a child that the runtime cannot know of (clone by the bare instruction) must not see wrong memory. An
 * ordinary run: it sees the parent's memory. Covered: it dies of SIGSEGV at the first touch; never zeros.
 * Exit status 0: right or dead, 1: wrong memory.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define BYTES (64ul << 20)

static long bare(long nr, long a)
{
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(0L), "d"(0L)
			 : "rcx", "r11", "memory");
	return ret;
}

static long bare_clone(void)
{
	register long r10 __asm__("r10") = 0, r8 __asm__("r8") = 0;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(SYS_clone), "D"((long)SIGCHLD), "S"(0L), "d"(0L), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return ret;
}

int main(void)
{
	unsigned char *p = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int status = 0;
	long pid;

	if (p == MAP_FAILED)
		return 2;
	memset(p, 0xa5, BYTES);
	pid = bare_clone();
	if (pid == 0) {
		for (unsigned long i = 0; i < BYTES; i += 4096)
			if (p[i] != 0xa5)
				bare(SYS_exit_group, 1);
		bare(SYS_exit_group, 0);
	}
	if (pid < 0 || waitpid((pid_t)pid, &status, 0) != pid)
		return 2;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		puts("raw_clone: the child saw the parent's memory");
	else if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV)
		puts("raw_clone: the child was refused");
	else
		return puts("raw_clone: the child saw WRONG memory"), 1;
	for (unsigned long i = 0; i < BYTES; i += 4096)
		if (p[i] != 0xa5)
			return puts("raw_clone: the parent lost memory"), 1;
	return 0;
}
