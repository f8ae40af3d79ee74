/* SPDX-License-Identifier: Apache-2.0 */
/* rdma_lib.c - loads libibverbs and librdmacm by name, and finds their functions. No lock: loading twice is harmless. */
#include "link/rdma_lib.h"

#include "link/uri.h"
#include "log.h"
#include "util.h"

#include <dlfcn.h>
#include <errno.h>

struct xm_rdma_lib xm_rdma;

static const struct {
	const char *symbol;
	char lib;
	size_t at;
} functions[] = {
#define X(lib, name) { #lib "_" #name, #lib[0], offsetof(struct xm_rdma_lib, name) },
	XM_RDMA_FUNCTIONS(X)
#undef X
};

int xm_rdma_load(char *why)
{
	static uint32_t loaded; /* atomic */
	void *verbs, *cm;

	if (xm_load(&loaded))
		return 0;
	verbs = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL);
	cm = dlopen("librdmacm.so.1", RTLD_NOW | RTLD_LOCAL);
	if (!verbs || !cm) {
		if (why)
			xm_snprintf(why, XM_WHY_MAX, "verbs: the library %s is not installed (packages libibverbs1, "
				    "ibverbs-providers, librdmacm1)", verbs ? "librdmacm.so.1" : "libibverbs.so.1");
		return -ENODEV;
	}
	for (size_t i = 0; i < XM_ARRAY_SIZE(functions); i++) {
		void *f = dlsym(functions[i].lib == 'i' ? verbs : cm, functions[i].symbol);

		if (!f) {
			if (why)
				xm_snprintf(why, XM_WHY_MAX, "verbs: %s is missing in the installed rdma-core (version 28 "
					    "or later is needed)", functions[i].symbol);
			return -ENODEV;
		}
		*(void **)((char *)&xm_rdma + functions[i].at) = f;
	}
	xm_store(&loaded, 1);
	return 0;
}
