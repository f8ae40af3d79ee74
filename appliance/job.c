/* SPDX-License-Identifier: Apache-2.0 */
/*
 * job.c - a queue, and workers that come as they are needed and stay. The mutex is held for the lists alone, never
 * while a job is carried out. Which jobs may be beside each other is settled by who starts them.
 */
#include "appliance/job.h"

#include "log.h"
#include "util.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

struct xm_jobs {
	int done_fd;
	pthread_mutex_t mutex; /* everything below; taken alone */
	pthread_cond_t work, done;
	struct xm_job *queue, **queue_end; /* first come, first served */
	struct xm_job *finished;
	unsigned under_way; /* queued, or with a worker */
	unsigned idle, workers;
	bool stopping;
	bool complained; /* that no thread could be made */
	pthread_t worker[XM_JOB_WORKERS];
};

/* Mutex held. */
static struct xm_job *take(struct xm_jobs *j)
{
	struct xm_job *job = j->queue;

	j->queue = job->next;
	if (!j->queue)
		j->queue_end = &j->queue;
	return job;
}

/* Mutex held, but not meanwhile. */
static void carry_out(struct xm_jobs *j, struct xm_job *job)
{
	uint64_t one = 1, began_ns = xm_now_ns();
	ssize_t n;

	pthread_mutex_unlock(&j->mutex);
	xm_request_rest(&job->request);
	job->took_ns = xm_now_ns() - began_ns;
	pthread_mutex_lock(&j->mutex);
	job->next = j->finished;
	j->finished = job;
	j->under_way--;
	pthread_cond_signal(&j->done);
	n = write(j->done_fd, &one, sizeof(one));
	(void)n; /* full means that it is readable */
}

static void *work(void *arg)
{
	struct xm_jobs *j = arg;

	pthread_mutex_lock(&j->mutex);
	while (!j->stopping) {
		if (j->queue) {
			carry_out(j, take(j));
			continue;
		}
		j->idle++;
		pthread_cond_wait(&j->work, &j->mutex);
		j->idle--;
	}
	pthread_mutex_unlock(&j->mutex);
	return NULL;
}

int xm_jobs_create(int done_fd, struct xm_jobs **out)
{
	struct xm_jobs *j = calloc(1, sizeof(*j));

	if (!j)
		return -ENOMEM;
	j->done_fd = done_fd;
	j->queue_end = &j->queue;
	pthread_mutex_init(&j->mutex, NULL);
	pthread_cond_init(&j->work, NULL);
	pthread_cond_init(&j->done, NULL);
	*out = j;
	return 0;
}

void xm_jobs_destroy(struct xm_jobs *j)
{
	if (!j)
		return;
	pthread_mutex_lock(&j->mutex);
	xm_assert(!j->under_way && !j->finished);
	j->stopping = true;
	pthread_cond_broadcast(&j->work);
	pthread_mutex_unlock(&j->mutex);
	for (unsigned i = 0; i < j->workers; i++)
		pthread_join(j->worker[i], NULL);
	pthread_cond_destroy(&j->work);
	pthread_cond_destroy(&j->done);
	pthread_mutex_destroy(&j->mutex);
	free(j);
}

/* One more worker where more is queued than idle ones will take. Mutex held. */
static void add_worker(struct xm_jobs *j)
{
	unsigned queued = 0;
	int err;

	for (struct xm_job *job = j->queue; job && queued <= j->idle; job = job->next)
		queued++;
	if (queued <= j->idle || j->workers == XM_JOB_WORKERS)
		return;
	err = pthread_create(&j->worker[j->workers], NULL, work, j);
	if (err == 0) {
		j->workers++;
	} else if (!j->complained) {
		xm_warn("cannot make a thread: %s (requests that take long will keep others waiting)", xm_strerror(err));
		j->complained = true;
	}
}

void xm_jobs_start(struct xm_jobs *j, struct xm_job *job)
{
	job->next = NULL;
	pthread_mutex_lock(&j->mutex);
	*j->queue_end = job;
	j->queue_end = &job->next;
	j->under_way++;
	add_worker(j);
	if (j->workers == 0)
		carry_out(j, take(j));
	else
		pthread_cond_signal(&j->work);
	pthread_mutex_unlock(&j->mutex);
}

struct xm_job *xm_jobs_done(struct xm_jobs *j, bool wait)
{
	struct xm_job *job;

	pthread_mutex_lock(&j->mutex);
	while (wait && !j->finished && j->under_way)
		pthread_cond_wait(&j->done, &j->mutex);
	job = j->finished;
	if (job)
		j->finished = job->next;
	pthread_mutex_unlock(&j->mutex);
	return job;
}
