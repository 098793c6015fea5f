//! Every bound in the house, with its reason, related to its neighbours by assertions that run at compile time.
//!
//! What an operator may change is only the *default* here; the rest are ceilings.

use std::time::Duration;

/// Bytes of a buffer from the core's pool: one `recv`. Holds nearly every chat request whole, and a full TLS record.
pub const READ_BYTES: usize = 16 << 10;
/// Pieces that add up to no more than this are joined for their write: copying so little costs less than a list of
/// pieces costs the kernel.
pub const JOINED_WRITE_BYTES_MAX: usize = 2 << 10;
/// Sends of events that a core queues before it tells the kernel of them, though its turn is not over. More would make the
/// first of a burst wait for the last. Fewer cost system calls and wake readers one by one: at four, 300 streams took 4 % more
/// CPU an event, for a twentieth less delay.
pub const QUEUED_SENDS_MAX: u64 = 8;
/// Buffers a core keeps for reuse; beyond that they go back to the allocator.
pub const POOLED_BUFFERS_MAX: usize = 512;
/// Slots for exchanges' futures that a core keeps for reuse. One exchange is at work at a time, but hundreds may wait.
pub const POOLED_SLOTS_MAX: usize = 256;

/// Most bytes of a request or response head (431, or an upstream failure). nginx: 4 × 8 KiB, Envoy: 60 KiB.
pub const HEAD_BYTES_MAX: usize = 32 << 10;
/// Most header fields of a head. Envoy and HAProxy: about 100.
pub const HEAD_FIELDS_MAX: usize = 100;
const _: () = assert!(READ_BYTES <= HEAD_BYTES_MAX);

/// Default for the most bytes of a request body (413): room for images in base64.
pub const BODY_BYTES_MAX: usize = 32 << 20;
/// What an operator may raise it to; spans are 32 bits wide.
pub const BODY_BYTES_CEILING: usize = 1 << 30;
const _: () = assert!(BODY_BYTES_MAX <= BODY_BYTES_CEILING && BODY_BYTES_CEILING < u32::MAX as usize);
/// Default for the request bytes a core buffers at once, over all its exchanges.
pub const BUFFERED_BYTES_MAX: usize = 512 << 20;
const _: () = assert!(BODY_BYTES_MAX * 2 <= BUFFERED_BYTES_MAX);
/// How long an exchange waits for room in that budget before it is refused (503).
pub const BUFFER_WAIT: Duration = Duration::from_secs(5);
/// Capacity given to a body before its bytes arrive: a Content-Length alone buys no more than this.
pub const BODY_RESERVE_BYTES: usize = 256 << 10;

/// Most bytes that one read takes from a socket: reading and judging them is what other work of the core waits for, a
/// millisecond at most.
pub const BODY_READ_BYTES: usize = 256 << 10;
const _: () = assert!(READ_BYTES <= BODY_READ_BYTES && BODY_READ_BYTES <= BODY_RESERVE_BYTES);

/// Most hexadecimal digits of a chunk size: 64 bits.
pub const CHUNK_SIZE_DIGITS_MAX: usize = 16;
/// Most bytes of extensions on one chunk line; they are read and dropped.
pub const CHUNK_EXTENSION_BYTES_MAX: usize = 256;
/// Most bytes of trailers; they are read and dropped.
pub const TRAILER_BYTES_MAX: usize = 4 << 10;

/// Most bytes an SSE event may span before we stop looking inside it (it is still forwarded).
pub const SSE_EVENT_BYTES_MAX: usize = 64 << 10;
const _: () = assert!(READ_BYTES <= SSE_EVENT_BYTES_MAX);
/// Events of a stream that are searched for its first token; what is silent for longer has no time to it.
pub const FIRST_TOKEN_LOOKS_MAX: usize = 32;
const _: () = assert!(FIRST_TOKEN_LOOKS_MAX < u8::MAX as usize);
/// Most bytes of a JSON answer that are held until it is complete, so that a cut is an error and not a torn body.
pub const HELD_ANSWER_BYTES_MAX: usize = 1 << 20;
/// Bytes of the end of a longer answer in which usage is looked for.
pub const USAGE_TAIL_BYTES: usize = 4 << 10;

/// Deepest nesting of a JSON body. serde_json: 128.
pub const JSON_DEPTH_MAX: usize = 128;
/// Longest model name, `{provider}/{model}`.
pub const MODEL_BYTES_MAX: usize = 256;
/// Longest multipart boundary (RFC 2046 §5.1.1).
pub const BOUNDARY_BYTES_MAX: usize = 70;
/// Most bytes of one multipart part's header.
pub const PART_HEAD_BYTES_MAX: usize = 4 << 10;

