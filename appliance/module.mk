# SPDX-License-Identifier: Apache-2.0
# The memory appliance daemon. Sources only; the Makefile builds and links.
APPLIANCE_SRCS := appliance/access.c appliance/domain.c appliance/grant.c appliance/job.c appliance/lend.c appliance/main.c \
	appliance/notify.c appliance/options.c appliance/pool.c appliance/request.c appliance/serve_ctl.c appliance/serve_msg.c appliance/serve_shm.c \
	appliance/serve_tcp.c appliance/serve_verbs.c appliance/session.c appliance/slab.c
APPLIANCE_LIBS := -luring -lnuma -linih -libverbs -lrdmacm -lpthread
