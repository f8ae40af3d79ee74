/* SPDX-License-Identifier: Apache-2.0 */
/*
 * traps_signal.c - what makes it hard to resolve faults in the faulting thread: signals, masks and stacks of the program's own,
 * and system calls that the C library does not make. Rows as in traps.h; right in every mode.
 */
#include "traps.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/utsname.h>

/* ---- masks ------------------------------------------------------------------------------------------------------ */

static bool mask_is_full(void)
{
	sigset_t now;

	CHECK(pthread_sigmask(SIG_SETMASK, NULL, &now) == 0);
	for (int s = 1; s < 32; s++)
		if (s != SIGKILL && s != SIGSTOP && !sigismember(&now, s))
			return false;
	return true;
}

static void *touches_with_all_blocked(void *arg)
{
	uint64_t seed = (uint64_t)(uintptr_t)arg;
	size_t bytes = 4u << 20;
	char *p = malloc(bytes);

	FATAL(p);
	CHECK(mask_is_full());
	for (int i = 0; i < 4; i++) {
		fill(p, bytes, seed + (uint64_t)i);
		madvise(p + PAGE - (uintptr_t)p % PAGE, bytes - PAGE, MADV_PAGEOUT);
		CHECK(differs(p, bytes, seed + (uint64_t)i) == 0);
	}
	free(p);
	return NULL;
}

static void all_blocked(void)
{
	sigset_t all, old, pair;
	pthread_t t[4];
	char *p = heap(64 * PAGE);

	sigfillset(&all);
	CHECK(pthread_sigmask(SIG_SETMASK, &all, &old) == 0);
	CHECK(mask_is_full());
	for (size_t i = 0; i < 4; i++)
		FATAL(pthread_create(&t[i], NULL, touches_with_all_blocked, (void *)(i * 100)) == 0);
	fill(p, 64 * PAGE, 5);
	away(p, 64 * PAGE);
	CHECK(differs(p, 64 * PAGE, 5) == 0);
	for (size_t i = 0; i < 4; i++)
		CHECK(pthread_join(t[i], NULL) == 0);
	CHECK(sigprocmask(SIG_SETMASK, &old, &all) == 0);
	CHECK(sigismember(&all, SIGBUS) && sigismember(&all, SIGSYS));
	CHECK(sigprocmask(SIG_BLOCK, NULL, &all) == 0 && !sigismember(&all, SIGBUS) && !sigismember(&all, SIGSYS));
	sigemptyset(&pair);
	sigaddset(&pair, SIGBUS);
	CHECK(sigprocmask(SIG_BLOCK, &pair, NULL) == 0);
	CHECK(sigprocmask(SIG_BLOCK, NULL, &all) == 0 && sigismember(&all, SIGBUS) && !sigismember(&all, SIGSYS));
	CHECK(sigprocmask(SIG_UNBLOCK, &pair, &all) == 0 && sigismember(&all, SIGBUS));
	CHECK(sigprocmask(SIG_BLOCK, NULL, &all) == 0 && !sigismember(&all, SIGBUS));
}

/* ---- the program's own handlers ------------------------------------------------------------------------------------ */

static sigjmp_buf bus_jump;
static void *volatile bus_addr;
static volatile int bus_code, sys_seen;

static void on_bus(int sig, siginfo_t *info, void *context)
{
	bus_addr = info->si_addr;
	bus_code = info->si_code;
	siglongjmp(bus_jump, 1);
}

static void on_sys(int sig)
{
	sys_seen++;
}

