/*
 * sim.h - one run of a whole cluster in virtual time: an origin with the real authority, hosts
 * with the real holder, a network and a store that are simulated, and a model that checks what
 * every application is told.
 *
 * Everything is single-threaded and drawn from one seed. The parts (one .c each) share this
 * header because they are one machine: world.c (time, events, trace), network.c, store.c,
 * model.c, origin.c, record.c and slots.c (what it records), host.c (session and requests), cache.c (what a
 * host remembers), apps.c (what is asked of hosts), faults.c. See README.md.
 */
#ifndef TESTS_SIM_SIM_H
#define TESTS_SIM_SIM_H

#include "lease/authority.h"
#include "lease/holder.h"
#include "lease/holder_locks.h"
#include "lease/message.h"
#include "lease/status.h"
#include "tests/sim/arena.h"
#include "tests/sim/chance.h"

#include <setjmp.h>
#include <stdio.h>

#define HOSTS_MAX 5
#define LOCKERS_MAX 2     /* processes of one host that lock */
#define APPS_MAX 3        /* concurrent callers on one host */
#define INODES_MAX 20     /* ever made in a run; creating more answers NOSPC */
#define PARTS 4           /* blocks of a file, names of a directory */
#define VERSIONS_MAX 400  /* of one inode; modifying further answers NOSPC */
#define ATTEMPTS_MAX 6000 /* modifications sent in a run; no new ones are begun at it */
#define EVENTS_MAX 16384
#define PACKETS_MAX 1024
#define PACKET_BYTES 1024
#define REQUESTS_MAX 128  /* of one host, under way */
#define SLOTS_MAX 4
#define OPERATIONS_MAX 96 /* at the origin, under way */
#define WAITERS_MAX 4
#define RECORDS_MAX 96    /* sessions in the durable record */
#define SILENT_MAX 256    /* sessions that ended, and may be relied on for seals */
#define SESSIONS_MAX 256  /* whose slots are recorded: living ones, and ended ones remembered */
#define KEPT_MAX 512      /* kept replies */
#define DROPS_MAX 64      /* recalls that one host is working on */
#define TRACE_LINES 40
#define TRACE_BYTES 420

#define MS NS_PER_MS

struct sim;

/* ---- world.c: time, events, trace ---- */

enum event_kind {
	EVENT_TO_ORIGIN,   /* index: packet */
	EVENT_TO_HOST,     /* index: packet */
	EVENT_HOST_TICK,   /* generation: host.tick_generation */
	EVENT_ORIGIN_TICK,
	EVENT_APP,         /* index: app */
	EVENT_REQUEST,     /* index: request; generation: its id */
	EVENT_DROPPED,     /* index: drop; generation: its id */
	EVENT_DROPPED_ALL, /* generation: host.life */
	EVENT_FENCE,       /* of the guardian; generation: host.fence_generation */
	EVENT_STREAM_LOST, /* generation: the stream that was lost */
	EVENT_APPLY,       /* index: operation; generation: its id */
	EVENT_FINISH,
	EVENT_FAULT,       /* generation: what for */
	EVENT_HOST_RESTART,
	EVENT_ORIGIN_RESTART,
	EVENT_PHASE,
	EVENT_LOCKER, /* index: locker; generation: host.life */
	EVENT_RECORD, /* generation: origin.life */
};

struct event {
	uint64_t at;       /* true time, ns */
	uint64_t sequence; /* breaks ties: first scheduled, first run */
	uint32_t generation;
	uint16_t index;
	uint8_t kind;
	uint8_t host;
};

struct clock {
	uint64_t offset;
	int64_t ppm;
};

enum phase {
	PHASE_WILD,   /* every fault */
	PHASE_SETTLE, /* no faults; what was broken ends within its bound */
	PHASE_MILD,   /* streams break, nothing else: nobody may lose a session, nobody waits long */
	PHASE_QUIET,  /* nothing new is asked; everything completes */
};

