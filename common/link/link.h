/* SPDX-License-Identifier: Apache-2.0 */
/*
 * link.h - the contract between the runtime and a memory appliance.
 *
 * Two objects:
 *
 *   struct xm_peer   a client's standing with one appliance: its session, its control connection and the
 *                    calls on it (allocate, resize, free ...). Thread-safe; control calls block, bounded.
 *   struct xm_link   one data connection of that session. Used by ONE thread at a time (the runtime keeps
 *                    a pool, about one a CPU). Queues one-sided operations on regions.
 *
 * Implementations ("transports") are const tables of operations, chosen by the scheme of a URI:
 * `shm:PATH`, `tcp:HOST:PORT`, `verbs:HOST:PORT`; the decorators `inject` and `trace` wrap a link and
 * implement the same table.
 *
 * Rules that every implementation keeps
 *   - Nothing on a link blocks but wait(). Every operation that was accepted (0 returned) comes back through
 *     poll() EXACTLY ONCE, also when the connection dies (status -ENOLINK) or is closed by reconnect.
 *   - Local buffers of writev() are never dereferenced in user mode unless the implementation copies them
 *     with an access that cannot fault (process_vm_readv/writev, sendmsg): they may be pages of the program
 *     that it unmaps meanwhile; then the operation completes with -EFAULT. Buffers of read() are the
 *     caller's own local memory and stay valid until the completion.
 *   - Protection is the appliance's: a range that was freed, or is not this session's, completes with
 *     -ENXIO (not present) or -EACCES, and the link stays usable; so does what goes beyond this session's rights to
 *     another's region. (Over verbs the device refuses by breaking the
 *     connection: what was in flight beside it may come back with -ENOLINK, to be repeated.)
 *   - No malloc, no stdio after open(): these functions run inside the resolution of page faults.
 *
 * Status values: 0; -ENXIO range not present (freed, beyond the end); -EACCES not permitted, or (verbs, another
 * session's region) too many other guests have keys: 64 to the slab, or as many in all as the appliance has slabs; -ENOLINK
 * the connection died (the operation may or may not have happened; reads and writes may be repeated, atomics may not);
 * -EFAULT the local buffer went away; -EIO the peer answered nonsense, or cannot; -EBADMSG checksum error; -ENOMEM, -EMFILE
 * this process, or the appliance, lacks something just now: to be repeated.
 */
#ifndef XM_LINK_H
#define XM_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define XM_SLAB_SIZE (64ull << 20) /* default; the appliance says which one it uses in the hello reply */
#define XM_LINK_DEPTH 128	   /* operations in flight per link that an implementation must accept */
#define XM_LINK_IOV_MAX 256	   /* pieces of one writev() */
#define XM_LINK_OP_MAX (1u << 20)  /* bytes of one operation */

struct xm_link;
struct xm_peer;

struct xm_completion {
	uint64_t cookie; /* as given to the operation */
	int32_t status;	 /* 0 or -errno, see above */
	uint32_t bytes;	 /* moved */
	uint64_t value;	 /* cas, faa: the value before */
};

struct xm_link_stats {
	uint64_t reads, writes, atomics;
	uint64_t read_bytes, write_bytes;
	uint64_t errors, reconnects;
	uint64_t polls, completions; /* polls that found something, and what they found */
	uint64_t sleeps;	     /* of wait: in the kernel, until something is ready */
	/* verbs, else 0: what the device was given, by how many calls, and memory that was registered with it */
	uint64_t work_requests, doorbells, registrations;
};

/* By what a link reaches the appliance, and what it holds for that. */
struct xm_link_path {
	char device[64]; /* "": none; only verbs has one */
	uint32_t port, gid_index, mtu_bytes;
	uint8_t gid[16];
	int32_t node;	       /* on which its buffers had best be, -1: no matter */
	uint64_t pinned_bytes; /* local memory of its own that stays resident; what was lent is beside it */
};

/*
 * read, writev, cas and faa answer 0 (accepted: will come back through poll), or refuse: -EAGAIN more than
 * XM_LINK_DEPTH operations not yet polled; -ENOLINK the link is dead; -EINVAL no bytes, more than
 * XM_LINK_OP_MAX, or more than XM_LINK_IOV_MAX pieces. cas and faa want 8-byte alignment (-EINVAL as status).
 * close forgets what is in flight; the peer must be closed after its links.
 */