static void own_handlers(void)
{
	struct sigaction act = { .sa_sigaction = on_bus, .sa_flags = SA_SIGINFO }, was;
	char *p = heap(PAGE);
	int fd = scratch_file(0), status;
	char *m;

	sigaddset(&act.sa_mask, SIGBUS);
	sigaddset(&act.sa_mask, SIGUSR1);
	CHECK(sigaction(SIGBUS, &act, NULL) == 0);
	CHECK(signal(SIGSYS, on_sys) == SIG_DFL);
	CHECK(sigaction(SIGBUS, NULL, &was) == 0 && was.sa_sigaction == on_bus && (was.sa_flags & SA_SIGINFO) &&
	      sigismember(&was.sa_mask, SIGBUS) && sigismember(&was.sa_mask, SIGUSR1));
	FATAL(fd >= 0 && ftruncate(fd, 2 * (off_t)PAGE) == 0);
	m = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	FATAL(m != MAP_FAILED);
	CHECK(ftruncate(fd, 0) == 0);
	for (int i = 0; i < 3; i++) { /* a file that has become shorter is none of anybody else's faults */
		fill(p, PAGE, (uint64_t)i);
		away(p, PAGE);
		bus_addr = NULL;
		if (!sigsetjmp(bus_jump, 1))
			m[PAGE + 5] = 1;
		CHECK(bus_addr == m + PAGE + 5 && bus_code == BUS_ADRERR);
		CHECK(differs(p, PAGE, (uint64_t)i) == 0);
	}
	CHECK(raise(SIGSYS) == 0 && sys_seen == 1);
	CHECK(kill(getpid(), SIGSYS) == 0 && sys_seen == 2);
	CHECK(signal(SIGSYS, SIG_IGN) == on_sys && raise(SIGSYS) == 0 && sys_seen == 2);
	CHECK(signal(SIGSYS, SIG_DFL) == SIG_IGN && signal(SIGBUS, SIG_DFL) != SIG_DFL);
	status = fork();
	FATAL(status >= 0);
	if (!status) {
		m[0] = 1; /* the default ends it */
		_exit(0);
	}
	CHECK(wait_for(status) == -SIGBUS);
	status = fork();
	FATAL(status >= 0);
	if (!status) {
		raise(SIGSYS);
		_exit(0);
	}
	CHECK(wait_for(status) == -SIGSYS);
	munmap(m, 2 * PAGE);
	close(fd);
}

/* ---- calls that are interrupted ----------------------------------------------------------------------------------------- */

static int ends[2];
static pthread_t reader;
static sigjmp_buf out_of_read;
static volatile int interruptions;

static void on_usr1(int sig)
{
	interruptions++;
}

static volatile sig_atomic_t may_jump; /* out_of_read is good */

static void leaves_read(int sig)
{
	if (may_jump)
		siglongjmp(out_of_read, 1);
}

/* Signals the reader again and again until what it waits for has come to pass. */
static void signal_until(volatile int *done, int sig)
{
	struct timespec tick = { 0, 1000000 };

	while (!*done) {
		pthread_kill(reader, sig);
		nanosleep(&tick, NULL);
	}
}

struct reading {
	char *buf;
	ssize_t got;
	int err;
	volatile int done;
};

/* By an instruction of our own: what the C library does not see. */
static long raw(long nr, long a, long b, long c, long d, long e)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	long r;

	__asm__ volatile("syscall" : "=a"(r) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
	return r;
}

static void *reads_once(void *arg)
{
	struct reading *r = arg;

	r->got = read(ends[0], r->buf, 100);
	r->err = errno;
	r->done = 1;
	return NULL;
}

static void *reads_raw(void *arg)
{
	struct reading *r = arg;

	r->got = raw(SYS_read, ends[0], (long)r->buf, 100, 0, 0);
	r->err = r->got < 0 ? (int)-r->got : 0;
	r->got = r->got < 0 ? -1 : r->got;
	r->done = 1;
	return NULL;
}

static void *jumps_out(void *arg)
{
	struct reading *r = arg;

	for (volatile int i = 0; i < 40; i++) {
		if (!sigsetjmp(out_of_read, 1)) {
			may_jump = 1;
			r->got = i % 2 ? read(ends[0], r->buf, 100) : raw(SYS_read, ends[0], (long)r->buf, 100, 0, 0);
		}
		may_jump = 0;
	}
	r->done = 1;
	return NULL;
}

static void interrupted(void *(*how)(void *), char *p)
{
	struct sigaction act = { .sa_handler = on_usr1 };
	struct timespec tick = { 0, 1000000 };
	struct reading r = { .buf = p };

	sigaction(SIGUSR1, &act, NULL);
	away(p, PAGE);
	FATAL(pthread_create(&reader, NULL, how, &r) == 0);
	signal_until(&r.done, SIGUSR1);
	CHECK(pthread_join(reader, NULL) == 0 && r.got == -1 && r.err == EINTR);

	act.sa_flags = SA_RESTART;
	sigaction(SIGUSR1, &act, NULL);
	away(p, PAGE);
	r = (struct reading){ .buf = p };
	interruptions = 0;
	FATAL(pthread_create(&reader, NULL, how, &r) == 0);
	while (interruptions < 5) {
		pthread_kill(reader, SIGUSR1);
		nanosleep(&tick, NULL);
	}
	CHECK(!r.done && write(ends[1], "restarted", 9) == 9);
	CHECK(pthread_join(reader, NULL) == 0 && r.got == 9 && memcmp(p, "restarted", 9) == 0);
}

