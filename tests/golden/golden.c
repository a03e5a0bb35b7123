/*
 * golden.c - runs scenarios and compares all that the lease cores say with what is written down.
 *
 *     golden [--update] SCENARIO...
 *
 * A scenario is a text file, one event a line; beside it, FILE.expected has the same lines, each
 * followed by what came of it. --update writes that file: read the difference before it is
 * committed. '#' begins a comment, which is copied. Names of sessions, hosts, inodes, requests and
 * operations are the scenario's own words; an inode's word is its handle. README.md has the events.
 */
#include "lease/authority.h"
#include "lease/base/rng.h"
#include "lease/holder.h"
#include "lease/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define WORDS_MAX 16
#define NAMES_MAX 64
#define OUTPUT_MAX 65536

struct scenario {
	const char *path;
	int line;
	struct instant now;
	struct authority *authority;
	struct authority_actions actions;
	struct holder *holder;
	struct holder_actions holder_actions;
	/* Words for numbers: sessions, operations, requests. */
	char names[NAMES_MAX][32];
	uint64_t values[NAMES_MAX];
	size_t name_count;
	uint32_t session_count;
	char output[OUTPUT_MAX];
	size_t length;
	char *words[WORDS_MAX];
	int word_count;
	int at;
};

static void *resize(void *context, void *pointer, size_t old_size, size_t size)
{
	if (size == 0) {
		free(pointer);
		return NULL;
	}
	return realloc(pointer, size);
}

static const struct allocator allocator = { resize, NULL };

static void die(const struct scenario *s, const char *what)
{
	fprintf(stderr, "%s:%d: %s\n", s->path, s->line, what);
	exit(EXIT_FAILURE);
}

__attribute__((format(printf, 2, 3))) static void say(struct scenario *s, const char *format, ...)
{
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = vsnprintf(s->output + s->length, OUTPUT_MAX - s->length, format, arguments);
	va_end(arguments);
	if (length < 0 || s->length + (size_t)length >= OUTPUT_MAX)
		die(s, "too much output");
	s->length += (size_t)length;
}

/* ---- words ---- */

static const char *word(struct scenario *s)
{
	if (s->at == s->word_count)
		die(s, "a word is missing");
	return s->words[s->at++];
}

/* Takes the next word if it is this one. */
static bool optional(struct scenario *s, const char *text)
{
	if (s->at == s->word_count || strcmp(s->words[s->at], text) != 0)
		return false;
	s->at++;
	return true;
}

static uint64_t number(struct scenario *s)
{
	char *end;
	uint64_t value = strtoull(word(s), &end, 10);

	if (*end)
		die(s, "not a number");
	return value;
}

static struct instant instant_of(struct scenario *s)
{
	return (struct instant){ number(s) * NS_PER_MS };
}

static void name_value(struct scenario *s, const char *name, uint64_t value)
{
	if (s->name_count == NAMES_MAX || strlen(name) >= sizeof(s->names[0]))
		die(s, "too many names, or too long a name");
	snprintf(s->names[s->name_count], sizeof(s->names[0]), "%s", name);
	s->values[s->name_count++] = value;
}

/* The value of a name; a new name gets a value of its own, far from what stamps count. */
static uint64_t value_of(struct scenario *s, const char *name)
{
	for (size_t i = s->name_count; i-- > 0;)
		if (strcmp(s->names[i], name) == 0)
			return s->values[i];
	name_value(s, name, s->name_count + 1000);
	return s->values[s->name_count - 1];
}

static const char *name_of(struct scenario *s, uint64_t value)
{
	for (size_t i = s->name_count; value && i-- > 0;)
		if (s->values[i] == value)
			return s->names[i];
	return value ? "?" : "none";
}

static struct session_id session(struct scenario *s)
{
	return (struct session_id){ value_of(s, word(s)) };
}

static struct handle handle_of(struct scenario *s, const char *text)
{
	struct handle handle = { .length = (uint8_t)strlen(text) };