/// A whole request head must arrive within this (slowloris).
pub const HEAD_TIME: Duration = Duration::from_secs(10);
/// A TLS handshake must end within this.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// An idle keep-alive connection is closed after this. nginx: 75 s.
pub const IDLE_TIME: Duration = Duration::from_secs(75);
/// A body may start slowly, then must keep the floor on average.
pub const BODY_GRACE: Duration = Duration::from_secs(5);
/// Slowest body, bytes per second averaged since its head.
pub const BODY_RATE_FLOOR: u64 = 1 << 10;
/// A client must take the first byte of a write within this, and then keep the floor.
pub const WRITE_GRACE: Duration = Duration::from_secs(30);
/// Slowest reader, bytes per second averaged over one write.
pub const WRITE_RATE_FLOOR: u64 = 1 << 10;

/// TCP connect to one upstream address.
pub const CONNECT_TIME: Duration = Duration::from_secs(2);
/// From the request sent to the first byte of the answer's head.
pub const FIRST_BYTE_TIME: Duration = Duration::from_secs(300);
/// Between two reads of an answer's body.
pub const BETWEEN_BYTES_TIME: Duration = Duration::from_secs(120);
/// One exchange as a whole.
pub const EXCHANGE_TIME: Duration = Duration::from_secs(3600);
/// Interim (1xx) answers an upstream may send before the final one.
pub const INTERIM_ANSWERS_MAX: usize = 8;

/// After a refusal or a lost stream: how long, and how much, is read and discarded so that the client sees our answer
/// and not a reset.
pub const LINGER_TIME: Duration = Duration::from_secs(2);
pub const LINGER_BYTES_MAX: usize = 1 << 20;

/// Default for the connections one core accepts at once.
pub const CONNECTIONS_MAX: usize = 16_384;
/// Idle upstream connections one core keeps per target, and over all of them.
pub const POOL_IDLE_PER_TARGET_MAX: usize = 128;
pub const POOL_IDLE_MAX: usize = 1_024;
const _: () = assert!(POOL_IDLE_PER_TARGET_MAX <= POOL_IDLE_MAX);
/// An idle upstream connection is closed after this: below the 60 s and more that providers keep theirs.
pub const POOL_IDLE_TIME: Duration = Duration::from_secs(30);
const _: () = assert!(POOL_IDLE_TIME.as_secs() < IDLE_TIME.as_secs());

/// The deadline wheel's resolution, which is also a core's heartbeat and the longest a published change waits for a
/// core that is asleep.
pub const TICK: Duration = Duration::from_millis(50);
/// A sheet goes to the stats thread this often, and the stats thread looks for them this often: what was counted is on disk
/// within a second, which is what a process that is killed may lose.
pub const SHEET_INTERVAL: Duration = Duration::from_millis(300);
pub const BOOK_INTERVAL: Duration = Duration::from_millis(100);
const _: () = assert!(SHEET_INTERVAL.as_millis() + TICK.as_millis() + BOOK_INTERVAL.as_millis() <= 500);

/// From SIGTERM until streams that still run are ended with an error event.
pub const DRAIN_TIME: Duration = Duration::from_secs(30);

/// Addresses of one name that are tried.
pub const ADDRESSES_MAX: usize = 16;
/// How often names are resolved again, and how long a failure is remembered before the next try.
pub const RESOLVE_INTERVAL: Duration = Duration::from_secs(30);
pub const RESOLVE_RETRY: Duration = Duration::from_secs(3);

/// Most header fields an operator may allow: the parser keeps this many places on the stack (4 KiB, not written to).
pub const HEAD_FIELDS_CEILING: usize = 128;
const _: () = assert!(HEAD_FIELDS_MAX <= HEAD_FIELDS_CEILING);
/// Longest host name in a `Host` field or an absolute target (RFC 1035 §2.3.4).
pub const HOST_BYTES_MAX: usize = 255;

// What a refusal says (`wire/openai/refusal`).

/// Most bytes of an error's `message`, before JSON escapes: room for a path or a provider's sentence, none for a page of HTML.
pub const REFUSAL_MESSAGE_BYTES_MAX: usize = 512;
const _: () = assert!(MODEL_BYTES_MAX * 2 <= REFUSAL_MESSAGE_BYTES_MAX);
/// Longest `retry-after` that comes with `x-should-retry: true`: OpenAI's Node SDK ignores a longer one and retries at once.
pub const RETRY_AFTER_MS_MAX: u64 = 60_000;

/// Most top-level keys of a JSON body, and most bytes of one: all are compared in one go when the body is whole (half a
/// millisecond), and a body of 32 MiB could hold five million. A chat request has about forty.
pub const JSON_KEYS_MAX: usize = 4 << 10;
pub const JSON_KEY_BYTES_MAX: usize = 1 << 10;
/// Objects after a `"usage"` that are tried in the tail of one long answer: an upstream could send nothing but openings.
pub const USAGE_TRIES_MAX: usize = 8;

