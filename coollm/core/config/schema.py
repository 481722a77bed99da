"""The schema of the configuration: typed, frozen, described. Everything else (validation, JSON Schema, sample file) is derived from it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta

from coollm.core.config.backup import Backup
from coollm.core.config.fleet import Fleet
from coollm.core.config.sections import Identifier, Percent, Positive, Price, Section, Weight, doc
from coollm.core.config.values import Address, Duration
from coollm.core.secrets import Secret


class Tls(Section, frozen=True):
    """TLS in the gateway itself."""

    cert_file: Annotated[str, doc("Certificate chain, PEM.", "/etc/ssl/coo-llm.crt")]
    key_file: Annotated[str, doc("Private key, PEM.", "/etc/ssl/coo-llm.key")]
    min_version: Annotated[Literal["1.2", "1.3"], doc("Oldest TLS version that is accepted.")] = "1.2"
    client_ca_file: Annotated[str | None, doc("Who signs the certificates of clients, PEM; none is asked for without.", "/etc/coollm/client-ca.pem")] = None
    client_certificates: Annotated[Literal["optional", "required"], doc("With `client_ca_file`: whether a client must have one.")] = "required"


class WebUi(Section, frozen=True):
    """The web console, and the administrator who logs in with a password."""

    enabled: Annotated[bool, doc("Serve the console under `/ui`.", True)] = False
    local_only: Annotated[bool, doc("Serve it on the gateway's local sockets alone, which `ssh -L` reaches, and not where clients connect.")] = False
    idle_timeout: Annotated[Duration, doc("Who does nothing for so long has to sign in again.", "30m")] = Duration(1800)
    session_timeout: Annotated[Duration, doc("Everybody has to sign in again after so long.", "8h")] = Duration(28800)
    admin_id: Annotated[str, doc("Name of the local administrator.")] = "admin"
    admin_password: Annotated[Secret | None, doc("That one's password; without one nobody logs in so.", "${SECURE_PASSWORD}", password=True)] = None


class Cors(Section, frozen=True):
    """Web pages of other origins that may ask."""

    origins: Annotated[tuple[str, ...], doc("Their origins; `*` is all, and then without credentials.", ["https://chat.company.com"])] = ()
    credentials: Annotated[bool, doc("They may send what the browser keeps.")] = False


class Autoscale(Section, frozen=True):
    """How many instances run on this host, by their load: a timer looks each minute. Every threshold that is given counts."""

    enabled: Annotated[bool, doc("Let the timer change the number of instances.")] = False
    min: Annotated[Positive, doc("Never fewer.", 2)] = 1
    max: Annotated[Annotated[int, Meta(ge=1, le=64)], doc("Never more; one worker for each core is what a host has room for.", 4)] = 4
    cpu_percent: Annotated[Percent | None, doc("Processor time of the workers, of what they can have.", 70)] = 70
    memory_percent: Annotated[Percent | None, doc("Memory of the host that the workers use: above it no instance is added.", 80)] = 80
    requests_per_second: Annotated[Annotated[float, Meta(gt=0)] | None, doc("Requests each second of one instance.", 300)] = None
    streams: Annotated[Positive | None, doc("Streams at the same time of one instance.", 200)] = None
    down_share: Annotated[Annotated[float, Meta(gt=0, lt=1)], doc("One instance goes when those that stay would be below this part of every threshold.")] = 0.6
    up_after: Annotated[Duration, doc("How long it has to be above a threshold before an instance is added.", "2m")] = Duration(120)
    down_after: Annotated[Duration, doc("How long it has to be below before one goes.", "15m")] = Duration(900)
    cooldown: Annotated[Duration, doc("How long nothing is changed after a change.", "5m")] = Duration(300)


class Server(Section, frozen=True):
    """Where the gateway listens, and with how many processes."""

    listen: Annotated[Address, doc("HOST:PORT; `:443` is every interface.", "127.0.0.1:2906")] = Address("127.0.0.1", 2906)
    admin_api_key: Annotated[Secret | None, doc("Bearer key of the admin API; without one it answers on the local socket only.", "${ADMIN_KEY}")] = None
    tls: Annotated[Tls | None, doc("Certificate and key; plain HTTP without.")] = None
    webui: Annotated[WebUi, doc("The web console.")] = WebUi()
    cors: Annotated[Cors, doc("Web pages of other origins.")] = Cors()
    trusted_proxies: Annotated[
        tuple[str, ...], doc("Proxies whose X-Forwarded-For names the client's address; an address or a network each.", ["10.0.0.0/8"])
    ] = ()
    admin_requests_per_minute: Annotated[Positive, doc("Requests to the admin API from one address in any 60 seconds.", 100)] = 100
    workers: Annotated[Positive, doc("Worker processes; one for each core.", 2)] = 2
    drain_seconds: Annotated[Duration, doc("How long running requests may go on when the gateway stops.", "30s")] = Duration(30)
    max_body_mb: Annotated[Positive, doc("Largest request body in MiB.", 50)] = 50
    autoscale: Annotated[Autoscale, doc("How many instances run, by their load.")] = Autoscale()


class Pricing(Section, frozen=True):
    """US dollars per million tokens."""

    input_token_cost: Annotated[Price, doc("Input tokens.", 2.5)]
    output_token_cost: Annotated[Price, doc("Output tokens.", 10.0)]
    cached_input_token_cost: Annotated[Price | None, doc("Input tokens that the vendor had cached; as input if not given.", 1.25)] = None
    cache_write_token_cost: Annotated[Price | None, doc("Input tokens that the vendor wrote to its cache; as input if not given.", 3.125)] = None
    reasoning_token_cost: Annotated[Price | None, doc("Reasoning tokens; as output if not given.", 10.0)] = None


class KeyLimits(Section, frozen=True):
    """Limits of each vendor key."""

    req_per_min: Annotated[Positive | None, doc("Requests in any 60 seconds.", 500)] = None
    tokens_per_min: Annotated[Positive | None, doc("Tokens, input and output, in any 60 seconds.", 200000)] = None
    concurrent: Annotated[Positive | None, doc("Requests at the same time.", 50)] = None
    session_limit: Annotated[Positive | None, doc("Tokens in any time of the length `session_type`.", 5000000)] = None
    session_type: Annotated[Duration, doc("How long a session of the vendor's is.", "5h")] = Duration(18000)
    max_tokens: Annotated[Positive | None, doc("Most output tokens of one request.", 4096)] = None


class Provider(Section, frozen=True):
    """A vendor account: its dialect, keys, models and price."""

    id: Annotated[Identifier, doc("Name in `provider:model`, logs and metrics.", "openai")]
    type: Annotated[str, doc("The vendor's dialect; `custom` is any OpenAI-like server.", "openai")]
    name: Annotated[str | None, doc("Name for people.", "OpenAI, production")] = None
    api_keys: Annotated[tuple[Secret, ...], doc("The vendor's keys; traffic is spread over them.", ["${OPENAI_API_KEY}"])] = ()
    base_url: Annotated[str | None, doc("Address of the vendor's API; `simulator://` is the built-in simulated vendor.", "https://api.openai.com/v1")] = None
    model: Annotated[str | None, doc("Model used when this provider stands in for another.", "gpt-4o-mini")] = None
    models: Annotated[tuple[str, ...], doc("Models served, `*` allowed; if none is given, the vendor's own families.", ["gpt-4o", "gpt-4o-mini"])] = ()
    pricing: Annotated[Pricing | None, doc("Price of this provider's models; their list price where the gateway knows it, if not given.")] = None
    limits: Annotated[KeyLimits, doc("Limits of each key.")] = KeyLimits()
    weight: Annotated[Weight, doc("Share of the traffic, relative to the other providers.", 1.0)] = 1.0
    max_key_age_days: Annotated[Positive | None, doc("After so many days `doctor` asks for another key; of keys in the secret store.", 90)] = None

    def listed_models(self) -> tuple[str, ...]:
        """The models that are named, without patterns; the default model is one of them."""
        named = dict.fromkeys((*self.models, *((self.model,) if self.model else ())))
        return tuple(name for name in named if not any(character in name for character in "*?["))


class Limits(Section, frozen=True):
    """Limits of a client, a team or a model, over all workers and hosts that share a store."""

    req_per_min: Annotated[Positive | None, doc("Requests in any 60 seconds.", 100)] = None
    tokens_per_min: Annotated[Positive | None, doc("Tokens, input and output, in any 60 seconds.", 50000)] = None
    concurrent: Annotated[Positive | None, doc("Requests at the same time.", 10)] = None
    budget_usd: Annotated[
        Annotated[float, Meta(ge=0, le=9_000_000)] | None,
        doc("US dollars in each period, never more. Models without a price are refused, and an answer is 4096 tokens long unless the request says.", 50),
    ] = None
    budget_period: Annotated[Literal["day", "week", "month", "total"], doc("When the budget begins anew; a week on Monday, `total` never.", "month")] = "month"
    budget_timezone: Annotated[str, doc("Whose midnight a period begins at.", "Europe/Prague")] = "UTC"


class Client(Section, frozen=True):
    """An application that may use the gateway."""

    id: Annotated[Identifier | None, doc("Name in logs and metrics; made from the key's hash if not given.", "app-1")] = None
    allowed_providers: Annotated[tuple[str, ...], doc("Providers it may use, by id or type; `*` is all.", ["openai", "gemini"])] = ("*",)
    allowed_models: Annotated[tuple[str, ...], doc("Models it may use, `*` allowed.", ["gpt-4o*"])] = ("*",)
    description: Annotated[str | None, doc("For people.", "chat on the web site")] = None
    expires_at: Annotated[datetime | None, doc("From then on the key is refused.", "2027-01-31T00:00:00Z")] = None
    limits: Annotated[Limits, doc("Limits of this client.")] = Limits()
    team: Annotated[str | None, doc("The team whose limits hold too.", "search")] = None
    allowed_addresses: Annotated[
        tuple[str, ...], doc("Where it may ask from, an address or a network each; everywhere if none is given.", ["10.1.0.0/16"])
    ] = ()

    @property
    def client_id(self) -> str:
        """Its name."""
        return self.id or ""


class ConfiguredClient(Client, frozen=True, kw_only=True):
    """A client of the configuration, with its key."""

    key: Annotated[Secret, doc("The key it sends.", "${CLIENT_KEY_1}")]

    @property
    def client_id(self) -> str:
        """`id`, or a name made from the key's hash, which stays the same when the list is reordered."""
        return self.id or f"client-{self.key.fingerprint()}"