/* Drawn at the start of a run: what this run is like. */
struct profile {
	uint32_t host_count, app_count, slot_count, lease_count_max, recall_window_max;
	uint32_t ended_count_max, operation_count_max, session_count_max;
	uint32_t host_lease_count_max;
	uint64_t term, margin, fence_margin;
	uint64_t lease_total_max;
	uint32_t drift_ppm;
	uint64_t backoff_min, backoff_max;
	uint64_t delay_min, delay_max, spike_max;
	uint32_t spike, loss, duplicate, held; /* permille */
	uint64_t duplicate_delay_max;
	uint64_t fault_interval; /* mean; 0: no scheduled faults */
	uint32_t fault_weight[8];
	uint64_t think_max, drop_max, apply_max;
	uint32_t starved; /* permille of allocations that fail in the wild phase */
	uint32_t locker_count; /* of each host; 0: no locks in this run */
	uint32_t seal; /* permille of modifications that seal or unseal; 0: no seals in this run */
	uint32_t modify; /* permille of what applications ask */
	uint64_t wild, settle, mild, quiet; /* lengths of the phases */
};

void sim_schedule(struct sim *sim, uint64_t at, enum event_kind kind, unsigned host,
		  unsigned index, uint32_t generation);
uint64_t clock_read(const struct clock *clock, uint64_t now);
/* The first true time at which the clock shows at least `local`; UINT64_MAX stays. */
uint64_t clock_reaches(const struct clock *clock, uint64_t local);
/* Ends the run: a rule was broken. */
void sim_fail(struct sim *sim, const char *format, ...)
	__attribute__((format(printf, 2, 3), noreturn));
/* A line of the trace; use sim_note(), which costs nothing when nobody looks. */
void sim_trace(struct sim *sim, const char *format, ...) __attribute__((format(printf, 2, 3)));
#define sim_note(sim, ...)                                                                      \
	do {                                                                                    \
		if ((sim)->tracing)                                                             \
			sim_trace(sim, __VA_ARGS__);                                            \
	} while (0)
void sim_hash(struct sim *sim, uint64_t value);

/* ---- network.c ---- */

/* What travels: one encoded message, and the bulk data behind it. */
struct packet {
	bool used;
	uint8_t host;
	bool to_host;
	bool on_stream;    /* a frame of the recall stream `id` */
	uint32_t id;       /* of the request that it is, or that it answers */
	uint16_t length, bulk_length;
	uint8_t data[PACKET_BYTES]; /* message, then bulk */
};

/* The state of one host's wires. */
struct link {
	uint64_t blocked_to_origin_until, blocked_to_host_until;
	uint64_t slow_until, slow_by; /* extra delay */
	uint64_t stream_last_at;      /* frames of a stream keep their order */
};

/* Encodes and sends. `bulk` may be NULL. The packet is lost, held or delivered by the network. */
void network_send(struct sim *sim, unsigned host, bool to_host, bool on_stream, uint32_t id,
		  const struct message *message, const void *bulk, size_t bulk_length);
/* Sends the bytes of a message that was encoded before (a repetition). */
void network_send_bytes(struct sim *sim, unsigned host, bool to_host, bool on_stream, uint32_t id,
			const uint8_t *data, size_t length, size_t bulk_length);
/* Encodes into `data` (PACKET_BYTES); returns the length of the message, bulk behind it. */
size_t network_encode(struct sim *sim, const struct message *message, const void *bulk,
		      size_t bulk_length, uint8_t *data);
void network_decode(struct sim *sim, const struct packet *packet, struct message *ret_message,
		    struct slice *ret_bulk);

/* ---- store.c ---- */

enum aspect {
	ASPECT_PART = 0, /* + part: a block of a file, a name of a directory */
	ASPECT_ATTRIBUTES = PARTS,
	ASPECT_LISTING, /* directories */
	ASPECT_COUNT,
};
#define ASPECT_BIT(aspect) (1u << (aspect))
#define PARTS_MASK ((1u << PARTS) - 1)

/* A version of an inode is all of its content: each modification makes the next one. */
struct store_version {
	uint16_t part[PARTS];   /* the version at which each part was last modified */
	uint8_t child[PARTS];   /* of a directory: what the names lead to; 0: absent */
	bool gone;              /* no name is left */
	uint8_t seal;           /* the code of its term; 0: not sealed */
};

struct store_inode {
	bool exists;
	bool directory;
	bool freed; /* it is gone, and nobody has it open */
	uint32_t version; /* the present one; from 1 */
	uint32_t links;
	struct store_version history[VERSIONS_MAX];
};

enum action {
	ACTION_WRITE, /* inode, part */
	ACTION_SETATTR,
	ACTION_CREATE,
	ACTION_UNLINK,
	ACTION_RENAME,
};

#define SEAL_REMOVE 0xffffu

