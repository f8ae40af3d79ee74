/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uffd.c - userfaultfd ioctls. Raw system calls only: this runs in handlers, where libc's symbols may be
 * interposed and errno belongs to the program.
 */
#include "runtime/uffd.h"

#include <fcntl.h>

#include "runtime/family.h"
#include "runtime/uffd_abi.h"
#include "sys.h"

#define EAGAIN_TRIES 10000 /* an address space that changes for longer than this is somebody else's bug */

static long uffd_ioctl(int fd, unsigned long req, void *arg)
{
	return xm_sys3(SYS_ioctl, fd, req, arg);
}

static int open_raw(bool by_signal)
{
	long dev = xm_sys_open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	long fd = -EPERM;

	if (dev >= 0) {
		fd = xm_sys3(SYS_ioctl, dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		xm_sys_close((int)dev);
	}
	if (fd < 0)
		fd = xm_sys3(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK, 0, 0);
	if (fd == -EPERM && by_signal)
		fd = xm_sys3(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY, 0, 0);
	return (int)fd;
}

/* What this kernel has at all: asking for an unknown feature bit is refused, so ask with none first. */
static int probe(bool by_signal, uint64_t *have)
{
	struct uffdio_api api = { .api = UFFD_API };
	int fd = open_raw(by_signal);
	long rc;

	if (fd < 0)
		return fd;
	rc = uffd_ioctl(fd, UFFDIO_API, &api);
	xm_sys_close(fd);
	if (rc < 0)
		return (int)rc;
	*have = api.features;
	return 0;
}

int xm_uffd_open(uint32_t masked, bool by_signal, uint32_t *features)
{
	static const struct {
		uint32_t ours;
		uint64_t theirs;
	} map[] = {
		{ XM_FEAT_WP, UFFD_FEATURE_PAGEFAULT_FLAG_WP },
		{ XM_FEAT_MOVE, UFFD_FEATURE_MOVE },
		{ XM_FEAT_POISON, UFFD_FEATURE_POISON },
	};
	struct uffdio_api api = { .api = UFFD_API };
	uint64_t have = 0;
	uint32_t got = 0;
	int fd, rc;

	rc = probe(by_signal, &have);
	if (rc < 0)
		return rc;
	if (by_signal && !(have & UFFD_FEATURE_SIGBUS))
		return -EOPNOTSUPP;
	for (unsigned i = 0; i < XM_ARRAY_SIZE(map); i++) {
		if ((have & map[i].theirs) && !(masked & map[i].ours)) {
			got |= map[i].ours;
			api.features |= map[i].theirs;
		}
	}
	api.features |= by_signal ? UFFD_FEATURE_SIGBUS : have & UFFD_FEATURE_THREAD_ID;
	fd = open_raw(by_signal);
	if (fd < 0)
		return fd;
	rc = (int)uffd_ioctl(fd, UFFDIO_API, &api);
	if (rc < 0) {
		xm_sys_close(fd);
		return rc;
	}
	*features = got;
	return fd;
}

int xm_uffd_register(int fd, uint64_t addr, uint64_t len, bool wp)
{
	struct uffdio_register r = {
		.range = { addr, len },
		.mode = UFFDIO_REGISTER_MODE_MISSING | (wp ? UFFDIO_REGISTER_MODE_WP : 0),
	};

	return (int)uffd_ioctl(fd, UFFDIO_REGISTER, &r);
}

int xm_uffd_unregister(int fd, uint64_t addr, uint64_t len)
{
	struct uffdio_range r = { addr, len };

	return (int)uffd_ioctl(fd, UFFDIO_UNREGISTER, &r);
}

static int64_t copy_by_mode(int fd, uint64_t addr, const void *src, uint64_t len, uint64_t mode)
{
	uint64_t done = 0;
	long rc = 0;

	for (int tries = 0; done < len && tries < EAGAIN_TRIES; tries++) {
		struct uffdio_copy c = {
			.dst = addr + done,
			.src = (uint64_t)(uintptr_t)src + done,
			.len = len - done,
			.mode = mode,
		};

		rc = uffd_ioctl(fd, UFFDIO_COPY, &c);
		if (rc == 0)
			return (int64_t)len;
		if (c.copy > 0)
			done += (uint64_t)c.copy;
		else if (c.copy < 0 && c.copy != -EAGAIN)
			rc = c.copy;
		if (rc != -EAGAIN)
			break;
	}
	return done ? (int64_t)done : rc;
}

static int64_t zero_by_mode(int fd, uint64_t addr, uint64_t len, uint64_t mode)
{
	uint64_t done = 0;
	long rc = 0;

	for (int tries = 0; done < len && tries < EAGAIN_TRIES; tries++) {
		struct uffdio_zeropage z = { .range = { addr + done, len - done }, .mode = mode };

		rc = uffd_ioctl(fd, UFFDIO_ZEROPAGE, &z);
		if (rc == 0)
			return (int64_t)len;
		if (z.zeropage > 0)
			done += (uint64_t)z.zeropage;
		else if (z.zeropage < 0 && z.zeropage != -EAGAIN)
			rc = z.zeropage;
		if (rc != -EAGAIN)
			break;
	}
	return done ? (int64_t)done : rc;
}

int64_t xm_uffd_copy(int fd, uint64_t addr, const void *src, uint64_t len, bool wp)
{
	return copy_by_mode(fd, addr, src, len, wp ? UFFDIO_COPY_MODE_WP : 0);
}

int64_t xm_uffd_copy_asleep(int fd, uint64_t addr, const void *src, uint64_t len, bool wp)
{
	return copy_by_mode(fd, addr, src, len, UFFDIO_COPY_MODE_DONTWAKE | (wp ? UFFDIO_COPY_MODE_WP : 0));
}

int64_t xm_uffd_zero(int fd, uint64_t addr, uint64_t len)
{
	return zero_by_mode(fd, addr, len, 0);
}

int64_t xm_uffd_zero_asleep(int fd, uint64_t addr, uint64_t len)
{
	return zero_by_mode(fd, addr, len, UFFDIO_ZEROPAGE_MODE_DONTWAKE);
}

int xm_uffd_writeprotect(int fd, uint64_t addr, uint64_t len, bool on)
{
	struct uffdio_writeprotect w = {
		.range = { addr, len },
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};
	long rc = -EAGAIN;

	for (int tries = 0; rc == -EAGAIN && tries < EAGAIN_TRIES; tries++)
		rc = uffd_ioctl(fd, UFFDIO_WRITEPROTECT, &w);
	return (int)rc;
}

int xm_uffd_wake(int fd, uint64_t addr, uint64_t len)
{
	struct uffdio_range r = { addr, len };

	return (int)uffd_ioctl(fd, UFFDIO_WAKE, &r);
}

int64_t xm_uffd_move(int fd, uint64_t dst, uint64_t src, uint64_t len)
{
	uint64_t done = 0;
	long rc = 0;

	for (int tries = 0; done < len && tries < EAGAIN_TRIES; tries++) {
		struct uffdio_move m = {
			.dst = dst + done,
			.src = src + done,
			.len = len - done,
			.mode = UFFDIO_MOVE_MODE_DONTWAKE,
		};

		rc = uffd_ioctl(fd, UFFDIO_MOVE, &m);
		if (rc == 0)
			return (int64_t)len;
		if (m.move > 0)
			done += (uint64_t)m.move;
		else if (m.move < 0 && m.move != -EAGAIN)
			rc = m.move;
		if (rc != -EAGAIN)
			break;
	}
	return done ? (int64_t)done : rc;
}

int xm_uffd_poison(int fd, uint64_t addr, uint64_t len)
{
	struct uffdio_poison p = { .range = { addr, len } };
	long rc = -EAGAIN;

	for (int tries = 0; rc == -EAGAIN && tries < EAGAIN_TRIES; tries++)
		rc = uffd_ioctl(fd, UFFDIO_POISON, &p);
	return (int)rc;
}

int xm_uffd_read(int fd, struct xm_uffd_event *ev, int max)
{
	struct uffd_msg msg[16];
	long n;

	n = xm_sys_read(fd, msg, sizeof(msg[0]) * (size_t)xm_min(max, 16));
	if (n == -EAGAIN || n == -EINTR)
		return 0;
	if (n < 0)
		return (int)n;
	n /= (long)sizeof(msg[0]);
	for (long i = 0; i < n; i++) {
		ev[i].fault = msg[i].event == UFFD_EVENT_PAGEFAULT;
		ev[i].addr = msg[i].arg.pagefault.address;
		ev[i].tid = msg[i].arg.pagefault.feat.ptid;
		ev[i].write = (msg[i].arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE) != 0;
		ev[i].wp = (msg[i].arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) != 0;
	}
	return (int)n;
}