class Team(Section, frozen=True):
    """Clients that share limits, each beside its own."""

    id: Annotated[Identifier, doc("Name in `api_keys[].team`.", "search")]
    limits: Annotated[Limits, doc("Limits of all its clients together.")] = Limits()


class ModelLimits(Section, frozen=True):
    """Limits of models, whoever asks."""

    model: Annotated[str, doc("`provider:model` or a model's name, `*` allowed; all that it names count together.", "openai:gpt-4o*")]
    limits: Annotated[Limits, doc("Their limits.")] = Limits()


class HybridWeights(Section, frozen=True):
    """How much each component counts in the hybrid score."""

    token_ratio: Annotated[Weight, doc("Room left in tokens per minute.")] = 0.2
    req_ratio: Annotated[Weight, doc("Room left in requests per minute.")] = 0.2
    error_score: Annotated[Weight, doc("Few errors.")] = 0.2
    latency: Annotated[Weight, doc("Short latency.")] = 0.2
    cost_ratio: Annotated[Weight, doc("Low price.")] = 0.2


class Retry(Section, frozen=True):
    """Attempts at one provider."""

    max_attempts: Annotated[Positive, doc("Attempts at one provider, over all its keys.", 3)] = 3
    timeout: Annotated[Duration, doc("No further attempt begins, and no `Retry-After` is waited for, beyond this time.", "30s")] = Duration(30)
    interval: Annotated[Duration, doc("Wait before a key that just failed is tried again; `Retry-After` beats it.", "1s")] = Duration(1)