	if (strlen(text) > HANDLE_BYTES_MAX)
		die(s, "too long a handle");
	memcpy(handle.bytes, text, handle.length);
	return handle;
}

static struct change change(struct scenario *s)
{
	return (struct change){ 1, number(s) };
}

/* ---- actions ---- */

static void say_authority_action(struct scenario *s, const struct authority_action *action)
{
	const char *subject = name_of(s, action->session.value);
	const char *op = name_of(s, action->op);

	switch (action->kind) {
	case AUTHORITY_SEND_RECALL:
		say(s, "  -> %s: recall %llu of %.*s", subject,
		    (unsigned long long)action->recall_sequence, action->handle.length,
		    (const char *)action->handle.bytes);
		say(s, "%s", action->scope == RECALL_NAMES ? ", names" : ", all");
		for (uint32_t i = 0; i < action->name_count; i++)
			say(s, " %.*s", action->name_length[i], (const char *)action->names[i]);
		say(s, "\n");
		return;
	case AUTHORITY_RUN:
		say(s, "  run %s\n", op);
		return;
	case AUTHORITY_REFUSE:
		say(s, "  refuse %s: %s\n", op, status_name(action->status));
		return;
	case AUTHORITY_REPLAY:
		say(s, "  replay %s: slot %u of %s\n", op, action->slot, subject);
		return;
	case AUTHORITY_JOIN:
		say(s, "  join %s to %s\n", op, name_of(s, action->other));
		return;
	case AUTHORITY_SESSION_ENDED:
		say(s, "  ended %s\n", subject);
		return;
	case AUTHORITY_SESSION_FORGOTTEN:
		say(s, "  forgotten %s\n", subject);
		return;
	case AUTHORITY_UNUSED:
		say(s, "  unused %.*s\n", action->handle.length,
		    (const char *)action->handle.bytes);
		return;
	case AUTHORITY_GRACE_ENDED:
		say(s, "  grace ended\n");
		return;
	case AUTHORITY_SEND_LOCK_OFFER:
		say(s, "  -> %s: lock offer %llu%s\n", subject, (unsigned long long)action->waiter,
		    action->status == STATUS_OK ? "" : ", deadlock");
		return;
	}
}

static void say_holder_action(struct scenario *s, const struct holder_action *action)
{
	static const char *const names[] = {
		[HOLDER_SEND_SESSION_OPEN] = "-> open session, previous",
		[HOLDER_OPEN_STREAM] = "-> stream of",
		[HOLDER_SEND_KEEPALIVE] = "-> keep-alive of",
		[HOLDER_SEND_ACKNOWLEDGE] = "-> acknowledge",
		[HOLDER_SEND_RELEASE] = "-> release",
		[HOLDER_SEND_RECLAIM] = "-> reclaim",
		[HOLDER_SEND_RECLAIM_DONE] = "-> reclaim done,",
		[HOLDER_DROP] = "drop",
		[HOLDER_LOST] = "loses what it kept of",
		[HOLDER_DROP_ALL] = "drop everything of",
		[HOLDER_RENEWED] = "renewed",
	};

	say(s, "  host %s", names[action->kind]);
	switch (action->kind) {
	case HOLDER_SEND_ACKNOWLEDGE:
		say(s, " %llu%s%s\n", (unsigned long long)action->sequence,
		    action->open ? " open" : "", action->kept ? " kept" : "");
		return;
	case HOLDER_DROP:
		say(s, " %llu: %.*s, %s", (unsigned long long)action->sequence,
		    action->handle.length, (const char *)action->handle.bytes,
		    action->scope == RECALL_NAMES ? "names" : "all");
		for (uint32_t i = 0; i < action->name_count; i++)
			say(s, " %.*s", action->name_length[i], (const char *)action->names[i]);
		say(s, "\n");
		return;
	case HOLDER_SEND_RELEASE:
	case HOLDER_LOST:
		say(s, " %.*s\n", action->handle.length, (const char *)action->handle.bytes);
		return;
	case HOLDER_SEND_RECLAIM:
		say(s, " %.*s at %llu\n", action->handle.length,
		    (const char *)action->handle.bytes,
		    (unsigned long long)action->change.counter);
		return;
	case HOLDER_RENEWED:
		say(s, " %s until %llu.%06llu\n", name_of(s, action->session.value),
		    (unsigned long long)(action->until.ns / NS_PER_MS),
		    (unsigned long long)(action->until.ns % NS_PER_MS));
		return;
	default:
		say(s, " %s\n", name_of(s, action->session.value));
	}
}

