"""Where a request's time goes: the gateway in this process, without its connections, in front of a vendor that answers at once."""

from __future__ import annotations


def profile(store: str) -> None:
    """Prints the microseconds of a request, and the functions that take most of them."""
    from gevent import monkey

    monkey.patch_all()
    import contextlib
    import cProfile
    import io
    import json
    import os
    import pstats
    import shutil
    import tempfile
    import time
    from pathlib import Path

    from benchmark.servers import BODY, CLIENT_KEY, PATH, redis, vendor
    from coollm.app import create_app
    from coollm.core.config.load import load_generation
    from coollm.core.logs import open_log
    from coollm.core.secrets import Redactor
    from coollm.services import build_services

    home = Path(tempfile.mkdtemp(prefix="coollm-profile-"))
    limits = {"req_per_min": 100_000_000, "tokens_per_min": 100_000_000_000}
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(vendor(home)).port
        stack.enter_context(redis(home))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        time.sleep(0.5)
        keys = ["sk-bench-1", "sk-bench-2", "sk-bench-3"]
        provider = {"id": "vendor", "type": "custom", "base_url": f"http://127.0.0.1:{port}/v1", "api_keys": keys, "models": ["bench"], "limits": limits}
        runtime = {"type": store, **({"addr": f"unix:{home}/redis.sock"} if store == "redis" else {})}
        client = {"id": "bench", "key": CLIENT_KEY, "limits": limits}
        settings = {"version": "1.0", "llm_providers": [provider], "api_keys": [client], "storage": {"runtime": runtime}}
        (home / "coollm.yaml").write_text(json.dumps(settings))
        (home / "state").mkdir()
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(home / "state")
        loaded = load_generation(home / "coollm.yaml", home / "state", 0, None)
        open_log(loaded.settings, home / "app.log", Redactor(loaded.settings.secrets()))
        app = create_app(build_services(loaded, home / "state", home / "usage.log"))
        body = BODY.encode()
        headers = {"HTTP_AUTHORIZATION": f"Bearer {CLIENT_KEY}", "CONTENT_LENGTH": str(len(body)), "CONTENT_TYPE": "application/json"}

        def ask(times: int) -> float:
            began = time.process_time()
            for _ in range(times):
                told: list[str] = []
                environ = {"REQUEST_METHOD": "POST", "PATH_INFO": PATH, "QUERY_STRING": "", "wsgi.input": io.BytesIO(body), **headers}
                app.wsgi_app(environ, lambda status, _, told=told: told.append(status))
                if told != ["200 OK"]:
                    raise SystemExit(f"error: a request was answered {told}")
            return (time.process_time() - began) / times * 1e6

        ask(300)
        print(f"{min(ask(1000) for _ in range(5)):.0f} µs of CPU for a request, its connection left out\n")
        profiler = cProfile.Profile()
        profiler.enable()
        ask(2000)
        profiler.disable()
        pstats.Stats(profiler).sort_stats("tottime").print_stats(30)
