/* SPDX-License-Identifier: Apache-2.0 */
/*
 * job.h - the rest of requests that may take long (slabs are made, registered, deregistered or destroyed), on threads
 * of its own, so that the control thread goes on serving everybody.
 *
 *      control thread --xm_jobs_start--> queue --> worker: xm_request_rest() --> done list + done_fd --> control thread
 *
 * A worker that waits for a device keeps its own session waiting and no other, as long as fewer than XM_JOB_WORKERS
 * of them do.
 */
#ifndef XM_JOB_H
#define XM_JOB_H

#include "appliance/request.h"

#define XM_JOB_WORKERS 16u

/* One request with its reply: 24 KiB. The control thread's, but between xm_jobs_start() and xm_jobs_done() only `owner` is. */
struct xm_job {
	struct xm_request request; /* in and out point into this job */
	struct xm_wire_msg in, out;
	void *owner;	  /* who wants the reply; NULL: nobody any more */
	uint64_t took_ns; /* the rest of it */
	struct xm_job *next;
};

struct xm_jobs;

/* done_fd: an eventfd that is written to whenever a job is done. 0; -ENOMEM */
int xm_jobs_create(int done_fd, struct xm_jobs **out);
/* Ends the workers. No job is under way, and xm_jobs_done() has given all back. NULL is fine. */
void xm_jobs_destroy(struct xm_jobs *j);
/* Starts a worker if none is idle and there may be one more. Where not even one can be made, the job is done here and
 * now. */
void xm_jobs_start(struct xm_jobs *j, struct xm_job *job);
/* One that is done, and its owner's again; NULL: none. wait: for as long as any is under way. */
struct xm_job *xm_jobs_done(struct xm_jobs *j, bool wait);

#endif
