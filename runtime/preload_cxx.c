/* SPDX-License-Identifier: Apache-2.0 */
/*
 * preload_cxx.c - C++'s operators new and delete by their linker names.
 *
 * libstdc++'s own call malloc and would need no help; but a program that is linked with
 * libjemalloc.so would find that library's operators, whose blocks are foreign here. Failing new
 * calls the new handler and throws bad_alloc through libstdc++, looked up weakly: a C program has
 * none. The nothrow forms return NULL without calling the handler, since one that throws could not
 * be caught from C.
 */
#include "runtime/preload.h"

#include <stdlib.h>

typedef void (*xm_new_handler)(void);

extern xm_new_handler _ZSt15get_new_handlerv(void) __attribute__((weak));
extern void _ZSt17__throw_bad_allocv(void) __attribute__((weak, noreturn));

static void *new_or_throw(size_t size, size_t align, const void *caller)
{
	for (;;) {
		void *p = xm_heap_alloc(size, align, false, caller);
		xm_new_handler handler = NULL;

		if (xm_likely(p))
			return p;
		if (_ZSt15get_new_handlerv)
			handler = _ZSt15get_new_handlerv();
		if (handler)
			handler();
		else if (_ZSt17__throw_bad_allocv)
			_ZSt17__throw_bad_allocv();
		else
			abort();
	}
}

#define DECLARE_NEW(name, ...) XM_PUBLIC void *name(size_t size, ##__VA_ARGS__);
#define DECLARE_DELETE(name, ...) XM_PUBLIC void name(void *p, ##__VA_ARGS__);

/* clang-format off */
#define NEW(name, expr, ...) \
	DECLARE_NEW(name, ##__VA_ARGS__) \
	void *name(size_t size, ##__VA_ARGS__) { return expr; }
#define DELETE(name, ...) \
	DECLARE_DELETE(name, ##__VA_ARGS__) \
	void name(void *p, ##__VA_ARGS__) { xm_heap_free(p); }

NEW(_Znwm, new_or_throw(size, 0, XM_CALLER()))
NEW(_Znam, new_or_throw(size, 0, XM_CALLER()))
NEW(_ZnwmSt11align_val_t, new_or_throw(size, align, XM_CALLER()), size_t align)
NEW(_ZnamSt11align_val_t, new_or_throw(size, align, XM_CALLER()), size_t align)
NEW(_ZnwmRKSt9nothrow_t, xm_heap_alloc(size, 0, false, XM_CALLER()), const void *tag)
NEW(_ZnamRKSt9nothrow_t, xm_heap_alloc(size, 0, false, XM_CALLER()), const void *tag)
NEW(_ZnwmSt11align_val_tRKSt9nothrow_t, xm_heap_alloc(size, align, false, XM_CALLER()), size_t align,
    const void *tag)
NEW(_ZnamSt11align_val_tRKSt9nothrow_t, xm_heap_alloc(size, align, false, XM_CALLER()), size_t align,
    const void *tag)

DELETE(_ZdlPv)
DELETE(_ZdaPv)
DELETE(_ZdlPvm, size_t size)
DELETE(_ZdaPvm, size_t size)
DELETE(_ZdlPvRKSt9nothrow_t, const void *tag)
DELETE(_ZdaPvRKSt9nothrow_t, const void *tag)
DELETE(_ZdlPvSt11align_val_t, size_t align)
DELETE(_ZdaPvSt11align_val_t, size_t align)
DELETE(_ZdlPvmSt11align_val_t, size_t size, size_t align)
DELETE(_ZdaPvmSt11align_val_t, size_t size, size_t align)
DELETE(_ZdlPvSt11align_val_tRKSt9nothrow_t, size_t align, const void *tag)
DELETE(_ZdaPvSt11align_val_tRKSt9nothrow_t, size_t align, const void *tag)
/* clang-format on */
