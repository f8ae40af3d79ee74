/* SPDX-License-Identifier: Apache-2.0 */
/* sys.c - where system calls are made (sys.h). Written at the start of a process, read by all threads. */
#include "sys.h"

uintptr_t xm_sys_gate;
