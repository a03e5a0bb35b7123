#include "lease/holder_internal.h"

#include <assert.h>
#include <errno.h>

/* ---- requests in flight ---- */

/*
 * A stamp is the generation in which a request was begun. The generation changes when a recall
 * arrives while requests are in flight, so that "all requests sent before it" is "all of this
 * generation and of older ones", and counting them needs one number a generation.
 */
static struct generation *generation_at(const struct holder *h, uint32_t index)
{
	return &h->ring[(h->ring_first + index) % h->ring_capacity];
}

static struct generation *generation_open(const struct holder *h)
{
	return generation_at(h, h->ring_count - 1);
}

static void generations_trim(struct holder *h)
{
	while (h->ring_count > 1 && generation_at(h, 0)->count == 0) {
		h->ring_first = (h->ring_first + 1) % h->ring_capacity;
		h->ring_count--;
	}
}

/* Counts all that is in flight together, and begins a new generation. */
static void generations_merge(struct holder *h)
{
	uint64_t last = generation_open(h)->number;

	for (uint32_t i = 0; i < h->ring_count; i++)
		h->merged_count += generation_at(h, i)->count;
	h->merged_number = last;
	h->ring_first = 0;
	h->ring_count = 1;
	h->ring[0] = (struct generation){ .number = last + 1 };
}

/* The generation that a recall which arrives now closes. */
static uint64_t generation_close(struct holder *h)
{
	struct generation *open = generation_open(h);
	uint64_t number = open->number;

	if (open->count == 0)
		return number - 1;
	if (h->ring_count == h->ring_capacity) {
		generations_merge(h);
	} else {
		h->ring_count++;
		*generation_open(h) = (struct generation){ .number = number + 1 };
	}
	return number;
}

/* A request that was begun in this generation or before is in flight. */
static bool generation_alive(const struct holder *h, uint64_t number)
{
	const struct generation *oldest = generation_at(h, 0);

	return h->merged_count > 0 || (oldest->number <= number && oldest->count > 0);
}

/* ---- the window ---- */

/* Never 0. */
static uint64_t name_hash(const struct slice *name)
{
	uint64_t hash = name->length;

	for (size_t i = 0; i < name->length; i++)
		hash = rng_mix(hash ^ name->data[i]);
	return hash | 1;
}

static bool entry_busy(const struct window_entry *entry)
{
	return entry->dropping || entry->acknowledge;
}

/* Forgets what neither waits for its drop nor can be overtaking anything any more. */
static void window_purge(struct holder *h)
{
	uint32_t kept = 0;
	uint32_t busy = 0;

	for (uint32_t i = 0; i < h->window_count; i++) {
		struct window_entry *entry = &h->window[i];

		busy += entry_busy(entry);
		if (!entry_busy(entry) && !generation_alive(h, entry->generation))
			continue;
		if (kept != i)
			h->window[kept] = *entry;
		kept++;
	}
	h->window_count = kept;
	/*
	 * What only waits for requests makes room when a recall comes (window_void); to wait for it
	 * here could be for ever: the request may be waiting for the recall that found no place.
	 */
	if (h->repeat && busy <= h->window_capacity / 2) {
		h->repeat = false;
		stream_reopen(h);
	}
}

/* PROTOCOL.md 5.3: the window is full: all grants in flight are void, so it can forget them. */
static void window_void(struct holder *h)
{
	uint32_t kept = 0;

	generations_merge(h);
	h->void_until = h->merged_number;
	for (uint32_t i = 0; i < h->window_count; i++) {
		if (!entry_busy(&h->window[i]))
			continue;
		if (kept != i)
			h->window[kept] = h->window[i];
		kept++;
	}
	h->window_count = kept;
}

/* For a new session: nothing of the old one counts, and its answers are void. */
void window_reset(struct holder *h)
{
	h->window_count = 0;
	h->dropping_count = 0;
	h->repeat = false;
	h->recall_sequence = 0;
	h->done_next = 0;
	memset(h->done, 0, sizeof(h->done));
	generations_merge(h);
	h->void_until = h->merged_number;
}

