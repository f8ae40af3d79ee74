/* SPDX-License-Identifier: Apache-2.0 */
/*
 * serve_ctl_impl.h - what serve_ctl.c (connections, and the loop) and serve_msg.c (messages, and their answers) share.
 * The control thread's, all but the jobs.
 */
#ifndef XM_SERVE_CTL_IMPL_H
#define XM_SERVE_CTL_IMPL_H

#include "appliance/job.h"
#include "appliance/serve.h"

#include "util.h"

enum source_kind { SOURCE_LISTENER, SOURCE_CONN, SOURCE_WATCH, SOURCE_WAKE, SOURCE_STOP, SOURCE_JOBS };

struct source {
	enum source_kind kind;
	int fd;
	bool local;	       /* listener */
	void (*fn)(void *arg); /* watch */
	void *arg;
};

struct conn {
	struct source source;
	bool local, dead, bye;
	bool more;     /* a whole message is in rx and waits for its turn */
	bool replaced; /* by the next control connection of its link */
	bool closing;  /* after what is in tx */
	struct xm_job *job; /* its request whose rest is under way; NULL: none */
	uint64_t waiting;   /* for a job of its session: since which ticket; 0: it does not */
	uint32_t
		handover; /* to the data thread, with an answer to hello of this length in xm_ctl.bytes; 0: stays */
	uint32_t events;  /* that are waited for */
	uint64_t round;	  /* when it was served last */
	uint64_t link;	  /* from its hello */
	uint16_t minor;	  /* the same */
	uid_t uid;
	struct xm_session *session; /* NULL: stranger */
	struct xm_procid proc;	    /* from its hello */
	uint64_t opened_ns;
	uint64_t stalled_ns; /* since when a message is half in or half out; 0: none is */
	uint8_t *rx, *tx;
	uint32_t rx_len, rx_room, tx_len, tx_sent;
	struct conn *next;
};

struct xm_ctl {
	struct xm_appliance *a;
	struct xm_data *data;
	struct xm_ctl_limits limits;
	int epoll_fd;
	int spare_fd; /* given up for a moment to turn a connection away when descriptors run out; -1: lost */
	struct source wake, stop, done; /* done: of jobs */
	struct xm_jobs *jobs;
	struct source extra[XM_LISTEN_MAX + 4];
	unsigned extras;
	bool stopping;
	bool paused; /* nothing is accepted: too many strangers, all of them new; or spare_fd is gone */
	struct conn *conns; /* newest first */
	unsigned conn_count, strangers;
	uint64_t round;	   /* of events */
	uint64_t tickets;
	bool more;	   /* some connection's is set */
	uint64_t heard_ns; /* what came before is in this round's events, or was heard before */
	uint64_t complaint_second, slow_second;
	unsigned complaints;
	struct xm_wire_msg in, out;
	uint8_t bytes[XM_WIRE_MAX];
};

/* ---- serve_ctl.c -------------------------------------------------------------------------------------- */

/* Is a complaint within the ration? Counts what was refused. */
bool xm_ctl_may_complain(struct xm_ctl *c);
/* Its end: freed after this round of events. Its job goes on, for nobody. */
void xm_ctl_kill(struct xm_ctl *c, struct conn *conn);
/* Sends a message, or begins to. with: the request that it answers, whose slabs go along; may be NULL. */
void xm_ctl_reply(struct xm_ctl *c, struct conn *conn, struct xm_wire_msg *m, const struct xm_request *with);
/* Lets it wait for what it needs next. */
void xm_ctl_settle(struct xm_ctl *c, struct conn *conn);

/* ---- serve_msg.c -------------------------------------------------------------------------------------- */

/* Answers what has come until a reply has to wait for its reader, or for a job, or the turn is over. */
void xm_ctl_serve(struct xm_ctl *c, struct conn *conn);
/* It waits for no job any more. */
void xm_ctl_leave_line(struct conn *conn);
/* Sends the replies of jobs that are done. wait: until none is under way. */
void xm_ctl_finish_jobs(struct xm_ctl *c, bool wait);

#endif
