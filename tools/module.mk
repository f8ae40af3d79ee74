# SPDX-License-Identifier: Apache-2.0
# The scripts here need no building; tools/examples/*.c are linked against libxmem.so (mk/tests.mk).
