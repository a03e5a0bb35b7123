#include "fs/mount/status.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "fs/mount/call.h"
#include "fs/mount/daemon.h"
#include "fs/mount/follow.h"
#include "fs/mount/locks.h"
#include "fs/mount/memory.h"
#include "fs/mount/passthrough.h"
#include "fs/mount/prefetch.h"
#include "fs/mount/rules.h"
#include "fs/mount/seal.h"

#define RANGES_TEXT_BYTES 4000 /* of an xattr's value: fits what getfattr asks for */

static struct change standing_change(struct mount *m, const struct inode *inode)
{
	if (!holder_lease_held(m->holder, mount_now(), INODE_HANDLE(inode)))
		return (struct change){ 0, 0 };
	return holder_change(m->holder, INODE_HANDLE(inode));
}

static void set(json_t *object, const char *name, uint64_t value)
{
	json_object_set_new(object, name, json_integer((json_int_t)value));
}

static void cache_json(struct mount *m, json_t *into)
{
	struct cache_counters c;

	cache_counters(m->cache, &c);
	if (m->daemon)
		set(into, "mounts", daemon_member_count(m->daemon));
	set(into, "bytes", c.bytes);
	set(into, "bytes_max", c.bytes_max);
	set(into, "files", c.files);
	set(into, "files_max", c.files_max);
	set(into, "pinned", c.kept_bytes);
	set(into, "pinned_max", c.kept_bytes_max);
	set(into, "scanning", c.scanning);
	json_object_set_new(into, "io_uring", json_boolean(c.io_uring));
	set(into, "hits", c.hits);
	set(into, "hit_bytes", c.hit_bytes);
	set(into, "writes", c.writes);
	set(into, "write_bytes", c.write_bytes);
	set(into, "evicted_files", c.evicted_files);
	set(into, "evicted_bytes", c.evicted_bytes);
	set(into, "not_admitted", c.not_admitted);
	set(into, "disk_full", c.disk_full);
	set(into, "dropped_corrupt", c.dropped_corrupt);
	set(into, "dropped_errors", c.dropped_errors);
	set(into, "records_written", c.records_written);
	set(into, "records_loaded", c.records_loaded);
}

static void lease_json(struct mount *m, json_t *into)
{
	struct holder_counters c;

	pthread_mutex_lock(&m->lock);
	holder_counters(m->holder, &c);
	pthread_mutex_unlock(&m->lock);
	set(into, "leases", c.leases);
	set(into, "recalls_remembered", c.window);
	set(into, "granted", c.granted);
	set(into, "overtaken", c.overtaken);
	set(into, "recalls", c.recalls);
	set(into, "recalls_repeated", c.recall_repeats);
	set(into, "released", c.released);
	set(into, "sessions", c.sessions);
	set(into, "sessions_expired", c.expired);
	set(into, "reclaimed", c.reclaimed);
	set(into, "reclaims_refused", c.reclaim_refused);
}

static void locks_json(struct mount *m, json_t *into)
{
	struct holder_lock_counters c;

	pthread_mutex_lock(&m->lock);
	locks_counters(m, &c);
	pthread_mutex_unlock(&m->lock);
	set(into, "requests", c.requests);
	set(into, "waiting", c.waiting);
	set(into, "reclaimed", c.reclaimed);
	set(into, "lost", c.lost);
}

static void transport_json(struct mount *m, json_t *into)
{
	struct client_counters c;

	client_counters(m->client, &c);
	set(into, "calls", c.calls);
	set(into, "bytes_in", c.bytes_in);
	set(into, "bytes_out", c.bytes_out);
	set(into, "connections", c.connections);
	set(into, "failures", c.failures);
	set(into, "cancelled", c.cancelled);
	set(into, "timeouts", c.timeouts);
}

static json_t *section(json_t *into, const char *name)
{
	json_t *object = json_object();

	json_object_set_new(into, name, object);
	return object;
}

static const char *const predictor_names[PREDICTOR_COUNT] = {
#define X(name, text) [PREDICTOR_##name] = text,
	PREDICTORS(X)
#undef X
};

