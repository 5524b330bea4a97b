#!/usr/bin/env python3
"""Writes the golden frames (*.hex) from the layout alone, sharing no code with the codec that they test.

`python3 streams/golden/write.py` writes them again; the bytes of a layout never change, so nothing may differ.
It is the layout's second description: streams/frame_writer.rs is the first. Only what these frames need is here.
"""

import pathlib
import struct

T = 1_772_323_200_000  # 2026-03-01T00:00:00Z
MINTED_AT = T.to_bytes(6, "big").hex()  # the head of a UUIDv7 made then


# MessagePack: https://github.com/msgpack/msgpack/blob/master/spec.md
def mp_uint(n):
    for limit, head in ((1 << 7, ">B"), (1 << 8, ">xB"), (1 << 16, ">xH"), (1 << 32, ">xI"), (1 << 64, ">xQ")):
        if n < limit:
            raw = struct.pack(head, n)
            mark = {1: raw[0], 2: 0xCC, 3: 0xCD, 5: 0xCE, 9: 0xCF}[len(raw)]
            return bytes([mark]) + raw[1:]
    raise ValueError(n)


def mp_str(text):
    assert len(text) < 32
    return bytes([0xA0 | len(text)]) + text.encode()


def mp_bin(data):
    head = bytes([0xC4, len(data)]) if len(data) < 256 else b"\xc5" + struct.pack(">H", len(data))
    return head + data


# CRC-32C: https://www.rfc-editor.org/rfc/rfc3720#appendix-B.4
def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def zstd_stored(data):
    """One zstd frame (RFC 8878) of one segment with a four-byte size and one stored block."""
    return b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", len(data)) + struct.pack("<I", 1 | len(data) << 3)[:3] + data


# Columns
def varint(n):
    out = b""
    while n >= 0x80:
        out, n = out + bytes([n & 0x7F | 0x80]), n >> 7
    return out + bytes([n])


def zigzag(n):
    return varint(n * 2 if n >= 0 else -n * 2 - 1)


def deltas(values):
    return b"".join(zigzag(b - a) for a, b in zip([0] + values[:-1], values))


def small(values):
    return bytes([0, values[0]]) if len(set(values)) == 1 else bytes([1, *values])


def texts(values):
    return b"".join(varint(len(v.encode())) for v in values) + "".join(values).encode()


def optional_texts(values):
    entries = distinct(values)
    out = varint(len(entries)) + b"".join(varint(0 if e is None else len(e.encode()) + 1) for e in entries)
    return out + "".join(e or "" for e in entries).encode() + symbols(values, entries)


def distinct(values):
    return list(dict.fromkeys(values))


def symbols(values, entries):
    return b"" if len(entries) == 1 else bytes(entries.index(v) for v in values)


def is_uuid(text):
    parts = text.split("-")
    return [len(p) for p in parts] == [8, 4, 4, 4, 12] and all(c in "0123456789abcdef-" for c in text)


def ids(values, events):
    """The column and its raw bytes. A UUID is near its event's time, or its arrival's when more were made then."""
    uuid = {i: bytes.fromhex(v.replace("-", "")) for i, v in enumerate(values) if v and is_uuid(v)}
    made = {i: int.from_bytes(u[:6], "big") for i, u in uuid.items()}
    hits = [sum(made[i] == events[i][which] for i in uuid) for which in ("time", "arrival")]
    chosen = 1 if hits[1] > hits[0] else 0
    from_ = {i: made[i] - events[i][("time", "arrival")[chosen]] for i in uuid}
    near = {i for i in uuid if -(1 << 34) <= from_[i] < 1 << 34}
    modes = [0 if v is None else 1 if i in near else 2 if i in uuid else 3 for i, v in enumerate(values)]
    column = small(modes) + bytes([chosen]) + texts([v for i, v in enumerate(values) if modes[i] == 3])
    column += b"".join(zigzag(from_[i]) for i in uuid if i in near)
    return column, b"".join(u[6:] if i in near else u for i, u in uuid.items())


def accounts(entries):
    out = varint(len(entries)) + texts([advertiser or "" for advertiser, _, _ in entries])
    return out + b"".join((currency or "\0").encode() + zigzag(offset) for _, currency, offset in entries)


