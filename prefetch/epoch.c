/*
 * epoch.c - what followed in the last epoch.
 *
 * The visits to files are kept in their order, in a ring. One in INDEX_SHARE ids, chosen by its hash, is in
 * an index of where it was last: when it comes again, that is a place to follow from. A follower is believed
 * when what is visited is near where it stands, in a window, so that an order that is shuffled a
 * little is followed too, and a new order is not.
 */
#include "prefetch/predictors_private.h"

#include <assert.h>
#include <errno.h>

#include "lease/base/rng.h"

#define INDEX_SHARE 16u
/* How far ahead of where a follower stands a visit may be. */
#define WINDOW 64u
/* Near visits before anything is wished for, and more of them than others. */
#define HITS_MIN 4u
#define FILES_MIN 2u
#define FILES_MAX 256u
#define CAPACITY_FIRST 4096u
/* Both counts are halved at this: what was long ago counts less. */
#define COUNT_HALVED 64u

/*
 * The index has a place for each two in INDEX_SHARE entries, of 4 bytes: half a byte an entry. Places
 * are reused by hash; what they said is compared with the order.
 */
static uint32_t index_capacity(uint32_t entries)
{
	return entries / INDEX_SHARE * 2;
}

static void *resize(struct predictors *p, void *pointer, size_t old_size, size_t size)
{
	return p->allocator->resize(p->allocator->context, pointer, old_size, size);
}

int predict_epoch_init(struct predictors *p)
{
	struct epoch *e = &p->epoch;

	e->capacity_max = (uint32_t)most(p->config.epoch_entries_max, INDEX_SHARE);
	e->index_capacity = index_capacity(e->capacity_max);
	e->index = resize(p, NULL, 0, e->index_capacity * sizeof(*e->index));
	if (!e->index)
		return -ENOMEM;
	memset(e->index, 0, e->index_capacity * sizeof(*e->index));
	return 0;
}

void predict_epoch_finish(struct predictors *p)
{
	struct epoch *e = &p->epoch;

	if (e->index)
		(void)resize(p, e->index, e->index_capacity * sizeof(*e->index), 0);
	if (e->order)
		(void)resize(p, e->order, e->capacity * sizeof(*e->order), 0);
	e->index = NULL;
	e->order = NULL;
}

/* Oldest visit that is still there. */
static uint64_t oldest(const struct epoch *e)
{
	return e->head > e->capacity ? e->head - e->capacity : 0;
}

static uint64_t id_at(const struct epoch *e, uint64_t position)
{
	return e->order[position % e->capacity];
}

/* Room for one more. Memory that is not there makes it a shorter ring. */
static bool make_room(struct predictors *p)
{
	struct epoch *e = &p->epoch;
	uint32_t larger = e->capacity ? (uint32_t)least((uint64_t)e->capacity * 2, e->capacity_max) :
					(uint32_t)least(CAPACITY_FIRST, e->capacity_max);
	uint64_t *order;

	if (e->head < e->capacity || (e->capacity && (e->capacity == larger || e->head > e->capacity)))
		return true;
	order = resize(p, e->order, e->capacity * sizeof(*order), larger * sizeof(*order));
	if (!order)
		return e->capacity > 0;
	e->order = order;
	e->capacity = larger;
	return true;
}

static uint32_t *place_of(const struct epoch *e, uint64_t id)
{
	uint64_t hash = rng_mix(id);

	return hash % INDEX_SHARE == 0 ? &e->index[(hash / INDEX_SHARE) % e->index_capacity] : NULL;
}

/* Where `id` was last, absolute. */
static bool find(const struct epoch *e, uint64_t id, uint64_t *ret_position)
{
	uint32_t *place = place_of(e, id);
	uint64_t position;

	if (!place || !*place || !e->capacity)
		return false;
	/* The index has the place in the ring; the last lap in which that was. */
	position = e->head - 1 - (e->head - 1 - (*place - 1)) % e->capacity;
	if (position >= e->head || position < oldest(e) || id_at(e, position) != id)
		return false;
	*ret_position = position;
	return true;
}

