#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# time limit: 30 s
"""What tests/rdma/roce.py says of captures: here such as are made up, with and without what it has to find."""
import os
import subprocess
import sys
import tempfile

ROCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../rdma/roce.py")
PORT = 7470
SEND, WRITE, WRITE_IMMEDIATE, READ, READ_RESPONSE, ACK, UD_SEND = 4, 10, 11, 12, 16, 17, 100
CLIENT, SERVER = 1, 0
failures = []


def address(family, node):
    return bytes([10, 77, 0, node + 1]) if family == "IPv4" else b"\xfd\x77" + bytes(13) + bytes([node + 1])


def packet(family, source, opcode, number, payload=bytes(16), udp_port=4791):
    """An Ethernet frame from node `source` to the other one's queue pair `number`."""
    roce = bytes([opcode, 0, 0xff, 0xff, 0]) + number.to_bytes(3, "big") + bytes(4) + payload + bytes(4)
    udp = (49152).to_bytes(2, "big") + udp_port.to_bytes(2, "big") + (8 + len(roce)).to_bytes(2, "big") + bytes(2) + roce
    ends = address(family, source) + address(family, 1 - source)
    if family == "IPv4":
        return bytes(12) + b"\x08\x00\x45\x00" + (20 + len(udp)).to_bytes(2, "big") + bytes(4) + b"\x40\x11\0\0" + ends + udp
    return bytes(12) + b"\x86\xdd\x60\0\0\0" + len(udp).to_bytes(2, "big") + b"\x11\x40" + ends + udp


def message(family, source, attribute, body):
    """One of the connection manager."""
    mad = bytes([1, 7, 2, 3]) + bytes(12) + attribute.to_bytes(2, "big") + bytes(6) + body
    return packet(family, source, UD_SEND, 1, bytes(8) + mad + bytes(256 - len(mad)))


def connection(family, port, client, server, ask=77):
    """A request and its reply: queue pair `client` of one node and `server` of the other."""
    service = 0x0000000001060000 | port
    ask, answer = ask.to_bytes(4, "big"), (ask + 1000).to_bytes(4, "big")
    request = ask + bytes(4) + service.to_bytes(8, "big") + bytes(16) + client.to_bytes(3, "big") + bytes(1)
    reply = answer + ask + bytes(4) + server.to_bytes(3, "big") + bytes(1)
    return [message(family, CLIENT, 0x10, request), message(family, SERVER, 0x13, reply)]


def traffic(family, client, server):
    return [packet(family, CLIENT, READ, server), packet(family, SERVER, READ_RESPONSE, client, bytes(4096)),
            packet(family, CLIENT, WRITE, server, bytes(4096)), packet(family, SERVER, ACK, client)]


def both(client=20, server=21):
    return (connection("IPv4", PORT, client, server) + traffic("IPv4", client, server) +
            connection("IPv6", PORT, client, server) + traffic("IPv6", client, server))


def expect(what, want, frames, said="", families=("IPv4", "IPv6")):
    with tempfile.NamedTemporaryFile() as f:
        f.write(b"\xd4\xc3\xb2\xa1" + bytes(20))
        for frame in frames:
            f.write(bytes(8) + len(frame).to_bytes(4, "little") * 2 + frame)
        f.flush()
        r = subprocess.run([sys.executable, ROCE, f.name, str(PORT), *families], capture_output=True, text=True, check=False)
    if r.returncode != want or said not in r.stdout:
        failures.append(f"{what}: status {r.returncode}, not {want}, or nothing of '{said}': {r.stdout}{r.stderr}")


def main():
    other = connection("IPv4", 7174, 40, 41, 500)
    expect("reads and writes, both families", 0, both())
    expect("no packet at all", 1, [])
    expect("RoCE, but no connection of ours", 1, other + traffic("IPv4", 40, 41), "nothing of xmem read")
    expect("one family only", 1, connection("IPv4", PORT, 20, 21) + traffic("IPv4", 20, 21), "IPv6: nothing of xmem")
    expect("that family only was wanted", 0, connection("IPv4", PORT, 20, 21) + traffic("IPv4", 20, 21), "", ("IPv4",))
    expect("no writes", 1, connection("IPv4", PORT, 20, 21) + traffic("IPv4", 20, 21)[:2], "nothing of xmem wrote", ("IPv4",))
    for family in ("IPv4", "IPv6"):
        expect("a send to the appliance", 1, both() + [packet(family, CLIENT, SEND, 21)], f"{family}: xmem sent send 1")
        expect("a send to the client", 1, both() + [packet(family, SERVER, SEND, 20)], f"{family}: xmem sent send 1")
    expect("a write with immediate data", 1, both() + [packet("IPv4", CLIENT, WRITE_IMMEDIATE, 21)], "opcode 11")
    expect("sends of another service", 0, both() + other + [packet("IPv4", CLIENT, SEND, 41), packet("IPv4", SERVER, SEND, 40)],
           "other: IPv4 send: 2")
    expect("a number that another service has now", 0,
           both() + connection("IPv4", 7174, 20, 21, 600) + [packet("IPv4", CLIENT, SEND, 21)], "other: IPv4 send: 1")
    expect("a number that was another service's", 1,
           connection("IPv4", 7174, 20, 21, 600) + both() + [packet("IPv4", CLIENT, SEND, 21)], "xmem sent send 1")
    expect("other UDP", 1, [packet("IPv4", CLIENT, READ, 21, udp_port=53)])
    for line in failures:
        print(f"FAILED: {line}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