/* ---- events of the origin ---- */

static void make_authority(struct scenario *s, const struct authority_previous *previous,
			   size_t count)
{
	const struct authority_config config = {
		.term = { 30 * NS_PER_S },
		.drift_ppm = 1000,
		.margin = { 100 * NS_PER_MS },
		.session_count_max = 8,
		.slot_count_max = 8,
		.lease_count_max = 100,
		.lease_total_max = 1000,
		.operation_count_max = 100,
		.open_count_max = 100,
		.lock_count_max = 20,
		.lock_total_max = 100,
		.ended_count_max = 8,
		.backoff_min = { 10 * NS_PER_MS },
		.backoff_max = { 1000 * NS_PER_MS },
		.epoch = 1,
		.seed = s->name_count + 1,
	};

	authority_destroy(s->authority);
	if (authority_create(&config, &allocator, s->now, previous, count, false,
			     (struct duration){ 30130 * NS_PER_MS }, &s->authority))
		die(s, "no memory");
}

static void host_name(struct scenario *s, const char *name, uint8_t host[16])
{
	if (strlen(name) > 15)
		die(s, "too long a host");
	memset(host, 0, 16);
	memcpy(host, name, strlen(name));
}

/* restart [SESSION HOST]...: a new process, with these in the durable record */
static void event_restart(struct scenario *s)
{
	struct authority_previous previous[8];
	size_t count = 0;

	while (s->at < s->word_count && count < 8) {
		previous[count].session = session(s);
		host_name(s, word(s), previous[count++].host);
	}
	make_authority(s, previous, count);
}

static void event_open(struct scenario *s)
{
	struct session_id previous = { 0 }, opened;
	uint8_t host[16];
	uint32_t slots;
	bool reclaim;
	char name[8];
	uint16_t status;

	host_name(s, word(s), host);
	if (optional(s, "previous"))
		previous = session(s);
	status = authority_session_open(s->authority, s->now, host, 1, previous, 4, &s->actions,
					&opened, &slots, &reclaim);
	if (status != STATUS_OK) {
		say(s, "  %s\n", status_name(status));
		return;
	}
	if (strcmp(name_of(s, opened.value), "?") == 0) {
		snprintf(name, sizeof(name), "S%u", ++s->session_count);
		name_value(s, name, opened.value);
	}
	say(s, "  session %s%s\n", name_of(s, opened.value), reclaim ? ", may reclaim" : "");
}

static void event_grant(struct scenario *s)
{
	struct session_id id = session(s);
	struct handle handle = handle_of(s, word(s));
	uint64_t op = optional(s, "by") ? value_of(s, word(s)) : 0, sequence;
	enum lease_kind kind = authority_grant(s->authority, s->now, id, &handle, op, &s->actions,
					       &sequence);

	say(s, "  %s at %llu\n", kind == LEASE_WRITE ? "granted, to write," :
			      kind == LEASE_READ  ? "granted" : "not granted",
	    (unsigned long long)sequence);
}

/*
 * begin OP modify|read|acquire SESSION|origin [write-back SEQUENCE] [slot N SEQUENCE] [deadline MS]
 *     INODE[:name]...
 */
