#include "prefetch/replay.h"

#include <errno.h>

#include "lease/base/map.h"
#include "lease/base/pool.h"
#include "lease/base/range_set.h"
#include "lease/base/rng.h"
#include "prefetch/table.h"
#include "prefetch/trace.h"

#define PIECE_BYTES LEDGER_PIECE_BYTES
#define RANGES_MAX (1u << 20)
/* What is larger is no file, and no READ, of a job: a model need not bear it. */
#define SIZE_MAX_BYTES (UINT64_C(16) << 40)
#define READ_MAX_BYTES (UINT64_C(1) << 30)
/* What was fetched ahead and is under way: so many round trips of the link, and at least this. */
#define AHEAD_ROUND_TRIPS 2
#define AHEAD_BYTES_MIN (4 * PIECE_BYTES)
#define AHEAD_COUNT_MAX 256u
/* Of the cache, what was fetched ahead and not read may take: one part in so many. */
#define UNREAD_SHARE 2
#define ROOM_LEFT_SHARE 16
/* Of the listing and the attributes of one name. */
#define ENTRY_BYTES 150u
#define WISHES_MAX 65536u
#define INTENTS_MAX 512u
#define TYPE_DIRECTORY 0040000u

struct node {
	uint64_t id;
	uint64_t name_key; /* of directory and name */
	struct node *parent;
	struct node **children; /* in the order in which the trace names them */
	struct node **sorted;
	size_t child_count, child_capacity;
	uint32_t index, rank; /* among its parent's children, as listed and by name */
	uint32_t files, directories;
	uint64_t size;
	struct range_set have;   /* cached, or under way */
	struct range_set wanted; /* read by applications */
	uint8_t name_length;
	bool is_directory, known, asked, here; /* attributes; its listing, asked for and here */
	char name[INTENT_NAME_MAX + 1];
};

/* A wish that waits for its turn: one file, or those that are left of a directory. */
struct wish {
	uint64_t order; /* distance and serial number: the least goes first */
	struct node *node;
	enum intent_type type;
	enum predictor_id predictor;
	uint64_t scope, offset, length;
	uint32_t distance, next, left;
	bool sorted;
};

struct transfer {
	struct node *node;
	uint64_t start, end; /* LEDGER_LISTING: of the listing */
	struct instant arrival;
	bool ahead;
};

struct piece {
	struct table_entry entry;
	struct node *node;
	uint64_t start;
	uint64_t bytes, unread; /* fetched ahead, and not looked at */
};

struct model {
	const struct allocator *allocator;
	const struct replay_config *config;
	struct replay_result result;
	struct pool nodes;
	struct map by_id, by_name;
	struct predictors *predictors;
	struct ledger *ledger;
	struct wish *wishes; /* a heap */
	size_t wish_count, wish_capacity;
	struct wish *waiting; /* for the listing of their node */
	size_t waiting_count, waiting_capacity;
	struct transfer *transfers; /* a queue: arrivals are in the order of requests */
	size_t transfer_count, transfer_capacity, transfer_first;
	struct table pieces; /* only with a limit */
	uint64_t cached_bytes, unread_bytes, ahead_bytes;
	uint32_t ahead_count;
	uint64_t serial;
	struct instant now, link_free;
	struct duration late; /* what the applications have waited so far */
	struct intent intents[INTENTS_MAX];
	bool failed; /* no memory */
};

/* ---- names ---- */

static uint64_t name_key(uint64_t directory, const void *name, size_t length)
{
	uint64_t hash = rng_mix(directory);

	for (size_t i = 0; i < length; i++)
		hash = rng_mix(hash ^ ((const uint8_t *)name)[i]);
	return hash;
}

static struct node *get_node(struct model *m, uint64_t id)
{
	struct node *n = map_get(&m->by_id, &id);

	if (n || m->failed)
		return n;
	n = pool_allocate(&m->nodes);
	if (!n || map_reserve(&m->by_id, 1) || map_reserve(&m->by_name, 1)) {
		m->failed = true;
		return NULL;
	}
	n->id = id;
	range_set_init(&n->have, m->allocator, RANGES_MAX);
	range_set_init(&n->wanted, m->allocator, RANGES_MAX);
	map_insert(&m->by_id, n);
	return n;
}

