/* SPDX-License-Identifier: Apache-2.0 */
/*
 * peer_impl.h - what the files of common/link share about a peer. Not for anyone else.
 *
 *   peer.c        the public calls        peer_conn.c   sockets, handshake, one request and its reply
 *   peer_slabs.c  slab mappings and keys  shm.c, tcp.c, verbs.c  links      inject.c, trace.c  decorators
 *
 * Slabs (shm, verbs): each region has a table of chunks of 64 neighbouring slabs; a chunk is one reserved range of
 * addresses (shm) or an array of keys (verbs), and a word of bits that say which are mapped, or known.
 *
 *   regions[hash(id)] -> chunks[slab / 64] -> { base, bits }     address = base + (slab % 64) * size
 *                                              { key, bits }     key[slab % 64]: { seq, key }
 *
 * A range reserved for slab i of a region stays reserved: a dropped slab is replaced by PROT_NONE, never
 * unmapped, so a copy that another thread has under way meets EFAULT and never somebody else's memory.
 * Readers take no lock: base is stored before the bit is set, and the bit is cleared before the mapping goes. A key
 * may be replaced while it is read, and half of one with half of another would reach memory that is not the slab's:
 * seq is odd while it is written, and a reader that sees it odd or changed asks under the mutex.
 *
 * The entry of a region, with its ranges, serves another one later. Who frees or closes a region has no operations on it
 * under way. A guest cannot know when its owner does: then what has looked up an address just before has a second to use
 * it, until which the entry is nobody's.
 */
#ifndef XM_PEER_IMPL_H
#define XM_PEER_IMPL_H

#include "link/link.h"
#include "link/uri.h"
#include "procid.h"
#include "util.h"
#include "wire.h"

#include <pthread.h>
#include <stdbool.h>

#define XM_PEER_REGIONS 256u   /* regions a client can have open on one appliance; a power of two */
#define XM_CHUNK_SLABS 64u     /* bits of a word */
#define XM_REGION_CHUNKS 4096u /* 262144 slabs: 16 TiB of 64 MiB slabs; the appliance has the same limit */
#define XM_REGION_GONE UINT64_MAX
#define XM_REGION_LEFT (UINT64_MAX - 1)
#define XM_REGION_REST_NS 1000000000ull /* before the entry of a region that others freed serves another one */

struct xm_key {
	uint32_t seq; /* atomic, as the next; written under the peer's mutex */
	struct xm_wire_key key;
};

struct xm_chunk {
	uint8_t *base;	    /* atomic; written once under the peer's mutex */
	struct xm_key *key; /* verbs; the same; an entry is written before its bit */
	uint64_t mapped;    /* atomic; written under the peer's mutex */
	uint64_t read_only; /* shm: of those mapped; the same, written before the bit in mapped */
};

struct xm_slab_table {
	uint64_t id;		 /* atomic; 0: never used, XM_REGION_GONE: freed, XM_REGION_LEFT: by somebody else */
	uint64_t left_ns;	 /* when that was found */
	struct xm_chunk *chunks; /* mapped at first use, kept when the entry is reused */
};

/* Descriptors that came with a reply, in places of their own. */
struct xm_peer_fds {
	int n, fd[XM_WIRE_FDS];
};

enum xm_peer_conn { XM_PEER_UP, XM_PEER_DOWN, XM_PEER_LOST };

struct xm_peer {
	pthread_mutex_t mutex; /* everything below but for the fields marked atomic */
	int conn;	       /* atomic, enum xm_peer_conn */
	int pid;	       /* atomic; of this process, for copies to itself */
	int fd;		       /* control connection, -1 when down */
	uint32_t seq;
	uint64_t nonce;	   /* of requests that make something; starts anew in a fork child */
	uint64_t link;	   /* names the control connection of this process over reconnects */
	uint64_t messages; /* atomic */
	uint64_t down_since_ns, retry_at_ns, backoff_ns;

	struct xm_uri uri;
	char uri_text[XM_URI_MAX];
	char client_name[32];
	char inject_spec[160];
	struct sockaddr_storage addr;
	socklen_t addr_len;
	int (*place_fd)(int fd);
	uint64_t connect_timeout_ns, lost_timeout_ns;

	struct xm_peer_info info;
	struct xm_procid self, appliance;
	unsigned slab_shift;
	struct xm_verbs_device *verbs; /* verbs: opened by the first link */
	uint32_t complained;	       /* atomic: that a link cannot be opened */

	struct xm_wire_msg req, rep;
	uint8_t bytes[XM_WIRE_MAX]; /* one message on its way out or in */
	struct xm_slab_table regions[XM_PEER_REGIONS];
};

/* peer_conn.c; all with the mutex held where nothing else is said */

/* Connects a control connection and says hello, attaching to session `s` (id 0: new). The reply is in p->rep.
 * 0 and *out_fd; -errno with one line in why (may be NULL). Blocks until deadline_ns (monotonic). */
int xm_peer_connect(struct xm_peer *p, const struct xm_session_id *s, uint64_t deadline_ns, int *out_fd,
		    char *why);
/* Connects link `link` (not 0) for data; its former connection is dead to the appliance before this returns 0.
 * Takes the mutex; blocks until deadline_ns or connect_timeout. 0 and *out_fd; -errno, see xm_peer_state(). */
int xm_peer_connect_data(struct xm_peer *p, uint64_t link, uint64_t deadline_ns, int *out_fd);
/* A random number, never 0. Any thread, no lock. */
uint64_t xm_peer_random(struct xm_peer *p);
/* Sends p->req and waits for its reply in p->rep; reconnects and repeats once when the connection broke.
 * fds: the descriptors received, the caller's to close, or NULL. 0; the reply's -errno; -ENOLINK. */
