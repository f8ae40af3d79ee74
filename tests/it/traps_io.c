/* SPDX-License-Identifier: Apache-2.0 */
/*
 * traps_io [ROW...] - traps of system calls: pages that the kernel has pinned while others are
 * evicted, calls on absent pages, cancellation in the middle of one, closed descriptors. Writes files
 * into the directory TRAPS_DIR (default "."). See traps.h.
 */
#include "traps.h"

#include <liburing.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/utsname.h>

#define PIECE (64ul << 10)
#define PIECES 32
#define BYTES (PIECE * PIECES)

/* A file of BYTES, piece i filled with seed + i; O_DIRECT where the file system can. */
static int pattern_file(uint64_t seed)
{
	int fd = scratch_file(O_DIRECT);
	char *buf = NULL;

	if (fd < 0 && errno == EINVAL) {
		left_out("O_DIRECT: this file system cannot");
		fd = scratch_file(0);
	}
	FATAL(fd >= 0 && !posix_memalign((void **)&buf, PAGE, PIECE));
	memset(buf, 0, PIECE);
	for (size_t i = 0; i < PIECES; i++) {
		fill(buf, PIECE, seed + i);
		FATAL(pwrite(fd, buf, PIECE, (off_t)(i * PIECE)) == (ssize_t)PIECE);
	}
	free(buf);
	return fd;
}

static size_t wrong_pieces(const char *buf, uint64_t seed)
{
	size_t bad = 0;

	for (size_t i = 0; i < PIECES; i++)
		bad += differs(buf + i * PIECE, PIECE, seed + i) != 0;
	return bad;
}

/* As away(), by a process that was seen to let the kernel pin pages: without UFFDIO_MOVE it keeps all of its own. */
#define away_though_pins(p, bytes)           \
	do {                                 \
		if (getenv("TRAPS_NO_MOVE")) \
			press();             \
		else                         \
			away(p, bytes);      \
	} while (0)

/* ---- pinned pages ------------------------------------------------------------------------------------------ */

/* One request for each piece, all in flight at once. */
static void ring_round(struct io_uring *ring, int fd, char *buf, int write_it, bool fixed)
{
	for (unsigned i = 0; i < PIECES; i++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
		char *at = buf + i * PIECE;

		FATAL(sqe);
		if (fixed && write_it)
			io_uring_prep_write_fixed(sqe, fd, at, PIECE, i * PIECE, 0);
		else if (fixed)
			io_uring_prep_read_fixed(sqe, fd, at, PIECE, i * PIECE, 0);
		else if (write_it)
			io_uring_prep_write(sqe, fd, at, PIECE, i * PIECE);
		else
			io_uring_prep_read(sqe, fd, at, PIECE, i * PIECE);
	}
	CHECK(io_uring_submit(ring) == PIECES);
	madvise(buf, BYTES, MADV_PAGEOUT);
	press();
	for (unsigned i = 0; i < PIECES; i++) {
		struct io_uring_cqe *cqe;
		int r;

		while ((r = io_uring_wait_cqe(ring, &cqe)) == -EINTR)
			continue;
		FATAL(r == 0);
		CHECK(cqe->res == (int)PIECE);
		io_uring_cqe_seen(ring, cqe);
	}
}

static void uring_buffers(bool fixed)
{
	int fd = pattern_file(100);
	char *buf = map(BYTES);
	struct iovec iov = { buf, BYTES };
	struct io_uring ring;

	if (io_uring_queue_init(PIECES, &ring, 0)) {
		left_out("io_uring is not available");
		return;
	}
	memset(buf, 1, BYTES);
	away_though_pins(buf, BYTES);
	if (fixed && io_uring_register_buffers(&ring, &iov, 1)) {
		left_out("buffers cannot be registered (RLIMIT_MEMLOCK?)");
		return;
	}
	for (uint64_t round = 0; round < 3; round++) {
		/* the kernel writes into frames that it holds: they must be the program's */
		press();
		madvise(buf, BYTES, MADV_PAGEOUT);
		ring_round(&ring, fd, buf, 0, fixed);
		CHECK(wrong_pieces(buf, 100 + round * PIECES) == 0);
		for (size_t i = 0; i < PIECES; i++)
			fill(buf + i * PIECE, PIECE, 100 + (round + 1) * PIECES + i);
		press();
		ring_round(&ring, fd, buf, 1, fixed);
		memset(buf, 0xee, BYTES);
	}
	io_uring_queue_exit(&ring);
	press();
	CHECK(pread(fd, buf, BYTES, 0) == (ssize_t)BYTES);
	CHECK(wrong_pieces(buf, 100 + 3 * PIECES) == 0);
	close(fd);
	CHECK(munmap(buf, BYTES) == 0);
}