/* A modification as the store sees it, with what it came to. */
struct modification {
	enum action action;
	uint32_t attempt; /* the model's */
	uint32_t inode, part, to_inode, to_part;
	uint32_t value; /* create: kind of inode; 1: directory */
	uint32_t seal;  /* ACTION_SETATTR: that code, or SEAL_REMOVE */
	uint32_t writer, base; /* write-back: of which host (from 1), stored at which version */
	/* Resolved at the beginning; if it is something else when it is applied: begin again. */
	uint32_t child, replaced;
	/* Outcome: */
	uint16_t status;
	uint32_t touched_count;
	struct {
		uint32_t inode;
		uint32_t before, after;
		uint32_t aspects; /* mask of what is different now */
	} touched[AUTHORITY_TARGETS_MAX];
	uint32_t created;
};

/* What survives the death of the origin's process. */
struct store_record {
	struct session_id session;
	uint32_t life; /* of the origin that wrote it */
	uint8_t host[16];
	uint64_t instance;
	bool ended; /* taken out when it is written next */
};

/* What the origin records of a session until it is forgotten (PROTOCOL.md 3.5). */
struct store_session {
	struct session_id session;
	uint8_t host[16];
	uint32_t slot_count;
	uint64_t sequences[SLOTS_MAX]; /* the last that was executed; its reply is kept */
};

/* A modification under way, as it is recorded before the store is touched. */
struct store_intent {
	bool used;
	struct session_id session;
	uint32_t slot;
	uint64_t sequence;
	struct modification m;
	uint32_t before; /* version of m.inode, which every modification that succeeds moves */
};

struct kept_reply {
	struct session_id session; /* 0: free */
	uint32_t slot;
	uint16_t length, bulk_length;
	uint8_t data[PACKET_BYTES];
};

struct store {
	uint64_t incarnation;
	uint32_t inode_count; /* index 0 is never an inode; 1 is the root */
	struct store_inode inodes[INODES_MAX];
	struct store_record records[RECORDS_MAX];
	uint32_t record_count;
	struct authority_silent silent[SILENT_MAX]; /* those that the record names, too */
	uint32_t silent_count;
	struct instant silent_unknown;
	uint64_t epoch;
	uint64_t term_max; /* the longest promise ever made, margins included */
	struct store_session sessions[SESSIONS_MAX]; /* oldest first */
	uint32_t session_count;
	uint32_t kept_high;
	struct kept_reply kept[KEPT_MAX];
	struct store_intent intents[OPERATIONS_MAX]; /* by the operation's index */
};

void store_init(struct sim *sim);
struct handle store_handle(uint32_t inode);
uint32_t store_inode_of(struct sim *sim, const struct handle *handle);
struct change store_change(struct sim *sim, uint32_t inode, uint32_t version);
struct slice store_name(uint32_t part);
uint32_t store_part_of(struct sim *sim, struct slice name);
/* What the names of `m` lead to now. */
void store_resolve(struct sim *sim, struct modification *m);
/* No name and no opener is left: `inode` is no more. */
void store_free(struct sim *sim, uint32_t inode);
/* Applies `m`: fills the outcome. False when a name leads elsewhere than it was resolved to. */
bool store_apply(struct sim *sim, struct modification *m);

/* ---- model.c: what may be seen ---- */

/* A modification sent under one (session, slot, sequence). */
struct attempt {
	struct session_id session;
	uint32_t slot;
	uint64_t sequence;
	uint32_t what; /* the application's operation; several attempts may serve one */
	bool applied, over;
	uint16_t status;
	uint64_t sequence_before; /* of the slot, before this was applied */
	uint32_t touched_count;
	uint32_t touched_inode[AUTHORITY_TARGETS_MAX];
	uint32_t touched_after[AUTHORITY_TARGETS_MAX];
};

struct slot_record {
	uint64_t session;
	uint32_t slot;
	uint64_t sequence; /* the last one applied */
};

struct model {
	uint32_t floor[INODES_MAX]; /* nobody may see an older version from now on */
	struct attempt attempts[ATTEMPTS_MAX];
	uint32_t attempt_count;
	bool what_applied[ATTEMPTS_MAX];
	struct slot_record slots[KEPT_MAX];
	uint64_t reads, reads_cached, reads_paged, modifications, locks;
};

/* What an application may rely on when it begins: the floors at that moment. */
struct since {
	uint32_t floor[INODES_MAX];
};

