/* SPDX-License-Identifier: Apache-2.0 */
/* cover.h - whether a preload object can reach a command. */
#ifndef XM_COVER_H
#define XM_COVER_H

#include <stdbool.h>

#define XM_COVER_WHY_MAX 256

enum xm_cover_verdict {
	XM_COVER_OK,
	XM_COVER_NOT,     /* runs, but its own memory stays local; what it starts may be covered */
	XM_COVER_HARMFUL, /* must not even see the preload object (another C library) */
	XM_COVER_NOT_FOUND,
	XM_COVER_NOT_EXECUTABLE,
};

/* Resolves a command as execvp would into path (PATH_MAX) and says whether its memory can be external; why
 * (XM_COVER_WHY_MAX bytes): one clause for people, where the verdict is not XM_COVER_OK. apart: in a child of vfork, whose
 * descriptors are its own (fdgate.h). Not a cancellation point. */
enum xm_cover_verdict xm_cover(const char *command, bool apart, char *path, char *why);
/* Whether the file is a shared object that programs of this machine can load. */
bool xm_cover_is_object(const char *path);

#endif
