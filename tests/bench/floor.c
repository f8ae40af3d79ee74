/* SPDX-License-Identifier: Apache-2.0 */
/*
 * floor.c - what the kernel and the socket alone cost, for the bench to divide by. Prints one JSON object.
 *
 *   fault      message-mode userfaultfd, one thread reading absent pages in random order, one handler thread that
 *              answers each by UFFDIO_COPY of one local page. Placement: both on one processor, on two, or free.
 *              Pages are dropped by the faulting thread between rounds, outside the timed part
 *   copy       UFFDIO_COPY of local memory in runs of 64 pages; and the same with each page then read and dropped,
 *              the most that a sequential reader of a set larger than memory can be given by one processor
 *   policy     not a time: bytes of state that each eviction policy keeps for a budget of the pages named
 *   link       a page read over one of the project's own links, without a fault around it
 *   tcp        4 KiB asked for by 32 bytes and answered on a loopback socket (TCP_NODELAY), two threads that block
 *
 * Threads: the main one and one handler or server; no locks.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "hist.h"
#include "link/link.h"
#include "runtime/policy/policy.h"
#include "tests/link_sync.h"
#include "util.h"

#define PAGES 16384u
#define RUN_PAGES 64u
#define COPY_ROUNDS 5u

struct range_job {
	int uffd, cpu;
	char *src;
	int stop[2];
};

static void die(const char *what)
{
	fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
	exit(2);
}

static void pin(int cpu)
{
	cpu_set_t set;

	if (cpu < 0)
		return;
	CPU_ZERO(&set);
	CPU_SET((unsigned)cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) != 0)
		die("sched_setaffinity");
}

/* The two processors that this process may use; the same one twice when it may use only one. */
static void two_cpus(int cpu[2])
{
	cpu_set_t set;
	int n = 0;

	cpu[0] = cpu[1] = 0;
	if (sched_getaffinity(0, sizeof(set), &set) != 0)
		die("sched_getaffinity");
	for (int i = 0; i < CPU_SETSIZE && n < 2; i++)
		if (CPU_ISSET(i, &set))
			cpu[n++] = i;
	if (n == 1)
		cpu[1] = cpu[0];
}

static char *map_pages(unsigned pages)
{
	char *p = mmap(NULL, pages * XM_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("mmap");
	madvise(p, pages * XM_PAGE_SIZE, MADV_NOHUGEPAGE);
	return p;
}

static int open_uffd(char *mem, unsigned pages)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .range = { (uintptr_t)mem, pages * XM_PAGE_SIZE },
				       .mode = UFFDIO_REGISTER_MODE_MISSING };
	int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC), fd = -1;

	if (dev >= 0) {
		fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		close(dev);
	}
	if (fd < 0)
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) != 0 || ioctl(fd, UFFDIO_REGISTER, &reg) != 0)
		die("userfaultfd");
	return fd;
}

static void copy_in(int uffd, char *dst, char *src, unsigned pages)
{
	struct uffdio_copy c = { .dst = (uintptr_t)dst, .src = (uintptr_t)src, .len = pages * XM_PAGE_SIZE };

	while (ioctl(uffd, UFFDIO_COPY, &c) != 0) {
		if (errno != EAGAIN)
			die("UFFDIO_COPY");
		c.copy = 0;
	}
}

static void *answer_faults(void *arg)
{
	struct range_job *job = arg;
	struct pollfd p[2] = { { job->uffd, POLLIN, 0 }, { job->stop[0], POLLIN, 0 } };

	pin(job->cpu);
	for (;;) {
		struct uffd_msg msg;
		ssize_t n = read(job->uffd, &msg, sizeof(msg));

		if (n == (ssize_t)sizeof(msg)) {
			copy_in(job->uffd, (char *)(uintptr_t)(msg.arg.pagefault.address & ~(XM_PAGE_SIZE - 1)),
				job->src, 1);
			continue;
		}
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			die("poll");
		if (p[1].revents)
			return NULL;
	}
}