static void adopt(struct model *m, struct node *n, struct node *directory, struct slice name)
{
	struct node **place;

	if (n->parent || n == directory || name.length > INTENT_NAME_MAX)
		return;
	n->name_key = name_key(directory->id, name.data, name.length);
	if (map_get(&m->by_name, &n->name_key))
		return; /* another inode had that name before */
	place = array_append(m->allocator, (void **)&directory->children, &directory->child_count,
			     &directory->child_capacity, sizeof(*place));
	if (!place || map_reserve(&m->by_name, 1)) {
		m->failed = true;
		return;
	}
	*place = n;
	n->parent = directory;
	n->index = (uint32_t)directory->child_count - 1;
	n->name_length = (uint8_t)name.length;
	memcpy(n->name, name.data, name.length);
	map_insert(&m->by_name, n);
}

/* What a line says of the tree. */
static void learn(struct model *m, const struct access *a)
{
	struct node *n, *directory;

	if (!a->inode)
		return;
	n = get_node(m, a->inode);
	directory = a->directory ? get_node(m, a->directory) : NULL;
	if (m->failed)
		return;
	if (directory)
		directory->is_directory = true;
	if (a->file_type == TYPE_DIRECTORY || a->type == ACCESS_LIST || a->type == ACCESS_LISTED)
		n->is_directory = true;
	if (a->size > n->size)
		n->size = a->size;
	if (a->type == ACCESS_READ && a->offset + a->length > n->size)
		n->size = a->offset + a->length;
	if (n->size > SIZE_MAX_BYTES)
		n->size = SIZE_MAX_BYTES;
	if (directory && a->name.length)
		adopt(m, n, directory, a->name);
}

static int compare(const struct node *a, const struct node *b)
{
	size_t shorter = a->name_length < b->name_length ? a->name_length : b->name_length;
	int c = memcmp(a->name, b->name, shorter);

	return c ? c : (int)a->name_length - (int)b->name_length;
}

static void sift(struct node **items, size_t at, size_t count)
{
	for (;;) {
		size_t child = 2 * at + 1;
		struct node *swap;

		if (child >= count)
			return;
		if (child + 1 < count && compare(items[child + 1], items[child]) > 0)
			child++;
		if (compare(items[at], items[child]) >= 0)
			return;
		swap = items[at];
		items[at] = items[child];
		items[child] = swap;
		at = child;
	}
}

static void sort(struct model *m, struct node *directory)
{
	size_t count = directory->child_count;
	struct node **items;

	for (size_t i = 0; i < count; i++) {
		directory->files += !directory->children[i]->is_directory;
		directory->directories += directory->children[i]->is_directory;
	}
	if (!count)
		return;
	items = m->allocator->resize(m->allocator->context, NULL, 0, count * sizeof(struct node *));
	if (!items) {
		m->failed = true;
		return;
	}
	memcpy(items, directory->children, count * sizeof(struct node *));
	for (size_t i = count / 2; i > 0; i--)
		sift(items, i - 1, count);
	for (size_t i = count; i > 1; i--) {
		struct node *swap = items[0];

		items[0] = items[i - 1];
		items[i - 1] = swap;
		sift(items, 0, i - 1);
	}
	for (size_t i = 0; i < count; i++)
		items[i]->rank = (uint32_t)i;
	directory->sorted = items;
}

/* ---- the link ---- */

static void submit(struct model *m, const struct access *access);

static struct transfer *add_transfer(struct model *m)
{
	/* What has arrived is moved out of the way when it is most of the array. */
	if (m->transfer_first > 1024 && m->transfer_first > m->transfer_count / 2) {
		m->transfer_count -= m->transfer_first;
		memmove(m->transfers, m->transfers + m->transfer_first,
			m->transfer_count * sizeof(*m->transfers));
		m->transfer_first = 0;
	}
	return array_append(m->allocator, (void **)&m->transfers, &m->transfer_count,
			    &m->transfer_capacity, sizeof(struct transfer));
}