def hot_and_cold(kind, events):
    column = lambda name: [e.get(name) for e in events]
    hot = deltas(column("arrival")) + b"".join(zigzag(e["arrival"] - e["time"]) for e in events)
    account = [(e.get("advertiser"), e.get("currency"), e.get("offset", 0)) for e in events]
    if kind == "conversion":
        ads = account
        hot += accounts(distinct(account)) + symbols(account, distinct(account))
    else:
        ads = [(e["ad"], e["campaign"], a) for e, a in zip(events, account)]
        entries = distinct(ads)
        campaigns = [(campaign, a) for _, campaign, a in entries]
        owners = [a for _, a in distinct(campaigns)]
        hot += accounts(distinct(owners))
        hot += varint(len(distinct(campaigns))) + texts([c for c, _ in distinct(campaigns)])
        hot += symbols(owners, distinct(owners))
        hot += varint(len(entries)) + texts([ad for ad, _, _ in entries]) + symbols(campaigns, distinct(campaigns))
        hot += symbols(ads, entries)
        for name in ("creative", "region"):
            values = distinct(column(name))
            hot += varint(len(values)) + texts(values) + symbols(column(name), values)
        hot += small(column("device")) + small(column("verdict"))
    flags = distinct(column("flags"))
    hot += varint(len(flags)) + b"".join(map(varint, flags)) + symbols(column("flags"), flags)
    amounts = column("amount")
    by_ad = distinct(list(zip(ads, amounts)))
    if len(by_ad) == len(distinct(ads)):
        hot += b"\0" + b"".join(zigzag(amount) for _, amount in by_ad)
    elif len(distinct(amounts)) * 2 <= len(events):
        hot += b"\1" + varint(len(distinct(amounts))) + b"".join(map(zigzag, distinct(amounts)))
        hot += symbols(amounts, distinct(amounts))
    else:
        hot += b"\2" + b"".join(map(zigzag, amounts))
    own, raw = ids(column("id"), events)
    hot += own
    raw += b"".join(struct.pack(">Q", h) for h in column("content"))

    cold = deltas(column("revision")) + small([0 if h is None else 1 for h in column("address")])
    raw_cold = b"".join(struct.pack(">Q", h) for h in column("address") if h is not None)
    user, more = ids(column("user"), events)
    cold += user + optional_texts(column("agent")) + optional_texts(column("referrer"))
    raw_cold += more
    if kind == "click":
        named, more = ids(column("impression"), events)
        pages = [p and p.replace(i, "\0", 1) if is_uuid(i) else p for i, p in zip(column("id"), column("landing"))]
        cold += named + b"\1" + optional_texts(pages)
        raw_cold += more
    if kind == "conversion":
        for name in ("click", "order"):
            named, more = ids(column(name), events)
            cold += named
            raw_cold += more
    return hot + varint(len(raw_cold)), cold, raw + raw_cold


def watermark(through, acked, heads, drained=False):
    lanes = b"".join(varint(a) + zigzag(h - a) for a, h in zip(acked, heads))
    return bytes([drained]) + zigzag(through) + varint(len(acked)) + lanes


def message(fields):
    """The map, without numbers that are zero (but the kind, which is always there), and its checksum."""
    fields = [(name, value) for name, value in fields if value != 0 or name == "k"]
    count = len(fields) + 1
    body = bytes([0x80 | count]) if count < 16 else b"\xde" + struct.pack(">H", count)
    for name, value in fields:
        body += mp_str(name)
        body += mp_bin(value) if isinstance(value, bytes) else mp_str(value) if isinstance(value, str) else mp_uint(value)
    body += mp_str("s") + b"\xc4\x04"
    return body + struct.pack(">I", crc32c(body))


EPOCH = 0x0123456789ABCDEF


