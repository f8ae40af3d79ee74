/* SPDX-License-Identifier: Apache-2.0 */
/*
 * appliance.h - what an appliance knows: settings, sessions, regions, counters. One object a process (one a
 * test in the unit tests).
 *
 *   struct xm_appliance ── sessions ── regions ── slab table ── slabs (pool)
 *                              └────────── grants (grant.h) ───────┘
 *
 * Threads: control (main.c, serve_ctl.c, serve_msg.c) and its workers (job.c), tcp data (serve_tcp.c), verbs
 * (serve_verbs.c), pool (pool.c). The registry's mutex guards sessions, regions and slab tables; the tcp thread holds it
 * for one lookup a request. It is never held while memory is made, destroyed, registered or copied. Order: verbs,
 * registry, pool.
 */
#ifndef XM_APPLIANCE_H
#define XM_APPLIANCE_H

#include "appliance/domain.h"
#include "appliance/pool.h"
#include "procid.h"
#include "wire.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define XM_SESSIONS_MAX 4096u
#define XM_SESSION_REGIONS_MAX 256u /* what a client has room for (peer_impl.h) */
#define XM_SESSION_PROCS_MAX 64u
#define XM_SESSION_DATA_MAX XM_WIRE_SESSION_DATA
#define XM_REGION_SLABS_MAX 262144u /* what a client has room for */
#define XM_REGION_BUCKETS 1024u
#define XM_SLABS_NOW 64u /* slabs destroyed before a request is answered; the rest afterwards */

struct xm_region {
	uint64_t id;
	struct xm_session *session; /* its owner, with which it ends; others may use it as far as its rules say (access.c) */
	struct xm_slab **slab; /* NULL: promised, not yet used; XM_SLAB_HOLE: freed by the client */
	uint64_t slabs, present, room;
	uint32_t generation, type, flags;
	uint64_t nonce, created_ns, modified_ns;
	char name[XM_WIRE_NAME];
	struct xm_wire_rule rules[XM_WIRE_RULES]; /* as they were when it was made */
	struct xm_region *next_hash, *next, *next_shared;
};

#define XM_SLAB_HOLE ((struct xm_slab *)1)

struct xm_member {
	struct xm_procid id;
	unsigned controls; /* control connections open now */
};

struct xm_session {
	uint64_t id, index;
	uint8_t token[16];
	char name[32];
	uid_t uid;
	struct xm_member proc[XM_SESSION_PROCS_MAX]; /* processes that said hello and not bye */
	unsigned procs;
	bool procs_unknown; /* more than fit, or one that did not say */
	bool one_user;	    /* every connection so far was a unix socket of user `uid`; mutex */
	bool leaseless;	    /* only unix sockets so far: their end means that every holder is gone */
	bool bye;	    /* the last control connection that left said so */
	bool working;	    /* a job of it is under way (serve_msg.c): it does not end; control thread only */
	unsigned waiting;   /* connections whose request waits for that; control thread only */
	unsigned connections, data_count;
	uint64_t orphaned_ns; /* when the last connection left; 0: has some */
	uint64_t looked_ns;   /* when an orphan's processes were last looked for */
	unsigned region_count;
	struct xm_region *regions;
	struct xm_domain *domain; /* of its verbs connections, made with the first; one reference; mutex */
	struct xm_grant *grants;  /* its keys to others' slabs; mutex */
	uint64_t slabs;
	uint64_t reads, writes, read_bytes, write_bytes; /* relaxed atomics of the tcp thread */
	struct xm_session *next;
};

struct xm_verbs;

struct xm_appliance {
	struct xm_pool pool;
	struct xm_verbs *verbs; /* NULL: none; set before any thread runs */
	char name[XM_WIRE_NAME];
	uint8_t boot[16];
	struct xm_procid self;
	uint64_t started_ns;
	uint64_t lease_ns; /* atomic */
	int wake_fd;	   /* eventfd: the control thread shall look at orphaned sessions */
	uint64_t regions_ever, sessions_ever;

	pthread_mutex_t mutex; /* the registry: everything below */
	struct xm_session *sessions;
	struct xm_region *bucket[XM_REGION_BUCKETS];
	struct xm_region *shared[XM_REGION_BUCKETS]; /* the shared ones, by name */
	unsigned session_count, region_count;

	/* relaxed atomics */
	uint64_t connections, data_connections;
	uint64_t reads, writes, atomics, refused, read_bytes, write_bytes;
};

/* ---- session.c ---------------------------------------------------------------------------------------- */

/* pool must have been initialised. 0; -errno */
int xm_appliance_init(struct xm_appliance *a, const char *name, uint64_t lease_ns);
/* No thread may use it any more. Ends every session. */
void xm_appliance_fini(struct xm_appliance *a);

struct xm_hello_context {
	bool local; /* unix socket */
	uid_t uid;  /* of the peer, where local; else -1 */
};

/* Makes a session or attaches to one; counts the connection. 0; -ESTALE no such session; -EACCES; -EUSERS too
 * many; -ENOMEM. text: one line why not. */
int xm_session_enter(struct xm_appliance *a, const struct xm_wire_hello *h, const struct xm_hello_context *c,
		     struct xm_session **out, char text[XM_WIRE_TEXT]);
/* A connection is gone. control: whose control connection it was, NULL for a data connection; bye: it said so.
 * After this the session may cease to exist. */
void xm_session_leave(struct xm_appliance *a, struct xm_session *s, const struct xm_procid *control,
		      bool bye);
/* Ends sessions without connections whose time has come. When the next one is due (monotonic ns), or
 * UINT64_MAX: none is waiting. */
