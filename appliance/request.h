/* SPDX-License-Identifier: Apache-2.0 */
/* request.h - answers one control message of a peer that has a session. */
#ifndef XM_REQUEST_H
#define XM_REQUEST_H

#include "appliance/appliance.h"

struct xm_request {
	struct xm_appliance *a;
	struct xm_session *session;
	bool local; /* came by unix socket: may be given slabs */
	const struct xm_wire_msg *in;
	struct xm_wire_msg *out;	   /* complete but for its length */
	struct xm_slab *slab[XM_WIRE_FDS]; /* a reference each: to be sent with the reply, then let go */
	unsigned slabs;
	bool bye;
	const char *text; /* why it was refused, where the status alone would mislead */
};

/* Never fails: what went wrong is in the reply. Control thread; may take 20 ms to make a slab. */
void xm_request_answer(struct xm_request *r);
/* Turns *out into a refusal. */
void xm_request_refuse(struct xm_wire_msg *out, int status, const char *text, uint64_t value);

#endif
