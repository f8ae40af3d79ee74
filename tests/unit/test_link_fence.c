/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_link_fence.c - what a dead connection still carries must not be applied after the connection that
 * took its place has been answered. A proxy between client and appliance keeps bytes of a connection back,
 * outlives the client's end of it, and lets them go later, as a slow network does.
 */
#include "tests/unit/link_fixture.h"

#include "link/inject.h"
#include "link/uri.h"

#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>

#define PIPES 16
#define PASS SIZE_MAX
#define REQUEST_BYTES (XM_WIRE_REQUEST + PAGE)

/* One connection through the proxy. Bytes to the appliance pass while `allowed` lasts, then are kept. */
struct pipe_pair {
	int client, server; /* -1: closed */
	size_t allowed;	    /* PASS: all */
	size_t kept;
	uint8_t bytes[4 * REQUEST_BYTES];
};

struct proxy {
	pthread_mutex_t mutex; /* everything */
	pthread_t thread;
	int listener, stop;
	char uri[160];
	struct sockaddr_storage to;
	socklen_t to_len;
	struct pipe_pair pair[PIPES];
	int pairs;
};

static void send_all(int fd, const uint8_t *p, size_t n)
{
	while (n) {
		ssize_t sent = send(fd, p, n, MSG_NOSIGNAL);

		if (sent <= 0)
			return; /* refused by now: as good as lost */
		p += sent;
		n -= (size_t)sent;
	}
}

static void accept_pair(struct proxy *x)
{
	struct pipe_pair *p = &x->pair[x->pairs];
	int client = accept4(x->listener, NULL, NULL, SOCK_CLOEXEC);

	if (client < 0)
		return;
	p->server = socket(x->to.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (x->pairs == PIPES || connect(p->server, (struct sockaddr *)&x->to, x->to_len) < 0) {
		close(client);
		return;
	}
	p->client = client;
	p->allowed = PASS;
	x->pairs++;
}

static void shut(int *fd)
{
	close(*fd);
	*fd = -1;
}

static void upstream(struct pipe_pair *p)
{
	uint8_t bytes[REQUEST_BYTES];
	ssize_t n = recv(p->client, bytes, sizeof(bytes), MSG_DONTWAIT);
	size_t pass;

	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0) {
		shut(&p->client);
		if (p->allowed == PASS && p->server >= 0)
			shutdown(p->server, SHUT_WR);
		return;
	}
	pass = xm_min((size_t)n, p->allowed);
	if (p->server >= 0)
		send_all(p->server, bytes, pass);
	if (p->allowed != PASS)
		p->allowed -= pass;
	if (p->kept + (size_t)n - pass <= sizeof(p->bytes)) {
		memcpy(p->bytes + p->kept, bytes + pass, (size_t)n - pass);
		p->kept += (size_t)n - pass;
	}
}

static void downstream(struct pipe_pair *p)
{
	uint8_t bytes[REQUEST_BYTES];
	ssize_t n = recv(p->server, bytes, sizeof(bytes), MSG_DONTWAIT);

	if (n < 0 && errno == EAGAIN)
		return;
	if (n > 0 && p->client >= 0)
		send_all(p->client, bytes, (size_t)n);
	if (n > 0)
		return;
	shut(&p->server);
	if (p->client >= 0)
		shutdown(p->client, SHUT_RDWR);
}