/* Median of a fault with the two threads on the processors given (-1: free). */
static double fault_us(unsigned faults, int faulter, int handler)
{
	static struct xm_hist h;
	struct range_job job = { .cpu = handler };
	char *mem = map_pages(PAGES);
	pthread_t t;
	uint64_t seed = 88172645463325252ull;

	memset(&h, 0, sizeof(h));
	job.src = map_pages(1);
	memset(job.src, 1, XM_PAGE_SIZE);
	job.uffd = open_uffd(mem, PAGES);
	if (pipe2(job.stop, O_CLOEXEC) != 0 || pthread_create(&t, NULL, answer_faults, &job) != 0)
		die("handler");
	pin(faulter);
	for (unsigned i = 0; i < faults; i++) {
		volatile char *p;
		uint64_t start;

		seed ^= seed << 13;
		seed ^= seed >> 7;
		seed ^= seed << 17;
		p = mem + (seed >> 8) % PAGES * XM_PAGE_SIZE;
		madvise((void *)(uintptr_t)p, XM_PAGE_SIZE, MADV_DONTNEED);
		start = xm_now_ns();
		(void)*p;
		xm_hist_record(&h, xm_now_ns() - start);
	}
	if (write(job.stop[1], "", 1) != 1)
		die("pipe");
	pthread_join(t, NULL);
	close(job.uffd);
	munmap(mem, PAGES * XM_PAGE_SIZE);
	return (double)xm_hist_quantile(&h, 0.5) / 1000;
}

struct copy_rates {
	double copy, stream; /* MiB/s */
};

static double mib_per_s(uint64_t ns, unsigned rounds)
{
	return (double)rounds * PAGES * XM_PAGE_SIZE / ((double)ns / 1e9) / (1 << 20);
}

static struct copy_rates copy_rates(void)
{
	char *mem = map_pages(PAGES), *src = map_pages(PAGES);
	int uffd;
	uint64_t copy_ns = 0, all_ns = 0, sum = 0;

	memset(src, 1, PAGES * XM_PAGE_SIZE);
	uffd = open_uffd(mem, PAGES);
	for (unsigned round = 0; round <= COPY_ROUNDS; round++) {
		uint64_t start = xm_now_ns();

		if (round == 1) /* the first brings the frames from wherever they were */
			copy_ns = all_ns = 0;
		for (unsigned i = 0; i < PAGES; i += RUN_PAGES) {
			uint64_t before = xm_now_ns();

			copy_in(uffd, mem + i * XM_PAGE_SIZE, src + i * XM_PAGE_SIZE, RUN_PAGES);
			copy_ns += xm_now_ns() - before;
			for (char *p = mem + i * XM_PAGE_SIZE, *end = p + RUN_PAGES * XM_PAGE_SIZE; p < end; p += 8)
				sum += *(uint64_t *)(void *)p;
		}
		madvise(mem, PAGES * XM_PAGE_SIZE, MADV_DONTNEED);
		all_ns += xm_now_ns() - start;
	}
	if (sum == 0)
		die("content");
	close(uffd);
	munmap(mem, PAGES * XM_PAGE_SIZE);
	munmap(src, PAGES * XM_PAGE_SIZE);
	return (struct copy_rates){ mib_per_s(copy_ns, COPY_ROUNDS), mib_per_s(all_ns, COPY_ROUNDS) };
}

/* ---- the socket ------------------------------------------------------------------------------------------- */

static bool read_all(int fd, char *buf, size_t len)
{
	while (len) {
		ssize_t n = recv(fd, buf, len, 0);

		if (n <= 0)
			return false;
		buf += n;
		len -= (size_t)n;
	}
	return true;
}

static void *serve(void *arg)
{
	static char page[XM_PAGE_SIZE + 32];
	char ask[32];
	int listener = *(int *)arg, one = 1, fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0)
		die("accept");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	while (read_all(fd, ask, sizeof(ask)))
		if (send(fd, page, sizeof(page), MSG_NOSIGNAL) != (ssize_t)sizeof(page))
			break;
	close(fd);
	return NULL;
}

static double tcp_us(void)
{
	static struct xm_hist h;
	static char page[XM_PAGE_SIZE + 32];
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	char ask[32] = { 0 };
	int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), fd;
	pthread_t t;

	if (listener < 0 || bind(listener, (struct sockaddr *)&a, sizeof(a)) != 0 || listen(listener, 1) != 0 ||
	    getsockname(listener, (struct sockaddr *)&a, &len) != 0)
		die("listen");
	if (pthread_create(&t, NULL, serve, &listener) != 0)
		die("server");
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) != 0)
		die("connect");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	memset(&h, 0, sizeof(h));
	for (int i = 0; i < 20000; i++) {
		uint64_t start = xm_now_ns();

		if (send(fd, ask, sizeof(ask), 0) != (ssize_t)sizeof(ask) || !read_all(fd, page, sizeof(page)))
			die("round trip");
		xm_hist_record(&h, xm_now_ns() - start);
	}
	close(fd);
	pthread_join(t, NULL);
	close(listener);
	return (double)xm_hist_quantile(&h, 0.5) / 1000;
}

