/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wire.h - everything that travels between a client and an appliance (man 7 xmem-protocol).
 *
 * Control messages: a 16-byte header and a body, little-endian, no padding. The structures here are the
 * decoded form, never laid over received bytes: xm_wire_encode() and xm_wire_decode() are the only way in
 * and out, and both walk one description of each message (wire.c), so they cannot disagree.
 * Data path of tcp: fixed request and response headers, at the end of this file.
 *
 * Pure functions: no allocation, no locks, no system calls.
 */
#ifndef XM_WIRE_H
#define XM_WIRE_H

#include "procid.h"

#include <stddef.h>
#include <stdint.h>

#define XM_WIRE_MAGIC 0x4d454d58u /* "XMEM" as bytes on the wire */
#define XM_WIRE_MAJOR 1
#define XM_WIRE_MINOR 3
#define XM_WIRE_HEADER 16u
#define XM_WIRE_MAX 65536u     /* bytes of one message, header included */
#define XM_WIRE_SESSION_DATA 256u /* data connections of a session that an appliance allows */
#define XM_WIRE_HELLO_MAX 512u /* bytes of a message from a peer that has not introduced itself */
#define XM_WIRE_NAME 64
#define XM_WIRE_FDS 32 /* descriptors with one SLAB_MAP reply */
#define XM_WIRE_RULES 4
#define XM_WIRE_KEYS 64    /* slabs in one SLAB_KEYS reply */
#define XM_WIRE_LIST 32	    /* regions in one REGION_LIST reply */
#define XM_WIRE_SESSIONS 64 /* sessions in one STAT reply */
#define XM_WIRE_TEXT 200

#define XM_WIRE_REPLY 1u /* flag in the header */

enum xm_wire_type {
	XM_WIRE_HELLO = 1,
	XM_WIRE_PING = 2,
	XM_WIRE_BYE = 3,
	XM_WIRE_REGION_CREATE = 16,
	XM_WIRE_REGION_OPEN = 17,
	XM_WIRE_REGION_RESIZE = 18,
	XM_WIRE_REGION_DROP = 19,
	XM_WIRE_REGION_FREE = 20,
	XM_WIRE_REGION_INFO = 21,
	XM_WIRE_REGION_LIST = 22,
	XM_WIRE_SLAB_MAP = 32,
	XM_WIRE_SLAB_KEYS = 33,
	XM_WIRE_STAT = 48,
	XM_WIRE_ERROR = 255, /* unsolicited; the connection is closed after it */
};

enum xm_wire_role { XM_WIRE_ROLE_CONTROL = 1, XM_WIRE_ROLE_DATA = 2 };

struct xm_wire_header {
	uint32_t length; /* of the whole message */
	uint16_t type, flags;
	uint32_t seq;	/* chosen by the requester, repeated in the reply */
	int32_t status; /* 0 or -errno; 0 in requests */
};

/* The body of every reply whose status is negative and of ERROR; the same in every major version. */
struct xm_wire_error {
	uint16_t major, minor;
	uint64_t value; /* -ENOMEM: free bytes of the appliance */
	char text[XM_WIRE_TEXT];
};

struct xm_wire_hello {
	uint32_t magic;
	uint16_t major, minor;
	uint16_t role;
	uint32_t features; /* none defined in 1.1 */
	uint64_t session;  /* 0: make one */
	uint8_t token[16];
	struct xm_procid proc;
	char name[32];
	uint64_t link; /* since 1.1: whose connection this is, kept over reconnects; 0: not told */
};

struct xm_wire_hello_reply {
	uint16_t major, minor;
	uint32_t features;
	uint64_t session;
	uint8_t token[16];
	uint8_t boot[16];
	uint64_t slab_bytes;
	uint32_t page_bytes;
	uint64_t lease_ns;
	uint64_t total_bytes, free_bytes;
	struct xm_procid proc;
	char name[XM_WIRE_NAME];
};

enum xm_wire_region_type { XM_WIRE_REGION_PRIVATE = 1, XM_WIRE_REGION_SHARED = 2 /* since 1.3 */ };

/* Who, beside its session, may use a shared region, and how. Not in use: all zeros. */
enum xm_wire_rule_kind { XM_WIRE_RULE_NONE = 0, XM_WIRE_RULE_ANYBODY = 1, XM_WIRE_RULE_USER = 2 };

