# SPDX-License-Identifier: Apache-2.0
# Utilities that everything links. The runtime may use all but opt.c, which is for programs (and wants -linih).
COMMON_SRCS := common/fdgate.c common/hist.c common/log.c common/machine.c common/opt.c common/procid.c common/rangemap.c \
	common/sys.c 	common/units.c $(wildcard common/wire*.c)
LINK_SRCS := $(wildcard common/link/*.c)