/// Most bytes of a body's `stream_options`, which are read in one go: OpenAI knows two flags in it.
pub const STREAM_OPTIONS_BYTES_MAX: usize = 16 << 10;

// The configuration file. These bound what an operator can do by mistake, not what a caller can do.

/// Most bytes of the configuration file and of each file it names: a certificate bundle of all public roots is 250 KiB.
pub const CONFIG_FILE_BYTES_MAX: usize = 4 << 20;
/// Most providers; a `ProviderId` is 16 bits wide.
pub const PROVIDERS_MAX: usize = 1_024;
const _: () = assert!(PROVIDERS_MAX <= u16::MAX as usize);
/// Most keys of one provider.
pub const PROVIDER_KEYS_MAX: usize = 64;
/// Longest name of a provider or of one of its keys: it stands in metrics, logs and `{provider}/{model}`.
pub const NAME_BYTES_MAX: usize = 64;
const _: () = assert!(NAME_BYTES_MAX < MODEL_BYTES_MAX);
/// Longest provider key. Tokens of cloud identities reach 2 KiB; a head has to hold it with room to spare.
pub const PROVIDER_KEY_BYTES_MAX: usize = 4 << 10;
const _: () = assert!(PROVIDER_KEY_BYTES_MAX * 2 <= HEAD_BYTES_MAX);
/// Highest number of a core that can be named, and most shards: Linux's own `CONFIG_NR_CPUS` is at most 8192.
pub const CORES_MAX: usize = 8_192;
/// Longest duration that can be configured: a day.
pub const CONFIG_TIME_MAX: Duration = Duration::from_secs(86_400);
const _: () = assert!(EXCHANGE_TIME.as_secs() <= CONFIG_TIME_MAX.as_secs());
/// Smallest head an operator may allow: below it no SDK's request fits.
pub const HEAD_BYTES_FLOOR: usize = 1 << 10;
const _: () = assert!(HEAD_BYTES_FLOOR <= HEAD_BYTES_MAX);

/// Most plaintext of one TLS record (RFC 8446 §5.1).
pub const TLS_RECORD_BYTES: usize = 16 << 10;
/// Plaintext that is encrypted before the socket is written: a long write costs no more ciphertext than this.
pub const TLS_BATCH_BYTES: usize = 4 * TLS_RECORD_BYTES;
/// Ciphertext that rustls takes at a time. A handshake reads no more at once, and a read with less room than this lets
/// rustls take it from the socket by itself.
pub const TLS_HELPING_BYTES: usize = 4 << 10;
const _: () = assert!(TLS_HELPING_BYTES <= READ_BYTES);
/// Most ciphertext that a peer may send without a byte of application data in it: tickets and key updates are small,
/// and whole records are at most 16 KiB and some framing.
pub const TLS_CHATTER_BYTES_MAX: usize = 128 << 10;
const _: () = assert!(TLS_CHATTER_BYTES_MAX > 2 * TLS_RECORD_BYTES);
/// Sessions kept for resumption, per configuration of either side. rustls' default.
pub const TLS_SESSIONS_MAX: usize = 256;

/// Names of providers a process may be configured with over its life, reloads included: their numbers are never given
/// again.
pub const PROVIDER_NAMES_MAX: usize = 4_096;
const _: () = assert!(PROVIDER_NAMES_MAX <= u16::MAX as usize);
/// Rows of one table of counts (48 KiB of the widest). Only an upstream that invents statuses comes near; what would
/// be a row beyond is counted under `other`.
pub const SERIES_MAX: usize = 2_048;
/// Most microseconds, and most tokens, that are told apart in a histogram; more is counted as this much.
pub const HISTOGRAM_MAX: u64 = u32::MAX as u64;
const _: () = assert!(HISTOGRAM_MAX as u128 >= EXCHANGE_TIME.as_micros());
/// A core that has not ticked for this long is not ready. The longest pause of a healthy one is far below: parsing a
/// body at its ceiling.
pub const HEARTBEAT_AGE_MAX: Duration = Duration::from_secs(2);
const _: () = assert!(HEARTBEAT_AGE_MAX.as_millis() > 10 * TICK.as_millis());

/// How long addresses whose refresh fails are still used.
pub const RESOLVE_STALE_TIME: Duration = Duration::from_secs(3600);
const _: () = assert!(RESOLVE_RETRY.as_secs() < RESOLVE_INTERVAL.as_secs());
const _: () = assert!(RESOLVE_INTERVAL.as_secs() < RESOLVE_STALE_TIME.as_secs());