class Fallback(Section, frozen=True):
    """Other providers when one fails before the first byte of content."""

    enabled: Annotated[bool, doc("Try other providers.")] = True
    max_providers: Annotated[Annotated[int, Meta(ge=0)], doc("How many others, at most.", 2)] = 2
    providers: Annotated[tuple[str, ...], doc("Stand-ins with their default `model`, in this order, after those that serve the model itself.", ["claude"])] = ()


class Timeouts(Section, frozen=True):
    """Time limits of one attempt at a vendor."""

    connect: Annotated[Duration, doc("Until the connection stands.")] = Duration(5)
    first_byte: Annotated[Duration, doc("From the request to the first byte of the answer.")] = Duration(120)
    idle: Annotated[Duration, doc("Between two pieces of the answer.")] = Duration(60)
    total: Annotated[Duration, doc("The whole attempt.")] = Duration(600)


class Cache(Section, frozen=True):
    """Answers kept for identical requests: those whose `temperature` is 0, embeddings and rankings."""

    enabled: Annotated[bool, doc("Keep answers.")] = False
    ttl_seconds: Annotated[Positive, doc("How long an answer is kept.")] = 300
    max_size_mb: Annotated[Positive, doc("How much is kept at most, over all workers that share a store; what was not asked for longest goes first.", 256)] = 64
    any_temperature: Annotated[bool, doc("Keep answers of requests with another temperature, or with none, too.")] = False
    shared: Annotated[bool, doc("One client may be given what another has asked for.")] = False