void model_begin(struct sim *sim, struct since *ret_since);
/*
 * An application on `host` that began at `since` is told that `aspect` of the inode was last
 * modified at `version` (attributes and listings: that the inode is at `version`).
 */
void model_observe(struct sim *sim, unsigned host, const struct since *since, uint32_t inode,
		   enum aspect aspect, uint32_t version, const char *how);
/* An application is told that the inode is gone. `open`: it had it open all the time. */
void model_observe_gone(struct sim *sim, unsigned host, uint32_t inode, bool open);
/* Returns 0 when no more fit. */
uint32_t model_attempt(struct sim *sim, uint32_t what, struct session_id session, uint32_t slot,
		       uint64_t sequence);
/* The store has just applied `m`. */
void model_applied(struct sim *sim, const struct modification *m);
/* It came to an error, changed nothing, and that outcome died with the process: it never was. */
void model_lost(struct sim *sim, const struct modification *m);
/* The host was told how the attempt ended. */
void model_answered(struct sim *sim, unsigned host, uint32_t attempt, uint16_t status);

/* ---- origin.c ---- */

struct origin_operation {
	bool used;
	uint64_t id;
	uint8_t host;
	bool strict_read, acquire, write_back;
	uint64_t lease_sequence;
	struct session_id session;
	uint32_t slot;
	uint64_t sequence;
	struct instant deadline;
	struct modification m;
	struct authority_op op; /* as it was begun */
	bool running;
	uint32_t waiter_count;
	struct {
		uint8_t host;
		uint32_t id;
	} waiters[WAITERS_MAX];
	uint64_t first_at; /* by the origin's clock: nothing stands before it since; 0: not yet */
	uint16_t reply_length, reply_bulk; /* made when applied, sent when finished */
	uint8_t reply[PACKET_BYTES];
};

struct origin_stream {
	uint32_t id; /* 0: none */
	struct session_id session;
};

struct origin {
	bool up;
	uint32_t life;
	struct clock clock;
	struct authority *authority;
	struct authority_actions actions;
	uint64_t next_op;
	uint32_t tick_generation;
	uint64_t tick_at;
	bool record_unknown;
	bool record_armed; /* EVENT_RECORD is scheduled */
	uint64_t grace_until; /* by its clock: no grace lasts longer */
	struct origin_stream streams[HOSTS_MAX];
	uint32_t operation_high; /* no operation in use at or above this index */
	struct origin_operation operations[OPERATIONS_MAX];
};

/* ---- slots.c ---- */

/* NULL: not recorded, or forgotten. */
struct store_session *slots_session(struct sim *sim, struct session_id session);
void slots_session_add(struct sim *sim, struct session_id session, const uint8_t *host,
		       uint32_t slot_count);
void slots_session_forget(struct sim *sim, struct session_id session);
/* Before the store is touched. */
void slots_intent(struct sim *sim, const struct origin_operation *operation);
/* The outcome and its reply, in one step; then the intent goes. */
void slots_record(struct sim *sim, struct store_intent *intent, const uint8_t *data,
		  uint16_t length, uint16_t bulk_length);
/* The reply that is kept of a slot, or NULL; `make`: there is one afterwards. */
struct kept_reply *slots_reply(struct sim *sim, struct session_id session, uint32_t slot,
			       bool make);
/* A new process decides what the last one left unfinished, and tells its authority. */
void slots_restore(struct sim *sim);

/* ---- origin.c ---- */

struct instant origin_now(struct sim *sim);
void origin_start(struct sim *sim);
void origin_crash(struct sim *sim);
void origin_packet(struct sim *sim, struct packet *packet);
void origin_tick(struct sim *sim, uint32_t generation);
void origin_apply(struct sim *sim, uint32_t index, uint32_t generation);
void origin_finish(struct sim *sim, uint32_t index, uint32_t generation);
/* After each step: the authority's own rules, the wait bounds, the next tick. */
void origin_after_step(struct sim *sim);

/* ---- host.c, cache.c, apps.c ---- */