struct xm_wire_rule {
	uint8_t kind;
	uint8_t principal[16]; /* USER: u32 uid and zeros; else zeros */
	uint32_t rights;       /* READ, or READ and WRITE */
};

/* Rights of rules, of keys, of mapped slabs, and of a session to a region. */
#define XM_WIRE_RIGHT_READ 1u
#define XM_WIRE_RIGHT_WRITE 2u	/* and atomics */
#define XM_WIRE_RIGHT_MANAGE 4u /* resize, drop and free: its own session's; in no rule */
#define XM_WIRE_RIGHTS_OWN 7u

struct xm_wire_region_create {
	uint64_t size_bytes;
	uint32_t type, flags;
	uint64_t nonce; /* not 0: a repeated request with the same one answers the region made first */
	char name[XM_WIRE_NAME];
	struct xm_wire_rule rules[XM_WIRE_RULES]; /* since 1.3; absent: zeros */
};

/* REGION_OPEN (name), _RESIZE (region, size), _FREE and _INFO (region), _LIST (after) */
struct xm_wire_region_op {
	uint64_t region;
	uint64_t value;
	char name[XM_WIRE_NAME];
};

/* REGION_DROP, SLAB_MAP, SLAB_KEYS */
struct xm_wire_slabs {
	uint64_t region;
	uint64_t first, count;
};

/* Reply to SLAB_MAP. It starts as the request does. */
struct xm_wire_mapped {
	uint64_t region;
	uint64_t first, count;
	uint32_t rights; /* since 1.3: READ, or READ and WRITE, which is what an absent one means */
};

/* Where a slab is for one-sided operations of the session's own verbs connections, since 1.2. A key is never used again:
 * the slab's next owner has another memory object and another key. */
struct xm_wire_key {
	uint64_t addr; /* remote address of the slab's first byte */
	uint32_t rkey;
	uint32_t rights; /* READ, or READ and WRITE */
};

/* Reply to SLAB_KEYS: keys of slabs [first, first + count), count >= 1 */
struct xm_wire_keys {
	uint64_t region, first;
	uint32_t count;
	struct xm_wire_key key[XM_WIRE_KEYS];
};

/* A region's metadata: the reply to everything that names one region. */
struct xm_wire_region {
	uint64_t id;
	uint64_t size_bytes, slabs, slabs_present;
	uint32_t generation; /* counts changes of size and drops */
	uint32_t type;
	uint32_t flags;
	uint64_t owner_session;
	uint8_t owner[16];
	uint64_t created_ns, modified_ns; /* CLOCK_REALTIME */
	uint32_t alloc_format;		  /* of the allocation structure inside the region; 0: none */
	uint64_t alloc_offset;
	struct xm_wire_rule rules[XM_WIRE_RULES];
	char name[XM_WIRE_NAME];
	uint32_t rights; /* of who asks, since 1.3; absent, also from REGION_LIST: all of them */
};

struct xm_wire_region_list {
	uint32_t count;
	uint32_t more; /* 1: ask again with after = the last id */
	struct xm_wire_region region[XM_WIRE_LIST];
};

struct xm_wire_stat {
	uint32_t want_sessions;
	uint64_t after; /* sessions with a larger listing index than this */
};

struct xm_wire_session {
	uint64_t index; /* listing index, not the session's id, which is a secret of its own */
	uint32_t pid;
	uint32_t regions, connections, orphaned;
	uint64_t slabs, read_bytes, write_bytes;
	char name[32];
};

struct xm_wire_stat_reply {
	uint64_t total_bytes, free_bytes, warm_bytes, slab_bytes;
	uint64_t sessions, regions, slabs_used, slabs_backed;
	uint64_t connections, data_connections;
	uint64_t reads, writes, atomics, refused;
	uint64_t read_bytes, write_bytes;
	uint64_t uptime_ns;
	uint32_t count, more;
	struct xm_wire_session session[XM_WIRE_SESSIONS];
};