class Hedge(Section, frozen=True):
    """A second request to another key when the first is slow to answer; what comes first is used."""

    enabled: Annotated[bool, doc("Send second requests, to models with a price.")] = False
    after: Annotated[Duration, doc("How long the first content, or the answer that is not streamed, is waited for.", "2s")] = Duration(2)
    budget_usd: Annotated[Annotated[float, Meta(ge=0, le=9_000_000)], doc("US dollars for second requests in each period, never more.", 5)] = 1.0
    budget_period: Annotated[Literal["day", "week", "month", "total"], doc("When that begins anew.", "day")] = "day"


class Sticky(Section, frozen=True):
    """Which requests go to the same key while it is usable, so that the vendor's prompt cache stays warm."""

    by: Annotated[
        Literal["none", "session", "prefix"],
        doc("`session`: those of a session, told by `header`, `prompt_cache_key` or the user; `prefix`: those that begin with the same prompt.", "session"),
    ] = "none"
    header: Annotated[str, doc("The header that names a session.")] = "x-session-id"


class Policy(Section, frozen=True):
    """Which vendor key serves a request, and what happens when it fails."""

    algorithm: Annotated[Literal["round_robin", "weighted", "least_loaded", "latency", "cost", "hybrid"], doc("How keys are ranked.", "hybrid")] = "hybrid"
    priority: Annotated[Literal["balanced", "cost", "req", "token", "latency"], doc("What the hybrid algorithm favours, unless `hybrid_weights` is given.")] = (
        "balanced"
    )
    hybrid_weights: Annotated[HybridWeights | None, doc("Weights of the hybrid algorithm; they need not add up to 1.")] = None
    retry: Annotated[Retry, doc("Attempts at one provider.")] = Retry()
    fallback: Annotated[Fallback, doc("Other providers.")] = Fallback()
    timeouts: Annotated[Timeouts, doc("Time limits of one attempt.")] = Timeouts()
    drop_unsupported: Annotated[bool, doc("Drop a parameter that a vendor cannot be told, instead of refusing the request with 400.")] = False
    cache: Annotated[Cache, doc("Answers kept for identical requests.")] = Cache()
    hedge: Annotated[Hedge, doc("A second request when the first is slow.")] = Hedge()
    sticky: Annotated[Sticky, doc("Requests that go to the same key.")] = Sticky()


class RuntimeStorage(Section, frozen=True):
    """Where the counters of limits and the state of keys are kept."""

    type: Annotated[
        Literal["memory", "sqlite", "redis"],
        doc("`sqlite` is shared by all workers of a host, `redis` by all hosts, `memory` by nobody: each worker counts alone.", "sqlite"),
    ] = "sqlite"
    addr: Annotated[str | None, doc("HOST:PORT or unix:/PATH of Redis; of a cluster or of sentinels several, with commas between.", "redis:6379")] = None
    mode: Annotated[Literal["single", "sentinel", "cluster"], doc("One Redis, one that sentinels name, or Redis Cluster.")] = "single"
    master_name: Annotated[str, doc("With `sentinel`: the name of the master.")] = "mymaster"
    username: Annotated[str | None, doc("Redis user (ACL); the default user if not given.", "coollm")] = None
    password: Annotated[Secret | None, doc("Redis password.", "${REDIS_PASSWORD}", password=True)] = None
    tls: Annotated[bool, doc("Speak TLS to Redis, whose certificate is verified.")] = False
    ca_file: Annotated[str | None, doc("With `tls`: who signs its certificate, PEM; the system's authorities if not given.", "/etc/coollm/redis-ca.pem")] = None
    failover_wait: Annotated[
        Duration,
        doc("With `sentinel` and `cluster`: how long a request waits for a new master, or for a slot that moves, before `on_failure` decides.", "5s"),
    ] = Duration(5)
    on_failure: Annotated[
        Literal["deny", "local", "allow"],
        doc("While the store fails or is slow: admit nothing, let each worker keep its share of the limits (and no budget), or admit everything."),
    ] = "deny"
    local_share: Annotated[Annotated[float, Meta(gt=0, le=1)], doc("With `local`: the part of each limit that this gateway may use by itself.", 0.5)] = 1.0