static struct instant send(struct model *m, struct node *node, uint64_t start, uint64_t end,
			   uint64_t bytes, bool ahead)
{
	struct transfer *t = add_transfer(m);
	struct instant begin = instant_add(m->now, m->config->round_trip);
	uint64_t rate = m->config->rate;

	if (!t) {
		m->failed = true;
		return m->now;
	}
	if (instant_before(begin, m->link_free))
		begin = m->link_free;
	if (rate) /* at least a millisecond a byte: it fits */
		begin.ns += bytes / rate * NS_PER_S + bytes % rate * (NS_PER_S / 1000) / rate * 1000;
	m->link_free = begin;
	*t = (struct transfer){ node, start, end, begin, ahead };
	m->result.fetched_bytes += bytes;
	m->result.fetched_count++;
	if (ahead) {
		m->ahead_bytes += bytes;
		m->ahead_count++;
	}
	return begin;
}

static void send_listing(struct model *m, struct node *n, bool ahead, enum predictor_id predictor,
			 uint64_t scope, uint32_t distance)
{
	uint64_t bytes = ENTRY_BYTES * (n->child_count + 1);

	n->asked = true;
	(void)send(m, n, LEDGER_LISTING, LEDGER_LISTING, bytes, ahead);
	if (ahead)
		ledger_sent(m->ledger, &(struct ledger_item){ predictor, scope, n->id, LEDGER_LISTING,
							      bytes, distance });
}

/* ---- the cache ---- */

static void evict(struct model *m, const struct piece *gone)
{
	range_set_remove(&gone->node->have, gone->start, gone->start + PIECE_BYTES);
	ledger_evicted(m->ledger, gone->node->id, gone->start, PIECE_BYTES);
	m->cached_bytes -= gone->bytes;
	m->unread_bytes -= gone->unread;
}

static void keep(struct model *m, struct node *n, uint64_t start, uint64_t end, bool ahead)
{
	struct piece gone, *oldest;

	if (range_set_add(&n->have, start, end))
		m->failed = true;
	if (!m->config->cache_bytes)
		return;
	for (uint64_t at = start / PIECE_BYTES * PIECE_BYTES; at < end; at += PIECE_BYTES) {
		uint64_t key = rng_mix(n->id) ^ at, first = at > start ? at : start;
		uint64_t last = at + PIECE_BYTES < end ? at + PIECE_BYTES : end;
		struct piece *piece = table_get(&m->pieces, key);

		if (!piece) {
			piece = table_add(&m->pieces, key, &gone);
			if (gone.entry.used)
				evict(m, &gone);
			piece->node = n;
			piece->start = at;
		}
		piece->bytes += last - first;
		m->cached_bytes += last - first;
		if (ahead) {
			piece->unread += last - first;
			m->unread_bytes += last - first;
		}
	}
	while (m->cached_bytes > m->config->cache_bytes && (oldest = table_oldest(&m->pieces))) {
		gone = *oldest;
		table_remove(&m->pieces, gone.entry.key);
		evict(m, &gone);
	}
}

/* ---- wishes ---- */

static void heap_add(struct model *m, const struct wish *wish)
{
	struct wish *place;
	size_t at;

	if (m->wish_count >= WISHES_MAX)
		return; /* a wish is no promise */
	place = array_append(m->allocator, (void **)&m->wishes, &m->wish_count, &m->wish_capacity,
			     sizeof(*place));
	if (!place) {
		m->failed = true;
		return;
	}
	at = m->wish_count - 1;
	m->wishes[at] = *wish;
	while (at > 0 && m->wishes[(at - 1) / 2].order > m->wishes[at].order) {
		struct wish swap = m->wishes[at];

		m->wishes[at] = m->wishes[(at - 1) / 2];
		m->wishes[(at - 1) / 2] = swap;
		at = (at - 1) / 2;
	}
}

static struct wish heap_take(struct model *m)
{
	struct wish first = m->wishes[0];
	size_t at = 0;