/// Providers' model lists: how often they are fetched, how long one may take, the most bytes and models of one, and
/// how many are fetched at once.
pub const MODELS_INTERVAL: Duration = Duration::from_secs(300);
pub const MODELS_FETCH_TIME: Duration = Duration::from_secs(15);
pub const MODELS_BYTES_MAX: usize = 4 << 20;
pub const MODELS_PER_PROVIDER_MAX: usize = 10_000;
pub const MODELS_FETCHES_MAX: usize = 8;

/// Longest value of the routing metadata header, and most keys in it: it describes a request, it is not its payload.
pub const METADATA_BYTES_MAX: usize = 4 << 10;
pub const METADATA_KEYS_MAX: usize = 64;
const _: () = assert!(METADATA_BYTES_MAX < HEAD_BYTES_MAX);
/// Largest rate or budget that can be configured; the arithmetic of limits is exact below it.
pub const QUOTA_AMOUNT_MAX: u64 = 1 << 40;
/// Most `[[limit]]` tables: those of one kind are tried in order at each request.
pub const LIMIT_TABLES_MAX: usize = 64;
/// What an answer is taken to cost in tokens, per choice, before it is known, where the request sets no bound itself: most
/// chat answers are shorter, and what comes is settled.
pub const COMPLETION_TOKENS_ESTIMATE: u64 = 512;
/// Bytes of a form that are taken to be one token of prompt. JSON is looked at (`wire/estimate`).
pub const BYTES_PER_TOKEN_ESTIMATE: u64 = 4;
/// Most tokens a prompt is taken to have: images and audio in a body are bytes, but far fewer tokens.
pub const PROMPT_TOKENS_ESTIMATE_MAX: u64 = 128 << 10;

// Where a client is: X-Forwarded-For and the PROXY protocol.

/// Most hops in the `X-Forwarded-For` of a trusted proxy (403): three or four are common, and each is one look-up.
pub const FORWARDED_HOPS_MAX: usize = 32;
/// Most bytes of a PROXY protocol header, version 2. The specification wants it smaller than one segment; certificates'
/// names and load balancers' own fields stay far below this.
pub const PROXY_HEADER_BYTES_MAX: usize = 4 << 10;
/// Most bytes of a version 1 header with its CR LF, by its specification.
pub const PROXY_LINE_BYTES_MAX: usize = 107;
const _: () = assert!(PROXY_LINE_BYTES_MAX <= PROXY_HEADER_BYTES_MAX);

// The quota board (`bridge/quota`). A line takes 128 bytes of address space, and of memory only when its page is used.

/// Names a process may give a line over its life, reloads included (32 MiB): 100,000 callers change twice in full, and
/// leave room for models and providers. More is a complaint about the configuration.
pub const QUOTA_LINES_MAX: usize = 1 << 18;
/// Sets of six lines for keys that no configuration names (16 MiB, 98,304 keys). With 16,000 keys limited at once one set
/// in ten thousand overflows, with 32,000 one in two hundred. A power of two.
pub const QUOTA_SETS: usize = 1 << 14;
const _: () = assert!(QUOTA_SETS.is_power_of_two() && QUOTA_LINES_MAX + 8 * QUOTA_SETS <= u32::MAX as usize);
/// Most that a budget can count: 281 million million tokens, or 281,474 dollars. A budget above it is held to it.
pub const BUDGET_MAX: u64 = (1 << 48) - 1;

// The hand-off of connections between cores.

/// How many more connections than the least loaded core another may have before it hands new ones over: this many, or
/// this share of the least loaded one's (an eighth). Chance alone puts two cores apart by about the root of their number:
/// 200 connections by 14, 10,000 by 100.
pub const HANDOFF_MARGIN_MIN: u64 = 8;
pub const HANDOFF_MARGIN_SHARE: u64 = 8;
/// Connections that may wait for one core to take them. A core takes all at its next turn; where this many wait, it is
/// busy, and whoever accepted one more keeps it.
pub const HANDOFFS_WAITING_MAX: usize = 64;
const _: () = assert!(HANDOFFS_WAITING_MAX < CONNECTIONS_MAX);

/// How often what was drawn from budgets is written down: a crash forgets no more than this.
pub const BUDGETS_INTERVAL: Duration = Duration::from_secs(1);

// Callers and the state directory that keeps them.

