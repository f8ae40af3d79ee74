# SPDX-License-Identifier: Apache-2.0
POLICY_SRCS := runtime/policy/clock.c runtime/policy/majority.c runtime/policy/none.c \
	runtime/policy/registry.c runtime/policy/s3fifo.c runtime/policy/stride.c