	m->wishes[0] = m->wishes[--m->wish_count];
	for (;;) {
		size_t child = 2 * at + 1;
		struct wish swap;

		if (child >= m->wish_count)
			return first;
		if (child + 1 < m->wish_count && m->wishes[child + 1].order < m->wishes[child].order)
			child++;
		if (m->wishes[at].order <= m->wishes[child].order)
			return first;
		swap = m->wishes[at];
		m->wishes[at] = m->wishes[child];
		m->wishes[child] = swap;
		at = child;
	}
}

static void add_wish(struct model *m, struct wish wish)
{
	wish.order = (uint64_t)wish.distance << 32 | (m->serial++ & UINT32_MAX);
	heap_add(m, &wish);
}

static void take_intent(struct model *m, const struct intent *intent)
{
	struct wish wish = { .type = intent->type, .predictor = intent->predictor,
			     .scope = intent_scope(intent), .offset = intent->offset,
			     .length = intent->length, .distance = intent->distance,
			     .left = intent->count, .sorted = intent->sorted };
	uint64_t id = intent->type == INTENT_RANGE || intent->type == INTENT_LIST ? intent->inode :
										   intent->directory;
	uint64_t key = name_key(id, intent->name, intent->name_length);
	struct node *named = intent->name_length ? map_get(&m->by_name, &key) : NULL;

	wish.node = map_get(&m->by_id, &id);
	if (!wish.node)
		return;
	if (intent->type == INTENT_FILE) {
		if (!named || named->is_directory)
			return;
		wish.node = named;
		wish.type = INTENT_RANGE;
		wish.offset = 0;
	} else if (intent->type == INTENT_FILES || intent->type == INTENT_LISTS) {
		wish.node->is_directory = true;
		if (named)
			wish.next = (intent->sorted ? named->rank : named->index) + 1;
	}
	add_wish(m, wish);
}

/* Sends a piece of a file; true: there is more of it. */
static bool send_range(struct model *m, struct wish *wish)
{
	struct node *n = wish->node;
	uint64_t end, start, stop;

	if (wish->offset >= n->size)
		return false;
	end = wish->length > n->size - wish->offset ? n->size : wish->offset + wish->length;
	if (!range_set_gap(&n->have, wish->offset, end, &start, &stop))
		return false;
	if (stop > (start / PIECE_BYTES + 1) * PIECE_BYTES)
		stop = (start / PIECE_BYTES + 1) * PIECE_BYTES;
	keep(m, n, start, stop, true);
	(void)send(m, n, start, stop, stop - start, true);
	ledger_sent(m->ledger, &(struct ledger_item){ wish->predictor, wish->scope, n->id, start,
						      stop - start, wish->distance });
	wish->offset = stop;
	wish->length = end - stop;
	return wish->length > 0;
}

static void feed_listed(struct model *m, const struct node *n)
{
	submit(m, &(struct access){ .type = ACCESS_LISTED, .at = m->now, .inode = n->id,
				    .directory = n->parent ? n->parent->id : 0,
				    .name = { (const uint8_t *)n->name, n->name_length },
				    .file_type = TYPE_DIRECTORY, .files = n->files,
				    .directories = n->directories });
}

/* The listing of a subdirectory that was wished for. */
static void send_list(struct model *m, const struct wish *wish, struct node *n)
{
	if (n->here)
		feed_listed(m, n);
	else if (!n->asked)
		send_listing(m, n, true, wish->predictor, wish->scope, wish->distance);
}

/* The next of a directory's files or subdirectories; true: there are more. */
static bool send_next(struct model *m, struct wish *wish)
{
	struct node *directory = wish->node;

	while (wish->left && wish->next < directory->child_count) {
		struct node *n = wish->sorted ? directory->sorted[wish->next] :
						directory->children[wish->next];
		struct wish file = *wish;

		wish->next++;
		if (n->is_directory != (wish->type == INTENT_LISTS))
			continue;
		wish->left--;
		if (wish->type == INTENT_LISTS) {
			send_list(m, wish, n);
			break;
		}
		file.type = INTENT_RANGE;
		file.node = n;
		file.offset = 0;
		if (send_range(m, &file))
			add_wish(m, file);
		break;
	}
	return wish->left && wish->next < directory->child_count;
}

