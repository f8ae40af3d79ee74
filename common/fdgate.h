/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fdgate.h - keeps descriptors that the runtime opens apart from numbers that the program chooses. See fdgate.c.
 *
 * Borrowing: a thread of the runtime's opens something and so has, for moments, a number that the program may want (the
 * kernel gives the lowest free one). Choosing: the program closes or overwrites a number that it names itself.
 */
#ifndef XM_FDGATE_H
#define XM_FDGATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define XM_FD_BORROWER_NS 20000000ull /* how long one that borrows waits for those who choose */
#define XM_FD_CHOOSER_NS 500000000ull /* the other way round */

/* Around everything that opens a descriptor inside the program: from before the open until it was closed or moved out of
 * the way. Nests. In between nothing may wait for anybody, and the thread's signals are blocked (but for those that its
 * own instructions raise), so it is for calls that are short. Blocks at most XM_FD_BORROWER_NS. Any thread; no lock. */
void xm_fd_borrow(void);
void xm_fd_return(void);

/* Around a call of the program's that closes or overwrites a number. Without a system call when nobody borrows; else
 * waits at most XM_FD_CHOOSER_NS. apart is asked before it waits: true when descriptors are not shared with those who
 * borrow, although memory is (a child of vfork). Returns what xm_fd_chosen() is given. Any thread, async-signal-safe. */
uint32_t xm_fd_choose(bool (*apart)(void));
void xm_fd_chosen(uint32_t turn);

/* The first size - 1 bytes of a file, ended with a 0; the descriptor is borrowed. How many, or -errno and no bytes. */
int xm_fd_read_file(const char *path, char *buf, size_t size);

/* In the child of fork: only this thread is there, and it neither borrows nor chooses. */
void xm_fd_gate_forked(void);

#endif