static void event_begin(struct scenario *s)
{
	struct authority_op op = { .id = value_of(s, word(s)), .deadline = { UINT64_MAX } };

	op.kind = optional(s, "read")	 ? AUTHORITY_READ_STRICT :
		  optional(s, "acquire") ? AUTHORITY_ACQUIRE : AUTHORITY_MODIFY;
	if (op.kind == AUTHORITY_MODIFY && !optional(s, "modify"))
		die(s, "modify, read or acquire?");
	if (!optional(s, "origin"))
		op.session = session(s);
	op.write_back = optional(s, "write-back");
	if (op.write_back)
		op.lease_sequence = number(s);
	if (optional(s, "slot")) {
		op.slot = (uint32_t)number(s);
		op.sequence = number(s);
	}
	if (optional(s, "deadline"))
		op.deadline = instant_of(s);
	while (s->at < s->word_count && op.target_count < AUTHORITY_TARGETS_MAX) {
		struct authority_target *target = &op.targets[op.target_count++];
		char *text = s->words[s->at++];
		char *colon = strchr(text, ':');

		if (colon) {
			*colon = '\0';
			target->scope = RECALL_NAMES;
			target->name_count = 1;
			target->names[0] = slice_of(colon + 1);
		}
		target->handle = handle_of(s, text);
	}
	if (authority_begin(s->authority, s->now, &op, &s->actions))
		die(s, "no memory");
}

static void event_acknowledge(struct scenario *s)
{
	struct session_id id = session(s);
	uint64_t sequence = number(s);
	bool open = optional(s, "open"), kept = optional(s, "kept");
	uint16_t status = authority_acknowledge(s->authority, s->now, id, sequence, open, kept,
						&s->actions);

	if (status != STATUS_OK)
		say(s, "  %s\n", status_name(status));
}

static void event_keepalive(struct scenario *s)
{
	uint64_t sequence;
	uint16_t status = authority_keepalive(s->authority, s->now, session(s), &s->actions,
					      &sequence);

	say(s, "  %s at %llu\n", status_name(status), (unsigned long long)sequence);
}

static void event_reclaim(struct scenario *s)
{
	struct session_id id = session(s);
	struct handle handle = handle_of(s, word(s));

	bool write = optional(s, "write");

	say(s, "  %s\n", authority_reclaim(s->authority, s->now, id, &handle,
					   write ? LEASE_WRITE : LEASE_READ, false, &s->actions) ?
				 "confirmed" : "not confirmed");
}

/* SESSION OWNER read|write|unlock START END INODE */
static struct lock_request lock_of(struct scenario *s)
{
	struct lock_request request = { .kind = LOCK_KIND_FCNTL };
	const char *type;

	request.owner = number(s);
	type = word(s);
	request.range.type = strcmp(type, "write") == 0 ? LOCK_TYPE_WRITE :
			     strcmp(type, "read") == 0 ? LOCK_TYPE_READ : LOCK_TYPE_NONE;
	request.range.start = number(s);
	request.range.end = number(s);
	request.handle = handle_of(s, word(s));
	return request;
}

/* lock SESSION NUMBER OWNER TYPE START END INODE [wait WAITER] */
static void event_lock(struct scenario *s)
{
	struct session_id id = session(s);
	uint64_t request_number = number(s);
	struct lock_request request = lock_of(s);

	if (optional(s, "wait"))
		request.waiter = number(s);
	say(s, "  %s\n", status_name(authority_lock(s->authority, s->now, id, request_number,
						    &request, &s->actions)));
}

static void event_lock_reclaim(struct scenario *s)
{
	struct session_id id = session(s);
	struct lock_request claim = lock_of(s);

	say(s, "  %s\n", authority_lock_reclaim(s->authority, s->now, id, &claim, &s->actions) ?
				 "held" : "lost");
}