static void interrupted_calls(void)
{
	struct sigaction act = { .sa_handler = leaves_read };
	char *p = heap(PAGE);
	struct reading r = { .buf = p };

	FATAL(pipe(ends) == 0);
	interrupted(reads_once, p);
	interrupted(reads_raw, p);
	/* what a handler leaves by a jump is not held for ever */
	sigaction(SIGUSR1, &act, NULL);
	FATAL(pthread_create(&reader, NULL, jumps_out, &r) == 0);
	while (!r.done) {
		struct timespec tick = { 0, 1000000 };

		nanosleep(&tick, NULL);
		if (!r.done)
			pthread_kill(reader, SIGUSR1);
	}
	CHECK(pthread_join(reader, NULL) == 0);
	away(p, PAGE);
	CHECK(memcmp(p, "restarted", 9) == 0);
}

static volatile int cleaned;

static void cleans(void *arg)
{
	cleaned++;
}

static void *polls_for_ever(void *arg)
{
	struct pollfd *fd = arg;

	pthread_cleanup_push(cleans, NULL);
	fd->revents = 7;
	poll(fd, 1, -1);
	pthread_cleanup_pop(1);
	return NULL;
}

static void cancelled_call(void)
{
	struct pollfd *fd = (struct pollfd *)heap(PAGE);
	void *value;

	FATAL(pipe(ends) == 0);
	for (int i = 0; i < 10; i++) {
		*fd = (struct pollfd){ ends[0], POLLIN, 0 };
		away(fd, sizeof(*fd));
		FATAL(pthread_create(&reader, NULL, polls_for_ever, fd) == 0);
		while (*(volatile short *)&fd->revents != 7)
			sched_yield();
		CHECK(pthread_cancel(reader) == 0);
		CHECK(pthread_join(reader, &value) == 0 && value == PTHREAD_CANCELED);
		CHECK(cleaned == i + 1);
	}
}

/* ---- raw calls ---------------------------------------------------------------------------------------------------------------- */

/* A call whose buffer is far away changes rax, rcx and r11, and nothing else that is the program's. */
static void registers_stay(void)
{
	char *p = heap(PAGE);
	uint64_t in[8] = { 11, 22, 33, 44, 55, 66, 77, 88 }, out[8];
	double vector[2] = { 1.5, -2.25 }, after[2];
	long r = SYS_clock_gettime;

	for (int i = 0; i < 5; i++) {
		away(p, PAGE);
		r = SYS_clock_gettime;
		__asm__ volatile("movupd %[v], %%xmm7\n\t"
				 "mov (%[in]), %%r8; mov 8(%[in]), %%r9; mov 16(%[in]), %%r10; mov 24(%[in]), %%rdx\n\t"
				 "mov 32(%[in]), %%r12; mov 40(%[in]), %%r13\n\t"
				 "mov %[p], %%rsi; mov $1, %%edi\n\t"
				 "push $4711; push $4712\n\t"
				 "syscall\n\t"
				 "pop (%[out]); pop 8(%[out])\n\t"
				 "mov %%r8, 16(%[out]); mov %%r9, 24(%[out]); mov %%r10, 32(%[out]); mov %%rdx, 40(%[out])\n\t"
				 "mov %%r12, 48(%[out]); mov %%r13, 56(%[out])\n\t"
				 "movupd %%xmm7, %[after]\n\t"
				 : "+a"(r), [after] "=m"(after)
				 : [v] "m"(vector), [in] "r"(in), [out] "r"(out), [p] "r"(p)
				 : "rcx", "r11", "r8", "r9", "r10", "rdx", "r12", "r13", "rsi", "rdi", "xmm7", "memory");
		CHECK(r == 0 && ((struct timespec *)p)->tv_sec + ((struct timespec *)p)->tv_nsec > 0);
		CHECK(out[0] == 4712 && out[1] == 4711 && memcmp(out + 2, in, 6 * 8) == 0);
		CHECK(memcmp(vector, after, sizeof(after)) == 0);
	}
}