static void prefetch_json(struct mount *m, json_t *into)
{
	struct prefetch_counters c;
	struct follow_counters follow;

	json_object_set_new(into, "on", json_boolean(prefetch_counters(m, &c)));
	if (!m->prefetch)
		return;
	set(into, "waiting", c.waiting);
	set(into, "sent", c.sent);
	set(into, "dropped", c.dropped);
	set(into, "bytes_in_flight", c.bytes);
	set(into, "window", c.window);
	follow_counters(m, &follow);
	set(into, "ordered_jobs", follow.jobs);
	set(into, "held_files", follow.files);
	set(into, "held_bytes", follow.bytes);
	for (unsigned i = 0; i < PREDICTOR_COUNT; i++) {
		const struct ledger_counts *counts = &c.predictors[i];
		json_t *object = section(into, predictor_names[i]);

#define X(name, help)                                                                           \
	set(object, #name, counts->name##_count);                                               \
	set(object, #name "_bytes", counts->name##_bytes);
		LEDGER_COUNTS(X)
#undef X
		set(object, "silenced", counts->silenced);
	}
}

static char *status_json(struct mount *m)
{
	json_t *status = json_object(), *counters;
	struct duration left;
	bool valid;
	char *text;

	pthread_mutex_lock(&m->lock);
	valid = holder_valid(m->holder, mount_now());
	left = holder_remaining(m->holder, mount_now());
	pthread_mutex_unlock(&m->lock);
	json_object_set_new(status, "version", json_string(LEASEHOLD_VERSION));
	json_object_set_new(status, "url", json_string(m->options->url));
	json_object_set_new(status, "mountpoint", json_string(m->options->mountpoint));
	json_object_set_new(status, "state", json_string(valid ? "connected" : "disconnected"));
	json_object_set_new(status, "session_seconds", json_real((double)left.ns / NS_PER_S));
	json_object_set_new(status, "read_only", json_boolean(m->read_only));
	json_object_set_new(status, "name_cache", json_boolean(m->has_epoch));
	json_object_set_new(status, "passthrough", json_boolean(m->passthrough_on));
	json_object_set_new(status, "process", json_integer((json_int_t)getpid()));
	json_object_set_new(status, "guardian", json_string(m->unguarded ? "gone" : "running"));
	set(status, "guardian_fences", guardian_fenced(m->guardian));
	pthread_mutex_lock(&m->lock);
	set(status, "inodes", m->inodes->count);
	set(status, "names", m->inodes->name_count);
	pthread_mutex_unlock(&m->lock);
	set(status, "memory", memory_resident());
	set(status, "memory_max", m->options->memory);
	set(status, "calls_in_flight", calls_count(m));
	cache_json(m, section(status, "cache"));
	lease_json(m, section(status, "leases"));
	locks_json(m, section(status, "locks"));
	transport_json(m, section(status, "transport"));
	prefetch_json(m, section(status, "prefetch"));
	counters = section(status, "counters");
#define COUNTER_JSON(name, help)                                                                \
	set(counters, #name, atomic_load_explicit(&m->counters.name, memory_order_relaxed));
	MOUNT_COUNTERS(COUNTER_JSON)
#undef COUNTER_JSON
	text = json_dumps(status, JSON_COMPACT);
	json_decref(status);
	return text;
}

static char *lease_text(struct mount *m, struct inode *inode)
{
	struct duration left;
	uint64_t instance;
	char *text = NULL;

	pthread_mutex_lock(&m->lock);
	instance = holder_lease_held(m->holder, mount_now(), INODE_HANDLE(inode));
	left = holder_remaining(m->holder, mount_now());
	pthread_mutex_unlock(&m->lock);
	if (!instance)
		return strdup("none");
	if (asprintf(&text, "read %.1fs", (double)left.ns / NS_PER_S) < 0)
		return NULL;
	return text;
}

static char *cache_text(struct mount *m, struct inode *inode, bool ranges)
{
	char *list = calloc(1, RANGES_TEXT_BYTES), *text = NULL;
	struct cache_file *file, *found = NULL;
	struct change change;
	uint64_t bytes = 0;

	if (!list)
		return NULL;
	pthread_mutex_lock(&m->lock);
	change = standing_change(m, inode);
	file = inode->file;
	pthread_mutex_unlock(&m->lock);
	/* A file of an earlier run is found by its handle. */
	if (!file && S_ISREG(inode->type))
		file = found = cache_file_get(m->cache, m->cache_space, INODE_HANDLE(inode));
	if (file && change_known(change))
		bytes = cache_file_ranges(file, change, list, RANGES_TEXT_BYTES);
	if (found)
		cache_file_put(found);
	if (ranges)
		return list;
	free(list);
	if (asprintf(&text, "%" PRIu64, bytes) < 0)
		return NULL;
	return text;
}

static char *seal_text(struct mount *m, struct inode *inode)
{
	const char *text;

	pthread_mutex_lock(&m->lock);
	text = inode_seal_text(m, inode, mount_now());
	pthread_mutex_unlock(&m->lock);
	return strdup(text);
}

static char *change_text(struct mount *m, struct inode *inode)
{
	struct change change;
	char *text = NULL;

	pthread_mutex_lock(&m->lock);
	change = standing_change(m, inode);
	pthread_mutex_unlock(&m->lock);
	if (!change_known(change))
		return strdup("unknown");
	if (asprintf(&text, "%" PRIx64 ".%" PRIx64, change.incarnation, change.counter) < 0)
		return NULL;
	return text;
}

static char *fetched_text(struct mount *m, const struct inode *inode)
{
	struct fetched_facts facts;
	char who[32], *text;
	uint64_t ago;
	int r;

	if (!prefetch_fetched(m, inode->nodeid, &facts))
		return strdup("");
	ago = instant_until(facts.at, mount_now()).ns / NS_PER_S;
	if (facts.source.class == WISH_GUESS)
		(void)snprintf(who, sizeof(who), "%s", predictor_names[facts.source.predictor]);
	else if (facts.source.class == WISH_POLICY)
		(void)snprintf(who, sizeof(who), "policy");
	else
		(void)snprintf(who, sizeof(who), "user %" PRIu32, facts.source.uid);
	if (facts.listing)
		r = asprintf(&text, "%s: listing, %" PRIu64 "s ago, %s since", who, ago,
			     facts.listed ? "listed" : "not listed");
	else
		r = asprintf(&text, "%s: %" PRIu64 " bytes, %" PRIu64 "s ago, %" PRIu64 " of them read",
			     who, facts.bytes, ago, facts.read_bytes);
	return r < 0 ? NULL : text;
}

int status_xattr(struct mount *m, struct inode *inode, const char *name, char **ret_text)
{
	char *text;

	if (strcmp(name, "mode") == 0 && !S_ISREG(inode->type))
		return -ENODATA;
	if (strcmp(name, "mode") == 0)
		text = passthrough_mode_text(m, inode);
	else if (strcmp(name, "cached") == 0)
		text = cache_text(m, inode, false);
	else if (strcmp(name, "ranges") == 0)
		text = cache_text(m, inode, true);
	else if (strcmp(name, "lease") == 0)
		text = lease_text(m, inode);
	else if (strcmp(name, "change") == 0)
		text = change_text(m, inode);
	else if (strcmp(name, "sealed") == 0)
		text = seal_text(m, inode);
	else if (strcmp(name, "fetched") == 0)
		text = fetched_text(m, inode);
	else if (strcmp(name, "policy") == 0 || strcmp(name, "rules") == 0)
		text = rules_text(m, inode);
	else if (strcmp(name, "version") == 0)
		text = strdup(LEASEHOLD_VERSION);
	else if (strcmp(name, "status") == 0)
		text = status_json(m);
	else
		return -ENODATA;
	if (!text)
		return -ENOMEM;
	if (!*text && strcmp(name, "ranges") != 0) {
		free(text);
		return -ENODATA;
	}
	*ret_text = text;
	return 0;
}