int window_create(struct holder *h)
{
	const struct allocator *allocator = h->allocator;

	h->window_capacity = h->config.recall_window_max ? h->config.recall_window_max : 1;
	h->ring_capacity = h->window_capacity + 2;
	h->window = allocator->resize(allocator->context, NULL, 0,
				      h->window_capacity * sizeof(*h->window));
	if (!h->window)
		return -ENOMEM;
	h->ring = allocator->resize(allocator->context, NULL, 0,
				    h->ring_capacity * sizeof(*h->ring));
	if (!h->ring) {
		allocator->resize(allocator->context, h->window,
				  h->window_capacity * sizeof(*h->window), 0);
		return -ENOMEM;
	}
	h->ring_count = 1;
	h->ring[0] = (struct generation){ .number = 1 };
	return 0;
}

void window_destroy(struct holder *h)
{
	const struct allocator *allocator = h->allocator;

	allocator->resize(allocator->context, h->window, h->window_capacity * sizeof(*h->window),
			  0);
	allocator->resize(allocator->context, h->ring, h->ring_capacity * sizeof(*h->ring), 0);
}

static struct window_entry *window_find(const struct holder *h, uint64_t sequence)
{
	for (uint32_t i = 0; i < h->window_count; i++)
		if (h->window[i].sequence == sequence)
			return &h->window[i];
	return NULL;
}

/* What a recall said about `handle` is being dropped. */
bool window_dropping(const struct holder *h, const struct handle *handle)
{
	for (uint32_t i = 0; h->dropping_count && i < h->window_count; i++)
		if (h->window[i].dropping && handle_equal(&h->window[i].handle, handle))
			return true;
	return false;
}

static const struct done *done_find(const struct holder *h, uint64_t sequence)
{
	for (uint32_t i = 0; i < DONE_COUNT_MAX; i++)
		if (h->done[i].sequence == sequence)
			return &h->done[i];
	return NULL;
}

static bool lease_is_held(const struct holder *h, const struct handle *handle)
{
	const struct node *node = node_get(h, handle);

	return node && node->leased;
}

/* ---- what leaves ---- */

static bool flush_drop(struct holder *h, struct window_entry *entry, struct holder_actions *out)
{
	struct holder_action *action = holder_actions_add(out, HOLDER_DROP);

	if (!action)
		return false;
	action->session = h->session;
	action->sequence = entry->sequence;
	action->handle = entry->handle;
	action->scope = (enum recall_scope)entry->scope;
	for (uint32_t i = 0; entry->scope == RECALL_NAMES && i < entry->name_count; i++) {
		action->name_length[i] = (uint8_t)entry->name[i].length;
		memcpy(action->names[i], entry->name[i].data, entry->name[i].length);
		action->name_count++;
	}
	entry->unsent = false;
	return true;
}

static bool flush_acknowledge(struct holder *h, struct window_entry *entry,
			      struct holder_actions *out)
{
	struct holder_action *action = holder_actions_add(out, HOLDER_SEND_ACKNOWLEDGE);

	if (!action)
		return false;
	action->session = h->session;
	action->sequence = entry->sequence;
	action->handle = entry->handle;
	action->open = entry->open;
	action->kept = entry->kept;
	entry->acknowledge = false;
	return true;
}

bool window_flush(struct holder *h, struct holder_actions *out)
{
	for (uint32_t i = 0; i < h->window_count; i++) {
		struct window_entry *entry = &h->window[i];

		if (entry->unsent && !flush_drop(h, entry, out))
			return false;
		if (entry->acknowledge && !flush_acknowledge(h, entry, out))
			return false;
	}
	window_purge(h);
	/* The stream may have been asked for by that. */
	if (h->wants & WANT_STREAM) {
		struct holder_action *action = holder_actions_add(out, HOLDER_OPEN_STREAM);

		if (!action)
			return false;
		action->session = h->session;
		h->wants &= ~(uint32_t)WANT_STREAM;
	}
	return true;
}

