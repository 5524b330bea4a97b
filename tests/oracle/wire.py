"""The wires: a small keep-alive HTTP/1.1 client on asyncio streams, and nats-py for JetStream."""

import asyncio
import json
import time
from urllib.parse import urlencode

import nats

from traffic import object_of, query_of


class Http:
    """One keep-alive connection; reconnects when it must."""

    def __init__(self, host, port):
        self.host, self.port = host, port
        self.reader = self.writer = None

    async def request(self, method, path, headers=None, body=b"", timeout=30):
        """Status, headers (lower case) and body; raises OSError or TimeoutError when there was no whole answer."""
        return await asyncio.wait_for(self._request(method, path, headers or {}, body), timeout)

    async def ask(self, path, headers=None):
        """A GET that changes nothing; asked again where the kept connection was closed meanwhile, as by a restart."""
        kept = self.writer is not None
        try:
            return await self.request("GET", path, headers)
        except ConnectionError:
            if not kept:
                raise
            return await self.request("GET", path, headers)

    async def _request(self, method, path, headers, body):
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection(self.host, self.port)
        try:
            lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}:{self.port}"]
            lines += [f"{k}: {v}" for k, v in headers.items()]
            if body or method in ("POST", "PUT"):
                lines.append(f"Content-Length: {len(body)}")
            self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
            await self.writer.drain()
            status = int((await self.reader.readuntil(b"\r\n")).split()[1])
            got = {}
            while (line := await self.reader.readuntil(b"\r\n")) != b"\r\n":
                name, _, value = line.decode("latin-1").partition(":")
                got[name.strip().lower()] = value.strip()
            content = b""
            if method != "HEAD" and status not in (204, 304):
                if got.get("transfer-encoding") == "chunked":
                    while size := int(await self.reader.readuntil(b"\r\n"), 16):
                        content += (await self.reader.readexactly(size + 2))[:-2]
                    await self.reader.readuntil(b"\r\n")
                else:
                    content = await self.reader.readexactly(int(got.get("content-length", 0)))
            return status, got, content
        except asyncio.IncompleteReadError as e:
            self.close()
            raise ConnectionResetError("the server closed in the middle of an answer") from e
        except BaseException:
            self.close()
            raise

    def close(self):
        """Drops the connection."""
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


RETRY = (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError)


def address_of(event):
    """An address of the event's visitor, so that nobody is over a limit."""
    return f"10.{hash(event.get('user_id')) % 250}.{hash(event['ts']) % 250}.{event['ts'] % 250}"


