/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_api_open.c - xmem_open and xmem_close: every errno that the comment of xmem.h names, against a real appliance
 * and against what only looks like one. What opening says on stderr is counted: one line.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <pthread.h>
#include <sys/socket.h>

#include "tests/unit/api_fixture.h"
#include "units.h"
#include "wire.h"

/* Opens with stderr caught; *lines: how many were written there. */
static struct xmem *open_quietly(const struct xmem_options *o, int *err, unsigned *lines)
{
	int fd = (int)syscall(SYS_memfd_create, "stderr", 0), old = dup(2);
	char text[4096];
	struct xmem *got;
	ssize_t n;

	fflush(stderr);
	dup2(fd, 2);
	got = xmem_open(o, err);
	dup2(old, 2);
	close(old);
	n = pread(fd, text, sizeof(text), 0);
	close(fd);
	*lines = 0;
	for (ssize_t i = 0; i < n; i++)
		*lines += text[i] == '\n';
	return got;
}

static void refused(const struct xmem_options *o, int want)
{
	unsigned lines = 0;
	int err = 0;

	assert_null(open_quietly(o, &err, &lines));
	assert_int_equal(err, want);
	if (o)
		assert_int_equal(lines, 1);
	assert_null(open_quietly(o, NULL, &lines)); /* err may be NULL */
}

static void test_open_when_options_bad_then_einval(void **state)
{
	const char *none[] = { NULL }, *wrong[] = { "shm", NULL }, *scheme[] = { "ftp:somewhere", NULL }, *many[18];
	struct xmem_options o = options();

	refused(NULL, -EINVAL);
	o.size = 0;
	refused(&o, -EINVAL);
	o.size = sizeof(o) - 1;
	refused(&o, -EINVAL);
	o = options();
	o.evict = "lru";
	refused(&o, -EINVAL);
	o = options();
	o.prefetch = "psychic";
	refused(&o, -EINVAL);
	o = options();
	o.appliances = NULL;
	refused(&o, -EINVAL);
	o.appliances = none;
	refused(&o, -EINVAL);
	o.appliances = wrong;
	refused(&o, -EINVAL);
	o.appliances = scheme;
	refused(&o, -EINVAL);
	for (unsigned i = 0; i < 17; i++)
		many[i] = appliance.uri;
	many[17] = NULL;
	o.appliances = many;
	refused(&o, -EINVAL);
}

static void test_open_when_budget_above_the_machine_then_einval(void **state)
{
	struct xmem_options o = options();

	o.local_bytes = xm_machine_memory_bytes() + 1;
	refused(&o, -EINVAL);
	o.local_bytes = 1ull << 50;
	refused(&o, -EINVAL);
	o.local_bytes = UINT64_MAX;
	refused(&o, -EINVAL);
}

static void test_open_when_budget_too_small_then_enomem(void **state)
{
	struct xmem_options o = options();

	o.local_bytes = (4 << 20) - 4096;
	refused(&o, -ENOMEM);
}

static void test_open_when_nobody_listens_then_econnrefused(void **state)
{
	const char *shm[] = { "shm:@nobody-listens-here", NULL }, *path[] = { "shm:/nonexistent/socket", NULL };
	const char *tcp[] = { "tcp:127.0.0.1:1", NULL };
	struct xmem_options o = options();

	o.appliances = shm;
	refused(&o, -ECONNREFUSED);
	o.appliances = path;
	refused(&o, -ECONNREFUSED);
	o.appliances = tcp;
	refused(&o, -ECONNREFUSED);
}

static void test_open_when_host_unknown_then_ehostunreach(void **state)
{
	const char *to[] = { "tcp:a-label-of-more-than-63-bytes-is-no-host-name-and-the-resolver-asks-nobody:1", NULL };
	struct xmem_options o = options();

	o.appliances = to;
	refused(&o, -EHOSTUNREACH);
}

/* A server that answers one connection with `reply`, or with nothing. */
struct fake {
	pthread_t thread;
	int fd;
	char uri[64];
	const void *reply;
	size_t len;
	bool echo_seq;
	uint32_t stop;
};

static void *fake_main(void *arg)
{
	struct fake *f = arg;
	uint8_t in[1024], out[1024];
	int c;

	while ((c = accept(f->fd, NULL, NULL)) >= 0) {
		if (recv(c, in, sizeof(in), 0) > 0 && f->reply) {
			memcpy(out, f->reply, f->len);
			if (f->echo_seq)
				memcpy(out + 8, in + 8, 4); /* header: length 4, type 2, flags 2, sequence 4 */
			if (send(c, out, f->len, MSG_NOSIGNAL) < 0)
				break;
		}
		while (f->reply == NULL && recv(c, in, sizeof(in), 0) > 0)
			;
		close(c);
	}
	return NULL;
}

