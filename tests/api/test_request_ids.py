"""Ids of requests: nobody can guess one, none comes twice, and those of one time lie together."""

from __future__ import annotations

import os
import re
import time

from coollm.api.http import IDS_AT_ONCE, new_request_id


def test_ids_are_unlike_each_other_and_begin_with_their_time() -> None:
    ids = [new_request_id() for _ in range(3 * IDS_AT_ONCE)]
    assert len(set(ids)) == len(ids)
    assert len({one[12:] for one in ids}) == len(ids), "their random parts alone"
    assert all(re.fullmatch(r"req_[0-9a-f]{32}", one) for one in ids)
    now = int(time.time())
    assert all(now - 60 <= int(one[4:12], 16) <= now for one in ids[IDS_AT_ONCE:]), "drawn in this test"


def test_two_processes_draw_different_ones() -> None:
    new_request_id()  # so that some are drawn, and not used
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, new_request_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    other = os.read(reader, 100).decode()
    os.close(reader)
    os.close(writer)
    assert other
    assert other not in {new_request_id() for _ in range(2 * IDS_AT_ONCE)}