class LedgerStorage(Section, frozen=True):
    """Where it is kept what requests used and cost."""

    url: Annotated[
        Secret | None,
        doc("SQLAlchemy URL: sqlite:///PATH, postgresql+psycopg://…, mysql+pymysql://…; a file in the state directory if not given.", "${LEDGER_URL}"),
    ] = None


class Storage(Section, frozen=True):
    """Where state is kept."""

    runtime: Annotated[RuntimeStorage, doc("Counters and key state.")] = RuntimeStorage()
    ledger: Annotated[LedgerStorage, doc("What requests used and cost.")] = LedgerStorage()


class Prometheus(Section, frozen=True):
    """Metrics."""

    enabled: Annotated[bool, doc("Serve /metrics.")] = True
    allowed_addresses: Annotated[tuple[str, ...], doc("Who may read /metrics, an address or a network each; everybody if none is given.", ["10.2.0.0/24"])] = ()


class Audit(Section, frozen=True):
    """The audit log."""

    enabled: Annotated[bool, doc("Write what the gateway itself does and refuses; the command's own changes are always written.")] = True
    path: Annotated[str | None, doc("Its file.", "/var/log/coo-llm/audit.log")] = None
    format: Annotated[Literal["json"], doc("Its format.")] = "json"


class OpenTelemetry(Section, frozen=True):
    """Traces by OpenTelemetry: a span for each request and each call of a vendor, without prompts. Needs `pip install 'coollm[otel]'`."""

    enabled: Annotated[bool, doc("Send traces.")] = False
    endpoint: Annotated[str, doc("Where to, by OTLP over HTTP.", "http://127.0.0.1:4318/v1/traces")] = "http://127.0.0.1:4318/v1/traces"
    authorization: Annotated[Secret | None, doc("The Authorization header that is sent along.", "${secret:otlp}", password=True)] = None
    service_name: Annotated[str, doc("The name of this service in traces.")] = "coollm"
    sample_share: Annotated[
        Annotated[float, Meta(ge=0, le=1)], doc("The part of requests that is told of, where the client's own trace does not say.", 0.1)
    ] = 1.0


class Logging(Section, frozen=True):
    """Logs: one JSON line for each request, never a prompt, never a key."""

    level: Annotated[Literal["debug", "info", "warning", "error"], doc("Least level that is written.", "info")] = "info"
    file: Annotated[str | None, doc("app.log; `-` is standard error; by default under the log directory.", "/var/log/coo-llm/app.log")] = None
    prometheus: Annotated[Prometheus, doc("Metrics.")] = Prometheus()
    audit: Annotated[Audit, doc("The audit log.")] = Audit()
    otel: Annotated[OpenTelemetry, doc("Traces.")] = OpenTelemetry()


class Roles(Section, frozen=True):
    """Which groups of the directory may do what: each role may do what those before it may."""

    viewer: Annotated[tuple[str, ...], doc("Groups that may look at everything but secrets.", ["cn=staff,ou=groups,dc=company,dc=com"])] = ()
    operator: Annotated[tuple[str, ...], doc("Groups that may test keys and set limits and budgets, too.", ["cn=oncall,ou=groups,dc=company,dc=com"])] = ()
    admin: Annotated[tuple[str, ...], doc("Groups that may do everything.", ["cn=gateway-admins,ou=groups,dc=company,dc=com"])] = ()


