/* SPDX-License-Identifier: Apache-2.0 */
/*
 * refuse.h - the kernel refuses some system calls of one thread, for as long as the test says: a seccomp filter hands
 * them to the test's own thread, which answers by an error or lets them through.
 *
 *   struct refuse r = { .nr = SYS_mmap, .arg = 0, .value = addr, .times = 3, .err = ENOMEM };
 *   refuse_run(&r, call, &c);     call(&c) in a thread of its own; r.seen: how many of its calls were of the kind
 *
 * call may not assert (it is not the test's thread), and the test's thread must not wait for the other meanwhile.
 */
#ifndef XM_TEST_REFUSE_H
#define XM_TEST_REFUSE_H

#include <limits.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>

#include "tests/harness.h"

#define REFUSE_ALWAYS INT_MAX

struct refuse {
	long nr;
	unsigned arg;	/* index of the argument that is looked at */
	uint64_t value; /* the calls that have this there are of the kind */
	int skip, times; /* so many are let through, then so many refused */
	int err;	/* by this errno */
	int seen;
	/* refuse.h's own */
	void (*call)(void *);
	void *ctx;
	int listener; /* atomic; -1: not there yet */
};

static inline int refuse_filter(long nr)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)nr, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { XM_ARRAY_SIZE(code), code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
		return -errno;
	return (int)xm_sys3(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, (long)&prog);
}

static inline void *refuse_main(void *arg)
{
	struct refuse *r = arg;
	int fd = refuse_filter(r->nr);

	if (fd < 0)
		test_die("no seccomp filter: %s", strerror(-fd));
	xm_store(&r->listener, fd);
	r->call(r->ctx);
	return NULL;
}

static inline void refuse_answer(struct refuse *r)
{
	struct seccomp_notif_resp resp = { .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE };
	struct seccomp_notif req;

	memset(&req, 0, sizeof(req));
	if (ioctl(r->listener, SECCOMP_IOCTL_NOTIF_RECV, &req) != 0)
		return;
	resp.id = req.id;
	if (req.data.args[r->arg] == r->value) {
		int i = r->seen++;

		if (i >= r->skip && i - r->skip < r->times) {
			resp.flags = 0;
			resp.error = -r->err;
		}
	}
	ioctl(r->listener, SECCOMP_IOCTL_NOTIF_SEND, &resp);
}

static inline void refuse_run(struct refuse *r, void (*call)(void *), void *ctx)
{
	struct pollfd p = { .events = POLLIN };
	pthread_t thread;

	r->call = call;
	r->ctx = ctx;
	r->seen = 0;
	r->listener = -1;
	if (pthread_create(&thread, NULL, refuse_main, r) != 0)
		test_die("no thread");
	while (xm_load(&r->listener) < 0)
		usleep(100);
	p.fd = r->listener;
	while (poll(&p, 1, -1) >= 0 && !(p.revents & POLLHUP))
		refuse_answer(r);
	pthread_join(thread, NULL);
	close(r->listener);
}

#endif
