"""A streamed answer: frames are held until the first content, and from there on the stream can only end or tell of its failure."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, NoReturn

import orjson

from coollm.cache.collector import Collector
from coollm.core.errors import Cancelled, ClientGone, GatewayStopping, RequestError, StreamCut
from coollm.core.types import CONTENT, ReasoningDelta, RefusalDelta, StreamEnd, StreamEvent, TextDelta, ToolCallDelta, Usage, UsageUpdate
from coollm.limits.limiter import Grant
from coollm.limits.settlement import Ending, settled_usage
from coollm.providers.sse import EventTooLarge, SseEvent
from coollm.providers.verdict import Cause, VendorError, Verdict

if TYPE_CHECKING:
    from coollm.gateway import Gateway
    from coollm.run import Run
    from coollm.vendor_call import VendorCall


class StreamAnswer:
    """An iterator over the bytes for the client. It is told of and settled before its last bytes are given, or where it does not come so far, by `close`, which
    may be called at any time, and more than once.
    """

    def __init__(self, gateway: Gateway, run: Run, grant: Grant, vendor: VendorCall, started: float) -> None:
        call = run.call
        self._gateway = gateway
        self._run = run
        self._call = call
        self.grant = grant
        self._vendor = vendor
        self._started = started
        self._decoder = vendor.form.stream_decoder()
        self._renderer = None if vendor.form.wire == call.face.wire else call.face.renderer(call.request, grant.target, call.record.request_id)
        self._forward = call.face.forwarder(grant.target) if self._renderer is None else None
        self._collector = Collector(grant.target.model) if run.flight is not None else None
        # What the client gets as it comes need not be read, once it is known how long a frame is beside its text.
        self._may_skip = self._renderer is None and self._forward is None and self._collector is None
        self._envelope: int | None = None
        self._around = b"", b""
        self._events = vendor.form.framing()
        self._frames = self._read()
        self._held = b""
        self._usage: Usage | None = None
        self._characters = 0
        self._has_content = False
        self._is_ended = False
        self._is_terminated = False
        self._is_closed = False
        self._is_told = False
        self._error: RequestError | None = None
        self._fault: VendorError | Cancelled | None = None

    def wait_for_content(self) -> None:
        """Reads until the first content, holding what comes before it. Raises VendorError or Cancelled: then another target may still serve."""
        held = []
        for frames in self._frames:
            held.append(frames)
            if self._has_content:
                break
        self._held = b"".join(held)
        self._call.record.first_token()
        self._gateway.router.board.succeeded(self.grant.target.key, time.monotonic() - self._started)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._error is not None:
            raise StopIteration
        frames, self._held = self._held or self._following(), b""
        if self._is_ended:
            self._tell()
        return frames

    def _following(self) -> bytes:
        try:
            if self._fault is not None:
                self._fail()
            return next(self._frames)
        except GatewayStopping as error:
            self._error = error.with_traceback(None)
            return self._call.face.error_frame(error)
        except Cancelled as error:
            self._error = error.with_traceback(None)
            raise StopIteration from None
        except VendorError as error:
            return self._broke(error.verdict)

    def _fail(self) -> NoReturn:
        """Raises what `relay` has met, and forgets it: it holds this answer by its traceback."""
        assert self._fault is not None  # noqa: S101  asked where there is one alone
        try:
            raise self._fault
        finally:
            self._fault = None

    def relay(self, write: Callable[[bytes], bool]) -> None:
        """Gives pieces of plain text to `write` as they come, called by the loop, until it does not take one, or something else has come."""
        if self._envelope is None or self._held or self._error is not None or self._is_terminated or not self._events.is_between:
            return
        is_plain, (before, after) = self._vendor.form.is_plain, self._around
        start, rest = len(before), len(after)

        def goes_on(piece: bytes) -> bool:
            # Most frames of a stream differ in their text alone, and a text without quotes ends with the next one.
            if before and piece.startswith(before) and piece.endswith(after) and piece.find(b'"', start, len(piece) - rest) < 0:
                if write(piece):
                    self._characters += len(piece) - start - rest
                    return True
                return False
            return is_plain(piece) and write(piece) and self._skipped(piece)

        try:
            self._vendor.exchange.relay(goes_on)
        except (VendorError, Cancelled) as error:
            self._fault = error

    def abandon(self) -> None:
        """Lets go of the vendor, where another was faster: nothing is told or settled here."""
        if not self._is_closed:
            self._is_closed = True
            self._frames.close()
            self._vendor.close(is_wanted=False)
            self._gateway.router.board.end(self.grant.target.key)

    def close(self) -> None:
        """Lets go of the vendor, and tells of the request and settles what was used, where that was not done before."""
        if self._is_closed:
            return
        self._is_closed = True
        self._fault = None
        self._frames.close()
        if self._is_ended:
            self._vendor.exchange.drain()
        self._vendor.close(is_wanted=self._is_ended)
        self._gateway.router.board.end(self.grant.target.key)
        self._tell()

    def _tell(self) -> None:
        if self._is_told:
            return
        self._is_told = True
        ending = self._ending()
        usage = settled_usage(ending, self._call.request, self._usage, self._characters)
        if ending is Ending.CLIENT_GONE and self._error is None:
            self._error = ClientGone("the client closed its connection")
        self._gateway.finish(self._run, self.grant, ending, usage, self._error)
        made = None
        if self._collector is not None and ending is Ending.ANSWERED:
            made = self._collector.completion(self._call.record.request_id, usage)
        self._gateway.keep(self._run, made, usage, None)

    def _ending(self) -> Ending:
        if self._is_ended:
            return Ending.ANSWERED
        return Ending.CUT if isinstance(self._error, StreamCut | GatewayStopping) else Ending.CLIENT_GONE

    def _read(self) -> Generator[bytes, None, None]:
        """The client's frames, those of one piece of the vendor's together."""
        events = self._events
        for piece in self._vendor.exchange.pieces():
            if self._is_to_skip(piece):
                self._skipped(piece)
                yield piece
                continue
            frames = []
            try:
                for event in events.feed(piece):
                    frames.append(self._take(event))
            except EventTooLarge as error:
                raise VendorError(Verdict(cause=Cause.BAD_ANSWER, message=str(error), status=200)) from error
            except VendorError:
                # What came before the error in the same piece still belongs to the client.
                if any(frames) and self._has_content:
                    yield b"".join(frames)
                raise
            joined = b"".join(frames)
            if joined:
                yield joined
            if self._is_terminated:
                return
        if not self._decoder.is_whole:
            raise VendorError(Verdict(cause=Cause.CUT, message="the stream ended without its terminal event", status=200))
        self._is_ended = self._is_terminated = True
        yield self._finish()

    def _is_to_skip(self, piece: bytes) -> bool:
        """Whether a piece goes to the client as it is, unread."""
        return self._envelope is not None and self._events.is_between and self._vendor.form.is_plain(piece)

    def _skipped(self, piece: bytes) -> bool:
        """A piece has gone unread: how much text it held is counted by its length."""
        self._characters += max(0, len(piece) - (self._envelope or 0) * piece.count(b"\n\n"))
        return True

    def _take(self, event: SseEvent) -> bytes:
        decoded = self._decoder.decode_event(event)
        for one in decoded:
            self._count(one)
        if self._may_skip and len(decoded) == 1 and isinstance(decoded[0], TextDelta) and decoded[0].text:
            self._envelope = len(event.raw) - len(decoded[0].text)
            self._around = _around(event.raw, decoded[0].text)
        if StreamEnd in map(type, decoded):
            self._is_terminated = self._is_ended = True
        if self._renderer is not None:
            rendered = b"".join(self._renderer.render(one) for one in decoded)
            return rendered + self._finish() if self._is_ended else rendered
        only_usage = bool(decoded) and all(isinstance(one, UsageUpdate) for one in decoded)
        if only_usage and not self._call.request.include_usage:
            return b""
        return event.raw if self._forward is None else self._forward(event.raw)

    def _finish(self) -> bytes:
        if self._renderer is None:
            return self._call.face.end_of_stream
        return self._renderer.finish(settled_usage(Ending.ANSWERED, self._call.request, self._usage, self._characters))

    def _count(self, event: StreamEvent) -> None:
        if isinstance(event, CONTENT):
            self._has_content = True
            if self._collector is not None:
                self._collector.take(event)
        if isinstance(event, UsageUpdate):
            self._usage = event.usage
        elif isinstance(event, TextDelta | ReasoningDelta | RefusalDelta):
            self._characters += len(event.text)
        elif isinstance(event, ToolCallDelta):
            self._characters += len(event.name or "") + len(event.arguments)

    def _broke(self, verdict: Verdict) -> bytes:
        """The vendor failed after content: the client is told so in its own dialect, and no finish is faked."""
        target = self.grant.target
        self._gateway.router.failed(target, verdict)
        self._error = StreamCut(f"{target.provider} broke off the stream ({verdict.cause}); what came is incomplete, the request can be sent again")
        return self._call.face.error_frame(self._error)


def _around(frame: bytes, text: str) -> tuple[bytes, bytes]:
    """What stands before and after a text in its frame; nothing where that is not sure."""
    quoted = orjson.dumps(text)
    before, found, after = frame.partition(quoted)
    return (before + b'"', b'"' + after) if found and quoted not in after else (b"", b"")