class Auth(Section, frozen=True):
    """Who may administer: a directory server."""

    type: Annotated[Literal["ldap"], doc("Kind of directory.")]
    server: Annotated[tuple[str, ...], doc("HOST, HOST:PORT or ldaps://HOST; several are asked in turn.", "ldap.company.com", one_or_many=True)]
    base_dn: Annotated[str, doc("Where the search starts.", "dc=company,dc=com")]
    user_search_filter: Annotated[str, doc("`%s` is the user's name, escaped.", "(sAMAccountName=%s)")] = "(uid=%s)"
    bind_dn: Annotated[str | None, doc("Who searches; nobody in particular if not given.", "cn=coollm,ou=services,dc=company,dc=com")] = None
    bind_password: Annotated[Secret | None, doc("The password of `bind_dn`.", "${LDAP_PASSWORD}", password=True)] = None
    user_dn: Annotated[
        str | None, doc("Where users are, so that none is searched: `%s` is the user's name, escaped.", "uid=%s,ou=people,dc=company,dc=com")
    ] = None
    tls: Annotated[Literal["starttls", "ldaps", "none"], doc("How the connection is encrypted; `none` sends passwords in clear.")] = "starttls"
    verify: Annotated[bool, doc("The server's certificate must be good.")] = True
    ca_file: Annotated[str | None, doc("Who signs its certificate, PEM; the system's authorities if not given.", "/etc/coollm/ldap-ca.pem")] = None
    group_search_filter: Annotated[str, doc("`%s` is the DN of a user, or of a group, escaped.")] = "(|(member=%s)(uniqueMember=%s))"
    nested_groups: Annotated[bool, doc("Groups may be in groups.")] = True
    timeout: Annotated[Duration, doc("How long a server is waited for.", "5s")] = Duration(5)
    roles: Annotated[Roles, doc("Which groups may do what.")] = Roles()


class Compliance(Section, frozen=True):
    """What laws and auditors ask."""

    gdpr: Annotated[bool, doc("The report of `coollm compliance report` asks for what the GDPR does: a retention, and an audit log.")] = False
    soc2: Annotated[bool, doc("The gateway is ready only while its audit log can be written; the report asks for what SOC 2 does.")] = False
    data_retention_days: Annotated[
        Positive | None, doc("How long single requests are kept in the ledger, and rotated logs beside it; the sums of requests stay.", 365)
    ] = None


class Settings(Section, frozen=True):
    """The whole configuration of a gateway."""

    version: Annotated[Literal["1.0"], doc("Version of this file's format.", "1.0")] = "1.0"
    server: Annotated[Server, doc("Where the gateway listens.")] = Server()
    llm_providers: Annotated[tuple[Provider, ...], doc("Vendor accounts; without any, those whose keys are in the environment (OPENAI_API_KEY, …).")] = ()
    api_keys: Annotated[tuple[ConfiguredClient, ...], doc("Applications that may use the gateway.")] = ()
    teams: Annotated[tuple[Team, ...], doc("Clients that share limits.")] = ()
    model_limits: Annotated[tuple[ModelLimits, ...], doc("Limits of models, whoever asks.")] = ()
    model_aliases: Annotated[
        dict[str, Annotated[tuple[str, ...], doc("One or more `provider:model`.", one_or_many=True)]],
        doc("Names of your own for models; of several targets any may serve.", {"fast": "openai:gpt-4o-mini"}),
    ] = {}
    policy: Annotated[Policy, doc("Routing and failure.")] = Policy()
    storage: Annotated[Storage, doc("Where state is kept.")] = Storage()
    logging: Annotated[Logging, doc("Logs.")] = Logging()
    auth: Annotated[Auth | None, doc("Directory server for administrators.")] = None
    compliance: Annotated[Compliance, doc("What laws and auditors ask.")] = Compliance()
    backup: Annotated[Backup, doc("Encrypted backups.")] = Backup()
    fleet: Annotated[Fleet, doc("Hosts that are operated together.")] = Fleet()

    def secrets(self) -> tuple[Secret, ...]:
        """Every secret of this configuration, for the redactor."""
        bind = self.auth.bind_password if self.auth else None
        s3 = (self.backup.s3.access_key_id, self.backup.s3.secret_access_key, self.logging.otel.authorization)
        optional = (self.server.admin_api_key, self.server.webui.admin_password, self.storage.runtime.password, self.storage.ledger.url, bind, *s3)
        keys = [key for provider in self.llm_providers for key in provider.api_keys]
        return (*(secret for secret in optional if secret), *keys, *(client.key for client in self.api_keys))