/* Of a full cache, what may be read at some time does not make go what was read. */
static bool has_room(const struct model *m, const struct wish *wish)
{
	uint64_t limit = m->config->cache_bytes;

	return !limit || wish->predictor != PREDICTOR_SWEEP ||
	       m->cached_bytes + m->ahead_bytes + limit / ROOM_LEFT_SHARE < limit;
}

static void do_wish(struct model *m, struct wish *wish)
{
	struct node *n = wish->node;

	if (!has_room(m, wish))
		return;

	if (wish->type == INTENT_LIST) {
		send_list(m, wish, n);
		return;
	}
	if (wish->type == INTENT_RANGE) {
		if (send_range(m, wish))
			heap_add(m, wish);
		return;
	}
	if (n->here) {
		if (send_next(m, wish))
			heap_add(m, wish);
		return;
	}
	if (!n->asked)
		send_listing(m, n, true, wish->predictor, wish->scope, wish->distance);
	if (m->waiting_count < WISHES_MAX) {
		struct wish *place = array_append(m->allocator, (void **)&m->waiting,
						  &m->waiting_count, &m->waiting_capacity,
						  sizeof(*place));

		if (place)
			*place = *wish;
		else
			m->failed = true;
	}
}

/* Sends what is wished for, as much as may be under way. */
static void pump(struct model *m)
{
	uint64_t limit = m->config->rate / 1000 * (m->config->round_trip.ns / (NS_PER_MS / 1000)) / 1000;

	limit *= AHEAD_ROUND_TRIPS;
	if (limit < AHEAD_BYTES_MIN)
		limit = AHEAD_BYTES_MIN;
	if (m->config->cache_bytes && m->unread_bytes > m->config->cache_bytes / UNREAD_SHARE)
		return;
	while (m->wish_count && m->ahead_bytes < limit && m->ahead_count < AHEAD_COUNT_MAX &&
	       !m->failed) {
		struct wish wish = heap_take(m);

		do_wish(m, &wish);
	}
}

/* Tells the predictors, and takes what they wish. */
static void submit(struct model *m, const struct access *access)
{
	struct intents intents = { .items = m->intents, .capacity = INTENTS_MAX };

	if (!m->predictors)
		return;
	predictors_access(m->predictors, access, &intents);
	for (uint32_t i = 0; i < intents.count; i++)
		take_intent(m, &m->intents[i]);
}

static void arrive(struct model *m, const struct transfer *t)
{
	struct node *n = t->node;

	if (t->ahead) {
		m->ahead_count--;
		m->ahead_bytes -= t->start == LEDGER_LISTING ? ENTRY_BYTES * (n->child_count + 1) :
							       t->end - t->start;
		ledger_arrived(m->ledger, n->id, t->start, t->end - t->start, false);
	}
	if (t->start != LEDGER_LISTING || n->here)
		return;
	n->here = true;
	for (size_t i = 0; i < n->child_count; i++)
		n->children[i]->known = true;
	for (size_t i = 0; i < m->waiting_count;) {
		if (m->waiting[i].node != n) {
			i++;
			continue;
		}
		heap_add(m, &m->waiting[i]);
		m->waiting[i] = m->waiting[--m->waiting_count];
	}
	feed_listed(m, n);
}

/* What arrives until `until`, and what is sent meanwhile. */
static void advance(struct model *m, struct instant until)
{
	pump(m);
	while (m->transfer_first < m->transfer_count && !m->failed) {
		struct transfer t = m->transfers[m->transfer_first];

		if (instant_before(until, t.arrival))
			break;
		m->transfer_first++;
		if (instant_before(m->now, t.arrival))
			m->now = t.arrival;
		arrive(m, &t);
		pump(m);
	}
	if (instant_before(m->now, until))
		m->now = until;
}

/* ---- accesses ---- */

