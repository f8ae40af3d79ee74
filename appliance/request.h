/* SPDX-License-Identifier: Apache-2.0 */
/* request.h - answers one control message of a peer that has a session. */
#ifndef XM_REQUEST_H
#define XM_REQUEST_H

#include "appliance/appliance.h"

struct xm_request {
	struct xm_appliance *a;
	struct xm_session *session;
	struct xm_hello_context peer; /* by which way it came: who may be given slabs */
	unsigned minor;		      /* of the client's protocol */
	const struct xm_wire_msg *in;
	struct xm_wire_msg *out;	   /* complete but for its length */
	struct xm_slab *slab[XM_WIRE_FDS]; /* a reference each: to be sent with the reply, then let go */
	int fd[XM_WIRE_FDS];		   /* what is sent of them: their own descriptors, or ones to be closed then */
	unsigned slabs;
	bool fds_made; /* the latter */
	struct xm_gone gone; /* to be let go of before the client is answered */
	bool bye;
	const char *text; /* why it was refused, where the status alone would mislead */
};

/*
 * Answering has two parts. What changes is changed in the first, which is quick. Making, registering, deregistering and
 * destroying slabs is the rest: it takes 20 ms a slab, and with some devices much longer. What goes wrong is in the reply.
 */

/* May a request of this type have a rest? Of one session, only one such request may be under way. */
bool xm_request_is_long(uint16_t type);
/* Control thread. true: the reply is complete; false: xm_request_rest() is still to be called. */
bool xm_request_answer(struct xm_request *r);
/* Any thread: the reply is complete now. */
void xm_request_rest(struct xm_request *r);
/* The reply has been sent, or will not be: lets go of what goes with it. Any thread. */
void xm_request_done(struct xm_request *r);
/* For the log. Never NULL. */
const char *xm_request_name(uint16_t type);
/* Turns *out into a refusal. */
void xm_request_refuse(struct xm_wire_msg *out, int status, const char *text, uint64_t value);

#endif