static void uring_fixed_buffers(void)
{
	uring_buffers(true);
}

static void uring_in_flight(void)
{
	uring_buffers(false);
}

static void aio_in_flight(void)
{
	int fd = pattern_file(500);
	char *buf = map(BYTES);
	struct iocb *cb = calloc(PIECES, sizeof(*cb)), *list[PIECES];
	struct io_event *done = calloc(PIECES, sizeof(*done));
	aio_context_t ctx = 0;
	long n = 0;

	FATAL(cb && done);
	if (syscall(SYS_io_setup, PIECES, &ctx)) {
		left_out("AIO is not available");
		return;
	}
	for (int round = 0; round < 4; round++) {
		memset(buf, round, BYTES);
		away_though_pins(buf, BYTES / 2);
		for (size_t i = 0; i < PIECES; i++) {
			cb[i] = (struct iocb){ .aio_fildes = (uint32_t)fd,
					       .aio_lio_opcode = IOCB_CMD_PREAD,
					       .aio_buf = (uintptr_t)(buf + i * PIECE),
					       .aio_nbytes = PIECE,
					       .aio_offset = (int64_t)(i * PIECE) };
			list[i] = &cb[i];
		}
		FATAL(syscall(SYS_io_submit, ctx, (long)PIECES, list) == PIECES);
		press();
		madvise(buf, BYTES, MADV_PAGEOUT);
		for (n = 0; n < PIECES;) {
			long got = syscall(SYS_io_getevents, ctx, 1L, PIECES - n, done, NULL);

			FATAL(got > 0 || errno == EINTR);
			for (long i = 0; i < got; i++)
				CHECK(done[i].res == (int64_t)PIECE);
			n += got > 0 ? got : 0;
		}
		CHECK(wrong_pieces(buf, 500) == 0);
	}
	syscall(SYS_io_destroy, ctx);
	free(cb);
	free(done);
	close(fd);
	CHECK(munmap(buf, BYTES) == 0);
}

static int direct_fd;
static char *direct_buf;

static void *reads_directly(void *arg)
{
	for (int round = 0; round < 4; round++)
		for (size_t i = (uintptr_t)arg; i < PIECES; i += 4)
			CHECK(pread(direct_fd, direct_buf + i * PIECE, PIECE, (off_t)(i * PIECE)) ==
			      (ssize_t)PIECE);
	return NULL;
}

static void direct_reads(void)
{
	pthread_t thread[4];

	direct_fd = pattern_file(900);
	direct_buf = map(BYTES);
	memset(direct_buf, 1, BYTES);
	away_though_pins(direct_buf, BYTES);
	for (size_t i = 0; i < 4; i++)
		FATAL(!pthread_create(&thread[i], NULL, reads_directly, (void *)i));
	for (int i = 0; i < 6; i++) {
		press();
		madvise(direct_buf, BYTES, MADV_PAGEOUT);
	}
	for (int i = 0; i < 4; i++)
		CHECK(pthread_join(thread[i], NULL) == 0);
	press();
	CHECK(wrong_pieces(direct_buf, 900) == 0);
	close(direct_fd);
	CHECK(munmap(direct_buf, BYTES) == 0);
}

static void vmspliced_pages(void)
{
	char *p = map(64 * PAGE), *copy = map(64 * PAGE);
	struct iovec iov = { p, 64 * PAGE };
	size_t got = 0;
	int fd[2];

	FATAL(pipe(fd) == 0 && fcntl(fd[1], F_SETPIPE_SZ, 64 * PAGE) >= 0);
	for (int round = 0; round < 3; round++) {
		fill(p, 64 * PAGE, 40 + (uint64_t)round);
		if (!round)
			away(p, 64 * PAGE);
		FATAL(vmsplice(fd[1], &iov, 1, 0) == 64 * (ssize_t)PAGE);
		madvise(p, 64 * PAGE, MADV_PAGEOUT);
		press();
		press();
		for (got = 0; got < 64 * PAGE;) {
			ssize_t r = read(fd[0], copy + got, 64 * PAGE - got);

			FATAL(r > 0);
			got += (size_t)r;
		}
		CHECK(differs(copy, 64 * PAGE, 40 + (uint64_t)round) == 0);
		CHECK(differs(p, 64 * PAGE, 40 + (uint64_t)round) == 0);
	}
	close(fd[0]);
	close(fd[1]);
	CHECK(munmap(p, 64 * PAGE) == 0 && munmap(copy, 64 * PAGE) == 0);
}