/* When the bytes, or the listing, of a request are here that are under way now. */
static struct instant arrival_of(const struct model *m, const struct node *n, uint64_t start,
				 uint64_t end)
{
	struct instant last = m->now;

	for (size_t i = m->transfer_first; i < m->transfer_count; i++) {
		const struct transfer *t = &m->transfers[i];

		if (t->node != n || (t->start == LEDGER_LISTING) != (start == LEDGER_LISTING))
			continue;
		if (start == LEDGER_LISTING || (t->start < end && start < t->end))
			last = t->arrival;
	}
	return last;
}

static void look_at(struct model *m, const struct node *n, uint64_t start)
{
	struct piece *piece = table_get(&m->pieces, rng_mix(n->id) ^ start);

	if (!piece)
		return;
	m->unread_bytes -= piece->unread;
	piece->unread = 0;
}

static struct instant demand_read(struct model *m, struct node *n, const struct access *a)
{
	uint64_t end = a->offset + a->length < n->size ? a->offset + a->length : n->size;
	uint64_t before = n->wanted.bytes, start, stop;

	ledger_read(m->ledger, n->id, a->offset, a->length);
	if (a->offset >= end)
		return m->now;
	m->result.read_bytes += end - a->offset;
	if (range_set_add(&n->wanted, a->offset, end))
		m->failed = true;
	m->result.wanted_bytes += n->wanted.bytes > before ? n->wanted.bytes - before : 0;
	for (uint64_t at = a->offset; range_set_gap(&n->have, at, end, &start, &stop); at = stop) {
		(void)send(m, n, start, stop, stop - start, false);
		keep(m, n, start, stop, false);
		if (m->failed)
			break;
	}
	if (m->config->cache_bytes)
		for (uint64_t at = a->offset / PIECE_BYTES * PIECE_BYTES; at < end; at += PIECE_BYTES)
			look_at(m, n, at);
	return arrival_of(m, n, a->offset, end);
}

/* Sends what the access needs and has not; returns when it can be answered. */
static struct instant demand(struct model *m, const struct access *a)
{
	struct node *n = a->inode ? map_get(&m->by_id, &a->inode) : NULL;
	struct node *directory = a->directory ? map_get(&m->by_id, &a->directory) : NULL;

	switch (a->type) {
	case ACCESS_LOOKUP:
		if ((directory && directory->here) || (n && n->known))
			return m->now;
		if (n)
			n->known = true;
		else if (directory && directory->asked)
			return arrival_of(m, directory, LEDGER_LISTING, LEDGER_LISTING);
		return send(m, n ? n : directory, 0, 0, ENTRY_BYTES, false);
	case ACCESS_LIST:
		if (!n)
			return m->now;
		ledger_read(m->ledger, n->id, LEDGER_LISTING, 0);
		if (!n->asked)
			send_listing(m, n, false, 0, 0, 0);
		return arrival_of(m, n, LEDGER_LISTING, LEDGER_LISTING);
	case ACCESS_READ:
		return n ? demand_read(m, n, a) : m->now;
	case ACCESS_LISTED:
	case ACCESS_OPEN:
	case ACCESS_CLOSE:
	case ACCESS_TYPE_COUNT:
		break;
	}
	return m->now;
}

static void run_access(struct model *m, const struct access *access)
{
	struct access a = *access;
	struct instant ready;

	a.at = instant_add(a.at, m->late);
	advance(m, a.at);
	if (a.length > READ_MAX_BYTES)
		return;
	if (a.type == ACCESS_LISTED)
		return; /* told by whatever fetches it here */
	m->result.accesses++;
	ready = demand(m, &a);
	submit(m, &a);
	if (instant_before(m->now, ready)) {
		struct duration wait = instant_until(m->now, ready);

		m->result.stalls++;
		m->result.stalled.ns += wait.ns;
		m->late.ns += wait.ns;
		advance(m, ready);
	}
}

/* ---- a run ---- */

enum pass { PASS_ENTRIES, PASS_TREE, PASS_RUN };