int xm_peer_call(struct xm_peer *p, struct xm_peer_fds *fds);
/* Moves a descriptor that was just opened, since xm_fd_borrow(), out of the program's way: its number from now on. */
int xm_peer_place(const struct xm_peer *p, int fd);
/* Tries to bring the control connection back. 0; -ENOLINK with p->conn DOWN or LOST. */
int xm_peer_reattach(struct xm_peer *p, uint64_t deadline_ns);
/* The connection has been found broken. */
void xm_peer_down(struct xm_peer *p);
void xm_peer_lost(struct xm_peer *p, const char *reason);
/* A connection attempt failed with `err`: is the appliance gone for good? Changes p->conn if so. */
void xm_peer_judge(struct xm_peer *p, int err);
/* Takes the mutex. 0; -ETIMEDOUT: whoever holds it waits for the appliance longer than that. */
int xm_peer_lock_until(struct xm_peer *p, uint64_t deadline_ns);
void xm_peer_request(struct xm_peer *p, enum xm_wire_type type);
/* SOL_TCP settings for low latency and for noticing a dead host; nothing on a unix socket */
void xm_peer_tune_socket(const struct xm_peer *p, int fd);

/* peer_slabs.c */

/* Address of a mapped slab, or NULL; *writable: it may be written to (may be NULL). No lock, no system call. */
uint8_t *xm_peer_slab(struct xm_peer *p, uint64_t region, uint64_t slab, bool *writable);
/* The key of a slab that is known, false if it is not, or is being replaced. No lock, no system call. */
bool xm_peer_key(struct xm_peer *p, uint64_t region, uint64_t slab, struct xm_wire_key *out);
/* The same of any slab: one that is not known is asked for. Takes the mutex, blocks and fails as xm_peer_slab_map(). */
int xm_peer_key_get(struct xm_peer *p, uint64_t region, uint64_t slab, struct xm_wire_key *out);
/* The device there does not honour this key, and the connection has died of it: what the operation is told. Asks for the
 * key anew. -ENOLINK: the slab has another by now (dropped and made anew), so that it is to be repeated, or the appliance
 * could not be asked; -ENXIO it has none; -EACCES; -ENOMEM, -EMFILE: not known, to be repeated. */
int xm_peer_key_refused(struct xm_peer *p, uint64_t region, uint64_t slab, const struct xm_wire_key *by);
/* Maps slab and some after it (verbs: asks for their keys). refresh: even if it is mapped (the appliance replaced it).
 * Takes the mutex; blocks for a control call. 0; -ENXIO not present; -EACCES also: others have too many keys; -ENOLINK;
 * -ENOMEM, -EMFILE (here or there: it passes); -EIO; -EAGAIN
 * verbs: no link of the session is connected yet. */
int xm_peer_slab_map(struct xm_peer *p, uint64_t region, uint64_t slab, int refresh);
/* Forget mappings; mutex held. gone: it is not in use here; left: others freed it, and it may be. */
void xm_peer_slabs_drop(struct xm_peer *p, uint64_t region, uint64_t first, uint64_t count);
void xm_peer_region_gone(struct xm_peer *p, uint64_t region);
void xm_peer_region_left(struct xm_peer *p, uint64_t region);
void xm_peer_slabs_fini(struct xm_peer *p);

/* links */
int xm_shm_link_open(struct xm_peer *p, struct xm_link **out);
int xm_tcp_link_open(struct xm_peer *p, struct xm_link **out);
/* why (>= 160 bytes): one line when it fails. */
int xm_verbs_link_open(struct xm_peer *p, struct xm_link **out, char *why);

/* verbs_way.c; is no port active, of the device asked for or of any? Then one line in why that says which is down; else
 * why is empty. */
bool xm_verbs_port_down(const struct xm_peer *p, char *why);
/* verbs_conn.c; one line for an error, if nobody has explained it yet; why may be NULL */
void xm_verbs_explain(const struct xm_peer *p, int err, char *why);
/* verbs_conn.c; after the last link: closes the device; in a child: leaves the parent's alone */
void xm_verbs_device_close(struct xm_peer *p);
void xm_verbs_device_forget(struct xm_peer *p);

/* Completions of a link that have not been polled yet. */
struct xm_done {
	unsigned head, count;
	struct xm_completion c[XM_LINK_DEPTH];
};

static inline void xm_done_put(struct xm_done *d, struct xm_link_stats *stats, struct xm_completion c)
{
	if (c.status) {
		c.bytes = 0;
		stats->errors++;
	}
	d->c[(d->head + d->count++) % XM_LINK_DEPTH] = c;
}

/* What poll() answers with. */
static inline int xm_done_take(struct xm_done *d, struct xm_link_stats *stats, struct xm_completion *out, int n)
{
	int i;

	for (i = 0; i < n && d->count; i++, d->count--) {
		out[i] = d->c[d->head];
		d->head = (d->head + 1) % XM_LINK_DEPTH;
	}
	stats->polls += i > 0;
	stats->completions += (unsigned)i;
	return i;
}

/* Bytes of a gathered write, more than XM_LINK_OP_MAX if it is too large, however large that is. */
static inline uint64_t xm_iov_bytes(const struct iovec *iov, int n)
{
	uint64_t len = 0;

	for (int i = 0; i < n; i++)
		len += xm_min(iov[i].iov_len, (size_t)XM_LINK_OP_MAX + 1);
	return len;
}

/* zeroed memory by mmap, outside of any heap; NULL */
void *xm_link_alloc(size_t bytes);
void xm_link_release(void *p, size_t bytes);

#endif