/* What one host remembers of one inode. */
struct copy {
	/* In memory, tagged with the instance of the lease under which it was learned. */
	uint64_t instance;
	uint32_t valid; /* mask of aspects */
	uint32_t version[ASPECT_COUNT];
	/* On disk, tagged with the change: blocks of files. */
	struct change disk_change;
	uint32_t disk_valid;
	uint32_t disk_version[PARTS];
	/* In the kernel: readable without asking the daemon, dead or alive. */
	uint32_t page_valid;
	uint32_t page_version[PARTS];
	/* The same, of the daemon before this one; its guardian still has to fence them. */
	uint32_t orphan_valid;
	uint32_t orphan_version[PARTS];
	/* Own modifications: how many are under way, of the inode and of each name. */
	uint32_t modifying, part_modifying[PARTS];
	/* Moves when an own modification begins or ends, and when a drop is done: what was asked
	   before and is answered after must not enter memory or the kernel's pages. */
	uint32_t modify_epoch, drop_epoch;
	uint32_t drops; /* under way */
	/* Open here: the origin keeps it when its last name goes. It knows of it by our lease, or
	   because we said so when we gave that up, or by a message. */
	bool open;
	bool registered; /* the origin was told so in this session */
	bool closing;    /* the origin is being told the contrary: not opened meanwhile */
	uint32_t close_epoch; /* moves when that begins: an open that was asked before is void */
	uint64_t close_number; /* of that close; kept when it is repeated */
	/* Stores that the origin does not have: stores.c. */
	struct session_id stored_session; /* of the write lease that they are made under; 0: none */
	uint64_t stored_sequence;
	uint32_t dirty, written_back; /* masks of blocks; the second: under way */
	uint32_t base[PARTS];         /* at which version the block was stored to */
	bool kept; /* PROTOCOL.md 6.4: the lease may be reclaimed; `stored_session` is over */
	uint32_t stores_lost;         /* how often: whoever syncs is told */
};

enum request_purpose {
	FOR_APP,
	FOR_SESSION_OPEN,
	FOR_KEEPALIVE,
	FOR_STREAM,
	FOR_ACKNOWLEDGE,
	FOR_RELEASE,
	FOR_RECLAIM,
	FOR_LOCK,
	FOR_WRITE_BACK,
};

struct request {
	bool used;
	uint32_t id;
	enum request_purpose purpose;
	uint8_t app;
	struct session_id session;
	struct instant sent; /* by the host's clock, read before it was sent */
	uint64_t stamp;      /* of holder_request_begin(), 0: none */
	uint64_t timeout;
	uint32_t stream;
	uint64_t lock_id; /* FOR_LOCK: at the holder_locks */
	uint32_t part, attempt; /* write-back */
	/* For recognising what may be remembered of the answer. */
	uint32_t inode;
	bool open;     /* `inode` was open here when this was sent */
	uint32_t close_epoch;
	uint64_t held; /* instance of the lease on `inode` that stood when this was sent */
	uint32_t modify_epoch[INODES_MAX], drop_epoch[INODES_MAX];
	uint16_t length, bulk_length;
	uint8_t data[PACKET_BYTES];
};

enum app_action {
	APP_IDLE,
	APP_READ,
	APP_PAGE_READ, /* through the kernel's page cache */
	APP_GETATTR,
	APP_LOOKUP,
	APP_LIST,
	APP_OPEN,
	APP_CLOSE,
	APP_MODIFY,
	APP_STORE, /* through a shared mapping */
};

struct app {
	enum app_action action;
	bool asked; /* a request is out */
	uint64_t began;     /* true time */
	uint32_t generation;
	struct since since;
	uint32_t inode, part;
	bool syncing; /* APP_STORE: stored, and waits until it is written back */
	uint32_t stores_lost;
	uint32_t tries;
	/* modifications */
	struct modification m;
	uint32_t what, attempt;
	int slot; /* -1: none */
	uint32_t begun_count; /* holder_modify_begin() was called for these */
	uint32_t begun[AUTHORITY_TARGETS_MAX];
};

struct slot {
	bool busy;
	uint64_t sequence;
};

struct drop {
	bool used;
	uint32_t id;
	struct session_id session;
	uint64_t sequence;
	uint32_t inode;
	enum recall_scope scope;
};

struct locker {
	uint64_t token; /* of what it asks; 0: nothing */
	uint64_t file;  /* its descriptor, and its owner */
	uint32_t closing;
	bool released;  /* in the end it has nothing any more */
};