/* A drop that could not leave with its names leaves later as a drop of everything. */
void window_forget_borrowed(struct holder *h)
{
	for (uint32_t i = 0; h->starved && i < h->window_count; i++) {
		struct window_entry *entry = &h->window[i];

		if (!entry->unsent || entry->scope == RECALL_ALL)
			continue;
		entry->scope = RECALL_ALL;
		entry->name_count = 0;
		(void)node_drop_lease(h, &entry->handle);
	}
}

/* ---- requests ---- */

uint64_t holder_request_begin(struct holder *h)
{
	struct generation *open = generation_open(h);

	open->count++;
	return open->number;
}

void holder_request_end(struct holder *h, uint64_t stamp)
{
	if (stamp <= h->merged_number) {
		assert(h->merged_count > 0);
		h->merged_count--;
	} else {
		const struct generation *oldest = generation_at(h, 0);
		struct generation *generation;

		assert(stamp >= oldest->number && stamp - oldest->number < h->ring_count);
		generation = generation_at(h, (uint32_t)(stamp - oldest->number));
		assert(generation->count > 0);
		generation->count--;
	}
	generations_trim(h);
	window_purge(h);
}

bool holder_overtaken(const struct holder *h, uint64_t stamp, uint64_t recall_sequence,
		      const struct handle *handle, const struct slice *name)
{
	uint64_t hash = 0;

	if (h->state != HOLDER_ACTIVE || stamp <= h->void_until)
		return true;
#ifdef LEASE_WRONG_ACCEPT_OVERTAKEN
	/* Wrong on purpose: whatever arrives last is taken for newest. */
	return false;
#endif
	for (uint32_t i = 0; i < h->window_count; i++) {
		const struct window_entry *entry = &h->window[i];

		if (entry->own ? stamp > entry->generation : entry->sequence <= recall_sequence)
			continue;
		if (!handle_equal(&entry->handle, handle))
			continue;
		if (!name || entry->scope == RECALL_ALL)
			return true;
		if (!hash)
			hash = name_hash(name);
		for (uint32_t n = 0; n < entry->name_count; n++)
			if (entry->names[n] == hash)
				return true;
	}
	return false;
}

void holder_modified(struct holder *h, const struct handle *handle, const struct slice *names,
		     uint32_t name_count)
{
	struct window_entry entry = { .handle = *handle, .own = true, .scope = RECALL_ALL };

	if (name_count > 0 && name_count <= 2) {
		entry.scope = RECALL_NAMES;
		for (uint32_t i = 0; i < name_count; i++)
			entry.names[entry.name_count++] = name_hash(&names[i]);
	}
	if (h->window_count == h->window_capacity)
		window_void(h);
	if (h->window_count == h->window_capacity) {
		/* Full of drops under way: all that is in flight is void, which covers this. */
		return;
	}
	entry.generation = generation_close(h);
	h->window[h->window_count++] = entry;
	window_purge(h);
}

/* ---- recalls ---- */

/* Takes scope and names from the message; what cannot be understood recalls everything. */
static void entry_scope(struct window_entry *entry, const struct message_recall *recall)
{
	struct reader r = reader_of(recall->names.data, recall->names.length);
	struct item_name name;

	entry->scope = RECALL_ALL;
	if (recall->scope != RECALL_NAMES)
		return;
	while (item_name_read(&r, &name)) {
		if (entry->name_count == 2)
			return;
		entry->name[entry->name_count] = name.name;
		entry->names[entry->name_count++] = name_hash(&name.name);
	}
	if (!r.failed)
		entry->scope = RECALL_NAMES;
}

/* An acknowledgement that was sent before: again, with what holds now. */
static void recall_repeated(struct holder *h, const struct window_entry *entry, bool open,
			    struct holder_actions *out)
{
	struct holder_action *action = holder_actions_add(out, HOLDER_SEND_ACKNOWLEDGE);

	if (!action) {
		h->repeat = true;
		return;
	}
	action->session = h->session;
	action->sequence = entry->sequence;
	action->handle = entry->handle;
	action->open = open;
	/* If the origin still waits, it has granted nothing since: what we hold now, we kept. */
	action->kept = entry->scope == RECALL_NAMES && lease_is_held(h, &entry->handle);
}

