/* SPDX-License-Identifier: Apache-2.0 */
/* test_wire.c - the codec: what was encoded comes back, and nothing malformed gets through. */
#include "wire.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "util.h"

static struct xm_wire_msg in, out;
static uint8_t bytes[XM_WIRE_MAX];

static const uint16_t types[] = { XM_WIRE_HELLO,	 XM_WIRE_PING,	      XM_WIRE_BYE,
				  XM_WIRE_REGION_CREATE, XM_WIRE_REGION_OPEN, XM_WIRE_REGION_RESIZE,
				  XM_WIRE_REGION_DROP,	 XM_WIRE_REGION_FREE, XM_WIRE_REGION_INFO,
				  XM_WIRE_REGION_LIST,	 XM_WIRE_SLAB_MAP,    XM_WIRE_SLAB_KEYS,
				  XM_WIRE_STAT,		 XM_WIRE_ERROR };

static void begin(uint16_t type, uint16_t flags, int32_t status)
{
	memset(&in, 0, sizeof(in));
	memset(&out, 0xee, sizeof(out));
	in.h = (struct xm_wire_header){ .type = type, .flags = flags, .seq = 0x01020304, .status = status };
}

static int there_and_back(void)
{
	int len = xm_wire_encode(&in, bytes, sizeof(bytes));

	assert_true(len >= (int)XM_WIRE_HEADER);
	assert_int_equal(xm_wire_decode(bytes, (size_t)len, &out), 0);
	assert_int_equal(out.h.length, len);
	assert_int_equal(out.h.type, in.h.type);
	assert_int_equal(out.h.seq, in.h.seq);
	assert_int_equal(out.h.status, in.h.status);
	return len;
}

static void fill(void *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		((uint8_t *)p)[i] = (uint8_t)(i * 31 + 7);
}

static void test_hello_when_encoded_then_fields_return(void **unused)
{
	struct xm_wire_hello *h = &in.u.hello;

	begin(XM_WIRE_HELLO, 0, 0);
	*h = (struct xm_wire_hello){ .magic = XM_WIRE_MAGIC,
				     .major = 1,
				     .minor = 9,
				     .role = XM_WIRE_ROLE_DATA,
				     .features = 0xdeadbeef,
				     .session = 0x1122334455667788ull };
	fill(h->token, sizeof(h->token));
	h->proc = (struct xm_procid){ 4711, 1ull << 50, 3, 4 };
	strcpy(h->name, "a client");
	h->link = 0x99aabbccddeeff01ull;
	there_and_back();
	assert_int_equal(out.u.hello.link, h->link);
	assert_int_equal(out.u.hello.session, h->session);
	assert_int_equal(out.u.hello.features, 0xdeadbeef);
	assert_int_equal(out.u.hello.role, XM_WIRE_ROLE_DATA);
	assert_memory_equal(out.u.hello.token, h->token, 16);
	assert_int_equal(out.u.hello.proc.start_time, 1ull << 50);
	assert_string_equal(out.u.hello.name, "a client");
}

/* The first bytes are the part of the format that no version may change. */
static void test_hello_bytes_are_as_documented(void **unused)
{
	static const uint8_t want[] = { 0, 0, 0, 0, 1,	 0,   0,   0,	4, 3, 2, 1,
					0, 0, 0, 0, 'X', 'M', 'E', 'M', 1, 0, 0, 0 };
	int len;

	begin(XM_WIRE_HELLO, 0, 0);
	in.u.hello.magic = XM_WIRE_MAGIC;
	in.u.hello.major = 1;
	len = there_and_back();
	assert_int_equal(len, 16 + 4 + 2 + 2 + 2 + 4 + 8 + 16 + 28 + 32);
	assert_int_equal(bytes[0] | bytes[1] << 8, len);
	assert_memory_equal(bytes + 4, want + 4, sizeof(want) - 4);
}