def frame(kind, first, marks, events, packed=False, later=()):
    hot, cold, raw = hot_and_cold(kind, events)
    fields = [("v", 1), ("k", ["impression", "click", "conversion"].index(kind)), ("p", "collector-1"), ("e", EPOCH)]
    fields += [("f", first), ("n", len(events)), ("w", marks)] + ([("c", 3)] if packed else [])
    fields += [("hn", len(hot)), ("h", zstd_stored(hot) if packed else hot)]
    fields += [("on", len(cold)), ("o", zstd_stored(cold) if packed else cold), ("r", raw), *later]
    return message(fields)


def event(id, time, arrival, **rest):
    return {"id": id, "time": time, "arrival": arrival, "flags": 0, "revision": 7, **rest}


KNOWN = {"advertiser": "advertiser-1", "currency": "USD", "offset": -18_000}
SHOWN = {"creative": "v1", "region": "US-CA", "device": 0, "verdict": 0}

IMPRESSIONS = [
    event(f"{MINTED_AT[:8]}-{MINTED_AT[8:]}-7cc3-98c4-dc0c0c07398f", T, T, ad="ad-1", campaign="campaign-1", amount=1250,
          flags=64, content=0x1122334455667788, address=0x99AABBCCDDEEFF00, agent="Mozilla/5.0", **KNOWN, **SHOWN),
    event("imp_2", T - 90_000, T + 15, ad="ad-2", campaign="campaign-2", amount=0, flags=0x11, content=2**64 - 1,
          user="u-1", agent="Mozilla/5.0", referrer="https://example.com/\u00fc", creative="", region="", device=6, verdict=2),
]
FOREIGN = "9b2f6e1c-52a7-4f0e-8d3b-1a2b3c4d5e6f"
CLICKS = [
    event(FOREIGN, T - 1, T, ad="ad-1", campaign="campaign-1", amount=250_000, content=1, address=2, revision=8,
          impression=f"{MINTED_AT[:8]}-{MINTED_AT[8:]}-7000-8000-000000000001", user=FOREIGN.replace("9b", "00"),
          landing=f"https://example.com/?c={FOREIGN}&again={FOREIGN}", **KNOWN, **SHOWN),
    event(f"{MINTED_AT[:8]}-{MINTED_AT[8:]}-7fff-bfff-ffffffffffff", T + 1, T + 2, ad="ad-1", campaign="campaign-1",
          amount=300_000, content=3, impression="imp_2", landing="https://example.com/", **KNOWN, **SHOWN),
]
CONVERSIONS = [
    event("order:77", T, T + 1, advertiser="advertiser-1", currency="INR", offset=19_800, amount=990_000_000, content=4,
          click=FOREIGN, order="77"),
    event(FOREIGN, T, T + 1, advertiser="advertiser-1", amount=0, content=5, user="u-1"),
]
SALES = [
    event(f"sale-{i}", T + i, T + i, advertiser="advertiser-1", currency="EUR", offset=3_600, amount=(i % 2) * 5_000_000,
          content=i, user=f"u-{i}", agent="curl/8")
    for i in range(5)
]
MARKS = (T - 12, [41, 7, 0], [43, 7, 0])

GOLDEN = {
    "impression": frame("impression", 41, watermark(*MARKS), IMPRESSIONS),
    "click": frame("click", 7, watermark(*MARKS), CLICKS),
    "conversion": frame("conversion", 0, watermark(*MARKS), CONVERSIONS),
    "announcement": message([("v", 1), ("k", 127), ("p", "collector-1"), ("e", EPOCH),
                             ("w", watermark(T, [43, 7, 2], [43, 7, 2], drained=True))]),
    # Both packed parts, as any zstd may write them.
    "packed": frame("conversion", 2, watermark(*MARKS), SALES, packed=True),
    # What a later version may add: keys of its own, and lanes of kinds that this one does not know.
    "later": frame("impression", 41, watermark(MARKS[0], MARKS[1] + [5, 6], MARKS[2] + [5, 9]), IMPRESSIONS,
                   later=[("z1", "text"), ("z2", b"\x00\x01"), ("z3", 2**40)]),
}

if __name__ == "__main__":
    for name, data in GOLDEN.items():
        lines = [data[i : i + 32].hex() for i in range(0, len(data), 32)]
        (pathlib.Path(__file__).parent / f"{name}.hex").write_text("\n".join(lines) + "\n")
