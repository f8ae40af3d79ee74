#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""roce.py FILE: what RoCE v2 packets a capture (pcap of Ethernet) holds: their number by address family and opcode.

Exit status 1 if there is none. Imported, packets(FILE) yields (family, opcode, UDP payload) of each.
"""

import collections
import struct
import sys

PORT = 4791
NAMES = {4: "send", 6: "write first", 7: "write middle", 8: "write last", 10: "write", 12: "read request",
         13: "read response first", 14: "read response middle", 15: "read response last", 16: "read response",
         17: "acknowledge", 18: "atomic acknowledge", 19: "compare and swap", 20: "fetch and add", 100: "UD send"}


def packets(path):
    with open(path, "rb") as f:
        magic = f.read(24)[:4]
        order = "<" if magic == b"\xd4\xc3\xb2\xa1" else ">"
        while len(head := f.read(16)) == 16:
            frame = f.read(struct.unpack(order + "IIII", head)[2])
            kind = frame[12:14]
            if kind == b"\x08\x00" and frame[23] == 17:
                family, udp = "IPv4", frame[14 + (frame[14] & 15) * 4:]
            elif kind == b"\x86\xdd" and frame[20] == 17:
                family, udp = "IPv6", frame[54:]
            else:
                continue
            if len(udp) > 8 and struct.unpack(">H", udp[2:4])[0] == PORT:
                yield family, udp[8], udp[8:]


if __name__ == "__main__":
    seen = collections.Counter((family, opcode) for family, opcode, _ in packets(sys.argv[1]))
    for (family, opcode), n in sorted(seen.items()):
        print(f"{family} {NAMES.get(opcode, f'opcode {opcode}')}: {n}")
    sys.exit(0 if seen else 1)