static void raw_calls(void)
{
	char *p = heap(4 * PAGE), *q = heap(4 * PAGE), *gone;
	int fd = scratch_file(0);
	struct stat st;

	FATAL(fd >= 0);
	for (int i = 0; i < 3; i++) {
		fill(p, 4 * PAGE, (uint64_t)i);
		away(p, 4 * PAGE);
		CHECK(raw(SYS_pwrite64, fd, (long)p, 4 * PAGE, 0, 0) == 4 * (long)PAGE);
		away(q, 4 * PAGE);
		CHECK(raw(SYS_pread64, fd, (long)q, 4 * PAGE, 0, 0) == 4 * (long)PAGE);
		CHECK(differs(q, 4 * PAGE, (uint64_t)i) == 0);
		away(q, PAGE);
		CHECK(raw(SYS_fstat, fd, (long)q, 0, 0, 0) == 0);
		memcpy(&st, q, sizeof(st));
		CHECK(st.st_size == 4 * (off_t)PAGE);
		strcpy(q, "/");
		away(q, PAGE);
		CHECK(raw(SYS_chdir, (long)q, 0, 0, 0, 0) == 0);
		away(q, PAGE);
		CHECK(raw(SYS_getcwd, (long)q, PAGE, 0, 0, 0) == 2 && strcmp(q, "/") == 0);
		away(q, PAGE);
		CHECK(raw(SYS_uname, (long)q, 0, 0, 0, 0) == 0 && ((struct utsname *)q)->sysname[0] == 'L');
		*(uint32_t *)q = 5;
		away(q, PAGE);
		CHECK(raw(SYS_futex, (long)q, FUTEX_WAIT, 4, 0, 0) == -EAGAIN);
		away(q, PAGE);
		CHECK(raw(SYS_futex, (long)q, FUTEX_WAKE, 1, 0, 0) == 0);
		/* bad addresses are still bad */
		CHECK(raw(SYS_read, fd, 1, 10, 0, 0) == -EFAULT);
		CHECK(raw(SYS_uname, 8, 0, 0, 0, 0) == -EFAULT);
	}
	gone = map(256 * PAGE);
	fill(gone, 256 * PAGE, 1);
	munmap(gone, 256 * PAGE);
	CHECK(raw(SYS_uname, (long)gone, 0, 0, 0, 0) == -EFAULT);
	CHECK(raw(SYS_pread64, fd, (long)gone, PAGE, 0, 0) == -EFAULT);
	close(fd);
}

/* ---- messages ------------------------------------------------------------------------------------------------------------------------ */

/* Everything of a message is external and far away; datagrams, which a second try would lose. */
static void datagrams(void)
{
	struct everything {
		struct msghdr m;
		struct iovec iov[2];
		struct sockaddr_un from;
		union {
			struct cmsghdr align;
			char room[CMSG_SPACE(sizeof(int))];
		} control;
		char a[64], b[PAGE];
	} *e = (void *)heap(sizeof(*e)), *out = (void *)heap(sizeof(*out));
	int s[2], n = 0;

	FATAL(socketpair(AF_UNIX, SOCK_DGRAM, 0, s) == 0);
	for (int round = 0; round < 20; round++) {
		struct cmsghdr *c;
		int fd = -1;

		memset(out, 0, sizeof(*out));
		snprintf(out->a, sizeof(out->a), "number %d", round);
		out->iov[0] = (struct iovec){ out->a, sizeof(out->a) };
		out->iov[1] = (struct iovec){ out->b, sizeof(out->b) };
		fill(out->b, sizeof(out->b), (uint64_t)round);
		out->m = (struct msghdr){ .msg_iov = out->iov, .msg_iovlen = 2, .msg_control = &out->control,
					  .msg_controllen = sizeof(out->control) };
		c = CMSG_FIRSTHDR(&out->m);
		*c = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
		memcpy(CMSG_DATA(c), &s[0], sizeof(int));
		away(out, sizeof(*out));
		CHECK(round % 2 ? sendmsg(s[0], &out->m, 0) > 0 : raw(SYS_sendmsg, s[0], (long)&out->m, 0, 0, 0) > 0);

		memset(e, 0, sizeof(*e));
		e->iov[0] = (struct iovec){ e->a, sizeof(e->a) };
		e->iov[1] = (struct iovec){ e->b, sizeof(e->b) };
		e->m = (struct msghdr){ .msg_name = &e->from, .msg_namelen = sizeof(e->from), .msg_iov = e->iov, .msg_iovlen = 2,
					.msg_control = &e->control, .msg_controllen = sizeof(e->control) };
		away(e, sizeof(*e));
		CHECK((round % 4 < 2 ? recvmsg(s[1], &e->m, 0) : raw(SYS_recvmsg, s[1], (long)&e->m, 0, 0, 0)) ==
		      (long)(sizeof(e->a) + sizeof(e->b)));
		CHECK(sscanf(e->a, "number %d", &n) == 1 && n == round && differs(e->b, sizeof(e->b), (uint64_t)round) == 0);
		c = CMSG_FIRSTHDR(&e->m);
		if (c)
			memcpy(&fd, CMSG_DATA(c), sizeof(fd));
		CHECK(c && c->cmsg_type == SCM_RIGHTS && fcntl(fd, F_GETFD) >= 0);
		close(fd);
	}
}

/* ---- many calls on one page -------------------------------------------------------------------------------------------------------- */

#define WAITERS 40
static struct epoll_event *events; /* of all of them on one page */
static int many_ends[WAITERS][2];