/* ---- calls on absent pages ----------------------------------------------------------------------------------- */

static char *area; /* 16 pages */
static int pipe_fd[2], sock_fd[2];

/* An address shortly before a page boundary; both pages are away. */
static char *absent(int page)
{
	away(area, 16 * PAGE);
	return area + (page + 1) * (int)PAGE - 24;
}

static void reads_and_writes(void)
{
	static const char text[] = "forty-eight bytes that lie across a page border";
	struct iovec *iov = (struct iovec *)(area + 10 * PAGE);
	char *p;

	CHECK(write(pipe_fd[1], text, sizeof(text)) == sizeof(text));
	p = absent(0);
	CHECK(read(pipe_fd[0], p, sizeof(text)) == sizeof(text) && !strcmp(p, text));
	p = absent(0);
	CHECK(write(pipe_fd[1], p, sizeof(text)) == sizeof(text));
	iov[0] = (struct iovec){ area + 3 * PAGE - 8, 16 };
	iov[1] = (struct iovec){ area + 6 * PAGE - 16, 32 };
	absent(0);
	CHECK(readv(pipe_fd[0], iov, 2) == sizeof(text));
	CHECK(!memcmp(area + 3 * PAGE - 8, text, 16) && !memcmp(area + 6 * PAGE - 16, text + 16, 32));
	absent(0);
	CHECK(writev(pipe_fd[1], iov, 2) == sizeof(text));
	p = absent(7);
	CHECK(read(pipe_fd[0], p, sizeof(text)) == sizeof(text) && !strcmp(p, text));
}

static void messages(void)
{
	struct msghdr *m = (struct msghdr *)(area + 12 * PAGE);
	struct iovec *iov = (struct iovec *)(area + 13 * PAGE);
	char *p;

	*iov = (struct iovec){ area + 2 * PAGE - 8, 16 };
	memcpy(iov->iov_base, "sixteen letters.", 16);
	*m = (struct msghdr){ .msg_iov = iov, .msg_iovlen = 1 };
	absent(0);
	CHECK(sendmsg(sock_fd[0], m, 0) == 16);
	iov->iov_base = area + 5 * PAGE - 8;
	absent(0);
	CHECK(recvmsg(sock_fd[1], m, 0) == 16);
	CHECK(!memcmp(area + 5 * PAGE - 8, "sixteen letters.", 16));
	p = absent(1) + 16;
	CHECK(send(sock_fd[0], p, 16, 0) == 16);
	p = absent(8);
	CHECK(recv(sock_fd[1], p, 16, 0) == 16 && !memcmp(p, "sixteen letters.", 16));
}

static void other_calls(void)
{
	struct pollfd *pfd = (struct pollfd *)(area + 4 * PAGE - 8);
	struct epoll_event *ev = (struct epoll_event *)(area + 6 * PAGE - 4);
	struct stat *st = (struct stat *)(area + 8 * PAGE - 32), local;
	struct timespec *ts = (struct timespec *)(area + 9 * PAGE);
	int ep = epoll_create1(0), *two = (int *)(area + 11 * PAGE);
	fd_set *set = (fd_set *)(area + 14 * PAGE);
	char *p = absent(0);

	memset(p, 0, 48);
	p = absent(0);
	CHECK(getrandom(p, 48, 0) == 48 && (nonzero(p - 8, 32) || ((uint64_t *)p)[5]));
	p = absent(0);
	CHECK(getcwd(p, 4000) == p && *p == '/');
	strcpy(area + PAGE - 3, "/proc");
	absent(0);
	CHECK(stat(area + PAGE - 3, st) == 0 && !stat("/proc", &local) && st->st_ino == local.st_ino);
	*pfd = (struct pollfd){ .fd = pipe_fd[1], .events = POLLOUT };
	absent(0);
	CHECK(poll(pfd, 1, 0) == 1 && pfd->revents == POLLOUT);
	*ev = (struct epoll_event){ .events = EPOLLOUT, .data.u64 = 0x1234567890 };
	absent(0);
	CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, pipe_fd[1], ev) == 0);
	memset(ev, 0, sizeof(*ev));
	absent(0);
	CHECK(epoll_wait(ep, ev, 1, 0) == 1 && ev->data.u64 == 0x1234567890);
	FD_ZERO(set);
	FD_SET(pipe_fd[1], set);
	absent(0);
	CHECK(select(pipe_fd[1] + 1, NULL, set, NULL, NULL) == 1 && FD_ISSET(pipe_fd[1], set));
	*ts = (struct timespec){ 0, 1000 };
	absent(0);
	CHECK(syscall(SYS_nanosleep, ts, NULL) == 0);
	absent(0);
	CHECK(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, ts) == 0 && ts->tv_sec > 0);
	absent(0);
	CHECK(pipe(two) == 0 && close(two[0]) == 0 && close(two[1]) == 0);
	absent(0);
	CHECK(uname((struct utsname *)area) == 0 && !strcmp(((struct utsname *)area)->sysname, "Linux"));
	close(ep);
}