static int read_lines(struct model *m, struct slice text, enum pass pass, uint32_t *ret_line,
		      const char **ret_expected)
{
	struct trace_reader reader;
	struct trace_line line;
	int r;

	trace_reader_init(&reader, text);
	while ((r = trace_next(&reader, &line)) > 0 && !m->failed) {
		/* Entries come in the order of the listing, accesses do not. */
		if (pass == PASS_ENTRIES ? line.entry : pass == PASS_TREE && !line.entry)
			learn(m, &line.access);
		else if (pass == PASS_RUN && !line.entry)
			run_access(m, &line.access);
	}
	if (r < 0) {
		*ret_line = reader.line;
		*ret_expected = reader.expected;
		return r;
	}
	return m->failed ? -ENOMEM : 0;
}

static int prepare(struct model *m)
{
	struct predictors_config config = m->config->predictors;
	size_t cursor = 0;
	struct node *n;

	while ((n = map_next(&m->by_id, &cursor)))
		sort(m, n);
	if (m->failed || ledger_create(0, m->allocator, &m->ledger))
		return -ENOMEM;
	config.ledger = m->ledger;
	config.cache_bytes = m->config->cache_bytes;
	if (m->config->predict && predictors_create(&config, m->allocator, &m->predictors))
		return -ENOMEM;
	if (m->config->cache_bytes) {
		/* Small files are a piece each. */
		uint64_t count = m->config->cache_bytes / 4096 + 16;

		if (table_init(&m->pieces, m->allocator,
			       count < WISHES_MAX * 4 ? (uint32_t)count : WISHES_MAX * 4,
			       sizeof(struct piece)))
			return -ENOMEM;
	}
	return 0;
}

static void release(struct model *m, void *array, size_t bytes)
{
	if (array)
		m->allocator->resize(m->allocator->context, array, bytes, 0);
}

static void finish(struct model *m)
{
	size_t cursor = 0;
	struct node *n;

	predictors_destroy(m->predictors);
	ledger_destroy(m->ledger);
	while ((n = map_next(&m->by_id, &cursor))) {
		range_set_finish(&n->have);
		range_set_finish(&n->wanted);
		release(m, n->children, n->child_capacity * sizeof(struct node *));
		release(m, n->sorted, n->child_count * sizeof(struct node *));
		pool_free(&m->nodes, n);
	}
	map_finish(&m->by_id);
	map_finish(&m->by_name);
	pool_finish(&m->nodes);
	if (m->pieces.allocator)
		table_finish(&m->pieces);
	release(m, m->wishes, m->wish_capacity * sizeof(*m->wishes));
	release(m, m->waiting, m->waiting_capacity * sizeof(*m->waiting));
	release(m, m->transfers, m->transfer_capacity * sizeof(*m->transfers));
	release(m, m, sizeof(*m));
}

int replay_run(struct slice text, const struct replay_config *config,
	       const struct allocator *allocator, struct replay_result *ret_result, uint32_t *ret_line,
	       const char **ret_expected)
{
	struct model *m = allocator->resize(allocator->context, NULL, 0, sizeof(*m));
	int r;

	if (!m)
		return -ENOMEM;
	memset(m, 0, sizeof(*m));
	m->allocator = allocator;
	m->config = config;
	pool_init(&m->nodes, allocator, (sizeof(struct node) + 7) / 8 * 8);
	map_init(&m->by_id, allocator, MAP_U64, offsetof(struct node, id), 1);
	map_init(&m->by_name, allocator, MAP_U64, offsetof(struct node, name_key), 2);
	r = read_lines(m, text, PASS_ENTRIES, ret_line, ret_expected);
	if (!r)
		r = read_lines(m, text, PASS_TREE, ret_line, ret_expected);
	if (!r)
		r = prepare(m);
	if (!r)
		r = read_lines(m, text, PASS_RUN, ret_line, ret_expected);
	if (!r) {
		m->result.lasted = (struct duration){ m->now.ns };
		for (unsigned i = 0; i < PREDICTOR_COUNT; i++)
			ledger_counts(m->ledger, (enum predictor_id)i, &m->result.predictors[i]);
		*ret_result = m->result;
	}
	finish(m);
	return r;
}