/// Most callers of one gateway: ten times what it is built for, at a quarter of a kilobyte each.
pub const CALLERS_MAX: usize = 1_000_000;
/// Most patterns, tags, or addresses in one list of one caller: what admission walks for a request.
pub const CALLER_LIST_MAX: usize = 256;
/// Longest tag: it stands in metrics and logs, as names do.
pub const TAG_BYTES_MAX: usize = 64;
const _: () = assert!(TAG_BYTES_MAX <= NAME_BYTES_MAX);
/// How often the running gateway looks whether callers have changed: a caller that is disabled is out within it.
pub const STATE_POLL: Duration = Duration::from_millis(200);
/// How long a writer waits for another: both are commands of an operator, or the gateway itself.
pub const STATE_BUSY_TIME: Duration = Duration::from_secs(5);
/// Most bytes of a caller's settings as they are kept: lists of the greatest length and patterns of the greatest size.
pub const CALLER_SETTINGS_BYTES_MAX: usize = 1 << 20;
const _: () = assert!(CALLER_LIST_MAX * (MODEL_BYTES_MAX + 3) * 3 < CALLER_SETTINGS_BYTES_MAX);

/// Longest body of a refused request that is read and forgotten, so that its connection can stay: most chat requests are
/// shorter, and a client that is over its limit is not made to connect anew each time.
pub const SKIPPED_BODY_BYTES_MAX: u64 = 64 << 10;

// Routes. The first bound what an operator can do by mistake.

/// Most nodes of one route's tree, conditions included.
pub const ROUTE_NODES_MAX: usize = 1_000;
/// Deepest tree, conditions included: the reader recurses over it.
pub const ROUTE_DEPTH_MAX: usize = 64;
/// Most routes, and most aliases.
pub const ROUTES_MAX: usize = 1_024;
pub const ALIASES_MAX: usize = 4_096;
/// Most aliases with a `*`, and most `[[fallback]]` tables: they are tried in order at each request.
pub const ALIAS_PATTERNS_MAX: usize = 64;
pub const FALLBACK_TABLES_MAX: usize = 64;
/// Most targets of one model service, its fallbacks included.
pub const SERVICE_TARGETS_MAX: usize = 32;
/// Most values of one `in`: they are compared one by one.
pub const CONDITION_VALUES_MAX: usize = 256;
/// Attempts at one request, over all its targets: by default, and the most that can be configured.
pub const ATTEMPTS_MAX: u8 = 3;
pub const ATTEMPTS_CEILING: u8 = 10;
const _: () = assert!(ATTEMPTS_MAX <= ATTEMPTS_CEILING);
/// Largest whole number in a condition: above it, metadata (64-bit floating point) no longer tells neighbours apart.
pub const CONDITION_NUMBER_MAX: u64 = 1 << 53;

// Health, breakers and retries (`policy/breaker`, `policy/attempts`, `bridge/health`).

/// Defaults for how long a breaker is open the first time, at most, and how long it takes to trust a target again. With a
/// fifth that chance adds, traffic is back within 15 s of a provider's return however often it was lost; and a probe each
/// 12 s is no burden to one that is gone.
pub const BREAKER_OPEN_TIME: Duration = Duration::from_secs(5);
pub const BREAKER_OPEN_TIME_MAX: Duration = Duration::from_secs(12);
const _: () = assert!(BREAKER_OPEN_TIME_MAX.as_millis() * 6 / 5 < 15_000);
pub const BREAKER_RAMP_TIME: Duration = Duration::from_secs(10);
/// A half-open probe is waited for this long; then another may try, because a black hole would keep the first for minutes.
pub const PROBE_TIME_MS: u64 = 10_000;
/// How long a key stays aside when its account has no money, and when the provider did not accept it: the second may have
/// been said of one model only.
pub const KEY_DEAD_MS: u64 = 600_000;
pub const KEY_REFUSED_MS: u64 = 60_000;
/// Longest wait of an upstream that a breaker heeds: a typing error of a provider's must not cost a day.
pub const BREAKER_RETRY_AFTER_MS_MAX: u64 = 600_000;
/// First and longest back-off before the same target is tried again, which is also the longest `retry-after` that is worth
/// waiting for with a client on the line.
pub const BACKOFF_MS: u64 = 25;
pub const BACKOFF_MS_MAX: u64 = 1_000;
const _: () = assert!(BACKOFF_MS < BACKOFF_MS_MAX && BACKOFF_MS_MAX < RETRY_AFTER_MS_MAX);
/// Retries a provider has beside its share of the requests, so that few requests have some at all.
pub const RETRY_BUDGET_LEAST: u64 = 3;
/// Targets whose health is known at once, and how many of them share a line of the board: 1 MiB in all. A target that finds
/// no room is taken for healthy.
pub const HEALTH_TARGETS_MAX: usize = 4_096;
pub const HEALTH_WAYS: usize = 8;
const _: () = assert!(HEALTH_TARGETS_MAX.is_multiple_of(HEALTH_WAYS));
/// Keys that are put aside at once; one more takes the place of the one that is back soonest.
pub const KEYS_ASIDE_MAX: usize = 512;
/// Most bytes of an upstream's error body in which its code is looked for, and longest wait it may name: a day.
pub const ERROR_BODY_BYTES_MAX: usize = 64 << 10;
pub const UPSTREAM_RETRY_AFTER_MS_MAX: u64 = 86_400_000;

