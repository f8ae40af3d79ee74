/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_serve_verbs.c - the verbs thread of the appliance without a device: what it asks of the libraries is answered
 * here, so that destroying a queue pair takes as long as a test likes, and events come when it likes.
 */
#include "tests/unit/appliance_rig.h"

#include <infiniband/verbs.h>
#include <pthread.h>
#include <rdma/rdma_cma.h>
#include <sys/eventfd.h>

#define MS 1000000ull
#define HALF_OPEN_NS (5000 * MS) /* that serve_verbs.c has */

static struct xm_appliance a;
static struct xm_session *session;
static uint64_t links;

/* ---- the libraries -------------------------------------------------------------------------------------- */

static struct ibv_device device = { .name = "none0" };
static struct ibv_context context = { .device = &device };
static struct ibv_context *list[] = { &context, NULL };
static struct rdma_event_channel channel;
static struct ibv_cq cq;
static struct ibv_qp qp;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct rdma_cm_event event[64]; /* mutex held, as the next two */
static uint8_t private_data[64][XM_WIRE_RDMA_HELLO];
static unsigned head, tail;
static int keep, kept;	       /* atomic: whoever destroys a queue pair */
static int qps_gone, ids_gone; /* atomic */

struct ibv_context **rdma_get_devices(int *num)
{
	*num = 1;
	return list;
}

void rdma_free_devices(struct ibv_context **l)
{
}

int ibv_query_device(struct ibv_context *c, struct ibv_device_attr *attr)
{
	memset(attr, 0, sizeof(*attr));
	attr->max_qp_rd_atom = 8;
	return 0;
}

int ibv_get_async_event(struct ibv_context *c, struct ibv_async_event *ev)
{
	return -1;
}

struct ibv_cq *ibv_create_cq(struct ibv_context *c, int cqe, void *ctx, struct ibv_comp_channel *ch,
			     int vector)
{
	return &cq;
}

int ibv_destroy_cq(struct ibv_cq *c)
{
	return 0;
}

struct ibv_pd *ibv_alloc_pd(struct ibv_context *c)
{
	struct ibv_pd *pd = calloc(1, sizeof(*pd));

	pd->context = c;
	return pd;
}

int ibv_dealloc_pd(struct ibv_pd *pd)
{
	free(pd);
	return 0;
}

int ibv_query_qp(struct ibv_qp *q, struct ibv_qp_attr *attr, int mask, struct ibv_qp_init_attr *init)
{
	attr->qp_access_flags = ~0u;
	return 0;
}

struct rdma_event_channel *rdma_create_event_channel(void)
{
	channel.fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
	return &channel;
}

void rdma_destroy_event_channel(struct rdma_event_channel *c)
{
	close(c->fd);
}

int rdma_get_cm_event(struct rdma_event_channel *c, struct rdma_cm_event **out)
{
	uint64_t one;

	if (read(c->fd, &one, sizeof(one)) < 0)
		return -1;
	pthread_mutex_lock(&mutex);
	*out = &event[head++ % XM_ARRAY_SIZE(event)];
	pthread_mutex_unlock(&mutex);
	return 0;
}

int rdma_ack_cm_event(struct rdma_cm_event *ev)
{
	return 0;
}

int rdma_create_qp(struct rdma_cm_id *id, struct ibv_pd *pd, struct ibv_qp_init_attr *attr)
{
	id->qp = &qp;
	return 0;
}

void rdma_destroy_qp(struct rdma_cm_id *id)
{
	id->qp = NULL;
	xm_store(&kept, xm_load(&keep));
	while (xm_load(&keep))
		usleep(200);
	xm_store(&kept, 0);
	xm_add(&qps_gone, 1);
}

int rdma_accept(struct rdma_cm_id *id, struct rdma_conn_param *p)
{
	return 0;
}

int rdma_reject(struct rdma_cm_id *id, const void *data, uint8_t len)
{
	return 0;
}

int rdma_destroy_id(struct rdma_cm_id *id)
{
	free(id);
	xm_add(&ids_gone, 1);
	return 0;
}

static void say(enum rdma_cm_event_type type, struct rdma_cm_id *id, const uint8_t *hello)
{
	struct rdma_cm_event ev = { .event = type, .id = id };
	uint64_t one = 1;

	pthread_mutex_lock(&mutex);
	if (hello) {
		memcpy(private_data[tail % XM_ARRAY_SIZE(event)], hello, XM_WIRE_RDMA_HELLO);
		ev.param.conn.private_data = private_data[tail % XM_ARRAY_SIZE(event)];
		ev.param.conn.private_data_len = XM_WIRE_RDMA_HELLO;
	}
	event[tail++ % XM_ARRAY_SIZE(event)] = ev;
	pthread_mutex_unlock(&mutex);
	assert_int_equal(write(channel.fd, &one, sizeof(one)), sizeof(one));
}

/* ---- tests ---------------------------------------------------------------------------------------------- */

static void start(uint64_t lease_ns)
{
	struct xm_slab_kind kind = { .bytes = RIG_SLAB, .numa = XM_NUMA_OFF };
	struct xm_wire_hello h = { .magic = XM_WIRE_MAGIC, .major = 1, .role = XM_WIRE_ROLE_CONTROL };
	struct xm_hello_context c = { .local = false };
	char text[XM_WIRE_TEXT];

	memset(&a, 0, sizeof(a));
	keep = kept = qps_gone = ids_gone = 0;
	context.async_fd = eventfd(0, EFD_CLOEXEC);
	assert_int_equal(xm_pool_init(&a.pool, &kind, 4 * RIG_SLAB, 0), 0);
	assert_int_equal(xm_appliance_init(&a, "verbs", lease_ns), 0);
	assert_int_equal(xm_session_enter(&a, &h, &c, &session, text), 0);
	assert_int_equal(xm_verbs_create(&a, &a.verbs), 0);
	assert_int_equal(xm_verbs_start(a.verbs), 0);
}

