/*
 * walk.c - the directories of a tree that is being listed: ls -R, find, os.walk.
 *
 * Who lists a directory and then one in it walks: the other subdirectories are listed ahead of it, and
 * as each listing comes, what is below. A multiple of what the walk has come to is ahead of
 * it, AHEAD_MIN at first: who stops has cost as many listings. Where that is reached, directories wait
 * (`pending`) until the walk has come on, and the first in its order goes first: a directory, what is
 * below it, its next sibling. For that each has a place, a part of its parent's span.
 */
#include "prefetch/predictors_private.h"

#define AHEAD_MIN 64u
#define AHEAD_MAX 2048u
#define AHEAD_FACTOR 8u
/*
 * Of a directory, not fewer subdirectories at a time, unless it has no more: where the walk is, and of
 * those that it comes to later. A part has to be here when the next is wished for.
 */
#define PART_MIN 16u
#define PART_LATER_MIN 128u
/* Between a directory and what is in it. */
#define MEMORY_ACCESSES 65536u
/* Of readers that are not known, or threads that walk together, so many subdirectories. */
#define CHILDREN_MIN 3u
/* So many subdirectories in a row that were not here, though others were wished for: another order. */
#define MISSES_MAX 4u

struct walk *predict_walk_of(struct predictors *p, const struct directory *d)
{
	for (unsigned i = 0; d->walk && i < WALKS; i++)
		if (p->walks[i].serial == d->walk)
			return &p->walks[i];
	return NULL;
}

static struct walk *begin_walk(struct predictors *p)
{
	struct walk *w = &p->walks[0];

	for (unsigned i = 1; i < WALKS; i++)
		if (p->walks[i].used < w->used)
			w = &p->walks[i];
	*w = (struct walk){ .serial = ++p->walk_serial };
	return w;
}

static uint32_t room_of(const struct walk *w)
{
	uint64_t ahead_max = least(most(AHEAD_MIN, AHEAD_FACTOR * (uint64_t)w->consumed), AHEAD_MAX);
	uint64_t ahead = w->asked > w->consumed ? w->asked - w->consumed : 0;

	return ahead < ahead_max ? (uint32_t)(ahead_max - ahead) : 0;
}

static void join(struct directory *d, struct directory *parent, const struct walk *w)
{
	if (d->walk == w->serial)
		return;
	d->walk = w->serial;
	d->lists_missed = 0;
	d->lists_asked = 0;
	d->expanded = d->come = d->seen = false;
	d->lists_ahead = 0;
	d->children_placed = 0;
	d->place = 0;
	d->span = UINT64_MAX;
	if (parent) {
		uint64_t share = parent->span / ((uint64_t)parent->directories + 2);

		d->place = parent->place + share * least(++parent->children_placed,
							 parent->directories + UINT64_C(1));
		d->span = share;
	}
}

/*
 * How many directories the walk comes to before what is in `d`, about: what was wished for is spread
 * evenly between where it is and the farthest place of that.
 */
static uint32_t distance_of(const struct walk *w, const struct directory *d)
{
	uint64_t ahead = w->asked > w->consumed ? w->asked - w->consumed : 0;
	uint64_t all = w->reach > w->at ? (w->reach - w->at) >> 32 : 0;
	uint64_t part = d->place > w->at ? (d->place - w->at) >> 32 : 0;

	return 1 + (uint32_t)(part < all ? ahead * part / all : part ? ahead : 0);
}

/* Subdirectories of `d` behind `name` that fit. False: none do. */
static bool wish_lists(struct predictors *p, struct walk *w, struct directory *d, struct slice name,
		       struct intents *intents)
{
	uint32_t known = d->listed ? d->directories : AHEAD_MIN, room = room_of(w);
	uint32_t before = name.length ? d->lists_ahead : 0;
	uint32_t left = name.length ? known - (uint32_t)least(known, d->children_listed) : known;
	const struct intent intent = { .type = INTENT_LISTS, .predictor = PREDICTOR_WALK,
				       .directory = d->entry.key,
				       .distance = name.length ? 1 : distance_of(w, d),
				       .sorted = name.length && d->list_order.ascents >= 5,
				       .count = (uint32_t)least(left, before + room) };

	if (intent.count <= before ||
	    intent.count - before < least(left - before, d->come ? PART_MIN : PART_LATER_MIN))
		return false;
	if (!predictors_wish(p, intents, &intent, name))
		return false;
	w->asked += intent.count - before;
	d->lists_ahead = intent.count;
	if (!name.length)
		d->lists_asked = intent.count;
	d->expanded = true;
	w->reach = most(w->reach, d->place);
	return true;
}

static void pend(struct walk *w, const struct directory *d)
{
	uint32_t last = 0, at = w->pending_count;

	if (at == WALK_PENDING) {
		/* The last in the order is wished for when the walk comes to it. */
		for (uint32_t i = 1; i < at; i++)
			if (w->pending[i].place > w->pending[last].place)
				last = i;
		if (w->pending[last].place <= d->place)
			return;
		at = last;
	} else {
		w->pending_count++;
	}
	w->pending[at].inode = d->entry.key;
	w->pending[at].place = d->place;
}