/* link came with 1.1: a client of 1.0 does not send it, and one of 1.1 must. */
static void test_hello_of_minor_0_when_decoded_then_has_no_link(void **unused)
{
	int old, new;

	begin(XM_WIRE_HELLO, 0, 0);
	in.u.hello.magic = XM_WIRE_MAGIC;
	in.u.hello.major = 1;
	in.u.hello.link = 5;
	old = there_and_back();
	assert_int_equal(out.u.hello.link, 0);
	in.u.hello.minor = 1;
	new = there_and_back();
	assert_int_equal(new, old + 8);
	assert_int_equal(out.u.hello.link, 5);
	for (int len = old; len < new; len++) {
		bytes[0] = (uint8_t)len;
		assert_int_equal(xm_wire_decode(bytes, (size_t)len, &out), -EPROTO);
	}
}

static void test_hello_of_other_major_when_short_then_version_is_readable(void **unused)
{
	begin(XM_WIRE_HELLO, 0, 0);
	in.u.hello.magic = XM_WIRE_MAGIC;
	in.u.hello.major = 2;
	in.u.hello.minor = 5;
	xm_wire_encode(&in, bytes, sizeof(bytes));
	bytes[0] = 24;
	bytes[1] = 0;
	assert_int_equal(xm_wire_decode(bytes, 24, &out), 0);
	assert_int_equal(out.u.hello.major, 2);
	assert_int_equal(out.u.hello.minor, 5);
}

static void test_region_when_encoded_then_metadata_returns(void **unused)
{
	struct xm_wire_region *r = &in.u.region;

	begin(XM_WIRE_REGION_INFO, XM_WIRE_REPLY, 0);
	fill(r, sizeof(*r));
	memset(r->name, 0, sizeof(r->name));
	strcpy(r->name, "heap");
	there_and_back();
	assert_int_equal(out.u.region.id, r->id);
	assert_int_equal(out.u.region.generation, r->generation);
	assert_int_equal(out.u.region.alloc_offset, r->alloc_offset);
	assert_int_equal(out.u.region.modified_ns, r->modified_ns);
	assert_memory_equal(out.u.region.owner, r->owner, sizeof(r->owner));
	assert_int_equal(out.u.region.rules[3].rights, r->rules[3].rights);
	assert_string_equal(out.u.region.name, "heap");
}

static void test_full_lists_when_encoded_then_fit_and_return(void **unused)
{
	begin(XM_WIRE_STAT, XM_WIRE_REPLY, 0);
	in.u.stat_reply.count = XM_WIRE_SESSIONS;
	in.u.stat_reply.more = 1;
	in.u.stat_reply.uptime_ns = 77;
	in.u.stat_reply.session[XM_WIRE_SESSIONS - 1].write_bytes = 99;
	there_and_back();
	assert_int_equal(out.u.stat_reply.uptime_ns, 77);
	assert_int_equal(out.u.stat_reply.session[XM_WIRE_SESSIONS - 1].write_bytes, 99);
	begin(XM_WIRE_REGION_LIST, XM_WIRE_REPLY, 0);
	in.u.list.count = XM_WIRE_LIST;
	in.u.list.region[XM_WIRE_LIST - 1].id = 5;
	there_and_back();
	assert_int_equal(out.u.list.region[XM_WIRE_LIST - 1].id, 5);
}

static void test_refusal_when_status_negative_then_body_is_error(void **unused)
{
	begin(XM_WIRE_REGION_CREATE, XM_WIRE_REPLY, -ENOMEM);
	in.u.error.value = 123;
	strcpy(in.u.error.text, "no room");
	there_and_back();
	assert_int_equal(out.u.error.value, 123);
	assert_string_equal(out.u.error.text, "no room");
}

static void test_text_when_not_terminated_then_is_cut(void **unused)
{
	begin(XM_WIRE_REGION_OPEN, 0, 0);
	memset(in.u.op.name, 'x', sizeof(in.u.op.name));
	xm_wire_encode(&in, bytes, sizeof(bytes));
	memset(bytes + XM_WIRE_HEADER + 16, 'y', XM_WIRE_NAME);
	assert_int_equal(xm_wire_decode(bytes, XM_WIRE_HEADER + 16 + XM_WIRE_NAME, &out), 0);
	assert_int_equal(strlen(out.u.op.name), XM_WIRE_NAME - 1);
}