static bool near(const struct epoch *e, const struct follower *f, uint64_t id, uint64_t *ret_position)
{
	uint64_t end = least(f->position + 1 + WINDOW, e->head);
	uint64_t start = most(f->position > WINDOW ? f->position - WINDOW : 0, oldest(e));

	for (uint64_t i = f->position + 1; i < end; i++)
		if (id_at(e, i) == id) {
			*ret_position = i;
			return true;
		}
	/* Behind: it was passed over. */
	for (uint64_t i = start; i < f->position; i++)
		if (id_at(e, i) == id) {
			*ret_position = f->position;
			return true;
		}
	return false;
}

static bool believed(const struct follower *f)
{
	return f->hits >= HITS_MIN && f->hits > f->misses;
}

static void wish(struct predictors *p, struct follower *f, struct intents *intents)
{
	struct epoch *e = &p->epoch;
	struct intent intent = { .type = INTENT_RANGE, .predictor = PREDICTOR_EPOCH,
				 .length = UINT64_MAX };
	uint64_t mean = most(e->bytes / most(e->visits, 1), 1), count;

	count = least(most(p->config.files_bytes_max / mean, FILES_MIN), FILES_MAX);
	count = least(count, (uint64_t)f->hits * 4);
	f->ahead = most(f->ahead, f->position + 1);
	for (; f->ahead <= f->position + count && f->ahead < e->head; f->ahead++) {
		intent.inode = id_at(e, f->ahead);
		intent.distance = (uint32_t)(f->ahead - f->position);
		if (!predictors_wish(p, intents, &intent, (struct slice){ 0 }))
			return;
	}
}

static bool follow(struct predictors *p, uint64_t id, struct intents *intents)
{
	struct epoch *e = &p->epoch;
	bool found = false;

	e->followed = false;
	for (unsigned i = 0; i < FOLLOWERS; i++) {
		struct follower *f = &e->followers[i];
		uint64_t position;

		if (f->any && f->position < oldest(e))
			f->any = false;
		if (!f->any)
			continue;
		if (found || !near(e, f, id, &position)) {
			f->misses++;
		} else {
			found = true;
			f->position = position;
			f->hits++;
			f->used = (uint32_t)e->head;
		}
		if (f->hits + f->misses >= COUNT_HALVED) {
			f->hits /= 2;
			f->misses /= 2;
		}
		if (f->misses > f->hits + COUNT_HALVED / 4)
			f->any = false;
		if (!found || f->position + 1 >= e->head || !believed(f))
			continue;
		e->followed = true;
		wish(p, f, intents);
	}
	return found;
}

static void begin(struct epoch *e, uint64_t position)
{
	struct follower *f = &e->followers[0];

	for (unsigned i = 0; i < FOLLOWERS; i++) {
		struct follower *other = &e->followers[i];

		if (other->any && !believed(other) && other->position == position)
			return;
		if (!other->any || (f->any && other->used < f->used))
			f = other;
		if (!f->any)
			break;
	}
	*f = (struct follower){ .position = position, .ahead = position + 1, .hits = 1, .any = true,
				.used = (uint32_t)e->head };
}

void predict_epoch_visit(struct predictors *p, const struct access *access, struct intents *intents)
{
	struct epoch *e = &p->epoch;
	uint64_t id = access->inode, position;
	uint32_t *place;

	/* Opened again at once: one visit. */
	if (e->head && e->capacity && id_at(e, e->head - 1) == id)
		return;
	if (!make_room(p))
		return;
	e->bytes += access->size;
	e->visits++;
	if (!follow(p, id, intents) && find(e, id, &position))
		begin(e, position);
	place = place_of(e, id);
	e->order[e->head % e->capacity] = id;
	if (place)
		*place = (uint32_t)(e->head % e->capacity) + 1;
	e->head++;
}