static void *waits_for_event(void *arg)
{
	size_t i = (size_t)(uintptr_t)arg;
	int ep = epoll_create1(EPOLL_CLOEXEC), r;
	struct epoll_event ev = { .events = EPOLLIN, .data.u64 = 1000 + i };

	CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, many_ends[i][0], &ev) == 0);
	r = epoll_wait(ep, &events[i], 1, -1);
	CHECK(r == 1 && events[i].data.u64 == 1000 + i);
	close(ep);
	return NULL;
}

static void many_on_one_page(void)
{
	pthread_t t[WAITERS];

	events = (void *)heap(PAGE);
	for (size_t i = 0; i < WAITERS; i++) {
		FATAL(pipe(many_ends[i]) == 0);
		FATAL(pthread_create(&t[i], NULL, waits_for_event, (void *)i) == 0);
	}
	press();
	for (size_t i = 0; i < WAITERS; i++)
		CHECK(write(many_ends[i][1], "x", 1) == 1);
	for (size_t i = 0; i < WAITERS; i++)
		CHECK(pthread_join(t[i], NULL) == 0);
	away(events, PAGE); /* nothing of it is held any more */
	for (size_t i = 0; i < WAITERS; i++)
		CHECK(events[i].data.u64 == 1000 + i);
}

/* A buffer larger than the local budget goes through one read and one write. */
static void whole_files(void)
{
	size_t bytes = ballast_bytes ? ballast_bytes : 32u << 20;
	int fd = scratch_file(0);
	char *p = map(bytes);

	FATAL(fd >= 0);
	fill(p, bytes, 9);
	CHECK(write(fd, p, bytes) == (ssize_t)bytes);
	CHECK(lseek(fd, 0, SEEK_SET) == 0);
	memset(p, 0, bytes);
	CHECK(read(fd, p, bytes) == (ssize_t)bytes);
	CHECK(differs(p, bytes, 9) == 0);
	munmap(p, bytes);
	close(fd);
}

/* ---- a filter of the program's own ------------------------------------------------------------------------------------------------------ */

static void own_filter(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 77),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { 4, code };
	char *p = heap(PAGE);
	int fd = scratch_file(0);

	FATAL(fd >= 0);
	CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog) == 0);
	CHECK_ERR(syscall(SYS_getppid), 77);
	for (int i = 0; i < 3; i++) {
		fill(p, PAGE, (uint64_t)i);
		away(p, PAGE);
		CHECK(pwrite(fd, p, PAGE, 0) == (ssize_t)PAGE);
		away(p, PAGE);
		CHECK(raw(SYS_pread64, fd, (long)p, PAGE, 0, 0) == (long)PAGE);
		CHECK(differs(p, PAGE, (uint64_t)i) == 0);
	}
	close(fd);
}

/* ---- forks from everywhere -------------------------------------------------------------------------------------------------------------- */

static void *forks(void *arg)
{
	char *p = arg;

	for (int i = 0; i < 5; i++) {
		pid_t pid = fork();

		FATAL(pid >= 0);
		if (!pid) {
			size_t wrong = differs(p, 64 * PAGE, 3);

			fill(p, 64 * PAGE, 4);
			wrong += differs(p, 64 * PAGE, 4);
			_exit(wrong + (size_t)raw(SYS_uname, (long)p, 0, 0, 0, 0) ? 1 : 0);
		}
		CHECK(wait_for(pid) == 0);
	}
	return NULL;
}

static void forks_in_threads(void)
{
	char *p = heap(64 * PAGE);
	pthread_t t[3];

	fill(p, 64 * PAGE, 3);
	away(p, 64 * PAGE);
	for (size_t i = 0; i < 3; i++)
		FATAL(pthread_create(&t[i], NULL, forks, p) == 0);
	for (size_t i = 0; i < 3; i++)
		CHECK(pthread_join(t[i], NULL) == 0);
	CHECK(differs(p, 64 * PAGE, 3) == 0);
}

int main(int argc, char **argv)
{
	static const struct row rows[] = {
		{ "all_blocked", all_blocked },
		{ "own_handlers", own_handlers },
		{ "interrupted_calls", interrupted_calls },
		{ "cancelled_call", cancelled_call },
		{ "registers_stay", registers_stay },
		{ "raw_calls", raw_calls },
		{ "datagrams", datagrams },
		{ "many_on_one_page", many_on_one_page },
		{ "whole_files", whole_files },
		{ "own_filter", own_filter },
		{ "forks_in_threads", forks_in_threads },
		{ NULL, NULL },
	};

	return traps_main(rows, argc, argv);
}