static void stop(void)
{
	struct xm_verbs *v = a.verbs;

	xm_verbs_stop(v);
	xm_appliance_fini(&a);
	xm_pool_fini(&a.pool);
	xm_verbs_destroy(v);
	close(context.async_fd);
}

/* A connection of the process with this control connection; accepted, not confirmed. */
static struct rdma_cm_id *request_conn(uint64_t control)
{
	struct xm_wire_rdma_hello h = {
		.major = XM_WIRE_MAJOR, .session = session->id, .link = ++links, .control = control
	};
	struct rdma_cm_id *id = calloc(1, sizeof(*id));
	uint64_t before = xm_load_relaxed(&a.data_connections);
	uint8_t bytes[XM_WIRE_RDMA_HELLO];

	memcpy(h.token, session->token, sizeof(h.token));
	xm_wire_put_rdma_hello(bytes, &h);
	id->verbs = &context;
	say(RDMA_CM_EVENT_CONNECT_REQUEST, id, bytes);
	rig_until(xm_load_relaxed(&a.data_connections) == before + 1);
	return id;
}

static void confirm(struct rdma_cm_id *id)
{
	say(RDMA_CM_EVENT_ESTABLISHED, id, NULL);
}

/* The verbs thread waits for the device from here on: the process with this control connection has said bye. */
static void keep_it(uint64_t control)
{
	xm_store(&keep, 1);
	xm_verbs_notice(a.verbs, XM_VERBS_CONTROL_BYE, session->id, control);
	rig_until(xm_load(&kept));
}

static void wait_until(uint64_t ns)
{
	while (xm_now_ns() < ns)
		usleep(1000);
}

/* What it has read by now, and judged, it has had two more rounds for. */
static void let_it_go(void)
{
	int before = xm_load(&ids_gone);

	xm_store(&keep, 0);
	rig_until(xm_load(&ids_gone) > before);
	confirm(request_conn(9));
	confirm(request_conn(9));
}

static void test_confirmation_when_unread_for_long_then_connection_lives(void **unused)
{
	struct rdma_cm_id *id;
	uint64_t began;

	start(3600000 * MS);
	confirm(request_conn(1));
	id = request_conn(2);
	began = xm_now_ns();
	wait_until(began + HALF_OPEN_NS - 500 * MS);
	keep_it(1);
	confirm(id);
	wait_until(began + HALF_OPEN_NS + 100 * MS);
	let_it_go();
	assert_int_equal(xm_load(&qps_gone), 1); /* that of the first */
	stop();
}

static void test_connection_when_never_confirmed_then_ends(void **unused)
{
	start(3600000 * MS);
	request_conn(1);
	rig_until(xm_load(&ids_gone) == 1);
	stop();
}

static void test_notice_that_control_is_back_when_unread_for_long_then_connection_lives(void **unused)
{
	const uint64_t lease_ns = 1000 * MS;

	start(lease_ns);
	confirm(request_conn(1));
	confirm(request_conn(2));
	xm_verbs_notice(a.verbs, XM_VERBS_CONTROL_GONE, session->id, 2);
	keep_it(1); /* notices are taken in order: the widow's time runs */
	xm_verbs_notice(a.verbs, XM_VERBS_CONTROL_BACK, session->id, 2);
	wait_until(xm_now_ns() + lease_ns + 100 * MS);
	let_it_go();
	assert_int_equal(xm_load(&qps_gone), 1);
	xm_verbs_notice(a.verbs, XM_VERBS_CONTROL_GONE, session->id, 2);
	rig_until(xm_load(&ids_gone) == 2); /* and one that stays away */
	stop();
}

static void test_notices_when_many_then_all_are_carried_out(void **unused)
{
	start(3600000 * MS);
	for (uint64_t i = 1; i <= 100; i++)
		xm_verbs_notice(a.verbs, XM_VERBS_CONTROL_BACK, session->id, i);
	confirm(request_conn(101));
	for (uint64_t i = 1; i <= 101; i++)
		xm_verbs_notice(a.verbs, XM_VERBS_CONTROL_BYE, session->id, i);
	rig_until(xm_load(&ids_gone) == 1);
	stop();
}

void *__real_malloc(size_t n);
void *__wrap_malloc(size_t n);
static _Thread_local bool no_memory;

void *__wrap_malloc(size_t n)
{
	return no_memory ? NULL : __real_malloc(n);
}

static void test_notice_when_there_is_no_memory_for_it_then_identifier_is_destroyed(void **unused)
{
	start(3600000 * MS);
	confirm(request_conn(1));
	confirm(request_conn(2)); /* the first one is confirmed when the second is accepted */
	usleep(50000);		  /* the thread sleeps again: if not, this shows nothing, and does not fail */
	no_memory = true;
	xm_verbs_notice(a.verbs, XM_VERBS_CONTROL_BYE, session->id, 1);
	no_memory = false;
	rig_until(xm_load(&ids_gone) == 1);
	stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_confirmation_when_unread_for_long_then_connection_lives),
		cmocka_unit_test(test_connection_when_never_confirmed_then_ends),
		cmocka_unit_test(test_notice_that_control_is_back_when_unread_for_long_then_connection_lives),
		cmocka_unit_test(test_notices_when_many_then_all_are_carried_out),
		cmocka_unit_test(test_notice_when_there_is_no_memory_for_it_then_identifier_is_destroyed),
	};

	xm_log_init("test_serve_verbs", XM_LOG_ERROR);
	setvbuf(stdout, NULL, _IOLBF, 0);
	alarm(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