static void test_bytes_of_later_minor_when_appended_then_are_skipped(void **unused)
{
	int len;

	begin(XM_WIRE_REGION_DROP, 0, 0);
	in.u.slabs.count = 9;
	len = xm_wire_encode(&in, bytes, sizeof(bytes));
	bytes[0] = (uint8_t)(len + 8);
	assert_int_equal(xm_wire_decode(bytes, (size_t)len + 8, &out), 0);
	assert_int_equal(out.u.slabs.count, 9);
}

static void test_keys_when_encoded_then_fields_return(void **unused)
{
	struct xm_wire_keys *k = &in.u.keys;

	begin(XM_WIRE_SLAB_KEYS, XM_WIRE_REPLY, 0);
	*k = (struct xm_wire_keys){ .region = 7, .first = 9, .count = XM_WIRE_KEYS };
	for (uint32_t i = 0; i < XM_WIRE_KEYS; i++)
		k->key[i] = (struct xm_wire_key){ (uint64_t)i << 40, 0xfffffff0u + i % 16, XM_WIRE_RIGHT_READ };
	there_and_back();
	assert_int_equal(out.u.keys.region, 7);
	assert_int_equal(out.u.keys.first, 9);
	assert_int_equal(out.u.keys.count, XM_WIRE_KEYS);
	assert_memory_equal(out.u.keys.key, k->key, sizeof(k->key));
	k->count = XM_WIRE_KEYS + 1;
	assert_int_equal(xm_wire_encode(&in, bytes, sizeof(bytes)), -EPROTO);
	k->count = 1;
	assert_true(xm_wire_encode(&in, bytes, sizeof(bytes)) > 0);
	bytes[XM_WIRE_HEADER + 16] = XM_WIRE_KEYS + 1;
	assert_int_equal(xm_wire_decode(bytes, in.h.length, &out), -EPROTO);
}

/* Private data of rdma_cm: it arrives padded, and may be anybody's. */
static void test_rdma_hello_when_padded_cut_or_foreign(void **unused)
{
	struct xm_wire_rdma_hello h = { .major = XM_WIRE_MAJOR, .minor = 7, .session = 1ull << 63, .link = 5, .control = 6 };
	struct xm_wire_rdma_reply r = { .major = XM_WIRE_MAJOR, .minor = 2, .status = -13 }, r2;
	uint8_t b[56] = { 0 };
	struct xm_wire_rdma_hello h2;

	fill(h.token, sizeof(h.token));
	xm_wire_put_rdma_hello(b, &h);
	assert_int_equal(xm_wire_get_rdma_hello(b, sizeof(b), &h2), 0);
	assert_memory_equal(&h2, &h, sizeof(h));
	for (size_t cut = 0; cut < XM_WIRE_RDMA_HELLO; cut++)
		assert_int_equal(xm_wire_get_rdma_hello(b, cut, &h2), -EPROTO);
	b[4]++; /* another version: nothing but that is read */
	assert_int_equal(xm_wire_get_rdma_hello(b, 8, &h2), 0);
	assert_int_equal(h2.major, XM_WIRE_MAJOR + 1);
	assert_int_equal(h2.session, 0);
	b[0]++;
	assert_int_equal(xm_wire_get_rdma_hello(b, sizeof(b), &h2), -EPROTO);
	xm_wire_put_rdma_reply(b, &r);
	assert_int_equal(xm_wire_get_rdma_reply(b, XM_WIRE_RDMA_REPLY, &r2), 0);
	assert_memory_equal(&r2, &r, sizeof(r));
	assert_int_equal(xm_wire_get_rdma_reply(b, XM_WIRE_RDMA_REPLY - 1, &r2), -EPROTO);
	r.status = 1; /* neither yes nor no: who takes it for yes has no connection */
	xm_wire_put_rdma_reply(b, &r);
	assert_int_equal(xm_wire_get_rdma_reply(b, XM_WIRE_RDMA_REPLY, &r2), -EPROTO);
}

#define RULES_BYTES (XM_WIRE_RULES * (1 + 16 + 4))