struct xm_link_ops {
	const char *name;
	void (*close)(struct xm_link *l);
	/* The address at which region bytes [off, off+len) can be read, or (writing) read and written, directly in this
	 * process, or NULL. The memory may turn into SIGBUS when the appliance frees it: give it to a system call that
	 * answers EFAULT (UFFDIO_COPY, process_vm_readv), soon, and never dereference it. len must not cross a slab. For
	 * writing, which the link's statistics do not count, nobody is asked: NULL, where the slab is not mapped yet. */
	void *(*direct)(struct xm_link *l, uint64_t region, uint64_t off, size_t len, bool writing);
	/* behind xm_link_lend(); NULL: no use for it */
	int (*lend)(struct xm_link *l, void *buf, size_t len);
	/* behind xm_link_path(); NULL: no device */
	int (*path)(struct xm_link *l, struct xm_link_path *out);
	int (*read)(struct xm_link *l, void *dst, size_t len, uint64_t region, uint64_t off, uint64_t cookie);
	/* gathers n pieces into contiguous region bytes [off, off + sum) */
	int (*writev)(struct xm_link *l, const struct iovec *iov, int n, uint64_t region, uint64_t off,
		      uint64_t cookie);
	int (*cas)(struct xm_link *l, uint64_t region, uint64_t off, uint64_t expect, uint64_t desired,
		   uint64_t cookie);
	int (*faa)(struct xm_link *l, uint64_t region, uint64_t off, uint64_t add, uint64_t cookie);
	int (*flush)(struct xm_link *l);
	/* up to n completions; 0: none now; never an error (a dead link completes all); never blocks, but for a slab that has to
	 * be asked for again over shm */
	int (*poll)(struct xm_link *l, struct xm_completion *c, int n);
	/* sleeps until poll() would return something or timeout_ns passed. 0, -ETIMEDOUT */
	int (*wait)(struct xm_link *l, uint64_t timeout_ns);
	/* 0: usable; -ENOLINK: died (all its operations have been completed or will be by poll()) */
	int (*state)(struct xm_link *l);
	void (*stats)(struct xm_link *l, struct xm_link_stats *out);
	/* behind xm_link_forget() and xm_link_reconnect() */
	void (*forget)(struct xm_link *l);
	int (*reconnect)(struct xm_link *l);
	/* Makes the link dead at once: operations in flight complete with -ENOLINK and no longer touch their
	 * buffers. For a caller that stops waiting. */
	void (*kill)(struct xm_link *l);
};

struct xm_link {
	const struct xm_link_ops *ops;
	struct xm_peer *peer;
};

/* ---- peer: the session and its control connection --------------------------------------------------- */

struct xm_session_id {
	uint64_t id;	   /* 0: make a new session */
	uint8_t token[16]; /* secret that lets another process or connection attach to it */
	uint8_t boot[16];  /* names the appliance's run: another value means it was restarted */
};

struct xm_peer_config {
	const char *uri;	      /* shm:PATH (PATH of "@name": abstract socket) or tcp:HOST:PORT */
	const char *client_name;      /* for the appliance's log, <= 31 bytes */
	struct xm_session_id session; /* id 0: new */
	uint64_t connect_timeout_ns;  /* 0: 5 s */
	uint64_t lost_timeout_ns; /* how long a lost connection is retried before -ENOLINK; 0: the lease */
	const char *inject;	  /* NULL, or a specification for the inject decorator (see inject.h) */
	int (*place_fd)(int fd);  /* NULL, or moves a descriptor out of the program's way: returns the new
				       number (the old one closed), used for every descriptor the peer keeps,
				       between xm_fd_borrow() and xm_fd_return() (fdgate.h) */
};

struct xm_peer_info {
	struct xm_session_id session;
	uint32_t protocol_major, protocol_minor;
	uint64_t slab_bytes;
	uint64_t total_bytes, free_bytes; /* of the appliance, when it was asked */
	uint64_t lease_ns;
	char appliance_name[64];
};