/// Longest body that is kept to be sent again: longer than most, images included, and a fraction of what a core may buffer.
pub const REPLAYED_BODY_BYTES_MAX: usize = 4 << 20;
const _: () = assert!(REPLAYED_BODY_BYTES_MAX <= BODY_BYTES_MAX);
/// How long the body of a short error may take: it is read before anybody is told of it.
pub const ERROR_BODY_TIME: Duration = Duration::from_secs(5);

// Prices.

/// Most rows of a price catalogue: the largest public one has about 5,000 over all providers.
pub const PRICE_ROWS_MAX: usize = 20_000;
/// Most prices in the configuration that hold for a pattern: they are tried in order where no name fits.
pub const PRICE_PATTERNS_MAX: usize = 64;
/// Most lengths of input at which one model's price changes; none is known to have more than five.
pub const PRICE_TIERS_MAX: usize = 8;
/// Most dollars for a million tokens: far above the dearest there is.
pub const PRICE_USD_MAX: u64 = 10_000;
/// Most bytes of a text that are looked at to say how many tokens it is; of a longer one the beginning speaks for the rest.
pub const ESTIMATE_BYTES_MAX: usize = 256 << 10;
/// What a file within a request is taken to have: an image of common size has 750 to 1,100 tokens at most providers.
pub const FILE_TOKENS_ESTIMATE: u64 = 1_000;

// Estimates with a vocabulary (`exchange/words`, `bridge/estimates`, `control/estimator`).

/// Exchanges of one core that may wait for the estimator, and the bytes of their texts; more are estimated by bytes. As many
/// again may be in its hands. One thread counts 40 to 65 MB a second (`cargo bench --bench words`).
pub const ESTIMATES_WAITING_MAX: usize = 1 << 10;
pub const ESTIMATES_WAITING_BYTES_MAX: usize = 8 << 20;
const _: () = assert!(2 * ESTIMATE_BYTES_MAX <= ESTIMATES_WAITING_BYTES_MAX);
/// How often the estimator takes what waits.
pub const ESTIMATES_INTERVAL: Duration = Duration::from_millis(50);
/// What OpenAI adds to a conversation: for each message, for its author's name where it has one, and to begin the answer.
pub const MESSAGE_TOKENS: u64 = 3;
pub const MESSAGE_NAME_TOKENS: u64 = 1;
pub const ANSWER_BEGIN_TOKENS: u64 = 3;

// The access log (`bridge/logpipe`, `control/access_log`).

/// Lines of one core that may wait for the log thread, at half a kilobyte each; more are dropped and counted. With the
/// interval below, a core may log 160,000 exchanges a second.
pub const LOG_LINES_WAITING_MAX: usize = 8 << 10;
/// How often a core tries to leave a line while the log thread takes what waits, which is a pointer swap: about a microsecond
/// in all. Only a log thread that lost its CPU in the middle of it takes longer.
pub const LOG_PIPE_TRIES: usize = 64;
/// How often the log thread takes what waits; and the share of that time after which it takes it once there were so many lines:
/// a second of them fits no cache, and those of ten milliseconds do.
pub const LOG_INTERVAL: Duration = Duration::from_millis(50);
pub const LOG_BUSY_LINES: usize = 128;
pub const LOG_BUSY_SHARE: u32 = 5;
const _: () = assert!(LOG_BUSY_LINES < LOG_LINES_WAITING_MAX);
/// Text that may wait for the access log's file or pipe: some ten thousand lines; more are dropped and counted.
pub const LOG_TEXT_WAITING_BYTES_MAX: usize = 8 << 20;
/// How long the end of the process waits for lines that still have to be written: a sink may be stuck for ever.
pub const LOG_FLUSH_TIME: Duration = Duration::from_secs(2);
const _: () = assert!(LOG_FLUSH_TIME.as_millis() > LOG_INTERVAL.as_millis());

// What a log may show (`wire/mask`).

/// Most patterns of an operator's own, longest of them, and the memory that all of them may take when compiled.
pub const MASK_PATTERNS_MAX: usize = 64;
pub const MASK_PATTERN_BYTES_MAX: usize = 1 << 10;
pub const MASK_PATTERN_MEMORY_MAX: usize = 4 << 20;
/// Longest match of such a pattern: so much of a text is held back until it is known what follows.
pub const MASK_MATCH_BYTES_MAX: usize = 256;

// Logs that are kept (`control/log_store`).