/* Bytes at a message's end that came with 1.3: it may stop before them, and nowhere else. */
static int since_1_3(uint16_t type, int reply)
{
	switch (type) {
	case XM_WIRE_REGION_CREATE: return reply ? 4 : (int)RULES_BYTES;
	case XM_WIRE_REGION_OPEN:
	case XM_WIRE_REGION_RESIZE:
	case XM_WIRE_REGION_DROP:
	case XM_WIRE_REGION_INFO:
	case XM_WIRE_SLAB_MAP: return reply ? 4 : 0;
	default: return 0;
	}
}

/* As it came from a peer of 1.2. */
static void decode_without(int len, int bytes_less)
{
	bytes[0] = (uint8_t)(len - bytes_less);
	bytes[1] = (uint8_t)((len - bytes_less) >> 8);
	assert_int_equal(xm_wire_decode(bytes, (size_t)(len - bytes_less), &out), 0);
}

static void test_create_when_it_has_rules_then_they_return_and_1_2_has_none(void **unused)
{
	static const struct xm_wire_rule none[XM_WIRE_RULES];
	struct xm_wire_region_create *r = &in.u.create;
	int len;

	begin(XM_WIRE_REGION_CREATE, 0, 0);
	*r = (struct xm_wire_region_create){ .size_bytes = 9, .type = XM_WIRE_REGION_SHARED, .nonce = 3, .name = "ours" };
	for (unsigned i = 0; i < XM_WIRE_RULES; i++) {
		r->rules[i] = (struct xm_wire_rule){ .kind = (uint8_t)(i + 1), .rights = i << 30 | 1 };
		fill(r->rules[i].principal, 16);
	}
	len = there_and_back();
	assert_int_equal(len, 16 + 8 + 4 + 4 + 8 + 64 + 84);
	for (unsigned i = 0; i < XM_WIRE_RULES; i++) {
		assert_int_equal(out.u.create.rules[i].kind, r->rules[i].kind);
		assert_int_equal(out.u.create.rules[i].rights, r->rules[i].rights);
		assert_memory_equal(out.u.create.rules[i].principal, r->rules[i].principal, 16);
	}
	memset(&out, 0xee, sizeof(out));
	decode_without(len, RULES_BYTES);
	assert_int_equal(out.u.create.type, XM_WIRE_REGION_SHARED);
	assert_string_equal(out.u.create.name, "ours");
	assert_memory_equal(out.u.create.rules, none, sizeof(none));
}

static void test_rights_when_absent_then_are_those_of_1_2(void **unused)
{
	int len;

	begin(XM_WIRE_REGION_OPEN, XM_WIRE_REPLY, 0);
	in.u.region.rights = XM_WIRE_RIGHT_READ;
	len = there_and_back();
	assert_int_equal(out.u.region.rights, XM_WIRE_RIGHT_READ);
	decode_without(len, 4);
	assert_int_equal(out.u.region.rights, XM_WIRE_RIGHTS_OWN);
	begin(XM_WIRE_SLAB_MAP, XM_WIRE_REPLY, 0);
	in.u.mapped = (struct xm_wire_mapped){ 7, 8, 9, XM_WIRE_RIGHT_READ };
	len = there_and_back();
	assert_int_equal(out.u.mapped.count, 9);
	assert_int_equal(out.u.mapped.rights, XM_WIRE_RIGHT_READ);
	decode_without(len, 4);
	assert_int_equal(out.u.mapped.count, 9);
	assert_int_equal(out.u.mapped.rights, XM_WIRE_RIGHT_READ | XM_WIRE_RIGHT_WRITE);
	/* a list is read by clients that know no more than 1.2: each region is as long as it was */
	begin(XM_WIRE_REGION_LIST, XM_WIRE_REPLY, 0);
	in.u.list.count = 2;
	in.u.list.region[1].id = 5;
	assert_int_equal(there_and_back(), 16 + 8 + 2 * (8 + 24 + 12 + 8 + 16 + 16 + 12 + 84 + 64));
	assert_int_equal(out.u.list.region[1].id, 5);
	assert_int_equal(out.u.list.region[1].rights, XM_WIRE_RIGHTS_OWN);
}

