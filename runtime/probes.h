/* SPDX-License-Identifier: Apache-2.0 */
/*
 * probes.h - static trace points (USDT) of provider "xmem": one no-op instruction each while nobody traces, and
 * nothing at all where sys/sdt.h (package systemtap-sdt-dev) is missing or XM_NO_PROBES is defined. Arguments are values
 * that are at hand anyway, so no semaphore is needed. man/xmem-probes.7 is their documentation; a test compares it with
 * what is in the built objects.
 */
#ifndef XM_PROBES_H
#define XM_PROBES_H

#if defined(__has_include) && !defined(XM_NO_PROBES)
#if __has_include(<sys/sdt.h>)
#include <sys/sdt.h>
#define XM_HAVE_PROBES 1
#endif
#endif

#ifdef XM_HAVE_PROBES
#define XM_PROBE1(name, a) STAP_PROBE1(xmem, name, a)
#define XM_PROBE2(name, a, b) STAP_PROBE2(xmem, name, a, b)
#define XM_PROBE3(name, a, b, c) STAP_PROBE3(xmem, name, a, b, c)
#else
#define XM_PROBE1(name, a) ((void)(a))
#define XM_PROBE2(name, a, b) ((void)(a), (void)(b))
#define XM_PROBE3(name, a, b, c) ((void)(a), (void)(b), (void)(c))
#endif

#endif