uint64_t xm_session_reap(struct xm_appliance *a);
/* A reference to the session's domain; NULL: it has no verbs connection yet. Takes the mutex. */
struct xm_domain *xm_session_domain(struct xm_appliance *a, struct xm_session *s);
/* The session that a verbs connection's hello names; mutex held. 0; -ESTALE, -EACCES */
int xm_session_find(struct xm_appliance *a, uint64_t id, const uint8_t token[16], struct xm_session **out);
void xm_appliance_stat(struct xm_appliance *a, const struct xm_wire_stat *want,
		       struct xm_wire_stat_reply *out);

/* ---- lend.c: any thread, no lock held. Errors: -ENOENT no such region; -EACCES another session's, and no rule of it
 * permits this ------------------------------------------------------------------------------------------ */

/* -EINVAL size, flags, type, rules, or a shared one without a name; -EEXIST name; -ENOMEM pool; -EUSERS too many regions */
int xm_lend_create(struct xm_appliance *a, struct xm_session *s, const struct xm_wire_region_create *r,
		   struct xm_wire_region *out);
/* The session's own region of that name, or else the shared one. others: false: only its own. */
int xm_lend_open(struct xm_appliance *a, struct xm_session *s, const char *name, bool others,
		 struct xm_wire_region *out);

/* Slabs that have left a region's table with the keys of guests to them, and how much was promised for that part of it. */
struct xm_gone {
	struct xm_slab *list;
	uint64_t promises, grants;
	bool shared; /* others may have mapped them */
};

/* resize, drop and free are quick: nobody finds what has left, and *gone is the caller's to let go of. */
int xm_lend_resize(struct xm_appliance *a, struct xm_session *s, uint64_t id, uint64_t size_bytes,
		   struct xm_gone *gone, struct xm_wire_region *out);
/* -EINVAL beyond the region's end; slabs that are not there count as dropped */
int xm_lend_drop(struct xm_appliance *a, struct xm_session *s, const struct xm_wire_slabs *r, struct xm_gone *gone,
		 struct xm_wire_region *out);
int xm_lend_free(struct xm_appliance *a, struct xm_session *s, uint64_t id, struct xm_gone *gone);
/* Before the client is answered: of a few slabs, with a few keys of guests, the keys die and the memory is gone, also for
 * those who have mapped it; what is more is left to the pool's thread. Takes long with some devices, unless the list is
 * empty. */
void xm_lend_let_go(struct xm_appliance *a, const struct xm_gone *gone);
int xm_lend_info(struct xm_appliance *a, struct xm_session *s, uint64_t id, struct xm_wire_region *out);
void xm_lend_list(struct xm_appliance *a, struct xm_session *s, uint64_t after,
		  struct xm_wire_region_list *out);
/* Takes all regions out of the registry, mutex held; the list goes to xm_lend_dispose() without it. */
struct xm_region *xm_lend_detach_all(struct xm_appliance *a, struct xm_session *s);
void xm_lend_dispose(struct xm_appliance *a, struct xm_region *list);

/* Up to max neighbouring slabs from r->first on, populated, one reference each: their number >= 1, as long as
 * only the first one had to be made for it. *rights: what s may do to them, XM_WIRE_RIGHT_...
 * -ENOENT no such region; -ENXIO first is not present; -EACCES may not read; -ENOMEM, -EMFILE. */
int xm_lend_get_slabs(struct xm_appliance *a, struct xm_session *s, const struct xm_wire_slabs *r,
		      struct xm_slab **out, unsigned max, uint32_t *rights);
/* What s may do to a slab that it has been given as the index-th of a region; 0: it is there no more. Mutex held. */
uint32_t xm_lend_rights(struct xm_appliance *a, const struct xm_session *s, uint64_t id, uint64_t index,
			const struct xm_slab *slab);

struct xm_segment {
	struct xm_slab *slab; /* one reference */
	uint8_t *addr;
	uint32_t len;
};
#define XM_SEGMENTS 2 /* a request of at most 1 MiB meets at most two slabs of at least 1 MiB */

enum xm_access_right {
	XM_ACCESS_DATA_READ,
	XM_ACCESS_DATA_WRITE, /* and atomics */
	XM_ACCESS_METADATA_READ,
	XM_ACCESS_METADATA_WRITE, /* resize, drop, free */
};

/* Region bytes [off, off + len), and what for. */
struct xm_extent {
	uint64_t region, off;
	uint32_t len;
	enum xm_access_right right;
};

/* The memory behind them, len <= 1 MiB. Number of segments; -ENXIO, -EACCES; -ENOMEM. */
int xm_lend_locate(struct xm_appliance *a, struct xm_session *s, const struct xm_extent *e,
		   struct xm_segment out[XM_SEGMENTS]);

/* ---- access.c: the one place that says yes or no ------------------------------------------------------ */

/* May `s` do this to `r`? Mutex held. 0; -EACCES */
int xm_access_region(const struct xm_session *s, const struct xm_region *r, enum xm_access_right right);
/* All that `s` may do to `r`: XM_WIRE_RIGHT_... Mutex held. */
uint32_t xm_access_rights(const struct xm_session *s, const struct xm_region *r);
/* Can a region of this type have such rules? 0; -EINVAL */
int xm_access_check_rules(uint32_t type, const struct xm_wire_rule rules[XM_WIRE_RULES]);
/* May this peer, whose session has these rights to a slab, be handed its memory object? 0; -EACCES */
int xm_access_map(const struct xm_hello_context *c, uint32_t rights);
/* May this peer make a session? 0; -EACCES */
int xm_access_new_session(const struct xm_hello_context *c);
/* Does the hello know the session's secret? Takes the same time for every wrong token. */
bool xm_access_token(const struct xm_session *s, const uint8_t token[16]);

#endif