static void go_on(struct predictors *p, struct walk *w, struct intents *intents)
{
	while (w->pending_count && room_of(w)) {
		struct directory *d;
		uint32_t first = 0;

		for (uint32_t i = 1; i < w->pending_count; i++)
			if (w->pending[i].place < w->pending[first].place)
				first = i;
		d = table_peek(&p->directories, w->pending[first].inode);
		if (d && d->walk == w->serial && !d->expanded &&
		    !wish_lists(p, w, d, (struct slice){ 0 }, intents))
			return;
		w->pending[first] = w->pending[--w->pending_count];
	}
}

static bool walks(const struct predictors *p, const struct directory *parent,
		  const struct access *access)
{
	if (!parent->list_number || p->accesses - parent->list_number > MEMORY_ACCESSES)
		return false;
	return (access->reader && parent->list_reader == access->reader) ||
	       parent->children_listed >= CHILDREN_MIN;
}

/*
 * The order is not that of the listing, maybe the reverse, as of walks that keep a stack: of all of them
 * as many as fit, wherever the walk is. What is here costs nothing.
 */
static void wish_any(struct predictors *p, struct walk *w, struct directory *d, struct intents *intents)
{
	const struct intent intent = {
		.type = INTENT_LISTS, .predictor = PREDICTOR_WALK, .directory = d->entry.key,
		.distance = 1,
		.count = (uint32_t)least(d->directories, (uint64_t)d->lists_asked + room_of(w))
	};

	if (d->lists_asked >= d->directories)
		return;
	/* Each goes through those before: larger and larger parts. */
	if (intent.count - d->lists_asked < least(d->directories - d->lists_asked,
						  most(d->lists_asked / 2, PART_MIN)) ||
	    !predictors_wish(p, intents, &intent, (struct slice){ 0 }))
		return;
	w->asked += intent.count - d->lists_asked;
	d->lists_asked = intent.count;
	d->expanded = true;
}

/* The walk came to a subdirectory of `parent`, whose listing is `here` or not: keep some ahead of it. */
static void next_in(struct predictors *p, struct walk *w, struct directory *parent,
		    struct slice name, bool here, struct intents *intents)
{
	(void)predict_order_next(&parent->list_order, name);
	parent->lists_missed = here || !parent->expanded ? 0 : parent->lists_missed + 1;
	if (parent->lists_missed >= MISSES_MAX)
		w->unordered = true;
	parent->come = true;
	if (parent->lists_ahead)
		parent->lists_ahead--;
	if (w->unordered && parent->listed)
		wish_any(p, w, parent, intents);
	else if (!parent->expanded)
		(void)wish_lists(p, w, parent, (struct slice){ 0 }, intents);
	else if (name.length && parent->listed && parent->lists_ahead < room_of(w) / 2)
		(void)wish_lists(p, w, parent, name, intents);
}

void predict_walk_list(struct predictors *p, const struct access *access, struct intents *intents)
{
	struct directory *d = predictors_directory_of(p, access), *parent = NULL;
	struct walk *w = NULL;
	bool here;

	if (d->parent)
		parent = table_get(&p->directories, d->parent);
	if (parent) {
		parent->children_listed++;
		w = predict_walk_of(p, parent);
		/* A walk that began long ago is not this one. */
		if (!walks(p, parent, access))
			w = NULL;
		else if (!w) {
			w = begin_walk(p);
			w->consumed = 1;
			join(parent, NULL, w);
		}
	}
	d->list_reader = access->reader;
	d->list_number = p->accesses;
	d->children_listed = 0;
	if (!w) {
		d->walk = 0; /* maybe the start of one */
		return;
	}
	here = d->listed && d->walk == w->serial;
	join(d, parent, w);
	w->at = d->place;
	w->used = (uint32_t)p->accesses;
	w->consumed++;
	if (w->asked < w->consumed)
		w->asked = w->consumed;
	d->come = true;
	next_in(p, w, parent, access->name, here, intents);
	if (d->listed)
		predict_sweep_walk(p, w, d, intents);
	if (d->listed && d->directories && !d->expanded)
		(void)wish_lists(p, w, d, (struct slice){ 0 }, intents);
	go_on(p, w, intents);
}

void predict_walk_listed(struct predictors *p, const struct access *access, struct intents *intents)
{
	struct directory *d = predictors_directory_of(p, access), *parent = NULL;
	struct walk *w;

	d->listed = true;
	d->files = access->files;
	d->directories = access->directories;
	if (d->parent)
		parent = table_peek(&p->directories, d->parent);
	w = parent && parent != d ? predict_walk_of(p, parent) : NULL;
	if (!w)
		return;
	join(d, parent, w);
	predict_sweep_walk(p, w, d, intents);
	if (!d->directories || d->expanded)
		return;
	if (w->pending_count || !wish_lists(p, w, d, (struct slice){ 0 }, intents))
		pend(w, d);
	go_on(p, w, intents);
}