struct host {
	bool up;
	uint32_t life;
	uint64_t paused_until, wedged_until;
	struct clock clock;
	uint8_t identity[16];
	uint64_t instance;
	struct link link;
	struct holder *holder;
	struct holder_actions actions;
	uint64_t close_number; /* the last one given */
	struct holder_locks *locks;
	struct holder_lock_actions lock_actions;
	struct locker lockers[LOCKERS_MAX];
	uint64_t token_last, file_last;
	bool reclaim_done_waits; /* for the locks to be reclaimed */
	uint64_t tick_at;
	uint32_t tick_generation;
	/* the guardian */
	uint64_t fence_at; /* by the host's clock: pages are invalid from then on; 0: none */
	uint32_t fence_generation;
	uint64_t orphan_fence_at;
	uint32_t orphan_fence_generation;
	/* the daemon */
	uint32_t stream; /* 0: none */
	uint32_t stream_broken; /* nothing of this one arrives any more */
	bool dropping_all;
	bool open_wanted; /* session_open waits for dropping_all */
	struct session_id open_previous;
	struct slot slots[SLOTS_MAX];
	uint32_t slot_count;
	struct session_id slot_session;
	bool may_store; /* there is a slot to write back in */
	uint32_t writing_back; /* id of the request; 0: none */
	uint32_t next_id;
	uint32_t request_high;
	uint32_t reclaim_count;
	uint32_t reclaims_out;
	struct item_claim reclaim[INODES_MAX];
	struct request requests[REQUESTS_MAX];
	struct drop drops[DROPS_MAX];
	struct app apps[APPS_MAX];
	struct copy copies[INODES_MAX];
};

void host_start(struct sim *sim, unsigned index);
/* `machine`: with its kernel; otherwise only the daemon dies and its pages stay. */
void host_crash(struct sim *sim, unsigned index, bool machine);
void host_packet(struct sim *sim, struct packet *packet);
void host_tick(struct sim *sim, unsigned index, uint32_t generation);
void host_request_timeout(struct sim *sim, unsigned index, unsigned request, uint32_t id);
void host_drop_done(struct sim *sim, unsigned index, unsigned drop, uint32_t id);
void host_dropped_all(struct sim *sim, unsigned index, uint32_t life);
void host_fence(struct sim *sim, unsigned index, uint32_t generation);
void host_stream_lost(struct sim *sim, unsigned index, uint32_t stream);
void host_after_step(struct sim *sim, unsigned index);
struct instant host_now(struct sim *sim, const struct host *host);
/* A free request, filled in as far as it goes; its message is sent by host_request_send(). */
struct request *host_request(struct sim *sim, unsigned index, enum request_purpose purpose,
			     uint64_t timeout);
void host_request_send(struct sim *sim, unsigned index, struct request *request,
		       const struct message *message, const void *bulk, size_t bulk_length);
void host_request_free(struct sim *sim, unsigned index, struct request *request);
/* Performs what the holder asked for. */
void host_perform(struct sim *sim, unsigned index);

/* May an application of `host` be answered from its daemon's cache now? */
bool cache_serve(struct sim *sim, unsigned index, uint32_t inode, enum aspect aspect,
		 uint32_t *ret_version);
/* Works in the answer to a read-only request. */
void cache_learn(struct sim *sim, unsigned index, const struct request *request,
		 const struct message *reply, struct slice bulk, bool *ret_page_allowed);
/* This host is about to send `app`'s modification. False: there is no memory to. */
bool cache_modify_begin(struct sim *sim, unsigned index, struct app *app);
/* It was answered, or given up (`reply` NULL): nothing is known of its outcome then. */
void cache_modify_end(struct sim *sim, unsigned index, const struct request *request,
		      struct app *app, const struct message *reply);
void cache_drop(struct sim *sim, unsigned index, const struct holder_action *action);
void cache_drop_all(struct sim *sim, struct host *host);
void cache_drop_pages(struct host *host, uint32_t inode);
/* The store has just applied `m`: nobody may be able to answer from before it (I2). */
void cache_check_applied(struct sim *sim, const struct modification *m);

/* ---- locks.c ---- */

bool locks_on(const struct sim *sim);
void locks_record_later(struct sim *sim);
void locks_offer(struct sim *sim, const struct authority_action *action);
/* At the origin; false: it is not about locks. */
bool locks_arrive(struct sim *sim, const struct packet *packet, const struct message *message);
void locks_start(struct sim *sim, unsigned index);
void locks_stop(struct sim *sim, unsigned index);
void locks_perform(struct sim *sim, unsigned index);
void locks_step(struct sim *sim, unsigned index, unsigned locker, uint32_t life);
void locks_check(struct sim *sim, unsigned index);
void locks_final_check(struct sim *sim);
/* `reclaim` with `last` may go out. */
void host_locks_settled(struct sim *sim, unsigned index);
/* The record of sessions is written. */
void origin_record(struct sim *sim, uint32_t life);
/* The longest time from a promise to its end, by the origin's clock. */
uint64_t origin_promise(const struct profile *p);

