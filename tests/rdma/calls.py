#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""calls.py TRACE FAULTS: the system calls of the threads that serve faults (strace -f -x -yy -s 4 --decode-pids=comm),
while a program touched pages that were on the appliance, each in its place and none of them changed.

What is asserted, of all of these threads together:
  - each page that came (UFFDIO_COPY) had one doorbell, and there were at least FAULTS of them
  - calls are of these kinds only: read and epoll_wait for faults; UFFDIO_COPY and UFFDIO_WRITEPROTECT; the doorbell
    (write of POST_SEND to the device: soft-RoCE has no other); and where polling did not succeed in its time, to sleep
    (REQ_NOTIFY_CQ to the device, poll, read of the completion channel): no more polls than notifications. Newer kernels are
    given that command by ioctl, of which strace does not say more; that none is a registration, the link's own count says
  - what is timed costs a wake-up of its own: one page of 256 (XM_INSTALL_SAMPLE), and each touch of the canary, whose
    page is given by UFFDIO_ZEROPAGE
  - two handlers may meet at a lock of the eviction policy: a futex call for every twentieth page at most
So nothing is registered, allocated, locked or asked of the appliance's processor on the way of a fault.
"""

import collections
import re
import sys

POST_SEND, REQ_NOTIFY_CQ = 28, 23  # rdma/ib_user_verbs.h
LINE = re.compile(r"^(\d+)<xmem-fault>\s+(?:<\.\.\. )?(\w+)(?:\((.*)| resumed>)")


def kind(call, args):
    """One word for a call; the call itself where it is none of those that belong here."""
    where = re.match(r"\d+<([^<>]*)[<>]", args)
    file = where[1] if where else ""
    if call in ("epoll_wait", "epoll_pwait"):
        return "wait for faults"
    if call in ("poll", "ppoll"):
        return "sleep"
    if file == "anon_inode:[userfaultfd]":
        if call == "read":
            return "wait for faults"
        if call == "ioctl" and (ioctl := re.search(r"UFFDIO_(COPY|WRITEPROTECT|ZEROPAGE|WAKE)\b", args)):
            return ioctl[1]
    if file == "anon_inode:[infinibandevent]" and call == "read":
        return "completion event"
    if file.startswith("/dev/infiniband/uverbs") and call == "ioctl" and "RDMA_VERBS_IOCTL" in args:
        return "notification"
    if file.startswith("/dev/infiniband/uverbs") and call == "write":
        command = re.search(r'"\\x([0-9a-f]{2})', args)
        return {POST_SEND: "doorbell", REQ_NOTIFY_CQ: "notification"}.get(command and int(command[1], 16), f"write {args}")
    return f"{call} {file}".strip()


def main(path, faults):
    calls, example = collections.Counter(), {}
    with open(path, encoding="latin1") as f:
        for line in f:
            m = LINE.match(line)
            if m and m[3] is not None:  # not the second half of one
                calls[kind(m[2], m[3])] += 1
                example.setdefault(kind(m[2], m[3]), line.strip())
    print(dict(calls))
    belong = ("wait for faults", "sleep", "COPY", "WRITEPROTECT", "ZEROPAGE", "WAKE", "completion event", "doorbell",
              "notification", "futex")
    bad = [k for k in calls if k not in belong]
    found = [f"{k}: {calls[k]} times: {example[k]}" for k in bad]
    if calls["COPY"] < int(faults):
        found.append(f"{calls['COPY']} pages came, not {faults}")
    if calls["doorbell"] != calls["COPY"]:
        found.append(f"{calls['doorbell']} doorbells for {calls['COPY']} pages")
    if calls["WAKE"] > calls["ZEROPAGE"] + calls["COPY"] // 256 + 2:
        found.append(f"{calls['WAKE']} wake-ups for {calls['ZEROPAGE']} touches of the canary and {calls['COPY']} pages")
    if calls["futex"] * 20 > calls["COPY"]:
        found.append(f"{calls['futex']} times at a lock, for {calls['COPY']} pages")
    if calls["sleep"] > calls["notification"]:
        found.append(f"{calls['sleep']} sleeps, {calls['notification']} notifications")
    for line in found:
        print(f"FAILED: {line}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