static void calls_on_absent_pages(void)
{
	area = map(16 * PAGE);
	memset(area, 1, 16 * PAGE);
	FATAL(pipe(pipe_fd) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, sock_fd) == 0);
	for (int i = 0; i < 2; i++) {
		reads_and_writes();
		messages();
		other_calls();
	}
	CHECK(munmap(area + PAGE, PAGE) == 0);
	CHECK_ERR(write(pipe_fd[1], area + PAGE, 8), EFAULT);
	CHECK(munmap(area, 16 * PAGE) == 0);
}

/* ---- cancellation --------------------------------------------------------------------------------------------- */

static volatile int cleaned;

static void cleans_up(void *arg)
{
	cleaned += ((volatile char *)area)[8 * PAGE] == 1;
}

static void *reads_for_ever(void *arg)
{
	pthread_cleanup_push(cleans_up, NULL);
	for (;;)
		CHECK(read(pipe_fd[0], area + 4 * PAGE - 100, 200) == 200);
	pthread_cleanup_pop(1);
	return NULL;
}

static void cancel_in_read(void)
{
	char text[200];

	area = map(16 * PAGE);
	memset(area, 1, 16 * PAGE);
	memset(text, 1, sizeof(text));
	FATAL(pipe(pipe_fd) == 0);
	for (int i = 0; i < 12; i++) {
		struct timespec tick = { 0, 300000l * (i % 4) };
		pthread_t thread;
		void *value = NULL;

		away(area, 16 * PAGE);
		FATAL(!pthread_create(&thread, NULL, reads_for_ever, NULL));
		nanosleep(&tick, NULL);
		if (i % 3) /* its page is brought in while it is being cancelled */
			CHECK(write(pipe_fd[1], text, sizeof(text)) == sizeof(text));
		CHECK(pthread_cancel(thread) == 0);
		CHECK(pthread_join(thread, &value) == 0 && value == PTHREAD_CANCELED);
	}
	CHECK(cleaned == 12);
	press();
	for (size_t i = 0; i < 16 * PAGE; i += 64)
		CHECK(area[i] == 1);
}

/* ---- descriptors ------------------------------------------------------------------------------------------------ */

static void closed_descriptors(void)
{
	char *p = map(256 * PAGE);

	fill(p, 256 * PAGE, 70);
	for (int way = 0; way < 4; way++) {
		away(p, 256 * PAGE);
		if (way == 0)
			CHECK(close_range(3, ~0u, 0) == 0);
		else if (way == 1)
			CHECK(close_range(5, INT32_MAX, 0) == 0);
		else if (way == 2)
			closefrom(3);
		else
			for (int i = 3; i < 4096; i++)
				close(i);
		CHECK(differs(p, 256 * PAGE, 70) == 0);
		press();
	}
	CHECK(munmap(p, 256 * PAGE) == 0);
}

int main(int argc, char **argv)
{
	static const struct row rows[] = {
		{ "uring_fixed_buffers", uring_fixed_buffers },
		{ "uring_in_flight", uring_in_flight },
		{ "aio_in_flight", aio_in_flight },
		{ "direct_reads", direct_reads },
		{ "vmspliced_pages", vmspliced_pages },
		{ "calls_on_absent_pages", calls_on_absent_pages },
		{ "cancel_in_read", cancel_in_read },
		{ "closed_descriptors", closed_descriptors },
		{ NULL, NULL },
	};

	return traps_main(rows, argc, argv);
}