/* record.c: the durable record of sessions. Whenever it is written it says who may rely on seals. */
void record_add(struct sim *sim, struct session_id session,
		const struct message_session_open *open);
void record_remove(struct sim *sim, struct session_id session);
/* Grace is over: what earlier processes promised has ended. */
void record_expire(struct sim *sim);
/* What has ended goes out of it. */
void record_write(struct sim *sim);
/* Into the authority of a new process. */
void record_restore_silent(struct sim *sim, bool unknown, bool rebooted);
/* ---- stores.c ---- */

bool stores_expected(struct sim *sim, const struct host *h, const struct copy *copy);
void stores_granted(struct sim *sim, unsigned index, uint32_t inode, uint64_t instance,
		    struct session_id session, uint64_t sequence);
bool stores_clean(const struct host *h, uint32_t inode);
bool stores_store(struct sim *sim, unsigned index, uint32_t inode, uint32_t part);
void stores_flush(struct sim *sim, unsigned index, uint32_t inode);
void stores_answered(struct sim *sim, unsigned index, struct request *request,
		     const struct message *reply);
void stores_lose_all(struct sim *sim, unsigned index);
/* HOLDER_LOST. */
void stores_lose(struct sim *sim, unsigned index, uint32_t inode);
/* The holder was told what became of the claim. */
void stores_reclaimed(struct sim *sim, unsigned index, uint32_t inode, struct session_id session,
		      uint64_t sequence, bool confirmed);
/* Right before the origin refuses it: may it? */
void stores_check_refused(struct sim *sim, unsigned index, uint32_t inode);
/* `session` is granted a lease; `host` uses what it was answered. */
void stores_check_granted(struct sim *sim, struct session_id session, uint32_t inode);
void stores_check_used(struct sim *sim, unsigned host, uint32_t inode);

/* ---- apps.c ---- */

void app_step(struct sim *sim, unsigned index, unsigned app, uint32_t generation);
void app_answer(struct sim *sim, unsigned index, struct request *request,
		const struct message *reply, struct slice bulk);
/* The request came to nothing (no answer in time, or the session was lost). */
void app_unanswered(struct sim *sim, unsigned index, struct request *request);
void app_start(struct sim *sim, unsigned index);
/* All is over and quiet: reads everything once more and compares it with the store. */
void app_final_check(struct sim *sim);

/* ---- faults.c ---- */

void faults_draw_profile(struct sim *sim);
void faults_draw_clocks(struct sim *sim);
void faults_schedule(struct sim *sim);
/* `mark`: of the event, what it is for. */
void faults_strike(struct sim *sim, unsigned index, uint32_t mark);
/* Everything that was broken is mended. */
void faults_heal(struct sim *sim);
void fault_break_stream(struct sim *sim, unsigned host);

/* ---- the run ---- */

struct sim {
	uint64_t seed;
	struct rng rng;
	struct rng lock_rng; /* apart, so that runs without locks are what they were */
	struct rng seal_rng; /* likewise */
	uint64_t now; /* true time, ns */
	uint64_t hash;
	uint64_t step;
	enum phase phase;
	uint64_t phase_at;
	struct profile profile;

	struct event *heap;
	uint32_t event_count;
	uint64_t event_sequence;

	bool observed_only; /* judge by what callers are told, not by the state inside */
	bool tracing;
	FILE *trace_file; /* all of the trace goes here, too; or NULL */
	uint32_t trace_next;
	char (*trace)[TRACE_BYTES];
	char violation[600];
	sigjmp_buf failed;

	struct arena arena;
	struct packet packets[PACKETS_MAX];
	uint32_t packet_next;
	struct store store;
	struct model model;
	struct origin origin;
	struct host hosts[HOSTS_MAX];
};

/* True: the run with this seed broke no rule. Otherwise sim->violation says which. */
bool sim_run(struct sim *sim, uint64_t seed, bool tracing);
void sim_print_trace(const struct sim *sim, FILE *file);

/* scale.c: prints what the authority costs with that many hosts and leases; 0 hosts an inode: 8. */
int scale_run(uint32_t hosts, uint64_t leases, uint64_t hosts_per_inode);

#endif
