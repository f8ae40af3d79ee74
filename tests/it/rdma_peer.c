/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rdma_peer.c - what listens for RDMA connections where an appliance should, and is none: for the client's manners.
 *
 *   rdma_peer HOST PORT silent     never answers
 *   rdma_peer HOST PORT garbage    accepts, with bytes that are not the protocol's
 *   rdma_peer HOST PORT bare       accepts, and says nothing
 *   rdma_peer HOST PORT version    accepts, in another version of the protocol
 *   rdma_peer HOST PORT reject     refuses, and says nothing
 *   rdma_peer HOST PORT hangup     accepts as an appliance does, and disconnects at once
 *
 * Says "listening" when it does, one line for each request, and goes on until it is killed. Has no queue pair: the
 * number that it gives is nobody's. Runs where there is a device (tests/rdma/peers.sh). One thread.
 */
#include "wire.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <rdma/rdma_cma.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOBODY 0xfffff0 /* a queue pair number */

static void give_up(const char *what)
{
	perror(what);
	exit(1);
}

/* Of `len` bytes that are said with it. */
static void accept_with(struct rdma_cm_id *id, const void *bytes, size_t len)
{
	struct rdma_conn_param param = { .private_data = bytes,
					 .private_data_len = (uint8_t)len,
					 .responder_resources = 1,
					 .rnr_retry_count = 7,
					 .qp_num = NOBODY };

	if (rdma_accept(id, &param) < 0)
		give_up("rdma_accept");
}

static void answer(struct rdma_cm_id *id, const char *mode)
{
	struct xm_wire_rdma_reply reply = { .major = XM_WIRE_MAJOR, .minor = XM_WIRE_MINOR };
	uint8_t bytes[XM_WIRE_RDMA_REPLY];

	if (strcmp(mode, "version") == 0)
		reply.major++;
	xm_wire_put_rdma_reply(bytes, &reply);
	if (strcmp(mode, "garbage") == 0)
		memset(bytes, 0xa5, sizeof(bytes));
	if (strcmp(mode, "reject") == 0)
		rdma_reject(id, NULL, 0);
	else if (strcmp(mode, "bare") == 0)
		accept_with(id, NULL, 0);
	else if (strcmp(mode, "silent") != 0)
		accept_with(id, bytes, sizeof(bytes));
}

int main(int argc, char **argv)
{
	struct sockaddr_in here = { .sin_family = AF_INET };
	struct rdma_event_channel *channel = rdma_create_event_channel();
	struct rdma_cm_id *listener;
	struct rdma_cm_event *e;

	if (argc != 4)
		return 2;
	here.sin_port = htons((uint16_t)atoi(argv[2]));
	inet_pton(AF_INET, argv[1], &here.sin_addr);
	if (!channel || rdma_create_id(channel, &listener, NULL, RDMA_PS_TCP) < 0)
		give_up("rdma_create_id");
	if (rdma_bind_addr(listener, (struct sockaddr *)&here) < 0 || rdma_listen(listener, 8) < 0)
		give_up("rdma_listen");
	printf("listening\n");
	fflush(stdout);
	while (rdma_get_cm_event(channel, &e) == 0) {
		struct rdma_cm_id *id = e->id;
		enum rdma_cm_event_type type = e->event;

		rdma_ack_cm_event(e);
		if (type == RDMA_CM_EVENT_CONNECT_REQUEST) {
			printf("asked\n");
			fflush(stdout);
			answer(id, argv[3]);
		} else if (type == RDMA_CM_EVENT_ESTABLISHED && strcmp(argv[3], "hangup") == 0) {
			rdma_disconnect(id);
		}
	}
	return 0;
}