/* One page read over a link of ours from the appliance named, with no fault around it. */
static double link_us(const char *uri)
{
	static struct xm_hist h;
	static char page[XM_PAGE_SIZE];
	struct xm_peer_config cfg = { .uri = uri, .client_name = "floor" };
	struct xm_region_info region;
	struct xm_peer_info info;
	struct xm_peer *peer;
	struct xm_link *link;
	char why[160] = "";
	uint64_t seed = 88172645463325252ull;
	int rc = xm_peer_open(&cfg, &peer, why);

	if (rc == 0) {
		xm_peer_info(peer, &info);
		rc = xm_peer_region_create(peer, info.slab_bytes, "", 0, &region);
	}
	if (rc == 0)
		rc = xm_link_open(peer, &link);
	for (int i = 0; i < 20000 && rc == 0; i++) {
		uint64_t start = xm_now_ns();

		seed ^= seed << 13;
		seed ^= seed >> 7;
		seed ^= seed << 17;
		rc = link_read_sync(link, page, sizeof(page), region.id,
				       (seed >> 8) % (info.slab_bytes / XM_PAGE_SIZE) * XM_PAGE_SIZE, 5000000000ull);
		xm_hist_record(&h, xm_now_ns() - start);
	}
	if (rc < 0) {
		fprintf(stderr, "floor: %s: %s %s\n", uri, strerror(-rc), why);
		exit(2);
	}
	link->ops->close(link);
	xm_peer_close(peer);
	return (double)xm_hist_quantile(&h, 0.5) / 1000;
}

/* ---- parts -------------------------------------------------------------------------------------------------- */

static const char *argument; /* of fault, link and policy */

/* Where the threads may run is restored behind it, since each measurement pins as it likes. */
static void part_fault(void)
{
	unsigned faults = argument ? (unsigned)strtoul(argument, NULL, 10) : PAGES * 2;
	cpu_set_t whole;
	int cpu[2];

	two_cpus(cpu);
	sched_getaffinity(0, sizeof(whole), &whole);
	printf("\"fault_same_us\":%.3f", fault_us(faults, cpu[0], cpu[0]));
	printf(",\"fault_other_us\":%.3f", fault_us(faults, cpu[0], cpu[1]));
	sched_setaffinity(0, sizeof(whole), &whole);
	printf(",\"fault_free_us\":%.3f", fault_us(faults, -1, -1));
}

static void part_copy(void)
{
	struct copy_rates r = copy_rates();

	printf("\"copy_mib_per_s\":%.1f,\"stream_mib_per_s\":%.1f", r.copy, r.stream);
}

static void part_tcp(void)
{
	printf("\"tcp_us\":%.3f", tcp_us());
}

static void part_link(void)
{
	printf("\"link_us\":%.3f", link_us(argument ? argument : ""));
}


static void part_policy(void)
{
	uint64_t pages = argument ? strtoull(argument, NULL, 10) : PAGES;

	printf("\"policy_pages\":%llu", (unsigned long long)pages);
	for (int i = 0; xm_evict_names[i]; i++)
		printf(",\"%s_bytes\":%zu", xm_evict_names[i],
		       (size_t)xm_evict_find(xm_evict_names[i])->state_bytes(pages));
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} parts[] = {
		{ "fault", part_fault }, { "copy", part_copy },	    { "tcp", part_tcp },
		{ "link", part_link },	 { "policy", part_policy },
	};
	const char *which = argc > 1 ? argv[1] : "";
	bool any = false;

	argument = argc > 2 ? argv[2] : NULL;
	for (unsigned i = 0; i < XM_ARRAY_SIZE(parts); i++) {
		if (strcmp(which, parts[i].name) != 0)
			continue;
		printf("{");
		parts[i].run();
		printf("}\n");
		any = true;
	}
	if (!any)
		fprintf(stderr, "usage: floor fault [FAULTS] | copy | tcp | link URI | policy [PAGES]\n");
	return any ? 0 : 2;
}
