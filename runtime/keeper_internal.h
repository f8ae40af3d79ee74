/* SPDX-License-Identifier: Apache-2.0 */
/* keeper_internal.h - the keeper's state, shared by keeper.c (life), keeper_serve.c (requests) and
 * keeper_appliance.c (appliances). One process, one thread, no locks. */
#ifndef XM_KEEPER_INTERNAL_H
#define XM_KEEPER_INTERNAL_H

#include "runtime/keeper.h"

#define KEEPER_CLIENTS 128
#define KEEPER_CLIENT_IDLE_NS 5000000000ull

/* epoll data: kind << 32 | index */
enum keeper_event { EV_CONTROL, EV_LISTEN, EV_COMMAND, EV_MEMBER, EV_CLIENT, EV_APPLIANCE, EV_APPLIANCE_LOG };

/* Messages between xmem-run and its keeper. */
enum keeper_note_kind { NOTE_READY = 1, NOTE_COMMAND = 2, NOTE_FINISH = 3, NOTE_FINISHED = 4 };
struct keeper_note {
	uint32_t kind;
	int32_t value;
};

struct keeper {
	struct xm_family *f;
	const struct xm_keeper_setup *setup;
	int obj_fd, control, listen_fd, epoll;
	int command_fd; /* pidfd; -1: not known or ended */
	int32_t command_pid;
	bool command_known, command_over, finishing;
	struct {
		int fd; /* pidfd; -1: not watched */
		int32_t pid;
		uint64_t start_time;
	} watch[XM_MAX_PROCS];
	struct {
		int fd; /* -1: free */
		bool top;
		uint64_t since_ns;
	} client[KEEPER_CLIENTS];
	struct xm_private_appliance own;
	struct xm_peer *peer[XM_MAX_APPLIANCES];
	int64_t retries_before[XM_MAX_APPLIANCES]; /* of the devices, when the family began */
	uint64_t ask_after_ns; /* appliances are not asked before: one of them was slow */
	uint8_t token[16];
};

/* keeper.c */
int keeper_poll_add(struct keeper *k, int fd, enum keeper_event kind, uint32_t index);
/* Writes down for watchers what the command is called, as long as it lives: it may never start the runtime. */
void keeper_name_command(struct keeper *k);
/* Sees to it that the process of an entry is watched. */
void keeper_watch(struct keeper *k, uint32_t index);

/* keeper_serve.c */
int keeper_listen(struct keeper *k, const char *name);
void keeper_accept(struct keeper *k);
void keeper_client(struct keeper *k, uint32_t index);
/* Answers all that was said before this moment. */
void keeper_hear(struct keeper *k);
/* Closes connections that said nothing for KEEPER_CLIENT_IDLE_NS; true while somebody watches (xmem-top). */
bool keeper_clients_tick(struct keeper *k);

/* keeper_appliance.c: errors have been logged */
int keeper_open_appliances(struct keeper *k);
void keeper_ask_appliances(struct keeper *k);
void keeper_tick_appliances(struct keeper *k);
void keeper_close_appliances(struct keeper *k);
void keeper_relay_log(struct keeper *k);
void keeper_appliance_died(struct keeper *k);

#endif