/* Rights to a region */
#define XM_RIGHT_READ 1u
#define XM_RIGHT_WRITE 2u  /* data, and atomics */
#define XM_RIGHT_MANAGE 4u /* resize, drop and free: its own session's alone */

#define XM_REGION_PRIVATE 1u
#define XM_REGION_SHARED 2u

/* Whom, beside the session that made it, a shared region serves. */
struct xm_region_rule {
	enum { XM_RULE_ANYBODY = 1, XM_RULE_USER = 2 /* clients that came by shm: as this user */ } who;
	uint32_t uid;	 /* of XM_RULE_USER */
	uint32_t rights; /* XM_RIGHT_READ, or XM_RIGHT_READ | XM_RIGHT_WRITE */
};
#define XM_REGION_RULES_MAX 4

struct xm_region_info {
	uint64_t id;
	uint64_t size_bytes; /* whole slabs */
	uint64_t slabs;
	uint64_t slabs_present; /* fewer where slabs in the middle were freed */
	uint32_t generation, flags;
	uint32_t type;	 /* XM_REGION_... */
	uint32_t rights; /* this session's, XM_RIGHT_... */
	char name[64];
};

/* Connects and makes or attaches to a session. On failure *why (>= 160 bytes, may be NULL) holds one line
 * that says what, where and what to do. -ECONNREFUSED, -ETIMEDOUT, -EPROTONOSUPPORT (version), -ESTALE
 * (no such session), -EACCES, -EINVAL (URI), -EPROTO (garbage). Allocates (raw mmap); blocks. */
int xm_peer_open(const struct xm_peer_config *cfg, struct xm_peer **out, char *why);
/* Leaves the session (it ends when its last connection leaves); NULL is fine. */
void xm_peer_close(struct xm_peer *p);
/* In the child of fork(), single-threaded: drops the inherited sockets without telling the appliance,
 * keeps mappings, connects anew to the same session. Links of the parent must be dropped with
 * xm_link_forget() first. Tries again until the lost timeout where that may help. Same errors as open. */
int xm_peer_after_fork(struct xm_peer *p, char *why);
/* Whether a process can open so many links and lend each so much memory: opens one and closes it again, with its
 * device. For the one who can still refuse to start; only over verbs can it be otherwise. 0 and *path; 1 the same, but
 * there is a limit of locked memory below what would be lent (all works, by copies); -errno. Neither 0: one line in why
 * (>= 160 bytes, may be NULL). Blocks at most connect_timeout. */
int xm_peer_check(struct xm_peer *p, unsigned links, size_t lent_bytes, struct xm_link_path *path, char *why);
/* How memory that is going to be lent to this peer's links had best be made. */
struct xm_peer_staging {
	bool pinned; /* it will be lent: a fork child shall not have it */
	bool huge;   /* from huge pages, where there are some */
	int node;    /* as far as it is known now, or -1 */
};
void xm_peer_staging(struct xm_peer *p, struct xm_peer_staging *out);
void xm_peer_info(struct xm_peer *p, struct xm_peer_info *out);
/* 0: alive; -ENOLINK: lost for good (lease over, or appliance known dead). Cheap: one atomic load. */
int xm_peer_state(struct xm_peer *p);
/* True once when the connection has been found lost or regained, for the log. Called now and then by a
 * background thread: notices the appliance's death (EOF), reconnects, gives up after lost_timeout. */
void xm_peer_tick(struct xm_peer *p);

/* Control calls: thread-safe (a mutex of the peer), block at most connect_timeout. 0 or -errno:
 * -ENOMEM appliance has no room; -ENOENT no such region; -EACCES; -ENOLINK; -EINVAL size. */
int xm_peer_region_create(struct xm_peer *p, uint64_t size_bytes, const char *name, uint32_t flags,
			  struct xm_region_info *out);
/* The same for a region that other sessions may open by its name, with the rights that the rules, 1 to 4 of them, give
 * them; several that are about one session add up. It ends with this session, like any other. Besides: -EINVAL no name, or
 * a rule that cannot be; -EEXIST the appliance has a shared region of that name; -EOPNOTSUPP the appliance is older. */
int xm_peer_region_create_shared(struct xm_peer *p, uint64_t size_bytes, const char *name,
				 const struct xm_region_rule *rules, unsigned n, struct xm_region_info *out);