/// How long logs are kept if nobody says otherwise, and the longest that can be said: a year and a day.
pub const LOG_KEEP_DAYS: usize = 30;
pub const LOG_KEEP_DAYS_MAX: usize = 366;
const _: () = assert!(LOG_KEEP_DAYS <= LOG_KEEP_DAYS_MAX);
/// Most bytes of the store by default, and the least that can be said: below it there is hardly a table.
pub const LOG_STORE_BYTES: usize = 1 << 30;
pub const LOG_STORE_BYTES_FLOOR: usize = 1 << 20;
const _: () = assert!(LOG_STORE_BYTES_FLOOR <= LOG_STORE_BYTES);
/// Rows that may wait for the disk; more are dropped and counted.
pub const LOG_ROWS_WAITING_MAX: usize = 16 << 10;
/// Rows of one transaction, and how often what is too old is looked for.
pub const LOG_BATCH_ROWS: usize = 1_024;
pub const LOG_SWEEP_INTERVAL: Duration = Duration::from_secs(60);
const _: () = assert!(LOG_BATCH_ROWS <= LOG_ROWS_WAITING_MAX);
/// How long the first row of a transaction waits for others: with the interval above, less than a second until it is found.
pub const LOG_ROWS_GATHER_TIME: Duration = Duration::from_millis(250);
const _: () = assert!(LOG_ROWS_GATHER_TIME.as_millis() + LOG_INTERVAL.as_millis() <= 500);

// What may be done before an answer's first byte (`config/first_byte`, `exchange/{relay, hedge}`).

/// Most bytes of an answer, its head among them, that are held back: as many as leave the rest of a read's buffer as the room
/// that the next read wants. What is held is then never moved, nor is its buffer ever larger.
pub const HOLD_BACK_BYTES_MAX: usize = READ_BYTES - READ_BYTES / 4;
/// Most events that may be held: about as many as fit.
pub const HOLD_BACK_EVENTS_MAX: usize = 64;
/// Longest hold that may be asked for: no reader takes a longer silence for thought.
pub const HOLD_BACK_TIME_MAX: Duration = Duration::from_secs(10);
/// Least percentile of times to first token after which a second target may be asked.
pub const HEDGE_PERCENTILE_FLOOR: u8 = 50;
/// Requests asked twice, in percent of those that could have been: what hedging may add to a provider's bill.
pub const HEDGE_PERCENT: u32 = 5;
/// Hedges that may have been saved up by requests that needed none: the most that a provider which turns slow sets off at once.
pub const HEDGES_SAVED_MAX: u32 = 10;

// After the commit point (`exchange/tending`).

/// How often a client that waits may be written a comment, at most and at least: below the one it would be more bytes than
/// answer, and above the other no proxy would still be waiting (the longest silence that OpenAI's Node SDK bears is 300 s).
pub const KEEP_ALIVE_TIME_MIN: Duration = Duration::from_millis(100);
pub const KEEP_ALIVE_TIME_MAX: Duration = Duration::from_secs(300);
const _: () = assert!(TICK.as_millis() <= KEEP_ALIVE_TIME_MIN.as_millis());
/// An answer whose client has left is read for so long and so many bytes more: nearly all answers are over by then, and what
/// goes on is an upstream that might never end.
pub const UNHEARD_TIME: Duration = Duration::from_secs(120);
pub const UNHEARD_BYTES_MAX: u64 = 16 << 20;
const _: () = assert!(
    UNHEARD_BYTES_MAX > HELD_ANSWER_BYTES_MAX as u64 && UNHEARD_BYTES_MAX > SSE_EVENT_BYTES_MAX as u64
);
/// Answers that a core reads without a client at once, at a buffer and two descriptors each; of more, the next is cancelled.
pub const UNHEARD_MAX: usize = 128;
const _: () = assert!(UNHEARD_MAX * 64 < CONNECTIONS_MAX);

// Active health checks (`control/checks`).

/// Defaults of one check: how often, and how long it may take. With three failures in a row a provider is down within
/// twenty seconds whatever it does.
pub const HEALTH_CHECK_INTERVAL: Duration = Duration::from_secs(5);
pub const HEALTH_CHECK_TIME: Duration = Duration::from_secs(2);
/// What can be configured: more often than this is load, less often than this is no check.
pub const HEALTH_CHECK_INTERVAL_MIN: Duration = Duration::from_millis(100);
pub const HEALTH_CHECK_INTERVAL_MAX: Duration = Duration::from_secs(3_600);
pub const HEALTH_CHECK_TIME_MAX: Duration = Duration::from_secs(60);
/// Most providers that are checked: each has a thread.
pub const HEALTH_CHECKS_MAX: usize = 64;
const _: () = assert!(HEALTH_CHECKS_MAX <= PROVIDERS_MAX);

// Payloads in logs (`exchange/payload`, `bridge/logpipe`, `control/log_store`).