static void test_every_truncation_is_refused(void **unused)
{
	for (size_t t = 0; t < XM_ARRAY_SIZE(types); t++) {
		for (uint16_t reply = 0; reply < 2; reply++) {
			int len;

			begin(types[t], reply, 0);
			in.u.hello.magic =
				XM_WIRE_MAGIC; /* the same place as other first fields: harmless there */
			if (types[t] == XM_WIRE_HELLO && !reply)
				in.u.hello.major = XM_WIRE_MAJOR;
			else
				memset(&in.u, 0, sizeof(in.u));
			len = xm_wire_encode(&in, bytes, sizeof(bytes));
			assert_true(len > 0);
			for (int cut = 0; cut < len; cut++) {
				assert_true(xm_wire_decode(bytes, (size_t)cut, &out) <
					    0); /* length disagrees */
				if (cut < (int)XM_WIRE_HEADER)
					continue;
				bytes[0] = (uint8_t)cut;
				bytes[1] = (uint8_t)(cut >> 8);
				assert_int_equal(xm_wire_decode(bytes, (size_t)cut, &out),
						 cut < len && cut == len - since_1_3(types[t], reply) ? 0 : -EPROTO);
				bytes[0] = (uint8_t)len;
				bytes[1] = (uint8_t)(len >> 8);
			}
		}
	}
}

static void test_counts_above_limit_are_refused(void **unused)
{
	int len;

	begin(XM_WIRE_REGION_LIST, XM_WIRE_REPLY, 0);
	in.u.list.count = XM_WIRE_LIST + 1;
	assert_int_equal(xm_wire_encode(&in, bytes, sizeof(bytes)), -EPROTO);
	in.u.list.count = 1;
	len = xm_wire_encode(&in, bytes, sizeof(bytes));
	memset(bytes + XM_WIRE_HEADER, 0xff, 4);
	assert_int_equal(xm_wire_decode(bytes, (size_t)len, &out), -EPROTO);
}

static void test_encode_when_no_room_then_emsgsize_and_no_byte_beyond(void **unused)
{
	uint8_t small[40];

	begin(XM_WIRE_REGION_CREATE, 0, 0);
	memset(small, 0xcc, sizeof(small));
	assert_int_equal(xm_wire_encode(&in, small, 32), -EMSGSIZE);
	for (int i = 32; i < 40; i++)
		assert_int_equal(small[i], 0xcc);
	assert_int_equal(xm_wire_encode(&in, small, 0), -EMSGSIZE);
}

static void test_header_lengths_out_of_range_are_refused(void **unused)
{
	struct xm_wire_header h;

	begin(XM_WIRE_PING, 0, 0);
	xm_wire_encode(&in, bytes, sizeof(bytes));
	assert_int_equal(xm_wire_decode_header(bytes, 15, &h), -EAGAIN);
	assert_int_equal(xm_wire_decode_header(bytes, 16, &h), 0);
	bytes[0] = 15;
	assert_int_equal(xm_wire_decode_header(bytes, 16, &h), -EPROTO);
	bytes[0] = 1;
	bytes[2] = 1; /* 65537 */
	assert_int_equal(xm_wire_decode_header(bytes, 16, &h), -EPROTO);
	bytes[0] = 0; /* 65536 */
	assert_int_equal(xm_wire_decode_header(bytes, 16, &h), 0);
}

static void test_unknown_type_is_enosys_and_header_is_valid(void **unused)
{
	begin(XM_WIRE_PING, 0, 0);
	xm_wire_encode(&in, bytes, sizeof(bytes));
	bytes[4] = 99;
	assert_int_equal(xm_wire_decode(bytes, 16, &out), -ENOSYS);
	assert_int_equal(out.h.type, 99);
	assert_int_equal(out.h.seq, 0x01020304);
}

