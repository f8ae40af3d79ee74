#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""roce.py FILE PORT FAMILY...: what a capture (pcap of Ethernet) of RoCE v2 shows of the connections to xmem's port.

Which queue pairs those are is learned from the connection manager's messages in the capture: the request that names
the port as its service, and its reply. Printed is the number of packets by opcode, of xmem and of all others.

Exit status 1 if a packet between xmem's queue pairs carries what needs a receive at the other side (SEND, or a WRITE
with immediate data), or if none reads, or none writes, over one of the FAMILIES (IPv4, IPv6).
"""

import collections
import struct
import sys

UDP_PORT = 4791
SERVICE = 0x0000000001060000  # of RDMA_PS_TCP (InfiniBand 1.4, annex 11); the port follows
UD_SEND, QP_CM, CLASS_CM = 100, 1, 7
REQUEST, REPLY = 0x10, 0x13  # attributes of the connection manager
NAMES = {4: "send", 6: "write first", 7: "write middle", 8: "write last", 10: "write", 12: "read request",
         13: "read response first", 14: "read response middle", 15: "read response last", 16: "read response",
         17: "acknowledge", 18: "atomic acknowledge", 19: "compare and swap", 20: "fetch and add", 100: "UD send"}
WRITES = (6, 7, 8, 10)
READS = (12, 13, 14, 15, 16)
ONE_SIDED = WRITES + READS + (17, 18, 19, 20)


def packets(path):
    """(family, source, destination, UDP payload) of each RoCE v2 packet."""
    with open(path, "rb") as f:
        order = "<" if f.read(24)[:4] == b"\xd4\xc3\xb2\xa1" else ">"
        while len(head := f.read(16)) == 16:
            frame = f.read(struct.unpack(order + "IIII", head)[2])
            kind = frame[12:14]
            if kind == b"\x08\x00" and frame[23] == 17:
                family, source, to, udp = "IPv4", frame[26:30], frame[30:34], 14 + (frame[14] & 15) * 4
            elif kind == b"\x86\xdd" and frame[20] == 17:
                family, source, to, udp = "IPv6", frame[22:38], frame[38:54], 54
            else:
                continue
            if len(frame) >= udp + 20 and frame[udp + 2:udp + 4] == UDP_PORT.to_bytes(2, "big"):
                yield family, source, to, frame[udp + 8:]


class Connections:
    """The queue pairs, by address and number, of connections to one service."""

    def __init__(self, port):
        self.service = SERVICE | port
        self.ends = set()
        self.asked = {}  # (requester, its communication id) -> whether it is for us

    def learn(self, source, to, mad):
        """From a message of the connection manager: header of 24 bytes, then its own fields."""
        attribute, body = int.from_bytes(mad[16:18], "big"), mad[24:]
        if attribute == REQUEST:
            ours = int.from_bytes(body[8:16], "big") == self.service
            self.asked[source, body[0:4]] = ours
            self.put(source, body[32:35], ours)
        elif attribute == REPLY:
            self.put(source, body[12:15], self.asked.get((to, body[4:8]), False))

    def put(self, address, number, ours):
        """The number may have been another connection's before."""
        (self.ends.add if ours else self.ends.discard)((address, number))

    def has(self, address, number):
        return (address, number) in self.ends


def look(path, port):
    """{(whose, family, opcode): packets}"""
    seen, known = collections.Counter(), Connections(port)
    for family, source, to, packet in packets(path):
        opcode, number = packet[0], packet[5:8]
        if opcode == UD_SEND and int.from_bytes(number, "big") == QP_CM and len(packet) > 100 and packet[21] == CLASS_CM:
            known.learn(source, to, packet[20:])
        seen["xmem" if known.has(to, number) else "other", family, opcode] += 1
    return seen


def faults(seen, families):
    """What is not as it should be, a line each."""
    found = [f"{family}: xmem sent {NAMES.get(opcode, f'opcode {opcode}')} {n} times"
             for (whose, family, opcode), n in sorted(seen.items()) if whose == "xmem" and opcode not in ONE_SIDED]
    for family in families:
        for what, opcodes in (("read", READS), ("wrote", WRITES)):
            if not sum(seen["xmem", family, opcode] for opcode in opcodes):
                found.append(f"{family}: nothing of xmem {what}")
    return found


def main(path, port, *families):
    seen = look(path, int(port))
    for (whose, family, opcode), n in sorted(seen.items()):
        print(f"{whose}: {family} {NAMES.get(opcode, f'opcode {opcode}')}: {n}")
    found = faults(seen, families)
    for line in found:
        print(f"FAILED: {line}")
    return 1 if found or not seen else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