/* One decoded message. About 12 KiB: keep it in static or mapped memory, not on small stacks. */
struct xm_wire_msg {
	struct xm_wire_header h;
	union {
		struct xm_wire_error error; /* replies with status < 0, XM_WIRE_ERROR */
		struct xm_wire_hello hello;
		struct xm_wire_hello_reply hello_reply;
		struct xm_wire_region_create create;
		struct xm_wire_region_op op;
		struct xm_wire_slabs slabs;
		struct xm_wire_mapped mapped;
		struct xm_wire_keys keys;
		struct xm_wire_region region;
		struct xm_wire_region_list list;
		struct xm_wire_stat stat;
		struct xm_wire_stat_reply stat_reply;
	} u;
};

/* Reads the 16-byte header. 0; -EAGAIN fewer than 16 bytes; -EPROTO length below 16 or above XM_WIRE_MAX. */
int xm_wire_decode_header(const void *bytes, size_t len, struct xm_wire_header *out);
/* Decodes one whole message of exactly `len` bytes. Bytes that a later minor version added are skipped.
 * 0; -EPROTO malformed, truncated, or a count above its limit; -ENOSYS type not known (out->h is valid).
 * *out is undefined after an error, but for h where said. */
int xm_wire_decode(const void *bytes, size_t len, struct xm_wire_msg *out);
/* Encodes *m (h.length is computed and stored). Bytes written; -EPROTO unknown type or count above its
 * limit; -EMSGSIZE does not fit into `size`. */
int xm_wire_encode(struct xm_wire_msg *m, void *bytes, size_t size);

/* ---- data path of tcp -------------------------------------------------------------------------------- */

enum xm_wire_data_op {
	XM_WIRE_READ = 1,
	XM_WIRE_WRITE = 2, /* followed by len bytes */
	XM_WIRE_CAS = 3,   /* followed by expected, desired: len is 16 */
	XM_WIRE_FAA = 4,   /* followed by the addend: len is 8 */
};

#define XM_WIRE_REQUEST 32u
#define XM_WIRE_RESPONSE 24u

struct xm_wire_request {
	uint8_t op;
	uint8_t flags; /* 0 */
	uint32_t len;
	uint64_t region, offset, cookie;
};

struct xm_wire_response {
	int32_t status;
	uint32_t len; /* payload that follows: what a successful READ asked for, else 0 */
	uint64_t cookie;
	uint64_t value; /* CAS, FAA: the value before */
};

void xm_wire_put_request(uint8_t bytes[XM_WIRE_REQUEST], const struct xm_wire_request *r);
void xm_wire_get_request(const uint8_t bytes[XM_WIRE_REQUEST], struct xm_wire_request *out);
void xm_wire_put_response(uint8_t bytes[XM_WIRE_RESPONSE], const struct xm_wire_response *r);
void xm_wire_get_response(const uint8_t bytes[XM_WIRE_RESPONSE], struct xm_wire_response *out);
/* ---- private data of a verbs connection (rdma_cm) ---------------------------------------------------- */

#define XM_WIRE_RDMA_HELLO 48u /* of at most 56 that the connection manager carries */
#define XM_WIRE_RDMA_REPLY 16u /* of the acceptance, and of the refusal */

struct xm_wire_rdma_hello {
	uint16_t major, minor;
	uint64_t session;
	uint8_t token[16];
	uint64_t link;	  /* names this connection over reconnects; not 0 */
	uint64_t control; /* link id of the process's control connection; 0: not told */
};

struct xm_wire_rdma_reply {
	uint16_t major, minor;
	int32_t status; /* 0; -ESTALE no such session; -EACCES token; -EPROTONOSUPPORT version; -EUSERS too many;
			   -ENODEV the session uses another device; -ENOMEM; -EPROTO */
};

void xm_wire_put_rdma_hello(uint8_t bytes[XM_WIRE_RDMA_HELLO], const struct xm_wire_rdma_hello *h);
/* 0; -EPROTO: too short, or not this protocol. Of another major version only major and minor are set. */
int xm_wire_get_rdma_hello(const void *bytes, size_t len, struct xm_wire_rdma_hello *out);
void xm_wire_put_rdma_reply(uint8_t bytes[XM_WIRE_RDMA_REPLY], const struct xm_wire_rdma_reply *r);
/* 0; -EPROTO: too short, not this protocol, or a status that is none */
int xm_wire_get_rdma_reply(const void *bytes, size_t len, struct xm_wire_rdma_reply *out);

void xm_wire_put_u64(uint8_t bytes[8], uint64_t v);
uint64_t xm_wire_get_u64(const uint8_t bytes[8]);

#endif