static void test_random_bytes_never_crash_and_reencode_alike(void **unused)
{
	const char *given = getenv("XM_SEED");
	uint64_t x = given ? strtoull(given, NULL, 0) : xm_now_ns();
	static uint8_t again[XM_WIRE_MAX];

	printf("XM_SEED=%llu\n", (unsigned long long)x);
	for (int i = 0; i < 200000; i++) {
		uint32_t len;
		int ret;

		for (int k = 0; k < 40; k++) {
			x = x * 6364136223846793005ull + 1442695040888963407ull;
			memcpy(bytes + k * 8, &x, 8);
		}
		len = 16 + (uint32_t)(x >> 40) % 300;
		bytes[0] = (uint8_t)len;
		bytes[1] = (uint8_t)(len >> 8);
		bytes[2] = bytes[3] = 0;
		bytes[4] = (uint8_t)types[(x >> 20) % XM_ARRAY_SIZE(types)];
		bytes[5] = 0;
		if (xm_wire_decode(bytes, len, &out) < 0)
			continue;
		if (out.h.type == XM_WIRE_HELLO && !(out.h.flags & XM_WIRE_REPLY))
			continue; /* of another major version: only its first bytes were decoded */
		in = out;
		ret = xm_wire_encode(&in, again, sizeof(again));
		assert_true(ret > 0);
		assert_true(ret <= (int)len + since_1_3(in.h.type, in.h.flags & XM_WIRE_REPLY));
		assert_int_equal(xm_wire_decode(again, (size_t)ret, &out), 0);
	}
}

static void test_data_headers_when_packed_then_fields_return(void **unused)
{
	struct xm_wire_request
		r = { XM_WIRE_FAA, 3, 0x12345678, 1ull << 60, 2ull << 50, 0xfedcba9876543210ull },
		r2;
	struct xm_wire_response s = { -ENXIO, 77, 0x1111222233334444ull, 0x5555666677778888ull }, s2;
	uint8_t b[XM_WIRE_REQUEST];

	xm_wire_put_request(b, &r);
	xm_wire_get_request(b, &r2);
	assert_int_equal(b[0], 4);
	assert_int_equal(r2.op, r.op);
	assert_int_equal(r2.flags, r.flags);
	assert_int_equal(r2.len, r.len);
	assert_int_equal(r2.region, r.region);
	assert_int_equal(r2.offset, r.offset);
	assert_int_equal(r2.cookie, r.cookie);
	xm_wire_put_response(b, &s);
	xm_wire_get_response(b, &s2);
	assert_int_equal(s2.status, s.status);
	assert_int_equal(s2.len, s.len);
	assert_int_equal(s2.cookie, s.cookie);
	assert_int_equal(s2.value, s.value);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hello_when_encoded_then_fields_return),
		cmocka_unit_test(test_hello_bytes_are_as_documented),
		cmocka_unit_test(test_hello_of_minor_0_when_decoded_then_has_no_link),
		cmocka_unit_test(test_hello_of_other_major_when_short_then_version_is_readable),
		cmocka_unit_test(test_region_when_encoded_then_metadata_returns),
		cmocka_unit_test(test_full_lists_when_encoded_then_fit_and_return),
		cmocka_unit_test(test_refusal_when_status_negative_then_body_is_error),
		cmocka_unit_test(test_text_when_not_terminated_then_is_cut),
		cmocka_unit_test(test_bytes_of_later_minor_when_appended_then_are_skipped),
		cmocka_unit_test(test_keys_when_encoded_then_fields_return),
		cmocka_unit_test(test_rdma_hello_when_padded_cut_or_foreign),
		cmocka_unit_test(test_create_when_it_has_rules_then_they_return_and_1_2_has_none),
		cmocka_unit_test(test_rights_when_absent_then_are_those_of_1_2),
		cmocka_unit_test(test_every_truncation_is_refused),
		cmocka_unit_test(test_counts_above_limit_are_refused),
		cmocka_unit_test(test_encode_when_no_room_then_emsgsize_and_no_byte_beyond),
		cmocka_unit_test(test_header_lengths_out_of_range_are_refused),
		cmocka_unit_test(test_unknown_type_is_enosys_and_header_is_valid),
		cmocka_unit_test(test_random_bytes_never_crash_and_reencode_alike),
		cmocka_unit_test(test_data_headers_when_packed_then_fields_return),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