static void event_cover(struct scenario *s)
{
	static const char *const says[] = {
		[COVER_NONE] = "took its place",
		[COVER_STANDS] = "its lease stands",
		[COVER_GONE] = "its lease is gone",
	};

	say(s, "  %s\n", says[authority_cover(s->authority, value_of(s, word(s)))]);
}

static bool authority_event(struct scenario *s, const char *event)
{
	struct authority *a = s->authority;
	struct session_id id;
	struct handle handle;
	uint64_t value;

	if (strcmp(event, "restart") == 0) {
		event_restart(s);
	} else if (strcmp(event, "open") == 0) {
		event_open(s);
	} else if (strcmp(event, "grant") == 0) {
		event_grant(s);
	} else if (strcmp(event, "begin") == 0) {
		event_begin(s);
	} else if (strcmp(event, "acknowledge") == 0) {
		event_acknowledge(s);
	} else if (strcmp(event, "keepalive") == 0) {
		event_keepalive(s);
	} else if (strcmp(event, "reclaim") == 0) {
		event_reclaim(s);
	} else if (strcmp(event, "apply") == 0) {
		say(s, "  %s\n", authority_may_apply(a, s->now, value_of(s, word(s))) ?
					 "may apply" : "must not apply");
	} else if (strcmp(event, "cover") == 0) {
		event_cover(s);
	} else if (strcmp(event, "finish") == 0) {
		authority_finish(a, s->now, value_of(s, word(s)), false, &s->actions);
	} else if (strcmp(event, "retry") == 0) {
		authority_finish(a, s->now, value_of(s, word(s)), true, &s->actions);
	} else if (strcmp(event, "cancel") == 0) {
		authority_cancel(a, s->now, value_of(s, word(s)), &s->actions);
	} else if (strcmp(event, "attach") == 0) {
		(void)authority_stream_attached(a, s->now, session(s), &s->actions);
	} else if (strcmp(event, "close") == 0) {
		(void)authority_session_close(a, s->now, session(s), &s->actions);
	} else if (strcmp(event, "reclaim-done") == 0) {
		authority_reclaim_done(a, s->now, session(s), &s->actions);
	} else if (strcmp(event, "release") == 0) {
		id = session(s);
		handle = handle_of(s, word(s));
		authority_release(a, s->now, id, &handle, &s->actions);
	} else if (strcmp(event, "lock") == 0) {
		event_lock(s);
	} else if (strcmp(event, "settle") == 0) {
		id = session(s);
		value = number(s);
		(void)authority_lock_settle(a, s->now, id, value, optional(s, "take"), &s->actions);
	} else if (strcmp(event, "locks") == 0) {
		say(s, "  locks %s\n", authority_locks_expected(a, session(s)) ?
					      "to be reclaimed" : "lost");
	} else if (strcmp(event, "lock-reclaim") == 0) {
		event_lock_reclaim(s);
	} else if (strcmp(event, "locks-reclaimed") == 0) {
		authority_locks_reclaimed(a, session(s));
	} else if (strcmp(event, "recorded") == 0) {
		authority_recorded(a, s->now, authority_record_mark(a), &s->actions);
	} else if (strcmp(event, "tick") == 0) {
		authority_tick(a, s->now, &s->actions);
	} else {
		return false;
	}
	return true;
}

/* ---- events of a host ---- */

static void host_opened(struct scenario *s)
{
	struct message_session_opened answer = {
		.status = STATUS_OK, .session = value_of(s, word(s)), .epoch = 1,
		.term_ms = 30000, .drift_ppm = 1000,
	};
	struct instant sent = instant_of(s);

	answer.reclaim = optional(s, "reclaim");
	holder_session_opened(s->holder, s->now, sent, &answer, &s->holder_actions);
}