/// Bytes that are kept of a request's body and as many of its answer's, if nobody says otherwise; the least and the most
/// that can be said. A conversation of usual length fits; an image in it does not, and is nothing to be searched.
pub const LOG_PAYLOAD_BYTES: usize = 64 << 10;
pub const LOG_PAYLOAD_BYTES_FLOOR: usize = 1 << 10;
pub const LOG_PAYLOAD_BYTES_MAX: usize = 1 << 20;
const _: () =
    assert!(LOG_PAYLOAD_BYTES_FLOOR <= LOG_PAYLOAD_BYTES && LOG_PAYLOAD_BYTES <= LOG_PAYLOAD_BYTES_MAX);
/// A stream may be copied to so many times the bytes that are kept of it: what surrounds each token is taken off later.
pub const LOG_STREAM_FACTOR: usize = 16;
/// Bytes of copies that one core may hold for exchanges under way; what does not fit is cut.
pub const LOG_COPIES_BYTES_MAX: usize = 32 << 20;
const _: () = assert!(LOG_PAYLOAD_BYTES_MAX * (LOG_STREAM_FACTOR + 1) <= LOG_COPIES_BYTES_MAX);
/// Bytes of payloads of one core that may wait for the log thread, and of all cores for the disk; more are dropped and
/// counted, and their lines kept.
pub const LOG_PAYLOADS_WAITING_BYTES_MAX: usize = 32 << 20;
pub const LOG_PAYLOADS_UNWRITTEN_BYTES_MAX: usize = 64 << 20;
const _: () = assert!(LOG_COPIES_BYTES_MAX <= LOG_PAYLOADS_WAITING_BYTES_MAX);
const _: () = assert!(LOG_PAYLOADS_WAITING_BYTES_MAX <= LOG_PAYLOADS_UNWRITTEN_BYTES_MAX);

// The book (`ledger/series`, `control/stats`).

/// Sets of labels of one sheet, and of one minute, hour or day of the book; what would be one more is counted under `other`.
/// A set costs 2 KiB and what its histograms fill, 6 KiB at most times: 8 MiB of a core if somebody uses all there are.
pub const LABEL_SETS_MAX: usize = 1_024;
/// How long minutes, hours and days of the book are kept: a day, 30 days, 13 months. Each long enough that the next is whole.
pub const BOOK_MINUTES_SECS: u64 = 86_400;
pub const BOOK_HOURS_SECS: u64 = 30 * 86_400;
pub const BOOK_DAYS_SECS: u64 = 397 * 86_400;
const _: () = assert!(BOOK_MINUTES_SECS >= 2 * 3_600 && BOOK_HOURS_SECS >= 2 * 86_400);
/// Most bytes of the book on disk; beyond it the oldest minutes go first. A hundred sets of labels that are always busy take
/// about 150 MB.
pub const BOOK_BYTES_MAX: u64 = 1 << 30;

// Telemetry that is sent elsewhere (`control/otlp`).

/// How often metrics are sent and how long spans and logs wait for others at most, if nobody says otherwise, and the least
/// that can be said. OpenTelemetry's own defaults are 60 s and 5 s.
pub const OTLP_INTERVAL: Duration = Duration::from_secs(5);
pub const OTLP_INTERVAL_FLOOR: Duration = Duration::from_millis(100);
const _: () = assert!(OTLP_INTERVAL_FLOOR.as_millis() < OTLP_INTERVAL.as_millis());
/// How long a collector may take over a request, by default and at most.
pub const OTLP_TIME: Duration = Duration::from_secs(10);
pub const OTLP_TIME_MAX: Duration = Duration::from_secs(60);
const _: () = assert!(OTLP_TIME.as_secs() <= OTLP_TIME_MAX.as_secs());
/// Exchanges that may wait for the collector, at three quarters of a kilobyte each; more are dropped and counted.
pub const OTLP_WAITING_MAX: usize = 8 << 10;
/// Exchanges of one request: with four spans of half a kilobyte each, a collector's usual limit of 4 MiB is not reached.
pub const OTLP_BATCH_MAX: usize = 1_024;
const _: () = assert!(OTLP_BATCH_MAX <= OTLP_WAITING_MAX);
/// How often one request is sent at most, and how long it is waited after the first refusal (doubled after each) and at most.
pub const OTLP_TRIES_MAX: u32 = 5;
pub const OTLP_BACKOFF: Duration = Duration::from_secs(1);
pub const OTLP_BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Most bytes of a collector's answer that are read: it says at most how much it rejected, and why.
pub const OTLP_ANSWER_BYTES_MAX: usize = 64 << 10;
/// Most attributes of the resource, besides the service's name.
pub const OTLP_ATTRIBUTES_MAX: usize = 64;
/// How long the end of the process waits for what still has to be sent.
pub const OTLP_FLUSH_TIME: Duration = Duration::from_secs(2);