static void fake_start(struct fake *f, const void *reply, size_t len)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t alen = sizeof(a);

	f->reply = reply;
	f->len = len;
	f->fd = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(bind(f->fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(f->fd, 8), 0);
	assert_int_equal(getsockname(f->fd, (struct sockaddr *)&a, &alen), 0);
	snprintf(f->uri, sizeof(f->uri), "tcp:127.0.0.1:%u", ntohs(a.sin_port));
	assert_int_equal(pthread_create(&f->thread, NULL, fake_main, f), 0);
}

static void fake_stop(struct fake *f)
{
	shutdown(f->fd, SHUT_RDWR);
	pthread_join(f->thread, NULL);
	close(f->fd);
}

static void test_open_when_other_version_then_eprotonosupport(void **state)
{
	struct xm_wire_msg m = { .h = { .type = XM_WIRE_HELLO, .flags = XM_WIRE_REPLY, .status = -EPROTONOSUPPORT } };
	struct xmem_options o = options();
	struct fake f = { .echo_seq = true };
	const char *to[] = { f.uri, NULL };
	uint8_t bytes[1024];
	int n;

	m.u.error.major = 9;
	n = xm_wire_encode(&m, bytes, sizeof(bytes));
	assert_true(n > 0);
	fake_start(&f, bytes, (size_t)n);
	o.appliances = to;
	refused(&o, -EPROTONOSUPPORT);
	fake_stop(&f);
}

static void test_open_when_garbage_answers_then_eproto(void **state)
{
	static const char http[] = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
	struct xmem_options o = options();
	struct fake f = { 0 };
	const char *to[] = { f.uri, NULL };

	fake_start(&f, http, sizeof(http) - 1);
	o.appliances = to;
	refused(&o, -EPROTO);
	fake_stop(&f);
}

static void test_open_when_no_answer_then_etimedout(void **state)
{
	struct xmem_options o = options();
	struct fake f = { 0 };
	const char *to[] = { f.uri, NULL };
	unsigned lines = 0;
	int err = 0;

	fake_start(&f, NULL, 0);
	o.appliances = to;
	assert_null(open_quietly(&o, &err, &lines));
	assert_int_equal(err, -ETIMEDOUT);
	assert_int_equal(lines, 1);
	fake_stop(&f);
}

/* In a process that may not have a userfaultfd: skipped where everybody may. */
static void test_open_when_no_permission_then_eperm(void **state)
{
	struct xmem_options o = options();
	struct test_appliance tcp;
	const char *to[] = { tcp.uri, NULL };
	unsigned lines = 0;
	int err = 0;
	pid_t pid;

	if (getuid() != 0)
		skip();
	test_appliance_start(&tcp, "16M", "tcp");
	o.appliances = to;
	pid = fork();
	if (pid == 0) {
		if (setgid(65534) != 0 || setuid(65534) != 0)
			_exit(99);
		if (access("/dev/userfaultfd", R_OK | W_OK) == 0 || open_quietly(&o, &err, &lines))
			_exit(77);
		_exit(err == -EPERM && lines == 1 ? 0 : 1);
	}
	err = test_wait(pid);
	test_appliance_stop(&tcp);
	if (err == 77)
		skip();
	assert_int_equal(err, 0);
}

static void test_open_when_open_already_then_ealready(void **state)
{
	struct xmem_options o = options();

	refused(&o, -EALREADY);
}

static void test_open_when_closed_before_then_opens_again(void **state)
{
	struct xmem_options o = options();
	struct xmem_region *r;
	char *p = NULL;
	int err = 0;

	for (int i = 0; i < 5; i++) {
		x = xmem_open(&o, &err);
		assert_non_null(x);
		r = xmem_region_create(x, 0, SLAB, NULL, &err);
		assert_non_null(r);
		p = xmem_alloc(r, 100 * PAGE, &err);
		assert_non_null(p);
		test_fill(p, 100, 1);
		xmem_close(x);
	}
	assert_int_equal(test_signal_of(p, false), SIGSEGV);
	xmem_close(NULL);
	xmem_close(x); /* closed already: nothing happens */
	x = NULL;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_open_when_options_bad_then_einval),
		cmocka_unit_test(test_open_when_budget_above_the_machine_then_einval),
		cmocka_unit_test(test_open_when_budget_too_small_then_enomem),
		cmocka_unit_test(test_open_when_nobody_listens_then_econnrefused),
		cmocka_unit_test(test_open_when_host_unknown_then_ehostunreach),
		cmocka_unit_test(test_open_when_other_version_then_eprotonosupport),
		cmocka_unit_test(test_open_when_garbage_answers_then_eproto),
		cmocka_unit_test(test_open_when_no_answer_then_etimedout),
		cmocka_unit_test(test_open_when_no_permission_then_eperm),
		cmocka_unit_test_setup_teardown(test_open_when_open_already_then_ealready, open_it, close_it),
		cmocka_unit_test(test_open_when_closed_before_then_opens_again),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