/* This session's region of that name, or else the shared one; out->rights says what may be done. What may not answers
 * -EACCES, and the link stays usable. When its owner frees it, or ends, operations answer -ENXIO (over shm an atomic that
 * meets just that moment raises SIGBUS: who shares words agrees on when they go). -ENOENT: there is none; -EACCES: there
 * is, and this session may not read it. */
int xm_peer_region_open(struct xm_peer *p, const char *name, struct xm_region_info *out);
/* sets the size; growth adds slabs at the end, shrinking drops slabs at the end */
int xm_peer_region_resize(struct xm_peer *p, uint64_t region, uint64_t size_bytes,
			  struct xm_region_info *out);
int xm_peer_region_drop_slabs(struct xm_peer *p, uint64_t region, uint64_t first, uint64_t count);
int xm_peer_region_free(struct xm_peer *p, uint64_t region);
/* A region of another session, opened by name, will not be used any more: forgotten here, nothing of it stays mapped, and
 * the appliance is not asked. Not while operations on it are under way, on any link. Whoever uses its id again, or opens it
 * again, finds it as before. A client has room for 256 regions that it uses over shm or verbs; one that its owner
 * has freed makes room by itself a second after an operation or xm_peer_region_info() has found out, until then others may
 * be answered -ENOMEM. */
void xm_peer_region_close(struct xm_peer *p, uint64_t region);
int xm_peer_region_info(struct xm_peer *p, uint64_t region, struct xm_region_info *out);
/* Prepares this process for access to slabs [first, first+count) of the region (shm: maps their memory
 * objects, for reading only where it has no more rights; tcp: nothing). Slabs already mapped are left. Safe at any time; called ahead of first use, and
 * by a link itself when it meets an unmapped slab. */
int xm_peer_region_attach(struct xm_peer *p, uint64_t region, uint64_t first, uint64_t count);
/* What the appliance says of itself. The asking session and its connection are counted. */
struct xm_appliance_stat {
	uint64_t total_bytes, free_bytes; /* free: not promised to any region */
	uint64_t warm_bytes;		  /* prepared ahead of requests */
	uint64_t slab_bytes;
	uint64_t sessions, regions;
	uint64_t slabs_used;   /* promised to regions: 0 when no client holds memory */
	uint64_t slabs_backed; /* slabs that occupy memory now: used, warm or about to be freed */
	uint64_t connections;  /* all; data_connections is the part that carries the tcp data path */
	uint64_t data_connections;
	uint64_t reads, writes, atomics;  /* served over tcp; one-sided access over shm is seen by nobody */
	uint64_t refused;		  /* requests answered with an error, connections turned away */
	uint64_t read_bytes, write_bytes; /* over tcp */
	uint64_t uptime_ns;
};
int xm_peer_appliance_stat(struct xm_peer *p, struct xm_appliance_stat *out);
/* messages sent on the control connection since open (for tests: none per allocation) */
uint64_t xm_peer_control_messages(struct xm_peer *p);

/* ---- links ------------------------------------------------------------------------------------------ */

int xm_link_open(struct xm_peer *p, struct xm_link **out);
/* Memory of the caller's from which it will write and into which it will read often: it may be registered with the
 * device, and is then moved without a copy. What a write takes from it must not change until that is complete; from other
 * memory it has been taken when writev() returns. Until the link is closed it must not be unmapped. At most 4 buffers of a
 * link (over shm the last one counts). 1: it is registered, and must not be dropped either (MADV_DONTNEED, MADV_FREE): a
 * device goes on using the pages that it had then; 0: not registered; -ENOMEM, -ENOSPC: neither, and works as before. */
int xm_link_lend(struct xm_link *l, void *buf, size_t len);
/* 1: *out is filled; 0: this transport has no device, *out is zeros with node -1; -ENOLINK: dead now. */
int xm_link_path(struct xm_link *l, struct xm_link_path *out);
/* After fork, in the child: frees the object without touching the connection it shares with the parent. */
void xm_link_forget(struct xm_link *l);
/* Re-establishes a dead link, blocking up to the peer's lost_timeout with backoff. 0, -ENOLINK for good; -EUSERS:
 * the session has as many connections as it may. */
int xm_link_reconnect(struct xm_link *l);

#endif
