/* SPDX-License-Identifier: Apache-2.0 */
/*
 * victim.c - an ordinary program for kill.py: fills 64 MiB, says so, waits for a line, then gives pages to system
 * calls and at last reads them all. Uses no heap and no stdio, so that what it was told to touch is all that it
 * touches. One thread; output by write(2).
 */
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGES 16384
#define PAGE 4096
#define CALLS 64

static void say(const char *text, int n)
{
	char line[64];
	int len = (int)strlen(text), at = sizeof(line);

	line[--at] = '\n';
	do {
		line[--at] = (char)('0' + n % 10);
		n /= 10;
	} while (n);
	line[--at] = ' ';
	memcpy(line + at - len, text, (size_t)len);
	if (write(1, line + at - len, sizeof(line) - (size_t)(at - len)) < 0)
		_exit(2);
}

int main(void)
{
	char *m = mmap(NULL, (size_t)PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int efault = 0, other = 0, wrong = 0, pipes[2];
	uint64_t got;

	if (m == MAP_FAILED || pipe(pipes))
		return 2;
	for (uint64_t i = 0; i < PAGES; i++)
		*(uint64_t *)(void *)(m + i * PAGE) = i * 2654435761u + 1;
	say("filled", PAGES);
	if (read(0, &got, 1) != 1)
		return 2;
	for (uint64_t i = 0; i < CALLS; i++) {
		if (write(pipes[1], m + i * PAGE, sizeof(got)) != sizeof(got)) {
			efault += errno == EFAULT;
			other += errno != EFAULT;
		} else if (read(pipes[0], &got, sizeof(got)) != sizeof(got) || got != i * 2654435761u + 1) {
			wrong++;
		}
	}
	say("efault", efault);
	say("other errors", other);
	for (uint64_t i = 0; i < PAGES; i++)
		wrong += *(volatile uint64_t *)(void *)(m + i * PAGE) != i * 2654435761u + 1;
	say("wrong", wrong);
	return 0;
}