/* PROTOCOL.md 5.2: from its arrival on the lease is gone, or its names are. */
static void recall_new(struct holder *h, struct window_entry *entry)
{
	struct node *node;

	h->counters.recalls++;
	if (h->window_count == h->window_capacity)
		window_void(h);
	if (h->window_count == h->window_capacity) {
		/* No place to remember the drop: nothing is used, and it must come again. */
		(void)node_drop_lease(h, &entry->handle);
		h->repeat = true;
		return;
	}
	if (entry->scope == RECALL_ALL) {
		(void)node_drop_lease(h, &entry->handle);
	} else {
		node = node_get(h, &entry->handle);
		if (node)
			node_forget_change(node);
	}
	entry->generation = generation_close(h);
	entry->dropping = true;
	entry->unsent = true;
	h->dropping_count++;
	h->window[h->window_count++] = *entry;
}

void holder_recall(struct holder *h, struct instant now, struct session_id session,
		   const struct message_recall *recall, struct holder_actions *out)
{
	struct window_entry entry = { .sequence = recall->sequence, .handle = recall->handle };
	const struct window_entry *known;
	const struct done *done;

	holder_advance(h, now);
	/* Sequences begin at 1; what belongs to another session is not ours to acknowledge. */
	if (!session_is(h, session) || recall->sequence == 0) {
		holder_flush(h, out);
		return;
	}
	if (recall->sequence > h->recall_sequence)
		h->recall_sequence = recall->sequence;
	entry_scope(&entry, recall);
	known = window_find(h, recall->sequence);
	done = done_find(h, recall->sequence);
	if (known || done)
		h->counters.recall_repeats++;
	if (known && entry_busy(known))
		; /* It is being dropped, and will be acknowledged then. */
	else if (done)
		recall_repeated(h, &entry, done->open, out);
	else if (known)
		recall_repeated(h, known, known->open, out);
	else
		recall_new(h, &entry);
	holder_flush(h, out);
}

void holder_dropped(struct holder *h, struct instant now, struct session_id session,
		    uint64_t sequence, bool open, struct holder_actions *out)
{
	struct window_entry *entry;

	holder_advance(h, now);
	entry = session_is(h, session) ? window_find(h, sequence) : NULL;
	if (entry && entry->dropping && !entry->unsent) {
		entry->dropping = false;
		h->dropping_count--;
		entry->acknowledge = true;
		entry->open = open;
		entry->kept = entry->scope == RECALL_NAMES && lease_is_held(h, &entry->handle);
		h->done[h->done_next] = (struct done){ .sequence = sequence, .open = open };
		h->done_next = (h->done_next + 1) % DONE_COUNT_MAX;
	}
	holder_flush(h, out);
}

/* ---- looking ---- */

void window_check(const struct holder *h)
{
	uint32_t dropping = 0;

	assert(h->window_count <= h->window_capacity);
	assert(h->ring_count >= 1 && h->ring_count <= h->ring_capacity);
	for (uint32_t i = 0; i < h->window_count; i++) {
		const struct window_entry *entry = &h->window[i];

		if (entry->own) {
			assert(entry->sequence == 0 && !entry_busy(entry));
		} else {
			assert(entry->sequence != 0 && entry->sequence <= h->recall_sequence);
			assert(window_find(h, entry->sequence) == entry);
		}
		dropping += entry->dropping;
		/* A recall outranks a grant: no lease while it is being dropped. */
		assert(!entry->dropping || entry->scope == RECALL_NAMES ||
		       !lease_is_held(h, &entry->handle));
		assert(entry_busy(entry) || generation_alive(h, entry->generation));
	}
	assert(dropping == h->dropping_count);
	for (uint32_t i = 1; i < h->ring_count; i++)
		assert(generation_at(h, i)->number == generation_at(h, i - 1)->number + 1);
	assert(generation_at(h, 0)->number > h->merged_number);
}