static void host_recall(struct scenario *s)
{
	uint8_t names[512];
	struct writer w = writer_of(names, sizeof(names));
	struct message_recall recall = { .scope = RECALL_ALL };
	struct session_id id = session(s);

	recall.sequence = number(s);
	recall.handle = handle_of(s, word(s));
	while (s->at < s->word_count) {
		struct item_name item = { .name = slice_of(word(s)) };

		recall.scope = RECALL_NAMES;
		item_name_write(&w, &item);
	}
	recall.names = (struct slice){ names, w.at };
	holder_recall(s->holder, s->now, id, &recall, &s->holder_actions);
}

/* host grant REQUEST SEQUENCE INODE CHANGE [write]; host reclaimed SESSION REQUEST SEQUENCE INODE CHANGE */
static void host_answer(struct scenario *s, bool reclaimed)
{
	struct session_id id = reclaimed ? session(s) : (struct session_id){ 0 };
	uint64_t stamp = value_of(s, word(s)), sequence = number(s);
	struct handle handle = handle_of(s, word(s));
	struct change at = change(s);
	bool yes = reclaimed && optional(s, "yes");
	uint64_t instance;

	if (reclaimed && !yes && !optional(s, "no"))
		die(s, "yes or no?");
	if (reclaimed) {
		holder_reclaimed(s->holder, s->now, id, stamp, sequence, &handle, at, yes,
				 &s->holder_actions);
		return;
	}
	instance = holder_grant(s->holder, s->now, stamp, sequence, &handle, at,
				&s->holder_actions);
	if (optional(s, "write"))
		holder_set_exclusive(s->holder, &handle, instance);
	say(s, "  host %s\n", instance ? "takes it" : "voids it");
}

static void host_modified(struct scenario *s)
{
	struct handle handle = handle_of(s, word(s));
	bool known = !optional(s, "unknown");
	struct change before = { 0 }, after = { 0 };

	if (known) {
		before = change(s);
		after = change(s);
	}
	say(s, "  host %s what it has\n",
	    holder_modify_end(s->holder, &handle, known, before, after) ? "keeps" : "drops");
}

static void host_lease(struct scenario *s)
{
	struct handle handle = handle_of(s, word(s));

	say(s, "  host %s\n", holder_lease(s->holder, s->now, &handle) ? "answers from cache" :
									 "asks the origin");
}

static void host_stores(struct scenario *s)
{
	struct handle handle = handle_of(s, word(s));

	say(s, "  host %s\n", holder_exclusive(s->holder, s->now, &handle) ? "takes stores in" :
									     "must acquire");
}

static void host_event(struct scenario *s)
{
	const char *event = word(s);
	struct holder *h = s->holder;
	struct session_id id;
	struct handle handle;
	uint64_t value;

	if (strcmp(event, "connect") == 0) {
		holder_connect(h, s->now, &s->holder_actions);
	} else if (strcmp(event, "opened") == 0) {
		host_opened(s);
	} else if (strcmp(event, "attached") == 0) {
		holder_stream_attached(h, s->now, session(s), &s->holder_actions);
	} else if (strcmp(event, "lost") == 0) {
		holder_session_lost(h, s->now, session(s), &s->holder_actions);
	} else if (strcmp(event, "request") == 0) {
		name_value(s, word(s), holder_request_begin(h));
	} else if (strcmp(event, "end") == 0) {
		holder_request_end(h, value_of(s, word(s)));
	} else if (strcmp(event, "grant") == 0) {
		host_answer(s, false);
	} else if (strcmp(event, "reclaimed") == 0) {
		host_answer(s, true);
	} else if (strcmp(event, "recall") == 0) {
		host_recall(s);
	} else if (strcmp(event, "dropped") == 0) {
		id = session(s);
		value = number(s);
		holder_dropped(h, s->now, id, value, optional(s, "open"), &s->holder_actions);
	} else if (strcmp(event, "lease") == 0) {
		host_lease(s);
	} else if (strcmp(event, "stores") == 0) {
		host_stores(s);
	} else if (strcmp(event, "modify") == 0) {
		handle = handle_of(s, word(s));
		if (holder_modify_begin(h, &handle))
			die(s, "no memory");
	} else if (strcmp(event, "modified") == 0) {
		host_modified(s);
	} else if (strcmp(event, "tick") == 0) {
		holder_tick(h, s->now, &s->holder_actions);
	} else {
		die(s, "no such event of a host");
	}
}

