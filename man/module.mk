# SPDX-License-Identifier: Apache-2.0
MAN_SRCS := $(sort $(wildcard man/*.[1-8]))