class Wires:
    """Delivers sends and bad ones, again and again until each is answered, and remembers when."""

    def __init__(self, targets, nats_url, tally, deadline_s=600, gives_up=False):
        self.targets = targets
        self.nats_url = nats_url
        self.tally = tally
        self.deadline_s = deadline_s
        # Where processes are killed, every third delivery is not sent again when no answer comes: nobody knows
        # then whether it counts, so it waits in `maybe` until the end of the run.
        self.gives_up = gives_up
        self.maybe = []
        self.pools = None
        self.nc = None
        self.wrong = []
        self.retries = 0

    async def open(self, connections=24):
        """Opens the pools."""
        targets, self.targets, self.pools = self.targets, [], []
        for host, port in targets:
            self.add_target(host, port, connections)
        self.nc = await self.connect()
        self.js = self.nc.jetstream(timeout=5, publish_async_max_pending=4096)

    async def connect(self, **options):
        """A connection to the broker that lasts."""

        async def quiet(_error):
            """A killed broker is what is being tried; what matters is whether a delivery was answered."""

        return await nats.connect(
            self.nats_url.split(","), error_cb=quiet, max_reconnect_attempts=-1, reconnect_time_wait=0.2, allow_reconnect=True, **options
        )

    def add_target(self, host, port, connections=24):
        """One more collector."""
        pool = asyncio.Queue()
        for _ in range(connections):
            pool.put_nowait(Http(host, port))
        self.targets.append((host, port))
        self.pools.append(pool)

    async def close(self):
        """Closes everything."""
        for pool in self.pools:
            while not pool.empty():
                pool.get_nowait().close()
        await self.nc.close()

    async def http(self, target, *args, **kwargs):
        """One request on a free connection of a target."""
        conn = await self.pools[target].get()
        try:
            return await conn.request(*args, **kwargs)
        finally:
            self.pools[target].put_nowait(conn)

    async def until_answered(self, attempt, resend=True):
        """Calls `attempt` until it says that it was answered; False when that was given up."""
        began = time.monotonic()
        while True:
            try:
                if await attempt():
                    return True
            except RETRY + (nats.errors.Error,):
                pass
            if not resend:
                return False
            self.retries += 1
            if time.monotonic() - began > self.deadline_s:
                raise TimeoutError(f"not answered within {self.deadline_s} s")
            await asyncio.sleep(0.05)

    async def get(self, send):
        """A browser's request."""
        path, params, headers = query_of(send.event)
        headers["X-Forwarded-For"] = address_of(send.event)
        send.begin()
        want = {"impression": 200, "click": 302, "conversion": 204}[send.event["kind"]]

        async def attempt():
            status, _, body = await self.http(send.target, "GET", f"{path}?{urlencode(params)}", headers)
            if status == 503:
                return False
            if status != want:
                self.wrong.append(f"GET {path}: expected {want}, got {status} {body[:200]!r}")
            return True

        # An event without an id of its own must not be sent twice: nobody could tell the two apart.
        resend = send.event["id"] is not None and not self.leaves(send)
        if await self.until_answered(attempt, resend):
            self.count(send)
        elif self.gives_up and send.event["id"] is not None:
            self.maybe.append(send)
        else:
            self.wrong.append(f"unanswered without id: {path}")

    def leaves(self, send):
        """Whether this delivery is left alone when no answer comes."""
        return self.gives_up and not send.twin and send.event["ts"] % 3 == 0

    async def post(self, sends, bads, target):
        """One batch over POST, each item judged by itself."""
        items = [json.dumps(object_of(s.event, True)).encode() for s in sends] + [b.payload for b in bads]
        for send in sends:
            send.begin()
        body = b"[" + b",".join(items) + b"]" if len(items) % 2 else b"\n".join(items)
        headers = {"Content-Type": "application/json" if len(items) % 2 else "application/x-ndjson"}

        async def attempt():
            status, _, content = await self.http(target, "POST", "/api/v1/events", headers, body)
            if status == 503:
                return False
            if status != 202:
                self.wrong.append(f"POST: expected 202, got {status} {content[:300]!r}")
                return True
            answer = json.loads(content)
            reasons = {r["index"]: r["reason"] for r in answer["rejected"]}
            expected = {len(sends) + i: b.reason for i, b in enumerate(bads)}
            if reasons != expected or answer["accepted"] != len(sends):
                self.wrong.append(f"POST: expected rejected {expected}, got {answer}"[:600])
            return True

        if await self.until_answered(attempt, bool(bads) or not (sends and self.leaves(sends[0]))):
            for send in sends:
                self.count(send)
            for bad in bads:
                bad.answered = True
        else:
            self.maybe.extend(sends)

    async def publish(self, send, packer):
        """One event over NATS; the message id is made anew for a twin, as after the broker's window."""
        event = send.event
        send.begin()
        key = event.get("ad_id") or event["advertiser_id"]
        message_id = f"{event['kind']}:{event['id']}" + (f":twin{send.target}" if send.twin else "")
        payload = object_of(event, False)

        async def attempt():
            await self.js.publish(f"ads.{event['kind']}.{key}", packer(payload), headers={"Nats-Msg-Id": message_id})
            return True

        if await self.until_answered(attempt, not self.leaves(send)):
            self.count(send)
        else:
            self.maybe.append(send)

    async def publish_bad(self, bad):
        """A bad message over NATS: the broker takes it, adtally refuses it."""

        async def attempt():
            await self.js.publish(bad.subject, bad.payload)
            return True

        # Without an id a second try could be a second record, so only an answered one is expected.
        bad.answered = await self.until_answered(attempt, False)

    async def once(self, send):
        """One try of a browser's request: its status, 0 where no whole answer came, and the headers. Counted when it was answered well."""
        path, params, headers = query_of(send.event)
        headers["X-Forwarded-For"] = address_of(send.event)
        send.begin()
        try:
            status, got, _ = await self.http(send.target, "GET", f"{path}?{urlencode(params)}", headers)
        except RETRY:
            self.maybe.append(send)
            return 0, {}
        if status in (200, 204, 302):
            self.count(send)
        return status, got

    def count(self, send):
        """Tells the tally of an answered send."""
        send.answered = True
        self.tally.add(send.event, int(time.time() * 1000), send.first_ms)