/* ---- running ---- */

static void run_line(struct scenario *s, char *line)
{
	const char *event;

	s->line++;
	line[strcspn(line, "\n")] = '\0';
	say(s, "%s\n", line);
	s->word_count = 0;
	s->at = 0;
	for (char *at = strtok(line, " "); at && *at != '#'; at = strtok(NULL, " ")) {
		if (s->word_count == WORDS_MAX)
			die(s, "too many words");
		s->words[s->word_count++] = at;
	}
	if (s->word_count == 0)
		return;
	event = word(s);
	if (strcmp(event, "at") == 0)
		s->now = instant_of(s);
	else if (strcmp(event, "host") == 0)
		host_event(s);
	else if (!authority_event(s, event))
		die(s, "no such event");
	if (s->at != s->word_count)
		die(s, "a word too many");
	for (size_t i = 0; i < s->actions.count; i++)
		say_authority_action(s, &s->actions.items[i]);
	for (size_t i = 0; i < s->holder_actions.count; i++)
		say_holder_action(s, &s->holder_actions.items[i]);
	s->actions.count = 0;
	s->holder_actions.count = 0;
	authority_check_invariants(s->authority);
	holder_check_invariants(s->holder);
}

static void run_scenario(struct scenario *s, FILE *file)
{
	const struct holder_config config = {
		.fence_margin = { 500 * NS_PER_MS },
		.lease_count_max = 100,
		.recall_window_max = 16,
		.retry_min_ms = 100,
		.retry_max_ms = 5000,
	};
	char line[512];

	authority_actions_init(&s->actions, &allocator);
	holder_actions_init(&s->holder_actions, &allocator);
	make_authority(s, NULL, 0);
	if (holder_create(&config, &allocator, 1, &s->holder))
		die(s, "no memory");
	while (fgets(line, sizeof(line), file))
		run_line(s, line);
	authority_destroy(s->authority);
	holder_destroy(s->holder);
	authority_actions_finish(&s->actions);
	holder_actions_finish(&s->holder_actions);
}

/* True when FILE.expected says the same, or was written. */
static bool compare(const struct scenario *s, bool update)
{
	static char expected[OUTPUT_MAX];
	char path[4096];
	size_t length, line = 1, at = 0;
	FILE *file;

	snprintf(path, sizeof(path), "%s.expected", s->path);
	file = fopen(path, update ? "w" : "r");
	if (!file) {
		fprintf(stderr, "%s: cannot be opened; --update writes it\n", path);
		return false;
	}
	if (update) {
		length = fwrite(s->output, 1, s->length, file);
		return fclose(file) == 0 && length == s->length;
	}
	length = fread(expected, 1, sizeof(expected), file);
	fclose(file);
	if (length == s->length && memcmp(expected, s->output, length) == 0)
		return true;
	for (; at < length && at < s->length && expected[at] == s->output[at]; at++)
		line += expected[at] == '\n';
	fprintf(stderr, "%s:%zu: differs from what came:\n%s", path, line, s->output);
	return false;
}

int main(int argc, char **argv)
{
	bool update = argc > 1 && strcmp(argv[1], "--update") == 0;
	int failed = argc < 2 + update;

	for (int i = 1 + update; i < argc; i++) {
		struct scenario *s = calloc(1, sizeof(*s));
		FILE *file = fopen(argv[i], "r");

		if (!s || !file) {
			fprintf(stderr, "%s: cannot be read\n", argv[i]);
			free(s);
			return EXIT_FAILURE;
		}
		s->path = argv[i];
		run_scenario(s, file);
		fclose(file);
		failed += !compare(s, update);
		free(s);
	}
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