static void *relay(void *arg)
{
	struct proxy *x = arg;

	for (;;) {
		struct pollfd pfd[1 + 2 * PIPES];
		int n;

		pthread_mutex_lock(&x->mutex);
		if (x->stop)
			break;
		pfd[0] = (struct pollfd){ .fd = x->listener, .events = POLLIN };
		n = x->pairs;
		for (int i = 0; i < n; i++) {
			pfd[1 + 2 * i] = (struct pollfd){ .fd = x->pair[i].client, .events = POLLIN };
			pfd[2 + 2 * i] = (struct pollfd){ .fd = x->pair[i].server, .events = POLLIN };
		}
		pthread_mutex_unlock(&x->mutex);
		poll(pfd, (nfds_t)(1 + 2 * n), 5); /* the time limit is for stop only */
		pthread_mutex_lock(&x->mutex);
		if (pfd[0].revents)
			accept_pair(x);
		for (int i = 0; i < n; i++) {
			if (pfd[1 + 2 * i].revents && x->pair[i].client >= 0)
				upstream(&x->pair[i]);
			if (pfd[2 + 2 * i].revents && x->pair[i].server >= 0)
				downstream(&x->pair[i]);
		}
		pthread_mutex_unlock(&x->mutex);
	}
	pthread_mutex_unlock(&x->mutex);
	return NULL;
}

static void proxy_start(struct proxy *x)
{
	struct xm_listener l;
	char why[XM_WHY_MAX] = "";
	struct xm_uri u;

	memset(x, 0, sizeof(*x));
	assert_int_equal(xm_uri_parse(rig.tcp, &u, why), 0);
	assert_int_equal(xm_uri_resolve(&u, &x->to, &x->to_len, why), 0);
	assert_int_equal(xm_listen("tcp:0", &l, why), 0);
	x->listener = l.fd;
	memcpy(x->uri, l.uri, sizeof(x->uri));
	pthread_mutex_init(&x->mutex, NULL);
	assert_int_equal(pthread_create(&x->thread, NULL, relay, x), 0);
}

static void proxy_stop(struct proxy *x)
{
	pthread_mutex_lock(&x->mutex);
	x->stop = 1;
	pthread_mutex_unlock(&x->mutex);
	pthread_join(x->thread, NULL);
	for (int i = 0; i < x->pairs; i++) {
		if (x->pair[i].client >= 0)
			close(x->pair[i].client);
		if (x->pair[i].server >= 0)
			close(x->pair[i].server);
	}
	close(x->listener);
	pthread_mutex_destroy(&x->mutex);
}

/* Keeps back what comes on connection i once `more` further bytes have passed. */
static void proxy_hold(struct proxy *x, int i, size_t more)
{
	pthread_mutex_lock(&x->mutex);
	x->pair[i].allowed = more;
	pthread_mutex_unlock(&x->mutex);
}

static size_t proxy_kept(struct proxy *x, int i)
{
	size_t kept;

	pthread_mutex_lock(&x->mutex);
	kept = x->pair[i].kept;
	pthread_mutex_unlock(&x->mutex);
	return kept;
}

static int proxy_server_closed(struct proxy *x, int i)
{
	int ret;

	pthread_mutex_lock(&x->mutex);
	ret = x->pair[i].server < 0;
	pthread_mutex_unlock(&x->mutex);
	return ret;
}

/* Lets go of what was kept, and of the connection; returns when the appliance has taken what it takes. */
static void proxy_release(struct proxy *x, int i)
{
	struct pipe_pair *p = &x->pair[i];

	pthread_mutex_lock(&x->mutex);
	if (p->server >= 0) {
		send_all(p->server, p->bytes, p->kept);
		shutdown(p->server, SHUT_WR);
	}
	pthread_mutex_unlock(&x->mutex);
	rig_until(proxy_server_closed(x, i));
}

/* ---- tests --------------------------------------------------------------------------------------------- */

struct held {
	struct proxy proxy;
	struct fixture f;
};

enum { CONTROL, DATA }; /* connections in the order in which a peer and its first link make them */

static void open_held(struct held *h)
{
	proxy_start(&h->proxy);
	memset(&h->f, 0, sizeof(h->f));
	h->f.peer = rig_peer_with(
		h->proxy.uri, (struct xm_peer_config){ .client_name = "held", .connect_timeout_ns = SECOND });
	assert_int_equal(xm_link_open(h->f.peer, &h->f.link), 0);
	assert_int_equal(xm_peer_region_create(h->f.peer, 4 * RIG_SLAB, NULL, 0, &h->f.region), 0);
}

