/* SPDX-License-Identifier: Apache-2.0 */
/* notify.h - tells systemd (Type=notify) how the daemon is, without its library. */
#ifndef XM_NOTIFY_H
#define XM_NOTIFY_H

/* "READY=1", "STOPPING=1", "RELOADING=1\n...": one datagram to $NOTIFY_SOCKET; silently nothing without it. */
void xm_notify(const char *state);

#endif