static void close_held(struct held *h)
{
	close_fixture(&h->f);
	proxy_stop(&h->proxy);
}

/* A write that the proxy keeps all of but `pass` bytes. */
static void strand_write(struct held *h, const uint8_t *page, uint64_t off, size_t pass)
{
	struct iovec iov = { (void *)page, PAGE };

	proxy_hold(&h->proxy, DATA, pass);
	assert_int_equal(h->f.link->ops->writev(h->f.link, &iov, 1, h->f.region.id, off, 7), 0);
	h->f.link->ops->flush(h->f.link);
	rig_until(proxy_kept(&h->proxy, DATA) == REQUEST_BYTES - pass);
}

static void late_write(size_t pass)
{
	static uint8_t old[PAGE], newer[PAGE], back[PAGE];
	struct xm_completion c;
	static struct held h; /* its thread outlives a test that fails */

	open_held(&h);
	memset(old, 0x11, PAGE);
	memset(newer, 0x22, PAGE);
	assert_int_equal(put(h.f.link, newer, PAGE, h.f.region.id, PAGE), 0); /* the slab has memory */
	strand_write(&h, old, 0, pass);
	h.f.link->ops->kill(h.f.link);
	assert_int_equal(h.f.link->ops->poll(h.f.link, &c, 1), 1);
	assert_int_equal(c.status, -ENOLINK);
	assert_int_equal(xm_link_reconnect(h.f.link), 0);
	assert_int_equal(put(h.f.link, newer, PAGE, h.f.region.id, 0), 0);
	proxy_release(&h.proxy, DATA);
	assert_int_equal(get(h.f.link, back, PAGE, h.f.region.id, 0), 0);
	assert_memory_equal(back, newer, PAGE);
	close_held(&h);
}

static void test_late_write_when_link_has_reconnected_then_newer_data_stands(void **unused)
{
	late_write(0);
}

static void test_rest_of_write_when_link_has_reconnected_then_newer_data_stands(void **unused)
{
	late_write(XM_WIRE_REQUEST + 1000);
}

static void test_late_write_when_injected_disconnect_then_newer_data_stands(void **unused)
{
	static uint8_t old[PAGE], newer[PAGE], back[PAGE];
	struct iovec iov = { newer, PAGE };
	struct xm_link *inner, *outer;
	struct xm_completion c;
	static struct held h; /* its thread outlives a test that fails */

	open_held(&h);
	inner = h.f.link;
	memset(old, 0x11, PAGE);
	memset(newer, 0x22, PAGE);
	strand_write(&h, old, 0, 0);
	assert_int_equal(xm_inject_wrap(inner, "disconnect=1", &outer), 0);
	assert_int_equal(outer->ops->writev(outer, &iov, 1, h.f.region.id, 0, 1), -ENOLINK);
	assert_int_equal(inner->ops->poll(inner, &c, 1), 1);
	assert_int_equal(c.status, -ENOLINK);
	assert_int_equal(xm_link_reconnect(outer), 0);
	assert_int_equal(put(inner, newer, PAGE, h.f.region.id, 0), 0);
	proxy_release(&h.proxy, DATA);
	assert_int_equal(get(inner, back, PAGE, h.f.region.id, 0), 0);
	assert_memory_equal(back, newer, PAGE);
	h.f.link = outer;
	close_held(&h);
}

static void test_late_resize_when_control_has_reconnected_then_newer_size_stands(void **unused)
{
	struct xm_region_info r;
	static struct held h; /* its thread outlives a test that fails */

	open_held(&h);
	proxy_hold(&h.proxy, CONTROL, 0);
	assert_int_equal(xm_peer_region_resize(h.f.peer, h.f.region.id, 5 * RIG_SLAB, &r), -ENOLINK);
	assert_true(proxy_kept(&h.proxy, CONTROL) > 0);
	rig_until(xm_peer_region_resize(h.f.peer, h.f.region.id, 6 * RIG_SLAB, &r) == 0);
	proxy_release(&h.proxy, CONTROL);
	assert_int_equal(xm_peer_region_info(h.f.peer, h.f.region.id, &r), 0);
	assert_int_equal(r.slabs, 6);
	close_held(&h);
}

static void test_other_links_when_one_reconnects_then_stay(void **unused)
{
	static uint8_t page[PAGE];
	struct xm_link *other;
	struct xm_link_stats st;
	struct fixture f;

	open_fixture(&f, 2);
	assert_int_equal(xm_link_open(f.peer, &other), 0);
	for (int i = 0; i < 5; i++) {
		f.link->ops->kill(f.link);
		assert_int_equal(xm_link_reconnect(f.link), 0);
		assert_int_equal(put(f.link, page, PAGE, f.region.id, 0), 0);
		assert_int_equal(put(other, page, PAGE, f.region.id, 0), 0);
	}
	assert_int_equal(other->ops->state(other), 0);
	other->ops->stats(other, &st);
	assert_int_equal(st.reconnects, 0);
	rig_until(rig_stat(&rig).data_connections == 2);
	other->ops->close(other);
	close_fixture(&f);
}

/* Writes are cut off in the middle, again and again, and written anew with the next stamp. */
static void test_writes_when_cut_off_and_repeated_then_last_stamp_stands(void **unused)
{
	enum { OPS = 24, BYTES = 64 << 10 };
	static uint8_t old[BYTES], newer[BYTES], back[BYTES];
	struct iovec iov = { old, BYTES };
	struct fixture f;
	uint64_t x = seed;

	open_fixture(&f, 4);
	for (unsigned round = 0; round < 60; round++) {
		struct xm_completion c[OPS];

		memset(old, (int)(2 * round), BYTES);
		memset(newer, (int)(2 * round + 1), BYTES);
		for (uint64_t i = 0; i < OPS; i++)
			assert_int_equal(f.link->ops->writev(f.link, &iov, 1, f.region.id, i * BYTES, i), 0);
		f.link->ops->flush(f.link);
		x = x * 6364136223846793005ull + 1442695040888963407ull;
		for (uint64_t end = xm_now_ns() + (x >> 46); xm_now_ns() < end;)
			;
		f.link->ops->kill(f.link);
		assert_int_equal(f.link->ops->poll(f.link, c, OPS), OPS);
		assert_int_equal(xm_link_reconnect(f.link), 0);
		for (uint64_t i = 0; i < OPS; i++)
			assert_int_equal(put(f.link, newer, BYTES, f.region.id, i * BYTES), 0);
		for (uint64_t i = 0; i < OPS; i++) {
			assert_int_equal(get(f.link, back, BYTES, f.region.id, i * BYTES), 0);
			assert_memory_equal(back, newer, BYTES);
		}
	}
	close_fixture(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_late_write_when_link_has_reconnected_then_newer_data_stands),
		cmocka_unit_test(test_rest_of_write_when_link_has_reconnected_then_newer_data_stands),
		cmocka_unit_test(test_late_write_when_injected_disconnect_then_newer_data_stands),
		cmocka_unit_test(test_late_resize_when_control_has_reconnected_then_newer_size_stands),
		cmocka_unit_test(test_other_links_when_one_reconnects_then_stay),
		cmocka_unit_test(test_writes_when_cut_off_and_repeated_then_last_stamp_stands),
	};
	const char *given = getenv("XM_SEED");

	seed = given ? strtoull(given, NULL, 0) : xm_now_ns();
	printf("XM_SEED=%llu\n", (unsigned long long)seed);
	xm_log_init("test_link_fence", XM_LOG_ERROR);
	alarm(120);
	use_tcp = 1;
	return cmocka_run_group_tests(tests, start_rig, stop_rig);
}
